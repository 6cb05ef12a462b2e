"""One state at all images of its couplings, averaged: against the formula on the whole basis."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chi2
from systems import build
from torch import Tensor
from torch.testing import assert_close

from hamiltonians.exact.configurations import basis
from hamiltonians.exact.product import Product
from hamiltonians.lattices.lattice import Square
from hamiltonians.lattices.symmetry_group import SymmetryGroup
from hamiltonians.rydberg import Rydberg
from nqs.wavefunctions.conditional import Conditional
from nqs.wavefunctions.image_average import ImageAverage

LATTICE = Square(3, 3)
GROUP = LATTICE.point_group()
COUPLINGS = torch.linspace(-1, 3, 9, dtype=torch.float64).roll(4)
CONFIGS = basis(9)


def family(n_up: int | None = None, *, phase: bool = False) -> Conditional:
    """Random, with a coupling for each site."""
    generator = torch.Generator().manual_seed(7)
    psi = Conditional(
        build("factored", LATTICE, "2x2", seed=2, n_up=n_up, phase=phase),
        torch.full((9,), -1.0),
        torch.full((9,), 3.0),
        kind="places",
        width=6,
        generator=generator,
        images=(GROUP, GROUP.permutations),
    )
    with torch.no_grad():
        for parameter in psi.context.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return psi


@pytest.fixture(scope="module")
def psi() -> ImageAverage:
    found = family().averaged_at(COUPLINGS)
    assert isinstance(found, ImageAverage)
    return found


@torch.no_grad()
def of_images() -> Tensor:
    """|psi(g s | g c)|^2, (8, 512)."""
    base = family()
    rows = [
        base.moved_to(COUPLINGS[row]).log_psi(CONFIGS[:, row]).mul(2).exp()
        for row in GROUP.permutations
    ]
    return torch.stack(rows)


@torch.no_grad()
def test_formula(psi: ImageAverage) -> None:
    """Normalised, and the mean of eight probabilities that differ."""
    probabilities = (2 * psi.log_psi(CONFIGS)).exp()
    assert_close(probabilities.sum(), torch.tensor(1.0).double())
    assert_close(probabilities, of_images().mean(0))
    assert float(of_images().std(0).max()) > 0.1 * float(probabilities.max())


@torch.no_grad()
def test_the_family_is_symmetric() -> None:
    """psi_av(g s | g c) = psi_av(s | c), which the plain state is far from."""
    base = family()
    for row in GROUP.permutations[1:3]:
        here, there = (base.averaged_at(c) for c in (COUPLINGS, COUPLINGS[row]))
        assert_close(there.log_psi(CONFIGS[:, row]), here.log_psi(CONFIGS))
        plain = base.at(COUPLINGS[row]).log_psi(CONFIGS[:, row])
        assert float((plain - base.at(COUPLINGS).log_psi(CONFIGS)).abs().max()) > 0.5


@torch.no_grad()
@pytest.mark.parametrize("unique", [True, False])
def test_samples(psi: ImageAverage, unique: bool) -> None:
    """Chi-square over cells of at least 5 expected draws; false alarm 1e-4, seed fixed. The plain
    state's draws fail it."""
    n_draws, generator = 20_000, torch.Generator().manual_seed(3)
    plain = family().at(COUPLINGS)
    assert statistic(plain.sample(n_draws, generator, unique=True), n_draws) < 1e-10
    samples = psi.sample(n_draws, generator, unique=unique)
    assert samples.n_samples == n_draws and (len(samples.counts) < 512) == unique
    assert_close(samples.log_psi, psi.log_psi(samples.configs))
    assert statistic(samples, n_draws) > 1e-4
    with pytest.raises(ValueError, match="n_samples=0"):
        psi.sample(0, generator)


def statistic(samples: object, n_draws: int) -> float:
    """The chance of a chi-square as large."""
    means = of_images().mean(0) * n_draws
    found = torch.zeros(512, dtype=torch.float64)
    numbers = {tuple(row): k for k, row in enumerate(CONFIGS.tolist())}
    configs, counts = samples.configs, samples.counts  # type: ignore[attr-defined]
    for row, count in zip(configs.tolist(), counts.tolist(), strict=True):
        found[numbers[tuple(row)]] += count
    own = means >= 5
    few = (means[~own].sum(), found[~own].sum())
    parts = torch.cat([(found - means)[own].square() / means[own], torch.zeros(1)])
    parts[-1] = (few[1] - few[0]) ** 2 / few[0]
    return float(chi2.sf(float(parts.sum()), len(parts) - 1))


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_flips(psi: ImageAverage, masked: bool) -> None:
    configs = CONFIGS[::37]
    flips = torch.cat([torch.eye(9), torch.eye(9).roll(1, 0) + torch.eye(9)]).bool()
    needed = torch.rand(len(configs), 18, generator=torch.Generator().manual_seed(1)) < 0.4
    found = psi.log_psi_flipped(configs, flips, needed if masked else None, max_rows=50)
    wanted = psi.log_psi((configs[:, None] ^ flips).flatten(0, 1)).view(found.shape)
    if masked:
        wanted = torch.where(needed, wanted, -torch.inf)
    assert_close(found, wanted)


@torch.no_grad()
def test_energy_is_not_above_the_mean_of_the_images(psi: ImageAverage) -> None:
    """Convexity, of a Hamiltonian with these couplings and its images; here far below."""
    hamiltonian = Product(Rydberg(LATTICE, delta=COUPLINGS, Rb=1.2))
    energies = [float(p.sqrt() @ hamiltonian(p.sqrt())) for p in of_images()]
    average = psi.log_psi(CONFIGS).exp()
    assert float(average @ hamiltonian(average)) < sum(energies) / 8 - 0.01


@torch.no_grad()
def test_fixed_magnetisation() -> None:
    psi = family(n_up=4).averaged_at(COUPLINGS)
    assert psi.n_up == 4
    probabilities = (2 * psi.log_psi(CONFIGS)).exp()
    assert_close(probabilities[CONFIGS.sum(1) == 4].sum(), torch.tensor(1.0).double())


def test_what_cannot_be_averaged_is_refused() -> None:
    states = [family().at(COUPLINGS) for _ in range(8)]
    with pytest.raises(ValueError, match="7 states"):
        ImageAverage(states[1:], GROUP)
    with pytest.raises(ValueError, match="2 states"):
        ImageAverage(states[:2], SymmetryGroup.spin_flip(9))
    with pytest.raises(ValueError, match="positive"):
        family(phase=True).averaged_at(COUPLINGS)
