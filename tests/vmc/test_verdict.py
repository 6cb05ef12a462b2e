"""What speaks against an energy, by numbers, each kind by itself; whole runs: tests/campaigns."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from hamiltonians import Rydberg, TransverseFieldIsing
from hamiltonians.lattices.lattice import Chain, Square
from nqs.vmc.verdict import Findings, doubts

ATOMS = Rydberg(Square(2, 2), V=7.0)
GOOD = Findings(
    energy=-2.0,
    energy_error=1e-4,
    variance=1e-3,
    variance_outside=0.0,
    excess=1e-4,
    largest_share=0.3,
    density=(torch.full((4,), 0.3).double(), torch.full((4,), 1e-3).double()),
    history=([-1.0 - i / 50 for i in range(50)] + [-2.0] * 50, [1e-3] * 100),
)


def judged(hamiltonian: Any = ATOMS, **changes: Any) -> list[str]:
    """The kinds of the doubts."""
    found = doubts(dataclasses.replace(GOOD, **changes), hamiltonian)
    assert all(len(text) < 300 and "\n" not in text for text in found)
    return [text.partition(":")[0] for text in found]


def test_a_good_run() -> None:
    assert judged() == []
    assert judged(exact_energy=-2.0001, start=(-1.9, 1e-3)) == []
    assert judged(density=None, history=((), ())) == []


@pytest.mark.parametrize(
    "changes, kind",
    [
        ({"excess": 0.01}, "variance"),
        ({"excess": 1.0, "variance": 4.0, "variance_outside": 4.0}, "collapsed"),
        ({"exact_energy": -2.01}, "exact"),
        ({"exact_energy": -1.999}, "exact"),
        ({"start": (-2.1, 1e-3)}, "rose"),
        ({"history": ([-2.1] * 50 + [-2.0] * 50, [1e-3] * 100)}, "rose"),
        ({"largest_share": 1.0, "variance": 0.0, "excess": 0.0}, "support"),
        ({"product": (-2.1, 1e-3)}, "product state"),
        ({"warning": "of another momentum"}, "signs"),
    ],
)
def test_each_kind(changes: dict[str, Any], kind: str) -> None:
    assert judged(**changes) == [kind]


@pytest.mark.parametrize(
    "changes",
    [
        {"start": (-2.0001, 1e-3)},  # noise
        {"history": ([-2.1] * 50 + [-2.0] * 50, [0.3] * 100)},
        {"history": ([-2.0005] * 50 + [-2.0] * 50, [1e-6] * 100)},  # no matter
        {"history": ([float("nan")] * 50 + [-2.0] * 50, [1e-3] * 100)},
        {"largest_share": 1.0, "variance": 0.0, "excess": 0.0, "exact_energy": -2.0},
        {"excess": 0.01, "exact_energy": -2.0},  # known to be right
        {"warning": "of another momentum", "exact_energy": -2.0},
        {"product": (-1.9, 1e-3)},
    ],
)
def test_no_false_alarm(changes: dict[str, Any]) -> None:
    assert judged(**changes) == []


def test_equivalent_sites() -> None:
    """Only sites that symmetries connect: the middle of a chain differs from its ends by right."""
    chain = Rydberg(Chain(3), V=7.0)
    error = torch.full((3,), 1e-3).double()
    assert judged(chain, density=(torch.tensor([0.4, 0.2, 0.4]).double(), error)) == []
    broken = torch.tensor([0.5, 0.2, 0.3]).double()
    assert judged(chain, density=(broken, error)) == ["equivalent sites"]
    assert judged(chain, density=(broken, 100 * error)) == []
    disorder = Rydberg(Chain(3), V=7.0, delta=[1.0, 1.1, 1.2])
    assert judged(disorder, density=(broken, error)) == []


def test_classical_and_vanishing_energies() -> None:
    classical = TransverseFieldIsing(Chain(4), h=0.0)
    assert judged(classical, density=None, excess=0.0, variance=0.0) == ["support"]
    assert judged(classical, density=None, excess=2.0, variance=4.0) == ["variance"]
    assert judged(energy=0.0, exact_energy=0.0, history=((), ())) == []
    assert judged(energy=0.0, excess=1e-5, history=((), ())) == []
    assert judged(energy=0.0, excess=0.1, history=((), ())) == ["variance"]
