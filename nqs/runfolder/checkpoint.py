"""Checkpoints: all that the next step depends on, so that a resumed run is the same bit for bit.

A checkpoint is a plain dictionary of tensors and numbers (loaded with weights_only=True: opening
one from a stranger runs no code), written whole in one step and sealed (digests.py), and only
if everything in it is finite. Two are kept; if the newest is damaged, the older one serves.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from nqs.conf.sections import flatten
from nqs.errors import InputError, shown
from nqs.runfolder import digests
from nqs.runfolder.atomic import write_bytes

FORMAT: Final = "nqs checkpoint 2"
UNSEALED: Final = "nqs checkpoint 1"
"""The same without a seal, as older runs have it."""
KEPT: Final = 2
ENTRIES: Final = {
    "step": int,
    "elapsed": int | float,
    "config": Mapping,
    "model": Mapping,
    "optimizer": Mapping,
    "generator": Tensor,
}


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
    """Writes step-<step>.pt into `folder` and removes all but the two newest.

    generators: (W, S) uint8, the state of each process' source of samples.
    Raises FloatingPointError, with the older ones untouched, if a parameter or a number of the
    optimizer is not finite, and OSError.
    """
    check_finite(step, model, optimizer)
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
    path = folder / name_of(step)
    write_bytes(path, digests.sealed(buffer.getvalue()))
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def name_of(step: int) -> str:
    """The file's name."""
    return f"step-{step:09d}.pt"


def check_finite(step: int, model: Mapping[str, Any], optimizer: Mapping[str, Any]) -> None:
    """Raises FloatingPointError unless all tensors of both hold numbers."""
    for name, content in (("parameters", model), ("numbers of the optimizer", optimizer)):
        if not is_sound(content):
            raise FloatingPointError(f"the {name} after step {step} are not finite")


def is_sound(content: Any) -> bool:
    """Whether no tensor in nested mappings and sequences holds NaN or +inf; -inf is ln 0, in tables
    of states that do not exist."""
    if isinstance(content, Tensor):
        return not bool((content.isnan() | (content.real == torch.inf)).any())
    if isinstance(content, Mapping):
        return all(map(is_sound, content.values()))
    if isinstance(content, str) or not isinstance(content, Sequence):
        return True
    return all(map(is_sound, content))


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if path.is_file())


def newest(
    folder: Path,
    config: Mapping[str, Any],
    device: torch.device,
    warn: Callable[[str], None],
    *,
    resumable: Collection[str] = (),
    current: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> dict[str, Any] | None:
    """The newest readable checkpoint of the run with this configuration; None if there is none yet.

    The keys `resumable` may differ from those that the checkpoint was written with; `current` turns
    what an earlier version wrote into today's keys.
    A damaged one is passed over with one line to `warn`. Raises InputError if the folder is missing
    or none of the existing ones can be read, or if one belongs to another run.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: missing; restore it from a copy, or start a new run")
    paths = checkpoints(folder)
    for path in reversed(paths):
        try:
            content = read(path, device)
        except digests.Damaged as error:
            warn(f"warning: {path} cannot be used ({error}), trying the one before it")
            continue
        _check_origin(path, current(content["config"]), config, resumable)
        return content
    if paths:
        names = ", ".join(path.name for path in paths)
        raise InputError(f"{folder}: no readable checkpoint among {names}; restore one of them")
    return None


def read(path: Path, device: torch.device) -> dict[str, Any]:
    """The content of a checkpoint. Raises Damaged if it is not as it was written or holds NaN, and
    InputError if it is no checkpoint of ours."""
    content, has_seal = load(path, device)
    if content.get("format") not in (FORMAT, UNSEALED):
        raise InputError(f"{path}: not a checkpoint of this program; allowed is '{FORMAT}'")
    if content["format"] == FORMAT and not has_seal:
        raise digests.Damaged("its seal is gone")
    for entry, kind in ENTRIES.items():
        if not isinstance(content.get(entry), kind):
            raise InputError(f"{path}: a checkpoint without {entry}")
    if path.name != name_of(content["step"]):
        raise digests.Damaged(f"it is of step {content['step']}")
    if not is_sound(content["model"]) or not is_sound(content["optimizer"]):
        raise digests.Damaged("it holds numbers that are not finite")
    return content


def load(path: Path, device: torch.device) -> tuple[dict[str, Any], bool]:
    """The mapping in a sealed file of torch's, and whether it has its seal. Raises Damaged."""
    try:
        with digests.unsealed(path) as (file, has_seal):
            content = torch.load(file, map_location=device, weights_only=True)
            if not are_plain(content, file.seek(0, 2)):
                raise digests.Damaged("it holds other tensors than were written")
    except digests.Damaged:
        raise
    except Exception:  # a damaged file can raise almost anything from the unpickler
        raise digests.Damaged("it cannot be read") from None
    return content if isinstance(content, dict) else {}, has_seal


def are_plain(content: Any, room: int) -> bool:
    """Whether all tensors in nested mappings and sequences are ordinary arrays of at most `room`
    bytes: none that is sparse, or repeats a few numbers into many, or holds none at all."""
    if isinstance(content, Tensor):
        ordinary = content.layout == torch.strided and content.device.type != "meta"
        return ordinary and content.numel() * content.itemsize <= room
    if isinstance(content, Mapping):
        return all(are_plain(value, room) for value in content.values())
    if isinstance(content, str) or not isinstance(content, Sequence):
        return True
    return all(are_plain(value, room) for value in content)


@contextlib.contextmanager
def fitting(content: Mapping[str, Any]) -> Iterator[None]:
    """Within: what goes wrong is that the optimizer's part of a checkpoint is of another kind."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"checkpoint at step {content['step']}: its optimizer does not fit this version's; use "
            f"the version in the run's environment.json ({type(error).__name__}: {error})"
        ) from None


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


def _check_origin(
    path: Path, written: Mapping[str, Any], config: Mapping[str, Any], resumable: Collection[str]
) -> None:
    """Raises InputError unless the checkpoint was written with this configuration.

    A key that it lacks is newer than it: the run had what is now the default, as here.
    """
    here, there = flatten(config), flatten(written)
    for key in sorted(there):
        if key not in resumable and here.get(key) != there.get(key):
            raise InputError(
                f"{path}: belongs to another run, {key}={shown(there.get(key))} there "
                f"and {shown(here.get(key))} in this one"
            )
