"""Symmetrised states: normalised, invariant, sampled from the average, flips as brute force."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor
from torch.testing import assert_close

from hamiltonians import Heisenberg
from hamiltonians.exact import basis, dense_matrix, ground_state
from hamiltonians.lattices.characters import odd_under
from hamiltonians.lattices.lattice import Chain, Kagome, Lattice, Positions, Square
from hamiltonians.lattices.symmetry_group import SymmetryGroup, bit_words, smallest
from nqs.wavefunctions.symmetrised import Symmetrised
from nqs.wavefunctions.wavefunction import Samples, Wavefunction
from tests.vmc.states import ComplexTable, ComplexWavefunction, TableWavefunction, numbers
from tests.wavefunctions.systems import Spec, build

CROSS = Positions([[0, 0], [1.5, 0], [-1.5, 0], [0, 1], [0, -1], [0, 2]])  # one mirror line

GROUPS: dict[str, tuple[Lattice, Spec, SymmetryGroup]] = {
    "square": (Square(3, 3), "2x2", Square(3, 3).point_group()),
    "rectangle": (Square(2, 4), "2x3", Square(2, 4).point_group() * SymmetryGroup.spin_flip(8)),
    "ring": (Chain(6, True), "4", Chain(6, True).space_group() * SymmetryGroup.spin_flip(6)),
    "kagome": (Kagome(2, 2), "1x1", Kagome(2, 2).point_group()),
    "torus": (Square(2, 3, True), "2x2", Square(2, 3, True).space_group()),
    "positions": (CROSS, "2", CROSS.point_group()),
    "flip": (Chain(5), "2", SymmetryGroup.spin_flip(5)),
}
every_group = pytest.mark.parametrize("group", GROUPS)
every_model = pytest.mark.parametrize("model", ["ptf", "gru"])


def symmetrised(model: str, group: str) -> Symmetrised:
    lattice, patch, elements = GROUPS[group]
    return Symmetrised(build(model, lattice, patch), elements)


def averaged(psi: Symmetrised, configs: Tensor) -> Tensor:
    """|psi_sym|^2 (B,) by its definition, one group element after another."""
    total = torch.zeros(len(configs), dtype=torch.float64)
    for row, inverted in psi.symmetry:
        total += (2 * psi.base.log_psi(configs[:, row] ^ inverted).real).exp()
    return total / psi.n_images


@every_model
@every_group
@torch.no_grad()
def test_normalised_invariant_average(model: str, group: str) -> None:
    psi = symmetrised(model, group)
    configs = basis(psi.n_sites)
    log_psi = psi.log_psi(configs)
    assert float((2 * log_psi).exp().sum()) == pytest.approx(1, abs=1e-10)
    assert_close((2 * log_psi).exp(), averaged(psi, configs), rtol=1e-10, atol=0)
    assert float((psi.base.log_psi(configs) - log_psi).abs().max()) > 0.1  # base is not symmetric
    for row, inverted in psi.symmetry.generating_set():
        assert_close(psi.log_psi(configs[:, row] ^ inverted), log_psi, rtol=0, atol=1e-10)
    assert_close(psi.log_psi(configs[:7]), log_psi[:7])


@every_model
@every_group
def test_flips_are_brute_force(model: str, group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flips that the group maps onto each other and some that it does not; masked, chunked."""
    monkeypatch.setattr("nqs.wavefunctions.symmetrised.WORD_BITS", 0)  # none by orbits
    psi = symmetrised(model, group)
    generator = torch.Generator().manual_seed(1)
    configs = torch.rand(6, psi.n_sites, generator=generator) < 0.5
    pairs = torch.rand(3, psi.n_sites, generator=generator) < 0.4
    pairs[~pairs.any(1), 0] = True
    single = torch.eye(psi.n_sites, dtype=torch.bool)
    for flips in (single, torch.cat([single, pairs])):
        with torch.no_grad():
            expected = psi.log_psi((configs[:, None] ^ flips).flatten(0, 1)).view(6, -1)
        found = psi.log_psi_flipped(configs, flips)
        assert_close(found, expected, rtol=0, atol=1e-10)
        assert_close(psi.log_psi_flipped(configs, flips, max_rows=40), found, rtol=0, atol=1e-10)
        needed = torch.rand(found.shape, generator=generator) < 0.5
        masked = psi.log_psi_flipped(configs, flips, needed)
        assert_close(masked, torch.where(needed, expected, -torch.inf), rtol=0, atol=1e-10)
    assert psi.log_psi_flipped(configs, single[:0]).shape == (6, 0)


