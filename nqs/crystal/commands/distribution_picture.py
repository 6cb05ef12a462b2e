"""distributions.png: what sets of crystals are made of, beside one another."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nqs.crystal.metrics.verdicts import group_of
from nqs.crystal.parallel import mapped
from nqs.crystal.structures.elements import symbol
from nqs.crystal.structures.structure import Structure

BINS: Final = 40
DENSEST: Final = 0.995
"""Share of the crystals that is shown."""
MOST_BARS: Final = 30
"""Elements, and space groups, that are shown: the most frequent ones."""

Sets = Mapping[str, Sequence[Structure]]


def distributions(sets: Sets, title: str, workers: int = 1) -> Figure:
    """Mass densities, numbers of elements, elements and space groups of named sets of crystals,
    none of them empty; shares of the crystals of each set."""
    figure = Figure(figsize=(11, 7.5), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplot_mosaic([["density", "number"], ["elements"] * 2, ["groups"] * 2])
    _densities(axes["density"], sets)
    counts = {name: Counter(len(s.composition) for s in found) for name, found in sets.items()}
    _bars(axes["number"], sets, counts, str, "number of elements")
    kinds = {name: Counter(z for s in found for z in s.composition) for name, found in sets.items()}
    _bars(axes["elements"], sets, kinds, symbol, "elements, the most frequent by atomic number")
    groups = {
        name: Counter(number for number in mapped(group_of, found, workers) if number)
        for name, found in sets.items()
    }
    _bars(axes["groups"], sets, groups, str, "space groups, the most frequent")
    figure.suptitle(title, fontsize="medium", parse_math=False)
    return figure


def _densities(axes: Axes, sets: Sets) -> None:
    """Histograms; the densest crystals of all, beyond DENSEST, are left out, and counted."""
    values = {name: [s.density for s in found] for name, found in sets.items()}
    whole = np.concatenate([*values.values()])
    edges = np.linspace(0, np.quantile(whole, DENSEST), BINS + 1)
    for k, (name, found) in enumerate(values.items()):
        share = np.histogram(found, edges)[0] / len(found)
        beyond = int(np.sum(np.asarray(found) > edges[-1]))
        label = f"{name} ({len(found)}{f', {beyond} beyond' if beyond else ''})"
        axes.stairs(share, edges, label=label, color=f"C{k}", lw=1.6 if k == 0 else 0,
                    fill=k > 0, alpha=1 if k == 0 else 0.4, zorder=3 if k == 0 else 2)  # fmt: skip
    axes.set_xlabel("density (g/cm$^3$)")
    axes.set_ylabel("share of crystals")
    axes.legend(frameon=False, fontsize="small")


def _bars(
    axes: Axes,
    sets: Sets,
    counts: Mapping[str, Counter[int]],
    label: Callable[[int], str],
    title: str,
) -> None:
    """Shares of the crystals of each set in which a number occurs, side by side."""
    in_all: dict[int, float] = defaultdict(float)
    for name, found in counts.items():
        for number, count in found.items():
            in_all[number] += count / len(sets[name])
    ranked = sorted(in_all, key=lambda number: (-in_all[number], number))
    chosen = sorted(ranked[:MOST_BARS])
    width = 0.8 / len(counts)
    for k, (name, found) in enumerate(counts.items()):
        places = np.arange(len(chosen)) + (k - (len(counts) - 1) / 2) * width
        shares = [found[number] / len(sets[name]) for number in chosen]
        axes.bar(places, shares, width, color=f"C{k}", alpha=1 if k == 0 else 0.4)
    axes.set_xticks(np.arange(len(chosen)), [label(number) for number in chosen], fontsize="small")
    axes.set_xlabel(title)
    axes.set_ylabel("share of crystals")
