"""From tables to the crystals of a run: read, brought to the canonical cell, split.

Nothing is left out in silence: rows that hold no crystal and crystals that cannot be written are
kept with their reasons (`LeftOut`), said and counted.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from nqs.crystal.datasets.canonical_table import canonical_table
from nqs.crystal.datasets.data_config import EXAMPLES, DataConfig
from nqs.crystal.datasets.examples import examples
from nqs.crystal.datasets.tables import CONDITION_COLUMNS, Record, Table, read_table
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


def build_tokeniser(data: DataConfig) -> Tokeniser:
    """The tokeniser of a run. Raises InputError for an unknown one, and for changes of a crystal
    that would not change its tokens."""
    tokeniser = make_tokeniser(data.tokeniser, data.max_atoms)
    for name in ("translate", "permute") if tokeniser.canonical else ("equivalents",):
        change = "data.equivalents=true does" if tokeniser.canonical else "wyckoff has others"
        rule = f"changes no token of data.tokeniser={data.tokeniser}; {change}"
        require(not getattr(data, name), f"data.{name}", "true", rule)
    return tokeniser


def remarks(path: str, data: DataConfig) -> list[str]:
    """What is worth saying of a table: rows that hold no crystal, decisions in reading others."""
    table = read(path, data)
    n_rows = len(table.records) + len(table.refusals)
    title = f"{shown(path)}: {len(table.refusals)} of {n_rows} rows hold no crystal"
    lines = listed(title, [(refusal.name, refusal.reason) for refusal in table.refusals])
    return lines + [f"{shown(path)}: {count} x {note}" for note, count in table.notes.items()]


def listed(title: str, reasons: Sequence[tuple[str, str]]) -> list[str]:
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
    if data.grouped:
        return [every[i] for i in grouped(every, order, ends)[index]]
    return [every[i] for i in order[ends[index] : ends[index + 1]]]


def grouped(every: Sequence[Record], order: Sequence[int], ends: Sequence[int]) -> list[list[int]]:
    """The crystals in three parts: formula by formula, in the order of their first crystals, into
    the part in which the first one would be if each of those before it had counted for all of its
    own. Parts end within the crystals of one formula of `ends`."""
    members: dict[str, list[int]] = defaultdict(list)
    for i in order:
        members[every[i].structure.reduced_formula].append(i)
    parts: list[list[int]] = [[], [], []]
    n_placed = 0
    for group in members.values():
        part = next(k for k in range(3) if n_placed < ends[k + 1])
        parts[part] += group
        n_placed += len(group)
    return parts


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


def check_known(found: Sequence[Record], data: DataConfig, tokeniser: Tokeniser) -> None:
    """Raises InputError if a condition is known of no crystal, and not from its tokens."""
    for name in data.conditions:
        known = any(getattr(record.conditions, name) is not None for record in found)
        known |= name == "space_group" and tokeniser.writes_group
        columns = CONDITION_COLUMNS.get(name, "")
        rule = f"no crystal of {data.train} says it (columns {columns}); leave it out"
        require(known, "data.conditions", name, rule)
