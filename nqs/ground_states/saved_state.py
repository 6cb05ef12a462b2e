"""What a checkpoint of a ground-state run holds, put back into the objects of the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from nqs.errors import InputError, shown
from nqs.ground_states.build import Job, build
from nqs.ground_states.config import RESUMABLE, Config
from nqs.ground_states.older_config import current
from nqs.ground_states.run_folder import portable
from nqs.runfolder import checkpoint
from nqs.runfolder.machine import derived_seed
from nqs.vmc.optimizers.optimizer import Optimizer

MOST_NUMBERS: Final = 1_000
"""In a small array of an optimizer's state."""


def newest_checkpoint(
    path: Path, config: Config, device: torch.device, warn: Callable[[str], None] = print
) -> dict[str, Any] | None:
    """The newest sound checkpoint of the run in folder `path`, None before the first; see
    `checkpoint.newest`. Raises InputError."""
    return checkpoint.newest(
        path / "checkpoints",
        portable(config),
        device,
        warn,
        resumable=RESUMABLE,
        current=current,
    )


def trained_job(
    path: Path, config: Config, device: str = "auto", warn: Callable[[str], None] = print
) -> tuple[Job, int]:
    """The objects of the run in folder `path`, whose configuration is `config`, at its newest sound
    checkpoint, and the step of that. Raises InputError."""
    job = build(config.replace(device=device))
    saved = newest_checkpoint(path, config, job.device, warn)
    if saved is None:
        raise InputError(f"{path}: holds no checkpoint yet; resume the run first")
    checkpoint.restore(job.wavefunction, saved)
    return job, saved["step"]


def restore_optimizer(optimizer: Optimizer, content: Mapping[str, Any], n_parameters: int) -> None:
    """Puts a checkpoint's numbers, vectors of P parameters (None in a fresh optimizer) and small
    arrays into the optimizer; what an earlier version has not written stays as in a fresh one.
    Raises InputError if they do not fit."""
    with checkpoint.fitting(content):
        fresh = optimizer.state_dict()
        state = {**fresh, "step": content["optimizer"]["step"], **content["optimizer"]}
        for name, new in fresh.items():
            value = state[name]
            if isinstance(new, int | float):
                if type(value) is not type(new) or not 0 <= value < math.inf:
                    raise ValueError(f"{name}={shown(value)}")
            elif value is not None or new is not None:
                check_array(name, value, None if new is None else new.ndim, n_parameters)
        optimizer.load_state_dict(state)


def restore_generator(job: Job, states: Tensor, step: int, say: Callable[[str], None]) -> None:
    """Puts this rank's of the saved states (W, S) into the generator of the samples; where others
    were saved, seeds one of its own, and says so."""
    states, ranks = torch.atleast_2d(states).cpu(), job.ranks
    if states.shape == (ranks.size, len(job.generator.get_state())):
        job.generator.set_state(states[ranks.rank].clone())  # torch crashes on a view
        return
    job.generator.manual_seed(derived_seed(job.config.seed, "samples", (ranks.rank, step)))
    say(
        f"saved with {len(states)} generators, for another number of processes or kind of "
        "device: the samples go on differently, seeded anew by seed, process and step "
        f"{step}"
    )


def check_array(name: str, value: object, ndim: int | None, n_parameters: int) -> None:
    """Raises ValueError unless value is a float vector of the parameters (ndim None), or a float
    array of ndim dimensions and at most MOST_NUMBERS numbers."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(f"{name} is no array")
    small = value.ndim == ndim and value.numel() <= MOST_NUMBERS
    if not small and (ndim is not None or value.shape != (n_parameters,)):
        raise ValueError(f"{name} has the shape {tuple(value.shape)}")
