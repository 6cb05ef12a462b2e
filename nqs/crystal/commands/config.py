"""The configuration of a crystal language model's training: every key, its range and its default.

`nqs crystal train` takes them as KEY=VALUE, from a YAML file, or both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_type_hints

import yaml

from nqs.conf.kinds import Selection
from nqs.conf.sections import from_mapping, to_mapping
from nqs.crystal.datasets.data_config import DataConfig
from nqs.crystal.model.cores import CORES, core_choice, current_section, section
from nqs.crystal.model.optimizer_config import OptimizerConfig
from nqs.errors import InputError, require, shown
from nqs.runfolder import run_config
from nqs.runfolder.text_file import read_text

RESUMABLE: Final = (
    "train.max_seconds",
    "train.patience",
    "train.checkpoint_every",
    "data.workers",
    "run.dir",
    "run.resume",
    "device",
)
"""Keys that may change when a run is resumed; every other one would make it another run."""
LARGEST_YAML: Final = 2**20
"""Bytes of a file of keys."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to train and when to look."""

    steps: Annotated[int, "1 .. 1e12"] = 1000
    """Optimisation steps, >= 1, over which the learning rate falls."""
    max_seconds: float | None = None
    """Budget of the optimisation in seconds, > 0: then stop and report; null has none."""
    validate_every: Annotated[int, "1 .. 1e12"] = 50
    """Steps between looks at the validation crystals, >= 1 (and after the last step)."""
    patience: Annotated[int, "1 .. 1e12"] | None = 20
    """Stop after so many looks without a better one, >= 1; null never. The best ones are kept."""
    checkpoint_every: Annotated[int, "1 .. 1e12"] = 250
    """Steps between checkpoints, >= 1 (and never more than five minutes apart)."""
    start: str | None = None
    """Folder of a run whose best parameters are the first ones (fine-tuning); null begins at
    random. Tokeniser, max_atoms, features, templates and the model are that run's."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Numbers in which products are computed: float32 or bfloat16 (torch's autocast)."""

    def __post_init__(self) -> None:
        seconds = self.max_seconds
        rule = "must be a number > 0"
        require(seconds is None or seconds > 0, "train.max_seconds", seconds, rule)


@dataclass(frozen=True, kw_only=True)
class RunConfig(run_config.RunConfig):
    """Where the run lives."""

    dir: str | None = None
    """Folder of the run; null makes a numbered one under runs/. Never overwritten."""
    resume: bool = False
    """Continue the run in run.dir from its newest checkpoint; with keys of more than the section
    run, start it if there is none."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """All of a run. Two runs with equal configurations on one machine are equal bit for bit."""

    data: DataConfig = field(default_factory=DataConfig)
    """Crystals and tasks."""
    model: Annotated[Selection, CORES] = field(default_factory=core_choice)
    """Sequence model."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Update of the parameters."""
    train: TrainConfig = TrainConfig()
    """Length of the training."""
    run: RunConfig = RunConfig()
    """Files."""
    seed: int = 0
    """Seed of the initial weights, the split and the batches, >= 0."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: auto (a GPU if there is one), cpu or cuda."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, "seed", self.seed, "must be >= 0 and < 2^63")
        warmup, steps = self.optimizer.warmup(self.train.steps), self.train.steps
        rule = f"must be less than train.steps={steps}; shorten the warm-up or lengthen the run"
        require(warmup < steps, "optimizer.warmup_steps", warmup, rule)

    @staticmethod
    def from_dict(mapping: Mapping[str, Any]) -> Config:
        """The configuration of a nested mapping; raises InputError (a ValueError), one line."""
        return from_mapping(Config, mapping)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain mapping; from_dict(to_dict()) is equal."""
        return to_mapping(self) | {"model": section(self.model)}


def current(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier version wrote of a run, in today's keys."""
    model, data, optimizer = (mapping.get(name) for name in ("model", "data", "optimizer"))
    changed = {"model": current_section(model)} if isinstance(model, Mapping) else {}
    if isinstance(data, Mapping) and "features" not in data:  # from before there were any
        changed["data"] = {**data, "features": False}
    if isinstance(optimizer, Mapping) and "muon" not in optimizer:  # likewise
        changed["optimizer"] = {**optimizer, "muon": None}
    return dict(mapping) | changed


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises InputError if there is none."""
    text = read_text(path, LARGEST_YAML)
    try:
        mapping = yaml.safe_load(text)
    except Exception as error:  # YAML's constructors raise almost anything
        raise InputError(f"{path}: not readable ({shown(error)})") from None
    if not isinstance(mapping, dict):
        raise InputError(f"{path}: must be a mapping of keys, e.g. model: {{d_model: 128}}")
    return mapping


def known_keys(core: Any = None) -> list[str]:
    """Every dotted key of Config; of the section model those of all cores and of `core`."""
    known = []
    for name, hint in get_type_hints(Config).items():
        if is_dataclass(hint):
            known += [f"{name}.{one.name}" for one in fields(hint)]
        elif name != "model":
            known.append(name)
    cores = [*CORES.kinds] if core is None else [core, *CORES.kinds]
    known += ["model.core", *(f"model.{key}" for one in cores for key in CORES.keys(one))]
    return list(dict.fromkeys(known))
