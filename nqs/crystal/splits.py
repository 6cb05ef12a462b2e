"""From tables to encoded crystals: read, brought to the canonical cell, split, encoded."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from nqs.crystal.config import Config, DataConfig
from nqs.crystal.data import Encoded, encode
from nqs.crystal.examples import examples
from nqs.crystal.parallel import mapped
from nqs.crystal.structure import CrystalError, Structure
from nqs.crystal.symmetry import canonical
from nqs.crystal.tables import Record, read_table
from nqs.crystal.tokeniser import Tokeniser
from nqs.crystal.tokenisers import TOKENISERS, make_tokeniser
from nqs.runs.machine import build_generator
from nqs.runs.schema import InputError, require, require_choice

EXAMPLES: Final = "examples"
"""Name of the crystals that come with the package, in place of a table's path."""
NAMES: Final = ("train", "validation", "test")


@dataclass(frozen=True)
class Loaded:
    """Crystals ready for training, and what is worth saying about their tables."""

    train: list[Encoded]
    validation: list[Encoded]
    notes: list[str]


def build_tokeniser(config: DataConfig) -> Tokeniser:
    """The tokeniser of a run. Raises InputError for an unknown one."""
    require_choice("data.tokeniser", config.tokeniser, TOKENISERS)
    return make_tokeniser(config.tokeniser, config.max_atoms)


def load(config: Config, tokeniser: Tokeniser) -> Loaded:
    """The training and validation crystals of a run. Raises InputError if there are none."""
    parts, notes = {}, []
    for name in NAMES[:2]:
        records = split(name, config)
        if name == "train":
            check_known(records, config.data)
        wanted = config.data.conditions
        pairs = [(record.structure, record.conditions) for record in records]
        parts[name], refused = encode(tokeniser, pairs, wanted)
        if not parts[name]:
            why = refused[0] if refused else "it is empty"
            raise InputError(f"data.{name}: no crystal is left to use ({why})")
        if refused:
            left_out = f"{len(refused)} of {len(records)} crystals"
            notes.append(f"{name}: {left_out} cannot be written, the first: {refused[0]}")
    return Loaded(parts["train"], parts["validation"], notes)


def split(name: str, config: Config) -> list[Record]:
    """The crystals of train, validation or test; see DataConfig. Raises InputError."""
    data = config.data
    if data.validation is not None:
        require(name != "test", "like", name, "the run has separate tables; give a table's path")
        return records(data.validation if name == "validation" else data.train, data)
    every = records(data.train, data)
    order = list(range(len(every)))
    if data.shuffle:
        generator = build_generator(config.seed, "split", torch.device("cpu"))
        order = torch.randperm(len(every), generator=generator).tolist()
    shares = [sum(data.split[: i + 1]) for i in range(3)]
    ends = [0, *(round(share * len(every)) for share in shares)]
    index = NAMES.index(name)
    return [every[i] for i in order[ends[index] : ends[index + 1]]]


def records(path: str, data: DataConfig) -> list[Record]:
    """The crystals of a table, canonical where asked for; rows that hold none are left out."""
    return _records(path, data.canonical, data.workers)


@functools.lru_cache(maxsize=4)
def _records(path: str, reduce: bool, workers: int) -> list[Record]:
    found = examples() if path == EXAMPLES else read_table(path).records
    if not reduce:
        return found
    return [record for record in mapped(_reduced, found, workers) if record is not None]


def _reduced(record: Record) -> Record | None:
    """The crystal in its canonical cell, None where there is none."""
    try:
        return of_cell(record, canonical(record.structure))
    except CrystalError:
        return None


def of_cell(record: Record, structure: Structure) -> Record:
    """The same crystal in another cell: its composition is that of the cell."""
    conditions = dataclasses.replace(record.conditions, composition=structure.composition)
    return Record(record.name, structure, conditions)


def check_known(found: Sequence[Record], data: DataConfig) -> None:
    """Raises InputError if a condition is known of no crystal."""
    for name in data.conditions:
        known = any(getattr(record.conditions, name) is not None for record in found)
        rule = f"no crystal of {data.train} says it; leave it out"
        require(known, "data.conditions", name, rule)
