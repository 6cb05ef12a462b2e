"""The number that is reported: a fresh evaluation of a fixed state with many samples."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Lattice
from nqs.vmc.energies.local_energy import connected, local_energy, magnitudes
from nqs.vmc.observables import Observable, Request, applicable
from nqs.vmc.ranks import ALONE, Ranks
from nqs.vmc.residual import RunningResidual
from nqs.vmc.statistics import EnergyStatistics, Estimate, RunningMoments, checked_statistics
from nqs.wavefunctions.wavefunction import Samples, Wavefunction


@dataclass(frozen=True)
class Evaluation(EnergyStatistics):
    """Energy statistics and observables.

    Attributes:
        excess: second-order estimate of how far the energy lies above the ground state's
            (nqs.vmc.residual).
        largest_share: share of the draws in the commonest configuration.
        observables: name -> value and standard error; arrays are over the sites, pairs of sites or
            what `coordinates` says.
        coordinates: what the entries of an observable belong to, for instance k points (..., d) of
            structure_factor and subsystems (S, N) bool of renyi2.
    """

    excess: float
    largest_share: float
    observables: dict[str, Estimate]
    coordinates: dict[str, Tensor]


@torch.no_grad()
def evaluate(
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    n_samples: int,
    generator: torch.Generator,
    *,
    lattice: Lattice | None = None,
    thorough: bool | None = None,
    subsystems: Tensor | None = None,
    chunk: int = 16_384,
    max_rows: int = 32_768,
    ranks: Ranks = ALONE,
    also: tuple[type[Observable], ...] = (),
) -> Evaluation:
    """Energy, variance, V-score and observables from n_samples independent draws.

    Draws stream through in chunks (memory does not grow with n_samples), each as distinct
    configurations with counts; all sums are float64. Energy and variance are those of
    nqs.vmc.residual: flips of some draws are evaluated besides. The error bar is that of the mean,
    and in quadrature sqrt(variance_outside / n) and the rounding of the network's ratios,
    eps <sum_g |H_g psi_g / psi|>.

    Args:
        lattice: where the sites are, by default the Hamiltonian's; without one there are no order
            parameters and no structure factor.
        thorough, subsystems: what is measured, see nqs.vmc.observables.Request: thorough measures
            sigma_x at the cost of flips that the energy does not need, None only where it is free.
        chunk: draws at a time, >= 2 for Renyi entropies, which pair the draws of a chunk.
        max_rows: configurations evaluated at a time.
        ranks: who shares the draws, each with a generator of its own; all get the result.
        also: classes that are measured besides those of the program.

    Raises ValueError for less than two draws for each rank, FloatingPointError if an energy is not
    finite.
    """
    _check_draws(n_samples, chunk, subsystems, ranks)
    request = Request(
        hamiltonian,
        hamiltonian.lattice if lattice is None else lattice,
        wavefunction,
        thorough=thorough,
        subsystems=subsystems,
        generator=generator,
        max_rows=max_rows,
        ranks=ranks,
        also=also,
    )
    accumulators = applicable(request)
    rounding = RunningMoments()
    residual = RunningResidual(wavefunction, hamiltonian, seed_beside(generator), max_rows, ranks)
    largest = Largest()
    n_own = ranks.shares(n_samples)[ranks.rank]
    for begin in range(0, n_own, chunk):
        samples = wavefunction.sample(min(chunk, n_own - begin), generator, unique=True)
        elements, log_ratios = connected(wavefunction, hamiltonian, samples, max_rows)
        e_loc = local_energy(hamiltonian, samples.configs, elements, log_ratios)
        rounding.add(magnitudes(elements, log_ratios), samples.counts)
        residual.add(samples, elements, log_ratios, e_loc)
        largest.add(samples)
        for observable in accumulators:
            observable.add(samples, (elements, log_ratios))
    for total in (rounding, residual, largest):
        total.join(ranks)
    energy = _energy(residual, rounding, wavefunction, hamiltonian)
    observables: dict[str, Estimate] = {}
    coordinates: dict[str, Tensor] = {}
    for observable in accumulators:
        observable.join(ranks)
        observables |= observable.estimates()
        coordinates |= observable.coordinates()
    return Evaluation(
        **vars(energy),
        excess=residual.spread().excess,
        largest_share=largest.share,
        observables=observables,
        coordinates=coordinates,
    )


def _check_draws(n_samples: int, chunk: int, subsystems: Tensor | None, ranks: Ranks) -> None:
    """Raises ValueError for fewer than two draws where two are needed."""
    if n_samples < 2 * ranks.size:
        each = f", 2 for each of the {ranks.size} processes" if ranks.size > 1 else ""
        raise ValueError(
            f"n_samples={n_samples} must be at least {2 * ranks.size} for an error bar{each}"
        )
    if subsystems is not None and chunk < 2:
        raise ValueError(f"chunk={chunk} must be at least 2 to pair draws")


def _energy(
    residual: RunningResidual,
    rounding: RunningMoments,
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
) -> EnergyStatistics:
    """With the error bar of `evaluate`."""
    spread = residual.spread()
    dtype = next((p.dtype for p in wavefunction.parameters()), torch.float64)
    rounded = torch.finfo(dtype).eps * float(rounding.estimate().value)
    return checked_statistics(
        spread.energy,
        math.hypot(spread.error, (spread.outside / (residual.n - 1)) ** 0.5, rounded),
        spread.variance,
        residual.n,
        hamiltonian.n_sites,
        hamiltonian.infinite_temperature_energy,
        spread.outside,
    )


def seed_beside(generator: torch.Generator) -> int:
    """A seed that follows from the generator's state, from which nothing is drawn."""
    digest = hashlib.sha256(generator.get_state().numpy().tobytes()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Largest:
    """Share of the draws in the commonest configuration, of those that one chunk holds."""

    share = 0.0

    def add(self, samples: Samples) -> None:
        """Draws with counts."""
        self.share = max(self.share, float(samples.counts.max()) / samples.n_samples)

    def join(self, ranks: Ranks) -> None:
        """The largest of all ranks."""
        self.share = float(ranks.gathered(torch.tensor([self.share])).max())
