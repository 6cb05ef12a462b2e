"""Every observable against enumeration of the state, with error bars that mean what they say.

States of five systems: a ring of Ising spins, square and kagome arrays of Rydberg atoms, a complex
state of a scattered array, and a network of fixed magnetisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from scipy.stats import chi2
from states import ComplexTable, amplitudes, exact_table, network, random_table
from torch import Tensor
from torch.testing import assert_close

from hamiltonians import XXZ, Heisenberg, Rydberg, TransverseFieldIsing
from hamiltonians.exact import basis
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import (
    Chain,
    Honeycomb,
    Kagome,
    Lattice,
    Positions,
    Square,
    Triangular,
)
from nqs.core.recurrent import Recurrent
from nqs.vmc.evaluation import Evaluation, evaluate
from nqs.vmc.observables import Request, expectations, owner, sigma_x
from nqs.vmc.observables.momenta import momentum_grid, ordering_wavevectors, reciprocal_vectors
from nqs.vmc.observables.renyi import half, random_pairs, subsystem
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.patches import Patches
from nqs.wavefunctions.symmetrised import Symmetrised
from nqs.wavefunctions.wavefunction import Wavefunction

SCATTERED = Positions([[0.0, 0.0], [1.1, 0.2], [0.4, 1.0], [1.9, 0.9], [1.0, 1.9], [2.3, 2.1]])
Oracle = dict[str, Tensor]


def fixed_magnetisation() -> Autoregressive:
    """A network on half of the spins up, every parameter random."""
    generator = torch.Generator().manual_seed(3)
    patches = Patches.from_spec(Chain(6), "2")
    sizes = (patches.n_states + 1, 2 * patches.n_states, patches.n_patches)
    core = Recurrent(*sizes, d_model=6, cell="gru", generator=generator)
    psi = Autoregressive(core, patches, n_up=3, phase=True).double()
    with torch.no_grad():
        for parameter in psi.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.6 * noise
    return psi


def complex_state(n_sites: int) -> ComplexTable:
    generator = torch.Generator().manual_seed(5)
    return ComplexTable(torch.randn(2**n_sites, generator=generator, dtype=torch.complex128))


class Case(NamedTuple):
    lattice: Lattice
    hamiltonian: Hamiltonian
    psi: Wavefunction


def case(name: str) -> Case:
    if name == "chain-tfim":
        lattice: Lattice = Chain(7, periodic=True)
        H: Hamiltonian = TransverseFieldIsing(lattice, J=1.0, h=0.8)
        return Case(lattice, H, exact_table(H))
    if name == "square-rydberg":
        lattice = Square(3, 3)
        return Case(lattice, Rydberg(lattice, V=7.0, delta=2.0), random_table(9, seed=2))
    if name == "kagome-rydberg":
        lattice = Kagome(2, 1, periodic=(True, False))
        return Case(lattice, Rydberg(lattice, V=7.0, delta=1.5), network("gru", lattice, "2"))
    if name == "complex":
        return Case(SCATTERED, Rydberg(SCATTERED, V=1.0, delta=1.0), complex_state(6))
    return Case(Chain(6), XXZ(Chain(6), 1.0, 0.5, marshall=False), fixed_magnetisation())


CASES = ("chain-tfim", "square-rydberg", "kagome-rydberg", "complex", "fixed-magnetisation")
every_case = pytest.mark.parametrize("name", CASES)


def renyi2_of(vector: Tensor, inside: Tensor) -> float:
    """-ln Tr rho_A^2 from the Schmidt values of the state vector (2^N,)."""
    n_sites = len(inside)
    order = [*inside.nonzero()[:, 0].tolist(), *(~inside).nonzero()[:, 0].tolist()]
    state = vector.reshape([2] * n_sites).permute(order).reshape(2 ** int(inside.sum()), -1)
    return -math.log(float(torch.linalg.svdvals(state).pow(4).sum()))


def oracle(psi: Wavefunction, lattice: Lattice, subsystems: Tensor) -> Oracle:
    """Everything written out over the basis."""
    with torch.no_grad():
        vector = amplitudes(psi)
    weights, bits = vector.abs().square(), basis(psi.n_sites).double()
    assert float(weights.sum()) == pytest.approx(1, abs=1e-9)
    density = weights @ bits
    pairs = torch.einsum("s,si,sj->ij", weights, bits, bits)
    flipped = 2 ** torch.arange(psi.n_sites - 1, -1, -1)
    places = torch.arange(len(vector))[:, None] ^ flipped  # (2^N, N)
    fluctuation = (bits - density).to(torch.complex128)
    k = momentum_grid(lattice)
    waves = torch.exp(1j * (k @ lattice.positions.T))  # (..., N)
    values = {
        "density": density,
        "density_density": pairs,
        "connected": pairs - torch.outer(density, density),
        "sigma_x": (vector.conj()[:, None] * vector[places]).real.sum(0),
        "structure_factor": (waves @ fluctuation.T).abs().square() @ weights / psi.n_sites,
        "renyi2": torch.tensor(
            [renyi2_of(vector, inside) for inside in subsystems], dtype=bits.dtype
        ),
        "excitation_fraction": density.mean(),
    }
    for order, star in ordering_wavevectors(lattice).items():
        total = sum((torch.exp(1j * (lattice.positions @ q)) * bits).sum(1).abs() for q in star) / (
            psi.n_sites * len(star)
        )
        values[f"{order}_order"] = weights @ total
    return values


def subsystems_of(lattice: Lattice) -> Tensor:
    return torch.stack([half(lattice), subsystem([0, 2, 3], lattice.n_sites)])


def measured(found: Case, n: int, generator: torch.Generator, **options: int) -> Evaluation:
    masks = subsystems_of(found.lattice)
    return evaluate(
        found.psi, found.hamiltonian, n, generator,
        lattice=found.lattice, thorough=True, subsystems=masks, **options,
    )  # fmt: skip


@every_case
def test_agreement_with_enumeration(name: str, generator: torch.Generator) -> None:
    """Each number within 4 standard errors, or 1e-9 where the sample fixes it.

    Some hundred correlated numbers a case; a correct program fails at a seed with chance below
    1e-2, and the seed is fixed.
    """
    found = case(name)
    result = measured(found, 60_000, generator)
    expected = oracle(found.psi, found.lattice, subsystems_of(found.lattice))
    assert set(expected) <= set(result.observables)
    assert all(owner(key) is not None for key in result.observables)
    for name, truth in expected.items():
        estimate = result.observables[name]
        assert estimate.value.shape == estimate.error.shape == truth.shape
        deviation = (estimate.value - truth).abs()
        assert bool((deviation <= 4 * estimate.error + 1e-9).all()), (name, deviation)
    assert_close(result.coordinates["structure_factor"], momentum_grid(found.lattice))
    assert_close(result.coordinates["renyi2"], subsystems_of(found.lattice))


@every_case
def test_expectations_are_those_of_the_basis(name: str) -> None:
    """What exact diagonalisation's state is asked for, against the same oracle."""
    psi, masks = case(name).psi, subsystems_of(case(name).lattice)
    request = Request(case(name).hamiltonian, case(name).lattice, thorough=True, subsystems=masks)
    with torch.no_grad():
        vector = amplitudes(psi)
    values = expectations(request, basis(psi.n_sites), vector)
    for key, truth in oracle(psi, case(name).lattice, masks).items():
        assert_close(values[key], truth, rtol=1e-9, atol=1e-11)
    some = (vector.abs() > 0).nonzero().squeeze(1)  # a sector, say
    for key, value in expectations(request, basis(psi.n_sites)[some], vector[some]).items():
        assert_close(value, values[key], rtol=1e-9, atol=1e-11)


