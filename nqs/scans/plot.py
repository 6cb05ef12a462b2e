"""phase_diagram.png: curves along one numeric axis of a scan, or maps over two. Doubtful points are
ringed on curves and hatched on maps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nqs.errors import InputError, suggestion
from nqs.runfolder import picture
from nqs.scans.collect import DIRECTION, Collected

MAP_FROM: Final = 5
"""Values that a second axis needs for a map; fewer are drawn as curves."""
CURVES: Final = 12
ORDER_PARAMETERS: Final = (
    "excitation_fraction",
    "abs_staggered_magnetisation",
    "abs_magnetisation",
)


def save(collected: Collected, wanted: Sequence[str]) -> Path:
    """Writes the figure of the observables `wanted`, or of the order parameters that the dataset
    holds. Raises OSError, and InputError for an observable it does not hold or cannot draw."""
    path = collected.scan.path / "phase_diagram.png"
    picture.save(path, figure(collected, wanted))
    return path


def figure(collected: Collected, wanted: Sequence[str]) -> Figure:
    """Energy per site, observables and -d2E/dx2 per site."""
    data = collected.data
    across = plot_axes(collected)
    names = observables(data, wanted)
    curvature = f"d2E_d{across[0]}2"
    panels = ["energy_per_site", *names, *([curvature] if curvature in data else [])]
    n_columns = min(len(panels), 2 if len(panels) in (2, 4) else 3)
    n_rows = -(-len(panels) // n_columns)
    size = (4.6 * n_columns, 3.5 * n_rows + 0.6)
    drawn = Figure(figsize=size, layout="constrained", dpi=150)
    FigureCanvasAgg(drawn)
    grid = np.atleast_1d(drawn.subplots(n_rows, n_columns)).flatten()
    for axes, name in itertools.zip_longest(grid, panels):
        if name is None:
            axes.set_visible(False)
            continue
        value, error, title = quantity(data, name)
        if len(across) == 2:
            draw_map(drawn, axes, value, data["doubtful"], across, title)
        else:
            draw_curves(axes, data, value, error, across[0], name, title)
    handles, labels = grid[0].get_legend_handles_labels()
    if len(labels) > (len(across) == 1):
        drawn.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    drawn.suptitle(f"scan {collected.scan.path.name}", fontsize="medium")
    return drawn


def plot_axes(collected: Collected) -> list[str]:
    """The numeric axis of the curves, or two for a map: the warm start's, then the longest."""
    data, scan = collected.data, collected.scan
    numeric = [
        str(name)
        for name, coordinate in data.coords.items()
        if np.issubdtype(coordinate.dtype, np.number) and name in data.dims
    ]
    if not numeric:
        raise InputError(f"{scan.path}: no scanned key has numbers for values, nothing to draw")
    numeric.sort(key=lambda name: (data[name].attrs["key"] == "seed", -data.sizes[name]))
    numeric.sort(key=lambda name: scan.keys.warm_start not in keys(data, name))
    second = [n for n in numeric[1:2] if data.sizes[n] >= MAP_FROM and n != "seed"]
    return [numeric[0], *(second if data.sizes[numeric[0]] >= 2 else [])]


def keys(data: xr.Dataset, name: str) -> list[str]:
    """The scanned keys along a dimension."""
    attributes = data[name].attrs
    return str(attributes.get("keys", attributes["key"])).split(",")


def observables(data: xr.Dataset, wanted: Sequence[str]) -> list[str]:
    """Names of the scalar observables to draw."""
    scalar = [
        str(name)[: -len("_error")]
        for name, entry in data.data_vars.items()
        if str(name).endswith("_error") and entry.dims == data["energy"].dims
    ]
    scalar = [name for name in scalar if name in data and name != "energy"]
    for name in wanted:
        if name not in scalar:
            hint = suggestion(name, scalar)
            raise InputError(f"--observable={name}: must be one of {', '.join(scalar)}{hint}")
    return list(wanted) or [name for name in ORDER_PARAMETERS if name in scalar]


def quantity(data: xr.Dataset, name: str) -> tuple[xr.DataArray, xr.DataArray, str]:
    """(value, error, title) of a panel; energies and their derivatives per site."""
    if name == "energy_per_site":
        return data[name], data["energy_error"] / data["n_sites"], "energy per site"
    if name.startswith("d2E_d"):
        axis = name[len("d2E_d") : -1]
        title = f"$-\\partial^2 E / \\partial\\,${axis}$^2$ per site"
        return -data[name] / data["n_sites"], data[f"{name}_error"] / data["n_sites"], title
    return data[name], data[f"{name}_error"], name.replace("_", " ").replace("abs ", "absolute ")


