"""Laws every Hamiltonian obeys, on random couplings and lattices, against Kronecker products."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import kronecker
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hamiltonians import J1J2, XXZ, Hamiltonian, Heisenberg, PauliSum, Rydberg, TransverseFieldIsing
from hamiltonians.exact import basis, dense_matrix
from hamiltonians.invariance import symmetry_test
from hamiltonians.lattices.lattice import (
    Chain,
    Honeycomb,
    Kagome,
    Lattice,
    Positions,
    Square,
    Triangular,
)

LATTICES: list[Lattice] = [
    Chain(1),
    Chain(2),
    Chain(5),
    Square(2, 3),
    Square(3, 2),
    Triangular(2, 2),
    Honeycomb(1, 2),
    Kagome(1, 2),
    Positions([[0.0, 0.3, 0.1], [1.2, -0.4, 0.9], [2.0, 0.9, 1.7], [0.1, 2.2, -1.0]]),
]

couplings = st.floats(-3, 3).map(lambda x: round(x, 3))


@dataclass
class System:
    hamiltonian: Hamiltonian
    matrix: kronecker.Matrix


@st.composite
def rydbergs(draw: st.DrawFn) -> System:
    lattice = draw(st.sampled_from(LATTICES))
    per_site = st.lists(couplings, min_size=lattice.n_sites, max_size=lattice.n_sites)
    V, delta, Omega = draw(couplings), draw(per_site), draw(per_site)
    matrix = kronecker.rydberg(lattice.positions.numpy(), V, delta, Omega)
    return System(Rydberg(lattice, V, delta, Omega), matrix)


@st.composite
def isings(draw: st.DrawFn) -> System:
    lattice = draw(st.sampled_from(LATTICES))
    bonds = lattice.bonds().tolist()
    J = draw(st.lists(couplings, min_size=len(bonds), max_size=len(bonds)))
    h = draw(st.lists(couplings, min_size=lattice.n_sites, max_size=lattice.n_sites))
    matrix = kronecker.ising(lattice.n_sites, bonds, J, h)
    return System(TransverseFieldIsing(lattice, J, h), matrix)


@st.composite
def pauli_sums(draw: st.DrawFn) -> System:
    n = draw(st.integers(1, 5))
    strings = st.dictionaries(st.integers(0, n - 1), st.sampled_from("IXYZ"))
    terms = draw(st.lists(st.tuples(couplings, strings), max_size=12))
    return System(PauliSum(n, terms), kronecker.pauli_sum(n, terms))


@st.composite
def exchanges(draw: st.DrawFn) -> System:
    """XXZ, plain or rotated."""
    lattice = draw(st.sampled_from([*LATTICES, *RINGS]))
    n, bonds = lattice.n_sites, lattice.bonds().tolist()
    J, Delta = (draw(st.lists(couplings, min_size=len(bonds), max_size=len(bonds))) for _ in "12")
    h = draw(st.lists(couplings, min_size=n, max_size=n))
    matrix = kronecker.exchange(n, bonds, J, [a * b for a, b in zip(J, Delta, strict=True)], h)
    rules = [False, "auto"] if lattice.bipartition() is None else [True, False, "auto"]
    return System(XXZ(lattice, J, Delta, h, marshall=draw(st.sampled_from(rules))), matrix)


@st.composite
def two_shells(draw: st.DrawFn) -> System:
    """J1-J2 on lattices with a second distance."""
    lattice = draw(st.sampled_from([lattice for lattice in [*LATTICES, *RINGS] if far(lattice)]))
    J1, J2 = draw(couplings), draw(couplings)
    bonds = [(1, bond) for bond in lattice.bonds().tolist()]
    bonds += [(2, bond) for bond in lattice.bonds(2).tolist()]
    J = [J1 if order == 1 else J2 for order, _ in bonds]
    matrix = kronecker.exchange(
        lattice.n_sites, [bond for _, bond in bonds], J, J, [0.0] * lattice.n_sites
    )
    marshall = draw(st.booleans()) and lattice.bipartition() is not None
    return System(J1J2(lattice, J1, J2, marshall=marshall), matrix)


@st.composite
def conserving_sums(draw: st.DrawFn) -> System:
    """XX + YY or XY - YX on pairs, with Z elsewhere, written as Pauli strings."""
    n = draw(st.integers(2, 5))
    terms: list[tuple[float, dict[int, str]]] = []
    for _ in range(draw(st.integers(0, 4))):
        i, j = draw(st.lists(st.integers(0, n - 1), min_size=2, max_size=2, unique=True))
        tail = {k: "Z" for k in range(n) if k not in (i, j) and draw(st.booleans())}
        c = draw(couplings)
        letters = draw(st.sampled_from([("XX", 1, "YY"), ("XY", -1, "YX")]))
        first, sign, second = letters
        terms.append((c, {i: first[0], j: first[1]} | tail))
        terms.append((sign * c, {i: second[0], j: second[1]} | tail))
    return System(PauliSum(n, terms), kronecker.pauli_sum(n, terms))


def turned(matrix: kronecker.Matrix, sites: list[bool]) -> kronecker.Matrix:
    """U H U with U = prod sz_i over the sites."""
    U = kronecker.string(len(sites), {i: "Z" for i, site in enumerate(sites) if site})
    return U @ matrix @ U


def is_stoquastic(matrix: kronecker.Matrix) -> bool:
    off_diagonal = matrix - np.diag(np.diag(matrix))
    return bool(off_diagonal.real.max() <= 1e-11 and np.abs(off_diagonal.imag).max() <= 1e-11)


def far(lattice: Lattice) -> bool:
    """Whether there is a second distance."""
    distances = lattice.distances()
    return (
        bool((distances > distances[distances > 0].min() * 1.001).any())
        if distances.any()
        else True
    )


RINGS: list[Lattice] = [
    Chain(2, periodic=True),
    Chain(4, periodic=True),
    Chain(5, periodic=True),
    Square(2, 2, periodic=True),
    Square(3, 2, (False, True)),
    Triangular(2, 3, periodic=True),
    Honeycomb(1, 3, periodic=True),
    Kagome(1, 2, periodic=True),
    Positions([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0], [6.0, 0.0]]),  # two separate pairs
]

systems = st.one_of(
    rydbergs(), isings(), pauli_sums(), exchanges(), two_shells(), conserving_sums()
)


@given(systems)
@settings(max_examples=150, deadline=None)
def test_matrix_elements_are_those_of_the_formula(system: System) -> None:
    """Rotated by the matrix U of the sites it names."""
    H = system.hamiltonian
    matrix, expected = dense_matrix(H), turned(system.matrix, H.rotated.tolist())
    scale = max(1.0, float(np.abs(system.matrix).max()))
    np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-12 * scale)
    np.testing.assert_array_equal(matrix, matrix.conj().T)
    assert H.x_signs.tolist() == [-1.0 if site else 1.0 for site in H.rotated]


@given(systems)
@settings(max_examples=150, deadline=None)
def test_it_is_stoquastic_wherever_some_rotation_makes_it_so(system: System) -> None:
    """All 2^N sets of sites are tried; a sign rule that was chosen stands."""
    H, matrix = system.hamiltonian, system.matrix
    assert H.is_stoquastic == is_stoquastic(dense_matrix(H))
    if not hasattr(H, "bonds") or isinstance(H, TransverseFieldIsing):  # no sign rule to choose
        sets = itertools.product([False, True], repeat=H.n_sites)
        assert H.is_stoquastic == any(is_stoquastic(turned(matrix, list(A))) for A in sets)


@given(systems)
@settings(max_examples=60, deadline=None)
def test_a_rotation_keeps_every_symmetry_and_what_has_no_sign(system: System) -> None:
    """Patterns of PauliSum with elements of both signs, or complex ones, are left alone."""
    H, matrix = system.hamiltonian, system.matrix
    if not isinstance(H, PauliSum):
        return
    rows = np.arange(2**H.n_sites)
    for flip in H.flips.tolist():
        mask = sum(2 ** (H.n_sites - 1 - i) for i, x in enumerate(flip) if x)
        given, found = matrix[rows, rows ^ mask], dense_matrix(H)[rows, rows ^ mask]
        mixed = given.real.max() > 1e-9 and given.real.min() < -1e-9
        if mixed or np.abs(given.imag).max() > 1e-9:
            np.testing.assert_allclose(found, given, atol=1e-11)
        elif H.rotated.any():
            assert found.real.max() <= 1e-11
    for row in itertools.permutations(range(H.n_sites)):
        moved = numbers(basis(H.n_sites)[:, list(row)])
        if np.allclose(matrix[np.ix_(moved, moved)], matrix, atol=1e-13):
            assert symmetry_test(H)(torch.tensor(row), False)


def numbers(configs: torch.Tensor) -> np.ndarray:
    places = torch.arange(configs.shape[1] - 1, -1, -1)
    return (configs.to(torch.int64) << places).sum(1).numpy()


@given(systems)
@settings(max_examples=100, deadline=None)
def test_flips_dtypes_and_shapes(system: System) -> None:
    H = system.hamiltonian
    configs = basis(H.n_sites)[:7]
    assert H.flips.dtype == torch.bool and H.flips.shape[1] == H.n_sites
    assert H.flips.any(dim=1).all(), "an empty flip pattern belongs into the diagonal"
    assert len({tuple(row) for row in H.flips.tolist()}) == len(H.flips)
    assert H.diagonal(configs).shape == (len(configs),)
    assert H.diagonal(configs).dtype == torch.float64
    assert H.off_diagonal(configs).shape == (len(configs), len(H.flips))
    expected = torch.complex128 if H.is_complex else torch.float64
    assert H.off_diagonal(configs).dtype == expected
    assert H.off_diagonal(configs[:0]).shape == (0, len(H.flips))
    assert len(H.describe().splitlines()) == 1 and repr(H) == H.describe()


@given(systems)
@settings(max_examples=100, deadline=None)
def test_scalar_properties_are_those_of_the_matrix(system: System) -> None:
    H, matrix = system.hamiltonian, system.matrix
    trace = np.trace(matrix).real / len(matrix)
    assert H.infinite_temperature_energy == pytest.approx(trace, abs=1e-11)
    assert H.is_complex == bool(np.abs(matrix.imag).max() > 1e-13)


@given(systems)
@settings(max_examples=150, deadline=None)
def test_magnetisation_is_conserved_where_the_matrix_says_so(system: System) -> None:
    ones = basis(system.hamiltonian.n_sites).sum(dim=1).numpy()
    changing = np.abs(system.matrix[ones[:, None] != ones]).max(initial=0.0)
    assert system.hamiltonian.conserves_magnetisation == bool(changing < 1e-11)


@given(systems)
@settings(max_examples=60, deadline=None)
def test_the_pauli_form_is_the_same_hamiltonian(system: System) -> None:
    """The one that was asked for, whatever is rotated."""
    H = system.hamiltonian
    matrix = kronecker.pauli_sum(H.n_sites, H.pauli_terms())
    np.testing.assert_allclose(matrix, system.matrix, rtol=0, atol=1e-10)


@given(systems)
@settings(max_examples=60, deadline=None)
def test_constant_elements_are_the_elements(system: System) -> None:
    H = system.hamiltonian
    configs = basis(H.n_sites)
    elements = H.off_diagonal(configs)
    if H.constant_off_diagonal is not None:
        assert (elements == H.constant_off_diagonal).all()
    elif len(H.flips):
        strings_of_a_pattern = len(H.pauli_terms())
        assert strings_of_a_pattern > 0 and not (elements == elements[0]).all()


@pytest.mark.parametrize(
    "H",
    [
        Rydberg(Square(2, 2), 7.0),
        TransverseFieldIsing(Chain(3)),
        Heisenberg(Chain(3), marshall=True),
        PauliSum(3, [(1.0, "ZZI"), (0.5, "XYY")]),
    ],
    ids=repr,
)
def test_to_moves_every_tensor_and_leaves_the_original(H: Hamiltonian) -> None:
    moved = H.to("meta")
    assert type(moved) is type(H)
    assert moved.diagonal(basis(H.n_sites).to("meta")).device.type == "meta"
    assert moved.off_diagonal(basis(H.n_sites).to("meta")).device.type == "meta"
    assert H.diagonal(basis(H.n_sites)).device.type == "cpu"


def test_sites_without_drive_have_no_flip_pattern() -> None:
    flips = Rydberg(Chain(3), 1.0, 0.0, [1.0, 0.0, 2.0]).flips
    assert flips.tolist() == [[True, False, False], [False, False, True]]
    assert TransverseFieldIsing(Chain(3), 1.0, [0.0, 0.0, 2.0]).flips.tolist() == [
        [False, False, True]
    ]


def test_rydberg_conventions() -> None:
    """One pair at distance 2: V / 2^6 for both excited, -delta for one, blockade V = Omega Rb^6."""
    pair = Positions([[0.0, 0.0], [2.0, 0.0]])
    energies = Rydberg(pair, V=64.0, delta=[3.0, 5.0]).diagonal(basis(2))
    assert energies.tolist() == [0.0, -5.0, -3.0, -7.0]
    assert pytest.approx(2 * 1.5**6) == Rydberg(pair, delta=1.0, Omega=2.0, Rb=1.5).V
    physical = Rydberg.from_physical([[0.0, 0.0], [5.0, 0.0]], C6=5_420_158.53, Omega=15, delta=20)
    assert physical.interactions[0, 1].item() == pytest.approx(5_420_158.53 / 5**6, rel=1e-14)


def test_rydberg_cutoff_and_periodic_images() -> None:
    """The cut-off keeps r = 2 and drops r = sqrt 5; a ring uses the short way round."""
    lattice = Square(3, 3)
    kept = Rydberg(lattice, 1.0, cutoff=2.0).interactions > 0
    torch.testing.assert_close(kept, (lattice.distances() < 2.1) & (lattice.distances() > 0))
    ring = Rydberg(Chain(5, periodic=True), 1.0).interactions
    assert ring[0, 4].item() == 1.0 and ring[0, 3].item() == pytest.approx(1 / 2**6)


@pytest.mark.parametrize(
    ("H", "rotated"),
    [
        (Rydberg(Chain(3), 1.0, Omega=[1.0, -1.0, 1.0]), [1]),
        (TransverseFieldIsing(Chain(3), h=-1.0), [0, 1, 2]),
        (XXZ(Chain(4), [1.0, -1.0, 1.0], marshall="auto"), [1, 2]),
        (XXZ(Triangular(2, 2), [1.0, -1.0, -1.0, 1.0, 1.0], marshall="auto"), []),
        (PauliSum(3, [(0.5, "X0"), (0.7, "Z0 Z1"), (-1.0, "X2"), (0.2, "X0 X1 X2")]), [0]),
        (PauliSum(3, [(0.5, "X0"), (0.7, "X1"), (1.0, "X0 X1")]), []),  # cannot be
        (PauliSum(3, [(0.5, "X0"), (0.7, "X0 Z1"), (1.0, "X2")]), [2]),  # -0.2..1.2: left alone
        (PauliSum(3, [(0.5, "X0"), (0.4, "X0 Z1")]), [0]),  # 0.1..0.9
        (PauliSum(2, [(0.5, "X0"), (0.4, "Y0"), (1.0, "X1")]), [1]),  # complex: left alone
        (PauliSum(4, [(1.0, {i: p, i + 1: p}) for i in range(3) for p in "XYZ"]), [1, 3]),
        (PauliSum(3, [(1.0, {i: p, j: p}) for i, j in ((0, 1), (1, 2), (0, 2)) for p in "XY"]), []),
    ],
)
def test_the_rotated_sites(H: Hamiltonian, rotated: list[int]) -> None:
    assert H.rotated.nonzero()[:, 0].tolist() == rotated
    assert H.to("meta").x_signs.device.type == "meta"


def test_rotations_of_many_sites_are_quick() -> None:
    """Elimination, not enumeration: 4608 equations for 2304 sites; odd loops have no solution."""
    signs = torch.where(torch.arange(2 * 48**2) % 3 == 0, -1.0, 1.0).double()
    H = XXZ(Square(48, 48, True), signs, marshall="auto")
    assert H.n_sites == 2304 and len(H.flips) == 4608
    odd = XXZ(Square(47, 47, True), marshall="auto")
    assert not odd.rotated.any() and not odd.is_stoquastic
