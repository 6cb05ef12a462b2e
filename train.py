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

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while modules load: end without a word

import copy
import dataclasses
import itertools
import math
import os
import re
import shlex
import sys
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

from nqs.cli import older_words
from nqs.conf.sections import documentation, flatten, from_mapping
from nqs.errors import InputError, one_line, printable, shown, suggestion
from nqs.ground_states.config import HAMILTONIANS, LATTICES, MODELS, OPTIMIZERS, Config
from nqs.ground_states.run_folder import resumed_config
from nqs.runfolder.folder import holds_nothing
from nqs.runfolder.terminal import leads, run_command
from nqs.scans.config import LAUNCHERS, LauncherConfig, ScanConfig
from nqs.scans.folder import MOST_POINTS, Axis, Scan, dimensions, make, read

# Idle threads spin this often, then sleep. On two cores: within 5 % of the default, endless
# spinning, on a machine of one's own; with 1000 spins half its time beside a second run. Sleeping
# at once costs 1.3 to 1.9 times on one's own. Must be said before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

MULTIRUN = {"-m", "--multirun"}
LONGEST_WORD = 100_000
"""Characters of one key=value: a coupling for each of 10 000 sites, read in seconds."""
REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\}")
"""The value of another key, ${lattice.Lx}; nothing else of OmegaConf's interpolations."""
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
    return run_command(lambda: job(list(arguments)))


def job(arguments: list[str]) -> int:
    """What the command line asks for: help, a scan or a run."""
    if {"-h", "--help"} & set(arguments):
        print(help_text())
        return 0
    if not older_words.is_legacy(arguments):
        check_once([word for word in arguments if word not in MULTIRUN])
    if MULTIRUN & set(arguments):
        return run_scan([word for word in arguments if word not in MULTIRUN])
    command = ["python", "train.py", *arguments]
    if os.environ.get("WORLD_SIZE", "1") != "1":  # what one of them refuses, all do
        from nqs.ground_states.run import run_loaded

        return run_loaded(lambda: load_config(arguments), command)
    config = load_config(arguments)
    from nqs.ground_states.run import run  # torch: seconds that bad input need not wait for

    listen_to_interrupts()
    return run(config, command)


def listen_to_interrupts() -> None:
    """From here on Ctrl-C is an exception again: see the top of this file."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def load_config(arguments: list[str]) -> Config:
    """The checked configuration of a command line in today's or in the older form."""
    if older_words.is_legacy(arguments):
        translation = older_words.translate(arguments)
        arguments = translation.overrides
        if translation.notes and leads():
            notes = ", ".join(translation.notes)
            print(one_line(f"without meaning here: {notes}"), file=sys.stderr)
        if leads():
            print(printable(f"today's form: python train.py {shlex.join(arguments)}"))
    mapping, given = compose_config(arguments)
    if mapping["run"].get("resume") is True and mapping["run"].get("dir") is not None:
        path = Path(str(mapping["run"]["dir"]))
        begins = holds_nothing(path) and any(not key.startswith("run.") for key in given)
        if not begins:
            return resumed_config(path, given)
        mapping["run"]["resume"] = False  # one command line for a job that is requeued
    return Config.from_dict(mapping)


def run_scan(arguments: list[str]) -> int:
    """A new scan or, with scan.resume=true, what is missing of one; returns the exit code."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError(
            "-m: a scan under torchrun; start it as python train.py -m ... launcher=joblib|submitit"
        )
    scan, launcher, resume = load_scan(arguments)
    from nqs.scans import run as scans
    from nqs.scans.launchers import check_installed

    check_installed(launcher)
    listen_to_interrupts()
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
    overrides = [parsed(argument) for argument in arguments]
    for override in overrides:
        if file == "config" and override.key_or_group.split(".")[0] in SCAN_SECTIONS:
            raise InputError(f"{shown(override.input_line)}: only for a scan; add -m")
    choices = [check_group(o) for o in overrides if o.key_or_group in GROUPS]
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            base = flatten(plain(compose(file, choices)))
            for override in overrides:
                check_key(override, base)
            check_references(overrides, base)
            mapping = plain(compose(file, arguments), resolve)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"{shlex.join(arguments)}: {error}") from None
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
    if len(argument) > LONGEST_WORD:
        size = f"{len(argument)} characters, allowed are {LONGEST_WORD}"
        raise InputError(f"{shown(argument)}: {size}; put long lists into a file")
    if printable(argument) != argument:
        raise InputError(f"{shown(argument)}: holds characters that cannot be seen; {rule}")
    try:
        override = OverridesParser.create().parse_override(argument)
    except (HydraException, ValueError, RecursionError):  # 5000 digits, 1000 brackets
        raise InputError(f"{shown(argument)}: not understood; {rule}") from None
    if override.is_delete() or override.is_add():
        raise InputError(f"{shown(argument)}: adding and deleting mean nothing here; {rule}")
    if override.package is not None:
        raise InputError(f"{shown(argument)}: packages (@) mean nothing here; {rule}")
    if override.is_sweep_override() and not sweeps:
        raise InputError(f"{shown(argument)}: several values are a scan, which needs -m; {rule}")
    if not override.is_sweep_override():
        check_value(argument, override.value())
    return override


def check_value(argument: str, value: Any, depth: int = 0) -> None:
    """Raises InputError for values that no key has and for those that would come out otherwise the
    next time."""
    if isinstance(value, dict) or depth > 2:
        what = "a mapping" if isinstance(value, dict) else "lists in lists of lists"
        raise InputError(f"{shown(argument)}: {what}; give one value or a list of values")
    if isinstance(value, list):
        for item in value:
            check_value(argument, item, depth + 1)
    if isinstance(value, str) and ("\\${" in value or "${" in REFERENCE.sub("", value)):
        raise InputError(
            f"{shown(argument)}: only ${{KEY}} of another key is understood, e.g. ${{lattice.Lx}}"
        )
    if re.match(r"[^=]*=\s*shuffle\s*\(", argument):
        raise InputError(f"{shown(argument)}: a run is the same every time; write the values out")


def check_once(arguments: Sequence[str]) -> None:
    """Raises InputError for a key that is given twice: which value is meant?"""
    seen: dict[str, str] = {}
    for word in arguments:
        key = word.partition("=")[0].strip()
        if key in seen:
            both = f"{shown(seen[key])} and {shown(word)}"
            raise InputError(f"{both}: {shown(key)} is given twice; write its values in one word")
        seen[key] = word


def check_references(overrides: list[Override], base: dict[str, Any]) -> None:
    """Raises InputError unless each ${key} names a key with a value of its own: no circles."""
    referring = {o.key_or_group for o in overrides if REFERENCE.search(str(o.value()))}
    for override in overrides:
        for name in REFERENCE.findall(str(override.value())):
            line = shown(override.input_line)
            if name not in base:
                hint = suggestion(name, base) or "; see python train.py --help"
                raise InputError(f"{line}: {shown(name)}: unknown key{hint}")
            if name in referring:
                raise InputError(f"{line}: {name} refers to another key itself; give it a value")


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
    raise InputError(f"{shown(key)}: unknown key{hint}{there or '; see python train.py --help'}")


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
