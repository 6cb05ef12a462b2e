"""The words of a scan: which keys take several values, the grid of all points, what runs them."""

from __future__ import annotations

import copy
import itertools
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep

from nqs.cli.composition import GROUPS_OF_SCANS, SCAN_SECTIONS, compose, put, resolved, split_ranges
from nqs.cli.grammar import check_once, parsed
from nqs.cli.older_words import renamed
from nqs.conf.kinds import Selection
from nqs.conf.sections import from_mapping
from nqs.errors import InputError, shown
from nqs.scans.config import ScanConfig
from nqs.scans.folder import MOST_POINTS, Axis, Scan, dimensions, make, read
from nqs.scans.launchers import LAUNCHER

FILES: Final = (("lattice", "file"), ("hamiltonian", "file"), ("train", "start_from"))
"""Keys that name files: a scan may be resumed from elsewhere."""


def load_scan(typed: Sequence[str]) -> tuple[Scan, Selection, bool]:
    """The grid of a command line, what runs it, and whether it is there already."""
    words = renamed(typed)
    ranges = split_ranges(words)[1]
    if ranges:
        raise InputError(f"family.{shown(ranges[0])}: a family is one run, not a scan; without -m")
    overrides = [parsed(word, sweeps=True) for word in words]
    check_words(overrides)
    sweeps = [override for override in overrides if override.is_sweep_override()]
    fixed = [word for word, o in zip(words, overrides, strict=True) if o not in sweeps]
    mapping, named = compose([*fixed, *(words_of(o)[0] for o in sweeps)], scan=True)
    if mapping["family"]["ranges"]:
        raise InputError("family.ranges: a family is one run, not a scan; without -m")
    keys = from_mapping(ScanConfig, mapping["scan"], "scan")
    check_independent(fixed, sweeps, mapping)
    if keys.resume:
        scan = read(Path(str(keys.dir)))
        check_same_scan(scan, words)
        if "launcher.name" not in named:
            launcher = [word for word in scan.command if word.startswith("launcher")]
            mapping, _ = compose([*launcher, *fixed], scan=True)
    else:
        tied = keys.zip or ()
        axes = [Axis(o.key_or_group, sweep_values(o, o.key_or_group in tied)) for o in sweeps]
        check_size(axes, keys)
        scan = make(Path(), ["-m", *typed], keys, axes, grid(fixed, sweeps, axes, keys))
    return scan, LAUNCHER.read(mapping["launcher"]), keys.resume


def check_words(overrides: Sequence[Override]) -> None:
    """Raises InputError for keys that a scan's command line cannot have, or not more than once."""
    keys = [override.key_or_group for override in overrides]
    for override in overrides:
        key, line = override.key_or_group, shown(override.input_line)
        if key.startswith("run."):
            raise InputError(f"{line}: a scan names its runs itself; give scan.dir=PATH")
        if override.is_sweep_override():
            check_sweep(override)
            if keys.count(key) > 1:
                raise InputError(f"{line}: {key} is given twice; write all its values in one word")


def check_sweep(override: Override) -> None:
    """Raises InputError for several values that no scan can have."""
    line = shown(override.input_line)
    if override.key_or_group.split(".")[0] in SCAN_SECTIONS:
        raise InputError(f"{line}: give one value")
    sweep = override.value()
    if not isinstance(sweep, ChoiceSweep | RangeSweep) or sweep.shuffle:
        raise InputError(f"{line}: write values a,b,c or range(start,stop,step)")
    if isinstance(sweep, ChoiceSweep) and any(isinstance(v, dict) for v in sweep.list):
        raise InputError(f"{line}: a mapping is no value; write numbers, words or lists")
    if "${" in (override.input_line or ""):
        rule = "one of several values cannot refer to another key; see scan.zip"
        raise InputError(f"{line}: {rule}")
    if not words_of(override):
        raise InputError(f"{line}: holds no value; range(start,stop,step) excludes stop")


def check_same_scan(scan: Scan, words: Sequence[str]) -> None:
    """Raises InputError if the command line asks for another scan than the one it resumes."""
    free = ("scan.dir=", "scan.resume=", "launcher")
    for word in words:
        if not word.startswith(free) and word not in renamed(scan.command):
            raise InputError(
                f"{shown(word)}: not part of the scan in {scan.path}; a resumed scan needs only "
                "scan.dir and scan.resume and may change the launcher: start a new scan instead"
            )


