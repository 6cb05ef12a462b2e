"""Exchange models: the sign rule, conventions on two sites, QuSpin, every kind of lattice.

Matrix elements against Kronecker products are in test_hamiltonian_laws, NetKet in its own file.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hamiltonians import J1J2, XXZ, Heisenberg
from hamiltonians.exact import dense_matrix, ground_state
from hamiltonians.lattices.lattice import (
    Chain,
    Honeycomb,
    Kagome,
    Lattice,
    Positions,
    Square,
    Triangular,
)

BIPARTITE = [
    Chain(7),
    Chain(8, periodic=True),
    Square(2, 4),
    Square(2, 4, periodic=True),
    Square(3, 2, periodic=(False, True)),
    Honeycomb(2, 2),
    Honeycomb(2, 2, periodic=True),
    Positions([[0, 0], [1, 0], [1, 1], [2.5, 0], [3.5, 0], [3.5, 1]]),  # falls apart
]
FRUSTRATED = [
    Chain(5, periodic=True),
    Square(3, 2, periodic=True),
    Triangular(2, 3),
    Triangular(3, 3, periodic=True),
    Kagome(1, 2),
    Kagome(1, 2, periodic=True),
]


def test_two_sites() -> None:
    """Singlet -3 J, triplet +J; a field lowers the state of bits 0; NetKet's units."""
    pair = Heisenberg(Chain(2), marshall=False)
    np.testing.assert_allclose(np.linalg.eigvalsh(dense_matrix(pair)), [-3, 1, 1, 1], atol=1e-14)
    assert dense_matrix(pair)[1, 2] == 2.0
    assert dense_matrix(Heisenberg(Chain(2), marshall=True))[1, 2] == -2.0
    assert dense_matrix(Heisenberg(Chain(2), h=0.5)).diagonal().tolist() == [0.0, -1.0, -1.0, 2.0]
    ring = Heisenberg(Chain(2, periodic=True), marshall=False)  # two images, one bond
    np.testing.assert_array_equal(dense_matrix(ring), dense_matrix(pair))


@pytest.mark.parametrize("lattice", BIPARTITE, ids=str)
@pytest.mark.parametrize("J2", [0.0, 0.4])
def test_sign_rule_keeps_the_levels(lattice: Lattice, J2: float) -> None:
    plain, turned = (J1J2(lattice, 1.0, J2, marshall=rotate) for rotate in (False, True))
    levels = [np.linalg.eigvalsh(dense_matrix(H)) for H in (plain, turned)]
    np.testing.assert_allclose(levels[0], levels[1], atol=1e-11)
    assert not plain.is_stoquastic and turned.is_stoquastic == (J2 == 0)
    assert repr(turned).endswith("Marshall rotated)")


@pytest.mark.parametrize("lattice", BIPARTITE[:-1], ids=str)
def test_rotated_ground_state_is_positive(lattice: Lattice) -> None:
    n_up = lattice.n_sites // 2
    plain = ground_state(Heisenberg(lattice, marshall=False), n_up=n_up)
    turned = ground_state(Heisenberg(lattice, marshall=True), n_up=n_up)
    assert turned.state.min() > 0 > plain.state.min()
    np.testing.assert_allclose(turned.probabilities(), plain.probabilities(), atol=1e-9)


@pytest.mark.parametrize("lattice", FRUSTRATED, ids=str)
def test_without_two_sublattices_auto_leaves_it_and_true_is_refused(lattice: Lattice) -> None:
    H = Heisenberg(lattice, marshall="auto")
    assert not H.marshall and not H.is_stoquastic
    with pytest.raises(ValueError, match="odd loops, so there are no two sublattices"):
        XXZ(lattice, marshall=True)


