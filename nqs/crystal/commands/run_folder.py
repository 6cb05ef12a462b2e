"""The folder of a training: its configuration, tables by where they lie, and the model in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from nqs.conf.sections import flatten
from nqs.conf.words import merged
from nqs.core.features import fold_features
from nqs.core.sequence import SequenceModel
from nqs.crystal.commands.config import RESUMABLE, Config, current
from nqs.crystal.datasets import inputs
from nqs.crystal.datasets.data import longest_sequence
from nqs.crystal.datasets.data_config import EXAMPLES, DataConfig
from nqs.crystal.datasets.splits import build_tokeniser
from nqs.crystal.model.cores import OF_TRAINING, build_core
from nqs.crystal.tokens.tokeniser import Tokeniser
from nqs.errors import InputError, require, shown
from nqs.runfolder import checkpoint, folder, history
from nqs.runfolder.machine import build_device


def portable(config: Config) -> dict[str, Any]:
    """The configuration as config.yaml holds it, tables by their absolute paths."""
    mapping = config.to_dict()
    for key in ("train", "validation"):
        if mapping["data"][key] not in (None, EXAMPLES):
            mapping["data"][key] = str(Path(mapping["data"][key]).resolve())
    if mapping["train"]["start"] is not None:
        mapping["train"]["start"] = str(Path(mapping["train"]["start"]).resolve())
    return mapping


def read_config(path: Path) -> Config:
    """The configuration of the run in folder `path`."""
    return Config.from_dict(saved_mapping(path))


def saved_mapping(path: Path) -> dict[str, Any]:
    """What config.yaml of the run in `path` says.

    Raises InputError for a run whose tokens meant something else: those of `coordinate` from before
    the formula came first, known by the lack of data.permute, which came with it.
    """
    mapping = folder.saved_mapping(path)
    data = mapping.get("data")
    if isinstance(data, dict) and data.get("tokeniser") == "coordinate" and "permute" not in data:
        raise InputError(
            f"{path}: a run from before the coordinate tokeniser wrote the formula first; its "
            f"tokens cannot be read any more, train it again"
        )
    return current(mapping)


def resumed_config(path: Path, changes: Mapping[str, Any]) -> Config:
    """The saved configuration of the run in `path`, changed in some dotted keys.

    Raises InputError naming a key that differs from the saved run and may not change.
    """
    mapping = saved_mapping(path)
    saved = flatten(mapping)
    permitted = folder.permitted_changes(path, saved, changes, RESUMABLE, _is_same)
    changed = merged(mapping, permitted)
    return Config.from_dict(changed | {"run": {"dir": str(path), "resume": True}})


def _is_same(key: str, saved: Any, value: Any) -> bool:
    """Whether a saved value and another one are equal, tables by where they lie."""
    if key in ("data.train", "data.validation", "train.start") and value not in (None, EXAMPLES):
        value = str(Path(str(value)).resolve())
    return bool(saved == value) or (isinstance(saved, str | list) and str(saved) == str(value))


def token_features(data: DataConfig, tokeniser: Tokeniser) -> torch.Tensor | None:
    """What the run's tokens share, if they do."""
    known = tokeniser.features() if data.features else None
    return None if known is None else torch.from_numpy(known)


def separators(data: DataConfig, tokeniser: Tokeniser) -> tuple[int, ...]:
    """Tokens between a template and the crystal that it is shown to."""
    return (tokeniser.bos, tokeniser.eos) if data.templates else ()


OF_TOKENS: Final = ("tokeniser", "max_atoms", "features", "templates")
"""Keys of the section data that decide of the model's parameters."""


@dataclass(frozen=True)
class Trained:
    """A model ready for use: the best parameters of a run; judged: they are the best ones, not just
    the last (of a run that has not looked at its validation crystals yet)."""

    config: Config
    tokeniser: Tokeniser
    model: SequenceModel
    device: torch.device
    step: int
    judged: bool = True


def read_trained(path: Path, device: str = "auto") -> Trained:
    """The best parameters of the run in folder `path`, whatever has become of its tables.

    Raises InputError for a folder without a readable checkpoint.
    """
    config = read_config(path)
    tokeniser = build_tokeniser(config.data)
    inputs.check_vocabulary(path, tokeniser)
    where = build_device(device)
    core = build_core(
        config.model,
        len(tokeniser.vocabulary),
        longest_sequence(tokeniser, config.data.templates),
        torch.Generator(),
        token_features(config.data, tokeniser),
        separators(config.data, tokeniser),
    ).to(where)
    step, judged = restore_best(path, config, core)
    fold_features(core)
    return Trained(config, tokeniser, core.eval().requires_grad_(False), where, step, judged)


def with_start(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a new run, and those that must be as in the run `train.start` where they are not
    given. Raises InputError for a start that is no run."""
    train = mapping.get("train")
    start = train.get("start") if isinstance(train, Mapping) else None
    if not isinstance(start, str):
        return dict(mapping)
    given, saved = flatten(mapping), flatten(saved_mapping(Path(start)))
    keys = [f"data.{name}" for name in OF_TOKENS]
    if given.get("model.core", saved.get("model.core")) == saved.get("model.core"):
        keys += [key for key in saved if key.startswith("model.")]
    return merged(mapping, {key: saved[key] for key in keys if key in saved and key not in given})


def check_start(config: Config, tokeniser: Tokeniser) -> Config:
    """The configuration of the run whose best parameters another one is to start from. Raises
    InputError, naming the first key that does not fit."""
    path = Path(str(config.train.start))
    saved = read_config(path)
    own, others = flatten(portable(config)), flatten(portable(saved))
    keys = [f"data.{name}" for name in OF_TOKENS if name != "templates"]
    keys += [key for key in {**own, **others} if key.startswith("model.")]
    for key in (key for key in keys if key.removeprefix("model.") not in OF_TRAINING):
        rule = f"must be {shown(others.get(key))} as in train.start={shown(str(path))}"
        require(own.get(key) == others.get(key), key, own.get(key), rule)
    both = bool(config.data.templates) == bool(saved.data.templates)
    rule = f"must be {'> 0' if saved.data.templates else 0} as in train.start={shown(str(path))}"
    require(both, "data.templates", config.data.templates, rule)
    inputs.check_vocabulary(path, tokeniser)
    return saved


def restore_best(path: Path, config: Config, core: SequenceModel) -> tuple[int, bool]:
    """Gives the core the best parameters of the run in folder `path`, the last ones where it has
    not looked at its validation crystals; the step of its checkpoint, and whether it has.

    Raises InputError for a folder without a readable one.
    """
    where = core.head.weight.device
    content = history.read(path / "run.h5")
    saved = checkpoint.newest(
        path / "checkpoints",
        portable(config),
        where,
        warn=print,
        resumable=RESUMABLE,
        current=current,
    )
    content.truncate(0 if saved is None else saved["step"], path)
    if saved is None:
        raise InputError(f"{path}: holds no checkpoint yet; resume the run first")
    checkpoint.restore(core, saved)
    judged = bool(saved["optimizer"]["best"])
    if judged:
        core.load_state_dict(saved["optimizer"]["best"])
    return int(saved["step"]), judged
