"""The folder of a scan: its grid in scan.json, one run's folder a point, and scan.log.

    scan.json           command line, axes, order of the points, the resolved configuration of each
    scan.log            a line for each point and session
    <point>/            the run of a point, e.g. hamiltonian.delta=0.25,hamiltonian.Rb=1.15
    jobs/               logs of SLURM jobs (launcher=submitit)
    collected.nc, phase_diagram.png     from nqs collect

scan.json holds all that the points need: a scan resumes alike whatever happens to the defaults.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nqs.runs.atomic import write_text
from nqs.runs.config import Config
from nqs.runs.scan_config import ScanConfig
from nqs.runs.schema import InputError, require, require_choice, shown, to_mapping

FORMAT: Final = "nqs scan 1"
LONGEST_NAME: Final = 200
"""Characters of a folder's name; file systems take 255 bytes."""


@dataclass(frozen=True)
class Axis:
    """A scanned key and its values in the order they were written."""

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Point:
    """One run of the grid.

    Attributes:
        name: of its folder.
        values: value of each axis.
        direction: "forward" or "backward" along scan.warm_start, "" without warm starts.
        config: its configuration, nested, as a run from its product state.
    """

    name: str
    values: dict[str, Any]
    direction: str
    config: dict[str, Any]


@dataclass(frozen=True)
class Scan:
    """A grid of runs in the folder `path`.

    Attributes:
        command: the words after `python train.py` that made it.
        keys: the scan's own keys.
        chains: points by chain, in order. Within a chain each point starts from the one before;
            chains know nothing of each other. Without warm starts each point is a chain.
    """

    path: Path
    command: tuple[str, ...]
    keys: ScanConfig
    axes: tuple[Axis, ...]
    chains: tuple[tuple[Point, ...], ...]

    @property
    def points(self) -> list[Point]:
        """All points, chain by chain."""
        return [point for chain in self.chains for point in chain]

    def folder(self, point: Point) -> Path:
        """The folder of a point's run."""
        return self.path / point.name

    def config(self, point: Point, source: Point | None) -> Config:
        """The configuration of a point's run that starts from the run of `source`, if any.

        A warm start takes fewer steps, over which the optimizer's schedules are spread. Raises
        InputError.
        """
        mapping = {**point.config, "run": {"dir": str(self.folder(point)), "resume": False}}
        if source is not None:
            warm = {"steps": self.warm_steps(point), "start_from": str(self.folder(source))}
            mapping["train"] = {**point.config["train"], **warm}
        return Config.from_dict(mapping)

    def warm_steps(self, point: Point) -> int:
        """Optimisation steps of a warm start."""
        return self.keys.warm_steps or -(-int(point.config["train"]["steps"]) // 4)


def make(
    path: Path,
    command: Sequence[str],
    keys: ScanConfig,
    axes: Sequence[Axis],
    configs: Mapping[tuple[Any, ...], dict[str, Any]],
) -> Scan:
    """The scan of all combinations of the axes' values, the first axis the slowest.

    configs maps a tuple of positions in the axes' values to a configuration. Raises InputError for
    a warm start along a key that is not scanned.
    """
    scanned = [axis.key for axis in axes]
    require(bool(axes), "-m", "''", "give a key several values, e.g. hamiltonian.delta=0,1,2")
    if keys.warm_start is not None:
        require_choice("scan.warm_start", keys.warm_start, scanned)
    directions = {"forward": [1], "backward": [-1], "both": [1, -1]}[keys.direction]
    if keys.warm_start is None:
        chains = [[(index, "")] for index in configs]
    else:
        along = scanned.index(keys.warm_start)
        ranges = [range(len(axis.values)) for axis in axes]
        across = itertools.product(*(r for i, r in enumerate(ranges) if i != along))
        chains = [
            [
                ((*rest[:along], position, *rest[along:]), "forward" if sign > 0 else "backward")
                for position in ranges[along][::sign]
            ]
            for rest in across
            for sign in directions
        ]
    names = _Names()
    made = tuple(
        tuple(
            _point(names, axes, index, direction, keys.direction == "both", configs[index])
            for index, direction in chain
        )
        for chain in chains
    )
    return Scan(path, tuple(command), keys, tuple(axes), made)


def _point(
    names: _Names,
    axes: Sequence[Axis],
    index: tuple[int, ...],
    direction: str,
    named: bool,
    config: dict[str, Any],
) -> Point:
    values = {axis.key: axis.values[i] for axis, i in zip(axes, index, strict=True)}
    words = [f"{key}={text(value)}" for key, value in values.items()]
    return Point(names.take(words + [direction] * named), values, direction, config)


class _Names:
    """Folder names that differ."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, words: list[str]) -> str:
        """The words joined; what a folder's name cannot hold becomes _, a second one gets ~2."""
        stem = re.sub(r"[^\w.,=+\-\[\]]", "_", ",".join(words))[:LONGEST_NAME]
        names = itertools.chain([stem], (f"{stem}~{number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in self._taken)
        self._taken.add(name)
        return name


def text(value: Any) -> str:
    """A value as the names of points write it."""
    return f"{value:.12g}" if isinstance(value, float) else shown(value)


def write(scan: Scan) -> None:
    """Writes scan.json. Raises OSError."""
    content = {
        "format": FORMAT,
        "command": list(scan.command),
        "scan": to_mapping(scan.keys),
        "axes": [dataclasses.asdict(axis) for axis in scan.axes],
        "chains": [[dataclasses.asdict(point) for point in chain] for chain in scan.chains],
    }
    write_text(scan.path / "scan.json", json.dumps(content, indent=1) + "\n")


def read(path: Path) -> Scan:
    """The scan in the folder `path`; raises InputError where there is none."""
    try:
        content = json.loads((path / "scan.json").read_text())
        if content["format"] != FORMAT:
            raise ValueError(content["format"])
        return Scan(
            path,
            tuple(content["command"]),
            ScanConfig(**content["scan"]),
            tuple(Axis(axis["key"], tuple(axis["values"])) for axis in content["axes"]),
            tuple(tuple(Point(**point) for point in chain) for chain in content["chains"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{path}: holds no scan; give a folder with a readable scan.json"
        ) from None


def create(scan: Scan) -> Scan:
    """Makes the folder of a new scan, numbered under scans/ where none is given, and writes
    scan.json. Raises InputError if the folder holds something or cannot be written."""
    given = scan.keys.dir
    for path in [Path(given)] if given else (Path("scans") / f"{n:03d}" for n in range(1, 10_000)):
        if given is None and path.exists():
            continue
        if (path / "scan.json").exists():
            raise InputError(
                f"scan.dir={path}: already holds a scan; continue it with scan.resume=true or "
                "choose another folder"
            )
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"scan.dir={path}: exists and is not an empty folder; choose another")
        try:
            path.mkdir(parents=True, exist_ok=given is not None)
            made = dataclasses.replace(scan, path=path)
            write(made)
        except FileExistsError:
            if given is None:  # another process took this number meanwhile
                continue
            raise InputError(f"scan.dir={path}: exists; choose another folder") from None
        except OSError as error:
            raise InputError(f"scan.dir={path}: cannot be written: {error.strerror}") from None
        return made
    raise InputError("scans/: all numbers are taken; give scan.dir=PATH")
