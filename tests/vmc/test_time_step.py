"""The imaginary time step goes with 1 / (unit of energy): values of known Hamiltonians."""

from __future__ import annotations

import pytest

from hamiltonians import J1J2, Heisenberg, Rydberg, TransverseFieldIsing
from hamiltonians.lattices.lattice import Chain, Square
from hamiltonians.pauli import PauliSum
from nqs.vmc.optimizers.time_step import time_step


def test_known_values() -> None:
    assert time_step(Rydberg(Square(4, 4), V=7.0)) == pytest.approx(0.2, rel=1e-12)
    assert time_step(Rydberg(Square(4, 4), V=70.0, Omega=10.0)) == pytest.approx(0.02, rel=1e-12)
    assert time_step(TransverseFieldIsing(Chain(9), h=3.0)) == pytest.approx(0.1 / 3, rel=1e-12)
    assert time_step(TransverseFieldIsing(Chain(9), h=0.1)) == 0.2
    assert time_step(Heisenberg(Chain(20, True))) == pytest.approx(0.05, rel=1e-12)
    assert time_step(Heisenberg(Square(4, 4, True), J=3.0)) == pytest.approx(0.025 / 3, rel=1e-12)
    assert time_step(J1J2(Square(4, 4, True), J2=0.5)) == pytest.approx(0.2 / 12, rel=1e-12)


def test_no_flips() -> None:
    assert time_step(PauliSum(4, [(1.0, "ZZII")])) == 0.2
