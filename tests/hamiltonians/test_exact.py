"""Exact diagonalisation against quoted energies, closed forms, dense matrices and QuSpin."""

from __future__ import annotations

import math
import time

import kronecker
import numpy as np
import pytest
import torch

from hamiltonians import J1J2, XXZ, Hamiltonian, Heisenberg, PauliSum, Rydberg, TransverseFieldIsing
from hamiltonians.exact import (
    GroundState,
    Product,
    StoredProduct,
    basis,
    dense_matrix,
    ground_state,
    memory_estimate,
    sector_basis,
    sparse_matrix,
)
from hamiltonians.lattices.lattice import Chain, Kagome, Square, Triangular

# Total energies quoted for these systems in the project's table of exact references (exact
# diagonalisation; 3x3 and 4x4 by three and four codes; the chain of 10 also in varbench,
# Wu et al., Science 386, 296 (2024)), with the number of decimals quoted there.
QUOTED = [
    (Rydberg(Square(2, 2), 7.0), -2.13434683, 8),
    (Rydberg(Square(3, 3), 7.0), -4.79590135, 8),
    (Rydberg(Square(3, 4), 7.0), -5.788843854996, 12),
    (Rydberg(Square(4, 4), 7.0), -7.254611338546459, 15),
    (Rydberg(Square(4, 4), 7.0, delta=2.0), -11.725991580, 9),
    (Rydberg(Square(4, 4), 7.0, delta=3.3), -19.681895297274554, 15),
    (Rydberg(Square(4, 4), delta=3.17, Rb=1.15), -23.992352664, 9),
    (Rydberg(Square(4, 4), delta=3.3, Rb=1.7), -14.713981051, 9),
    (TransverseFieldIsing(Square(4, 4), h=1.0), -26.8605046395, 10),
    (TransverseFieldIsing(Square(4, 4), h=2.0), -35.9072576204, 10),
    (TransverseFieldIsing(Square(4, 4), h=3.0), -50.1866238828, 10),
    (TransverseFieldIsing(Square(4, 4, periodic=True), h=3.0), -51.4481291332, 10),
    (TransverseFieldIsing(Chain(10)), -12.381489999654734, 15),
    (TransverseFieldIsing(Chain(16)), -20.0163879005, 10),
]


def heisenberg(bonds: list[tuple[int, int]], n_sites: int) -> PauliSum:
    """sum over bonds of sigma . sigma: elements that depend on the configuration."""
    return PauliSum(n_sites, [(1.0, {i: p, j: p}) for i, j in bonds for p in "XYZ"])


def random_chiral_sum(n_sites: int, seed: int) -> PauliSum:
    """Complex: strings of X, Y, Z on up to 4 sites with random real coefficients."""
    rng = np.random.default_rng(seed)
    terms: list[tuple[complex, dict[int, str]]] = []
    for _ in range(20):
        sites = rng.choice(n_sites, size=rng.integers(1, 5), replace=False)
        terms.append((rng.normal(), {int(i): str(rng.choice(list("XYZ"))) for i in sites}))
    return PauliSum(n_sites, terms)


@pytest.mark.parametrize(("H", "energy", "decimals"), QUOTED, ids=lambda value: str(value)[:70])
def test_quoted_energies(H: Hamiltonian, energy: float, decimals: int) -> None:
    """Within 1e-9 relative, or half a unit of the last quoted digit where that is coarser."""
    found = ground_state(H).energy
    assert abs(found - energy) <= max(1e-9 * abs(energy), 0.51 * 10.0**-decimals)
    if decimals == 15:
        assert found == pytest.approx(energy, rel=1e-12)


@pytest.mark.slow
def test_twenty_sites_within_a_minute() -> None:
    start = time.perf_counter()
    result = ground_state(Rydberg(Square(4, 5), 7.0))
    assert result.energy == pytest.approx(-8.949176467352222, rel=1e-12)
    assert time.perf_counter() - start < 60


