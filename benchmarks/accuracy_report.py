"""The race's table, files and picture."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy import TARGETS, Point, Result, worst

POINT_COLUMNS = tuple(field.name for field in dataclasses.fields(Point))
TARGET_COLUMNS = tuple(f"seconds_to_{written}" for written in TARGETS)
SUMMARY_COLUMNS = (
    *("problem", "program", "seed", *TARGET_COLUMNS),
    *("relative_error", "relative_error_bar", "seconds", "setup_seconds", "budget", "steps"),
    *("samples_per_second", "n_parameters", "ended"),
)
TABLE_COLUMNS = (
    *("problem", "program", "seed", *(f"s to {written}" for written in TARGETS)),
    *("final error", "after s", "set-up s", "steps", "samples/s", "parameters", "ended"),
)


def summary(result: Result) -> dict[str, object]:
    """One row of summary.csv; seconds to an accuracy that was not reached are empty."""
    last = result.last
    seconds = {
        c: result.seconds_to(t) for c, t in zip(TARGET_COLUMNS, TARGETS.values(), strict=True)
    }
    shared = {c: getattr(last, c) for c in SUMMARY_COLUMNS if c in POINT_COLUMNS}
    own = ("setup_seconds", "budget", "samples_per_second", "n_parameters", "ended")
    return {**shared, **seconds, **{column: getattr(result, column) for column in own}}


def table(results: Sequence[Result]) -> str:
    """Aligned text: a row a run, and where there are several seeds the worst of each column."""
    rows = []
    keys = dict.fromkeys((r.last.problem, r.last.program) for r in results)
    for key in keys:
        group = [r for r in results if (r.last.problem, r.last.program) == key]
        rows += [_row(result) for result in group]
        if len(group) > 1:
            rows.append(_worst_row(group))
    return aligned([list(TABLE_COLUMNS), *rows])


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Rows of equally many cells as text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def _row(result: Result) -> list[str]:
    last = result.last
    targets = [_seconds(result.seconds_to(target), last.seconds) for target in TARGETS.values()]
    error = f"{last.relative_error:.1e}"
    if last.relative_error_bar > 0:
        error += f" +- {last.relative_error_bar:.0e}"
    times = [f"{last.seconds:.3g}", f"{result.setup_seconds:.2g}", str(last.steps)]
    rest = [f"{result.samples_per_second:.3g}", str(result.n_parameters), result.ended]
    return [last.problem, last.program, str(last.seed), *targets, error, *times, *rest]


def _worst_row(group: Sequence[Result]) -> list[str]:
    last = group[0].last
    spent = min(result.last.seconds for result in group)
    targets = [_seconds(worst([r.seconds_to(t) for r in group]), spent) for t in TARGETS.values()]
    error = max((r.last.relative_error for r in group), key=abs)
    blank = [""] * (len(TABLE_COLUMNS) - 7)
    return [last.problem, last.program, "worst", *targets, f"{error:.1e}", *blank]


def _seconds(value: float | None, spent: float) -> str:
    return f">{spent:.3g}" if value is None else f"{value:.3g}"


def save(results: Sequence[Result], out: Path) -> list[Path]:
    """time_to_accuracy.csv (a row a point), time_to_accuracy_summary.csv (a row a run) and
    time_to_accuracy.png in `out`; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    points, runs, picture = (
        out / f"time_to_accuracy{end}" for end in (".csv", "_summary.csv", ".png")
    )
    rows = [dataclasses.asdict(point) for result in results for point in result.points]
    _write(points, POINT_COLUMNS, rows)
    _write(runs, SUMMARY_COLUMNS, [summary(result) for result in results])
    draw(results, picture)
    return [points, runs, picture]


def _write(path: Path, columns: Sequence[str], rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def draw(results: Sequence[Result], path: Path) -> None:
    """Relative error against seconds of optimisation, log-log, a panel a problem."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    problems = list(dict.fromkeys(result.last.problem for result in results))
    programs = list(dict.fromkeys(result.last.program for result in results))
    columns = min(3, len(problems))
    rows = -(-len(problems) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(4.6 * columns, 3.6 * rows), squeeze=False, layout="constrained"
    )
    for axes, problem in zip(grid.flat, problems, strict=False):
        for result in results:
            if result.last.problem == problem:
                _curve(axes, result, f"C{programs.index(result.last.program)}")
        _finish_panel(axes, problem)
    for axes in list(grid.flat)[len(problems) :]:
        axes.axis("off")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _curve(axes: Any, result: Result, colour: str) -> None:
    """One run; its seeds share colour and legend entry."""
    seconds = [point.seconds for point in result.points]
    errors = [abs(point.relative_error) for point in result.points]
    bars = [point.relative_error_bar for point in result.points]
    labels = axes.get_legend_handles_labels()[1]
    label = result.last.program if result.last.program not in labels else "_again"
    axes.errorbar(
        seconds, errors, yerr=bars, color=colour, marker=".", lw=1, elinewidth=0.7, label=label
    )


def _finish_panel(axes: Any, problem: str) -> None:
    axes.set(xscale="log", yscale="log", title=problem)
    axes.set(xlabel="seconds of optimisation", ylabel="relative error")
    for target in TARGETS.values():
        axes.axhline(target, color="0.8", lw=0.7, zorder=0)
    axes.legend(fontsize="small")
