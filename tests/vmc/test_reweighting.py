"""Estimates at neighbouring couplings against linear algebra on the whole basis."""

from __future__ import annotations

import math

import pytest
import scipy.linalg
import torch
from states import (
    ComplexTable,
    TableWavefunction,
    all_configurations,
    amplitudes,
    complex_pauli_sum,
    exact_table,
    matrix,
    random_table,
)
from torch import Tensor

from hamiltonians import XXZ, Rydberg, TransverseFieldIsing
from hamiltonians.exact import basis, ground_state
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Chain, Square
from nqs.vmc.reweighting import (
    best_step,
    connected_moments,
    effective_sample_size,
    lanczos_gain,
    neighbouring_couplings,
    shared_local_energies,
    weighted_mean,
)
from nqs.wavefunctions.wavefunction import Samples

COMPLEX = torch.randn(64, generator=torch.Generator().manual_seed(3), dtype=torch.complex128)
CASES: dict[str, tuple[TableWavefunction, list[Hamiltonian]]] = {
    "rydberg": (random_table(4), [Rydberg(Square(2, 2), 7.0, d, 1.0) for d in (1.0, 1.5, -2.0)]),
    "ising": (random_table(5, 2), [TransverseFieldIsing(Chain(5), J=1.0, h=h) for h in (1.0, 2.0)]),
    "exchange": (random_table(5, 4), [XXZ(Chain(5), 1.0, d, marshall=False) for d in (1.0, 0.0)]),
    "complex": (ComplexTable(COMPLEX), [complex_pauli_sum()]),
}


def dense(psi: TableWavefunction, hamiltonian: Hamiltonian) -> tuple[Tensor, Tensor]:
    """psi (2^N,) and H, complex128."""
    with torch.no_grad():
        return amplitudes(psi).to(torch.complex128), matrix(hamiltonian).to(torch.complex128)


@pytest.mark.parametrize("case", CASES)
def test_the_step_is_the_lowest_state_in_the_span(case: str) -> None:
    """Of psi and H' psi: the generalised eigenvalue problem of two dimensions."""
    psi, hamiltonians = CASES[case]
    samples = all_configurations(psi)
    energies = shared_local_energies(psi, hamiltonians, samples).real @ samples.weights
    moments = connected_moments(psi, hamiltonians, samples, energies.tolist())
    for hamiltonian, energy, (e, g) in zip(hamiltonians, energies, moments, strict=True):
        vector, H = dense(psi, hamiltonian)
        span = torch.stack([vector, H @ vector], dim=1)
        lowest, states = scipy.linalg.eigh(
            (span.mH @ H @ span).numpy(), (span.mH @ span).numpy(), subset_by_index=[0, 0]
        )
        step = best_step(e, g, samples)
        gain = lanczos_gain(step, e, g, samples)
        assert float(energy + gain.value) == pytest.approx(lowest[0], abs=1e-9)
        assert gain.value < -1e-3
        improved = span @ torch.from_numpy(states[:, 0]).to(span.dtype)
        expected = improved.abs().square() / improved.abs().square().sum()
        weights = (1 + step * e).abs().square() * samples.weights
        torch.testing.assert_close(weights / weights.sum(), expected, atol=1e-9, rtol=1e-7)
        density = weighted_mean(samples.configs.double(), (1 + step * e).abs().square(), samples)
        torch.testing.assert_close(density.value, expected @ basis(psi.n_sites).double())


def test_an_eigenstate_stays_as_it_is() -> None:
    H = Rydberg(Square(2, 2), 7.0, 1.0, 1.0)
    psi = exact_table(H)
    generator = torch.Generator().manual_seed(1)
    (same,) = neighbouring_couplings(psi, H, [H], 1_000, 100, generator)
    assert float(same.energy.value) == pytest.approx(ground_state(H, k=1).energy, abs=1e-8)
    assert float(same.difference.value) == 0 and float(same.difference.error) == 0
    assert same.effective_samples == pytest.approx(1_000) and same.reliable
    assert float(same.improved.value) == pytest.approx(float(same.energy.value), abs=1e-7)