@pytest.mark.parametrize("n", [4, 8, 12])
def test_periodic_critical_chain_is_free_fermions(n: int) -> None:
    """E = -sum_k sqrt(2 + 2 cos k), k = (2 m + 1) pi / n, is -2 / sin(pi / 2n) (Pfeuty 1970)."""
    momenta = (2 * np.arange(n) + 1) * math.pi / n
    fermions = -np.sqrt(2 + 2 * np.cos(momenta)).sum()
    assert fermions == pytest.approx(-2 / math.sin(math.pi / (2 * n)), rel=1e-12)
    found = ground_state(TransverseFieldIsing(Chain(n, periodic=True))).energy
    assert found == pytest.approx(fermions, rel=1e-11)


FAST_AND_GENERAL = [
    Rydberg(
        Square(2, 5), 7.0, delta=[0.1 * i for i in range(10)], Omega=[1 + i for i in range(10)]
    ),
    TransverseFieldIsing(Triangular(2, 5, periodic=(False, True)), J=-1.0, h=0.7),
    PauliSum(10, [(0.3, "X0 X1"), (-0.7, "X2 X3 X4 X9"), (1.1, "X0 X5 X6 X7"), (0.4, "Z1 Z8")]),
    PauliSum(10, [(-1.0, "XXXXXXXXXX"), (0.2, "X3"), (1.0, "ZIIIIIIIIZ"), (0.5, "")]),
    heisenberg([(i, (i + 1) % 10) for i in range(10)], 10),
    random_chiral_sum(10, seed=5),
]


WIDE = [
    Rydberg(Square(2, 5), 1e7, Omega=-1.0),
    PauliSum(10, [(1e5, "Z0 Z1"), (2e4, "Z3 Z4 Z8"), *random_chiral_sum(10, 5).pauli_terms()]),
]


@pytest.mark.parametrize("H", FAST_AND_GENERAL, ids=lambda H: H.describe()[:50])
@pytest.mark.parametrize("kind", [Product, StoredProduct])
def test_product_is_the_matrix(H: Hamiltonian, kind: type[Product] | type[StoredProduct]) -> None:
    matrix = dense_matrix(H)
    psi = np.random.default_rng(1).standard_normal(len(matrix)).astype(matrix.dtype)
    if H.is_complex:
        psi = psi * np.exp(1j * np.arange(len(psi)))
    product = kind(H)(torch.from_numpy(psi))
    np.testing.assert_allclose(product, matrix @ psi, atol=1e-11)


@pytest.mark.parametrize("H", [FAST_AND_GENERAL[0], FAST_AND_GENERAL[-1], *WIDE], ids=repr)
def test_without_room_for_the_matrix(H: Hamiltonian) -> None:
    """As it is off the CPU, where no matrix is stored."""
    found, again = ground_state(H, 2), ground_state(H, 2, device="cpu", max_memory_gb=2e-4)
    np.testing.assert_allclose(again.energies, found.energies, rtol=1e-10)
    residual = dense_matrix(H) @ again.state - found.energy * again.state
    assert np.linalg.norm(residual) < 1e-7 * abs(found.energy)


@pytest.mark.gpu
@pytest.mark.parametrize("H", [*FAST_AND_GENERAL, *WIDE], ids=lambda H: H.describe()[:50])
def test_vectors_on_a_gpu(H: Hamiltonian) -> None:
    found, here = ground_state(H, 2, device="cuda"), ground_state(H, 2)
    np.testing.assert_allclose(found.energies, here.energies, rtol=1e-10)
    residual = dense_matrix(H) @ found.state - here.energy * found.state
    assert np.linalg.norm(residual) < 1e-7 * abs(here.energy)


@pytest.mark.parametrize("H", FAST_AND_GENERAL, ids=lambda H: H.describe()[:50])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_lanczos_is_the_dense_solver(H: Hamiltonian, k: int) -> None:
    levels = np.linalg.eigvalsh(dense_matrix(H))
    found = ground_state(H, k)
    np.testing.assert_allclose(found.energies, levels[:k], rtol=1e-11)
    residual = dense_matrix(H) @ found.state - found.energy * found.state
    assert np.linalg.norm(found.state) == pytest.approx(1.0, abs=1e-12)
    assert np.linalg.norm(residual) < 1e-6 * abs(found.energy)


