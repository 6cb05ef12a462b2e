"""Variational Monte Carlo of a whole family: at each step some couplings, and one update."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from nqs.vmc.columns import Column
from nqs.vmc.draw_shares import DrawShares
from nqs.vmc.energies import Blurred, Energies
from nqs.vmc.optimizers.gradient import add_to_parameters
from nqs.vmc.optimizers.natural_gradient import NaturalGradient
from nqs.vmc.ranks import ALONE, Ranks
from nqs.vmc.statistics import sample_statistics
from nqs.wavefunctions.conditional import Conditional
from nqs.wavefunctions.wavefunction import Samples


@dataclass(frozen=True)
class FamilyRecord:
    """What one step measured, before its update; energies in the Hamiltonians' units.

    Attributes:
        columns: those of every step; step counts from 1.
        figures: the columns of the optimizer and of the energies, by name.
    """

    columns: ClassVar[tuple[Column, ...]] = (
        Column("step", "1", "optimisation step, from 1"),
        Column("energy", "couplings", "mean over the step's couplings of the mean local energy"),
        Column("energy_error", "couplings", "standard error of that mean at these couplings"),
        Column("variance", "couplings^2", "mean of the variances of the local energy"),
        Column("worst_variance", "couplings^2", "the largest of them"),
        Column("v_score", "1", "mean of N Var(H) / (E - E_inf)^2"),
        Column("n_unique", "1", "distinct configurations among the samples of each coupling"),
        Column("seconds", "s", "wall time of the step"),
    )
    step: int
    energy: float
    energy_error: float
    variance: float
    worst_variance: float
    v_score: float
    n_unique: int
    seconds: float
    figures: Mapping[str, float]

    def row(self) -> dict[str, float]:
        """All of it by column."""
        own = {column.name: float(getattr(self, column.name)) for column in self.columns}
        return own | dict(self.figures)


def optimise_family(
    family: Conditional,
    hamiltonian_at: Callable[[Tensor], Hamiltonian],
    optimizer: NaturalGradient,
    *,
    couplings: Callable[[int], Tensor],
    energies: Energies | None = None,
    shares: DrawShares | None = None,
    n_steps: int,
    n_samples: int,
    generator: torch.Generator,
    first_step: int = 0,
    ranks: Ranks = ALONE,
    after_step: Callable[[FamilyRecord], bool] = lambda record: False,
) -> None:
    """Minimise the mean of <H(c)> over the distribution of the couplings c, in place.

    Steps first_step + 1 .. n_steps. couplings: step -> c (C, n) of that step, the same on all
    ranks, which share them. n_samples: draws of a step, which its couplings share as `shares` says,
    which learns from each step.
    hamiltonian_at: (n,) -> H. The rest as for `nqs.vmc.optimise`. Raises FloatingPointError, before
    touching the parameters, if an energy or the update is not finite.
    """
    energies = Blurred() if energies is None else energies
    shares = DrawShares(range(len(family.low))) if shares is None else shares
    for step in range(first_step + 1, n_steps + 1):
        began = time.perf_counter()
        points = couplings(step)
        x = family.scaled(points)
        draws = shares.of(x, n_samples)
        parts: list[tuple[Tensor, Samples, Tensor]] = []
        measured, figures = [], dict[str, float]()
        for i in range(len(points))[ranks.share(len(points))]:
            psi, hamiltonian = family.moved_to(points[i]), hamiltonian_at(points[i])
            if not parts:
                energies.before_step(step, psi, hamiltonian, draws[i], generator, ranks=ALONE)
            estimates = energies.draw(psi, hamiltonian, draws[i], generator, ranks=ALONE)
            energy = sample_statistics(
                estimates.e_loc,
                estimates.samples,
                hamiltonian.n_sites,
                hamiltonian.infinite_temperature_energy,
                estimates.noise,
                estimates.outside,
            )
            figures = energies.record(estimates)
            parts.append((points[i], estimates.samples, estimates.e_loc))
            n_unique = len(estimates.samples.counts)
            measured.append(
                [energy.energy, energy.energy_error**2, energy.variance, energy.v_score, n_unique]
            )
        update = optimizer.update_family(family, parts, ranks, len(points))
        update = ranks.broadcast(update)
        if not bool(update.isfinite().all()):
            raise FloatingPointError(f"the update of step {step} is not finite")
        add_to_parameters(family, update)
        table = ranks.gathered(torch.tensor(measured, dtype=torch.float64, device=update.device))
        shares.see(x, table[:, 2])
        mean = table.mean(0).tolist()
        record = FamilyRecord(
            step=step,
            energy=mean[0],
            energy_error=(mean[1] / len(points)) ** 0.5,
            variance=mean[2],
            worst_variance=float(table[:, 2].max()),
            v_score=mean[3],
            n_unique=round(float(table[:, 4].sum())),
            figures=optimizer.diagnostics | figures,
            seconds=time.perf_counter() - began,
        )
        if after_step(record):
            break
