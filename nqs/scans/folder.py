"""The folder of a scan: its grid in scan.json, one run's folder a point, and scan.log.

    scan.json           command line, axes, order of the points, the resolved configuration of each
    scan.log            a line for each point and session
    <point>/            the run of a point, e.g. hamiltonian.delta=0.25,hamiltonian.Rb=1.15
    <point>~again/      another attempt at it, or <point>~first/: nqs.scans.attempts
    neighbours.json     what nqs.scans.neighbours has computed, to be reused
    jobs/               logs of SLURM jobs (launcher=submitit)
    collected.nc, phase_diagram.png     from nqs collect

scan.json holds all that the points need: a scan resumes alike whatever happens to the defaults. It
carries the sha256 of its own content, and nothing in it leads out of the scan's folder.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nqs.conf.sections import from_mapping, to_mapping
from nqs.errors import InputError, printable, require, require_choice, shown
from nqs.ground_states.config import Config
from nqs.runfolder.atomic import write_text
from nqs.runfolder.digests import KEY, verified, vouched
from nqs.scans.config import ScanConfig

FORMAT: Final = "nqs scan 2"
WITHOUT_DIGEST: Final = "nqs scan 1"
"""What older scans say of themselves; they are read without a digest."""
LONGEST_NAME: Final = 200
"""Bytes of a folder's name; file systems take 255."""
NAME: Final = re.compile(r"\w[\w.,=+\-\[\]]*=[\w.,=+\-\[\]]*(~[0-9]+)?")
"""What a point's folder may be called: no way out of the scan's folder, no control character."""
SCANNED_KEY: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
AGAIN: Final = "~again"
FIRST: Final = "~first"
MOST_POINTS: Final = 20_000
LARGEST: Final = 256 * 2**20
"""Bytes of a scan.json that are read at most."""
DIRECTIONS: Final = ("", "forward", "backward")


@dataclass(frozen=True)
class Axis:
    """A scanned key and its values in the order they were written."""

    key: str
    values: tuple[Any, ...]


def is_numeric(axis: Axis) -> bool:
    """Whether all values of the axis are numbers."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in axis.values)


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
        command: the words after `nqs train` that made it.
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

    @property
    def dimensions(self) -> list[tuple[Axis, ...]]:
        """The axes; those tied by scan.zip are one dimension."""
        return dimensions(self.axes, self.keys.zip)

    def folder(self, point: Point) -> Path:
        """The folder of a point's run."""
        return self.path / point.name

    def config(self, point: Point, source: Point | None) -> Config:
        """The configuration of a point's run that starts from the run of `source`, if any.

        A warm start takes fewer steps, over which the optimizer's schedules are spread. Raises
        InputError.
        """
        mapping = {**point.config, "run": {"dir": str(self.folder(point)), "resume": False}}
        cold = Config.from_dict(mapping)
        if source is None:
            return cold
        steps = self.keys.warm_steps or -(-cold.train.steps // 4)
        warm = {"steps": steps, "start_from": str(self.folder(source))}
        warm |= {"grow": False, "stage_steps": "auto"}
        return Config.from_dict({**mapping, "train": {**point.config["train"], **warm}})


def dimensions(axes: Sequence[Axis], tied: Sequence[str] | None) -> list[tuple[Axis, ...]]:
    """The axes, those of the keys `tied` together as one dimension, at the place of its first.

    Raises InputError for tied keys that are not scanned, have unequally many values, or take the
    same values twice.
    """
    scanned = [axis.key for axis in axes]
    for key in tied or ():
        require_choice("scan.zip", key, scanned)
    together = tuple(axis for key in tied or () for axis in axes if axis.key == key)
    lengths = {axis.key: len(axis.values) for axis in together}
    counts = ", ".join(f"{key} has {length}" for key, length in lengths.items())
    rule = f"needs equally many values of each key; {counts}"
    require(len(set(lengths.values())) <= 1, "scan.zip", tied, rule)
    rows = list(map(repr, zip(*(axis.values for axis in together), strict=True)))
    twice = next((row for row, count in Counter(rows).items() if count > 1), None)
    require(twice is None, "scan.zip", tied, f"takes the values {text(twice)} twice")
    free: list[tuple[Axis, ...]] = [(axis,) for axis in axes if axis not in together]
    if not together:
        return free
    place = min(scanned.index(axis.key) for axis in together)
    n_before = sum(scanned.index(alone[0].key) < place for alone in free)
    return [*free[:n_before], together, *free[n_before:]]


def make(
    path: Path,
    command: Sequence[str],
    keys: ScanConfig,
    axes: Sequence[Axis],
    configs: Mapping[tuple[int, ...], dict[str, Any]],
) -> Scan:
    """The scan of all combinations of the dimensions' values, the first dimension the slowest.

    configs maps a tuple of positions in the dimensions' values to a configuration. Raises
    InputError for a warm start along a key that is not scanned.
    """
    require(bool(axes), "-m", "''", "give a key several values, e.g. hamiltonian.delta=0,1,2")
    if keys.warm_start is not None:
        require_choice("scan.warm_start", keys.warm_start, [axis.key for axis in axes])
    directions = {"forward": [1], "backward": [-1], "both": [1, -1]}[keys.direction]
    grid = dimensions(axes, keys.zip)
    if keys.warm_start is None:
        chains = [[(index, "")] for index in configs]
    else:
        along = next(
            place
            for place, tied in enumerate(grid)
            if keys.warm_start in [axis.key for axis in tied]
        )
        ranges = [range(len(tied[0].values)) for tied in grid]
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
            _point(names, axes, grid, index, direction, keys.direction == "both", configs[index])
            for index, direction in chain
        )
        for chain in chains
    )
    return Scan(path, tuple(command), keys, tuple(axes), made)


