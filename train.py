"""Ground-state runs: read the configuration, build, run, report.

    python train.py model=ptf model.patch=2x2 lattice.Lx=4 lattice.Ly=4 hamiltonian.delta=1 seed=0
    python train.py run.dir=PATH run.resume=true
    python train.py -m "hamiltonian.delta=range(0,4,0.25)" hamiltonian.Rb=1.15,1.3,1.5 \
        scan.dir=scans/first scan.warm_start=hamiltonian.delta
    python train.py -m scan.dir=scans/first scan.resume=true
    torchrun --nproc-per-node=2 train.py ...
    python train.py --help

The older code's command line works as well:

    python train.py --train L=16 steps=1000 --ptf patch=2x2 Nh=32 nhead=8 --rydberg V=7 delta=1
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import os
import shlex
import sys
import time
import typing
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nqs.runs import legacy
from nqs.runs.config import HAMILTONIANS, LATTICES, MODELS, OPTIMIZERS, Config
from nqs.runs.directory import resumed_config
from nqs.runs.scan_config import LAUNCHERS, LauncherConfig, ScanConfig
from nqs.runs.scan_folder import MOST_POINTS, Axis, Scan, dimensions, make, read
from nqs.runs.schema import InputError, documentation, flatten, from_mapping, shown, suggestion

# Idle threads spin this often, then sleep. On two cores: within 5 % of the default, endless
# spinning, on a machine of one's own; with 1000 spins half its time beside a second run. Sleeping
# at once costs 1.3 to 1.9 times on one's own. Must be said before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

MULTIRUN = {"-m", "--multirun"}
GRACE_SECONDS = 10.0
"""What rank 0 refuses it says itself, and torchrun ends the others meanwhile."""
SCAN_SECTIONS = ("scan", "launcher")
FILES = (("lattice", "file"), ("hamiltonian", "file"), ("train", "start_from"))
CONF = Path(__file__).resolve().parent / "conf"
GROUPS = {
    group.name: sorted(option.stem for option in group.glob("*.yaml"))
    for group in sorted(CONF.iterdir())
    if group.is_dir()
}
KINDS = {
    "lattice": LATTICES,
    "hamiltonian": HAMILTONIANS,
    "model": MODELS,
    "optimizer": OPTIMIZERS,
    "launcher": LAUNCHERS,
}


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; returns 0, 1 (failed), 2 (bad input, one line) or 128 + signal."""
    try:
        if {"-h", "--help"} & set(arguments):
            print(help_text())
            return 0
        if MULTIRUN & set(arguments):
            return run_scan([word for word in arguments if word not in MULTIRUN])
        config = load_config(list(arguments))
        from nqs.runs.ground_state_run import run  # torch: seconds that bad input need not wait for

        return run(config, ["python", "train.py", *arguments])
    except InputError as error:
        if not leads():
            time.sleep(GRACE_SECONDS)
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted twice: stopped at once, the last checkpoint stays", file=sys.stderr)
        return 130


def leads() -> bool:
    """Whether this is the process that speaks, of those torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def load_config(arguments: list[str]) -> Config:
    """The checked configuration of a command line in today's or in the older form."""
    if legacy.is_legacy(arguments):
        translation = legacy.translate(arguments)
        arguments = translation.overrides
        if translation.notes and leads():
            print(f"without meaning here: {', '.join(translation.notes)}", file=sys.stderr)
        if leads():
            print(f"today's form: python train.py {shlex.join(arguments)}")
    mapping, given = compose_config(arguments)
    if mapping["run"].get("resume") is True and mapping["run"].get("dir") is not None:
        return resumed_config(Path(str(mapping["run"]["dir"])), given)
    return Config.from_dict(mapping)


def run_scan(arguments: list[str]) -> int:
    """A new scan or, with scan.resume=true, what is missing of one; returns the exit code."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError(
            "-m: a scan under torchrun; start it as python train.py -m ... launcher=joblib|submitit"
        )
    scan, launcher, resume = load_scan(arguments)
    from nqs.runs import scan as scans
    from nqs.runs.scan_launchers import check_installed

    check_installed(launcher)
    return (scans.resume if resume else scans.start)(scan, launcher)


def load_scan(arguments: list[str]) -> tuple[Scan, LauncherConfig, bool]:
    """The grid of a command line, what runs it, and whether it is there already."""
    overrides = [parsed(word, sweeps=True) for word in arguments]
    check_words(overrides)
    sweeps = [override for override in overrides if override.is_sweep_override()]
    fixed = [word for word, o in zip(arguments, overrides, strict=True) if o not in sweeps]
    mapping, given = compose_config([*fixed, *(words_of(o)[0] for o in sweeps)], "scan")
    keys = from_mapping(ScanConfig, mapping["scan"], "scan")
    check_independent(fixed, sweeps, mapping)
    if keys.resume:
        scan = read(Path(str(keys.dir)))
        check_same_scan(scan, arguments)
        if "launcher.name" not in given:
            launcher = [word for word in scan.command if word.startswith("launcher")]
            mapping, _ = compose_config([*launcher, *fixed], "scan")
    else:
        tied = keys.zip or ()
        axes = [Axis(o.key_or_group, sweep_values(o, o.key_or_group in tied)) for o in sweeps]
        check_size(axes, keys)
        scan = make(Path(), ["-m", *arguments], keys, axes, grid(fixed, sweeps, axes, keys))
    return scan, from_mapping(LauncherConfig, mapping["launcher"], "launcher"), keys.resume


def check_words(overrides: list[Override]) -> None:
    """Raises InputError for keys that a scan's command line cannot have, or not more than once."""
    keys = [override.key_or_group for override in overrides]
    for override in overrides:
        key, line = override.key_or_group, shown(override.input_line)
        if key.startswith("run."):
            raise InputError(f"{line}: a scan names its runs itself; give scan.dir=PATH")
        if override.is_sweep_override():
            if key.split(".")[0] in SCAN_SECTIONS:
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
            if keys.count(key) > 1:
                raise InputError(f"{line}: {key} is given twice; write all its values in one word")