def nearly_gaussian(psi: Wavefunction, n: int) -> Tensor:
    """(N, N): whether the first-order part of the variance of C_ij is 20 times the second, and
    each of 00, 01, 10, 11 is expected 10 times in n draws."""
    with torch.no_grad():
        weights = amplitudes(psi).abs().square()
    bits = basis(psi.n_sites).double()
    deviations = bits - weights @ bits
    products = deviations[:, :, None] * deviations[:, None]  # (2^N, N, N)
    c, fourth = (torch.tensordot(weights, x, dims=1) for x in (products, products.square()))
    second = c.square() + torch.outer(c.diagonal(), c.diagonal())
    values = (bits, 1 - bits)
    cells = [torch.einsum("s,si,sj->ij", weights, a, b) for a in values for b in values]
    return (n * torch.stack(cells).amin(0) > 10) & (fourth - c.square() > 20 * second / n)


@every_case
def test_error_bars_cover_the_scatter(name: str, generator: torch.Generator) -> None:
    """50 evaluations of 400 draws; sum of z^2 ~ chi-square of 50 for every number.

    Two-sided, rate 1e-6 for each where the estimate is Gaussian; bounds a factor 1.35 wider allow
    for those of few events. An error bar too small by 2 or too large by 2.5 fails.
    Left out: C_ii, which follows from m_i, correlations of pairs that are no Gaussians, see
    `nearly_gaussian`, and numbers without scatter in a whole repetition (standard error 0).
    """
    found = case(name)
    expected = oracle(found.psi, found.lattice, subsystems_of(found.lattice))
    squares = {key: torch.zeros_like(truth) for key, truth in expected.items()}
    for _ in range(50):
        result = measured(found, 400, generator, chunk=150)
        for key, truth in expected.items():
            estimate = result.observables[key]
            deviation = estimate.value - truth
            squares[key] += (deviation / estimate.error.where(estimate.error > 1e-9, 0.0)).square()
    squares["connected"][~nearly_gaussian(found.psi, 400)] = 0
    low, high = chi2.ppf(5e-7, 50) / 1.35, chi2.ppf(1 - 5e-7, 50) * 1.35
    judged = (value.isfinite() & (value > 0) for value in squares.values())
    assert sum(int(each.sum()) for each in judged) > 50
    for key, value in squares.items():
        outside = (value > 0) & value.isfinite() & ((value < low) | (value > high))
        assert not outside.any(), (key, value[outside])


