"""From tables to encoded crystals: read, brought to the canonical cell, split, encoded.

Nothing is left out in silence: rows that hold no crystal and crystals that cannot be written are
kept with their reasons (`LeftOut`), said and counted.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from nqs.crystal.datasets.canonical_table import canonical_table
from nqs.crystal.datasets.data import Encoded, encode_one
from nqs.crystal.datasets.data_config import EXAMPLES, DataConfig
from nqs.crystal.datasets.examples import examples
from nqs.crystal.datasets.tables import Record, Table, read_table
from nqs.crystal.parallel import mapped
from nqs.crystal.structures.structure import CrystalError
from nqs.crystal.tokens import Tokeniser, make_tokeniser
from nqs.errors import InputError, require, shown
from nqs.runfolder.machine import build_generator

NAMES: Final = ("train", "validation", "test")
NO_CRYSTAL, UNWRITABLE = "holds no crystal", "cannot be written"
SAID: Final = 5
"""Reasons of a kind that are said; the others are in the file."""


@dataclass(frozen=True)
class LeftOut:
    """A row of a table that is not used: what it is (NO_CRYSTAL, UNWRITABLE) and why."""

    table: str
    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Loaded:
    """Crystals ready for training, what was left out, and what is worth saying."""

    train: list[Encoded]
    validation: list[Encoded]
    left_out: list[LeftOut]
    notes: list[str]


def build_tokeniser(data: DataConfig) -> Tokeniser:
    """The tokeniser of a run. Raises InputError for an unknown one, and for changes of a crystal
    that would not change its tokens."""
    tokeniser = make_tokeniser(data.tokeniser, data.max_atoms)
    for name in ("translate", "permute") if tokeniser.canonical else ("equivalents",):
        change = "data.equivalents=true does" if tokeniser.canonical else "wyckoff has others"
        rule = f"changes no token of data.tokeniser={data.tokeniser}; {change}"
        require(not getattr(data, name), f"data.{name}", "true", rule)
    return tokeniser


def load(data: DataConfig, seed: int, tokeniser: Tokeniser) -> Loaded:
    """The training and validation crystals of a run. Raises InputError if there are none."""
    parts: dict[str, list[Encoded]] = {}
    left_out, notes = [], []
    for name, path in (("train", data.train), ("validation", data.validation)):
        found = path is None or path == EXAMPLES or (path != "" and Path(path).exists())
        rule = "no such file; give the path of a table of crystals"
        require(found, f"data.{name}", path, rule)
    for path in dict.fromkeys(path for path in (data.train, data.validation) if path is not None):
        table = read(path, data)
        left_out += [LeftOut(path, r.name, NO_CRYSTAL, r.reason) for r in table.refusals]
        notes += remarks(path, data)
    for name in NAMES[:2]:
        chosen = split(name, data, seed)
        if name == "train":
            check_known(chosen, data)
        path = data.train if data.validation is None or name == "train" else data.validation
        parts[name], unwritten = [], []
        written = functools.partial(_written, tokeniser, data.conditions)
        workers = data.workers if tokeniser.canonical else 1  # others are as quick as pickling
        for record, crystal in zip(chosen, mapped(written, chosen, workers), strict=True):
            if isinstance(crystal, Encoded):
                parts[name].append(crystal)
            else:
                reason = f"{record.structure.formula}: {crystal}"
                unwritten.append(LeftOut(path, shown(record.name), UNWRITABLE, reason))
        if not parts[name]:
            why = unwritten[0].reason if unwritten else "it is empty"
            raise InputError(f"data.{name}: no crystal is left to use ({why})")
        title = f"{name}: {len(unwritten)} of {len(chosen)} crystals cannot be written"
        notes += _listed(title, [(one.name, one.reason) for one in unwritten])
        left_out += unwritten
    return Loaded(parts["train"], parts["validation"], left_out, notes)


def _written(tokeniser: Tokeniser, conditions: tuple[str, ...], record: Record) -> Encoded | str:
    """The crystal as tokens, or why there are none."""
    try:
        return encode_one(tokeniser, record.structure, record.conditions, conditions)
    except CrystalError as error:
        return str(error)


def remarks(path: str, data: DataConfig) -> list[str]:
    """What is worth saying of a table: rows that hold no crystal, decisions in reading others."""
    table = read(path, data)
    n_rows = len(table.records) + len(table.refusals)
    title = f"{shown(path)}: {len(table.refusals)} of {n_rows} rows hold no crystal"
    lines = _listed(title, [(refusal.name, refusal.reason) for refusal in table.refusals])
    return lines + [f"{shown(path)}: {count} x {note}" for note, count in table.notes.items()]


def _listed(title: str, reasons: Sequence[tuple[str, str]]) -> list[str]:
    """The title and the first reasons; nothing where there are none."""
    if not reasons:
        return []
    lines = [f"{title}:", *(f"    {name}: {reason}" for name, reason in reasons[:SAID])]
    rest = len(reasons) - SAID
    return [*lines, f"    and {rest} more"] if rest > 0 else lines


def left_out_table(rows: Iterable[LeftOut]) -> str:
    """All that was left out as CSV: table, name, kind, reason."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(LeftOut)])
    writer.writerows(dataclasses.astuple(row) for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace").decode()


def split(name: str, data: DataConfig, seed: int) -> list[Record]:
    """The crystals of train, validation or test; see DataConfig. Raises InputError."""
    if data.validation is not None:
        require(name != "test", "like", name, "the run has separate tables; give a table's path")
        return records(data.validation if name == "validation" else data.train, data)
    every = records(data.train, data)
    order = list(range(len(every)))
    if data.shuffle:
        generator = build_generator(seed, "split", torch.device("cpu"))
        order = torch.randperm(len(every), generator=generator).tolist()
    shares = [sum(data.split[: i + 1]) for i in range(3)]
    ends = [0, *(round(share * len(every)) for share in shares)]
    index = NAMES.index(name)
    return [every[i] for i in order[ends[index] : ends[index + 1]]]


def records(path: str, data: DataConfig) -> list[Record]:
    """The crystals of a table, canonical where asked for."""
    return read(path, data).records


def read(path: str, data: DataConfig) -> Table:
    """A table, its crystals canonical where asked for; those without a canonical cell are among
    its refusals. Raises InputError."""
    return _read(path, data.canonical, data.workers)


@functools.lru_cache(maxsize=4)
def _read(path: str, reduce: bool, workers: int) -> Table:
    if path != EXAMPLES and not Path(path).exists():
        raise InputError(f"{shown(path)}: no such file; give the path of a table of crystals")
    if reduce:
        return canonical_table(path, workers)
    return Table(examples()) if path == EXAMPLES else read_table(path)


def check_known(found: Sequence[Record], data: DataConfig) -> None:
    """Raises InputError if a condition is known of no crystal."""
    for name in data.conditions:
        known = any(getattr(record.conditions, name) is not None for record in found)
        rule = f"no crystal of {data.train} says it; leave it out"
        require(known, "data.conditions", name, rule)
