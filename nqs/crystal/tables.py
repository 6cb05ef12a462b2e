"""Tables of crystals: CSV files with a `cif` column (.csv, .csv.gz), CIF files, folders of them.

Other columns become conditions where they mean one:

    formation_energy_per_atom       eV per atom
    heat_all                        of cubic perovskites: eV per cell of five atoms, hence / atoms
    e_above_hull                    eV per atom
    spacegroup.number, space_group  1..230; else the group that a symmetric CIF names

The composition is always that of the cell.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nqs.crystal.cif import CifCrystal, crystal_from_cif, read_text
from nqs.crystal.cif.blocks import LONGEST_TEXT
from nqs.crystal.structure import CrystalError, Structure
from nqs.crystal.tokeniser import Conditions
from nqs.runs.schema import shown

_NAMES = ("material_id", "name", "id", "")
_GROUPS = ("spacegroup.number", "space_group")


@dataclass(frozen=True)
class Record:
    """A crystal, what it is called and what is known of it."""

    name: str
    structure: Structure
    conditions: Conditions


@dataclass(frozen=True)
class Refusal:
    """A row that holds no crystal, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Table:
    """What a file holds: its crystals in order, and the rows that are none."""

    records: list[Record] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def read_table(path: str | Path, limit: int | None = None) -> Table:
    """The crystals of a CSV table, of a CIF file, or of every CIF file of a folder.

    Args:
        limit: rows to read, from the first; None: all.

    Raises CrystalError, naming the file, if it cannot be read, has no `cif` column, or holds not
    one crystal.
    """
    table = Table()
    try:
        for index, (name, row) in enumerate(_rows(Path(path))):
            if index == limit:
                break
            try:
                table.records.append(_record(name, row))
            except CrystalError as error:
                table.refusals.append(Refusal(name, str(error)))
    except CrystalError as error:
        raise CrystalError(f"{path}: {error}") from None
    if not table.records:
        first = table.refusals[0] if table.refusals else Refusal("no row", "the table is empty")
        raise CrystalError(f"{path}: holds no crystal ({first.name}: {first.reason})")
    return table


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """(name, columns) of each row; a CIF file is a row of its own."""
    if path.is_dir():
        for file in sorted(path.glob("*.cif")):
            yield file.stem, {"cif": read_text(file)}
    elif path.suffix == ".cif":
        yield path.stem, {"cif": read_text(path)}
    elif path.name.endswith((".csv", ".csv.gz")):
        yield from _csv_rows(path)
    else:
        raise CrystalError("must be a .csv, a .csv.gz, a .cif or a folder of .cif files")


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    csv.field_size_limit(LONGEST_TEXT)
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if "cif" not in (reader.fieldnames or ()):
                columns = ", ".join(reader.fieldnames or ()) or "none"
                raise CrystalError(f"has no column cif, its columns are {shown(columns)}")
            for index, row in enumerate(reader):
                name = next((row[key] for key in _NAMES if row.get(key)), None)
                yield name or f"row {index + 1}", row
    except UnicodeDecodeError:
        raise CrystalError("not a text file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise CrystalError("the gzip file is damaged") from None
    except csv.Error as error:
        raise CrystalError(f"not a CSV table: {error}") from None
    except OSError as error:
        raise CrystalError(error.strerror or "cannot be read") from None


def _record(name: str, row: Mapping[str, str]) -> Record:
    crystal = crystal_from_cif(row["cif"] or "")
    return Record(name, crystal.structure, _conditions(row, crystal))


def _conditions(row: Mapping[str, str], crystal: CifCrystal) -> Conditions:
    energy = _value(row, "formation_energy_per_atom")
    if energy is None and (heat := _value(row, "heat_all")) is not None:
        energy = heat / crystal.structure.n_atoms
    hull = _value(row, "e_above_hull")
    group = next((value for key in _GROUPS if (value := _value(row, key)) is not None), None)
    return Conditions(
        composition=crystal.structure.composition,
        space_group=crystal.space_group if group is None else _whole(group),
        formation_energy=energy,
        energy_above_hull=None if hull is None else max(hull, 0.0),  # -1e-12 is on the hull
    )


def _value(row: Mapping[str, str], column: str) -> float | None:
    """A number, or None where the column or its entry is missing."""
    text = (row.get(column) or "").strip()
    if text.lower() in ("", "nan", "none"):
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CrystalError(f"{column} is {shown(text)}: must be a number")
    return value


def _whole(group: float) -> int:
    if group != int(group) or not 1 <= group <= 230:
        raise CrystalError(f"space group {group:g}: must be a whole number within 1..230")
    return int(group)
