"""Ground-state runs: read the configuration, build, run, report.

    python train.py model=ptf model.patch=2x2 lattice.Lx=4 lattice.Ly=4 hamiltonian.delta=1 seed=0
    python train.py run.dir=PATH run.resume=true
    python train.py --help

The older code's command line works as well:

    python train.py --train L=16 steps=1000 --ptf patch=2x2 Nh=32 nhead=8 --rydberg V=7 delta=1
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nqs.runs import legacy
from nqs.runs.config import HAMILTONIANS, LATTICES, MODELS, OPTIMIZERS, Config
from nqs.runs.directory import resumed_config
from nqs.runs.schema import InputError, documentation, flatten, shown, suggestion

# Idle threads spin this often, then sleep. On two cores: within 5 % of the default, endless
# spinning, on a machine of one's own; with 1000 spins half its time beside a second run. Sleeping
# at once costs 1.3 to 1.9 times on one's own. Must be said before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

CONF = Path(__file__).resolve().parent / "conf"
GROUPS = {
    group.name: sorted(option.stem for option in group.glob("*.yaml"))
    for group in sorted(CONF.iterdir())
    if group.is_dir()
}


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; returns 0, 1 (failed), 2 (bad input, one line) or 128 + signal."""
    try:
        if {"-h", "--help"} & set(arguments):
            print(help_text())
            return 0
        config = load_config(list(arguments))
        from nqs.runs.ground_state_run import run  # torch: seconds that bad input need not wait for

        return run(config, ["python", "train.py", *arguments])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted twice: stopped at once, the last checkpoint stays", file=sys.stderr)
        return 130


def load_config(arguments: list[str]) -> Config:
    """The checked configuration of a command line in today's or in the older form."""
    if legacy.is_legacy(arguments):
        translation = legacy.translate(arguments)
        arguments = translation.overrides
        if translation.notes:
            print(f"without meaning here: {', '.join(translation.notes)}", file=sys.stderr)
        print(f"today's form: python train.py {shlex.join(arguments)}")
    mapping, given = compose_config(arguments)
    if mapping["run"].get("resume") is True and mapping["run"].get("dir") is not None:
        return resumed_config(Path(str(mapping["run"]["dir"])), given)
    return Config.from_dict(mapping)


def compose_config(arguments: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """All keys as a nested mapping, and {dotted key: value} of those given explicitly."""
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            overrides = [parsed(argument) for argument in arguments]
            choices = [check_group(o) for o in overrides if o.key_or_group in GROUPS]
            base = flatten(plain(compose("config", choices)))
            for override in overrides:
                check_key(override, base)
            mapping = plain(compose("config", arguments))
    except (HydraException, OmegaConfBaseException) as error:
        lines = " ".join(str(error).split())
        raise InputError(f"{shlex.join(arguments)}: {lines}") from None
    flat = flatten(mapping)
    keys = [o.key_or_group + (".name" if o.key_or_group in GROUPS else "") for o in overrides]
    return mapping, {key: flat[key] for key in keys}


def plain(config: Any) -> dict[str, Any]:
    """An OmegaConf mapping as a dict."""
    return typing.cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def parsed(argument: str) -> Override:
    """One key=value of the command line. Raises InputError for anything else."""
    rule = "write key=value, e.g. train.steps=500 (quote values with spaces or brackets twice)"
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        raise InputError(f"{shown(argument)}: not understood; {rule}") from None
    if override.is_delete() or override.is_add() or override.is_sweep_override():
        raise InputError(
            f"{shown(argument)}: adding, deleting and sweeping mean nothing here; {rule}"
        )
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
    mapping, _ = compose_config([])
    kinds = {
        "lattice": LATTICES,
        "hamiltonian": HAMILTONIANS,
        "model": MODELS,
        "optimizer": OPTIMIZERS,
    }
    lines = [(__doc__ or "").strip(), "", "keys (key=default):"]
    hints = typing.get_type_hints(Config)
    for name, text in documentation(Config).items():
        if not dataclasses.is_dataclass(hints[name]):
            lines += [f"  {name}={shown(mapping[name])}", f"      {text}"]
            continue
        options = f"={'|'.join(GROUPS[name])}" if name in GROUPS else ""
        lines += ["", f"  {name}{options}    {text}"]
        for key, line in documentation(typing.cast(type, hints[name])).items():
            if name in GROUPS and key == "name":
                continue
            owners = [kind for kind, keys in kinds.get(name, {}).items() if key in keys]
            default = f"={shown(mapping[name][key])}" if key in mapping[name] else ""
            only = f" [{', '.join(owners)}]" if 0 < len(owners) < len(kinds[name]) else ""
            lines += [f"  {name}.{key}{default}{only}", f"      {line}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
