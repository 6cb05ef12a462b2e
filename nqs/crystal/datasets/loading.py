"""The crystals of a run as tokens, with the templates that they are shown."""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nqs.crystal.datasets.data import Encoded, encode_one, template_prompt
from nqs.crystal.datasets.data_config import EXAMPLES, DataConfig
from nqs.crystal.datasets.splits import (
    NAMES,
    NO_CRYSTAL,
    UNWRITABLE,
    LeftOut,
    check_known,
    listed,
    read,
    records,
    remarks,
    split,
)
from nqs.crystal.datasets.tables import Record
from nqs.crystal.datasets.templates import Exchange, Templates
from nqs.crystal.datasets.written_table import Body, bodies
from nqs.crystal.parallel import mapped
from nqs.crystal.structures.structure import CrystalError
from nqs.crystal.tokens import Tokeniser
from nqs.errors import InputError, require, shown


@dataclass(frozen=True)
class Loaded:
    """Crystals ready for training, what was left out, and what is worth saying."""

    train: list[Encoded]
    validation: list[Encoded]
    left_out: list[LeftOut]
    notes: list[str]


def load(data: DataConfig, seed: int, tokeniser: Tokeniser) -> Loaded:
    """The training and validation crystals of a run. Raises InputError if there are none."""
    left_out, notes = [], []
    for name, path in (("train", data.train), ("validation", data.validation)):
        found = path is None or path == EXAMPLES or (path != "" and Path(path).exists())
        rule = "no such file; give the path of a table of crystals"
        require(found, f"data.{name}", path, rule)
    for path in dict.fromkeys(path for path in (data.train, data.validation) if path is not None):
        table = read(path, data)
        left_out += [LeftOut(path, r.name, NO_CRYSTAL, r.reason) for r in table.refusals]
        notes += remarks(path, data)
    check_known(split("train", data, seed), data, tokeniser)
    parts: dict[str, list[Encoded]] = {}
    for name in NAMES[:2]:
        parts[name], unwritten = encoded_part(name, data, seed, tokeniser)
        n_chosen = len(parts[name]) + len(unwritten)
        if not parts[name]:
            why = unwritten[0].reason if unwritten else "it is empty"
            own = name == "train" or data.validation is not None
            where = f"data.{name}" if own else f"data.split={list(data.split)}, validation"
            raise InputError(f"{where}: no crystal is left to use ({why})")
        title = f"{name}: {len(unwritten)} of {n_chosen} crystals cannot be written"
        notes += listed(title, [(one.name, one.reason) for one in unwritten])
        left_out += unwritten
    if data.templates:
        add_prompts(parts, data, tokeniser)
    return Loaded(parts["train"], parts["validation"], left_out, notes)


def encoded_part(
    name: str, data: DataConfig, seed: int, tokeniser: Tokeniser
) -> tuple[list[Encoded], list[LeftOut]]:
    """The crystals of train, validation or test as tokens, and those that cannot be written."""
    path = data.train if data.validation is None or name == "train" else data.validation
    known = known_bodies(path, data, tokeniser)
    written: list[Encoded] = []
    unwritten: list[LeftOut] = []
    for record in split(name, data, seed):
        crystal = _written(tokeniser, data.conditions, record, known.get(id(record)))
        if isinstance(crystal, Encoded):
            written.append(crystal)
        else:
            reason = f"{record.structure.formula}: {crystal}"
            unwritten.append(LeftOut(path, shown(record.name), UNWRITABLE, reason))
    return written, unwritten


def known_bodies(path: str, data: DataConfig, tokeniser: Tokeniser) -> dict[int, Body]:
    """The tokens of all crystals of a table by the identity of their records; nothing for
    tokenisers that write them as quickly again."""
    if not tokeniser.canonical:
        return {}
    every = records(path, data)
    found = bodies(path, every, tokeniser, data.workers, keep=data.canonical)
    return {id(record): body for record, body in zip(every, found, strict=True)}


def _written(
    tokeniser: Tokeniser, conditions: tuple[str, ...], record: Record, body: Body | None
) -> Encoded | str:
    """The crystal as tokens, or why there are none; `body`: its own, if it has been written."""
    if isinstance(body, str):
        return body
    known = record.conditions
    try:
        body = tuple(tokeniser.encode(record.structure)) if body is None else body
        if tokeniser.writes_group and known.space_group is None:
            known = dataclasses.replace(known, space_group=tokeniser.group_of(body))
        return encode_one(tokeniser, record.structure, known, conditions, body)
    except CrystalError as error:
        return str(error)


def add_prompts(
    parts: dict[str, list[Encoded]],
    data: DataConfig,
    tokeniser: Tokeniser,
    names: Sequence[str] = NAMES,
) -> None:
    """Gives every crystal of the parts `names` prompts that show its data.templates nearest
    templates, made of the crystals of parts["train"] other than itself; templates that cannot be
    written are left out."""
    train = parts["train"]
    templates = Templates([crystal.structure for crystal in train])
    tasks: list[tuple[tuple[int, ...], Exchange]] = []
    places: list[tuple[str, int]] = []
    for name in [name for name in parts if name in names]:
        own = range(len(train)) if name == "train" else None
        wanted = [crystal.structure.composition for crystal in parts[name]]
        for place, exchanges in enumerate(templates.nearest(wanted, data.templates, own)):
            tasks += [(train[exchange.index].body, exchange) for exchange in exchanges]
            places += [(name, place)] * len(exchanges)
    written = functools.partial(_prompt, tokeniser)
    found: dict[tuple[str, int], list[tuple[int, ...]]] = defaultdict(list)
    for key, prompt in zip(places, mapped(written, tasks, data.workers), strict=True):
        if prompt:
            found[key].append(prompt)
    for (name, place), prompts in found.items():
        parts[name][place] = dataclasses.replace(parts[name][place], prompts=tuple(prompts))


def _prompt(tokeniser: Tokeniser, task: tuple[tuple[int, ...], Exchange]) -> tuple[int, ...]:
    """What shows a template; () where it cannot be written."""
    try:
        return template_prompt(tokeniser, *task)
    except CrystalError:
        return ()
