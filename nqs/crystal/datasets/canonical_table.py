"""A table with each crystal in its canonical cell: computed once, then kept beside the table.

Reading and reducing MP-20 takes minutes (3 ms a crystal to read its CIF, 4 ms for the canonical
cell); what is kept (nqs.crystal.datasets.cache) is the outcome of both, bit for bit: crystals,
refusals and notes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nqs.crystal.datasets import cache
from nqs.crystal.datasets.data_config import EXAMPLES
from nqs.crystal.datasets.examples import examples
from nqs.crystal.datasets.inputs import digest_of
from nqs.crystal.datasets.tables import Record, Refusal, Table, read_table
from nqs.crystal.parallel import mapped
from nqs.crystal.structures.structure import CrystalError, Structure
from nqs.crystal.structures.symmetry import canonical
from nqs.crystal.tokens.tokeniser import Conditions
from nqs.errors import InputError, shown

KIND: Final = "canonical"
FEWEST: Final = 500
"""Rows of a table that is worth keeping: some seconds of work."""
SOURCES: Final = ("structures", "datasets/tables.py", "datasets/canonical_table.py")
LIBRARIES: Final = ("spglib", "gemmi", "numpy")

_ENERGIES: Final = ("formation_energy", "energy_above_hull")


def canonical_table(path: str, workers: int = 1) -> Table:
    """The table at `path` (or the examples), its crystals canonical; those without a canonical cell
    are among its refusals. Raises InputError."""
    if path == EXAMPLES:
        return _reduced_table(path, Table(examples()), workers)
    file, digest = cache.file_of(path, KIND), digest_of(Path(path))
    key = f"{digest['sha256']} {cache.code_version(SOURCES, LIBRARIES)}"
    known = cache.read(file, key, unpacked)
    if known is not None:
        return known
    table = _reduced_table(path, read_table(path), workers)
    is_large = len(table.records) + len(table.refusals) >= FEWEST
    if is_large and digest_of(Path(path)) == digest:  # it has not changed meanwhile
        cache.write(file, key, packed(table))
    return table


def _reduced_table(path: str, table: Table, workers: int) -> Table:
    reduced = list(mapped(_reduced, table.records, workers))
    found = [record for record in reduced if isinstance(record, Record)]
    refused = [record for record in reduced if isinstance(record, Refusal)]
    if not found:
        raise InputError(f"{shown(path)}: holds no crystal ({refused[0].reason})")
    return Table(found, [*table.refusals, *refused], Counter(table.notes))


def _reduced(record: Record) -> Record | Refusal:
    """The crystal in its canonical cell, or why there is none."""
    try:
        return of_cell(record, canonical(record.structure))
    except CrystalError as error:
        return Refusal(shown(record.name), str(error))


def of_cell(record: Record, structure: Structure) -> Record:
    """The same crystal in another cell: its composition is that of the cell."""
    conditions = dataclasses.replace(record.conditions, composition=structure.composition)
    return Record(record.name, structure, conditions)


def packed(table: Table) -> cache.Content:
    """All of a table whose conditions have the compositions of the cells: S crystals, A atoms in
    all."""
    crystals = [record.structure for record in table.records]
    known = [record.conditions for record in table.records]
    energies = [[getattr(c, name) for name in _ENERGIES] for c in known]
    arrays: dict[str, NDArray[np.float64] | NDArray[np.int64]] = {
        "cells": np.array([[*s.lengths, *s.angles] for s in crystals]),  # (S, 6)
        "n_atoms": np.array([s.n_atoms for s in crystals]),  # (S,)
        "numbers": np.concatenate([s.numbers for s in crystals]),  # (A,)
        "positions": np.concatenate([s.positions for s in crystals]),  # (A, 3)
        "space_groups": np.array([c.space_group or 0 for c in known]),  # (S,) 0: not known
        "energies": np.array(energies, dtype=np.float64),  # (S, 2) NaN: not known
    }
    notes = {
        "names": [record.name for record in table.records],
        "refusals": [[refusal.name, refusal.reason] for refusal in table.refusals],
        "notes": dict(table.notes),
    }
    return cache.Content(arrays, notes)


def unpacked(content: cache.Content) -> Table:
    """The table of `packed`. Raises one of cache.NONSENSE for anything else."""
    arrays, notes = content.arrays, content.notes
    ends = np.cumsum(arrays["n_atoms"])
    if not len(ends) or ends[-1] != len(arrays["numbers"]) or arrays["n_atoms"].min() < 1:
        raise ValueError("numbers of atoms that do not add up")
    records = []
    for name, cell, start, end, group, energies in zip(
        notes["names"],
        arrays["cells"],
        ends - arrays["n_atoms"],
        ends,
        arrays["space_groups"].tolist(),
        arrays["energies"].tolist(),
        strict=True,
    ):
        atoms = slice(start, end)
        structure = Structure(
            cell[:3], cell[3:], arrays["numbers"][atoms], arrays["positions"][atoms]
        )
        known = {
            key: None if np.isnan(value) else value
            for key, value in zip(_ENERGIES, energies, strict=True)
        }
        conditions = Conditions(structure.composition, group or None, **known)
        records.append(Record(str(name), structure, conditions))
    refusals = [Refusal(str(name), str(reason)) for name, reason in notes["refusals"]]
    counts = Counter({str(note): int(count) for note, count in notes["notes"].items()})
    return Table(records, refusals, counts)
