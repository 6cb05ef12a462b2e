"""Variational Monte Carlo of a whole family: at each step some couplings, and one update."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from nqs.vmc.energies import Blurred, Energies
from nqs.vmc.optimizers.gradient import add_to_parameters
from nqs.vmc.optimizers.natural_gradient import NaturalGradient
from nqs.vmc.statistics import sample_statistics
from nqs.wavefunctions.conditional import Conditional

BEYOND = 0.1
"""Share of a range beyond each of its ends from which couplings are drawn, and moved to the end,
which has neighbours on one side alone (docs/families.md)."""


@dataclass(frozen=True)
class FamilyRecord:
    """What one step measured, before its update; means over its couplings.

    Attributes:
        step: from 1.
        energy_per_site, variance_per_site: in the Hamiltonians' units.
        worst_variance_per_site: of the couplings of this step.
        n_unique: distinct configurations among all samples.
        seconds: wall time.
        figures: the optimizer's columns.
    """

    step: int
    energy_per_site: float
    variance_per_site: float
    worst_variance_per_site: float
    n_unique: int
    seconds: float
    figures: dict[str, float]


def drawn_couplings(
    low: Tensor, high: Tensor, n_couplings: int, generator: torch.Generator
) -> Tensor:
    """Couplings (C, n) within low .. high (n,), stratified: of C equal parts of each range one each
    (Latin hypercube)."""
    shape = (n_couplings, len(low))
    within = torch.rand(shape, generator=generator, dtype=torch.float64)
    order = torch.rand(shape, generator=generator, dtype=torch.float64).argsort(0)
    share = (order + within) / n_couplings * (1 + 2 * BEYOND) - BEYOND
    return low + share.clamp(0, 1).to(low) * (high - low)


def optimise_family(
    family: Conditional,
    hamiltonian_at: Callable[[Tensor], Hamiltonian],
    optimizer: NaturalGradient,
    *,
    energies: Energies | None = None,
    n_steps: int,
    n_couplings: int,
    n_samples: int,
    generator: torch.Generator,
    first_step: int = 0,
    after_step: Callable[[FamilyRecord], bool] = lambda record: False,
) -> None:
    """Minimise the mean of <H(c)> over the range of couplings c, in place.

    Steps first_step + 1 .. n_steps, each with n_samples draws at each of n_couplings couplings;
    hamiltonian_at: (n,) -> H; the rest as for `nqs.vmc.optimise`. Raises FloatingPointError, before
    touching the parameters, if an energy or the update is not finite.
    """
    energies = Blurred() if energies is None else energies
    for step in range(first_step + 1, n_steps + 1):
        began = time.perf_counter()
        parts, statistics, n_unique = [], [], 0
        for c in drawn_couplings(family.low, family.high, n_couplings, generator):
            hamiltonian = hamiltonian_at(c)
            estimates = energies.draw(family.moved_to(c), hamiltonian, n_samples, generator)
            statistics.append(
                sample_statistics(
                    estimates.e_loc,
                    estimates.samples,
                    hamiltonian.n_sites,
                    hamiltonian.infinite_temperature_energy,
                    estimates.noise,
                    estimates.outside,
                )
            )
            parts.append((c, estimates.samples, estimates.e_loc))
            n_unique += len(estimates.samples.counts)
        update = optimizer.update_family(family, parts)
        if not bool(update.isfinite().all()):
            raise FloatingPointError(f"the update of step {step} is not finite")
        add_to_parameters(family, update)
        variances = [each.variance / family.n_sites for each in statistics]
        record = FamilyRecord(
            step=step,
            energy_per_site=sum(e.energy for e in statistics) / n_couplings / family.n_sites,
            variance_per_site=sum(variances) / n_couplings,
            worst_variance_per_site=max(variances),
            n_unique=n_unique,
            seconds=time.perf_counter() - began,
            figures=dict(optimizer.diagnostics),
        )
        if after_step(record):
            break
