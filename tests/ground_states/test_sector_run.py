"""Runs with a fixed number of 1 bits and with phases: comparison, warning, resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_ground_state_run import TINY

from hamiltonians import Heisenberg
from hamiltonians.exact import ground_state, memory_estimate, memory_needed
from hamiltonians.lattices.lattice import Chain
from nqs.errors import InputError
from nqs.ground_states.build import build, compares_with_exact, start_from_product_state
from nqs.ground_states.config import Config
from nqs.ground_states.run import run as run_job
from nqs.vmc.energies.local_energy import local_energies

CHAIN = {
    "lattice": {"name": "chain", "Lx": 6, "periodic": False},
    "hamiltonian": {"name": "heisenberg", "J": 1.0, "h": 0.0, "marshall": False},
}


def config(n_up: int | None, phase: bool, path: Path | None = None, **train: Any) -> Config:
    mapping = json.loads(json.dumps(TINY)) | CHAIN
    mapping["model"] |= {"n_up": n_up, "phase": phase}
    mapping["train"] |= train
    mapping["run"] = {"dir": None if path is None else str(path), "resume": "resume" in train}
    mapping["train"].pop("resume", None)
    return Config.from_dict(mapping)


def run(path: Path, n_up: int | None, phase: bool, **train: Any) -> dict[str, Any]:
    assert run_job(config(n_up, phase, path, **train), ["python", "train.py"]) == 0
    summary: dict[str, Any] = json.loads((path / "summary.json").read_text())
    return summary


def test_exact_energy_is_the_sectors(tmp_path: Path) -> None:
    exact = ground_state(Heisenberg(Chain(6)), n_up=2).energy
    assert exact > ground_state(Heisenberg(Chain(6))).energy + 0.5
    found = run(tmp_path / "run", 2, True)
    assert found["exact_energy"] == pytest.approx(exact, rel=1e-9)
    assert found["observables"]["excitation_fraction"]["value"] == pytest.approx(1 / 3)


def test_positive_psi_is_flagged_and_told_of_the_phase(tmp_path: Path) -> None:
    assert "model.phase=true" in run(tmp_path / "positive", None, False)["warning"]
    assert "warning" not in run(tmp_path / "complex", None, True)


def test_resume_is_exact(tmp_path: Path) -> None:
    """The table of completions and the phases come back: 4 + 4 steps = 8 steps, bit for bit."""
    whole = run(tmp_path / "whole", 3, True)
    run(tmp_path / "parts", 3, True, steps=4)
    parts = run(tmp_path / "parts", 3, True, resume=True)
    assert parts["energy"] == whole["energy"] and parts["steps"] == 8
    states = [
        torch.load(next((tmp_path / name / "checkpoints").glob("*8*")), weights_only=True)["model"]
        for name in ("whole", "parts")
    ]
    assert "sector" in states[0]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_comparison_counts_the_configurations_of_the_sector() -> None:
    chain = Heisenberg(Chain(40))
    assert compares_with_exact("auto", chain, 2) and not compares_with_exact("auto", chain, None)
    assert not compares_with_exact("auto", chain, 20) and not compares_with_exact(False, chain, 2)
    with pytest.raises(InputError, match=r"train\.exact=true: .* 40 sites with 20 up needs"):
        compares_with_exact(True, chain, 20)
    assert compares_with_exact(True, chain, 3)
    assert memory_needed(Heisenberg(Chain(10)), 1) == memory_estimate(10, 1)


def test_the_start_is_the_best_product_state() -> None:
    """A complex one, whose spins turn against each other, where psi may be complex."""
    energies = []
    for phase in (True, False):
        job = build(config(3, phase))
        start_from_product_state(job)
        psi = job.wavefunction
        samples = psi.sample(2_000, job.generator, unique=True)
        e_loc = local_energies(psi, job.hamiltonian, samples)
        energies.append(float(samples.weights @ e_loc.real))
    assert energies[0] < -4 and energies[0] < energies[1] - 1
