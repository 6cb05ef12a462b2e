"""The configuration of a crystal language model's training: every key, its range and its default.

`nqs crystal train` takes them as KEY=VALUE, from a YAML file, or both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from nqs.conf.sections import flatten, from_mapping, to_mapping
from nqs.errors import InputError, require, require_choice, shown, suggestion
from nqs.runfolder import run_config
from nqs.runfolder.text_file import read_text

CORES: Final = ("transformer", "linear_attention", "ssm", "gru", "lstm")
EXAMPLES: Final = "examples"
"""Name of the crystals that come with the package, in place of a table's path."""
CONDITIONS: Final = ("space_group", "formation_energy", "energy_above_hull", "composition")
PRECISIONS: Final = ("float32", "bfloat16")
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
MOST: Final = {
    "model.d_model": 65_536,
    "model.n_layers": 1_000,
    "model.d_ff": 1_000_000,
    "model.d_state": 65_536,
    "data.max_atoms": 2_000,
    "data.batch_tokens": 10_000_000,
    "data.workers": 256,
    "train.steps": 10**12,
}
"""Largest values that make sense, of the keys that cost memory, time or processes."""
LARGEST_RATE: Final = 1e6
"""Of a learning rate or a weight decay: beyond it nothing is left of the parameters."""
LEAST_RATE: Final = 1e-15
"""Of a learning rate: below it rounding undoes every step."""
LARGEST_YAML: Final = 2**20
"""Bytes of a file of keys."""


