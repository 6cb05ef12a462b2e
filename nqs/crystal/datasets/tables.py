"""Tables of crystals: CSV files with a `cif` column (.csv, .csv.gz), CIF files, folders of them.

Other columns become conditions where they mean one:

    formation_energy_per_atom       eV per atom
    heat_all                        of cubic perovskites: eV per cell of five atoms, hence / atoms
    e_above_hull                    eV per atom
    spacegroup.number, space_group  1..230; else the group that a symmetric CIF names

The composition is always that of the cell. Rows that hold no crystal are kept with their reasons;
so is what had to be decided to read the others, and which files of a folder were not read.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nqs.crystal.structures.cif import CifCrystal, crystal_from_cif, crystals_from_cif, read_text
from nqs.crystal.structures.cif.blocks import LONGEST_TEXT
from nqs.crystal.structures.structure import CrystalError, Structure
from nqs.crystal.tokens.tokeniser import Conditions
from nqs.errors import InputError, shown
from nqs.runfolder import text_file

LARGEST: Final = 512 * 2**20
"""Bytes of a table, after decompression."""
MOST_ROWS: Final = 2_000_000
"""Rows of a table, or files of a folder."""
SEPARATORS: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}

CONDITION_COLUMNS: Final = {
    "formation_energy": "formation_energy_per_atom, heat_all",
    "energy_above_hull": "e_above_hull",
    "space_group": "spacegroup.number, space_group, or the group of a symmetric CIF",
}
"""Where a condition stands in a table, in words."""
_NAMES = ("material_id", "name", "id", "")
_GROUPS = ("spacegroup.number", "space_group")
_TABLES, _CIFS = (".csv", ".csv.gz", ".tsv", ".tsv.gz"), (".cif", ".cif.gz")


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
    """What a file holds: its crystals in order, the rows that are none, and how often what was
    decided to read the others."""

    records: list[Record] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Row:
    """One crystal to be: its columns, or what is wrong with the row or the file."""

    name: str
    columns: Mapping[str, str]
    crystal: CifCrystal | None = None
    reason: str = ""


def read_table(path: str | Path, limit: int | None = None) -> Table:
    """The crystals of a CSV table, of a CIF file, or of every CIF file of a folder.

    Args:
        limit: rows to read, from the first; None: all.

    Raises CrystalError, naming the file, if it cannot be read, has no `cif` column, or holds not
    one crystal.
    """
    table = Table()
    try:
        for index, row in enumerate(_rows(Path(path), table.notes)):
            if index == limit:
                break
            if index == MOST_ROWS:
                raise CrystalError(f"has more than {MOST_ROWS} rows, the most that are read")
            try:
                table.records.append(_record(row, table.notes))
            except CrystalError as error:
                table.refusals.append(Refusal(shown(row.name), str(error)))
    except InputError as error:
        raise CrystalError(_naming(path, error)) from None
    if not table.records:
        first = table.refusals[0] if table.refusals else Refusal("no row", "the table is empty")
        raise CrystalError(f"{path}: holds no crystal ({first.name}: {first.reason})")
    return table


def _naming(path: str | Path, error: InputError) -> str:
    text = str(error)
    return text if text.startswith(f"{path}: ") else f"{path}: {text}"


def _rows(path: Path, notes: Counter[str]) -> Iterator[_Row]:
    """Each row; a CIF file is one for each of its crystals."""
    name = path.name.lower()
    if path.is_dir():
        files = cif_files(path)
        others = sum(1 for _ in path.iterdir()) - len(files)
        if others:
            notes["in the folder that is no CIF file and was not read"] = others
        for file in files:
            yield from _cif_rows(file)
    elif name.endswith(_CIFS):
        yield from _cif_rows(path)
    elif name.endswith(_TABLES):
        yield from _csv_rows(path)
    else:
        raise CrystalError("must be a .csv, a .csv.gz, a .cif or a folder of .cif files")


def cif_files(folder: Path) -> list[Path]:
    """The CIF files of a folder, in the order of their names. Raises CrystalError."""
    try:
        return sorted(file for file in folder.iterdir() if file.name.lower().endswith(_CIFS))
    except OSError as error:
        raise CrystalError(f"cannot be read ({error.strerror})") from None


def _cif_rows(path: Path) -> Iterator[_Row]:
    stem = path.name[: path.name.lower().rindex(".cif")]
    try:
        found = crystals_from_cif(_content(path, LONGEST_TEXT))
    except InputError as error:
        yield _Row(path.name, {}, reason=str(error).removeprefix(f"{path}: "))
        return
    for block, crystal in found:
        name = stem if len(found) == 1 else f"{stem}:{block}"
        if isinstance(crystal, CrystalError):
            yield _Row(name if len(found) > 1 else path.name, {}, reason=str(crystal))
        else:
            yield _Row(name, {}, crystal)


def _csv_rows(path: Path) -> Iterator[_Row]:
    csv.field_size_limit(LONGEST_TEXT)
    text = _content(path, LARGEST)
    header = text[: text.find("\n") % (len(text) + 1)]
    reader = csv.reader(_lines(text), delimiter=_separator(header))
    try:
        columns = [name.strip().lower() for name in next(reader, [])]
        twice = [name for name, count in Counter(columns).items() if count > 1]
        if "cif" not in columns or twice:
            reason = f"has the column {twice[0]} twice" if twice else "has no column cif"
            raise CrystalError(f"{reason}, its columns are {shown(', '.join(columns) or 'none')}")
        for index, values in enumerate(line for line in reader if line):
            number = f"row {index + 1}"
            if len(values) != len(columns):
                reason = f"{len(values)} columns where the header has {len(columns)}"
                yield _Row(number, {}, reason=reason)
                continue
            row = dict(zip(columns, values, strict=True))
            name = next((row[key] for key in _NAMES if row.get(key)), number)
            yield _Row(name, row)
    except csv.Error as error:
        raise CrystalError(f"not a CSV table: {error} (line {reader.line_num})") from None


def _separator(header: str) -> str:
    """That which makes `cif` a column; a comma if none does."""
    for separator in SEPARATORS:
        names = next(csv.reader([header], delimiter=separator), [])
        if "cif" in (name.strip().lower() for name in names):
            return separator
    return ","


def _lines(text: str) -> Iterator[str]:
    """The lines of a text, ends included, without a copy of the whole."""
    start = 0
    while start < len(text):
        stop = text.find("\n", start) + 1 or len(text)
        yield text[start:stop]
        start = stop


def _content(path: Path, largest: int) -> str:
    """The text of a file, decompressed where its name ends in .gz, of at most `largest` bytes.

    Raises CrystalError, naming the file for what text_file refuses.
    """
    if not path.name.lower().endswith(".gz"):
        return read_text(path) if largest == LONGEST_TEXT else text_file.read_text(path, largest)
    compressed = text_file.read_bytes(path, largest)
    try:
        with gzip.open(io.BytesIO(compressed)) as file:
            data = file.read(largest + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise CrystalError("the gzip file is damaged") from None
    if len(data) > largest:
        raise CrystalError(
            f"is larger than {largest / 2**20:.3g} MB when decompressed, the most that is read"
        )
    return text_file.decoded(data)


def _record(row: _Row, notes: Counter[str]) -> Record:
    """The crystal of a row. Raises CrystalError if it holds none."""
    if row.reason:
        raise CrystalError(row.reason)
    crystal = row.crystal or crystal_from_cif(row.columns["cif"])
    conditions = _conditions(row.columns, crystal)
    notes.update(crystal.notes)
    return Record(row.name, crystal.structure, conditions)


def _conditions(row: Mapping[str, str], crystal: CifCrystal) -> Conditions:
    energy = _value(row, "formation_energy_per_atom")
    if energy is None and (heat := _value(row, "heat_all")) is not None:
        energy = heat / crystal.structure.n_atoms
    hull = _value(row, "e_above_hull")
    column = next((key for key in _GROUPS if _value(row, key) is not None), None)
    group = crystal.space_group
    if column is not None:
        stated = _whole(_value(row, column))
        if group not in (None, stated):
            raise CrystalError(f"column {column} {stated} and the CIF's group {group} contradict")
        group = stated
    return Conditions(
        composition=crystal.structure.composition,
        space_group=group,
        formation_energy=energy,
        energy_above_hull=None if hull is None else max(hull, 0.0),  # -1e-12 is on the hull
    )


def _value(row: Mapping[str, str], column: str) -> float | None:
    """A number, or None where the column or its entry is missing."""
    text = row.get(column, "").strip()
    if text.lower() in ("", "nan", "none", "null", "na"):
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CrystalError(f"{column} is {shown(text)}: must be a number")
    return value


def _whole(group: float | None) -> int:
    assert group is not None
    if group != int(group) or not 1 <= group <= 230:
        raise CrystalError(f"space group {group:g}: must be a whole number within 1..230")
    return int(group)
