"""Draws around |psi|^2: the density they come from, their weights, and what they are for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hamiltonians import PauliSum, Rydberg, TransverseFieldIsing
from hamiltonians.exact import basis, dense_matrix
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Chain, Square
from nqs.core.transformer import Transformer
from nqs.vmc.energies import Blurred
from nqs.vmc.energies.local_energy import local_energies
from nqs.vmc.energies.proposal import blur
from nqs.vmc.statistics import RunningMoments, energy_statistics, sample_statistics
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.patches import Patches
from nqs.wavefunctions.wavefunction import Samples

HEISENBERG = PauliSum(
    4, [(-1.0, f"X{i} X{i + 1}") for i in range(3)] + [(-1.0, f"Y{i} Y{i + 1}") for i in range(3)]
)  # flips act on antiparallel neighbours only
SYSTEMS: dict[str, Hamiltonian] = {
    "rydberg": Rydberg(Square(2, 2), V=3.0, delta=1.0),
    "tfim": TransverseFieldIsing(Chain(4), J=1.0, h=0.7),
    "xy": HEISENBERG,
}
every_system = pytest.mark.parametrize("system", SYSTEMS)
FRACTION, N_DRAWS = 0.4, 200_000


def network(seed: int = 0) -> Autoregressive:
    generator = torch.Generator().manual_seed(seed)
    patches = Patches([[0, 1], [2], [3]])
    psi = Autoregressive(
        Transformer(5, 4, 3, d_model=8, attention="softmax", generator=generator), patches
    ).double()
    with torch.no_grad():
        psi.bias.table += torch.randn(psi.bias.table.shape, generator=generator)
    return psi


def enumerated(psi: Autoregressive, hamiltonian: Hamiltonian) -> tuple[Tensor, Tensor]:
    """p and q over the basis; q by its definition from the flips and where they act."""
    configs = basis(4)
    with torch.no_grad():
        p = (2 * psi.log_psi(configs)).exp()
    places = 2 ** torch.arange(3, -1, -1)
    acts = hamiltonian.off_diagonal(configs) != 0  # (2^N, G)
    q = (1 - FRACTION) * p
    for g, flip in enumerate(hamiltonian.flips):
        source = ((configs ^ flip).long() * places).sum(1)
        q = q + FRACTION / len(hamiltonian.flips) * torch.where(acts[:, g], p[source], p)
    return p, q


def numbers(configs: Tensor) -> Tensor:
    return (configs.long() * 2 ** torch.arange(3, -1, -1)).sum(1)


@every_system
def test_draws_come_from_q(system: str, assert_distribution) -> None:
    psi, hamiltonian = network(), SYSTEMS[system]
    _, q = enumerated(psi, hamiltonian)
    assert q.sum() == pytest.approx(1.0, abs=1e-12)
    generator = torch.Generator().manual_seed(3)
    samples = psi.sample(N_DRAWS, generator, unique=True)
    configs, counts = blur(samples, hamiltonian, FRACTION, generator)
    places = numbers(configs)
    assert len(places.unique()) == len(places) and int(counts.sum()) == N_DRAWS
    seen = torch.zeros(16, dtype=torch.int64)
    seen[places] = counts
    assert_distribution(seen, q)


@every_system
def test_importance_is_p_over_q_and_energies_are_local_energies(system: str) -> None:
    psi, hamiltonian = network(), SYSTEMS[system]
    p, q = enumerated(psi, hamiltonian)
    drawn = Blurred(flip_fraction=FRACTION).draw(
        psi, hamiltonian, 5_000, torch.Generator().manual_seed(0)
    )
    samples, e_loc = drawn.samples, drawn.e_loc
    places = numbers(samples.configs)
    assert samples.importance is not None
    assert_close(samples.importance, (p / q)[places], rtol=1e-9, atol=0)
    assert samples.importance.max() <= 1 / (1 - FRACTION) + 1e-12
    expected = samples.counts * (p / q)[places]
    assert_close(samples.weights, expected / expected.sum(), rtol=1e-9, atol=0)
    plain = Samples(samples.configs, samples.counts, samples.log_psi)
    assert_close(e_loc, local_energies(psi, hamiltonian, plain), rtol=1e-9, atol=1e-9)


@every_system
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.8])
def test_energy_and_its_error_bar(system: str, fraction: float) -> None:
    """Mean within 5 standard errors of <H> (false alarm 6e-7), and the errors are calibrated.

    Over 60 repetitions sum z^2 is chi-square with 60 degrees: outside 20..130 with chance < 1e-6.
    """
    psi, hamiltonian = network(1), SYSTEMS[system]
    with torch.no_grad():
        amplitudes = psi.log_psi(basis(4)).exp()
    matrix = torch.as_tensor(dense_matrix(hamiltonian).real)
    energy = float(amplitudes @ matrix @ amplitudes)
    variance = float((matrix @ amplitudes).square().sum()) - energy**2
    generator, z2, variances = torch.Generator().manual_seed(5), 0.0, []
    for _ in range(60):
        drawn = Blurred(flip_fraction=fraction).draw(psi, hamiltonian, 2_000, generator)
        samples, e_loc = drawn.samples, drawn.e_loc
        found = sample_statistics(e_loc, samples, 4, 0.0)
        z = (found.energy - energy) / found.energy_error
        assert abs(z) < 5
        z2 += z**2
        variances.append(found.variance)
    assert 20 < z2 < 130
    assert sum(variances) / 60 == pytest.approx(variance, rel=0.05)


def test_without_importance_the_statistics_are_the_plain_ones() -> None:
    psi, hamiltonian = network(), SYSTEMS["rydberg"]
    drawn = Blurred(flip_fraction=0.0).draw(psi, hamiltonian, 300, torch.Generator().manual_seed(0))
    samples, e_loc = drawn.samples, drawn.e_loc
    assert samples.importance is None
    moments = RunningMoments().add(e_loc, samples.counts)
    plain, weighted = (
        energy_statistics(moments, 4, 0.5),
        sample_statistics(e_loc, samples, 4, 0.5),
    )
    for name, value in vars(plain).items():
        assert getattr(weighted, name) == pytest.approx(value, rel=1e-12)


def test_finds_what_the_state_has_lost() -> None:
    """A configuration of weight 1e-12 beside heavy ones: seen at the rate q, with a tiny weight."""
    psi, hamiltonian = network(), SYSTEMS["rydberg"]
    lost = torch.tensor([False, False, False, True])
    with torch.no_grad():
        psi.bias.table[2, 1] -= 30.0  # site 3 excited: amplitude e^-15
    plain = psi.sample(4_000, torch.Generator().manual_seed(0), unique=True)
    assert not (plain.configs == lost).all(1).any()
    drawn = Blurred(flip_fraction=0.5).draw(
        psi, hamiltonian, 4_000, torch.Generator().manual_seed(0)
    )
    samples, e_loc = drawn.samples, drawn.e_loc
    row = (samples.configs == lost).all(1)
    assert int(samples.counts[row]) > 5
    assert float(samples.weights[row]) < 1e-9 and float(e_loc[row]) < -1e3
    assert math.isfinite(sample_statistics(e_loc, samples, 4, 0.0).variance)


def test_amplitudes_out_of_range_are_left_out() -> None:
    """e^-1000: E_loc itself overflows; the row is dropped, nothing becomes NaN."""
    psi, hamiltonian = network(), SYSTEMS["rydberg"]
    with torch.no_grad():
        psi.bias.table[2, 1] -= 2_000.0
    drawn = Blurred(flip_fraction=0.5).draw(
        psi, hamiltonian, 1_000, torch.Generator().manual_seed(0)
    )
    samples, e_loc = drawn.samples, drawn.e_loc
    assert not samples.configs[:, 3].any()
    assert bool(torch.isfinite(e_loc).all()) and bool(torch.isfinite(samples.weights).all())


@pytest.mark.parametrize("fraction", [-0.1, 1.0, math.nan])
def test_bad_fractions(fraction: float) -> None:
    with pytest.raises(ValueError, match="flip_fraction"):
        Blurred(flip_fraction=fraction).draw(network(), SYSTEMS["tfim"], 10, torch.Generator())