def test_neighbours_of_a_ground_state() -> None:
    """Bounds in order, the slope of Hellmann and Feynman, errors that hold what they promise."""
    deltas = [1.0, 1.05, 1.3]
    hamiltonians = [Rydberg(Square(2, 3), 7.0, delta, 1.0) for delta in deltas]
    psi = exact_table(hamiltonians[0])
    exact = [ground_state(H, k=1).energy for H in hamiltonians]
    generator = torch.Generator().manual_seed(2)
    found = neighbouring_couplings(
        psi, hamiltonians[0], hamiltonians[1:], 40_000, 10_000, generator
    )
    (excitations,) = [psi.log_amplitudes().mul(2).exp() @ basis(6).double().sum(1)]
    for delta, truth, near in zip(deltas[1:], exact[1:], found, strict=True):
        slope, error = (x / (delta - 1) for x in (near.difference.value, near.difference.error))
        assert abs(float(slope + excitations.detach())) < 5 * float(error)
        bound = float(exact[0] - (delta - 1) * excitations.detach())
        assert abs(float(near.energy.value) - bound) < 5 * float(near.energy.error)
        assert bound > truth
        improved, noise = float(near.improved.value), float(near.improved.error)
        assert truth - 5 * noise < improved < bound + 5 * noise
        assert improved - truth < 0.1 * (bound - truth) + 5 * noise
        assert near.n_samples == 40_000 and near.effective_samples < 40_000
    assert float(found[1].improved.value) < float(found[1].energy.value) - 0.01
    assert found[0].effective_samples > found[1].effective_samples


def test_errors_cover_the_truth() -> None:
    """Pulls of 200 repetitions: variance 1 within 5 of its standard errors."""
    hamiltonians = [Rydberg(Square(2, 2), 7.0, delta, 1.0) for delta in (1.0, 1.4)]
    psi = exact_table(hamiltonians[0])
    whole = all_configurations(psi)
    energies = (shared_local_energies(psi, hamiltonians, whole) @ whole.weights).tolist()
    _, (e, g) = connected_moments(psi, hamiltonians, whole, energies)
    step = best_step(e, g, whole)
    weights = (1 + step * e).abs().square()
    truths = [lanczos_gain(step, e, g, whole).value]
    truths.append(weighted_mean(whole.configs.double(), weights, whole).value[0])
    generator = torch.Generator().manual_seed(5)
    pulls = []
    for _ in range(200):
        drawn = psi.sample(400, generator, unique=True)
        _, (e, g) = connected_moments(psi, hamiltonians, drawn, energies)
        gain = lanczos_gain(step, e, g, drawn)
        density = weighted_mean(drawn.configs[:, 0].double(), (1 + step * e).square(), drawn)
        found = [(gain.value, gain.error), (density.value, density.error)]
        pulls.append([float((v - t) / s) for (v, s), t in zip(found, truths, strict=True)])
    squares = torch.tensor(pulls).square().mean(0)
    assert bool(((squares - 1).abs() < 5 * math.sqrt(2 / 200)).all())


def test_effective_sample_size() -> None:
    samples = Samples(basis(2), torch.tensor([4, 2, 1, 1]), torch.zeros(4))
    assert effective_sample_size(torch.ones(4), samples) == 8
    assert effective_sample_size(torch.tensor([1.0, 0.0, 0.0, 0.0]), samples) == 4
    assert effective_sample_size(torch.tensor([1.0, 1.0, 1.0, 5.0]), samples) == pytest.approx(
        12**2 / 32
    )


def test_bad_requests_are_refused() -> None:
    H = Rydberg(Square(2, 2), 7.0)
    psi, generator = random_table(4), torch.Generator()
    with pytest.raises(ValueError, match="whole terms"):
        neighbouring_couplings(psi, H, [Rydberg(Square(2, 2), 7.0, Omega=0.0)], 10, 10, generator)
    with pytest.raises(ValueError, match="at least 2"):
        neighbouring_couplings(psi, H, [H], 1, 10, generator)
