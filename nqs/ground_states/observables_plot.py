"""observables.png: what an evaluation measured, drawn as each observable's class says.

Values of sites (densities, <sigma^x>) are a map, those of pairs one from the central site, those of
bonds lines between their ends, those of momenta (S(k)) a map of reciprocal space.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Line3DCollection
from mpl_toolkits.mplot3d.axes3d import Axes3D
from scipy.spatial import Voronoi

from hamiltonians.lattices.lattice import Lattice
from nqs.errors import InputError
from nqs.runfolder.history import Evaluation
from nqs.runfolder.picture import as_title, save
from nqs.vmc.observables import Observable, Picture, Quantity, owner
from nqs.vmc.observables.momenta import reciprocal_vectors

Panel = Callable[[Axes], None]
Values = tuple[np.ndarray, np.ndarray]
"""Value and error."""
Kinds = tuple[type[Observable], ...]
ORDER: Final = ("sites", "pairs", "bonds", "momenta")
"""Of the panels."""


def save_observables(
    path: Path, evaluation: Evaluation, lattice: Lattice, title: str, also: Kinds = ()
) -> None:
    """Writes the figure as a PNG in one step; also: classes besides those of the program. Raises
    OSError, and InputError for an evaluation of other sites."""
    check_shapes(evaluation, lattice, also)
    save(path, observables_figure(evaluation, lattice, title, also))


def check_shapes(evaluation: Evaluation, lattice: Lattice, also: Kinds = ()) -> None:
    """Raises InputError unless the observables that are drawn belong to these sites."""
    n, d = lattice.positions.shape
    for quantity, picture in _drawn(evaluation, also):
        name = quantity.name
        shape: tuple[int, ...] = (n,)
        coordinates = evaluation.coordinates.get(name)
        if picture.over == "pairs":
            shape = (n, n)
        elif picture.over == "momenta":
            if coordinates is None or coordinates.ndim < 2 or coordinates.shape[-1] != d:
                raise InputError(f"run.h5: a {name} without its momenta; measure again")
            shape = coordinates.shape[:-1]
        elif picture.over == "bonds":
            if coordinates is None or not _are_bonds(coordinates, n):
                raise InputError(f"run.h5: a {name} without its bonds; measure again")
            shape = coordinates.shape[:1]
        value = evaluation.observables[name][0]
        if value.shape != shape:
            raise InputError(
                f"run.h5: {name} has the shape {value.shape}, the sites of config.yaml need "
                f"{shape}; the two do not belong together"
            )


def _are_bonds(ends: np.ndarray, n_sites: int) -> bool:
    """Whether ends are pairs (B, 2) of the sites."""
    if ends.ndim != 2 or ends.shape[1] != 2:
        return False
    return bool(np.isin(ends, np.arange(n_sites)).all())


def _drawn(evaluation: Evaluation, also: Kinds) -> list[tuple[Quantity, Picture]]:
    """The quantities that are drawn: of sites, of pairs, of bonds, of momenta."""
    owners = [owner(name, also) for name in evaluation.observables]
    known = [entry[1] for entry in owners if entry is not None]
    drawn = [(quantity, quantity.picture) for quantity in known if quantity.picture is not None]
    kinds = (*Observable.kinds.values(), *also)
    order = [quantity.name for kind in kinds for quantity in kind.quantities]
    drawn.sort(key=lambda entry: (ORDER.index(entry[1].over), order.index(entry[0].name)))
    return drawn


def observables_figure(
    evaluation: Evaluation, lattice: Lattice, title: str, also: Kinds = ()
) -> Figure:
    """One panel for each of the quantities with a picture that it has.

    Sites in one line are an axis, in a plane a map, in space a cloud.
    """
    panels = _panels(evaluation, lattice, also)
    solid = _extents(lattice) == 3
    n_columns = 1 if len(panels) == 1 else 2
    n_rows = -(-len(panels) // n_columns)
    figure = Figure(figsize=(4.2 * n_columns, 3.6 * n_rows + 0.3), layout="constrained", dpi=200)
    FigureCanvasAgg(figure)
    for number, (over, draw) in enumerate(panels, start=1):
        cloud = solid and over != "momenta"
        projection = "3d" if cloud else "rectilinear"
        axes = figure.add_subplot(n_rows, n_columns, number, projection=projection)
        draw(axes)
        label = f"({string.ascii_lowercase[(number - 1) % 26]})"
        if cloud:
            axes.set_title(label, loc="left", fontsize="medium")
        else:
            axes.annotate(
                label, (0, 1), (-4, 6), "axes fraction", "offset points", ha="right", va="bottom"
            )
    numbers = evaluation.numbers
    figure.suptitle(
        f"{as_title(title)}: step {numbers['step']}, {numbers['n_samples']} samples",
        fontsize="medium",
        parse_math=False,
    )
    return figure


def _panels(evaluation: Evaluation, lattice: Lattice, also: Kinds) -> list[tuple[str, Panel]]:
    """What each panel is over, and what draws it."""
    panels: list[tuple[str, Panel]] = []
    flat = _extents(lattice) < 2
    sites, bonds = (_draw_line, _draw_bonds_in_line) if flat else (_draw_map, _draw_bonds)
    for quantity, picture in _drawn(evaluation, also):
        value, error = evaluation.observables[quantity.name]
        ends_or_k = evaluation.coordinates.get(quantity.name)
        label = picture.label
        draw: Panel
        if picture.over == "sites":
            draw = partial(
                sites, lattice=lattice, estimate=(value, error), label=label, centre=None
            )
        elif picture.over == "pairs":
            if lattice.n_sites == 1:
                continue
            centre = central_site(lattice)
            row = (value[centre], error[centre])
            draw = partial(sites, lattice=lattice, estimate=row, label=label, centre=centre)
        elif picture.over == "bonds":
            assert ends_or_k is not None
            draw = partial(
                bonds, lattice=lattice, ends=ends_or_k.astype(int), estimate=(value, error),
                label=label,
            )  # fmt: skip
        else:
            assert ends_or_k is not None
            momenta = {2: _draw_profile, 3: _draw_plane}.get(ends_or_k.ndim, _draw_shells)
            draw = partial(
                momenta, lattice=lattice, k=ends_or_k, estimate=(value, error), symbol=label
            )
        panels.append((picture.over, draw))
    return panels


def central_site(lattice: Lattice) -> int:
    """The site nearest to the mean of all positions, the first of several."""
    offsets = lattice.positions - lattice.positions.mean(0)
    distances = offsets.norm(dim=1)
    return int((distances < distances.min() + 1e-9).nonzero()[0])


def _extents(lattice: Lattice) -> int:
    """Along how many axes the sites extend."""
    return int((np.ptp(lattice.positions.numpy(), axis=0) > 0).sum())


def _draw_line(
    axes: Axes,
    lattice: Lattice,
    estimate: Values,
    label: str,
    centre: int | None,
) -> None:
    (value, error), positions = estimate, lattice.positions.numpy()
    x = positions[:, np.ptp(positions, axis=0).argmax()]
    shown = np.ones(len(x), dtype=bool)
    if centre is not None:
        shown[centre] = False
        axes.axvline(x[centre], color="0.7", lw=1, ls=":")
        axes.axhline(0, color="0.7", lw=0.8)
    order = x[shown].argsort()
    x, value, error = (array[shown][order] for array in (x, value, error))
    axes.errorbar(x, value, yerr=error, fmt="o-", ms=3.5, lw=0.8, capsize=2)
    axes.set_xlabel("$x_i$" if centre is None else "$x_j$")
    axes.set_ylabel(label)


def _draw_map(
    axes: Axes, lattice: Lattice, estimate: Values, label: str, centre: int | None
) -> None:
    """Sites as discs, in space as points; with `centre` that site is hollow and 0 is white."""
    value, positions = estimate[0], lattice.positions.numpy()
    shown = np.ones(len(value), dtype=bool)
    colours = ScalarMappable(Normalize(), "viridis")
    if centre is not None:
        shown[centre] = False
        colours = ScalarMappable(CenteredNorm(), "RdBu_r")
    colours.set_array(value[shown])
    colours.autoscale()
    fill: np.ndarray = np.ones((len(value), 4))
    fill[shown] = colours.to_rgba(value[shown])
    if _extents(lattice) == 3:
        edge = np.where(shown, 0.5, 1.5)
        cloud = cast(Axes3D, axes)
        cloud.scatter(*positions.T, s=60, c=fill, ec="0.3", lw=edge, depthshade=False)
        cloud.set_zlabel("$z$")
        cloud.set_box_aspect(np.ptp(positions, axis=0))
    else:
        plane = positions[:, _widest_two(positions)]
        size = np.full(len(value), 0.84 * _spacing(lattice))
        discs = EllipseCollection(
            size, size, 0 * size, units="xy", offsets=plane, offset_transform=axes.transData
        )
        discs.set(facecolors=fill, edgecolors="0.3", linewidths=np.where(shown, 0.5, 1.5))
        axes.add_collection(discs)
        _fit(axes, plane, 0.6 * _spacing(lattice))
    axes.set_xlabel("$x$")
    axes.set_ylabel("$y$")
    axes.figure.colorbar(colours, ax=axes, label=label, shrink=0.85)


def _segments(lattice: Lattice, ends: np.ndarray) -> np.ndarray:
    """(B, 2, d) from the first site of each bond to the nearest image of the second."""
    positions, periods = lattice.positions.numpy(), lattice.periods().numpy()
    steps = np.array(list(itertools.product((-1, 0, 1), repeat=len(periods))))
    shifts = steps @ periods if len(periods) else np.zeros((1, positions.shape[1]))
    start = positions[ends[:, 0]]
    offsets = (positions[ends[:, 1]] - start)[:, None] + shifts  # (B, images, d)
    nearest = np.linalg.norm(offsets, axis=-1).argmin(1)
    return np.stack([start, start + offsets[np.arange(len(ends)), nearest]], axis=1)


def _draw_bonds_in_line(
    axes: Axes, lattice: Lattice, ends: np.ndarray, estimate: Values, label: str
) -> None:
    """Bonds of sites in a line at their middles."""
    positions = lattice.positions.numpy()
    along = np.ptp(positions, axis=0).argmax()
    middle = _segments(lattice, ends).mean(1)[:, along]
    order = middle.argsort()
    value, error = (array[order] for array in estimate)
    axes.errorbar(middle[order], value, yerr=error, fmt="o", ms=3.5, lw=0.8, capsize=2)
    axes.set_xlabel("$x$")
    axes.set_ylabel(label)


def _draw_bonds(
    axes: Axes, lattice: Lattice, ends: np.ndarray, estimate: Values, label: str
) -> None:
    """Bonds as coloured lines between the sites, those across a boundary as they leave it."""
    segments, positions = _segments(lattice, ends), lattice.positions.numpy()
    if _extents(lattice) == 3:
        cloud = cast(Axes3D, axes)
        lines: LineCollection | Line3DCollection = Line3DCollection(segments, lw=2.5)
        cloud.add_collection3d(lines)
        cloud.scatter(*positions.T, s=12, c="0.3", depthshade=False)
        cloud.set_zlabel("$z$")
        cloud.set_box_aspect(np.ptp(positions, axis=0))
    else:
        plane = _widest_two(positions)
        lines = LineCollection(list(segments[..., plane]), lw=3)
        axes.add_collection(lines)
        axes.plot(*positions[:, plane].T, "o", color="0.3", ms=2.5)
        points = np.concatenate([segments[..., plane].reshape(-1, 2), positions[:, plane]])
        _fit(axes, points, 0.4 * _spacing(lattice))
    lines.set_array(estimate[0])
    axes.set_xlabel("$x$")
    axes.set_ylabel("$y$")
    axes.figure.colorbar(lines, ax=axes, label=label, shrink=0.85)


def _widest_two(points: np.ndarray) -> np.ndarray:
    """The two axes along which points (n, d) extend most, in order."""
    return np.sort(np.ptp(points, axis=0).argsort(kind="stable")[-2:])


def _fit(axes: Axes, points: np.ndarray, margin: float) -> None:
    low, high = points.min(0) - margin, points.max(0) + margin
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_aspect("equal")


def _spacing(lattice: Lattice) -> float:
    """Smallest distance, which discs may fill."""
    distances = lattice.distances().clone().fill_diagonal_(np.inf)
    return float(distances.min())


def _draw_profile(
    axes: Axes, lattice: Lattice, k: np.ndarray, estimate: Values, symbol: str
) -> None:
    """Values against the one component of k (n, d) that varies."""
    value, error = estimate
    along = k[:, np.ptp(k, axis=0).argmax()] / np.pi
    axes.errorbar(along, value, yerr=error, fmt="o-", ms=2.5, lw=0.8, capsize=1.5)
    axes.set_ylim(bottom=min(0.0, float((value - error).min())))
    axes.set_xlabel(r"$k / \pi$")
    axes.set_ylabel(f"${symbol}(k)$")


def _draw_shells(
    axes: Axes, lattice: Lattice, k: np.ndarray, estimate: Values, symbol: str
) -> None:
    """Values against |k| for sites in space, k (n_1, n_2, n_3, 3)."""
    length = np.linalg.norm(k, axis=-1).ravel() / np.pi
    axes.plot(length, estimate[0].ravel(), ".", ms=2.5, alpha=0.5, mew=0)
    axes.set_ylim(bottom=min(0.0, float(estimate[0].min())))
    axes.set_xlabel(r"$|\mathbf{k}| / \pi$")
    axes.set_ylabel(rf"${symbol}(\mathbf{{k}})$")


def _draw_plane(axes: Axes, lattice: Lattice, k: np.ndarray, estimate: Values, symbol: str) -> None:
    """Values on a grid of k (n_1, n_2, 2), repeated over its period on a lattice, with the first
    Brillouin zone of the unit cell."""
    value = estimate[0]
    k = k[..., _widest_two(k.reshape(-1, k.shape[-1]))] / np.pi
    step = [k[1, 0] - k[0, 0], k[0, 1] - k[0, 0]]
    period = [n * s for n, s in zip(k.shape[:2], step, strict=True)]
    repeats = lattice.shape is not None
    shifts = (-1, 0, 1) if repeats else (0,)
    low, high = float(value.min()), float(value.max())
    corner = k[0, 0] - (step[0] + step[1]) / 2
    i, j = np.ogrid[: k.shape[0] + 1, : k.shape[1] + 1]
    corners = corner + i[..., None] * step[0] + j[..., None] * step[1]  # (n_1 + 1, n_2 + 1, 2)
    for first in shifts:
        for second in shifts:
            x, y = np.moveaxis(corners + first * period[0] + second * period[1], -1, 0)
            drawn = axes.pcolormesh(x, y, value, vmin=low, vmax=high, cmap="magma", rasterized=True)
    if repeats:
        half = max(float(np.linalg.norm(vector)) for vector in period) / 2
        _fit(axes, np.array([[-half, -half], [half, half]]), 0.02 * half)
        zone = brillouin_zone(lattice) / np.pi
        axes.fill(*zone.T, fill=False, ec="w", ls="--", lw=0.8)
    else:
        _fit(axes, corners.reshape(-1, 2), 0)
    axes.set_xlabel(r"$k_x / \pi$")
    axes.set_ylabel(r"$k_y / \pi$")
    axes.figure.colorbar(drawn, ax=axes, label=rf"${symbol}(\mathbf{{k}})$", shrink=0.85)


def brillouin_zone(lattice: Lattice) -> np.ndarray:
    """(n, 2) corners of the first Brillouin zone of the unit cell, in order."""
    steps = np.arange(-2, 3)
    cells = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    diagram = Voronoi(cells @ reciprocal_vectors(lattice).numpy())
    origin = int((cells == 0).all(1).nonzero()[0][0])
    corners = diagram.vertices[diagram.regions[diagram.point_region[origin]]]
    return corners[np.arctan2(corners[:, 1], corners[:, 0]).argsort()]
