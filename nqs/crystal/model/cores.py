"""The section `model` of a training: any core that serves the wavefunctions, with its own keys.

Crystals have words of their own for some cores, and other defaults: attention by softmax of queries
and keys (what matters in a crystal is what was said, not where), wider layers, residual ones.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor

from nqs.conf.kinds import MISSING, Group, Key, Selection, keys_of, naming
from nqs.core import Recurrent, SequenceModel, Transformer
from nqs.core.features import share_features
from nqs.core.own_models import check_model
from nqs.core.sections import InSections
from nqs.core.sequence import EmbeddingModel
from nqs.errors import InputError, require, shown

GIVEN: Final = frozenset({"n_tokens", "n_outputs", "length", "generator"})
"""What every core is supplied with, where it has such a parameter."""
ABSENT: Final = frozenset({"lengths", "coordinates", "grid", "products", "writes_tokens"})
"""What only tokens that have places or digits are supplied with."""
WORDS: Final[dict[str, tuple[type[SequenceModel], dict[str, Any]]]] = {
    "transformer": (Transformer, {}),
    "gru": (Recurrent, {"cell": "gru"}),
    "lstm": (Recurrent, {"cell": "lstm"}),
}
"""Words for cores with some keys decided."""
DEFAULTS: Final = {"d_model": 128, "n_layers": 4, "attention": "softmax", "residual": True}
WIDTHS: Final = {"d_ff": 4, "d_state": 1}
"""Keys whose default, null, stands for so many times d_model."""
OF_TRAINING: Final = frozenset({"dropout"})
"""Keys that say how a core learns, and nothing of its parameters or what they stand for."""
EARLIER: Final = frozenset({"n_heads", "d_ff", "d_state"})
"""Keys that earlier runs wrote for every core."""


@final
@dataclass(frozen=True)
class Cores(Group):
    """The cores that can read crystals, by their names and the words for them."""

    @property
    def kinds(self) -> dict[str, type]:
        """{word or name: class}; without those that need what crystals do not have."""
        serving = {name: kind for name, kind in SequenceModel.kinds.items() if not needs(kind)}
        return {word: kind for word, (kind, _) in WORDS.items()} | serving

    def find(self, name: Any) -> type:
        """See Group.find; InputError for a core that needs what crystals do not have."""
        kind = SequenceModel.kinds.get(name) if isinstance(name, str) else None
        kind = super().find(name) if kind is None else kind
        for parameter in needs(kind):
            rule = f"needs {parameter}, which crystals do not have; use {', '.join(self.kinds)}"
            raise InputError(f"{self.name}={shown(name)}: {rule}")
        return kind

    def keys(self, name: str) -> dict[str, Key]:
        """The keys of a core but for those that the word decides, with the defaults of crystals."""
        decided = WORDS[name][1] if isinstance(name, str) and name in WORDS else {}
        return {
            key: _of_crystals(entry)
            for key, entry in keys_of(self.find(name), self.supplied).items()
            if key not in decided
        }

    def read(self, mapping: Any, prefix: str = "model") -> Selection:
        """The core and the keys of a section `model`: {"core": ..., ...}, or "name" for core.

        Raises InputError.
        """
        rule = "must be a mapping of keys, e.g. model: {d_model: 128}"
        require(isinstance(mapping, Mapping), prefix, mapping, rule)
        name = mapping.get("core", mapping.get("name", "transformer"))
        rest = {key: value for key, value in mapping.items() if key != "core"}
        return super().read(rest | {"name": name}, prefix)


def _of_crystals(key: Key) -> Key:
    """The key with what crystals say of it."""
    if key.name not in WIDTHS:
        default = DEFAULTS.get(key.name, key.default)
        return dataclasses.replace(key, default=default)
    text, times = key.text.split("; null")[0].rstrip("."), WIDTHS[key.name]
    meaning = "d_model" if times == 1 else f"{times} d_model"
    return Key(key.name, key.hint | None, None, f"{text}; null means {meaning}.")


def needs(kind: type) -> list[str]:
    """What a core's constructor needs that crystals do not have."""
    constructor = getattr(kind, "from_keys", kind)
    parameters = inspect.signature(constructor).parameters
    return [name for name in parameters if name in ABSENT and parameters[name].default is MISSING]


CORES: Final = Cores(
    "model.core",
    SequenceModel,
    GIVEN | ABSENT,
    "The sequence model, one of the cores that serve the wavefunctions too",
)


def core_choice(core: str = "transformer", **keys: Any) -> Selection:
    """A core with keys, others at their defaults. Raises InputError."""
    return CORES.read({"core": core} | keys)


def section(model: Selection) -> dict[str, Any]:
    """A core and its keys as the section `model` writes them; `CORES.read` takes it."""
    mapping = model.to_mapping()
    return {"core": mapping.pop("name")} | mapping


def current_section(model: Mapping[str, Any]) -> dict[str, Any]:
    """A section `model` as earlier versions wrote it, without the keys that its core never read."""
    keys = CORES.keys(model.get("core", "transformer"))
    return {key: value for key, value in model.items() if key in keys or key not in EARLIER}


def width_of(model: Selection, key: str) -> int:
    """A width, null resolved; 0 for cores without it."""
    if key not in model.values:
        return 0
    width = model.values[key]
    return int(WIDTHS[key] * model.get("d_model", 0) if width is None else width)


def build_core(
    model: Selection,
    n_tokens: int,
    max_length: int,
    generator: torch.Generator,
    features: Tensor | None = None,
    separators: Sequence[int] = (),
) -> SequenceModel:
    """Logits over n_tokens from n_tokens, up to max_length positions; parameters from generator.

    features: what tokens share, (n_tokens, F), where the core has tables of them.
    separators: tokens between texts of which it reads several in a row, for cores that can be told
    where in a text they are (those that read vectors).
    Raises InputError for keys that do not fit.
    """
    keys = dict(model.values) | (WORDS[model.name][1] if model.name in WORDS else {})
    keys |= {key: width_of(model, key) for key in WIDTHS if key in keys}
    supplied = {
        "n_tokens": n_tokens,
        "n_outputs": n_tokens,
        "length": max_length,
        "generator": generator,
    }
    constructor = getattr(model.kind, "from_keys", model.kind)
    parameters = inspect.signature(constructor).parameters
    taken = {name: value for name, value in supplied.items() if name in parameters}
    with naming("model"):
        core: SequenceModel = constructor(**taken, **keys)
    if type(core) not in SequenceModel.kinds.values():
        core.eval()  # dropout is for training
        check_model(core, "model.core")
        core.train()
    if features is not None:
        share_features(core, features, generator)
    if separators and isinstance(core, EmbeddingModel):
        return InSections(core, separators, generator)
    return core
