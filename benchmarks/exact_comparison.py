"""One trained state beside the exact ground state: energy, variance, overlap, observables."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.instances import Instance
from benchmarks.measurement import enough_samples
from benchmarks.programs import Ours
from hamiltonians.exact import GroundState, chunks, ground_state
from nqs.ground_states.build import EXACT_GIGABYTES, Job
from nqs.vmc.evaluation import Evaluation
from nqs.vmc.statistics import Estimate
from nqs.wavefunctions.wavefunction import Wavefunction

ENUMERATED = 2**20
"""Configurations up to which the overlap with the exact state is summed."""
PILOT_SAMPLES = 16_384
OBSERVABLES = ("density", "density_density", "sigma_x")


@dataclass(frozen=True)
class Comparison:
    """A row of the table; energies are totals, what could not be computed is nan.

    Attributes:
        exact_energy, gap: E_0 and E_1 - E_0 by exact diagonalisation (in the sector of n_up).
        relative_error: (energy - E_0) / |E_0|, with relative_error_bar its standard error.
        z_score: (energy - E_0) / energy_error.
        fidelity: |<psi|psi_0>|^2 summed over the basis, nan above 2^20 configurations.
        deviation: largest difference of an observable from its exact value in standard errors, and
            largest_difference without; n_observables is the number of values compared.
        seconds: of optimisation; evaluation_seconds: of the measurements; exact_seconds: of ED.
        ended: "finished" (its own plan), "budget" or "failed: why".
        arguments: the command line of train.py, --set included, and the budget.
    """

    instance: str
    model: str
    seed: int
    n_sites: int
    n_parameters: int
    exact_energy: float
    gap: float
    energy: float
    energy_error: float
    relative_error: float
    relative_error_bar: float
    z_score: float
    v_score: float
    fidelity: float
    deviation: float
    largest_difference: float
    n_observables: int
    n_samples: int
    steps: int
    seconds: float
    evaluation_seconds: float
    exact_seconds: float
    ended: str
    arguments: str

    @property
    def failed(self) -> bool:
        return self.ended.startswith("failed")

    @property
    def resolved(self) -> bool:
        """Whether (E - E_0) / gap, a bound of 1 - fidelity, is below 1/2.

        Otherwise the energy cannot tell the ground state from a mixture of nearly equal levels,
        such as one of two ordered patterns: overlap and observables then depend on the choice.
        """
        return self.energy - self.exact_energy < self.gap / 2


@dataclass(frozen=True)
class Exact:
    """The exact ground state of an instance, what a table needs of it, and the seconds it took."""

    state: GroundState
    observables: Mapping[str, NDArray[np.float64]]
    seconds: float


def exact(job: Job) -> Exact:
    """Two lowest levels, ground state and its observables."""
    began = time.perf_counter()
    n_up = job.config.model.n_up
    state = ground_state(job.hamiltonian, k=2, n_up=n_up, max_memory_gb=EXACT_GIGABYTES)
    observables = {name: getattr(state, name)() for name in OBSERVABLES}
    return Exact(state, observables, time.perf_counter() - began)


def trained(program: Ours, budget: float | None) -> tuple[float, str]:
    """Optimises until the program's own end or `budget` seconds: (seconds, how it ended)."""
    began = time.perf_counter()
    program.start()
    while not program.finished:
        program.step()
        if budget is not None and time.perf_counter() - began >= budget:
            break
    ended = "finished" if program.finished else "budget"
    return time.perf_counter() - began, ended


def compare(
    instance: Instance,
    program: Ours,
    reference: Exact,
    *,
    budget: float | None,
    max_samples: int,
    arguments: str,
) -> Comparison:
    """Trains, measures and compares. A failed optimisation gives a row that says so."""
    seconds, steps_taken, nothing = math.nan, 0, math.nan
    evaluation, ended, overlap = None, "", math.nan
    began = time.perf_counter()
    try:
        seconds, ended = trained(program, budget)
        began = time.perf_counter()
        steps_taken = program.steps
        evaluation = measured(program, reference.state.energy, max_samples)
        if len(reference.state.state) <= ENUMERATED:
            overlap = fidelity(program.job.wavefunction, reference.state)
    except (ArithmeticError, RuntimeError, MemoryError) as error:
        ended = f"failed: {' '.join(str(error).split())[:200]}"
    energy, error_bar = (
        (nothing, nothing) if evaluation is None else (evaluation.energy, evaluation.energy_error)
    )
    E_0 = reference.state.energy
    differences = [] if evaluation is None else deviations(evaluation, reference.observables)
    return Comparison(
        instance=instance.name,
        model=program.config.model.name,
        seed=program.config.seed,
        n_sites=reference.state.n_sites,
        n_parameters=program.n_parameters,
        exact_energy=E_0,
        gap=reference.state.gap,
        energy=energy,
        energy_error=error_bar,
        relative_error=(energy - E_0) / abs(E_0),
        relative_error_bar=error_bar / abs(E_0),
        z_score=(energy - E_0) / error_bar if error_bar > 0 else nothing,
        v_score=nothing if evaluation is None else evaluation.v_score,
        fidelity=overlap,
        deviation=max((float(z.max()) for _, z in differences), default=nothing),
        largest_difference=max((float(d.max()) for d, _ in differences), default=nothing),
        n_observables=sum(d.size for d, _ in differences),
        n_samples=0 if evaluation is None else evaluation.n_samples,
        steps=steps_taken,
        seconds=seconds,
        evaluation_seconds=time.perf_counter() - began,
        exact_seconds=reference.seconds,
        ended=ended,
        arguments=arguments,
    )


def measured(program: Ours, exact_energy: float, max_samples: int) -> Evaluation:
    """Fresh samples: as many as a pilot of them says the accuracy reached calls for."""
    n_pilot = min(PILOT_SAMPLES, max_samples)
    pilot = program.evaluation(n_pilot)
    n_samples = enough_samples(n_pilot, pilot.energy, pilot.energy_error, exact_energy, max_samples)
    if n_samples == n_pilot:
        return pilot
    return program.evaluation(n_samples)


@torch.no_grad()
def fidelity(wavefunction: Wavefunction, state: GroundState) -> float:
    """|<psi|psi_0>|^2 / <psi|psi>, summed over the configurations of `state`."""
    device = next(wavefunction.parameters()).device
    overlap, norm = 0j, 0.0
    for first, configs in chunks(state.n_sites, state.n_up, size=8_192):
        psi = wavefunction.log_psi(configs.to(device)).exp().cpu().numpy()  # (B,)
        overlap += complex(np.vdot(psi, state.state[first : first + len(psi)]))
        norm += float(np.vdot(psi, psi).real)
    return abs(overlap) ** 2 / norm


def deviations(
    evaluation: Evaluation, exact_values: Mapping[str, NDArray[np.float64]]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """|value - exact| and the same in standard errors of each observable that was measured.

    A value that no draw contributed to has the error 0, and a correlation counts once: pairs i <= j
    of an (N, N). 1 / n_samples is the least error.
    """
    found = []
    for name, exact_value in exact_values.items():
        if name not in evaluation.observables:
            continue
        difference, error = difference_and_error(evaluation.observables[name], exact_value)
        found.append((difference, difference / error.clip(min=1 / evaluation.n_samples)))
    return found


def difference_and_error(
    estimate: Estimate, exact_value: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """|value - exact| and the standard error, flat; of a symmetric matrix i <= j only."""
    value, error = estimate.value.cpu().numpy(), estimate.error.cpu().numpy()
    places = np.triu_indices(len(value)) if value.ndim == 2 else slice(None)
    return np.abs(value - exact_value)[places], error[places]