@pytest.mark.parametrize(
    "H",
    [
        Heisenberg(Chain(10, periodic=True), J=-1.0),  # the ferromagnet: 11 states
        TransverseFieldIsing(Chain(10), h=0.0),  # all up and all down, no flips at all
        PauliSum(10, [(1.0, f"Z{i}") for i in range(3)]),  # 2^7 states
        Heisenberg(Triangular(2, 5, periodic=True)),
        J1J2(Chain(10, periodic=True), 1.0, 0.5, marshall=True),  # Majumdar-Ghosh: two dimer states
    ],
    ids=repr,
)
def test_degenerate_levels_are_listed_as_often_as_they_are(H: Hamiltonian) -> None:
    levels = np.linalg.eigvalsh(dense_matrix(H))
    np.testing.assert_allclose(ground_state(H, 2).energies, levels[:2], atol=1e-9)
    np.testing.assert_allclose(ground_state(H, 12).energies, levels[:12], atol=1e-9)


# Total energies in Pauli units. Rings: exact diagonalisation (n = 10: -0.4515446 n in spins 1/2).
# 4x4 torus, per site in spins 1/2: -0.7017802 at J2 = 0, -0.5286202 at J2 = 0.5.
SECTORS = [
    (Heisenberg(Chain(10, periodic=True), marshall=True), -0.4515446 * 40, 1e-5),
    (Heisenberg(Chain(20, periodic=True)), -35.61755, 1e-5),
    (J1J2(Square(4, 4, periodic=True), 1.0, 0.0), -0.7017802 * 64, 1e-5),
    (J1J2(Square(4, 4, periodic=True), 1.0, 0.5), -33.83169, 1e-5),
    (J1J2(Square(4, 4, periodic=True), 1.0, 0.5, marshall=True), -33.83169, 1e-5),
    (J1J2(Chain(12, periodic=True), 1.0, 0.5), -3 * 6, 1e-9),  # Majumdar-Ghosh: -3 a dimer
]


