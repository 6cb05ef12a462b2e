"""From the words of a command line to all keys of a configuration, and to --help.

Kinds are chosen first, lattice=chain or hamiltonian=MODULE:CLASS; their keys and defaults come from
the registry (`nqs.conf.kinds`), those of the other sections from their classes. Then the keys take
the values of the words, and last ${...} those of other keys.
"""

from __future__ import annotations

import itertools
import re
import shlex
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nqs.cli.grammar import REFERENCE, parsed
from nqs.conf.kinds import Group
from nqs.conf.sections import flatten, to_mapping
from nqs.errors import InputError, shown, suggestion
from nqs.ground_states.config import Config
from nqs.ground_states.couplings import FORMS, Law
from nqs.ground_states.groups import GROUPS
from nqs.runfolder.invocation import program
from nqs.scans.config import ScanConfig
from nqs.scans.launchers import LAUNCHER

FAMILY: Final = "family.hamiltonian."
"""How the word of a family's range begins."""
RANGES: Final = "family.ranges"
SCAN_SECTIONS: Final = ("scan", "launcher")
GROUPS_OF_SCANS: Final[dict[str, Group]] = GROUPS | {LAUNCHER.name: LAUNCHER}


def defaults(chosen: Mapping[str, str], scan: bool) -> dict[str, Any]:
    """All keys with their defaults, nested, for the kinds {group: name} that are chosen."""
    mapping = Config().to_dict()
    if scan:
        mapping |= {
            "scan": to_mapping(ScanConfig()),
            LAUNCHER.name: LAUNCHER.defaults("sequential"),
        }
    return mapping | {name: GROUPS_OF_SCANS[name].defaults(kind) for name, kind in chosen.items()}


def compose(
    words: Sequence[str], *, scan: bool = False, resolve: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """All keys as a nested mapping, and {dotted key: value} of those that the words name.

    scan: with the sections of a scan. resolve: whether to look up what ${...} refers to. Raises
    InputError.
    """
    words, ranges = split_ranges(words)
    overrides = [parsed(word) for word in words]
    for override in overrides:
        if not scan and override.key_or_group.split(".")[0] in SCAN_SECTIONS:
            raise InputError(f"{shown(override.input_line)}: only for a scan; add -m")
    chosen = {o.key_or_group: _name_of(o.value()) for o in overrides if is_choice(o)}
    mapping = defaults(chosen, scan)
    base = flatten(mapping)
    for override in overrides:
        check_key(override, base)
    check_references(overrides, base)
    for override in overrides:
        if not is_choice(override):
            put(mapping, override.key_or_group, override.value())
    for key in (entry.partition("=")[0] for entry in ranges):
        if any(o.key_or_group == key for o in overrides):
            raise InputError(f"{key} and family.{key}: the key cannot be fixed and vary as well")
    if ranges:
        if any(o.key_or_group == RANGES for o in overrides):
            raise InputError(f"{RANGES}: give the ranges here, or as family.hamiltonian.KEY=RANGE")
        put(mapping, RANGES, ranges)
    if resolve:
        mapping = resolved(mapping, words)
    flat = flatten(mapping)
    keys = [o.key_or_group + (".name" if is_choice(o) else "") for o in overrides]
    keys += [RANGES] * bool(ranges)
    return mapping, {key: flat[key] for key in keys}


def split_ranges(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without family.hamiltonian.KEY=RANGE, and these as entries of family.ranges.
    Raises InputError for what is no range."""
    others, ranges = [], []
    for word in words:
        key, _, value = word.partition("=")
        if not key.startswith(FAMILY):
            others.append(word)
            continue
        given: Any = value
        if not re.match(r"\s*(interval|uniform|normal)\s*\(", value):
            if re.match(r"\s*(?!range|choice)\w+\s*\(", value):
                raise InputError(f"{shown(word)}: must be {FORMS}")
            override = parsed(word, sweeps=True)
            given = override.value()
            if isinstance(given, ChoiceSweep | RangeSweep):
                given = [parsed(f"{key}={each}").value() for each in sweep_texts(override)]
        if not isinstance(given, str | list):
            raise InputError(f"{shown(word)}: must be {FORMS}")
        ranges.append(f"{key.removeprefix('family.')}={Law.parsed(key, given)}")
    return others, ranges


def sweep_texts(override: Override, most: int = 1_000) -> list[str]:
    """The values of a sweep as text. Raises InputError for more than can be meant."""
    line = shown(override.input_line)
    try:
        values = list(itertools.islice(override.sweep_string_iterator(), most + 1))
    except (ArithmeticError, ValueError) as error:
        raise InputError(f"{line}: {' '.join(str(error).split())}") from None
    if len(values) > most:
        raise InputError(f"{line}: more than {most} values; use interval(LOW,HIGH)")
    return values


def is_choice(override: Override) -> bool:
    """Whether a word chooses a kind."""
    return override.key_or_group in GROUPS_OF_SCANS


def _name_of(value: Any) -> str:
    """A kind's name as it was written, null and true too."""
    return value if isinstance(value, str) else shown(value)


def put(mapping: dict[str, Any], key: str, value: Any) -> None:
    """Gives the dotted key of a nested mapping a value."""
    *section, name = key.split(".")
    (mapping[section[0]] if section else mapping)[name] = value


def resolved(mapping: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """The mapping with every ${...} looked up. Raises InputError that names the words."""
    if not any(isinstance(value, str) and "${" in value for value in leaves(mapping)):
        return mapping
    try:
        return typing.cast(
            dict[str, Any], OmegaConf.to_container(OmegaConf.create(mapping), resolve=True)
        )
    except (OmegaConfBaseException, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{shown(shlex.join(words))}: {reason[:200]}") from None


def leaves(value: Any) -> Iterator[Any]:
    """All that is no mapping and no list within nested ones."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value


def check_references(overrides: Sequence[Override], base: Mapping[str, Any]) -> None:
    """Raises InputError unless each ${key} names a key with a value of its own: no circles."""
    referring = {o.key_or_group for o in overrides if REFERENCE.search(str(o.value()))}
    for override in overrides:
        for name in REFERENCE.findall(str(override.value())):
            line = shown(override.input_line)
            if name not in base:
                hint = suggestion(name, base) or f"; see {shlex.join(program())} --help"
                raise InputError(f"{line}: {shown(name)}: unknown key{hint}")
            if name in referring:
                raise InputError(f"{line}: {name} refers to another key itself; give it a value")


def check_key(override: Override, base: Mapping[str, Any]) -> None:
    """Raises InputError unless the key is one of the chosen kinds' keys."""
    key = override.key_or_group
    section, _, name = key.rpartition(".")
    if is_choice(override) or (key in base and name != "name"):
        return
    if section in GROUPS_OF_SCANS and name == "name":
        choices = "|".join([*GROUPS_OF_SCANS[section].kinds, "MODULE:CLASS"])
        raise InputError(f"{key}: choose with {section}={choices}")
    keys = [known for known in base if not known.endswith(".name")]
    inside = [known for known in keys if known.startswith((section or key) + ".")]
    kind = f"{section}={base[section + '.name']}" if section in GROUPS_OF_SCANS else section or key
    there = f"; {kind} has {', '.join(inside)}" if inside else ""
    hint = suggestion(key, inside or [*keys, *GROUPS_OF_SCANS])
    advice = there or f"; see {shlex.join(program())} --help"
    raise InputError(f"{shown(key)}: unknown key{hint}{advice}")
