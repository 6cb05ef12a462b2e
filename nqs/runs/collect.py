"""All points of a scan as one dataset over its axes, with derivatives of the energy.

    energy, energy_error, energy_per_site, variance, v_score, exact_energy, relative_error,
    every observable of the runs' final evaluations and <observable>_error,
    dE_d<axis>, d2E_d<axis>2 along numeric axes, each with its _error

Points that have no result are NaN. Three neighbours x- < x < x+, a = x - x-, b = x+ - x:

    dE/dx   = [a^2 E+ - b^2 E- + (b^2 - a^2) E] / (a b (a + b))      exact for parabolas
    d2E/dx2 = 2 [a E+ + b E- - (a + b) E] / (a b (a + b))

so the ends of an axis have none. Errors are propagated as of independent energies.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from nqs.runs import history, scan_folder, summary
from nqs.runs.config import (
    HamiltonianConfig,
    LatticeConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from nqs.runs.progress import duration
from nqs.runs.scan_folder import Axis, Scan, is_numeric
from nqs.runs.schema import InputError, documentation
from nqs.runs.summary import is_finished, status

SECTIONS: Final[dict[str, type]] = {
    "lattice": LatticeConfig,
    "hamiltonian": HamiltonianConfig,
    "model": ModelConfig,
    "optimizer": OptimizerConfig,
    "train": TrainConfig,
}
NUMBERS: Final = {
    "energy": ("energy", "couplings"),
    "energy_error": ("standard error of the energy", "couplings"),
    "energy_per_site": ("energy per site", "couplings"),
    "variance": ("variance of the local energy", "couplings^2"),
    "v_score": ("V-score, N Var(H) / (E - E_inf)^2", "1"),
    "exact_energy": ("energy of exact diagonalisation", "couplings"),
    "relative_error": ("|E - E_exact| / |E_exact|", "1"),
    "n_samples": ("samples of the final evaluation", "1"),
    "n_sites": ("number of sites", "1"),
    "steps": ("optimisation steps", "1"),
    "wall_seconds": ("wall time of the run", "s"),
}
DIRECTION: Final = "direction"


@dataclass(frozen=True)
class Collected:
    """The dataset of a scan and what is missing in it, {point: reason}."""

    scan: Scan
    data: xr.Dataset
    missing: dict[str, str]


def collect(path: Path) -> Collected:
    """Reads every point of the scan in `path`. Raises InputError where there is no scan or not one
    finished point."""
    scan = scan_folder.read(path)
    names = axis_names(scan.axes)
    coordinates = {names[axis.key]: coordinate(axis) for axis in scan.axes}
    directions = sorted({point.direction for point in scan.points}, reverse=True)
    if len(directions) > 1:
        coordinates[DIRECTION] = directions
    table = _Table({name: len(values) for name, values in coordinates.items()})
    missing = {}
    for point in scan.points:
        folder = scan.folder(point)
        if not is_finished(folder):
            missing[point.name] = status(folder)
            continue
        here = {names[axis.key]: _index(axis, point.values[axis.key]) for axis in scan.axes}
        place = [*here.values(), *([directions.index(point.direction)] * (len(directions) > 1))]
        _read_point(table, tuple(place), folder)
    if len(missing) == len(scan.points):
        raise InputError(f"{path}: no point of the scan is finished; resume it first")
    data = table.dataset(coordinates)
    for axis in scan.axes:
        name = names[axis.key]
        data[name].attrs = axis_attributes(axis.key)
        if is_numeric(axis):
            data = data.sortby(name)
            add_derivatives(data, name)
    data.attrs = {
        "title": f"scan {path.name}",
        "command": f"python train.py {shlex.join(scan.command)}",
    }
    return Collected(scan, data, missing)


def axis_names(axes: Sequence[Axis]) -> dict[str, str]:
    """{key: name in the dataset}: hamiltonian.delta is delta unless another key ends so too or it
    is the name of something in the dataset."""
    tails = [axis.key.rpartition(".")[2] for axis in axes]
    taken = {*NUMBERS, DIRECTION, "site"}
    return {
        axis.key: tail if tails.count(tail) == 1 and tail not in taken else axis.key
        for axis, tail in zip(axes, tails, strict=True)
    }


def coordinate(axis: Axis) -> list[Any]:
    """Numbers as they are, everything else as text."""
    return [float(v) if is_numeric(axis) else scan_folder.text(v) for v in axis.values]


def axis_attributes(key: str) -> dict[str, str]:
    """Key, meaning and unit of an axis."""
    section, _, name = key.partition(".")
    known = documentation(SECTIONS[section]) if section in SECTIONS else {}
    unit = {"hamiltonian": "couplings", "lattice": "1"}.get(section, "1")
    unit = "lattice constants" if name in ("Rb", "cutoff") else unit
    return {"key": key, "long_name": known.get(name, key), "units": unit}


def _index(axis: Axis, value: Any) -> int:
    return [scan_folder.text(v) for v in axis.values].index(scan_folder.text(value))


def _read_point(table: _Table, place: tuple[int, ...], folder: Path) -> None:
    """Puts a finished run into the table."""
    result = summary.read(folder / "summary.json")
    for name, (meaning, unit) in NUMBERS.items():
        if result.get(name) is not None:
            table.put(name, place, np.asarray(result[name], dtype=float), meaning, unit)
    n_sites = result["n_sites"]
    content = history.read(folder / "run.h5")
    final = next(e for e in reversed(content.evaluations) if e.numbers["kind"] == "final")
    for name, (value, error) in final.observables.items():
        meaning = name.replace("_", " ")
        table.put(name, place, value, meaning, "1", n_sites)
        table.put(f"{name}_error", place, error, f"standard error of {meaning}", "1", n_sites)


class _Table:
    """Arrays over the axes that grow as points come in; what never comes stays NaN."""

    def __init__(self, axes: Mapping[str, int]) -> None:
        self._axes = dict(axes)
        self._entries: dict[str, dict[tuple[int, ...], np.ndarray]] = {}
        self._attributes: dict[str, dict[str, str]] = {}
        self._per_site: dict[str, bool] = {}

    def put(
        self,
        name: str,
        place: tuple[int, ...],
        value: np.ndarray,
        meaning: str,
        unit: str,
        n_sites: int = 0,
    ) -> None:
        """One value of any shape at one point."""
        self._entries.setdefault(name, {})[place] = value
        self._attributes[name] = {"long_name": meaning, "units": unit}
        per_site = all(length == n_sites for length in value.shape)
        self._per_site[name] = self._per_site.get(name, True) and per_site

    def dataset(self, coordinates: Mapping[str, Any]) -> xr.Dataset:
        """All of it; the last dimensions of a quantity per site are site, site_2, ... Lattices of
        several sizes leave NaN beyond the last site of the smaller ones."""
        sizes = {
            name: np.max([value.shape for value in entries.values()], axis=0)
            for name, entries in self._entries.items()
            if len({value.ndim for value in entries.values()}) == 1
        }
        n_sites = max(
            (int(s.max()) for name, s in sizes.items() if len(s) and self._per_site[name]),
            default=0,
        )
        variables = {}
        for name, shape in sizes.items():
            if self._per_site[name]:
                shape = np.full(len(shape), n_sites)
                dims = [f"site_{i}" if i > 1 else "site" for i in range(1, len(shape) + 1)]
            else:
                quantity = name.removesuffix("_error")
                dims = [f"{quantity}_{i}" for i in range(1, len(shape) + 1)]
            array = np.full((*self._axes.values(), *shape), np.nan)
            for place, value in self._entries[name].items():
                index: tuple[Any, ...] = (*place, *(slice(length) for length in value.shape))
                array[index] = value
            variables[name] = ((*self._axes, *dims), array, self._attributes[name])
        return xr.Dataset(variables, coords=dict(coordinates))


def add_derivatives(data: xr.Dataset, name: str) -> None:
    """Adds dE/d<name>, d2E/d<name>2 and their errors along a sorted numeric axis of >= 3 values."""
    x = data[name].values
    if len(x) < 3:
        return
    weights = derivative_weights(x)
    energy, sigma = (
        data[key].transpose(..., name).values for key in ("energy", "energy_error")
    )  # (..., n)
    dims = [dim for dim in data["energy"].dims if dim != name] + [name]
    unit = data["energy"].attrs["units"]
    for order, symbol in ((1, f"dE_d{name}"), (2, f"d2E_d{name}2")):
        w = weights[order - 1]  # (n, 3)
        value, square = (np.full_like(energy, np.nan) for _ in range(2))
        for i in range(1, len(x) - 1):
            value[..., i] = energy[..., i - 1 : i + 2] @ w[i]
            square[..., i] = sigma[..., i - 1 : i + 2] ** 2 @ w[i] ** 2
        power = "" if order == 1 else f"^{order}"
        meaning = {
            "long_name": f"derivative of order {order} of the energy along {name}",
            "units": f"{unit} / ({data[name].attrs['units']}){power}",
        }
        data[symbol] = (dims, value, meaning)
        error = meaning | {"long_name": f"standard error of the {meaning['long_name']}"}
        data[f"{symbol}_error"] = (dims, np.sqrt(square), error)


def derivative_weights(x: np.ndarray) -> np.ndarray:
    """(2, n, 3) weights of E-, E, E+ in the first and second derivative at each of the n points x,
    ascending; NaN at both ends."""
    weights = np.full((2, len(x), 3), np.nan)
    a, b = x[1:-1] - x[:-2], x[2:] - x[1:-1]
    norm = a * b * (a + b)
    weights[0, 1:-1] = np.stack([-(b**2), b**2 - a**2, a**2], axis=1) / norm[:, None]
    weights[1, 1:-1] = 2 * np.stack([b, -(a + b), a], axis=1) / norm[:, None]
    return weights


def write(collected: Collected) -> Path:
    """collected.nc in the scan's folder, whole or not at all. Raises OSError."""
    path = collected.scan.path / "collected.nc"
    temporary = path.with_name(".collected.tmp")
    collected.data.to_netcdf(temporary, engine="h5netcdf")
    os.replace(temporary, path)
    return path


def lines(collected: Collected) -> list[str]:
    """What the scan amounts to: points, missing ones, accuracy, time."""
    data, n_points = collected.data, len(collected.scan.points)
    found = n_points - len(collected.missing)
    rows = [f"points          {found} of {n_points}"]
    rows += [f"missing         {name} ({reason})" for name, reason in collected.missing.items()]
    sizes = ", ".join(f"{name} {size}" for name, size in data.sizes.items())
    rows.append(f"dimensions      {sizes}")
    if "relative_error" in data:
        error = data["relative_error"]
        worst = error.where(error == error.max(), drop=True).squeeze()
        where = ", ".join(f"{d}={_shown(worst[d])}" for d in error.dims if worst[d].size == 1)
        rows.append(f"relative error  median {float(error.median()):.2e}")
        rows.append(f"                worst  {float(error.max()):.2e} at {where}")
    rows.append(f"V-score         median {float(data['v_score'].median()):.2e}")
    rows.append(f"                worst  {float(data['v_score'].max()):.2e}")
    seconds, steps = float(data["wall_seconds"].sum()), float(data["steps"].sum())
    rows.append(f"run time        {seconds:.1f} s ({duration(seconds)}) over all points")
    rows.append(f"steps           {steps:.0f} over all points")
    if DIRECTION in data.dims:
        rows.append(hysteresis(data))
    return rows


def hysteresis(data: xr.Dataset) -> str:
    """The largest difference between the two directions, in its standard errors."""
    gap = data["energy"].sel(direction="backward") - data["energy"].sel(direction="forward")
    sigmas = abs(gap) / (data["energy_error"] ** 2).sum(DIRECTION, skipna=False) ** 0.5
    if not sigmas.notnull().any():
        return "hysteresis      no point has both directions"
    index = sigmas.fillna(-math.inf).argmax(...)
    where = ", ".join(f"{dim}={_shown(gap[dim][i])}" for dim, i in index.items())
    return (
        f"hysteresis      largest E(backward) - E(forward) {float(gap.isel(index)):+.2e}, "
        f"{float(sigmas.isel(index)):.1f} standard errors, at {where}"
    )


def _shown(value: Any) -> str:
    return scan_folder.text(value.item())