@pytest.mark.parametrize(("H", "energy", "error"), SECTORS, ids=lambda value: str(value)[:60])
def test_quoted_energies_without_magnetisation(H: Hamiltonian, energy: float, error: float) -> None:
    found = ground_state(H, k=1, n_up=H.n_sites // 2)
    assert found.energy == pytest.approx(energy, abs=error)


CONSERVING = [
    XXZ(Kagome(1, 2), 1.0, 0.3, h=[0.1 * i for i in range(6)]),
    XXZ(Chain(12, periodic=True), 1.0, 2.0, h=0.3),
    J1J2(Square(3, 4), 1.0, 0.4, marshall=True),
    PauliSum(5, [(0.7, "XYZII"), (-0.7, "YXZII"), (0.3, "IIXIX"), (0.3, "IIYIY"), (1.0, "ZIIII")]),
]


@pytest.mark.parametrize("H", CONSERVING, ids=repr)
def test_sectors_make_up_the_whole(H: Hamiltonian) -> None:
    """Each sector is a block of the matrix, in the order of its numbers."""
    full, ones = dense_matrix(H), basis(H.n_sites).sum(dim=1)
    np.testing.assert_allclose(sparse_matrix(H).toarray(), full, atol=1e-12)
    for n_up in range(H.n_sites + 1):
        numbers = (ones == n_up).nonzero()[:, 0]  # (D,)
        assert torch.equal(sector_basis(H.n_sites, n_up), numbers)
        block = full[np.ix_(numbers, numbers)]
        np.testing.assert_allclose(sparse_matrix(H, n_up).toarray(), block, atol=1e-12)
        k = min(3, len(numbers))
        found = ground_state(H, k, n_up=n_up)
        levels = np.linalg.eigvalsh(block)
        np.testing.assert_allclose(found.energies, levels[:k], atol=1e-9)
        assert found.n_up == n_up and found.state.shape == (len(numbers),)


@pytest.mark.parametrize("H", CONSERVING, ids=repr)
def test_product_within_a_sector_without_the_matrix(H: Hamiltonian) -> None:
    n_up = H.n_sites // 2
    psi = torch.randn(len(sector_basis(H.n_sites, n_up)), dtype=Product(H).dtype)
    np.testing.assert_allclose(Product(H, n_up)(psi), StoredProduct(H, n_up)(psi), atol=1e-12)


def test_observables_in_a_sector() -> None:
    H, n_up = XXZ(Square(2, 3), 1.0, 0.7, h=[0.5, 0.1, 0, 0, 0, -0.2]), 2
    result = ground_state(H, n_up=n_up)
    psi = np.zeros(2**6)
    psi[sector_basis(6, n_up)] = result.state
    whole = GroundState(6, result.energies, psi)
    assert result.density().sum() == pytest.approx(n_up, abs=1e-12)
    for name in ("density", "sigma_z", "sigma_x", "correlation", "magnetization"):
        expected = getattr(whole, name)()
        np.testing.assert_allclose(getattr(result, name)(), expected, atol=1e-12)


def test_sectors_of_many_sites_and_of_none() -> None:
    """One magnon on a ring of 40: -4 J (1 - cos q) above the ferromagnet; none: one state."""
    H = Heisenberg(Chain(40, periodic=True), J=-1.0)
    magnon = ground_state(H, n_up=1)
    gap = 4 * (1 - math.cos(2 * math.pi / 40))
    np.testing.assert_allclose(magnon.energies, [-40, -40 + gap], atol=1e-9)
    assert ground_state(H, k=1, n_up=0).energies == pytest.approx([-40.0])


@pytest.mark.parametrize(
    ("H", "options", "message"),
    [
        (Heisenberg(Chain(4)), {"n_up": 5}, r"n_up is 5; it must be a whole number in 0\.\.4"),
        (Heisenberg(Chain(4)), {"n_up": -1}, "n_up is -1"),
        (Heisenberg(Chain(4)), {"n_up": 1.5}, "n_up is 1.5"),
        (Heisenberg(Chain(4)), {"n_up": 0}, "k is 2, but .* has 1 levels with 0 up"),
        (Heisenberg(Chain(70)), {"n_up": 1}, "70 sites; with n_up at most 62"),
        (Heisenberg(Chain(40)), {"n_up": 20}, r"40 sites with 20 up needs \S+ GB, 8 GB are allow"),
        (TransverseFieldIsing(Chain(4)), {"n_up": 2}, "n_up is 2, but Transverse.* not conserve"),
        (Rydberg(Chain(4), 1.0), {"n_up": 2}, "does not conserve the number of 1 bits"),
        (PauliSum(2, [(1.0, "XX"), (0.9, "YY")]), {"n_up": 1}, "does not conserve"),
    ],
)
def test_bad_sectors(H: Hamiltonian, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ground_state(H, **options)
    assert "\n" not in str(error.value)


def test_nearly_degenerate_ordered_phase() -> None:
    """Chain of 10 deep in the ferromagnet: the gap is about h^10, far below the levels above."""
    H = TransverseFieldIsing(Chain(10), h=0.2)
    levels = np.linalg.eigvalsh(dense_matrix(H))
    found = ground_state(H)
    np.testing.assert_allclose(found.energies, levels[:2], rtol=1e-12)
    assert 0 < found.gap < 1e-6


def test_results_repeat_and_sign_is_fixed() -> None:
    H = Rydberg(Square(3, 4), 7.0)
    first, second = ground_state(H), ground_state(H)
    np.testing.assert_array_equal(first.state, second.state)
    assert first.state.max() == np.abs(first.state).max()
    assert first.state.min() > 0  # Perron-Frobenius
    with pytest.raises(AssertionError):  # another start gives other rounding
        np.testing.assert_array_equal(first.state, ground_state(H, seed=1).state)


def operator_average(state: np.ndarray, matrix: np.ndarray) -> float:
    return float(np.vdot(state, matrix @ state).real)


@pytest.mark.parametrize("H", [Rydberg(Square(2, 3), 7.0, delta=2.0), random_chiral_sum(6, seed=2)])
def test_observables_are_expectation_values_of_matrices(H: Hamiltonian) -> None:
    result = ground_state(H)
    psi, n = result.state, H.n_sites
    z = [kronecker.string(n, {i: "Z"}) for i in range(n)]
    for i in range(n):
        x = kronecker.string(n, {i: "X"})
        assert result.sigma_x()[i] == pytest.approx(operator_average(psi, x), abs=1e-12)
        assert result.sigma_z()[i] == pytest.approx(operator_average(psi, z[i]), abs=1e-12)
        number = kronecker.number(n, i)
        assert result.density()[i] == pytest.approx(operator_average(psi, number), abs=1e-12)
        for j in range(n):
            expected = operator_average(psi, z[i] @ z[j])
            assert result.correlation()[i, j] == pytest.approx(expected, abs=1e-12)
            both = operator_average(psi, kronecker.number(n, i) @ kronecker.number(n, j))
            assert result.density_density()[i, j] == pytest.approx(both, abs=1e-12)
    assert result.probabilities().sum() == pytest.approx(1.0, abs=1e-12)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    order = np.abs(np.diag(sum(s * m for s, m in zip(signs.tolist(), z, strict=True)))) / n
    assert result.magnetization(signs) == pytest.approx(result.probabilities() @ order, abs=1e-12)


@pytest.mark.parametrize(
    "H",
    [
        Rydberg(Square(2, 3), 7.0, delta=2.0, Omega=[1, -1, 0.5, -2, 1, -1]),
        TransverseFieldIsing(Chain(6), h=[-1.0, 0.5, -0.3, -1.1, 1.0, 0.2]),
        PauliSum(4, [(0.7, f"X{i}") for i in range(3)] + [(-1.0, "Z0 Z1"), (0.2, "X3 Z2")]),
        J1J2(Chain(5), 1.0, 0.3, marshall=True),
    ],
    ids=repr,
)
def test_sigma_x_is_that_of_the_hamiltonian_that_was_asked_for(H: Hamiltonian) -> None:
    """Against the matrix of its Pauli strings, which knows no rotation."""
    assert H.rotated.any()
    matrix = kronecker.pauli_sum(H.n_sites, H.pauli_terms())
    levels, vectors = np.linalg.eigh(matrix)
    found = ground_state(H)
    np.testing.assert_allclose(found.energies, levels[:2], atol=1e-11)
    if levels[1] - levels[0] < 1e-9:
        return  # any state of the level
    for i in range(H.n_sites):
        x = operator_average(vectors[:, 0], kronecker.string(H.n_sites, {i: "X"}))
        assert found.sigma_x()[i] == pytest.approx(x, abs=1e-10)
    density = np.abs(vectors[:, 0]) ** 2 @ basis(H.n_sites).double().numpy()
    np.testing.assert_allclose(found.density(), density, atol=1e-10)


def test_observables_of_a_known_state() -> None:
    """Two sites in |01>: amplitude number 1, site 1 excited."""
    state = GroundState(2, np.array([0.0]), np.array([0.0, 1.0, 0.0, 0.0]))
    assert state.density().tolist() == [0.0, 1.0]
    assert state.magnetization() == 0.0
    assert state.magnetization(torch.tensor([1.0, -1.0])) == 1.0
    assert math.isnan(state.gap)


def test_basis_order() -> None:
    assert basis(3)[4].tolist() == [True, False, False]  # site 0 is the most significant bit
    assert torch.equal(basis(5)[3:9], basis(5, 3, 9))


def test_single_site() -> None:
    """-h sx: levels -h and h."""
    result = ground_state(TransverseFieldIsing(Chain(1), h=0.5))
    np.testing.assert_allclose(result.energies, [-0.5, 0.5])


def test_memory_is_refused_before_any_work() -> None:
    H = Rydberg(Chain(40), 1.0)
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"of 40 sites needs \S+ GB, 8 GB are allowed") as error:
        ground_state(H)
    assert time.perf_counter() - start < 1 and "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"of 20 sites needs .* 0.01 GB are allowed"):
        ground_state(Rydberg(Chain(20), 1.0), max_memory_gb=0.01)
    assert memory_estimate(24) < 8e9 < memory_estimate(27)
    assert memory_estimate(21) == 2 * memory_estimate(20)


def test_bad_requests() -> None:
    H = Rydberg(Chain(2), 1.0)
    with pytest.raises(ValueError, match="k is 0"):
        ground_state(H, 0)
    with pytest.raises(ValueError, match=r"k is 5, but .* has 4 levels"):
        ground_state(H, 5)
    with pytest.raises(ValueError, match="15 sites; at most 14"):
        dense_matrix(Rydberg(Chain(15), 1.0))


def test_spectrum_of_quspin() -> None:
    """QuSpin's static lists for a Rydberg ladder and an Ising chain: all 2^6 levels."""
    pytest.importorskip("quspin")
    from quspin.basis import spin_basis_1d
    from quspin.operators import hamiltonian

    lattice, V, delta, Omega = Square(2, 3), 7.0, 1.3, 0.8
    sites = lattice.positions.numpy()
    pairs = [(i, j) for i in range(6) for j in range(i)]
    weights = [V / np.linalg.norm(sites[i] - sites[j]) ** 6 for i, j in pairs]
    # n = 1/2 - S^z with QuSpin's spins 1/2: n_i n_j = 1/4 - (S_i + S_j) / 2 + S_i S_j
    static = [
        ["x", [[-Omega, i] for i in range(6)]],
        ["z", [[delta, i] for i in range(6)]],
        ["z", [[-w / 2, i] for w, pair in zip(weights, pairs, strict=True) for i in pair]],
        ["zz", [[w, i, j] for w, (i, j) in zip(weights, pairs, strict=True)]],
    ]
    checks = {"check_symm": False, "check_herm": False, "check_pcon": False}
    spins = spin_basis_1d(6, pauli=0)
    matrix = hamiltonian(static, [], basis=spins, dtype=np.float64, **checks).toarray()
    constant = sum(weights) / 4 - 6 * delta / 2
    ours = np.linalg.eigvalsh(dense_matrix(Rydberg(lattice, V, delta, Omega)))
    np.testing.assert_allclose(ours, np.linalg.eigvalsh(matrix) + constant, atol=1e-11)

    static = [
        ["x", [[-0.7, i] for i in range(6)]],
        ["zz", [[-1.1, i, (i + 1) % 6] for i in range(6)]],
    ]
    paulis = spin_basis_1d(6, pauli=1)
    matrix = hamiltonian(static, [], basis=paulis, dtype=np.float64, **checks).toarray()
    ring = TransverseFieldIsing(Chain(6, periodic=True), J=1.1, h=0.7)
    ours = np.linalg.eigvalsh(dense_matrix(ring))
    np.testing.assert_allclose(ours, np.linalg.eigvalsh(matrix), atol=1e-11)


def test_a_result_says_what_it_is_in_one_line() -> None:
    chain = ground_state(TransverseFieldIsing(Chain(4)))
    assert repr(chain) == f"GroundState(4 sites, E = {chain.energy:.12g} (error below " + (
        f"{chain.energy_error:.1g}), gap {chain.gap:.6g})"
    )
    assert "4 sites, 2 up, E = -" in repr(ground_state(Heisenberg(Chain(4)), 1, n_up=2))
    assert "gap" not in repr(ground_state(Heisenberg(Chain(4)), 1, n_up=2))
