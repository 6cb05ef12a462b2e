"""The folder of samples that nqs crystal generate writes and evaluate reads.

    samples.csv     one line a crystal: file, request, ..., n_rejected
    cif/*.cif       the crystals
    SHA256SUMS      of all files, as sha256sum writes and checks them

Missing is not invalid: a file that is not there, or not what was written, ends the evaluation. A
folder without SHA256SUMS (from before it, or of crystals relaxed by something else) is not checked.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from nqs.crystal.structures.cif import structure_from_cif
from nqs.crystal.structures.cif.blocks import LONGEST_TEXT
from nqs.crystal.structures.structure import Structure
from nqs.errors import InputError, shown
from nqs.runfolder import text_file
from nqs.runfolder.atomic import write_text

TABLE: Final = "samples.csv"
DRAWS: Final = ("draws_apart", "draws_thrown_away")
"""Keys of config.yaml: how many draws had atoms apart and how many had not, those that were ranked
and left out among them."""
CHECKSUMS: Final = "SHA256SUMS"
VERDICTS: Final = "verdicts.csv"
REFERENCES: Final = "references.csv"
"""What an evaluation adds, beside evaluation.json and evaluation.csv."""
MOST_SAMPLES: Final = 1_000_000
"""Crystals in a folder."""
LARGEST: Final = 512 * 2**20
"""Bytes of samples.csv and of SHA256SUMS."""


@dataclass(frozen=True)
class FoundSample:
    """A line of samples.csv: its file, which request it answers, the formula that was asked for
    ('': none), its crystal (None where the file holds none) and why it has none."""

    file: str
    request: int
    asked_formula: str
    structure: Structure | None
    reason: str = ""


@dataclass(frozen=True)
class FoundSamples:
    """The samples of a folder.

    Attributes:
        samples: in the order of samples.csv.
        kept: share of draws with atoms apart, NaN where all had.
    """

    samples: list[FoundSample]
    kept: float

    @property
    def structures(self) -> list[Structure | None]:
        return [sample.structure for sample in self.samples]

    @property
    def remarks(self) -> tuple[str, ...]:
        """How many files hold no crystal, and why the first does not."""
        reasons = [sample.reason for sample in self.samples if sample.structure is None]
        if not reasons:
            return ()
        return (f"{len(reasons)} files hold no crystal and count as invalid ({reasons[0]})",)


def write_checksums(folder: Path) -> None:
    """Writes SHA256SUMS of all files of the folder. Raises OSError."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder).as_posix()}\n"
        for file in files
        if file.name != CHECKSUMS
    ]
    write_text(folder / CHECKSUMS, "".join(lines))


def read_samples(folder: Path) -> FoundSamples:
    """The samples of a folder.

    Raises InputError for a table that is none, files that are missing, outside the folder, named
    twice or not those that were written, and where not one file holds a crystal.
    """
    lines = read_lines(folder / TABLE)
    sums = _checksums(folder)
    for name in (TABLE, "config.yaml"):
        _check(
            folder, name, (folder / name).read_bytes() if (folder / name).exists() else b"", sums
        )
    paths = _paths(folder, [line["file"] for line in lines])
    samples = []
    n_rejected = 0
    for number, (line, path) in enumerate(zip(lines, paths, strict=True), start=2):
        request = _whole(folder, number, line, "request")
        n_rejected += _whole(folder, number, line, "n_rejected") if "n_rejected" in line else 0
        data = text_file.read_bytes(path, LONGEST_TEXT)
        _check(folder, line["file"], data, sums)
        try:
            structure, reason = structure_from_cif(text_file.decoded(data)), ""
        except InputError as error:
            structure, reason = None, f"{shown(line['file'])}: {error}"
        asked = line.get("asked_formula", "")
        samples.append(FoundSample(line["file"], request, asked, structure, reason))
    if all(sample.structure is None for sample in samples):
        raise InputError(f"{folder}: not one file holds a crystal ({samples[0].reason})")
    n_kept, n_rejected = _draws(folder) or (len(lines), n_rejected)
    share = n_kept / (n_kept + n_rejected) if n_rejected else math.nan
    return FoundSamples(samples, share)


def _draws(folder: Path) -> tuple[int, int] | None:
    """DRAWS; None where the folder does not say."""
    try:
        said = yaml.safe_load(text_file.read_text(folder / "config.yaml", LARGEST))
        counts = (said[DRAWS[0]], said[DRAWS[1]])
    except Exception:  # YAML's constructors raise almost anything; a folder of somebody else's
        return None
    valid = all(type(count) is int and count >= 0 for count in counts) and counts[0] > 0
    return counts if valid else None


def read_lines(path: Path, needed: Collection[str] = ("file", "request")) -> list[dict[str, str]]:
    """The lines of a table as mappings. Raises InputError for one without the columns `needed`."""
    reader = csv.reader(text_file.read_text(path, LARGEST).splitlines())
    try:
        header, *rows = [row for row in reader if row] or [[]]
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV table ({error})") from None
    if not rows or not {*needed} <= set(header) or len(set(header)) < len(header):
        raise InputError(f"{path}: not a table of nqs crystal generate or evaluate")
    if len(rows) > MOST_SAMPLES:
        raise InputError(f"{path}: {len(rows)} lines, at most {MOST_SAMPLES} are read")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise InputError(
                f"{path}: line {number} has {len(row)} columns, the header {len(header)}"
            )
    return [dict(zip(header, row, strict=True)) for row in rows]


def _whole(folder: Path, number: int, line: Mapping[str, str], column: str) -> int:
    text = line[column].strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise InputError(
            f"{folder / TABLE}: line {number}, {column} is {shown(text)}: must be a whole number "
            f">= 0"
        )
    return int(text)


def _paths(folder: Path, names: Sequence[str]) -> list[Path]:
    """The files of the names. Raises InputError for names that leave the folder, come twice or
    name no file."""
    inside = folder.resolve()
    paths, seen = [], set()
    for name in names:
        try:
            path = (folder / name).resolve()
        except (OSError, ValueError, RuntimeError):
            path = inside
        leaves = Path(name).is_absolute() or ".." in Path(name).parts
        if leaves or path == inside or not path.is_relative_to(inside):
            raise InputError(f"{folder / TABLE}: file {shown(name)} is not in this folder")
        if path in seen:
            raise InputError(f"{folder / TABLE}: file {shown(name)} is named twice")
        seen.add(path)
        paths.append(path)
    missing = [name for name, path in zip(names, paths, strict=True) if not path.exists()]
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} of the {len(names)} files of {TABLE} are missing, the first "
            f"{shown(missing[0])}; restore them or generate again"
        )
    return paths


def _checksums(folder: Path) -> dict[str, str] | None:
    """File name -> SHA-256; None where there are none to check."""
    path = folder / CHECKSUMS
    if not path.exists():
        return None
    sums = {}
    for line in text_file.read_text(path, LARGEST).splitlines():
        digest, separator, name = line.partition("  ")
        if not separator:
            raise InputError(f"{path}: damaged; restore it, or delete it to go on unchecked")
        sums[name] = digest
    return sums


def _check(folder: Path, name: str, data: bytes, sums: Mapping[str, str] | None) -> None:
    """Raises InputError unless the file is the one that was written."""
    if sums is not None and sums.get(name) != hashlib.sha256(data).hexdigest():
        raise InputError(
            f"{folder}: {shown(name)} is not what was generated (SHA-256 differs); restore it, or "
            f"delete {CHECKSUMS} to judge the folder as it is"
        )
