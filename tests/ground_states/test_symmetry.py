"""Runs of symmetrised states: the configured group, resume, later evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nqs.cli.app import main as nqs
from nqs.errors import InputError
from nqs.ground_states.build import build
from nqs.vmc.optimizers.natural_gradient import NaturalGradient
from nqs.vmc.optimizers.time_step import time_step
from nqs.wavefunctions.symmetrised import Symmetrised
from tests.ground_states.test_ground_state_run import (
    TINY,
    assert_same_run,
    parameters,
    result,
    run,
    tiny,
)

POINT_GROUP: dict[str, Any] = TINY["model"] | {"symmetry": "point_group"}
MINSR = {
    "name": "minsr",
    "learning_rate": 0.05,
    "diagonal_shift": 1e-3,
    "momentum": 0.9,
    "implicit": True,
    "memory_gb": 1.0,
    "schedule": "constant",
    "warmup_steps": 0,
    "final_fraction": 1.0,
    "final_shift_fraction": 1.0,
}
SQUARE = {"name": "square", "Lx": 3, "Ly": 3, "periodic": True}
TFIM = {"name": "tfim", "J": 1.0, "h": 1.0}
HEISENBERG = {"name": "heisenberg", "J": 1.0, "h": 0.0, "marshall": "auto"}


@pytest.mark.parametrize(
    ("lattice", "hamiltonian", "symmetry", "spin_flip", "n_images"),
    [
        (TINY["lattice"], TINY["hamiltonian"], "point_group", False, 8),
        (SQUARE, TFIM, "translations", False, 9),
        (SQUARE, TFIM, "all", True, 144),
        (SQUARE, TFIM, "none", True, 2),
        ({"name": "kagome", "Lx": 1, "Ly": 1, "periodic": False}, TFIM, "point_group", False, 6),
        ({"name": "chain", "Lx": 6, "periodic": True}, HEISENBERG, "all", True, 24),
        ({"name": "chain", "Lx": 6, "periodic": True}, HEISENBERG, "translations", False, 6),
    ],
)
def test_the_group_of_the_keys(
    lattice: dict[str, Any],
    hamiltonian: dict[str, Any],
    symmetry: str,
    spin_flip: bool,
    n_images: int,
) -> None:
    model = TINY["model"] | {"symmetry": symmetry, "spin_flip": spin_flip}
    psi = build(tiny(lattice=lattice, hamiltonian=hamiltonian, model=model)).wavefunction
    assert isinstance(psi, Symmetrised) and psi.n_images == n_images


def test_none_is_the_network_itself() -> None:
    assert not isinstance(build(tiny()).wavefunction, Symmetrised)


def test_sites_without_symmetry_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sites.csv").write_text("x,y\n0,0\n1,0\n0,1.5\n")
    lattice = {"name": "positions", "file": str(tmp_path / "sites.csv")}
    with pytest.raises(InputError, match=r"model.symmetry=point_group.*no such symmetry"):
        build(tiny(lattice=lattice, model=POINT_GROUP))


def test_complex_run_with_its_own_time_step_resumes(tmp_path: Path) -> None:
    """A frustrated torus, no sign rule: orbits shared, magnetisation fixed, bit for bit."""
    keys: dict[str, Any] = {
        "lattice": SQUARE | {"Lx": 2, "Ly": 4},
        "hamiltonian": {"name": "j1j2", "J1": 1.0, "J2": 0.5, "marshall": False},
        "model": TINY["model"]
        | {"symmetry": "all", "spin_flip": True, "n_up": 4, "phase": True, "patch": "2x2"},
        "optimizer": MINSR | {"learning_rate": "auto", "momentum": "auto"},
    }
    job = build(tiny(**keys))
    assert isinstance(job.optimizer, NaturalGradient)
    assert job.optimizer.learning_rate == time_step(job.hamiltonian) < 0.1
    assert job.optimizer.momentum == 0
    real = build(tiny(optimizer=keys["optimizer"])).optimizer
    assert isinstance(real, NaturalGradient) and real.momentum == 0.9
    train = TINY["train"] | {"n_samples": 256, "checkpoint_every": 1}
    assert run(tmp_path / "whole", **keys, train=train | {"steps": 4}) == 0
    assert run(tmp_path / "halves", **keys, train=train | {"steps": 2}) == 0
    assert run(tmp_path / "halves", **keys, train=train | {"steps": 4}, run__resume=True) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.parametrize("optimizer", [TINY["optimizer"], MINSR], ids=["adam", "minsr"])
def test_one_step_and_resume_is_two_steps(tmp_path: Path, optimizer: dict[str, Any]) -> None:
    train = TINY["train"] | {"checkpoint_every": 1}
    keys = {"model": POINT_GROUP, "optimizer": optimizer}
    assert run(tmp_path / "whole", **keys, train=train | {"steps": 2}) == 0
    assert run(tmp_path / "halves", **keys, train=train | {"steps": 1}) == 0
    assert run(tmp_path / "halves", **keys, train=train | {"steps": 2}, run__resume=True) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
    assert all(name.startswith("base.") for name in parameters(tmp_path / "whole"))
    assert result(tmp_path / "whole")["energy"] > result(tmp_path / "whole")["exact_energy"] - 0.05
    assert nqs(["evaluate", str(tmp_path / "whole"), "--samples", "64"]) == 0


def test_parameters_start_as_those_of_the_network() -> None:
    plain, averaged = build(tiny()).wavefunction, build(tiny(model=POINT_GROUP)).wavefunction
    for one, other in zip(plain.parameters(), averaged.parameters(), strict=True):
        assert torch.equal(one, other)


RING = {"name": "chain", "Lx": 6, "periodic": True}
J1J2 = {"name": "j1j2", "J1": 1.0, "J2": 0.5, "marshall": False}
ALL = {"symmetry": "all", "spin_flip": True, "n_up": 3}


@pytest.mark.parametrize(
    ("hamiltonian", "model", "doubted"),
    [(HEISENBERG, ALL, False), (J1J2, ALL | {"phase": True}, True)],
    ids=["n_up", "n_up-phase"],
)
def test_a_sector_and_its_symmetries(
    tmp_path: Path, hamiltonian: dict[str, Any], model: dict[str, Any], doubted: bool
) -> None:
    """Resumed bit for bit; compared with the sector's energy; other characters are mentioned."""
    keys = {"lattice": RING, "hamiltonian": hamiltonian, "optimizer": MINSR}
    keys |= {"model": TINY["model"] | model, "train": TINY["train"] | {"steps": 4}}
    assert run(tmp_path / "whole", **keys) == 0
    assert run(tmp_path / "parts", **keys | {"train": TINY["train"] | {"steps": 2}}) == 0
    assert run(tmp_path / "parts", **keys, run__resume=True) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    found = result(tmp_path / "whole")
    assert found["observables"]["excitation_fraction"]["value"] == pytest.approx(0.5)
    assert found["energy"] > found["exact_energy"] - 5 * found["energy_error"]
    assert ("momentum or parity" in found.get("warning", "")) == doubted


def test_a_sector_that_the_spin_flip_leaves_is_refused() -> None:
    model = TINY["model"] | ALL | {"n_up": 2}
    with pytest.raises(InputError, match=r"model.n_up=2 is not half of 6 sites"):
        build(tiny(lattice=RING, hamiltonian=HEISENBERG, model=model))
