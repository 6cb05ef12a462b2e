"""structures.png: crystals side by side, each cell drawn by ase."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nqs.crystal.structures.elements import symbol
from nqs.crystal.structures.structure import Structure
from nqs.errors import InputError

COLUMNS: Final = 6
ROTATION: Final = "-75x,15y,0z"
"""Of the view: a to the right, c upwards, all a little turned."""
RADII: Final = 0.5
"""Of atoms, in covalent radii."""
MOST_NAMED: Final = 30
"""Elements whose colours are named."""


def contact_sheet(structures: Sequence[Structure], captions: Sequence[str], title: str) -> Figure:
    """A picture of each crystal with its caption; at least one. Raises InputError without ase."""
    try:
        from ase import Atoms
        from ase.data.colors import jmol_colors
        from ase.visualize.plot import plot_atoms
    except ImportError:
        raise InputError("pictures of structures need ase: pip install 'nqs[crystal]'") from None
    n_columns = min(COLUMNS, len(structures))
    n_rows = math.ceil(len(structures) / n_columns)
    figure = Figure(figsize=(2.0 * n_columns, 2.4 * n_rows + 0.9), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    every = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axes in every:
        axes.set_axis_off()
    for axes, structure, caption in zip(every, structures, captions, strict=False):
        atoms = Atoms(
            structure.numbers,
            scaled_positions=structure.positions,
            cell=structure.matrix,
            pbc=True,
        )
        plot_atoms(atoms, axes, rotation=ROTATION, radii=RADII)
        words = f"{caption}\n{structure.density:.2f} g/cm³"
        axes.set_title(words, fontsize=7, parse_math=False)
    _name_elements(figure, structures, jmol_colors)
    figure.suptitle(title, fontsize="medium", parse_math=False)
    return figure


def _name_elements(figure: Figure, structures: Sequence[Structure], colours: Any) -> None:
    """A legend of the colours (by atomic number) of the elements that occur most often, below."""
    counts = Counter(int(number) for one in structures for number in set(one.numbers.tolist()))
    named = [number for number, _ in counts.most_common() if number < len(colours)]
    chosen = sorted(named[:MOST_NAMED])
    if not chosen:
        return
    handles = [
        Line2D([], [], ls="", marker="o", ms=6, mfc=tuple(colours[z]), mec="k", label=symbol(z))
        for z in chosen
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(15, len(handles)),
        fontsize=7,
        frameon=False,
        handletextpad=0.1,
        columnspacing=0.8,
    )
