"""Exact diagonalisation where couplings differ by many orders of magnitude.

Oracles: mpmath with 70 digits on small random systems; elimination of the high configurations to
second order, energy-dependent, on 4x4; the inverse of the dense matrix, whose largest levels are
the lowest ones, to full accuracy in between.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from minimal import Minimal
from torch import Tensor

from hamiltonians import XXZ, Hamiltonian, PauliSum, Rydberg, TransverseFieldIsing
from hamiltonians.exact import (
    dense_matrix,
    ground_state,
    memory_estimate,
    memory_needed,
    sparse_matrix,
)
from hamiltonians.lattices.lattice import Chain, Kagome, Positions, Square

CLOSE = Positions([[0, 0], [1, 0], [0.001, 0], [2, 2], [0, 2]])


class RandomElements(Hamiltonian):
    """Levels over many decades and random flips, few or many, real or complex; a user's class."""

    infinite_temperature_energy = 0.0
    is_stoquastic = False
    is_complex = False

    def __init__(self, n_sites: int, random: np.random.Generator) -> None:
        self.n_sites, size = n_sites, 2**n_sites
        self.is_complex = bool(random.integers(2))
        levels = random.standard_normal(size)
        high = random.random(size) < random.random()
        levels = np.where(high, abs(levels) * 10 ** random.uniform(0, 18, size), levels)
        if random.random() < 0.3:  # degenerate ones
            levels = np.where(high, 10.0 ** np.round(random.uniform(0, 18, size)), np.round(levels))
        self.levels = torch.from_numpy(levels)  # (D,)
        codes = random.permutation(np.arange(1, size))[: random.integers(1, 2 * n_sites + 1)]
        bits = codes[:, None] >> np.arange(n_sites - 1, -1, -1) & 1
        self.flips = torch.from_numpy(bits.astype(bool))  # (G, N)
        draws = random.standard_normal((2, size, len(codes))) * (random.random(len(codes)) < 0.8)
        elements = draws[0] + 1j * draws[1] if self.is_complex else draws[0]
        for g, code in enumerate(codes.tolist()):  # Hermitian
            there = np.arange(size) ^ code
            elements[:, g] = (elements[:, g] + elements[there, g].conj()) / 2
        self.elements = torch.from_numpy(elements)  # (D, G)

    def _numbers(self, configs: Tensor) -> Tensor:
        return (configs.long() << torch.arange(self.n_sites - 1, -1, -1)).sum(1)

    def diagonal(self, configs: Tensor) -> Tensor:
        return self.levels[self._numbers(configs)]

    def off_diagonal(self, configs: Tensor) -> Tensor:
        return self.elements[self._numbers(configs)]


class Stronger(Minimal):
    """Repulsion up to 1e300 between all pairs."""

    def diagonal(self, configs: Tensor) -> Tensor:
        levels = self.other.diagonal(configs)
        return torch.where(levels > 1e20, 1e270 * levels, levels)


def random_system(seed: int) -> tuple[Hamiltonian, int | None]:
    """A system of 1 to 4 sites, and its sector."""
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 5))
    if seed % 3 == 0:
        return RandomElements(n, random), None
    if seed % 3 == 1:
        sites = random.random((n, 2)) * 3
        if n > 1:
            sites[1] = sites[0] + 10 ** -random.uniform(0, 4) * random.standard_normal(2)
        delta = random.choice([0.0, 1.0, 2.0, -1.0, 100.0], n).tolist()
        Omega = random.choice([1.0, -1.0, 0.01, 2.0, 0.0], n).tolist()
        return Rydberg(Positions(sites), 10 ** random.uniform(0, 12), delta, Omega), None
    n = max(n, 2)
    fields = (random.standard_normal(n) * 10 ** random.uniform(0, 5, n)).tolist()
    J = random.standard_normal(n - 1).tolist()
    H = XXZ(Chain(n), J, 10 ** random.uniform(0, 6), fields, marshall="auto")
    return H, int(random.integers(0, n + 1))