def check_independent(
    fixed: Sequence[str], sweeps: Sequence[Override], first: dict[str, Any]
) -> None:
    """Raises InputError for keys of the scan itself that follow a scanned key by ${...}; `first` is
    the configuration at the first of all values."""
    follows = [word for word in fixed if word.startswith(SCAN_SECTIONS) and "${" in word]
    if follows and sweeps:
        last, _ = compose([*fixed, *(words_of(o)[-1] for o in sweeps)], scan=True)
        if any(first[section] != last[section] for section in SCAN_SECTIONS):
            raise InputError(f"{shown(follows[0])}: a scan's own keys cannot follow a scanned key")


def check_size(axes: Sequence[Axis], keys: ScanConfig) -> None:
    """Raises InputError for a grid that nobody can run."""
    n_points = math.prod(len(tied[0].values) for tied in dimensions(axes, keys.zip))
    if n_points > MOST_POINTS:
        rule = f"more than {MOST_POINTS}; use fewer values, or several scans"
        raise InputError(f"{', '.join(axis.key for axis in axes)}: {n_points} points, {rule}")


def grid(
    fixed: Sequence[str], sweeps: Sequence[Override], axes: Sequence[Axis], keys: ScanConfig
) -> dict[tuple[int, ...], dict[str, Any]]:
    """{positions in the dimensions' values: configuration} of all combinations, the first dimension
    slowest.

    Words are composed once for each combination of kinds; values of keys are put in after that, and
    what refers to them by ${...} is looked up last.
    """
    words = {o.key_or_group: words_of(o) for o in sweeps}
    tied = dimensions(axes, keys.zip)
    composed: dict[tuple[str, ...], dict[str, Any]] = {}
    configs: dict[tuple[int, ...], dict[str, Any]] = {}
    for index in itertools.product(*(range(len(together[0].values)) for together in tied)):
        place = {axis.key: i for together, i in zip(tied, index, strict=True) for axis in together}
        chosen = [words[axis.key][place[axis.key]] for axis in axes]
        kinds = tuple(words[key][i] for key, i in place.items() if key in GROUPS_OF_SCANS)
        if kinds not in composed:
            mapping, _ = compose([*fixed, *chosen], scan=True, resolve=False)
            composed[kinds] = {k: v for k, v in mapping.items() if k not in SCAN_SECTIONS}
        config = copy.deepcopy(composed[kinds])
        for axis in axes:
            if axis.key not in GROUPS_OF_SCANS:
                put(config, axis.key, axis.values[place[axis.key]])
        config = resolved(config, chosen)
        for section, name in FILES:
            if isinstance(config[section].get(name), str):
                config[section][name] = os.path.abspath(config[section][name])
        configs[index] = config
    return configs


def words_of(override: Override) -> list[str]:
    """key=value for each value of a sweep. Raises InputError for more than a scan may have."""
    key, line = override.key_or_group, shown(override.input_line)
    try:
        values = list(itertools.islice(override.sweep_string_iterator(), MOST_POINTS + 1))
    except ArithmeticError:
        raise InputError(f"{line}: range(start,stop,step) needs finite numbers") from None
    except ValueError as error:  # range() with a step of zero
        raise InputError(f"{line}: {' '.join(str(error).split())}") from None
    if len(values) > MOST_POINTS:
        raise InputError(f"{line}: more than {MOST_POINTS} values; use fewer, or several scans")
    return [f"{key}={text}" for text in values]


def axes_of(words: Sequence[str]) -> list[Axis]:
    """An axis for each key=values, one value too. Raises InputError for what is none, or too
    large."""
    check_once(words)
    axes = []
    for word in words:
        override = parsed(word, sweeps=True)
        if override.is_sweep_override():
            check_sweep(override)
            axes.append(Axis(override.key_or_group, sweep_values(override)))
        else:
            axes.append(Axis(override.key_or_group, (override.value(),)))
    check_size(axes, ScanConfig())
    return axes


def sweep_values(override: Override, may_repeat: bool = False) -> tuple[Any, ...]:
    """The values of a sweep. Raises InputError if one comes twice, unless it may."""
    values = [parsed(word).value() for word in words_of(override)]
    values = [float(f"{v:.12g}") if isinstance(v, float) else v for v in values]  # not 0.30000004
    twice = [value for value, n in Counter(map(repr, values)).items() if n > 1]
    if twice and not may_repeat:
        raise InputError(f"{shown(override.input_line)}: {shown(twice[0])} comes twice")
    return tuple(values)
