"""`nqs train --help`: every group, its kinds, and every key with its default, from the registry."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Final

from nqs.cli.composition import GROUPS_OF_SCANS, is_choice, split_ranges
from nqs.cli.grammar import parsed
from nqs.conf.kinds import MISSING, Group, Key
from nqs.conf.sections import documentation
from nqs.errors import shown
from nqs.ground_states.config import Config
from nqs.scans.config import ScanConfig
from nqs.scans.launchers import LAUNCHER

ABOUT: Final = """\
Ground states of spin systems: a run, or with -m (nqs scan) a run for each of several values.

    nqs train model=ptf model.patch=2x2 lattice.Lx=4 lattice.Ly=4 hamiltonian.delta=1 seed=0
    nqs train run.dir=PATH run.resume=true
    nqs train hamiltonian=my_module:MyClass      # a kind of your own, my_module.py beside you
    nqs scan "hamiltonian.delta=range(0,4,0.25)" hamiltonian.Rb=1.15,1.3,1.5 \\
        scan.dir=scans/first scan.warm_start=hamiltonian.delta
    nqs scan scan.dir=scans/first scan.resume=true
    nqs train "family.hamiltonian.delta=interval(0,3)"      # one state for all of them
    torchrun --nproc-per-node=2 -m nqs train ...
    nqs train hamiltonian=tfim --help            # the keys of the kinds that are chosen

python train.py, in a checkout, is nqs train. The older code's command line works as well:

    nqs train --train L=16 steps=1000 --ptf patch=2x2 Nh=32 nhead=8 --rydberg V=7 delta=1"""


def help_text(words: Sequence[str] = ()) -> str:
    """Every group and key with its default, owners, bounds and line of documentation; of groups
    whose kind the words choose the keys of that kind alone. Raises InputError for unknown ones."""
    overrides = [parsed(word) for word in split_ranges(words)[0]]
    chosen = {o.key_or_group: str(o.value()) for o in overrides if is_choice(o)}
    config = Config()
    lines = [ABOUT, "", "keys (key=default):"]
    for key in keys_of_section(Config):
        value = getattr(config, key.name)
        if key.name in GROUPS_OF_SCANS:
            lines += group_help(GROUPS_OF_SCANS[key.name], value.name, chosen.get(key.name))
        elif dataclasses.is_dataclass(value):
            lines += section_help(key.name, key.text, type(value))
        else:
            lines += key_help(dataclasses.replace(key, default=value), "")
    lines += ["", "keys of a scan (nqs scan):"]
    lines += section_help("scan", " ".join((ScanConfig.__doc__ or "").split()), ScanConfig)
    lines += group_help(LAUNCHER, "sequential", chosen.get(LAUNCHER.name))
    return "\n".join(lines)


def keys_of_section(section: type) -> list[Key]:
    """The fields of a configuration's dataclass as keys."""
    hints, texts = typing.get_type_hints(section, include_extras=True), documentation(section)
    return [
        Key(field.name, hints[field.name], field.default, texts[field.name])
        for field in dataclasses.fields(section)
    ]


def section_help(name: str, text: str, section: type) -> list[str]:
    """The lines of a section whose keys are always the same."""
    lines = ["", f"  {name}    {text}"]
    for key in keys_of_section(section):
        lines += key_help(key, f"{name}.")
    return lines


def group_help(group: Group, default: str, chosen: str | None) -> list[str]:
    """The lines of a section whose keys depend on the kind: of all kinds, or of the chosen one."""
    names = list(group.kinds) if chosen is None else [chosen]
    options = "|".join([*group.kinds, "MODULE:CLASS"])
    lines = ["", f"  {group.name}={options}    [{chosen or default}] {group.text}"]
    owners: dict[Key, list[str]] = {}
    for name in names:
        for key in group.keys(name).values():
            owners.setdefault(comparable(key), []).append(name)
    order = list(dict.fromkeys(key.name for key in owners))
    for key in sorted(owners, key=lambda key: order.index(key.name)):
        only = "" if len(owners[key]) == len(names) else f" [{', '.join(owners[key])}]"
        lines += key_help(key, f"{group.name}.", only)
    return lines


def comparable(key: Key) -> Key:
    """Equal for keys that are described alike."""
    default = key.default if key.default is MISSING else shown(key.default)
    return Key(key.name, None, default, line(key))


def key_help(key: Key, prefix: str, owners: str = "") -> Iterator[str]:
    """The two lines of a key."""
    default = "" if key.default is MISSING else f"={shown(key.default)}"
    yield f"  {prefix}{key.name}{default}{owners}"
    yield f"      {key.text if key.hint is None else line(key)}"


def line(key: Key) -> str:
    """The documentation with the bounds and those choices that it does not name itself."""
    named = set(re.findall(r"[\w.]+", key.text))
    unnamed = [shown(c) for c in choices(key.hint) if shown(c) not in named]
    return f"{key.line} ({', '.join(map(shown, choices(key.hint)))})" if unnamed else key.line


def choices(hint: Any) -> Iterator[Any]:
    """The values of all Literals in an annotation."""
    if typing.get_origin(hint) is typing.Literal:
        yield from typing.get_args(hint)
    else:
        for part in typing.get_args(hint):
            yield from choices(part)
