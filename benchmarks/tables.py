"""Rows of results as aligned text and as a CSV file."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

Row = TypeVar("Row")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equally many cells as lines whose columns stand below each other."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """A header and a line a row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


class Rows(Generic[Row]):
    """A CSV file of one dataclass's rows, written anew, in one move, with each row that is added.

    Rows that the file holds already stay, those of the same key are replaced: a table can be
    measured in pieces, and one that is interrupted loses the row at work only.

    Args:
        kind: a dataclass of fields of type str, int, float.
        key: names of the fields that tell rows apart.

    Raises ValueError for a file with other columns.
    """

    def __init__(self, path: Path, kind: type[Row], key: Sequence[str]) -> None:
        self.path, self._kind, self._key = path, kind, key
        self.columns = tuple(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]
        self.rows: list[Row] = self._read() if path.exists() else []

    def _read(self) -> list[Row]:
        readers = [
            {"str": str, "int": int, "float": float}[str(field.type)]
            for field in dataclasses.fields(self._kind)
        ]  # type: ignore[arg-type]
        with self.path.open(newline="") as file:
            header, *lines = list(csv.reader(file)) or [[]]
        if tuple(header) != self.columns:
            raise ValueError(f"{self.path}: not a table of this command; give another --out")
        return [
            self._kind(*(read(text) for read, text in zip(readers, line, strict=True)))
            for line in lines
        ]

    def add(self, row: Row) -> None:
        """Keeps the row and writes the file, with what another process has added meanwhile."""
        self.rows = self._read() if self.path.exists() else []
        same = [i for i, old in enumerate(self.rows) if self._of(old) == self._of(row)]
        if same:
            self.rows[same[0]] = row
        else:
            self.rows.append(row)
        partial = self.path.with_suffix(".partial")
        write_csv(partial, self.columns, [vars(row) for row in self.rows])
        os.replace(partial, self.path)

    def _of(self, row: Row) -> tuple[object, ...]:
        return tuple(getattr(row, name) for name in self._key)