def levels_of_70_digits(H: Hamiltonian, n_up: int | None) -> list[mpmath.mpf]:
    with mpmath.workdps(70):
        matrix = mpmath.matrix(sparse_matrix(H, n_up).toarray().tolist())
        return sorted((mpmath.eighe if H.is_complex else mpmath.eigsy)(matrix, eigvals_only=True))


@pytest.mark.parametrize("n_systems", [60, pytest.param(3_000, marks=pytest.mark.slow)])
def test_every_level_has_its_digits(n_systems: int) -> None:
    """Each of up to five levels within 1e-8 of its size or the flips'; the lowest within its error
    bound."""
    for seed in range(n_systems):
        H, n_up = random_system(seed)
        expected = levels_of_70_digits(H, n_up)
        k = 1 + seed % min(5, len(expected))
        found = ground_state(H, k, n_up=n_up)
        errors = [
            abs(float(mpmath.mpf(float(a)) - b))
            for a, b in zip(found.energies, expected, strict=False)
        ]
        matrix = sparse_matrix(H, n_up).toarray()
        flips = np.abs(matrix - np.diag(matrix.diagonal())).sum(axis=1).max()
        for error, level in zip(errors, expected, strict=False):
            assert error <= 1e-8 * max(abs(float(level)), flips), (seed, errors)
        assert errors[0] <= found.energy_error, seed
        residual = np.linalg.norm(matrix @ found.state - found.energy * found.state)
        assert residual == pytest.approx(found.residual, abs=1e-10 * max(flips, abs(found.energy)))


@pytest.mark.parametrize(
    ("H", "energy", "error"),
    [
        (Rydberg(Square(3, 3), 5e3), -2.118091, 1e-6),
        (Rydberg(CLOSE, 7.0), -3.83840133638, 1e-11),
        (Rydberg(Square(3, 4), 1e14), -(1 + math.sqrt(13)) / 2, 1e-8),  # 12 atoms, one excited
        (Rydberg(Square(3, 3), 1e18), -(1 + math.sqrt(10)) / 2, 1e-12),  # 9 atoms, one excited
        (Rydberg(Square(2, 2), 1e18, Omega=-1.0), -(1 + math.sqrt(5)) / 2, 1e-12),
        (Stronger(Rydberg(Square(4, 4), 1e30)), -(1 + math.sqrt(17)) / 2, 1e-12),
    ],
    ids=repr,
)
def test_quoted_energies(H: Hamiltonian, energy: float, error: float) -> None:
    """One excitation shared by N atoms: [[0, -sqrt(N) Omega/2], [., -delta]]."""
    for k in (1, 2):
        found = ground_state(H, k)
        assert found.energy == pytest.approx(energy, abs=error)
        assert 0 <= found.energy_error < 2e-8 and 0 <= found.residual < 2e-8


def eliminated(H: Hamiltonian, cut: float, level: int) -> float:
    """E of A + B (E - D)^-1 B^T: configurations above the cut to second order in their flips."""
    matrix = sparse_matrix(H)
    diagonal = matrix.diagonal().real
    low, high = np.flatnonzero(diagonal < cut), np.flatnonzero(diagonal >= cut)
    A, B = matrix[low][:, low].toarray(), matrix[low][:, high]
    energy = np.linalg.eigvalsh(A)[level]
    for _ in range(6):
        folded = B.multiply(1 / (diagonal[high] - energy)) @ B.T
        energy = np.linalg.eigvalsh(A - folded)[level]
    return float(energy)


@pytest.mark.parametrize(
    ("V", "error"), [(1e4, 1e-6), (1e5, 1e-9), (1e6, 1e-10), (1e10, 1e-11), (1e14, 1e-10)]
)
def test_sixteen_atoms_against_elimination(V: float, error: float) -> None:
    H = Rydberg(Square(4, 4), V)
    found = ground_state(H)
    expected = [eliminated(H, min(1e4, V / 10), level) for level in (0, 1)]
    np.testing.assert_allclose(found.energies, expected, atol=error)
    assert found.energy_error < 1e-12
    assert found.state.min() > -1e-30  # Perron-Frobenius, up to what is below all digits
    assert (found.state > 0).sum() > 100


