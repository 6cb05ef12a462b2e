"""The number that is reported: a fresh evaluation of a fixed state with many samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from nqs.vmc.local_energy import local_energies
from nqs.vmc.observables import diagonal_observables
from nqs.vmc.statistics import EnergyStatistics, Estimate, RunningMoments, energy_statistics
from nqs.wavefunctions.wavefunction import Wavefunction


@dataclass(frozen=True)
class Evaluation(EnergyStatistics):
    """Energy statistics and diagonal observables (name -> value and standard error)."""

    observables: dict[str, Estimate]


@torch.no_grad()
def evaluate(
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    n_samples: int,
    generator: torch.Generator,
    *,
    sublattice_signs: Tensor | None = None,
    chunk: int = 16_384,
    max_rows: int = 32_768,
) -> Evaluation:
    """Energy, variance, V-score and observables from n_samples independent draws.

    Draws stream through in chunks (memory does not grow with n_samples), each as distinct
    configurations with counts; all sums are float64.
    Raises ValueError for n_samples < 2, FloatingPointError if an energy is not finite.
    """
    if n_samples < 2:
        raise ValueError(f"n_samples={n_samples} must be at least 2 for an error bar")
    energies = RunningMoments()
    observables: dict[str, RunningMoments] = {}
    for begin in range(0, n_samples, chunk):
        samples = wavefunction.sample(min(chunk, n_samples - begin), generator, unique=True)
        e_loc = local_energies(wavefunction, hamiltonian, samples, max_rows=max_rows)
        energies.add(e_loc, samples.counts)
        for name, values in diagonal_observables(samples.configs, sublattice_signs).items():
            observables.setdefault(name, RunningMoments()).add(values, samples.counts)
    energy = energy_statistics(
        energies, hamiltonian.n_sites, hamiltonian.infinite_temperature_energy
    )
    estimates = {name: moments.estimate() for name, moments in observables.items()}
    return Evaluation(**vars(energy), observables=estimates)
