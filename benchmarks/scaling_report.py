"""The scaling table as text, with fitted exponents, and as a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.exponents import exponent
from benchmarks.scaling_rows import Row
from benchmarks.tables import aligned

SWEEPS = ("sites", "samples", "patch", "width", "dtype", "state")
FITTED = {"sites": "n_sites", "samples": "samples", "width": "width"}
"""Sweeps whose variable is a number, and its column."""


def table(rows: Sequence[Row]) -> str:
    """A line a row, then the exponents."""
    header = ["sweep", "program", "L", "samples", "rows", "patch", "width", "dtype", "state"]
    header += ["s / step", "samples / s", "MFU", "run", "GB", "ended"]
    lines = [
        [
            *(row.sweep, row.program, str(row.side), str(row.samples), str(row.rows), row.patch),
            *(str(row.width), row.dtype, row.state, _number(row.seconds_per_step)),
            *(_number(row.samples_per_second), _percent(row.mfu), _percent(row.run_share)),
            *(_number(row.peak_gb), row.ended),
        ]
        for row in sorted(rows, key=lambda row: SWEEPS.index(row.sweep))
    ]
    return "\n".join([aligned([header, *lines]), "", *exponents(rows)])


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1%}"


Curve = tuple[str, str, str, int]


def curves(rows: Sequence[Row], sweep: str) -> dict[Curve, list[Row]]:
    """Measured rows of a sweep by program, device, state and, along the sites, samples."""
    found: dict[Curve, list[Row]] = {}
    for row in rows:
        if row.sweep == sweep and row.measured:
            samples = row.samples if sweep == "sites" else 0
            found.setdefault((row.program, row.device, row.state, samples), []).append(row)
    return found


def exponents(rows: Sequence[Row]) -> list[str]:
    """seconds = c x^a of each curve: over all of it, and between its last two points.

    Beside it the same for the least operations, which know no other jobs on the machine.
    """
    lines = []
    for sweep, column in FITTED.items():
        for curve, members in curves(rows, sweep).items():
            members = sorted(members, key=lambda row: float(getattr(row, column)))
            x = [float(getattr(row, column)) for row in members]
            y = [row.seconds_per_step for row in members]
            if len(set(x)) > 1:
                name = _label(curve)
                whole, last = exponent(x, y), exponent(x[-2:], y[-2:])
                sizes = f"{column} {x[0]:.0f} to {x[-1]:.0f}"
                line = f"{name}: seconds ~ {column}^{whole:.2f} over {sizes}, last {last:.2f}"
                work = [row.least_gflop for row in members]
                if not any(map(math.isnan, work)):
                    counted = exponent(x, work), exponent(x[-2:], work[-2:])
                    line += "; least operations {:.2f}, last {:.2f}".format(*counted)
                lines.append(line)
    return lines


def _label(curve: Curve) -> str:
    program, device, state, samples = curve
    return ", ".join([program, device, *([f"{samples} samples"] if samples else []), state])


PANELS: tuple[tuple[str, str, Callable[[Row], float], str], ...] = (
    ("sites", "n_sites", lambda row: row.seconds_per_step, "seconds per step"),
    ("sites", "n_sites", lambda row: row.mfu, "MFU"),
    ("sites", "n_sites", lambda row: row.peak_gb, "peak memory, GB"),
    ("samples", "samples", lambda row: row.seconds_per_step, "seconds per step"),
    ("width", "width", lambda row: row.seconds_per_step, "seconds per step"),
    ("patch", "patch", lambda row: row.seconds_per_step, "seconds per step"),
)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Time, utilisation and memory against N; time against samples, width and patch."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    figure, grid = plt.subplots(2, 3, figsize=(13, 7.5), layout="constrained")
    for axes, (sweep, column, value, label) in zip(grid.flat, PANELS, strict=True):
        drawn = False
        for curve, members in curves(rows, sweep).items():
            if sweep != "patch":
                members = sorted(members, key=lambda row: float(getattr(row, column)))
            x, y = [getattr(row, column) for row in members], [value(row) for row in members]
            if not all(map(math.isnan, y)):
                axes.plot(x, y, ".-", label=_label(curve))
                drawn = True
        axes.set(xlabel="N" if column == "n_sites" else column, ylabel=label)
        axes.set_visible(drawn)
        if drawn and sweep != "patch":
            axes.set(xscale="log", yscale="log" if label == "seconds per step" else "linear")
            axes.xaxis.set_minor_formatter(NullFormatter())
        if drawn:
            axes.legend(fontsize="x-small")
    figure.savefig(path, dpi=150)
    plt.close(figure)