def lowest_of_inverse(H: Hamiltonian, k: int) -> np.ndarray:
    """1 / (E - sigma) from the Cholesky factors of H - sigma, accurate however large H is."""
    matrix = dense_matrix(H)
    diagonal = matrix.diagonal().real
    reach = np.abs(matrix - np.diag(matrix.diagonal())).sum(axis=1).max()
    sigma, one = diagonal.min() - 1.01 * reach - 0.1, np.eye(len(matrix))
    inverse = scipy.linalg.eigh(one, matrix - sigma * one, eigvals_only=True)
    return sigma + 1 / inverse[::-1][:k]


@pytest.mark.parametrize(
    "H",
    [
        *(Rydberg(Square(3, 3), V, delta) for V in (300.0, 3e4, 1e7) for delta in (0.0, 3.0, -2.0)),
        Rydberg(Kagome(1, 3), 1e6, delta=[0.5 * i for i in range(9)], Omega=[1.0, -2.0, 0.3] * 3),
        TransverseFieldIsing(Chain(8), J=[1e6, 1.0] * 3 + [1e6], h=0.7),  # pairs locked together
        *(RandomElements(7, np.random.default_rng(seed)) for seed in range(8)),
    ],
    ids=repr,
)
def test_hundreds_of_configurations_against_the_inverse(H: Hamiltonian) -> None:
    found, expected = ground_state(H, 4), lowest_of_inverse(H, 4)
    np.testing.assert_allclose(found.energies, expected, rtol=1e-9, atol=1e-8)
    assert (np.diff(found.energies) >= 0).all()


def test_degenerate_levels_are_listed_as_often_as_they_are() -> None:
    """Three pairs of close atoms, far from each other: levels -1.366..., -1, ... of each pair."""
    pairs = [[10.0 * i + x, 0.0] for i in range(3) for x in (0.0, 0.01)]
    H = Rydberg(Positions(pairs), 1.0)
    pair = lowest_of_inverse(Rydberg(Positions(pairs[:2]), 1.0), 4)[:3]
    sums = sorted(a + b + c for a in pair for b in pair for c in pair)
    np.testing.assert_allclose(ground_state(H, 8).energies, sums[:8], atol=1e-5)  # 1e-6 / 10^6 r^-6
    np.testing.assert_allclose(ground_state(H, 8).energies, lowest_of_inverse(H, 8), atol=1e-9)


def test_a_number_of_bits_is_kept() -> None:
    """XXZ with Delta = 10^9: the ordered states and single flips of a sector, against mpmath."""
    H = XXZ(Chain(8), 1.0, -1e9, h=[0.3 * i for i in range(8)])
    found = ground_state(H, 3, n_up=1)
    expected = [float(level) for level in levels_of_70_digits(H, 1)[:3]]
    np.testing.assert_allclose(found.energies, expected, rtol=1e-14)


NOTHING_FLIPS = [
    Rydberg(Square(3, 4), 7.0, delta=[0.1 * i for i in range(12)], Omega=0.0),
    Rydberg(Square(2, 2), 1e18, Omega=0.0),
    TransverseFieldIsing(Chain(11), h=0.0),
    PauliSum(10, [(0.3, "Z0 Z1"), (-0.7, "Z4"), (1.1, "")]),
    PauliSum(3, []),
]


@pytest.mark.parametrize("H", NOTHING_FLIPS, ids=repr)
def test_without_flips_the_minimum_of_the_diagonal_exactly(H: Hamiltonian) -> None:
    levels = np.sort(dense_matrix(H).diagonal())
    found = ground_state(H, 5)
    np.testing.assert_array_equal(found.energies, levels[:5])
    assert found.residual == 0.0
    assert found.probabilities().max() == 1.0


def test_a_sector_without_flips() -> None:
    found = ground_state(XXZ(Chain(4), Delta=0.0), k=1, n_up=0)
    assert found.energies.tolist() == [0.0] and found.energy_error == 0.0


def projectors(n: int) -> list[tuple[float, str]]:
    """Sum of (1 - Z X Z) / 2 on a ring: no level below 0, one at 0."""
    ring = [f"Z{(i - 1) % n} X{i} Z{(i + 1) % n}" for i in range(n)]
    return [(0.5 * n, "")] + [(-0.5, string) for string in ring]


