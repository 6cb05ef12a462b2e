"""Fresh evaluations of a run's state, as run.h5 keeps them."""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor

from nqs.ground_states.build import Job
from nqs.runfolder import history
from nqs.runfolder.history import Column, Evaluation, RunFile
from nqs.runfolder.machine import build_generator
from nqs.vmc.evaluation import evaluate
from nqs.vmc.observables import owner

NUMBERS: Final = (
    *("energy", "energy_error", "variance", "v_score", "n_samples"),
    *("variance_outside", "excess", "largest_share"),
)
"""Of `nqs.vmc.evaluation.evaluate`, the first five in every version."""


def evaluated(
    job: Job,
    n_samples: int,
    seed: int,
    step: int,
    kind: str,
    *,
    thorough: bool | None = None,
    subsystems: Tensor | None = None,
) -> Evaluation:
    """A fresh evaluation of the job's state; thorough and subsystems as for `evaluate`.

    It draws from a generator of its own: its numbers depend on the parameters, the seed and the
    kind, not on where the run was interrupted.
    """
    stream = "start" if kind == "start" else "evaluation"
    generator = build_generator(seed, stream, job.device, job.ranks.rank)
    result = evaluate(
        job.wavefunction,
        job.hamiltonian,
        n_samples,
        generator,
        lattice=job.lattice,
        thorough=thorough,
        subsystems=subsystems,
        ranks=job.ranks,
        also=job.observables,
    )
    numbers: dict[str, Any] = {name: getattr(result, name) for name in NUMBERS}
    numbers |= {"step": step, "seed": seed, "kind": kind}
    observables = {
        name: (history.array(estimate.value), history.array(estimate.error))
        for name, estimate in result.observables.items()
    }
    coordinates = {name: x.cpu().numpy() for name, x in result.coordinates.items()}
    owners = [(name, owner(name, job.observables)) for name in observables]
    meanings = {name: Column(*known[1].column) for name, known in owners if known}
    return Evaluation(numbers, observables, coordinates, meanings)


def start_evaluation(job: Job) -> Evaluation:
    """Of the parameters that the run starts from, lest it end above them unnoticed."""
    n_samples = max(job.config.train.n_samples, 2 * job.ranks.size)
    return evaluated(job, n_samples, job.config.seed, 0, "start", thorough=False)


def remarks(content: RunFile) -> dict[str, Any]:
    """What a summary has of the evaluations besides the final one: the energy of the state that the
    run started from (train.start_from), and what `nqs evaluate` has measured."""
    entries: dict[str, Any] = {}
    start = content.last("start")
    if start is not None:
        entries["start_energy"] = start.numbers["energy"]
        entries["start_energy_error"] = start.numbers["energy_error"]
    later = [e.numbers for e in content.evaluations if e.numbers["kind"] == "later"]
    if later:
        entries["later_evaluations"] = [
            {name: value for name, value in numbers.items() if name != "kind"} for numbers in later
        ]
    return entries