@pytest.mark.parametrize("name", ["chain-tfim", "complex"])
def test_chunks_do_not_matter(name: str) -> None:
    """All but the entropy, whose pairs differ: the same draws in one part or several."""
    found = case(name)
    draws = found.psi.sample(1_000, torch.Generator().manual_seed(1))

    class Replay(Wavefunction):
        n_sites, place = found.psi.n_sites, 0
        log_psi, log_psi_flipped = found.psi.log_psi, found.psi.log_psi_flipped

        def sample(self, n_samples: int, generator: torch.Generator, *, unique: bool = False):
            part = slice(self.place, self.place + n_samples)
            self.place += n_samples
            return type(draws)(draws.configs[part], draws.counts[part], draws.log_psi[part])

    results = [
        evaluate(
            Replay(), found.hamiltonian, 1_000, torch.Generator(), lattice=found.lattice,
            thorough=True, chunk=chunk,
        ).observables
        for chunk in (1_000, 130, 3)
    ]  # fmt: skip
    for key, whole in results[0].items():
        for other in results[1:]:
            assert_close(other[key].value, whole.value, rtol=1e-9, atol=1e-11)
            assert_close(other[key].error, whole.error, rtol=1e-8, atol=1e-9)


def test_unseen_pairs_have_an_error_bar(generator: torch.Generator) -> None:
    """Two atoms that are never excited together in n draws: less than about 1 / n."""
    lattice = Chain(2)
    psi = exact_table(Rydberg(lattice, V=1e4, delta=1.0))
    result = evaluate(psi, Rydberg(lattice, V=1e4, delta=1.0), 1_000, generator)
    pairs = result.observables["density_density"]
    assert float(pairs.value[0, 1]) == 0
    assert float(pairs.error[0, 1]) == pytest.approx(1e-3, rel=0.01)
    assert float(result.observables["connected"].error[0, 1]) > 1e-3


