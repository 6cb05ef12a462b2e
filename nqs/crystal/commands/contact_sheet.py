"""structures.png: crystals side by side, each cell drawn by ase."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nqs.crystal.structures.structure import Structure
from nqs.errors import InputError

COLUMNS: Final = 6
ROTATION: Final = "-75x,15y,0z"
"""Of the view: a to the right, c upwards, all a little turned."""
RADII: Final = 0.5
"""Of atoms, in covalent radii."""


def contact_sheet(structures: Sequence[Structure], captions: Sequence[str], title: str) -> Figure:
    """A picture of each crystal with its caption; at least one. Raises InputError without ase."""
    try:
        from ase import Atoms
        from ase.visualize.plot import plot_atoms
    except ImportError:
        raise InputError("pictures of structures need ase: pip install 'nqs[crystal]'") from None
    n_columns = min(COLUMNS, len(structures))
    n_rows = math.ceil(len(structures) / n_columns)
    figure = Figure(figsize=(2.0 * n_columns, 2.3 * n_rows + 0.4), layout="constrained", dpi=100)
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
        axes.set_title(caption, fontsize=7, parse_math=False)
    figure.suptitle(title, fontsize="medium", parse_math=False)
    return figure
