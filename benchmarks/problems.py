"""The systems whose ground states are raced for, as train.py's own keys, and their energies."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from hamiltonians.hamiltonian import Hamiltonian
from nqs.cli.train import load_config
from nqs.ground_states.build import build_hamiltonian, build_lattice
from nqs.ground_states.config import Config

REFERENCES = Path(__file__).parent / "references" / "energies.csv"


@dataclass(frozen=True)
class Problem:
    """One system.

    Attributes:
        name: as --problems takes it.
        system: "rydberg" or "tfim".
        shape: sites in each direction, (L,) or (L, L).
        periodic: boundary of all directions.
        couplings: (delta, V, Omega) or (J, h), by name.
        budget: seconds of optimisation a program is given unless --budget says otherwise.
    """

    name: str
    system: str
    shape: tuple[int, ...]
    periodic: bool
    couplings: dict[str, float]
    budget: float

    @property
    def arguments(self) -> list[str]:
        """What a user adds to `python train.py` for this system, and nothing else."""
        kind = "chain" if len(self.shape) == 1 else "square"
        sides = [f"lattice.{key}={n}" for key, n in zip(("Lx", "Ly"), self.shape, strict=False)]
        couplings = [f"hamiltonian.{key}={value}" for key, value in self.couplings.items()]
        periodic = f"lattice.periodic={str(self.periodic).lower()}"
        system = f"hamiltonian={self.system}"
        return [f"lattice={kind}", *sides, periodic, system, *couplings]

    def config(self, *more: str) -> Config:
        """train.py's configuration, with further key=value arguments. Raises InputError."""
        return load_config([*self.arguments, *more])

    def hamiltonian(self) -> Hamiltonian:
        """The system in our conventions."""
        config = self.config()
        return build_hamiltonian(config.hamiltonian, build_lattice(config.lattice))

    @property
    def n_sites(self) -> int:
        return math.prod(self.shape)

    @property
    def energy(self) -> float:
        """The reference, total energy. Raises KeyError if references/energies.csv lacks it."""
        return references()[self.name]


def rydberg(name: str, side: int, budget: float, delta: float = 1.0) -> Problem:
    """Open L x L array at V = 7, Omega = 1."""
    couplings = {"V": 7.0, "delta": delta, "Omega": 1.0}
    return Problem(name, "rydberg", (side, side), False, couplings, budget)


def ising(name: str, shape: tuple[int, ...], budget: float, *, periodic: bool, h: float) -> Problem:
    """Transverse-field Ising model at J = 1."""
    return Problem(name, "tfim", shape, periodic, {"J": 1.0, "h": h}, budget)


PROBLEMS = {
    problem.name: problem
    for problem in (
        rydberg("2x2", 2, 5),
        rydberg("3x3", 3, 10),
        rydberg("4x4", 4, 600),  # the older code needs most of it for 1e-3
        rydberg("4x4-ordered", 4, 120, delta=3.3),
        rydberg("6x6", 6, 300),
        rydberg("8x8", 8, 900),
        rydberg("12x12", 12, 300),
        ising("chain16", (16,), 120, periodic=False, h=1.0),
        ising("chain32", (32,), 600, periodic=True, h=1.0),
        ising("tfim6x6", (6, 6), 600, periodic=True, h=3.0),
    )
}
DEFAULT_PROBLEMS = tuple(name for name in PROBLEMS if name not in ("2x2", "3x3", "12x12"))


def references() -> dict[str, float]:
    """Problem -> total ground-state energy."""
    with REFERENCES.open(newline="") as file:
        return {row["problem"]: float(row["total_energy"]) for row in csv.DictReader(file)}
