"""Local energies from near patches and random exact flips: no bias, known variance, limits."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from states import adam
from torch.testing import assert_close

from hamiltonians import Heisenberg, Rydberg, TransverseFieldIsing
from hamiltonians.exact import basis, dense_matrix
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Chain, Square
from nqs.core.transformer import Transformer
from nqs.vmc.energies import NearFlips
from nqs.vmc.energies.local_energy import local_energies, terms
from nqs.vmc.energies.near_flips import combined, random_subsets
from nqs.vmc.optimise import optimise
from nqs.vmc.statistics import sample_statistics
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.nearby import nearby_log_ratios
from nqs.wavefunctions.patches import Patches

SYSTEMS: dict[str, Hamiltonian] = {
    "rydberg": Rydberg(Square(2, 3), V=3.0, delta=1.0),
    "tfim": TransverseFieldIsing(Chain(6), J=1.0, h=0.7),
    "heisenberg": Heisenberg(
        Chain(6), J=1.0, marshall=False
    ),  # flips act on some configurations only
}
every_system = pytest.mark.parametrize("system", SYSTEMS)


def near(flip_fraction: float = 0.5) -> NearFlips:
    """Only what reads the flipped token."""
    return NearFlips(flip_radius=0.5, exact_fraction=0.4, flip_fraction=flip_fraction)


def network(seed: int = 0, *, phase: bool = False) -> Autoregressive:
    generator = torch.Generator().manual_seed(seed)
    patches = Patches.from_spec(Chain(6), "1")
    core = Transformer(3, 4 if phase else 2, 6, d_model=8, attention="softmax", generator=generator)
    psi = Autoregressive(core, patches, phase=phase).double()
    with torch.no_grad():
        for parameter in psi.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.5 * noise
    return psi


def exact_energy(psi: Autoregressive, hamiltonian: Hamiltonian) -> tuple[float, float]:
    """<H> and Var(H) of a positive psi over the basis."""
    with torch.no_grad():
        amplitudes = psi.log_psi(basis(6)).exp()
    applied = torch.as_tensor(dense_matrix(hamiltonian).real) @ amplitudes
    energy = float(amplitudes @ applied)
    return energy, float(applied.square().sum()) - energy**2


@every_system
@pytest.mark.parametrize("phase", [False, True])
def test_the_mean_over_all_subsets_is_exact(system: str, phase: bool) -> None:
    """Enumerated: mean E(s, M) = E_loc(s), its variance is the mean of the estimated one."""
    psi, hamiltonian = network(phase=phase), SYSTEMS[system]
    configs, flips = basis(6), hamiltonian.flips
    n_flips = len(flips)
    with torch.no_grad():
        log_psi = psi.log_psi(configs)
        elements = hamiltonian.off_diagonal(configs)
        approximate = terms(elements, nearby_log_ratios(psi, configs, flips, 1.0))
        exact = terms(elements, psi.log_psi_flipped(configs, flips) - log_psi[:, None])
    values, noises = [], []
    for subset in itertools.combinations(range(n_flips), 3):
        subsets = torch.tensor(subset).expand(len(configs), -1)
        value, noise = combined(approximate, exact.gather(1, subsets), subsets)
        values.append(value)
        noises.append(noise)
    stacked = torch.stack(values)  # (subsets, 2^N)
    assert_close(stacked.mean(0), exact.sum(1), rtol=0, atol=1e-11)
    spread = (stacked - exact.sum(1)).abs().square().mean(0)
    assert spread.max() > 1e-6
    assert_close(torch.stack(noises).mean(0), spread, rtol=1e-9, atol=1e-12)


@every_system
@pytest.mark.parametrize("fraction", [0.0, 0.4])
def test_all_flips_exact_is_the_exact_local_energy(system: str, fraction: float) -> None:
    psi, hamiltonian = network(), SYSTEMS[system]
    energies = NearFlips(flip_radius=1.0, exact_fraction=1.0, flip_fraction=fraction)
    drawn = energies.draw(psi, hamiltonian, 200, torch.Generator().manual_seed(0))
    assert_close(drawn.e_loc, local_energies(psi, hamiltonian, drawn.samples))
    assert not drawn.noise.any() and drawn.samples.n_samples == 200


@every_system
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_energy_error_and_variance(system: str, fraction: float) -> None:
    """Against sums over the basis, noise and weights included.

    Each of 40 means within 5 errors of <H>: false alarm 6e-7 each; sum z^2 is chi-square with 40
    degrees, outside 10..105 with chance < 1e-6; the mean variance within 5 of its errors. 64
    configurations for 500 draws: the draws that share a row share its noise.
    """
    psi, hamiltonian = network(1), SYSTEMS[system]
    energy, variance = exact_energy(psi, hamiltonian)
    generator, z2, variances, added = torch.Generator().manual_seed(5), 0.0, [], []
    for _ in range(40):
        drawn = near(fraction).draw(psi, hamiltonian, 500, generator)
        found = sample_statistics(drawn.e_loc, drawn.samples, 6, 0.0, drawn.noise)
        z = (found.energy - energy) / found.energy_error
        assert abs(z) < 5
        z2 += z**2
        variances.append(found.variance)
        added.append(float(drawn.samples.weights @ drawn.noise))
    assert 10 < z2 < 105
    assert sum(added) / 40 > 0.01 * variance  # else nothing is tested
    measured = torch.tensor(variances)
    assert abs(measured.mean() - variance) < 5 * measured.std() / 40**0.5


def test_a_hamiltonian_without_flips_is_its_diagonal() -> None:
    hamiltonian = TransverseFieldIsing(Chain(6), J=1.0, h=0.0)
    estimates = near().draw(network(), hamiltonian, 40, torch.Generator().manual_seed(0))
    assert_close(estimates.e_loc, hamiltonian.diagonal(estimates.samples.configs))
    assert estimates.samples.n_samples == 40 and estimates.noise is not None
    assert not estimates.noise.any()
    assert near().record(estimates) == {"added_variance": 0.0}


def test_weights_make_any_average_that_of_p() -> None:
    """Sums of weighted bits, which are linear and so without any bias: the 6 means of 60
    repetitions within 5 of their errors, false alarm 4e-5 (Student's t, 59 degrees)."""
    psi, hamiltonian = network(2), SYSTEMS["heisenberg"]
    with torch.no_grad():
        p = (2 * psi.log_psi(basis(6))).exp()
    expected = p @ basis(6).double()
    generator, weighted, plain = torch.Generator().manual_seed(1), [], []
    for _ in range(60):
        samples = near(0.8).draw(psi, hamiltonian, 400, generator).samples
        assert samples.importance is not None
        assert samples.importance.max() <= 1 / (1 - 0.8) + 1e-9
        share = samples.counts.double() / samples.n_samples
        weighted.append((share * samples.importance) @ samples.configs.double())
        plain.append(share @ samples.configs.double())
    means, error = torch.stack(weighted).mean(0), torch.stack(weighted).std(0) / 60**0.5
    assert ((means - expected).abs() < 5 * error).all()
    away = torch.stack(plain).mean(0) - expected
    assert (away.abs() > 5 * torch.stack(plain).std(0) / 60**0.5).any()  # weights are needed


def test_subsets_are_uniform(assert_distribution) -> None:
    subsets = random_subsets(30_000, 5, 2, torch.Generator().manual_seed(0), torch.device("cpu"))
    first, second = subsets.unbind(1)
    assert (first != second).all()
    seen = torch.bincount(first * 5 + second, minlength=25).view(5, 5)
    pairs = (seen + seen.T)[*torch.triu_indices(5, 5, 1)]
    assert_distribution(pairs, torch.full((10,), 0.1, dtype=torch.float64))
    assert_distribution(torch.bincount(first), torch.full((5,), 0.2, dtype=torch.float64))


def test_a_run_lowers_the_energy_and_records_the_added_variance() -> None:
    psi, hamiltonian, records = network(3), SYSTEMS["tfim"], []
    optimise(
        psi,
        hamiltonian,
        adam(0.03),
        n_steps=25,
        n_samples=100,
        generator=torch.Generator().manual_seed(0),
        energies=near(),
        after_step=lambda record: bool(records.append(record)),
    )
    assert records[-1].energy < records[0].energy - 5 * records[0].energy_error
    assert all(r.figures["added_variance"] > 0 for r in records)


@pytest.mark.parametrize("key", ["flip_radius", "exact_fraction", "flip_fraction"])
@pytest.mark.parametrize("value", [-0.1, 1e-4, 1e4, math.nan])
def test_bad_keys(key: str, value: float) -> None:
    keys: Any = {key: value}
    with pytest.raises(ValueError, match=f"^{key}="):
        NearFlips(**keys)


def test_at_least_two_flips_are_exact() -> None:
    energies = NearFlips(exact_fraction=0.01)
    assert [energies.n_exact(n) for n in (1, 2, 144, 1000)] == [1, 2, 2, 10]
