"""The reported numbers: right on average, with error bars that mean what they say."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chi2
from states import (
    all_configurations,
    enumerated_energy,
    exact_table,
    network,
    random_table,
)
from torch.testing import assert_close

from hamiltonians import Rydberg, TransverseFieldIsing
from hamiltonians.exact import basis, ground_state
from hamiltonians.lattices.lattice import Chain, Square, Triangular
from nqs.vmc.energies.local_energy import local_energies
from nqs.vmc.evaluation import evaluate
from nqs.vmc.observables import Correlations
from nqs.vmc.observables.magnetisation import magnetisations

LATTICE = Square(2, 3)
HAMILTONIAN = Rydberg(LATTICE, V=7.0, delta=1.0, Omega=1.0)
OTHER = TransverseFieldIsing(Chain(5), J=1.0, h=0.9)


def test_observables_of_known_configurations() -> None:
    configs = torch.tensor([[0, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 0]]).bool()
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    values = magnetisations(configs, signs)
    expected = {
        "excitation_fraction": torch.tensor([0, 0.5, 0.75]),
        "magnetisation": torch.tensor([1.0, 0.0, -0.5]),
        "abs_magnetisation": torch.tensor([1.0, 0.0, 0.5]),
        "squared_magnetisation": torch.tensor([1.0, 0.0, 0.25]),
        "staggered_magnetisation": torch.tensor([0.0, -1.0, -0.5]),
        "abs_staggered_magnetisation": torch.tensor([0.0, 1.0, 0.5]),
        "squared_staggered_magnetisation": torch.tensor([0.0, 1.0, 0.25]),
    }
    assert values.keys() == expected.keys()
    for name, value in values.items():
        assert value.dtype == torch.float64
        assert_close(value, expected[name].double())
    plain = magnetisations(configs, None)
    assert set(plain) == {name for name in expected if "staggered" not in name}


def test_observables_agree_with_exact_diagonalisation() -> None:
    """Weighted over the ground state they are the expectation values of hamiltonians.exact."""
    exact = ground_state(HAMILTONIAN)
    weights = torch.from_numpy(exact.probabilities())
    signs = LATTICE.sublattice_signs()
    values = {name: weights @ value for name, value in magnetisations(basis(6), signs).items()}
    sz = exact.sigma_z()
    assert float(values["magnetisation"]) == pytest.approx(sz.mean(), abs=1e-12)
    assert float(values["excitation_fraction"]) == pytest.approx(exact.density().mean(), abs=1e-12)
    correlation = exact.correlation()
    assert float(values["squared_magnetisation"]) == pytest.approx(correlation.mean(), abs=1e-12)
    pattern = torch.outer(signs, signs).numpy()
    assert float(values["squared_staggered_magnetisation"]) == pytest.approx(
        (pattern * correlation).mean(), abs=1e-12
    )
    assert float(values["abs_magnetisation"]) == pytest.approx(exact.magnetization(), abs=1e-12)
    staggered = float(values["abs_staggered_magnetisation"])
    assert staggered == pytest.approx(exact.magnetization(signs), abs=1e-12)


@pytest.mark.parametrize("chunk", [16_384, 3_000])
def test_the_exact_ground_state(chunk: int, generator: torch.Generator) -> None:
    """Energy without error, densities within 5 standard errors (6e-7 each, 11 numbers)."""
    psi, exact = exact_table(HAMILTONIAN), ground_state(HAMILTONIAN)
    signs = LATTICE.sublattice_signs()
    result = evaluate(psi, HAMILTONIAN, 20_000, generator, chunk=chunk)
    assert result.energy == pytest.approx(exact.energy, rel=1e-9)
    assert result.variance < 1e-12 and result.v_score < 1e-12 and result.energy_error < 1e-8
    assert result.n_samples == 20_000
    density = result.observables["density"]
    assert density.value.shape == density.error.shape == (6,)
    z = (density.value - torch.from_numpy(exact.density())) / density.error
    assert z.abs().max() < 5 and z.abs().max() > 0
    for name, truth in {
        "magnetisation": exact.sigma_z().mean(),
        "excitation_fraction": exact.density().mean(),
        "abs_magnetisation": exact.magnetization(),
        "abs_staggered_magnetisation": exact.magnetization(signs),
        "squared_magnetisation": exact.correlation().mean(),
    }.items():
        estimate = result.observables[name]
        assert 0 < float(estimate.error) < 0.01
        assert abs(float(estimate.value) - truth) < 5 * float(estimate.error)


@pytest.mark.parametrize("model", ["table", "ptf", "gru"])
def test_energy_variance_and_v_score_of_any_state(model: str, generator: torch.Generator) -> None:
    """Against enumeration within 5 standard errors; the variance within 5 of its own."""
    psi = random_table(6) if model == "table" else network(model, LATTICE)
    result = evaluate(psi, HAMILTONIAN, 40_000, generator)
    energy = float(enumerated_energy(psi, HAMILTONIAN).detach())
    assert abs(result.energy - energy) < 5 * result.energy_error
    samples = all_configurations(psi)
    deviations = (local_energies(psi, HAMILTONIAN, samples) - energy).square()
    weights = samples.weights
    variance = float(weights @ deviations)
    fourth = float(weights @ (deviations - variance).square())
    assert abs(result.variance - variance) < 5 * (fourth / 40_000) ** 0.5
    assert 0.2 < result.energy_error / (result.variance / 39_999) ** 0.5 < 1.05  # flips help
    span = result.energy - HAMILTONIAN.infinite_temperature_energy
    assert result.v_score == pytest.approx(6 * result.variance / span**2, rel=1e-12)


@pytest.mark.parametrize(("chunk", "n"), [(16_384, 200), (150, 50)])
def test_error_bars_cover_the_scatter(chunk: int, n: int, generator: torch.Generator) -> None:
    """n evaluations of 500 draws: sum of z^2 ~ chi-square of n, energy and a density.

    Two-sided false-alarm rate 1e-6 each. z^2 has a mean of 1 + O(1/500) with the estimated error.
    """
    psi = random_table(5, seed=3)
    energy = float(enumerated_energy(psi, OTHER).detach())
    samples = all_configurations(psi)
    density = float(samples.weights @ samples.configs[:, 2].double())
    squares = torch.zeros(2, dtype=torch.float64)
    for _ in range(n):
        result = evaluate(psi, OTHER, 500, generator, chunk=chunk)
        estimate = result.observables["density"]
        squares[0] += ((result.energy - energy) / result.energy_error) ** 2
        squares[1] += (float(estimate.value[2] - density) / float(estimate.error[2])) ** 2
    for statistic in squares.tolist():
        assert 5e-7 < chi2.cdf(statistic, n) < 1 - 5e-7


def test_streaming_is_one_sum(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    """Chunks hold at most `chunk` draws, the last the rest (also a single one)."""
    psi, sizes = random_table(6), []
    sample = psi.sample

    def recorded(n_samples: int, *arguments, **options):
        sizes.append(n_samples)
        return sample(n_samples, *arguments, **options)

    monkeypatch.setattr(psi, "sample", recorded)
    parts = []
    add = Correlations.add

    def kept(self, samples, connections):
        parts.append((local_energies(psi, HAMILTONIAN, samples), samples.counts))
        add(self, samples, connections)

    monkeypatch.setattr(Correlations, "add", kept)
    result = evaluate(psi, HAMILTONIAN, 1_001, generator, chunk=250)
    assert sizes == [250, 250, 250, 250, 1]
    draws = torch.cat([e_loc.repeat_interleave(counts) for e_loc, counts in parts])
    assert len(draws) == result.n_samples == 1_001
    assert abs(result.energy - float(draws.mean())) < 5 * result.energy_error
    assert 0.3 < result.variance / float(draws.var(correction=0)) < 3  # see test_residual.py


def test_staggered_only_where_there_are_two_sublattices(generator: torch.Generator) -> None:
    lattice = Triangular(2, 2)
    assert lattice.sublattice_signs() is None
    result = evaluate(random_table(4), TransverseFieldIsing(lattice), 100, generator)
    assert not any("staggered" in name for name in result.observables)


def test_evaluation_changes_nothing_and_follows_its_generator() -> None:
    psi = network("gru", LATTICE)
    before = [p.clone() for p in psi.parameters()]
    results = [
        evaluate(psi, HAMILTONIAN, 500, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    ]
    assert results[0].energy == results[1].energy != results[2].energy
    assert all(p.grad is None for p in psi.parameters())
    assert_close(list(psi.parameters()), before, rtol=0, atol=0)


@pytest.mark.parametrize("n_samples", [-1, 0, 1])
def test_too_few_samples_for_an_error_bar(n_samples: int, generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match=f"n_samples={n_samples} must be at least 2"):
        evaluate(random_table(6), HAMILTONIAN, n_samples, generator)