def test_auto_rotates_the_antiferromagnet_only() -> None:
    lattice = Square(2, 3)
    assert XXZ(lattice, 1.0, -2.0, marshall="auto").marshall
    assert not XXZ(lattice, -1.0, marshall="auto").marshall
    assert not XXZ(lattice, 0.0, marshall="auto").marshall
    assert J1J2(lattice, 1.0, -5.0, marshall="auto").marshall  # second neighbours do not count
    assert J1J2(lattice, 1.0, -5.0, marshall="auto").is_stoquastic
    mixed = [1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0]
    assert XXZ(lattice, mixed, marshall="auto").marshall
    assert not XXZ(lattice, [-J for J in mixed], marshall="auto").marshall


@pytest.mark.parametrize(
    "lattice", [*BIPARTITE, *FRUSTRATED, Honeycomb(3, 3, periodic=True), Kagome(2, 2)], ids=str
)
def test_one_flip_pattern_per_pair_of_both_shells(lattice: Lattice) -> None:
    H = J1J2(lattice, 1.0, 0.5, marshall=False)
    pairs = {tuple(bond) for order in (1, 2) for bond in lattice.bonds(order).tolist()}
    assert {tuple(flip.nonzero()[:, 0].tolist()) for flip in H.flips} == pairs
    assert len(H.flips) == len(pairs) == len(lattice.bonds(1)) + len(lattice.bonds(2))
    assert H.conserves_magnetisation and H.constant_off_diagonal is None


def test_bonds_without_exchange_have_no_flip_pattern() -> None:
    assert len(XXZ(Chain(4), [1.0, 0.0, 2.0], marshall=False).flips) == 2
    assert len(J1J2(Square(2, 2), 1.0, 0.0, marshall=False).flips) == 4


def test_parallel_pairs_have_exactly_zero_elements() -> None:
    configs = torch.tensor([[False, False, True, True]])
    elements = Heisenberg(Chain(4), [0.1, 0.2, 0.3], marshall=True).off_diagonal(configs)
    assert elements.tolist() == [[0.0, -0.4, 0.0]]


@pytest.mark.parametrize("marshall", [False, True])
def test_spectrum_of_quspin(marshall: bool) -> None:
    """QuSpin's static lists (Pauli matrices) for a 2x4 ladder, in full and with 4 spins up."""
    pytest.importorskip("quspin")
    from quspin.basis import spin_basis_general
    from quspin.operators import hamiltonian

    lattice, J1, J2 = Square(2, 4), 0.8, 0.3
    near = [(i, i + 1) for i in (0, 1, 2, 4, 5, 6)] + [(i, i + 4) for i in range(4)]
    far = [(i, i + 5) for i in range(3)] + [(i + 1, i + 4) for i in range(3)]
    couplings = [[J1, *pair] for pair in near] + [[J2, *pair] for pair in far]
    static = [[letters, couplings] for letters in ("xx", "yy", "zz")]
    checks = {"check_symm": False, "check_herm": False, "check_pcon": False}
    H = J1J2(lattice, J1, J2, marshall=marshall)
    spins = spin_basis_general(8, pauli=1)
    full = hamiltonian(static, [], basis=spins, dtype=np.complex128, **checks).toarray()
    np.testing.assert_allclose(
        np.linalg.eigvalsh(dense_matrix(H)), np.linalg.eigvalsh(full), atol=1e-11
    )
    # |+-> exchange: xx + yy = 2 (+- + -+) with QuSpin's sigma^+ = sx + i sy over 2 when pauli = -1
    static = [["+-", [[2 * J, i, j] for J, i, j in couplings]],
              ["-+", [[2 * J, i, j] for J, i, j in couplings]],
              ["zz", couplings]]  # fmt: skip
    sector = spin_basis_general(8, Nup=4, pauli=-1)
    block = hamiltonian(static, [], basis=sector, dtype=np.float64, **checks).toarray()
    found = ground_state(H, k=5, n_up=4)
    np.testing.assert_allclose(found.energies, np.linalg.eigvalsh(block)[:5], atol=1e-10)
