"""Checkpoints: all that the next step depends on, so that a resumed run is the same bit for bit.

A checkpoint is a plain dictionary of tensors and numbers (loaded with weights_only=True: opening
one from a stranger runs no code), written whole in one step. Two are kept; if the newest cannot be
read, the older one serves.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from nqs.runs.atomic import write_bytes
from nqs.runs.config import RESUMABLE
from nqs.runs.schema import InputError, flatten, shown

FORMAT: Final = "nqs checkpoint 1"
KEPT: Final = 2
ENTRIES: Final = {"format", "step", "elapsed", "config", "model", "optimizer", "generator"}


def save(
    folder: Path,
    *,
    step: int,
    elapsed: float,
    config: Mapping[str, Any],
    model: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    generators: Tensor,
) -> Path:
    """Writes step-<step>.pt into `folder` and removes all but the two newest. Raises OSError.

    generators: (W, S) uint8, the state of each process' source of samples.
    """
    buffer = io.BytesIO()
    content = {
        "format": FORMAT,
        "step": step,
        "elapsed": elapsed,
        "config": dict(config),
        "model": dict(model),
        "optimizer": dict(optimizer),
        "generator": generators,
    }
    torch.save(content, buffer)
    path = folder / f"step-{step:09d}.pt"
    write_bytes(path, buffer.getvalue())
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def newest(
    folder: Path,
    config: Mapping[str, Any],
    device: torch.device,
    warn: Callable[[str], None],
    *,
    resumable: Collection[str] = RESUMABLE,
) -> dict[str, Any] | None:
    """The newest readable checkpoint of the run with this configuration; None if there is none yet.

    The keys `resumable` may differ from those that the checkpoint was written with.
    An unreadable one is passed over with one line to `warn`. Raises InputError if none of the
    existing ones can be read, or if one belongs to another run.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        content = _load(path, device)
        if content is None:
            warn(f"warning: {path} cannot be read (damaged?), trying the one before it")
            continue
        _check_origin(path, content, config, resumable)
        return content
    if found:
        names = ", ".join(path.name for path in found)
        raise InputError(f"{folder}: no readable checkpoint among {names}; restore one of them")
    return None


def restore(model: torch.nn.Module, content: Mapping[str, Any]) -> None:
    """Puts a checkpoint's parameters into the model. Raises InputError if they do not fit,
    which is how a checkpoint of another version of the code shows."""
    try:
        model.load_state_dict(content["model"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"checkpoint at step {content['step']}: its parameters do not fit this version's "
            f"model; use the version in the run's environment.json ({reason})"
        ) from None


def _load(path: Path, device: torch.device) -> Any:
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception:  # a damaged file can raise almost anything from the unpickler
        return None
    return content if content is not None else {}


def _check_origin(
    path: Path, content: Any, config: Mapping[str, Any], resumable: Collection[str]
) -> None:
    """Raises InputError unless content is a checkpoint of ours with this configuration.

    A key that it lacks is newer than it: the run had what is now the default, as here.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of this program; allowed is '{FORMAT}'")
    missing = ENTRIES - set(content)
    if missing:
        raise InputError(f"{path}: a checkpoint without {', '.join(sorted(missing))}")
    here, there = flatten(config), flatten(content["config"])
    for key in sorted(there):
        if key not in resumable and here.get(key) != there.get(key):
            raise InputError(
                f"{path}: belongs to another run, {key}={shown(there.get(key))} there "
                f"and {shown(here.get(key))} in this one"
            )