def _at_least(key: str, value: int | None, lowest: int) -> None:
    most = MOST.get(key)
    rule = f"must be a whole number >= {lowest}" + (f" and <= {most}" if most else "")
    fits = value is None or lowest <= value <= (most or value)
    require(fits, key, value, rule)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The sequence model, one of the cores that serve the wavefunctions too."""

    core: str = "transformer"
    """Kind: transformer, linear_attention, ssm (diagonal state space), gru or lstm."""
    d_model: int = 128
    """Width, >= 1; with attention a multiple of n_heads."""
    n_layers: int = 4
    """Number of layers, >= 1."""
    n_heads: int = 4
    """Attention heads, >= 1; must divide d_model (transformer, linear_attention)."""
    d_ff: int | None = None
    """Width of the feed-forward layers, >= 1; null means 4 d_model (not gru, lstm)."""
    d_state: int | None = None
    """Complex modes of each recurrence, >= 1; null means d_model (ssm)."""

    def __post_init__(self) -> None:
        require_choice("model.core", self.core, CORES)
        for key in ("d_model", "n_layers", "n_heads", "d_ff", "d_state"):
            _at_least(f"model.{key}", getattr(self, key), 1)
        if self.core in ("transformer", "linear_attention"):
            divisors = [n for n in range(1, self.d_model + 1) if self.d_model % n == 0]
            rule = f"must divide model.d_model={self.d_model}; use one of " + ", ".join(
                map(str, divisors[:8])
            )
            require(self.d_model % self.n_heads == 0, "model.n_heads", self.n_heads, rule)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Crystals, and what the model is asked about them."""

    train: str = EXAMPLES
    """Crystals to learn: a table (.csv, .csv.gz with a column cif), a CIF file, a folder of them,
    or examples, 361 ideal ionic crystals that come with the package."""
    validation: str | None = None
    """Table of crystals that judge; null splits data.train."""
    split: tuple[float, ...] = (0.8, 0.1, 0.1)
    """Shares of data.train for training, validation and test, in this order; they add up to 1 (only
    without data.validation)."""
    shuffle: bool = True
    """Bring data.train into a random order (the seed's) before it is split; false: file order."""
    canonical: bool = True
    """Write each crystal in its primitive Niggli-reduced cell, atoms by element and place; false:
    as the table has it."""
    tokeniser: str = "coordinate"
    """How a crystal is written as tokens: coordinate, character, cif or text."""
    max_atoms: int = 20
    """Most atoms in a cell, >= 1; larger crystals are left out."""
    conditions: tuple[str, ...] = ("composition",)
    """What samples can be asked for: composition, space_group, formation_energy, energy_above_hull,
    as far as the table knows it. The tokenisers coordinate and cif always write the composition."""
    condition_dropout: float = 0.5
    """Chance with which each condition is left out of a crystal in an epoch, in [0, 1]."""
    infilling: float = 0.1
    """Share of crystals that ask for a hidden element instead, drawn anew each epoch, in [0, 1)."""
    translate: bool = False
    """Move each crystal by a random vector each epoch: an exact shift of its coordinate tokens."""
    permute: bool = False
    """Write the atoms of each crystal in a new random order each epoch; false: by element and
    place (data.canonical) or as the table has them."""
    batch_tokens: int = 2048
    """Tokens of a batch, padding included, >= 1 (and at least one crystal)."""
    workers: int = 1
    """Processes that bring the crystals of a table into their canonical cells, 4 ms each, >= 1."""

    def __post_init__(self) -> None:
        rule = "give three shares >= 0 that add up to 1, the first two > 0, e.g. [0.8,0.1,0.1]"
        valid = len(self.split) == 3 and min(self.split) >= 0 and min(self.split[:2]) > 0
        require(valid and math.isclose(sum(self.split), 1), "data.split", self.split, rule)
        for name in self.conditions:
            require_choice("data.conditions", name, CONDITIONS)
        rule = "each condition at most once"
        require(len({*self.conditions}) == len(self.conditions), "data.conditions",
                self.conditions, rule)  # fmt: skip
        inside = 0 <= self.condition_dropout <= 1
        require(inside, "data.condition_dropout", self.condition_dropout, "must be in [0, 1]")
        require(0 <= self.infilling < 1, "data.infilling", self.infilling, "must be in [0, 1)")
        _at_least("data.batch_tokens", self.batch_tokens, 1)
        _at_least("data.max_atoms", self.max_atoms, 1)
        _at_least("data.workers", self.workers, 1)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a cosine schedule."""

    learning_rate: float = 2e-3
    """Step size at the top of the schedule, 1e-15 .. 1e6."""
    warmup_steps: int = 50
    """Steps over which it first rises from 0, >= 0 and < train.steps."""
    final_fraction: float = 0.02
    """Learning rate at the last step as a fraction of learning_rate, 1e-9 .. 1."""
    weight_decay: float = 0.1
    """Decay of the matrices of linear layers, per step and learning rate, >= 0."""
    beta1: float = 0.9
    """Decay of the mean gradient, 0 .. 0.999999."""
    beta2: float = 0.99
    """Decay of the mean squared gradient, 0 .. 0.999999."""
    clip_norm: float = 1.0
    """Longest gradient that is applied unscaled, 1e-12 .. 1e12."""

    def __post_init__(self) -> None:
        rate = self.learning_rate
        rule = f"must be a number >= {LEAST_RATE:g} and <= {LARGEST_RATE:g}"
        require(LEAST_RATE <= rate <= LARGEST_RATE, "optimizer.learning_rate", rate, rule)
        rule = "must be a number >= 1e-12 and <= 1e+12"
        require(1e-12 <= self.clip_norm <= 1e12, "optimizer.clip_norm", self.clip_norm, rule)
        for key in ("beta1", "beta2"):
            value = getattr(self, key)
            rule = "must be >= 0 and <= 0.999999"
            require(0 <= value <= 0.999999, f"optimizer.{key}", value, rule)
        _at_least("optimizer.warmup_steps", self.warmup_steps, 0)
        rule = "must be >= 1e-09 and <= 1"
        inside = 1e-9 <= self.final_fraction <= 1
        require(inside, "optimizer.final_fraction", self.final_fraction, rule)
        rule = f"must be a number >= 0 and <= {LARGEST_RATE:g}"
        decays = 0 <= self.weight_decay <= LARGEST_RATE
        require(decays, "optimizer.weight_decay", self.weight_decay, rule)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to train and when to look."""

    steps: int = 1000
    """Optimisation steps, >= 1, over which the learning rate falls."""
    max_seconds: float | None = None
    """Budget of the optimisation in seconds, > 0: then stop and report; null has none."""
    validate_every: int = 50
    """Steps between looks at the validation crystals, >= 1 (and after the last step)."""
    patience: int | None = 20
    """Stop after so many looks without a better one, >= 1; null never. The best ones are kept."""
    checkpoint_every: int = 250
    """Steps between checkpoints, >= 1 (and never more than five minutes apart)."""
    precision: str = "float32"
    """Numbers in which products are computed: float32 or bfloat16 (torch's autocast)."""

    def __post_init__(self) -> None:
        for key in ("steps", "validate_every", "patience", "checkpoint_every"):
            _at_least(f"train.{key}", getattr(self, key), 1)
        seconds = self.max_seconds
        rule = "must be a number > 0"
        require(seconds is None or seconds > 0, "train.max_seconds", seconds, rule)
        require_choice("train.precision", self.precision, PRECISIONS)


