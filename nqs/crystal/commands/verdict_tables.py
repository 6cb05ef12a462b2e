"""Verdicts as tables, one line a crystal; the totals of an evaluation are sums of these lines.

samples.csv (generate) and verdicts.csv (evaluate) have the columns VERDICT: 1 and 0 for yes and no,
nothing where it was not looked at or does not exist.

    valid_structure, valid_composition, valid   and `reason`, what is wrong where one is 0
    unique, same_as        same_as: the first file of the same crystal
    novel, nearest, nearest_formula, element_distance, displacement, volume_ratio
                           the training crystal nearest to it, and how far it is
                           (nqs.crystal.metrics.nearest)
    matched, reference, rmse
                           the reference that it matches, or was made for, and its displacement

references.csv (evaluate, of samples made for known crystals) has one line a reference and column of
evaluation.csv: `valid`, `n_guesses`, the nearest `guess` and displacements `rmse`, `valid_rmse`,
`metre_rmse`, `valid_metre_rmse` (nqs.crystal.metrics.reference_rows).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nqs.crystal.datasets.tables import Record
from nqs.crystal.metrics.reference_rows import ReferenceRow
from nqs.crystal.metrics.verdicts import Verdict
from nqs.errors import printable

VERDICT: Final = (
    *("valid_structure", "valid_composition", "valid", "reason", "unique", "same_as"),
    *("novel", "nearest", "nearest_formula", "element_distance", "displacement", "volume_ratio"),
    *("matched", "reference", "rmse"),
)


@dataclass(frozen=True)
class Names:
    """What the numbers in verdicts stand for.

    Attributes:
        files: of the samples.
        train: training crystals, None where there are none.
        references: crystals to be matched, None where there are none.
    """

    files: Sequence[str]
    train: Sequence[Record] | None
    references: Sequence[Record] | None


def verdict_cells(verdict: Verdict, names: Names) -> dict[str, Any]:
    """The cells of VERDICT, and `formula` and `space_group`."""
    known = None if verdict.nearest is None or not names.train else names.train[verdict.nearest]
    wanted = None
    if verdict.reference is not None and names.references:
        wanted = names.references[verdict.reference]
    return {
        "formula": verdict.formula,
        "space_group": _cell(verdict.space_group),
        "valid_structure": _cell(verdict.structural),
        "valid_composition": _cell(verdict.compositional),
        "valid": _cell(verdict.valid),
        "reason": verdict.reason,
        "unique": _cell(verdict.unique),
        "same_as": "" if verdict.same_as is None else names.files[verdict.same_as],
        "novel": _cell(verdict.novel),
        "nearest": "" if known is None else printable(known.name),
        "nearest_formula": "" if known is None else known.structure.formula,
        "element_distance": _cell(verdict.element_distance),
        "displacement": _cell(_rounded(verdict.displacement)),
        "volume_ratio": _cell(_rounded(verdict.volume_ratio)),
        "matched": _cell(verdict.matched),
        "reference": "" if wanted is None else printable(wanted.name),
        "rmse": _cell(verdict.rmse),
    }


def verdicts_table(verdicts: Sequence[Verdict], requests: Sequence[int], names: Names) -> str:
    """verdicts.csv, a line a sample."""
    lines = [
        {"file": file, "request": request} | verdict_cells(verdict, names)
        for file, request, verdict in zip(names.files, requests, verdicts, strict=True)
    ]
    return _table(("file", "request", "formula", "space_group", *VERDICT), lines)


def references_table(rows: Sequence[ReferenceRow], names: Names) -> str:
    """references.csv, a line a reference and column."""
    assert names.references is not None
    fields = [field.name for field in dataclasses.fields(ReferenceRow)]
    lines = []
    for row in rows:
        cells = {name: _cell(getattr(row, name)) for name in fields}
        name = printable(names.references[row.reference].name)
        lines.append(cells | {"reference": name})
    return _table(fields, lines)


def _rounded(value: float) -> float:
    """Without the digits that say nothing."""
    return value if math.isnan(value) else round(value, 6)


def _cell(value: Any) -> Any:
    """1 and 0 for yes and no, nothing for None and NaN."""
    if isinstance(value, bool):
        return int(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value


def _table(columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return encodable(text.getvalue())


def encodable(text: str) -> str:
    """The text with lone halves of characters, which names of files may have, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
