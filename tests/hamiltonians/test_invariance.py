"""Invariance by Pauli strings against invariance of the matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hamiltonians import J1J2, XXZ, Heisenberg, Rydberg, TransverseFieldIsing
from hamiltonians.exact import basis, dense_matrix
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.invariance import check_invariance, symmetry_test
from hamiltonians.lattices.lattice import Chain, Kagome, Square, Triangular
from hamiltonians.lattices.symmetry_group import SymmetryGroup
from hamiltonians.pauli import PauliSum

SQUARE, RING = Square(2, 4), Chain(6, True)
UNEVEN = [1.0, 1.0, 1.0, 1.5, 1.0, 1.0]
CASES: dict[str, tuple[Hamiltonian, SymmetryGroup]] = {
    "rydberg": (Rydberg(SQUARE, V=3.0), SQUARE.point_group()),
    "rydberg-detuned": (Rydberg(RING, V=3.0, delta=UNEVEN), RING.space_group()),
    "rydberg-driven": (Rydberg(RING, V=3.0, Omega=UNEVEN), RING.translations()),
    "tfim": (TransverseFieldIsing(Kagome(2, 1), J=1.0, h=0.5), Kagome(2, 1).point_group()),
    "tfim-bonds": (TransverseFieldIsing(RING, J=UNEVEN, h=0.5), RING.space_group()),
    "marshall": (Heisenberg(RING, marshall=True), RING.space_group()),
    "marshall-field": (XXZ(RING, h=0.2, marshall=True), RING.translations()),
    "j1j2-marshall": (J1J2(Square(2, 4), 1.0, 0.5, marshall=True), SQUARE.point_group()),
    "triangular": (XXZ(Triangular(2, 3), Delta=0.5), Triangular(2, 3).point_group()),
    "staggered": (
        PauliSum(6, [((-1.0) ** i, f"X{i} X{(i + 1) % 6}") for i in range(6)]),
        RING.translations(),
    ),
    "current": (PauliSum(6, [(1.0, f"X{i} Y{(i + 1) % 6}") for i in range(6)]), RING.space_group()),
    "moved": (PauliSum(6, [(1.0, "Z0")]), RING.translations()),
}


def numbers(configs: Tensor) -> Tensor:
    places = torch.arange(configs.shape[-1] - 1, -1, -1)
    return (configs.to(torch.int64) << places).sum(-1)


@pytest.mark.parametrize("spin_flip", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_strings_judge_as_the_matrix(case: str, spin_flip: bool) -> None:
    hamiltonian, group = CASES[case]
    matrix, configs = torch.from_numpy(dense_matrix(hamiltonian)), basis(hamiltonian.n_sites)
    verdicts, has = set(), symmetry_test(hamiltonian)
    for row in group.permutations:
        moved = numbers(configs[:, row] ^ spin_flip)
        invariant = bool(torch.allclose(matrix[moved][:, moved], matrix))
        assert has(row, spin_flip) == invariant
        verdicts.add(invariant)
    expected = {
        "rydberg-detuned": {False, True},
        "rydberg-driven": {False, True},
        "tfim-bonds": {False, True},
        "staggered": {False, True},
        "current": {False, True},
        "moved": {False, True},
    }
    if not spin_flip:
        assert verdicts == expected.get(case, {True})


def test_the_line_names_the_couplings() -> None:
    hamiltonian, group = CASES["rydberg-driven"]
    with pytest.raises(ValueError, match=r"X\d has -0\.\d+, its image X\d -0\.\d+") as error:
        check_invariance(hamiltonian, group)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"the spin flip: Z0 has"):
        check_invariance(CASES["rydberg"][0], SymmetryGroup.spin_flip(8))
    check_invariance(hamiltonian, SymmetryGroup.identity(6))
    check_invariance(*CASES["marshall"])