def draw_curves(
    axes: Axes,
    data: xr.Dataset,
    value: xr.DataArray,
    error: xr.DataArray,
    along: str,
    name: str,
    title: str,
) -> None:
    """One curve for each combination of the other axes: a colour each, backward dashed; black
    crosses are exact energies, red rings doubtful points."""
    others = [str(dim) for dim in value.dims if dim not in (along, DIRECTION)]
    choices = list(itertools.product(*(range(data.sizes[dim]) for dim in others)))
    colours = colormaps["viridis"](np.linspace(0, 0.85, min(len(choices), CURVES)))
    directions = list(data[DIRECTION].values) if DIRECTION in data.dims else [None]
    for choice, colour in zip(choices[:CURVES], colours, strict=True):
        where = dict(zip(others, choice, strict=True))
        label = ", ".join(f"{d} = {text(data[d].values[i])}" for d, i in where.items())
        for direction in directions:
            chosen = {} if direction is None else {DIRECTION: direction}
            y, sigma = (a.isel(where).sel(chosen).values for a in (value, error))
            back = direction == "backward"
            words = [word for word in (label, direction) if word]
            axes.errorbar(
                data[along].values,
                y,
                yerr=sigma,
                fmt="s--" if back else "o-",
                ms=3.5,
                lw=1.2,
                capsize=2,
                mfc="white" if back else colour,
                color=colour,
                label=", ".join(words) or "scan",
            )
            ring(axes, data[along].values, y, data["doubtful"].isel(where).sel(chosen).values == 1)
        if name == "energy_per_site" and "exact_energy" in data:
            exact = data["exact_energy"] / data["n_sites"]
            exact = exact.max(DIRECTION) if DIRECTION in exact.dims else exact
            shown = "exact" if choice == choices[0] else None
            axes.plot(data[along], exact.isel(where), "k+", ms=8, mew=1.2, zorder=5, label=shown)
    low, high = float(data[along].min()), float(data[along].max())
    margin = 0.05 * (high - low or 1)
    axes.set_xlim(low - margin, high + margin)  # derivatives lack the ends
    axes.set_xlabel(f"{along} ({data[along].attrs['units']})")
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.25)


def ring(axes: Axes, x: np.ndarray, y: np.ndarray, doubtful: np.ndarray) -> None:
    """Red rings around the doubtful of some points."""
    if doubtful.any():
        label = None if "doubtful" in axes.get_legend_handles_labels()[1] else "doubtful"
        here, there = x[doubtful], y[doubtful]
        axes.plot(here, there, "o", ms=9, mew=1.5, mfc="none", mec="C3", label=label)


def draw_map(
    figure: Figure,
    axes: Axes,
    value: xr.DataArray,
    doubtful: xr.DataArray,
    across: Sequence[str],
    title: str,
) -> None:
    """Colours over two axes; of further axes the first value, which the title names. Grey is
    missing, hatched is doubtful."""
    rest = {str(dim): 0 for dim in value.dims if dim not in across}
    chosen = value.isel(rest).transpose(across[1], across[0])
    x, y = (value[name].values for name in across)
    axes.set_facecolor("0.85")
    mesh = axes.pcolormesh(x, y, np.ma.masked_invalid(chosen.values), shading="nearest")
    figure.colorbar(mesh, ax=axes)
    bad = doubtful.isel(rest).transpose(across[1], across[0]).values == 1
    if bad.any():
        cells = np.ma.masked_array(np.ones(bad.shape), mask=~bad)
        axes.pcolor(
            *(edges(values) for values in (x, y)),
            cells,
            hatch="////",
            facecolor="none",
            edgecolor="C3",
            lw=0,
        )
        axes.add_patch(Rectangle((0, 0), 0, 0, hatch="////", fc="none", ec="C3", label="doubtful"))
    axes.set_xlabel(f"{across[0]} ({value[across[0]].attrs['units']})")
    axes.set_ylabel(f"{across[1]} ({value[across[1]].attrs['units']})")
    note = ", ".join(f"{dim} = {text(value[dim].values[0])}" for dim in rest)
    axes.set_title(f"{title}\n{note}" if note else title, fontsize="medium")


def edges(centres: np.ndarray) -> np.ndarray:
    """(n + 1,) the borders of the cells that pcolormesh draws around (n,) centres."""
    if len(centres) == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middles = (centres[1:] + centres[:-1]) / 2
    first, last = 2 * centres[0] - middles[0], 2 * centres[-1] - middles[-1]
    return np.concatenate([[first], middles, [last]])


def text(value: object) -> str:
    """A coordinate in a label."""
    return f"{value:g}" if isinstance(value, float) else str(value)