@every_group
@torch.no_grad()
def test_flips_by_orbits_are_flips(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbouring configurations reach each other: fewer evaluations, the same numbers."""
    psi = symmetrised("gru", group)
    configs = basis(psi.n_sites)[:256]
    flips = torch.eye(psi.n_sites, dtype=torch.bool)
    generator = torch.Generator().manual_seed(1)
    needed = torch.rand(len(configs), len(flips), generator=generator) < 0.9
    evaluated = []
    log_psi = psi.base.log_psi
    monkeypatch.setattr(psi.base, "log_psi", lambda s: (evaluated.append(len(s)), log_psi(s))[1])
    found = [psi.log_psi_flipped(configs, flips, mask) for mask in (None, needed)]
    assert 0 < sum(evaluated) < found[0].numel() * psi.n_images
    nothing = psi.log_psi_flipped(configs, flips, torch.zeros_like(needed))
    assert nothing.dtype == found[0].dtype and bool((nothing == -torch.inf).all())
    monkeypatch.setattr("nqs.wavefunctions.symmetrised.WORD_BITS", 0)
    for mask, by_orbits in zip((None, needed), found, strict=True):
        assert_close(psi.log_psi_flipped(configs, flips, mask), by_orbits, rtol=0, atol=1e-10)


@pytest.mark.parametrize("unique", [False, True])
@pytest.mark.parametrize("group", ["square", "ring", "positions"])
def test_samples_follow_the_average(group: str, unique: bool) -> None:
    """Chi-square over cells of at least 5 expected draws; false alarm 1e-4, seed fixed."""
    psi = symmetrised("gru", group)
    n_samples = 20_000
    samples = psi.sample(n_samples, torch.Generator().manual_seed(3), unique=unique)
    assert samples.n_samples == n_samples
    if unique:
        assert len(torch.unique(samples.configs, dim=0)) == len(samples.configs)
    else:
        assert len(samples.configs) == n_samples
    with torch.no_grad():
        assert_close(samples.log_psi, psi.log_psi(samples.configs), rtol=0, atol=1e-10)
        expected = n_samples * (2 * psi.log_psi(basis(psi.n_sites))).exp()
    observed = torch.zeros_like(expected)
    observed.index_add_(0, numbers(samples.configs), samples.counts.double())
    common = expected >= 5
    cells = torch.cat([observed[common], observed[~common].sum()[None]])
    means = torch.cat([expected[common], expected[~common].sum()[None]])
    statistic = float(torch.where(means > 0, (cells - means) ** 2 / means, 0.0).sum())
    assert chi2.sf(statistic, int((means > 0).sum()) - 1) > 1e-4


def test_sampling_repeats_with_its_seed() -> None:
    psi = symmetrised("ptf", "square")
    one, other = (psi.sample(500, torch.Generator().manual_seed(5), unique=True) for _ in range(2))
    assert torch.equal(one.configs, other.configs) and torch.equal(one.log_psi, other.log_psi)


@every_group
def test_representatives_are_one_per_orbit(group: str) -> None:
    psi = symmetrised("gru", group)
    configs = basis(psi.n_sites)
    images = psi.symmetry.images(configs)  # (2^N, M, N)
    least = numbers(images).amin(1)
    assert torch.equal(numbers(psi.representatives(configs)), least)


def test_long_rows_compare_as_numbers() -> None:
    """Rows of several words, by the comparison of Python's lists."""
    images = torch.rand(4, 9, 150, generator=torch.Generator().manual_seed(0)) < 0.5
    images[1] = images[1, 0]
    images[2, :, :124] = images[2, 0, :124]
    rows = images.tolist()
    assert smallest(bit_words(images)).tolist() == [row.index(min(row)) for row in rows]
    assert bit_words(images).shape == (4, 9, 3)


class Handed(TableWavefunction):
    """Draws that are given: psi is a table with zeros."""

    def __init__(self) -> None:
        super().__init__(torch.tensor([1.0, 0, 0, 0, 0, 2, 0, 0]))


def test_zeros_are_zeros() -> None:
    """Images of amplitude 0 drop out; where all are 0, so is the average, without NaN."""
    psi = Symmetrised(Handed(), Chain(3).point_group())
    configs = basis(3)
    found = (2 * psi.log_psi(configs)).exp()
    assert_close(found.detach(), averaged(psi, configs).detach(), rtol=1e-12, atol=0)
    assert float(found[2].detach()) == 0
    flipped = psi.log_psi_flipped(configs, torch.eye(3, dtype=torch.bool))
    assert not flipped.isnan().any() and (flipped == -torch.inf).any()
    psi.log_psi(configs[:1]).sum().backward()
    assert not next(psi.parameters()).grad.isnan().any()  # type: ignore[union-attr]


def test_gradient_is_finite_differences() -> None:
    psi = symmetrised("ptf", "rectangle")
    configs = psi.sample(5, torch.Generator().manual_seed(0)).configs
    psi.log_psi(configs).sum().backward()
    generator = torch.Generator().manual_seed(1)
    for parameter in psi.parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter += step * direction
                values.append(float(psi.log_psi(configs).sum()))
                parameter -= step * direction
        expected = (values[0] - values[1]) / 2e-5
        assert parameter.grad is not None
        assert float((parameter.grad * direction).sum()) == pytest.approx(
            expected, rel=1e-6, abs=1e-7
        )


def complex_base(kind: str) -> Wavefunction:
    if kind == "network":
        return ComplexWavefunction(build("gru", Chain(6, True), "2"))
    values = torch.randn(64, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return ComplexTable(torch.view_as_complex(values))


def momentum(k: int) -> Tensor:
    """Characters of the six translations of a ring: chi(T_x) = exp(2 pi i k x / 6)."""
    rows = Chain(6, True).translations().permutations
    return torch.polar(torch.ones(6).double(), 2 * math.pi * k / 6 * rows[:, 0].double())


@pytest.mark.parametrize("kind", ["network", "table"])
@pytest.mark.parametrize("k", [0, 1, 3])
def test_complex_states_have_their_momentum(
    kind: str, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Normalised for every k; psi(g s) = chi(g) psi(s) wherever no image is s itself.

    The phase is the representative's for k = 0, else that of the sum of images.
    """
    chi = momentum(k)
    base = complex_base(kind)
    psi = Symmetrised(base, Chain(6, True).translations().with_characters(chi))
    configs = basis(6)
    with torch.no_grad():
        log_psi = psi.log_psi(configs)
        assert_close((2 * log_psi.real).exp(), averaged(psi, configs), rtol=1e-10, atol=0)
        images = psi.symmetry.images(configs)  # (64, 6, 6)
        sums = chi.conj() @ base.log_psi(images.flatten(0, 1)).exp().view(64, 6).T
    assert float((2 * log_psi.real).exp().sum()) == pytest.approx(1, abs=1e-10)
    free = (images == configs[:, None]).all(-1).sum(1) == 1
    if k == 0:
        least = configs[numbers(images).amin(1)]
        assert_close(log_psi.imag, base.log_psi(least).imag.detach())
        free[:] = True
    else:
        ones = torch.ones(int(free.sum())).double()
        assert_close((log_psi.imag - sums.angle())[free].cos(), ones)
    for g, row in enumerate(psi.symmetry.permutations):
        with torch.no_grad():
            moved = psi.log_psi(configs[:, row]).exp()
        assert_close(moved[free], (chi[g] * log_psi.exp())[free], rtol=1e-9, atol=1e-12)
    if k == 0:
        assert_close(psi.log_psi(psi.representatives(configs)).exp(), log_psi.exp())
    else:
        assert not log_psi[0].imag and not log_psi[63].imag  # all equal: the sum vanishes
    flips = torch.eye(6, dtype=torch.bool)
    with torch.no_grad():
        expected = psi.log_psi((configs[:, None] ^ flips).flatten(0, 1)).view(64, 6)
    assert_close(psi.log_psi_flipped(configs, flips).exp(), expected.exp())
    with monkeypatch.context() as context:
        context.setattr("nqs.wavefunctions.symmetrised.WORD_BITS", 0)  # none by orbits
        assert_close(psi.log_psi_flipped(configs, flips).exp(), expected.exp())
    samples = psi.sample(200, torch.Generator().manual_seed(0), unique=True)
    assert isinstance(samples, Samples)
    with torch.no_grad():
        assert_close(samples.log_psi.exp(), psi.log_psi(samples.configs).exp())


@pytest.mark.parametrize("k", [0, 1])
def test_complex_gradient_is_finite(k: int) -> None:
    """Also where images cancel; equal to finite differences where they do not."""
    base = complex_base("table")
    psi = Symmetrised(base, Chain(6, True).translations().with_characters(momentum(k)))
    psi.log_psi(basis(6)).imag.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in psi.parameters())
    psi.zero_grad()
    configs = basis(6)[[11]]
    psi.log_psi(configs).imag.sum().backward()
    phases = base.get_parameter("phases")
    place = int(numbers(configs))
    values = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            phases[place] += step
            values.append(float(psi.log_psi(configs).imag))
            phases[place] -= step
    assert phases.grad is not None
    expected = (values[0] - values[1]) / 2e-6
    assert float(phases.grad[place]) == pytest.approx(expected, rel=1e-6, abs=1e-8)


@every_group
@torch.no_grad()
def test_phases_are_the_representatives(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every image, and of flips by either way, masked too."""
    lattice, patch, elements = GROUPS[group]
    psi = Symmetrised(build("gru", lattice, patch, phase=True), elements)
    configs = basis(psi.n_sites)[::11]
    phases = psi.base.log_psi(psi.representatives(configs)).imag
    assert phases.std() > 0.1
    for image in psi.symmetry.images(configs).unbind(1):
        assert_close(psi.log_psi(image).imag, phases, rtol=0, atol=1e-10)
    generator = torch.Generator().manual_seed(1)
    flips = torch.rand(5, psi.n_sites, generator=generator) < 0.4
    flips = torch.cat([flips | ~flips.any(1, keepdim=True), torch.eye(psi.n_sites).bool()])
    flips = torch.unique(flips, dim=0)
    needed = torch.rand(len(configs), len(flips), generator=generator) < 0.5
    expected = psi.log_psi((configs[:, None] ^ flips).flatten(0, 1)).view(needed.shape)
    for word_bits in (62, 0):
        monkeypatch.setattr("nqs.wavefunctions.symmetrised.WORD_BITS", word_bits)
        assert_close(psi.log_psi_flipped(configs, flips), expected, rtol=0, atol=1e-10)
        masked = psi.log_psi_flipped(configs, flips, needed)
        assert_close(masked[needed], expected[needed], rtol=0, atol=1e-10)
        assert (masked[~needed].real == -torch.inf).all()


@torch.no_grad()
def test_phases_of_long_rows() -> None:
    """More sites than a word has bits: flips are brute force."""
    ring = Chain(64, True)
    group = ring.point_group() * SymmetryGroup.spin_flip(64)
    psi = Symmetrised(build("gru", ring, "4", phase=True), group)
    configs = torch.rand(3, 64, generator=torch.Generator().manual_seed(0)) < 0.5
    flips = torch.eye(64, dtype=torch.bool)[::7]
    expected = psi.log_psi((configs[:, None] ^ flips).flatten(0, 1)).view(3, -1)
    assert_close(psi.log_psi_flipped(configs, flips), expected, rtol=0, atol=1e-10)


def test_phases_where_images_cancel() -> None:
    """Images of opposite signs: the phase moves with that of one of them, not by 1 / |sum|."""
    angles = torch.tensor([0.0, 0.3, 0.3 - math.pi + 1e-3, 0.0], dtype=torch.float64)
    base = ComplexTable(torch.polar(torch.ones(4).double(), angles))
    phases = base.get_parameter("phases")
    psi = Symmetrised(base, Chain(2, True).translations())
    found = psi.log_psi(basis(2)).imag
    assert_close(found[1:3].detach(), torch.full((2,), 0.3).double())
    found[2].backward()
    assert_close(phases.grad, torch.tensor([0.0, 1, 0, 0]).double())


@torch.no_grad()
def test_marshalls_rule_survives() -> None:
    """Phase pi of bit 1 on one sublattice is invariant: psi_sym has the signs of that product."""
    torus = Square(2, 4, periodic=True)
    base = build("gru", torus, "2x2", n_up=4, phase=True)
    psi = Symmetrised(base, torus.space_group() * SymmetryGroup.spin_flip(8))
    colours = torus.bipartition()
    assert colours is not None
    odd = colours == colours[0]
    psi.set_product_state(torch.full((8,), 0.5).double(), spread=0.0, phases=math.pi * odd)
    configs = basis(8)[basis(8).sum(1) == 4]
    signs = 1 - 2 * ((configs & odd).sum(1) % 2)
    amplitude = psi.log_psi(configs).exp()
    expected = signs / len(configs) ** 0.5 + 0j
    assert_close(amplitude, expected.to(amplitude.dtype), rtol=0, atol=1e-6)


def test_product_state_reaches_the_base() -> None:
    psi = symmetrised("ptf", "rectangle")
    chances = torch.linspace(0.1, 0.9, 8, dtype=torch.float64)
    psi.set_product_state(chances, spread=0.0)
    configs = basis(8)
    expected = torch.where(configs, chances, 1 - chances).log().sum(1)
    with torch.no_grad():
        assert_close(2 * psi.base.log_psi(configs), expected)


def test_moves_with_dtype_and_keeps_the_bases_parameters() -> None:
    psi = symmetrised("ptf", "square")
    assert [n.removeprefix("base.") for n, _ in psi.named_parameters()] == [
        n for n, _ in psi.base.named_parameters()
    ]
    assert set(psi.state_dict()) == {f"base.{n}" for n in psi.base.state_dict()}
    configs = basis(9)[::37]
    with torch.no_grad():
        double = psi.log_psi(configs)
        assert_close(psi.float().log_psi(configs), double, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_odd_ground_state_needs_its_character() -> None:
    """Heisenberg ring of 6: momentum pi, odd under the spin flip and the mirror between two sites.

    With these characters the average over the group leaves the state as it is; with others it is
    another one of higher energy.
    """
    ring = Chain(6, True)
    hamiltonian = Heisenberg(ring, marshall=False)
    exact = ground_state(hamiltonian, n_up=3)
    inside = basis(6).sum(1) == 3
    vector = torch.zeros(64, dtype=torch.complex128)
    vector[inside] = torch.from_numpy(exact.state).to(vector.dtype)
    group = ring.space_group() * SymmetryGroup.spin_flip(6)
    matrix = torch.from_numpy(dense_matrix(hamiltonian)).to(vector.dtype)
    right = ["shift_x", "spin_flip", "mirror90"]
    for odd in (right, [], ["shift_x"]):
        psi = Symmetrised(ComplexTable(vector), odd_under(group, ring, odd))
        amplitudes = psi.log_psi(basis(6)).exp()
        amplitudes[~inside] = 0.0
        energy = float((amplitudes.conj() @ matrix @ amplitudes).real)
        if odd == right:
            assert energy == pytest.approx(exact.energy, abs=1e-9)
        else:
            assert energy > exact.energy + 1


def test_one_line_says_what_it_is() -> None:
    base = build("gru", Chain(6), "2", n_up=3, phase=True)
    n_parameters = sum(parameter.numel() for parameter in base.parameters())
    rest = f"6 sites, 3 up, {n_parameters} parameters)"
    assert repr(base) == f"Autoregressive(Recurrent, complex, 3 patches, {rest}"
    psi = Symmetrised(base, Chain(6).point_group())
    assert repr(psi) == f"Symmetrised({base!r}, 2 images, {rest}"
    samples = psi.sample(50, torch.Generator().manual_seed(0), unique=True)
    n_rows = len(samples.counts)
    assert repr(samples) == f"Samples(50 draws in {n_rows} rows of 6 sites)"
    weighted = replace(samples, importance=samples.counts.double())
    assert (
        repr(weighted) == f"Samples(50 draws in {n_rows} rows of 6 sites, with importance weights)"
    )


def test_what_does_not_fit_the_base() -> None:
    ring = Chain(6, True).translations()
    with pytest.raises(ValueError, match="move 5 sites, the wavefunction has 6"):
        Symmetrised(build("gru", Chain(6), "2"), SymmetryGroup.identity(5))
    with pytest.raises(ValueError, match="complex base"):
        Symmetrised(build("gru", Chain(6), "2"), ring.with_characters(momentum(3)))
    with pytest.raises(ValueError, match="n_up=2 is not half of 6"):
        Symmetrised(build("gru", Chain(6), "2", n_up=2), ring * SymmetryGroup.spin_flip(6))