@pytest.mark.parametrize("kind", ["rydberg", "heisenberg", "sector", "undriven"])
def test_flips_are_never_computed_twice(
    kind: str, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    """sigma_x asks for a second pass only where the Hamiltonian lacks single flips, and only them;
    in a sector for none. (Flips of configurations that no draw has are those of the variance.)"""
    lattice = Chain(6)
    psi: Wavefunction = fixed_magnetisation() if kind == "sector" else random_table(6)
    omega = torch.ones(6, dtype=torch.float64)
    omega[2] = 0
    H: Hamiltonian = {
        "rydberg": lambda: Rydberg(lattice, V=1.0),
        "heisenberg": lambda: Heisenberg(lattice, marshall=False),
        "sector": lambda: Heisenberg(lattice, marshall=False),
        "undriven": lambda: Rydberg(lattice, V=1.0, Omega=omega),
    }[kind]()
    needed: list[int] = []
    seen: set[tuple[bool, ...]] = set()
    original, sample = psi.log_psi_flipped, psi.sample

    def sampled(*arguments, **options):
        samples = sample(*arguments, **options)
        seen.update(map(tuple, samples.configs.tolist()))
        return samples

    def counted(configs, flips, wanted=None, **options):
        drawn = [tuple(config) in seen for config in configs.tolist()]
        assert all(drawn) or not any(drawn)
        if not drawn[0]:
            return original(configs, flips, wanted, **options)
        needed.append(int(wanted[0].sum()) if wanted is not None else len(flips))
        return original(configs, flips, wanted, **options)

    monkeypatch.setattr(psi, "log_psi_flipped", counted)
    monkeypatch.setattr(psi, "sample", sampled)
    free = sigma_x.comes_with_the_energy(psi, H)
    assert free == (kind in ("rydberg", "sector"))
    result = evaluate(psi, H, 300, generator)
    assert ("sigma_x" in result.observables) == free and len(needed) == 1
    needed.clear()
    seen.clear()
    result = evaluate(psi, H, 300, generator, thorough=True)
    assert needed[1:] == {"rydberg": [], "sector": [], "heisenberg": [6], "undriven": [1]}[kind]
    if kind == "sector":
        estimate = result.observables["sigma_x"]
        assert not estimate.value.any() and not estimate.error.any()


def test_symmetrised_states_know_their_sector() -> None:
    psi = Symmetrised(fixed_magnetisation(), Chain(6).point_group())
    assert psi.n_up == 3 and random_table(3).n_up is None


def test_pairs_are_all_draws_once_and_independent(
    generator: torch.Generator, assert_distribution: Callable[[Tensor, Tensor], None]
) -> None:
    """Of counts drawn anew each time, pairs follow p(s) p(s') (chi-square, rate 1e-6)."""
    p = torch.tensor([0.5, 0.3, 0.2]).double()
    seen = torch.zeros(9, dtype=torch.int64)
    for _ in range(3_000):
        draws = torch.multinomial(p, 7, replacement=True, generator=generator)
        counts = torch.bincount(draws, minlength=3)
        first, second, n = random_pairs(counts, generator)
        used = torch.zeros(3, dtype=torch.int64).index_add_(0, first, n).index_add_(0, second, n)
        assert (
            int(n.sum()) == 3 and int((counts - used).sum()) == 1 and bool((used <= counts).all())
        )
        seen.index_add_(0, 3 * first + second, n)
    assert_distribution(seen, torch.outer(p, p).flatten())


def test_entropies_that_are_known(generator: torch.Generator) -> None:
    """0 for a product state without scatter, ln 2 for a pair of cat states."""
    product = torch.tensor([0.6, 0.8]).double()
    state = product
    for _ in range(3):
        state = torch.outer(state, product).flatten()
    H = TransverseFieldIsing(Chain(4))
    masks = torch.stack([half(Chain(4)), subsystem([1], 4)])
    plain = evaluate(random_table(4), H, 100, generator)
    assert "renyi2" not in plain.observables and "renyi2" not in plain.coordinates
    table = random_table(4)
    with torch.no_grad():
        table.log_weights.copy_(2 * state.log())
    flat = evaluate(table, H, 2_000, generator, subsystems=masks).observables["renyi2"]
    assert_close(flat.value, torch.zeros(2).double(), rtol=0, atol=1e-12)
    with torch.no_grad():
        table.log_weights.fill_(-torch.inf)[[0, 15]] = 0.0
    cat = evaluate(table, H, 20_000, generator, subsystems=masks).observables["renyi2"]
    assert ((cat.value - math.log(2)).abs() < 4 * cat.error).all() and (cat.error < 0.02).all()


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ([], "0 sites"),
        ([0, 1, 2, 3], "4 sites; 1 to 3"),
        ([4], "site 4"),
        ([-1], "site -1"),
        ([1, 1], "twice"),
    ],
)
def test_subsystems_that_are_none(sites: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        subsystem(sites, 4)


@pytest.mark.parametrize(
    ("lattice", "sites"),
    [
        (Chain(5), [0, 1]),
        (Square(3, 2), [0, 1]),
        (Square(1, 4), [0, 1]),
        (Kagome(2, 1), [0, 1, 2]),
        (Positions([[2.0, 0], [0, 0], [1, 0], [0, 1]]), [1, 3]),
    ],
)
def test_halves(lattice: Lattice, sites: list[int]) -> None:
    assert half(lattice).nonzero()[:, 0].tolist() == sites


@pytest.mark.parametrize(
    ("lattice", "shape"),
    [
        (Chain(5), (10,)),
        (Chain(6, periodic=True), (6,)),
        (Square(4, 3, periodic=(True, False)), (4, 6)),
        (Square(1, 4), (8,)),
        (Triangular(2, 3), (4, 6)),
        (Honeycomb(2, 2, periodic=True), (6, 6)),
        (Kagome(3, 1), (12, 4)),
        (Positions([[0.0, 0], [1, 0], [2, 0]]), (9,)),
        (SCATTERED, None),
        (Positions([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]), (5, 5, 5)),
        (Positions([[3.0, 1.0]]), (1,)),
        (Chain(1), (1,)),
    ],
)
def test_momentum_grids(lattice: Lattice, shape: tuple[int, ...] | None) -> None:
    """k = 0 is there; on a lattice a whole period, so that sum_k S(k) counts the variances, and on
    the torus k^T (periods) is a whole turn."""
    k = momentum_grid(lattice)
    assert shape is None or k.shape[:-1] == shape
    assert k.shape[-1] == lattice.positions.shape[1] and (k.norm(dim=-1) < 1e-12).any()
    waves = torch.exp(1j * (k @ lattice.positions.T)).flatten(0, -2)  # (M, N)
    if lattice.shape is None:
        assert_close(k, -k.flip(list(range(k.dim() - 1))))
        return
    mean = waves.T.conj() @ waves / len(waves)  # orthogonal plane waves
    assert_close(mean, torch.eye(lattice.n_sites).to(mean), rtol=0, atol=1e-12)
    for period in lattice.periods():
        turns = k @ period / (2 * math.pi)
        assert_close(turns, turns.round(), rtol=0, atol=1e-9)


def test_ordering_wavevectors() -> None:
    """Perfect orders have the largest Fourier component they can."""
    assert set(ordering_wavevectors(Chain(4))) == {"z2", "z3", "z4"}
    assert set(ordering_wavevectors(Square(1, 4))) == {"z2", "z3", "z4"}
    assert set(ordering_wavevectors(Square(2, 2))) == {"checkerboard", "striated", "star"}
    assert not ordering_wavevectors(SCATTERED) and not ordering_wavevectors(Chain(1))
    for lattice in (Triangular(2, 2), Honeycomb(2, 2), Kagome(2, 2)):
        star = ordering_wavevectors(lattice)
        b = float(reciprocal_vectors(lattice)[0].norm())
        assert_close(star["m_point"].norm(dim=1), torch.full((3,), b / 2).double())
        assert_close(star["k_point"].norm(dim=1), torch.full((3,), b / 3**0.5).double())
    pi = math.pi
    star = ordering_wavevectors(Square(4, 4))
    assert_close(star["checkerboard"], torch.tensor([[pi, pi]]).double())
    assert_close(star["striated"], torch.tensor([[pi, 0], [0, pi]]).double())
    assert_close(star["star"], torch.tensor([[pi, pi / 2], [pi / 2, pi]]).double())
