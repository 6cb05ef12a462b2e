"""Variational Monte Carlo on one screen: sample, local energies, update, record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.invariance import check_invariance
from nqs.vmc.columns import Column
from nqs.vmc.energies import Blurred, Energies
from nqs.vmc.optimizers.gradient import add_to_parameters
from nqs.vmc.optimizers.optimizer import Optimizer
from nqs.vmc.ranks import ALONE, Ranks
from nqs.vmc.statistics import sample_statistics
from nqs.wavefunctions.wavefunction import Wavefunction


@dataclass(frozen=True)
class StepRecord:
    """What one step measured, before its update; energies in the Hamiltonian's units.

    Attributes:
        columns: those of every step; step counts from 1, n_unique is the number of rows that were
            evaluated.
        figures: the columns of the optimizer and of the energies, by name.
    """

    columns: ClassVar[tuple[Column, ...]] = (
        Column("step", "1", "optimisation step, from 1"),
        Column("energy", "couplings", "mean local energy of the step's samples"),
        Column("energy_error", "couplings", "standard error of that mean"),
        Column("variance", "couplings^2", "variance of the local energy"),
        Column("v_score", "1", "N Var(H) / (E - E_inf)^2"),
        Column("n_unique", "1", "distinct configurations among the samples"),
        Column("seconds", "s", "wall time of the step"),
    )
    step: int
    energy: float
    energy_error: float
    variance: float
    v_score: float
    n_unique: int
    seconds: float
    figures: Mapping[str, float]

    def row(self) -> dict[str, float]:
        """All of it by column."""
        own = {column.name: float(getattr(self, column.name)) for column in self.columns}
        return own | dict(self.figures)


def optimise(
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    optimizer: Optimizer,
    *,
    energies: Energies | None = None,
    n_steps: int,
    n_samples: int,
    generator: torch.Generator,
    first_step: int = 0,
    ranks: Ranks = ALONE,
    after_step: Callable[[StepRecord], bool] = lambda record: False,
) -> None:
    """Minimise <H> over the parameters of `wavefunction`, in place.

    Steps first_step + 1 .. n_steps; `after_step` sees each record once the update is applied and
    stops the loop by returning True. All randomness comes from `generator`. energies: where the
    samples and their local energies come from, Blurred() by default; what it measures on the way
    stays in it.
    ranks: the processes that share the samples and the work of each step. All begin with the same
    parameters, each has a generator of its own, and `after_step` answers alike on all of them.
    Raises FloatingPointError, before touching the parameters, if the energy or the update is not
    finite, and ValueError if the Hamiltonian lacks a symmetry that the wavefunction has by
    construction, or the wavefunction what the energies need.
    """
    energies = Blurred() if energies is None else energies
    check_invariance(hamiltonian, wavefunction.symmetry)
    energies.check(wavefunction)
    draw = (wavefunction, hamiltonian, n_samples, generator)
    for step in range(first_step + 1, n_steps + 1):
        began = time.perf_counter()
        energies.before_step(step, *draw, ranks=ranks)
        estimates = energies.draw(*draw, ranks=ranks)
        samples = estimates.samples
        energy = sample_statistics(
            estimates.e_loc,
            samples,
            hamiltonian.n_sites,
            hamiltonian.infinite_temperature_energy,
            estimates.noise,
            estimates.outside,
        )
        update = ranks.broadcast(optimizer.update(wavefunction, samples, estimates.e_loc, ranks))
        if not bool(update.isfinite().all()):
            raise FloatingPointError(f"the update of step {step} is not finite")
        add_to_parameters(wavefunction, update)
        record = StepRecord(
            step=step,
            energy=energy.energy,
            energy_error=energy.energy_error,
            variance=energy.variance,
            v_score=energy.v_score,
            n_unique=len(samples.counts),
            figures=optimizer.diagnostics | energies.record(estimates),
            seconds=time.perf_counter() - began,
        )
        if after_step(record):
            break
