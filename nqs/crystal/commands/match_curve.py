"""matches.png: how many references are matched, and how well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nqs.errors import shown

FURTHEST = 0.5
"""The matcher's tolerance: no displacement is larger."""


def match_curve(rows: Sequence[Mapping[str, str]], title: str) -> Figure:
    """Share of references whose nearest guess made for them is within d, against d, a curve for
    each column of the lines of references.csv; where a curve ends is the match rate."""
    displacements: dict[str, list[float]] = {}
    for row in rows:
        displacements.setdefault(row["column"], []).append(number(row["rmse"]))
    figure = Figure(figsize=(7, 4.5), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, values in displacements.items():
        matched = np.sort([value for value in values if math.isfinite(value)])
        shares = np.arange(1, len(matched) + 1) / len(values)
        rate = f"{100 * len(matched) / len(values):.1f} %"
        style = "-" if name.startswith("guesses") else "--"
        axes.step([0, *matched, FURTHEST], [0, *shares, shares[-1] if len(shares) else 0], style,
                  where="post", label=f"{shown(name)}: {rate}")  # fmt: skip
    axes.set_xlabel("displacement d, in (V / A)$^{1/3}$")
    axes.set_ylabel("references matched within d")
    axes.set_xlim(-0.01 * FURTHEST, FURTHEST)  # curves that rise at once are seen beside the axis
    axes.set_ylim(0, 1.02)
    axes.set_title(title, fontsize="medium", parse_math=False)
    axes.legend(frameon=False, fontsize="small")
    return figure


def number(text: str) -> float:
    """NaN for nothing, and for what is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan
