"""All points of a scan as one dataset over its axes, with derivatives of the energy.

    energy, energy_error, energy_per_site, variance, v_score,
    exact_energy, difference, relative_error, z_score: E - E_exact, over |E_exact|, over its error,
    doubtful: 1 or 0, NaN without a verdict (older runs); doubts: why, as text,
    every observable of the runs' final evaluations and <observable>_error,
    dE_d<axis>, d2E_d<axis>2 along numeric axes, each with its _error

Keys tied by scan.zip are one dimension, called after the first of them whose values all differ; the
others are further coordinates of it, and a derivative along it follows all of them.

Points that have no result are NaN. Three neighbours x- < x < x+, a = x - x-, b = x+ - x:

    dE/dx   = [a^2 E+ - b^2 E- + (b^2 - a^2) E] / (a b (a + b))      exact for parabolas
    d2E/dx2 = 2 [a E+ + b E- - (a + b) E] / (a b (a + b))

so the ends of an axis have none. Errors are propagated as of independent energies.
"""

from __future__ import annotations

import contextlib
import math
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from nqs.conf.sections import documentation
from nqs.errors import InputError
from nqs.ground_states import summary
from nqs.ground_states.config import TrainConfig
from nqs.ground_states.groups import GROUPS
from nqs.ground_states.run_file import read as read_run_file
from nqs.ground_states.summary import is_finished, status
from nqs.runfolder.atomic import write_bytes
from nqs.runfolder.history import Column, Evaluation
from nqs.runfolder.progress import duration
from nqs.scans.folder import Axis, Point, Scan, is_numeric, text, whole_text
from nqs.scans.folder import read as read_scan

NUMBERS: Final = {
    "energy": ("energy", "couplings"),
    "energy_error": ("standard error of the energy", "couplings"),
    "energy_per_site": ("energy per site", "couplings"),
    "variance": ("variance of the local energy", "couplings^2"),
    "v_score": ("V-score, N Var(H) / (E - E_inf)^2", "1"),
    "exact_energy": ("energy of exact diagonalisation", "couplings"),
    "difference": ("E - E_exact", "couplings"),
    "relative_error": ("(E - E_exact) / |E_exact|", "1"),
    "z_score": ("(E - E_exact) / standard error of the energy", "1"),
    "n_samples": ("samples of the final evaluation", "1"),
    "n_sites": ("number of sites", "1"),
    "steps": ("optimisation steps", "1"),
    "wall_seconds": ("wall time of the run", "s"),
}
DIRECTION: Final = "direction"
VERDICT: Final = {
    "doubtful": {"long_name": "whether the run ended with a doubt", "units": "1"},
    "doubts": {"long_name": "what is doubtful, one line each", "units": "1"},
}
SHOWN: Final = 20
"""Points that the closing lines name, at most."""
LONGEST_REASON: Final = 200


@dataclass(frozen=True)
class Collected:
    """The dataset of a scan and what is missing in it, {point: reason}."""

    scan: Scan
    data: xr.Dataset
    missing: dict[str, str]


def collect(path: Path) -> Collected:
    """Reads every point of the scan in `path`. Raises InputError where there is no scan or not one
    finished point."""
    scan = read_scan(path)
    collecting, missing = Collecting(scan), {}
    for point in scan.points:
        folder = scan.folder(point)
        if not is_finished(folder):
            missing[point.name] = status(folder)
            continue
        try:
            result = summary.read(folder / "summary.json")
            collecting.put(point, result, _evaluation(folder, result))
        except (InputError, OSError) as error:
            missing[point.name] = f"unreadable: {error}"[:LONGEST_REASON]
    if len(missing) == len(scan.points):
        raise InputError(f"{path}: no point of the scan is finished; resume it first")
    return collecting.collected(f"nqs train {shlex.join(scan.command)}", missing)


class Collecting:
    """The dataset of a scan as its points come in."""

    def __init__(self, scan: Scan) -> None:
        names = axis_names(scan.axes)
        self._scan = scan
        self._grid = [_Dimension(tied, names) for tied in scan.dimensions]
        self._coordinates: dict[str, Any] = {each.name: each.values for each in self._grid}
        self._directions = sorted({point.direction for point in scan.points}, reverse=True)
        if len(self._directions) > 1:
            self._coordinates[DIRECTION] = self._directions
        sizes = {name: len(values) for name, values in self._coordinates.items()}
        self._table, self._verdicts = _Table(sizes), _Verdicts(sizes)

    def put(self, point: Point, result: dict[str, Any], final: Evaluation) -> None:
        """A point's summary and the evaluation that it speaks of, all of it or nothing. Raises
        InputError for one that no run writes."""
        place = self._place(point)
        _put(self._table, place, result, final)
        self._verdicts.put(place, summary.verdict(result), result.get("doubts", []))

    def add(
        self, point: Point, name: str, value: np.ndarray, error: np.ndarray, meaning: Column
    ) -> None:
        """A further quantity of a point."""
        place, unit = self._place(point), meaning.unit
        self._table.put(name, place, value, meaning.description, unit)
        said = f"standard error of {meaning.description}"
        self._table.put(f"{name}_error", place, error, said, unit)

    def collected(self, command: str, missing: dict[str, str]) -> Collected:
        """All of it; command: what made it."""
        data = self._table.dataset(self._coordinates)
        self._verdicts.add_to(data)
        for dimension in self._grid:
            data = dimension.described(data, meanings(self._scan))
        data.attrs = {"title": f"scan {self._scan.path.name}", "command": command}
        return Collected(self._scan, data, missing)

    def _place(self, point: Point) -> tuple[int, ...]:
        place = [dimension.position(point.values) for dimension in self._grid]
        if len(self._directions) > 1:
            place.append(self._directions.index(point.direction))
        return tuple(place)


class _Dimension:
    """A scanned key or several tied ones as a dimension of the dataset.

    Attributes:
        name: of the dimension, that of the key which numbers it; of several keys none of which
            has different values everywhere, all of their names.
        values: its coordinate.
    """

    def __init__(self, tied: Sequence[Axis], names: Mapping[str, str]) -> None:
        self._tied, self._names = tied, names
        distinct = [axis for axis in tied if len(set(map(repr, axis.values))) == len(axis.values)]
        self._main = next((axis for axis in distinct if is_numeric(axis)), (*distinct, None)[0])
        rows = zip(*(axis.values for axis in tied), strict=True)
        self._rows = list(map(repr, rows))
        if self._main is not None:
            self.name, self.values = names[self._main.key], coordinate(self._main)
        else:
            self.name = "_".join(names[axis.key] for axis in tied)
            columns = [map(text, axis.values) for axis in tied]
            self.values = [",".join(row) for row in zip(*columns, strict=True)]

    def position(self, values: Mapping[str, Any]) -> int:
        """Where along the dimension a point with these values of all keys is."""
        return self._rows.index(repr(tuple(values[axis.key] for axis in self._tied)))

    def described(self, data: xr.Dataset, texts: Mapping[str, str]) -> xr.Dataset:
        """The dataset with attributes and further coordinates of this dimension and, where it has
        numbers, in their order and with derivatives."""
        for axis in self._tied:
            if axis is not self._main:
                name = self._names[axis.key]
                data = data.assign_coords({name: (self.name, coordinate(axis))})
                data[name].attrs = axis_attributes(axis.key, texts)
        keys = [axis.key for axis in self._tied]
        if self._main is None:
            data[self.name].attrs = {"keys": ",".join(keys), "long_name": self.name, "units": "1"}
            return data
        data[self.name].attrs = axis_attributes(self._main.key, texts)
        if len(keys) > 1:
            data[self.name].attrs["keys"] = ",".join(keys)
        if is_numeric(self._main):
            data = data.sortby(self.name)
            add_derivatives(data, self.name)
        return data


def axis_names(axes: Sequence[Axis]) -> dict[str, str]:
    """{key: name in the dataset}: hamiltonian.delta is delta unless another key ends so too or it
    is the name of something in the dataset."""
    tails = [axis.key.rpartition(".")[2] for axis in axes]
    taken = {*NUMBERS, *VERDICT, DIRECTION, "site"}
    return {
        axis.key: tail if tails.count(tail) == 1 and tail not in taken else axis.key
        for axis, tail in zip(axes, tails, strict=True)
    }


def coordinate(axis: Axis) -> list[Any]:
    """Numbers as they are, everything else as text."""
    return [float(v) if is_numeric(axis) else whole_text(v) for v in axis.values]


def meanings(scan: Scan) -> dict[str, str]:
    """{key: its line of documentation} of the kinds that the points have, and of train."""
    texts = {f"train.{name}": text for name, text in documentation(TrainConfig).items()}
    for section, group in GROUPS.items():
        for kind in {point.config.get(section, {}).get("name") for point in scan.points}:
            with contextlib.suppress(InputError):  # somebody's module that is not here
                keys = group.keys(kind)
                texts |= {f"{section}.{name}": key.text for name, key in keys.items() if key.text}
    return texts


def axis_attributes(key: str, texts: Mapping[str, str]) -> dict[str, str]:
    """Key, meaning and unit of an axis."""
    section, _, name = key.partition(".")
    unit = {"hamiltonian": "couplings", "lattice": "1"}.get(section, "1")
    unit = "lattice constants" if name in ("Rb", "cutoff") else unit
    return {"key": key, "long_name": texts.get(key, key), "units": unit}


def _put(table: _Table, place: tuple[int, ...], result: dict[str, Any], final: Evaluation) -> None:
    """Puts a finished run into the table, all of it or nothing. Raises InputError."""
    for name, (value, error) in final.observables.items():
        plain = all(entry.dtype.kind in "fiu" for entry in (value, error))
        if not plain or value.shape != error.shape:
            raise InputError(f"{name} in run.h5 is not made of numbers with their errors")
    if result.get("exact_energy") is not None:  # older summaries hold |relative error|
        result |= summary.against_exact(
            result["energy"], result["energy_error"], result["exact_energy"]
        )
    for name, (meaning, unit) in NUMBERS.items():
        if result.get(name) is not None:
            table.put(name, place, np.asarray(result[name], dtype=float), meaning, unit)
    for name, (value, error) in final.observables.items():
        meaning, known = name.replace("_", " "), final.meanings.get(name)
        unit = known.unit if known is not None and known.unit else "1"
        n_sites = 0 if name in final.coordinates else result["n_sites"]
        table.put(name, place, value, meaning, unit, n_sites)
        table.put(f"{name}_error", place, error, f"standard error of {meaning}", unit, n_sites)


def _evaluation(folder: Path, result: dict[str, Any]) -> Evaluation:
    """The evaluation that a summary speaks of, or else the final one. Raises InputError."""
    evaluations = list(reversed(read_run_file(folder / "run.h5").evaluations))
    same = [e for e in evaluations if e.numbers.get("energy") == result["energy"]]
    final = [e for e in evaluations if e.numbers.get("kind") == "final"]
    if not [*same, *final]:
        raise InputError("no final evaluation in run.h5")
    return [*same, *final][0]


class _Verdicts:
    """doubtful and doubts over the axes."""

    def __init__(self, axes: Mapping[str, int]) -> None:
        self._dims = list(axes)
        self._doubtful = np.full(tuple(axes.values()), np.nan)
        self._doubts = np.full(tuple(axes.values()), "", dtype=object)

    def put(self, place: tuple[int, ...], verdict: str | None, doubts: Iterable[str]) -> None:
        """The verdict of one point."""
        if verdict is not None:
            self._doubtful[place] = verdict == summary.DOUBTFUL
        self._doubts[place] = "\n".join(doubts)

    def add_to(self, data: xr.Dataset) -> None:
        """Adds the two variables."""
        data["doubtful"] = (self._dims, self._doubtful, VERDICT["doubtful"])
        data["doubts"] = (self._dims, self._doubts.astype(str), VERDICT["doubts"])


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
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        collected.data.to_netcdf(temporary, engine="h5netcdf")
        write_bytes(path, temporary.read_bytes())
    return path


def lines(collected: Collected) -> list[str]:
    """What the scan amounts to: points, missing and doubtful ones, accuracy, time."""
    data, n_points = collected.data, len(collected.scan.points)
    n_finished = n_points - len(collected.missing)
    rows = [f"points          {n_finished} of {n_points}"]
    missing = [f"{name} ({reason})" for name, reason in collected.missing.items()]
    rows += [f"missing         {line}" for line in missing[:SHOWN]]
    rows += [f"missing         and {len(missing) - SHOWN} more"] * (len(missing) > SHOWN)
    sizes = ", ".join(f"{name} {size}" for name, size in data.sizes.items())
    rows.append(f"dimensions      {sizes}")
    rows += verdict_lines(data, n_finished)
    if "relative_error" in data:
        error = abs(data["relative_error"])
        rows.append(f"relative error  median {float(error.median()):.2e}")
        worst = data["relative_error"].isel(error.argmax(...))
        rows.append(f"                worst  {float(worst):+.2e} at {_where(worst)}")
    elif "difference" in data:
        error = abs(data["difference"])
        rows.append(f"E - E_exact     median {float(error.median()):.2e}")
        worst = data["difference"].isel(error.argmax(...))
        rows.append(f"                worst  {float(worst):+.2e} at {_where(worst)}")
    if "v_score" in data:
        rows.append(f"V-score         median {float(data['v_score'].median()):.2e}")
        rows.append(f"                worst  {float(data['v_score'].max()):.2e}")
    if "wall_seconds" in data:
        seconds = float(data["wall_seconds"].sum())
        rows.append(f"run time        {seconds:.1f} s ({duration(seconds)}) over all points")
    if "steps" in data:
        rows.append(f"steps           {float(data['steps'].sum()):.0f} over all points")
    if DIRECTION in data.dims:
        rows.append(hysteresis(data))
    return rows


def verdict_lines(data: xr.Dataset, n_found: int) -> list[str]:
    """How many points are doubtful, which, and how many have no verdict."""
    judged, doubtful = data["doubtful"].notnull(), data["doubtful"] == 1
    n_doubtful = int(doubtful.sum())
    rows = [f"doubtful        {n_doubtful} of {n_found}"]
    for index in np.argwhere(doubtful.values)[:SHOWN]:
        here = data["doubts"].isel(dict(zip(doubtful.dims, index.tolist(), strict=True)))
        kinds = [doubt.partition(":")[0] for doubt in str(here.item()).split("\n")]
        rows.append(f"                {_where(here)}: {text(', '.join(kinds))}")
    if n_doubtful > SHOWN:
        rows.append(f"                and {n_doubtful - SHOWN} more")
    if n_found > int(judged.sum()):
        rows.append(f"no verdict      {n_found - int(judged.sum())} (older runs)")
    return rows


def _where(one: xr.DataArray) -> str:
    """The place of a single value."""
    return ", ".join(f"{name}={_shown(value)}" for name, value in one.coords.items())


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
    return text(value.item())
