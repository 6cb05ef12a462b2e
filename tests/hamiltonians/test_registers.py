"""Registers of Pulser and Bloqade: stand-ins with their public interface, and the packages
themselves where they are installed."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hamiltonians import Rydberg, from_bloqade, from_pulser
from hamiltonians.bridges.registers import (
    BLOQADE_C6,
    bloqade_positions,
    pulser_positions,
    write_positions,
)
from hamiltonians.lattices.lattice import Positions

COORDINATES = {"left": [0.0, 0.0], "right": [6.0, 0.0], "top": [0.0, 7.5]}


class Register:
    """As pulser.Register: names and coordinates, no energies."""

    @property
    def qubits(self) -> dict[str, np.ndarray]:
        return {name: np.array(place) for name, place in COORDINATES.items()}


@dataclass
class Device:
    interaction_coeff: float


@dataclass
class Sequence:
    """As pulser.Sequence."""

    register: Register
    device: Device


class Filling(int, enum.Enum):
    filled = 1
    vacant = 0


@dataclass
class Site:
    """As bloqade's LocationInfo: coordinates are scalars to be called with the variables."""

    position: tuple[Callable[..., float], ...]
    filling: Filling


class Arrangement:
    """As bloqade.analog's: a square of spacing a with a vacancy, or a chain."""

    def __init__(self, dims: int) -> None:
        self.dims = dims

    def enumerate(self) -> Iterator[Site]:
        for i in range(4):
            steps = (i,) if self.dims == 1 else divmod(i, 2)
            scalars = tuple(lambda n=n, **variables: n * variables["a"] for n in steps)
            yield Site(scalars, Filling.vacant if i == 2 else Filling.filled)


def interactions(H: Rydberg) -> list[float]:
    i, j = torch.triu_indices(H.n_sites, H.n_sites, offset=1)
    return H.interactions[i, j].tolist()


def test_pulser_register_and_sequence() -> None:
    C6 = 5_420_158.53
    direct = from_pulser(Register(), 12.0, [1.0, 2.0, 3.0], C6=C6)
    expected = [C6 / r**6 for r in (6.0, 7.5, math.hypot(6, 7.5))]
    assert interactions(direct) == pytest.approx(expected)
    assert direct.delta.tolist() == [1, 2, 3] and direct.Omega.tolist() == [12] * 3
    for H in (
        from_pulser(Register(), 12.0, 2.0, device=Device(C6)),
        from_pulser(Sequence(Register(), Device(C6)), 12.0, 2.0),
        from_pulser(Sequence(Register(), Device(1.0)), 12.0, 2.0, C6=C6),
    ):
        assert interactions(H) == pytest.approx(expected)
    assert pulser_positions(Register()).positions.tolist() == list(COORDINATES.values())
    with pytest.raises(ValueError, match="give C6"):
        from_pulser(Register(), 12.0, 2.0)
    with pytest.raises(ValueError, match="list has no qubits"):
        from_pulser([[0.0, 0.0]], 12.0, 2.0, C6=C6)


def test_bloqade_arrangement() -> None:
    H = from_bloqade(Arrangement(2), 15.0, 5.0, a=6.0)
    assert H.n_sites == 3  # the vacant site is left out
    assert interactions(H) == pytest.approx([BLOQADE_C6 / r**6 for r in (6.0, 6 * 2**0.5, 6.0)])
    assert bloqade_positions(Arrangement(1), a=5).positions.tolist() == [[0, 0], [5, 0], [15, 0]]
    with pytest.raises(ValueError, match="int is no arrangement"):
        from_bloqade(4, 15.0, 5.0)


@pytest.mark.parametrize("dimension", [2, 3])
def test_files_hold_positions_exactly(tmp_path: Path, dimension: int) -> None:
    generator = torch.Generator().manual_seed(dimension)
    positions = Positions(6.1 * torch.rand(5, dimension, generator=generator).double())
    write_positions(positions, tmp_path / "atoms.csv")
    assert torch.equal(Positions.from_csv(tmp_path / "atoms.csv").positions, positions.positions)


@pytest.mark.filterwarnings("ignore")
def test_pulser_itself() -> None:
    pulser = pytest.importorskip("pulser")
    device: Any = pulser.AnalogDevice
    register = pulser.Register.square(3, spacing=6.0)
    H = from_pulser(pulser.Sequence(register, device), 12.0, 2.0)
    places = np.array([x.tolist() for x in register.qubits.values()])
    assert np.array_equal(H.lattice.positions.numpy(), places)  # type: ignore[union-attr]
    assert max(interactions(H)) == pytest.approx(device.interaction_coeff / 6**6)
    at_Rb = device.rabi_from_blockade(6.0)  # the Rabi frequency that equals the interaction there
    assert max(interactions(H)) == pytest.approx(at_Rb)
    cube = pulser.Register3D.cuboid(2, 2, 2, spacing=7.0)
    assert from_pulser(cube, 1.0, 1.0, device=device).n_sites == 8


@pytest.mark.filterwarnings("ignore")
def test_bloqade_itself() -> None:
    atoms = pytest.importorskip("bloqade.analog.atom_arrangement")
    arrangement = atoms.Square(3, lattice_spacing=6.0)
    H = from_bloqade(arrangement, 15.0, 5.0)
    assert np.tril(H.interactions.numpy()) == pytest.approx(arrangement.rydberg_interaction())
    spaced = atoms.Chain(4, lattice_spacing="a")
    with pytest.raises(ValueError, match="a not assigned"):
        from_bloqade(spaced, 15.0, 5.0)
    assert interactions(from_bloqade(spaced, 15.0, 5.0, a=5.5))[0] == pytest.approx(
        BLOQADE_C6 / 5.5**6
    )
    holes = atoms.ListOfLocations([(0.0, 0.0), (0.0, 6.1)]).add_position((6.0, 0.0), False)
    assert bloqade_positions(holes).n_sites == 2
