"""What a checkpoint of a ground-state run holds, put back into the objects of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nqs.errors import InputError, shown
from nqs.ground_states.build import Job, build
from nqs.ground_states.config import RESUMABLE, Config
from nqs.ground_states.older_config import current
from nqs.ground_states.run_folder import portable
from nqs.runfolder import checkpoint
from nqs.vmc.optimizers.optimizer import Optimizer


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
    """Puts a checkpoint's step and directions, (P,) each or None, into the optimizer. Raises
    InputError if they do not fit."""
    with checkpoint.fitting(content):
        state = content["optimizer"]
        for name in optimizer.state_dict():
            value = state[name]
            vector = isinstance(value, Tensor) and value.is_floating_point()
            if name == "step" and (type(value) is not int or value < 0):
                raise ValueError(f"step={shown(value)}")
            if name != "step" and value is not None and not vector:
                raise ValueError(f"{name} is no vector")
            if vector and value.shape != (n_parameters,):
                raise ValueError(f"{name} has the shape {tuple(value.shape)}")
        optimizer.load_state_dict(state)
