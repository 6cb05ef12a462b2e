"""Pauli sums: the three ways of writing strings, files, cancellation, stoquasticity."""

from __future__ import annotations

from pathlib import Path

import kronecker
import numpy as np
import pytest
import torch

from hamiltonians import PauliSum
from hamiltonians.exact import dense_matrix
from hamiltonians.lattices.lattice import Square


def test_dense_sparse_and_mapped_strings_agree() -> None:
    letters = {0: "X", 2: "Z", 3: "Y"}
    expected = kronecker.string(4, letters)
    for written in ("XIZY", "X0 Z2 Y3", "Y3  X0 Z2", "X0 I1 Z2 Y3", letters):
        np.testing.assert_array_equal(dense_matrix(PauliSum(4, [(1.0, written)])), expected)


def test_equal_strings_add_and_cancelled_ones_vanish() -> None:
    H = PauliSum(2, [(1.0, "XX"), (0.5, "X0 X1"), (2.0, "YI"), (-2.0, "Y0"), (3.0, {}), (1.0, "")])
    assert H.pauli_terms() == [(1.5, {0: "X", 1: "X"}), (4.0, {})]
    assert not H.is_complex and H.infinite_temperature_energy == 4.0
    assert H.flips.tolist() == [[True, True]]


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "heisenberg.txt"
    path.write_text("# two spins\n1.0 XX\n 1.0  Y0 Y1 # sparse\n\n+1e0 ZZ\n-0.5\n")
    expected = kronecker.pauli_sum(
        2,
        [(1, {0: p, 1: p}) for p in "XYZ"] + [(-0.5, {})],
    )
    found = PauliSum.from_file(path)
    np.testing.assert_array_equal(kronecker.pauli_sum(2, found.pauli_terms()), expected)
    path.write_text("1 Z0\n2 X3\n")
    assert PauliSum.from_file(path).n_sites == 4
    assert PauliSum.from_file(path, n_sites=6).n_sites == 6


def test_exchange_on_two_sublattices_is_rotated_to_a_stoquastic_form() -> None:
    """XX + YY flips antiparallel pairs with +2; a rotation of one sublattice makes it -2."""
    bonds = [(0, 1), (1, 2), (2, 3)]

    def chain(xy: float) -> PauliSum:
        strengths = {"X": xy, "Y": xy, "Z": 1.0}
        return PauliSum(4, [(c, {i: p, j: p}) for i, j in bonds for p, c in strengths.items()])

    assert chain(1.0).is_stoquastic and chain(1.0).rotated.tolist() == [False, True, False, True]
    assert chain(-1.0).is_stoquastic and not chain(-1.0).rotated.any()
    np.testing.assert_array_equal(dense_matrix(chain(1.0)), dense_matrix(chain(-1.0)))
    assert chain(-1.0).constant_off_diagonal is None


@pytest.mark.parametrize(("weight", "expected"), [(0.9, True), (1.1, False)])
def test_stoquastic_beyond_enumeration_uses_the_sufficient_condition(
    weight: float, expected: bool
) -> None:
    """-X_0 (1 + w Z_1 ... Z_20): non-positive exactly while w <= 1; support of 20 sites."""
    long = {0: "X"} | {i: "Z" for i in range(1, 21)}
    assert PauliSum(21, [(-1.0, {0: "X"}), (weight, long)]).is_stoquastic is expected


def test_many_sites_match_the_sign_rule_string_by_string() -> None:
    """1000 sites (float32 parity counts are exact): against the product over sites."""
    n = 1000
    rng = np.random.default_rng(3)
    letters = {i: str(rng.choice(list("IXYZ"))) for i in range(n)}
    configs = torch.from_numpy(rng.random((16, n)) < 0.5)
    H = PauliSum(n, [(1.0, letters), (2.0, {i: "Z" for i in range(n)})])
    bits = configs.numpy()
    element = np.ones(16, dtype=complex)
    for i, letter in letters.items():
        columns = {"I": (1, 1), "X": (1, 1), "Y": (-1j, 1j), "Z": (1, -1)}[letter]
        element *= np.where(bits[:, i], columns[1], columns[0])
    np.testing.assert_array_equal(H.off_diagonal(configs)[:, 0].numpy(), element)
    np.testing.assert_array_equal(H.diagonal(configs).numpy(), 2.0 * (-1.0) ** bits.sum(1))


def test_lattice_is_kept_and_checked() -> None:
    assert PauliSum(6, [(1.0, "X0")], lattice=Square(2, 3)).lattice is not None
    with pytest.raises(ValueError, match=r"n_sites is 5, but the lattice is Square\(2, 3\)"):
        PauliSum(5, [(1.0, "X0")], lattice=Square(2, 3))


def test_a_plain_field_is_stoquastic_by_its_sign() -> None:
    """A flip pattern without any Z has nothing to enumerate."""
    assert PauliSum(2, [(-1.0, "XI"), (-0.5, "IX"), (1.0, "ZZ")]).is_stoquastic
    assert not PauliSum(2, [(1.0, "XI"), (1.0, "IX"), (1.0, "XX")]).is_stoquastic