@dataclass(frozen=True, kw_only=True)
class RunConfig(run_config.RunConfig):
    """Where the run lives."""

    dir: str | None = None
    """Folder of the run; null makes a numbered one under runs/. Never overwritten."""
    resume: bool = False
    """Continue the run in run.dir from its newest checkpoint; start it if there is none."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """All of a run. Two runs with equal configurations on one machine are equal bit for bit."""

    data: DataConfig = DataConfig()
    """Crystals and tasks."""
    model: ModelConfig = ModelConfig()
    """Sequence model."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Update of the parameters."""
    train: TrainConfig = TrainConfig()
    """Length of the training."""
    run: RunConfig = RunConfig()
    """Files."""
    seed: int = 0
    """Seed of the initial weights, the split and the batches, >= 0."""
    device: str = "auto"
    """Where to compute: auto (a GPU if there is one), cpu or cuda."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, "seed", self.seed, "must be >= 0 and < 2^63")
        require_choice("device", self.device, ("auto", "cpu", "cuda"))
        warmup, steps = self.optimizer.warmup_steps, self.train.steps
        rule = f"must be less than train.steps={steps}; shorten the warm-up or lengthen the run"
        require(warmup < steps, "optimizer.warmup_steps", warmup, rule)

    @staticmethod
    def from_dict(mapping: Mapping[str, Any]) -> Config:
        """The configuration of a nested mapping; raises InputError (a ValueError), one line."""
        return from_mapping(Config, mapping)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain mapping; from_dict(to_dict()) is equal."""
        return to_mapping(self)


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


def parsed(words: Iterable[str]) -> dict[str, Any]:
    """{'train.steps': 500} of ['train.steps=500']; values as YAML writes them."""
    given: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise InputError(f"{shown(word)}: not understood; write key=value, e.g. seed=1")
        if key in given:
            raise InputError(f"{key}: given twice")
        given[key] = _value(key, text)
    return given


def _value(key: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except Exception:  # YAML's constructors raise almost anything
        raise InputError(
            f"{key}={shown(text)}: not understood; quote brackets and colons"
        ) from None
    if isinstance(value, str):
        try:
            return float(value)  # YAML takes 1e-3 for text
        except ValueError:
            return value
    return value


def merged(base: Mapping[str, Any], given: Mapping[str, Any], known: Iterable[str]) -> Any:
    """The nested mapping `base` with dotted keys `given` put in; known: all dotted keys.

    Raises InputError for an unknown key, with the closest known one.
    """
    known = list(known)
    result = {key: dict(v) if isinstance(v, Mapping) else v for key, v in base.items()}
    for key, value in given.items():
        if key not in known:
            hint = suggestion(key, known) or f"; known are {', '.join(known)}"
            raise InputError(f"{key}: unknown key{hint}")
        section, _, name = key.rpartition(".")
        target = result.setdefault(section, {}) if section else result
        if not isinstance(target, dict):
            raise InputError(f"{section}={shown(target)}: must be a mapping of keys")
        target[name] = value
    return result


def known_keys() -> list[str]:
    """Every dotted key of Config."""
    example = {
        "data": {name: None for name in DataConfig.__dataclass_fields__},
        "model": {name: None for name in ModelConfig.__dataclass_fields__},
        "optimizer": {name: None for name in OptimizerConfig.__dataclass_fields__},
        "train": {name: None for name in TrainConfig.__dataclass_fields__},
        "run": {name: None for name in RunConfig.__dataclass_fields__},
        "seed": None,
        "device": None,
    }
    return list(flatten(example))
