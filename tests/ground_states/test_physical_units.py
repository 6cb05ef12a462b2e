"""Couplings in rad/us and lengths in um: the same run, every energy times Omega."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_ground_state_run import result, run, steps_of, tiny

from hamiltonians.bridges.registers import write_positions
from hamiltonians.lattices.lattice import Positions, Square
from nqs.errors import InputError
from nqs.ground_states.build import build
from nqs.ground_states.config import Config

MINSR: dict[str, Any] = {
    "name": "minsr",
    "learning_rate": "auto",
    "diagonal_shift": 5e-3,
    "momentum": 0.9,
    "max_norm": None,
    "implicit": True,
    "memory_gb": 1.0,
    "schedule": "constant",
    "warmup_steps": 0,
    "final_fraction": 1.0,
    "final_shift_fraction": 1.0,
}
PHYSICAL = {"name": "rydberg", "C6": 7 * 8.0 * 2**6, "spacing": 2.0, "delta": 8.0, "Omega": 8.0}


def test_a_run_in_physical_units_is_the_same_run(tmp_path: Path) -> None:
    """Omega = 8 and a = 2 um: powers of two, so that rounding is the same as well."""
    assert run(tmp_path / "plain", optimizer=MINSR) == 0
    assert run(tmp_path / "physical", optimizer=MINSR, hamiltonian=PHYSICAL) == 0
    plain, physical = steps_of(tmp_path / "plain"), steps_of(tmp_path / "physical")
    np.testing.assert_allclose(physical["energy"], 8 * plain["energy"], rtol=1e-6)
    np.testing.assert_allclose(physical["variance"], 64 * plain["variance"], rtol=1e-4)
    one, other = result(tmp_path / "plain"), result(tmp_path / "physical")
    assert other["exact_energy"] == pytest.approx(8 * one["exact_energy"])
    assert other["v_score"] == pytest.approx(one["v_score"], rel=1e-4)


def test_a_file_of_positions_is_in_micrometres(tmp_path: Path) -> None:
    file = tmp_path / "atoms.csv"
    write_positions(Positions(2.0 * Square(2, 2).positions), file)
    lattice = {"name": "positions", "file": str(file)}
    hamiltonian = {key: value for key, value in PHYSICAL.items() if key != "spacing"}
    job = build(tiny(lattice=lattice, hamiltonian=hamiltonian))
    square = build(tiny(hamiltonian=PHYSICAL))
    configs = np.random.default_rng(1).integers(0, 2, (8, 4))
    bits = torch.from_numpy(configs).bool()
    torch.testing.assert_close(job.hamiltonian.diagonal(bits), square.hamiltonian.diagonal(bits))
    with pytest.raises(InputError, match="already"):
        build(tiny(lattice=lattice, hamiltonian=PHYSICAL))
    config = tiny(hamiltonian=PHYSICAL)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