def check_same_scan(scan: Scan, arguments: list[str]) -> None:
    """Raises InputError if the command line asks for another scan than the one it resumes."""
    free = ("scan.dir=", "scan.resume=", "launcher")
    for word in arguments:
        if not word.startswith(free) and word not in scan.command:
            raise InputError(
                f"{shown(word)}: not part of the scan in {scan.path}; a resumed scan needs only "
                "scan.dir and scan.resume and may change the launcher: start a new scan instead"
            )


def check_independent(fixed: list[str], sweeps: list[Override], first: dict[str, Any]) -> None:
    """Raises InputError for keys of the scan itself that follow a scanned key by ${...}; `first` is
    the configuration at the first of all values."""
    follows = [word for word in fixed if word.startswith(SCAN_SECTIONS) and "${" in word]
    if follows and sweeps:
        last, _ = compose_config([*fixed, *(words_of(o)[-1] for o in sweeps)], "scan")
        if any(first[section] != last[section] for section in SCAN_SECTIONS):
            raise InputError(f"{shown(follows[0])}: a scan's own keys cannot follow a scanned key")


def check_size(axes: list[Axis], keys: ScanConfig) -> None:
    """Raises InputError for a grid that nobody can run."""
    n_points = math.prod(len(tied[0].values) for tied in dimensions(axes, keys.zip))
    if n_points > MOST_POINTS:
        rule = f"more than {MOST_POINTS}; use fewer values, or several scans"
        raise InputError(f"{', '.join(axis.key for axis in axes)}: {n_points} points, {rule}")


def grid(
    fixed: list[str], sweeps: list[Override], axes: list[Axis], keys: ScanConfig
) -> dict[tuple[int, ...], dict[str, Any]]:
    """{positions in the dimensions' values: configuration} of all combinations, the first dimension
    slowest.

    Groups are composed by Hydra once for each of their combinations; values of keys are put in
    after that, a thousand times faster, and what refers to them by ${...} is looked up last.
    """
    words = {o.key_or_group: words_of(o) for o in sweeps}
    tied = dimensions(axes, keys.zip)
    composed: dict[tuple[str, ...], dict[str, Any]] = {}
    configs: dict[tuple[int, ...], dict[str, Any]] = {}
    for index in itertools.product(*(range(len(together[0].values)) for together in tied)):
        place = {axis.key: i for together, i in zip(tied, index, strict=True) for axis in together}
        chosen = [words[axis.key][place[axis.key]] for axis in axes]
        groups = tuple(words[key][i] for key, i in place.items() if key in GROUPS)
        if groups not in composed:
            mapping, _ = compose_config([*fixed, *chosen], "scan", resolve=False)
            composed[groups] = {k: v for k, v in mapping.items() if k not in SCAN_SECTIONS}
        config = copy.deepcopy(composed[groups])
        for axis in axes:
            if axis.key not in GROUPS:
                *section, name = axis.key.split(".")
                (config[section[0]] if section else config)[name] = axis.values[place[axis.key]]
        config = resolved(config, chosen)
        for group, name in FILES:
            if isinstance(config[group].get(name), str):  # a scan may be resumed from elsewhere
                config[group][name] = os.path.abspath(config[group][name])
        configs[index] = config
    return configs