def _point(
    names: _Names,
    axes: Sequence[Axis],
    grid: Sequence[tuple[Axis, ...]],
    index: tuple[int, ...],
    direction: str,
    named: bool,
    config: dict[str, Any],
) -> Point:
    place = {axis.key: i for tied, i in zip(grid, index, strict=True) for axis in tied}
    values = {axis.key: axis.values[place[axis.key]] for axis in axes}
    words = [f"{key}={text(value)}" for key, value in values.items()]
    return Point(names.take(words + [direction] * named), values, direction, config)


class _Names:
    """Folder names that differ."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, words: list[str]) -> str:
        """The words joined; what a folder's name cannot hold becomes _, a second one gets ~2."""
        stem = re.sub(r"[^\w.,=+\-\[\]]", "_", ",".join(words))
        stem = stem.encode()[:LONGEST_NAME].decode(errors="ignore")
        names = itertools.chain([stem], (f"{stem}~{number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in self._taken)
        self._taken.add(name)
        return name


def text(value: Any) -> str:
    """A value as the names of points and the terminal show it."""
    return f"{value:.12g}" if isinstance(value, float) else shown(value)


def whole_text(value: Any) -> str:
    """`text`, however long."""
    return printable(value) if isinstance(value, str) else text(value)


def write(scan: Scan) -> None:
    """Writes scan.json. Raises OSError."""
    content = {
        "format": FORMAT,
        "command": list(scan.command),
        "scan": to_mapping(scan.keys),
        "axes": [dataclasses.asdict(axis) for axis in scan.axes],
        "chains": [[dataclasses.asdict(point) for point in chain] for chain in scan.chains],
    }
    write_text(scan.path / "scan.json", json.dumps(vouched(content), indent=1) + "\n")


def read(path: Path) -> Scan:
    """The scan in the folder `path`. Raises InputError where there is none, where scan.json is
    damaged or holds anything but a scan, and for points that would lie elsewhere."""
    from nqs.runfolder.text_file import read_text  # torch, which a new scan need not wait for

    file = path / "scan.json"
    if not file.exists():
        raise InputError(f"{path}: holds no scan; give a folder with a readable scan.json")
    try:
        content = json.loads(read_text(file, LARGEST), parse_constant=_refuse_constant)
        scan = _read(path, content)
    except (ValueError, RecursionError, MemoryError) as error:
        reason = " ".join(str(error).split()).removeprefix(f"{file}: ")[:200]
        raise InputError(f"{path}: scan.json holds no scan that can be read ({reason})") from None
    for point in scan.points:
        for end in ("", AGAIN, FIRST):
            folder = path / f"{point.name}{end}"
            if folder.is_symlink():
                raise InputError(f"{folder}: is a link; points stay in the folder of their scan")
    return scan


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _read(path: Path, content: Any) -> Scan:
    """The scan that a scan.json describes. Raises ValueError, a sentence, if it describes none."""
    _expect(isinstance(content, dict), "it is not a mapping")
    known = (FORMAT, WITHOUT_DIGEST)
    _expect(content.get("format") in known, f"its format is not one of {', '.join(known)}")
    _expect(content["format"] != FORMAT or KEY in content, "it has no sha256")
    content = verified(content)
    entries: list[Any] = [content.get(key) for key in ("command", "axes", "chains")]
    command, axes, chains = entries
    _expect(_all(command, str), "command is not a list of words")
    _expect(_all(axes, dict) and bool(axes), "axes is not a list of axes")
    _expect(_all(chains, list) and bool(chains), "chains is not a list of chains")
    keys = from_mapping(ScanConfig, content.get("scan"), "scan")
    read_axes = tuple(map(_read_axis, axes))
    grid = dimensions(read_axes, keys.zip)
    n_points = math.prod(len(tied[0].values) for tied in grid)
    _expect(n_points <= MOST_POINTS, f"it has more than {MOST_POINTS} points")
    allowed = {axis.key: set(map(repr, axis.values)) for axis in read_axes}
    read_chains = tuple(tuple(_read_point(entry, allowed) for entry in chain) for chain in chains)
    points = [point for chain in read_chains for point in chain]
    _expect(bool(points), "it has no points")
    for what, names in (
        ("name", [point.name for point in points]),
        ("place", [(repr(p.values), p.direction) for p in points]),
    ):
        _expect(len(set(names)) == len(names), f"two points have the same {what}")
    return Scan(path, tuple(command), keys, read_axes, read_chains)


def _read_axis(entry: dict[str, Any]) -> Axis:
    values: Any = entry.get("values")
    key = entry.get("key")
    _expect(entry.keys() == {"key", "values"}, "an axis has other entries than key and values")
    _expect(isinstance(key, str) and bool(SCANNED_KEY.fullmatch(key)), f"{text(key)} is no key")
    _expect(isinstance(values, list) and bool(values), f"{key} has no list of values")
    numbers = [v for v in values if isinstance(v, int | float)]
    _expect(all(abs(v) < 1e300 for v in numbers), f"{key} has a value that is too large")
    return Axis(str(key), tuple(values))


def _read_point(entry: Any, axes: Mapping[str, set[str]]) -> Point:
    """axes: {key: its values, as repr writes them}."""
    known = {field.name for field in dataclasses.fields(Point)}
    _expect(isinstance(entry, dict) and entry.keys() == known, "a point has not the right entries")
    name, values, config = entry["name"], entry["values"], entry["config"]
    _expect(isinstance(name, str), "a point's name is no text")
    fits = bool(NAME.fullmatch(name)) and len(name.encode()) <= 255
    _expect(fits, f"{text(name)} is no name of a point")
    _expect(entry["direction"] in DIRECTIONS, f"{name} has an unknown direction")
    _expect(isinstance(values, dict), f"{name} has no values")
    _expect(list(values) == list(axes), f"{name} has not the axes' values")
    for key, value in values.items():
        _expect(repr(value) in axes[key], f"{name} has a value that {key} does not take")
    _expect(isinstance(config, dict), f"{name} has no configuration")
    _expect(isinstance(config.get("train"), dict), f"{name} has no configuration")
    return Point(name, values, entry["direction"], config)


def _all(entries: Any, kind: type) -> bool:
    return isinstance(entries, list) and all(isinstance(entry, kind) for entry in entries)


def _expect(condition: bool, sentence: str) -> None:
    """Raises ValueError with the sentence unless the condition holds."""
    if not condition:
        raise ValueError(sentence)


def create(scan: Scan) -> Scan:
    """Makes the folder of a new scan, numbered under scans/ where none is given, and writes
    scan.json. Raises InputError if the folder holds something or cannot be written."""
    name = scan.keys.dir
    for path in [Path(name)] if name else (Path("scans") / f"{n:03d}" for n in range(1, 10_000)):
        if name is None and path.exists():
            continue
        if (path / "scan.json").exists():
            raise InputError(
                f"scan.dir={path}: already holds a scan; continue it with scan.resume=true or "
                "choose another folder"
            )
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"scan.dir={path}: exists and is not an empty folder; choose another")
        try:
            path.mkdir(parents=True, exist_ok=name is not None)
            made = dataclasses.replace(scan, path=path)
            write(made)
        except FileExistsError:
            if name is None:  # another process took this number meanwhile
                continue
            raise InputError(f"scan.dir={path}: exists; choose another folder") from None
        except OSError as error:
            raise InputError(f"scan.dir={path}: cannot be written: {error.strerror}") from None
        return made
    raise InputError("scans/: all numbers are taken; give scan.dir=PATH")