@pytest.mark.parametrize(
    "H",
    [
        PauliSum(3, [(1.0, ""), (-0.5, "Z0 Z1"), (-0.5, "Z1 Z2"), (0.5, ""), (-0.5, "X0 X1 X2")]),
        PauliSum(12, projectors(12)),
        PauliSum(
            11, [(10.0, "")] + [(-1.0, f"{p}{i} {p}{i + 1}") for i in range(10) for p in "XYZ"]
        ),
    ],
    ids=repr,
)
def test_an_energy_of_zero(H: Hamiltonian) -> None:
    found = ground_state(H)
    assert abs(found.energy) < 1e-12 and found.energy_error < 1e-12


def test_digits_that_rounding_has_eaten_are_refused() -> None:
    """Strings that cancel to 1e14 times less; elements of both scales that no method separates."""
    atoms = Rydberg(Square(2, 2), 1e14)
    with pytest.raises(
        ArithmeticError, match=r"no digit of E = -1\.6.*residual \|H psi - E psi\| is"
    ):
        ground_state(PauliSum(4, atoms.pauli_terms()))
    bonds = [(1e15, ""), (-1e15, "X0 X1"), (-1.0, "Z0"), (-0.7, "Z1"), (-0.4, "X0")]
    with pytest.raises(ArithmeticError, match="no digit of E") as error:
        ground_state(PauliSum(2, bonds))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    good = PauliSum(4, Rydberg(Square(2, 2), 1e5).pauli_terms())
    exact = ground_state(Rydberg(Square(2, 2), 1e5)).energy
    assert abs(ground_state(good).energy - exact) < 1e-9


def drives(n: int, Omega: float) -> PauliSum:
    """-Omega / 2 sum_i sx_i."""
    return PauliSum(n, [(-Omega / 2, f"X{i}") for i in range(n)])


@pytest.mark.parametrize("n", [3, 12])
def test_flips_whose_squares_vanish_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=r"flips of .* have the size .*change the unit"):
        ground_state(drives(n, 1e-200))
    with pytest.raises(ValueError, match="change the unit of energy"):
        ground_state(drives(n, 1e300))
    tiny = ground_state(drives(n, 1e-100))
    assert tiny.energy == pytest.approx(-n / 2 * 1e-100, rel=1e-12)


@pytest.mark.parametrize("n", [3, 11])
@pytest.mark.parametrize("part", ["levels", "elements"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_elements_that_are_no_numbers_are_refused(n: int, part: str, bad: float) -> None:
    H = RandomElements(n, np.random.default_rng(3))
    getattr(H, part)[1] = bad
    with pytest.raises(ValueError, match="matrix elements that are not finite"):
        ground_state(H)


@pytest.mark.parametrize("lattice", [Square(40, 40), Square(64, 64), Chain(2_000)], ids=str)
def test_absurd_sizes_are_refused_in_one_line(lattice: Square) -> None:
    H = TransverseFieldIsing(lattice)
    assert math.isfinite(memory_needed(H)) and memory_needed(H) > 1e290
    assert math.isfinite(memory_estimate(lattice.n_sites) / 1e9)
    with pytest.raises(ValueError, match=r"sites needs \S+ GB, 8 GB are allowed") as error:
        ground_state(H)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_the_wide_method_needs_more_memory() -> None:
    enough = memory_estimate(12, k=1) / 1e9
    assert ground_state(Rydberg(Square(3, 4), 7.0), 1, max_memory_gb=enough).energy < 0
    with pytest.raises(ValueError, match="12 sites with so wide a diagonal needs"):
        ground_state(Rydberg(Square(3, 4), 1e7), 1, max_memory_gb=enough)


def test_the_residual_of_lanczos_is_reported() -> None:
    for k in (1, 2):
        H = Rydberg(Square(3, 4), 7.0)
        found = ground_state(H, k)
        applied = sparse_matrix(H) @ found.state
        residual = np.linalg.norm(applied - found.energy * found.state)
        assert found.residual == pytest.approx(residual, rel=1e-3)
        assert abs(found.energy + 5.788843854996) <= found.energy_error + 1e-12
        assert found.energy_error < (1e-7 if k == 1 else 1e-13)
