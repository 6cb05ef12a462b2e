"""A run that starts from trained parameters never ends above them.

The energy of the start is measured before the first step, with as many draws as a step has. Where
the final energy is not significantly below that, the start is measured again with the draws of the
final evaluation; and where the final energy is above that one by more than SIGMAS standard errors
of both, the start's parameters are the result: they take the place of the last ones in the newest
checkpoint, which is what everything reads, and the optimizer begins anew at its step. The history
keeps the steps, and an evaluation of the kind `raised` what they led to. A resumed run goes on from
the start's parameters, with the schedules where they are: what raised the energy was a longer step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from nqs.ground_states.build import Job, build_optimizer
from nqs.ground_states.start import network, read_start
from nqs.ground_states.summary import with_error
from nqs.runfolder.history import Evaluation, RunFile

SIGMAS: Final = 2.0
RAISED: Final = "raised"
"""Kind of the evaluation of parameters that were given up for the start's."""


@dataclass(frozen=True)
class StartState:
    """Parameters of a job's network.

    Attributes:
        step: of the run that they come from, 0 if that is not known.
        model: its state_dict.
    """

    step: int
    model: Mapping[str, Tensor]

    @classmethod
    def of(cls, job: Job) -> StartState:
        """A copy of those that it has now."""
        state = network(job.wavefunction).state_dict()
        return cls(0, {name: entry.detach().clone() for name, entry in state.items()})

    def is_of(self, job: Job) -> bool:
        """Whether these are the ones that the job's network has now."""
        state = network(job.wavefunction).state_dict()
        return all(
            torch.equal(entry.cpu(), self.model[name].cpu()) for name, entry in state.items()
        )

    @classmethod
    def read(cls, file: Path) -> StartState:
        """Of an inputs/start.pt. Raises InputError."""
        content = read_start(file)
        return cls(content["step"], content["model"])


def is_below(one: Evaluation, other: Evaluation) -> bool:
    """Whether the energy of one is significantly below the other's."""
    return _sigmas(one, other) < -SIGMAS


def is_above(one: Evaluation, other: Evaluation) -> bool:
    """Whether the energy of one is significantly above the other's."""
    return _sigmas(one, other) > SIGMAS


def _sigmas(one: Evaluation, other: Evaluation) -> float:
    """Difference of the energies in standard errors of both, which are at least what rounding
    makes of them."""
    energies = [evaluation.numbers["energy"] for evaluation in (one, other)]
    errors = [evaluation.numbers["energy_error"] for evaluation in (one, other)]
    rounding = 1e-7 * max(map(abs, energies))
    return float((energies[0] - energies[1]) / max(math.hypot(*errors, rounding), 1e-300))


def as_raised(evaluation: Evaluation) -> Evaluation:
    """The evaluation as one of parameters that are given up."""
    return dataclasses.replace(evaluation, numbers=evaluation.numbers | {"kind": RAISED})


def begin_anew(job: Job, step: int) -> None:
    """Puts the job's optimizer where it is before its first update, but for the step."""
    state = build_optimizer(job.config, job.hamiltonian, job.wavefunction).state_dict()
    job.optimizer.load_state_dict(state | ({"step": step} if "step" in state else {}))


def line_about(raised: Evaluation, start: Evaluation) -> str:
    """What the run says."""
    return f"the steps raised the energy to {_shown(raised)} from {_shown(start)}; keeps the start"


def _shown(evaluation: Evaluation) -> str:
    return with_error(evaluation.numbers["energy"], evaluation.numbers["energy_error"])


def remark(content: RunFile) -> dict[str, Any]:
    """What a summary says of a result that is the start: the energy that the steps led to."""
    raised, final = content.last(RAISED), content.last("final")
    if raised is None or final is None or raised.numbers["step"] != final.numbers["step"]:
        return {}
    names = ("energy", "energy_error")
    return {f"raised_{name}": raised.numbers[name] for name in names}