def resolved(config: dict[str, Any], chosen: list[str]) -> dict[str, Any]:
    """The configuration of the point `chosen` with every ${...} looked up. Raises InputError."""
    if not any(isinstance(value, str) and "${" in value for value in leaves(config)):
        return config
    try:
        return plain(OmegaConf.create(config))
    except (OmegaConfBaseException, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{shown(' '.join(chosen))}: {reason[:200]}") from None


def leaves(value: Any) -> Iterator[Any]:
    """All that is no mapping and no list within nested ones."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value


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


def sweep_values(override: Override, may_repeat: bool = False) -> tuple[Any, ...]:
    """The values of a sweep. Raises InputError if one comes twice, unless it may."""
    values = [parsed(word).value() for word in words_of(override)]
    values = [float(f"{v:.12g}") if isinstance(v, float) else v for v in values]  # not 0.30000004
    twice = [value for value, n in Counter(map(repr, values)).items() if n > 1]
    if twice and not may_repeat:
        raise InputError(f"{shown(override.input_line)}: {shown(twice[0])} comes twice")
    return tuple(values)


def compose_config(
    arguments: list[str], file: str = "config", resolve: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """All keys as a nested mapping, and {dotted key: value} of those given explicitly.

    file: conf/config.yaml, a run, or conf/scan.yaml, which adds the sections of a scan. resolve:
    whether to look up what ${...} refers to.
    """
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            overrides = [parsed(argument) for argument in arguments]
            for override in overrides:
                if file == "config" and override.key_or_group.split(".")[0] in SCAN_SECTIONS:
                    raise InputError(f"{override.input_line}: only for a scan; add -m")
            choices = [check_group(o) for o in overrides if o.key_or_group in GROUPS]
            base = flatten(plain(compose(file, choices)))
            for override in overrides:
                check_key(override, base)
            mapping = plain(compose(file, arguments), resolve)
    except (HydraException, OmegaConfBaseException) as error:
        lines = " ".join(str(error).split())
        raise InputError(f"{shlex.join(arguments)}: {lines}") from None
    flat = flatten(mapping)
    keys = [o.key_or_group + (".name" if o.key_or_group in GROUPS else "") for o in overrides]
    return mapping, {key: flat[key] for key in keys}


def plain(config: Any, resolve: bool = True) -> dict[str, Any]:
    """An OmegaConf mapping as a dict."""
    return typing.cast(dict[str, Any], OmegaConf.to_container(config, resolve=resolve))


def parsed(argument: str, sweeps: bool = False) -> Override:
    """One key=value of the command line, with `sweeps` also key=a,b,c. Raises InputError for
    anything else."""
    rule = "write key=value, e.g. train.steps=500 (quote values with spaces or brackets twice)"
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        raise InputError(f"{shown(argument)}: not understood; {rule}") from None
    if override.is_delete() or override.is_add():
        raise InputError(f"{shown(argument)}: adding and deleting mean nothing here; {rule}")
    if override.is_sweep_override() and not sweeps:
        raise InputError(f"{shown(argument)}: several values are a scan, which needs -m; {rule}")
    return override


def check_group(override: Override) -> str:
    """The override of a group, once its option is known to exist."""
    group, option = override.key_or_group, str(override.value())
    if option not in GROUPS[group]:
        allowed, hint = ", ".join(GROUPS[group]), suggestion(option, GROUPS[group])
        raise InputError(f"{group}={shown(option)}: must be one of {allowed}{hint}")
    return f"{group}={option}"


def check_key(override: Override, base: dict[str, Any]) -> None:
    """Raises InputError unless the key is one of the chosen kinds' keys."""
    key = override.key_or_group
    section, _, name = key.rpartition(".")
    if key in GROUPS or (key in base and name != "name"):
        return
    if section in GROUPS and name == "name":
        raise InputError(f"{key}: choose with {section}={'|'.join(GROUPS[section])}")
    keys = [known for known in base if not known.endswith(".name")]
    inside = [known for known in keys if known.startswith((section or key) + ".")]
    kind = f"{section}={base[section + '.name']}" if section in GROUPS else section or key
    there = f"; {kind} has {', '.join(inside)}" if inside else ""
    hint = suggestion(key, inside or [*keys, *GROUPS])
    raise InputError(f"{key}: unknown key{hint}{there or '; see python train.py --help'}")


def help_text() -> str:
    """Every group and key with its line of documentation and its default."""
    mapping, _ = compose_config([], "scan")
    lines = [(__doc__ or "").strip(), "", "keys (key=default):"]
    hints = typing.get_type_hints(Config)
    for name, text in documentation(Config).items():
        if dataclasses.is_dataclass(hints[name]):
            lines += section_help(name, text, typing.cast(type, hints[name]), mapping[name])
        else:
            lines += [f"  {name}={shown(mapping[name])}", f"      {text}"]
    lines += ["", "keys of a scan (python train.py -m):"]
    for name, section in (("scan", ScanConfig), ("launcher", LauncherConfig)):
        text = " ".join((section.__doc__ or "").split())
        lines += section_help(name, text, section, mapping[name])
    return "\n".join(lines)


def section_help(name: str, text: str, section: type, defaults: dict[str, Any]) -> list[str]:
    """The lines of one section."""
    kinds = KINDS.get(name, {})
    options = f"={'|'.join(GROUPS[name])}" if name in GROUPS else ""
    lines = ["", f"  {name}{options}    {text}"]
    for key, line in documentation(section).items():
        if name in GROUPS and key == "name":
            continue
        owners = [kind for kind, keys in kinds.items() if key in keys]
        default = f"={shown(defaults[key])}" if key in defaults else ""
        only = f" [{', '.join(owners)}]" if 0 < len(owners) < len(kinds) else ""
        lines += [f"  {name}.{key}{default}{only}", f"      {line}"]
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
