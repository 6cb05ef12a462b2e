"""Table, file and picture of the comparison with exact diagonalisation."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import statistics
import typing
from collections.abc import Sequence
from pathlib import Path

from benchmarks.exact_comparison import Comparison
from benchmarks.tables import aligned
from nqs.runfolder.atomic import write_bytes, write_text

COLUMNS = tuple(field.name for field in dataclasses.fields(Comparison))
TABLE_COLUMNS = (
    *("instance", "model", "seed", "sites", "E exact", "gap", "E", "relative error", "z"),
    *("V-score", "1 - fidelity", "observables", "s", "s eval", "s ED", "ended"),
)
TARGETS = {"median": 1e-4, "worst": 1e-3}
"""Relative errors asked for."""
MAX_Z = 4.0
"""Standard errors by which an energy may lie below the exact one."""


def table(rows: Sequence[Comparison]) -> str:
    """Aligned text, a row a run.

    observables: the largest deviation in standard errors of how many values. In parentheses where
    the energy does not resolve the gap (see Comparison.resolved).
    """
    return aligned([TABLE_COLUMNS, *map(_cells, rows)])


def line(row: Comparison) -> str:
    """One run in one line, as soon as it is done."""
    if row.failed:
        return f"{row.instance}  {row.model}  seed {row.seed}  {row.ended}"
    return (
        f"{row.instance}  {row.model}  seed {row.seed}  {_relative_error(row)}  "
        f"z {row.z_score:.1f}  {row.steps} steps in {row.seconds:.0f} s, {row.ended}"
    )


def _cells(row: Comparison) -> list[str]:
    fidelity = "" if math.isnan(row.fidelity) else f"{1 - row.fidelity:.1e}"
    observables = f"{row.deviation:.1f} of {row.n_observables}" if row.n_observables else ""
    if not row.resolved:
        fidelity, observables = (f"({text})" if text else "" for text in (fidelity, observables))
    return [
        *(row.instance, row.model, str(row.seed), str(row.n_sites)),
        *(f"{row.exact_energy:.6f}", f"{row.gap:.2g}", f"{row.energy:.6f}", _relative_error(row)),
        *(f"{row.z_score:.1f}", f"{row.v_score:.1e}", fidelity, observables),
        *(f"{s:.0f}" for s in (row.seconds, row.evaluation_seconds, row.exact_seconds)),
        row.ended,
    ]


def _relative_error(row: Comparison) -> str:
    return f"{row.relative_error:.1e} +- {row.relative_error_bar:.0e}"


def verdict(rows: Sequence[Comparison]) -> list[str]:
    """Median and worst relative error against the targets, and what is below the exact energy.

    A failed run counts as an infinite error.
    """
    errors = [math.inf if math.isnan(r.relative_error) else abs(r.relative_error) for r in rows]
    worst = max(range(len(rows)), key=errors.__getitem__)
    below = [row.instance for row in rows if row.z_score < -MAX_Z]
    return [
        f"median relative error {statistics.median(errors):.1e} (target {TARGETS['median']:.0e})",
        f"worst relative error {errors[worst]:.1e}, {rows[worst].instance} "
        f"(target {TARGETS['worst']:.0e})",
        f"energies more than {MAX_Z:g} standard errors below the exact one: "
        f"{', '.join(below) or 'none'} of {len(rows)}",
    ]


def save(rows: Sequence[Comparison], path: Path) -> None:
    """All rows as CSV; the file is whole at every moment."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    write_text(path, text.getvalue())


def read(path: Path) -> list[Comparison]:
    """The rows of a CSV of `save`; none if there is no file. Raises ValueError, one line."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_parsed(record) for record in csv.DictReader(file)]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: is no table of this program ({error!r})") from None


def _parsed(record: dict[str, str]) -> Comparison:
    hints = typing.get_type_hints(Comparison)
    return Comparison(**{name: hints[name](record[name]) for name in COLUMNS})


def draw(rows: Sequence[Comparison], path: Path) -> None:
    """Relative error of each run, sorted, with the targets; V-score against relative error."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = sorted((r for r in rows if not r.failed), key=lambda r: abs(r.relative_error))
    if not shown:
        return
    errors = [abs(row.relative_error) for row in shown]
    bars = [row.relative_error_bar for row in shown]
    several = len({(row.model, row.seed) for row in rows}) > 1
    labels = [f"{r.instance} {r.model} {r.seed}" if several else r.instance for r in shown]
    height = max(4.0, 0.19 * len(shown) + 1.0)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, height), layout="constrained")
    places = range(len(shown))
    for model in dict.fromkeys(row.model for row in shown):
        own = [i for i in places if shown[i].model == model]
        chosen = [errors[i] for i in own]
        left.errorbar(chosen, own, xerr=[bars[i] for i in own], fmt=".", lw=0.8, label=model)
        right.errorbar(
            chosen,
            [shown[i].v_score for i in own],
            xerr=[bars[i] for i in own],
            fmt=".",
            lw=0.8,
            label=model,
        )
    left.set_yticks(places, labels, fontsize="small")
    left.set(xscale="log", xlabel="relative error")
    right.set(xscale="log", yscale="log", xlabel="relative error", ylabel="V-score")
    for name, target in TARGETS.items():
        left.axvline(target, color="0.7", lw=0.8, zorder=0)
        left.annotate(f"{name} ", (target, 0), ha="right", fontsize="small", color="0.5")
    left.legend(fontsize="small")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    plt.close(figure)
    write_bytes(path, picture.getvalue())
