"""Which symmetries take the members of a family into each other, against whole matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import nqs
from hamiltonians.exact.configurations import basis
from hamiltonians.exact.matrix import dense_matrix
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.invariance import takes_into
from nqs.families.family import Family

TINY: dict[str, Any] = {
    "steps": 1,
    "couplings": 2,
    "samples": 16,
    "width": 4,
    "dtype": "float64",
}
MODEL = {"name": "ptf", "d_model": 8, "patch": "2"}
SQUARE = nqs.Square(3, 3)


def family(make: Callable[..., Hamiltonian], model: dict[str, Any] = MODEL, **laws: Any) -> Family:
    return nqs.family(make, model, **TINY, **laws)


def images_are_right(trained: Family) -> int:
    """H(g c) is H(c) with its rows and columns moved by g; returns the number of images."""
    assert trained.psi.images is not None
    group, places = trained.psi.images
    c = trained.members.drawn(1, torch.Generator().manual_seed(5))[0]
    n = group.n_sites
    number = {tuple(row): k for k, row in enumerate(basis(n).tolist())}
    matrix = np.asarray(dense_matrix(trained.members.at(c)))
    for row, own in zip(group.permutations, places, strict=True):
        moved = np.asarray(dense_matrix(trained.members.at(c[own])))
        order = [number[tuple(s)] for s in basis(n)[:, row].tolist()]
        np.testing.assert_allclose(moved[np.ix_(order, order)], matrix, atol=1e-12)
    return len(group)


def test_sites() -> None:
    """With a number for all sites between."""
    trained = family(
        lambda delta, Omega: nqs.Rydberg(SQUARE, delta=delta, Omega=Omega, Rb=1.2),
        Omega=(0.5, 1.5),
        delta=("uniform(0,2)", 9),
    )
    assert images_are_right(trained) == 8
    assert type(trained.at(Omega=1.0, delta=1.0)).__name__ == "ImageAverage"


def test_bonds_and_sites() -> None:
    trained = family(
        lambda J, h: nqs.TransverseFieldIsing(nqs.Chain(5), J=J, h=h),
        J=("normal(1,0.2)", 4),
        h=("uniform(-1,1)", 5),
    )
    assert images_are_right(trained) == 2  # the mirror; the spin flip is the network's own


@pytest.mark.parametrize(
    ("make", "model", "laws"),
    [
        (lambda delta: nqs.Rydberg(SQUARE, delta=delta, Rb=1.2), MODEL, {"delta": (0, 1)}),
        (
            lambda delta: nqs.Rydberg(SQUARE, delta=delta, Rb=1.2),
            MODEL | {"symmetry": "none"},
            {"delta": ("uniform(0,1)", 9)},
        ),
        (
            lambda delta: nqs.Rydberg(SQUARE, delta=delta, Rb=1.2),
            MODEL | {"phase": True},
            {"delta": ("uniform(0,1)", 9)},
        ),
        (
            lambda delta: nqs.Rydberg(SQUARE, delta=np.roll(delta, 1), Rb=1.2),
            MODEL,
            {"delta": ("uniform(0,1)", 9)},
        ),
        (
            lambda delta: nqs.Rydberg(SQUARE, delta=np.arange(9) + delta, Rb=1.2),
            MODEL,
            {"delta": ("uniform(0,1)", 9)},
        ),
        (
            lambda pairs: nqs.Rydberg(SQUARE, delta=[*pairs, *pairs, 0.5], Rb=1.2),
            MODEL,
            {"pairs": ("uniform(0,1)", 4)},
        ),
        (
            lambda h: nqs.Heisenberg(nqs.Chain(6, True), J=h, marshall=False),
            MODEL,
            {"h": ("uniform(0.5,1)", 6)},
        ),
    ],
    ids=["even", "none", "complex", "elsewhere", "uneven", "unknown", "signs"],
)
def test_none(make: Any, model: dict[str, Any], laws: dict[str, Any]) -> None:
    """No disorder, no wish, phases; numbers that do not go where their sites go, or are on top of
    what is not symmetric; numbers of no sites; signs that an average may raise the energy of."""
    assert family(make, model, **laws).psi.images is None


def test_takes_into() -> None:
    """Diagonals, elements and flips, those of either side alone included."""
    row = torch.tensor([2, 1, 0])

    def ising(h: list[float], J: tuple[float, float] = (1.0, 1.0)) -> Hamiltonian:
        return nqs.TransverseFieldIsing(nqs.Chain(3), h=h, J=Tensor(J).tolist())

    assert takes_into(ising([1, 2, 3]), ising([3, 2, 1]), row)
    assert takes_into(ising([1, 2, 0]), ising([0, 2, 1]), row)
    assert takes_into(ising([1, 2, 3], (1, 2)), ising([3, 2, 1], (2, 1)), row)
    assert not takes_into(ising([1, 2, 3]), ising([1, 2, 3]), row)
    assert not takes_into(ising([1, 2, 0]), ising([1, 2, 0]), row)
    assert not takes_into(ising([1, 2, 0]), ising([1, 2, 1]), row)
    assert not takes_into(ising([1, 2, 1]), ising([1, 2, 0]), row)
    assert not takes_into(ising([1, 2, 3], (1, 2)), ising([3, 2, 1], (1, 2)), row)
