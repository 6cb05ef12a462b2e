"""The number that is reported: a fresh evaluation of a fixed state with many samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattice import Lattice
from nqs.vmc.correlations import Correlations
from nqs.vmc.local_energy import connected, summed
from nqs.vmc.observables import diagonal_observables
from nqs.vmc.sigma_x import SigmaX, comes_with_the_energy
from nqs.vmc.statistics import EnergyStatistics, Estimate, RunningMoments, energy_statistics
from nqs.wavefunctions.wavefunction import Wavefunction


@dataclass(frozen=True)
class Evaluation(EnergyStatistics):
    """Energy statistics and observables (name -> value and standard error)."""

    observables: dict[str, Estimate]


@torch.no_grad()
def evaluate(
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    n_samples: int,
    generator: torch.Generator,
    *,
    lattice: Lattice | None = None,
    sigma_x: bool | None = None,
    chunk: int = 16_384,
    max_rows: int = 32_768,
) -> Evaluation:
    """Energy, variance, V-score and observables from n_samples independent draws.

    Draws stream through in chunks (memory does not grow with n_samples), each as distinct
    configurations with counts; all sums are float64.
    lattice: where the sites are, by default the Hamiltonian's.
    sigma_x: whether to measure it; None: where the local energies contain it, so that it is free.
    Raises ValueError for n_samples < 2, FloatingPointError if an energy is not finite.
    """
    if n_samples < 2:
        raise ValueError(f"n_samples={n_samples} must be at least 2 for an error bar")
    lattice = hamiltonian.lattice if lattice is None else lattice
    signs = None if lattice is None else lattice.sublattice_signs()
    if sigma_x is None:
        sigma_x = comes_with_the_energy(wavefunction, hamiltonian)
    energies, pairs = RunningMoments(), Correlations()
    transverse = SigmaX(wavefunction, hamiltonian, max_rows) if sigma_x else None
    observables: dict[str, RunningMoments] = {}
    for begin in range(0, n_samples, chunk):
        samples = wavefunction.sample(min(chunk, n_samples - begin), generator, unique=True)
        elements, log_ratios = connected(wavefunction, hamiltonian, samples, max_rows)
        e_loc = summed(hamiltonian, samples.configs, elements, log_ratios)
        energies.add(e_loc, samples.counts)
        pairs.add(samples)
        if transverse is not None:
            transverse.add(samples, elements, log_ratios)
        for name, values in diagonal_observables(samples.configs, signs).items():
            observables.setdefault(name, RunningMoments()).add(values, samples.counts)
    energy = energy_statistics(
        energies, hamiltonian.n_sites, hamiltonian.infinite_temperature_energy
    )
    estimates = pairs.estimates()
    estimates |= {name: moments.estimate() for name, moments in observables.items()}
    if transverse is not None:
        estimates |= transverse.estimates()
    return Evaluation(**vars(energy), observables=estimates)
