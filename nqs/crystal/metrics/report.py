"""Results of an evaluation as a table to read and as JSON and CSV to keep: one row a quantity, one
column for the samples and each baseline."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

Row = TypeVar("Row")


def quantity(
    label: str, digits: int = 3, *, percent: bool = False, default: float | None = None
) -> Any:
    """A dataclass field with the words and the digits a table shows it with; NaN prints as '-'."""
    how = {"label": label, "digits": digits, "percent": percent}
    return field(metadata=how) if default is None else field(default=default, metadata=how)


@final
@dataclass(frozen=True)
class Report:
    """Columns of one dataclass, its fields declared with `quantity`.

    Attributes:
        title: what was evaluated.
        columns: name -> quantities; the samples first, then baselines.
        settings: what the numbers depend on.
        remarks: what a reader has to know, a sentence each.
        rows: by the name of their table, the rows that quantities are sums of: dataclasses, all of
            one kind in a table.
    """

    title: str
    columns: Mapping[str, Any]
    settings: Mapping[str, float | str]
    remarks: tuple[str, ...] = ()
    rows: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def quantities(self) -> Iterator[tuple[dataclasses.Field[Any], list[float]]]:
        """(field, its value in each column)."""
        first = next(iter(self.columns.values()))
        for entry in dataclasses.fields(first):
            yield entry, [getattr(column, entry.name) for column in self.columns.values()]

    def table(self) -> str:
        """Aligned plain text: title, quantities, settings, remarks."""
        cells = [["", *self.columns]]
        for entry, values in self.quantities():
            shown = [_shown(value, entry.metadata) for value in values]
            if any(text != "-" for text in shown):
                cells.append([entry.metadata["label"], *shown])
        widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
        lines = [self.title]
        for label, *texts in cells:
            right = "  ".join(t.rjust(w) for t, w in zip(texts, widths[1:], strict=True))
            lines.append(f"{label.ljust(widths[0])}  {right}".rstrip())
        lines.append("; ".join(f"{name} {value}" for name, value in self.settings.items()))
        lines.extend(self.remarks)
        return "\n".join(lines)

    def content(self) -> dict[str, Any]:
        """All of it for JSON; NaN as None."""
        columns: dict[str, dict[str, float | None]] = {name: {} for name in self.columns}
        for entry, values in self.quantities():
            for name, value in zip(self.columns, values, strict=True):
                columns[name][entry.name] = None if math.isnan(value) else value
        return {
            "title": self.title,
            "columns": columns,
            "settings": dict(self.settings),
            "remarks": list(self.remarks),
        }

    def json(self) -> str:
        return json.dumps(self.content(), indent=2) + "\n"

    def csv(self) -> str:
        """A header (quantity, columns) and one line a quantity, unrounded; NaN as nothing."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["quantity", *self.columns])
        for entry, values in self.quantities():
            writer.writerow([entry.name, *("" if math.isnan(v) else v for v in values)])
        return text.getvalue()


def _shown(value: float, how: Mapping[str, Any]) -> str:
    if math.isnan(value):
        return "-"
    if how["percent"]:
        return f"{100 * value:.{how['digits']}f} %"
    return f"{value:.{how['digits']}f}"
