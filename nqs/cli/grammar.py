"""The grammar of the command line: one key=value a word, as Hydra writes values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from nqs.errors import InputError, printable, shown

MULTIRUN: Final = {"-m", "--multirun"}
HELP: Final = {"-h", "--help"}
LONGEST_WORD: Final = 100_000
"""Characters of one key=value: a coupling for each of 10 000 sites, read in seconds."""
REFERENCE: Final = re.compile(r"\$\{([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\}")
"""The value of another key, ${lattice.Lx}; nothing else of OmegaConf's interpolations."""
_RULE: Final = "write key=value, e.g. train.steps=500 (quote values with spaces or brackets twice)"


def parsed(word: str, sweeps: bool = False) -> Override:
    """One key=value of the command line, with `sweeps` also key=a,b,c. Raises InputError for
    anything else."""
    if len(word) > LONGEST_WORD:
        size = f"{len(word)} characters, allowed are {LONGEST_WORD}"
        raise InputError(f"{shown(word)}: {size}; put long lists into a file")
    if printable(word) != word:
        raise InputError(f"{shown(word)}: holds characters that cannot be seen; {_RULE}")
    try:
        override = OverridesParser.create().parse_override(word)
    except (HydraException, ValueError, RecursionError):  # 5000 digits, 1000 brackets
        raise InputError(f"{shown(word)}: not understood; {_RULE}") from None
    if override.is_delete() or override.is_add():
        raise InputError(f"{shown(word)}: adding and deleting mean nothing here; {_RULE}")
    if override.package is not None:
        raise InputError(f"{shown(word)}: packages (@) mean nothing here; {_RULE}")
    if override.is_sweep_override() and not sweeps:
        raise InputError(f"{shown(word)}: several values are a scan, which needs -m; {_RULE}")
    if not override.is_sweep_override():
        check_value(word, override.value())
    return override


def check_value(word: str, value: Any, depth: int = 0) -> None:
    """Raises InputError for values that no key has and for those that would come out otherwise the
    next time."""
    if isinstance(value, dict) or depth > 2:
        what = "a mapping" if isinstance(value, dict) else "lists in lists of lists"
        raise InputError(f"{shown(word)}: {what}; give one value or a list of values")
    if isinstance(value, list):
        for item in value:
            check_value(word, item, depth + 1)
    if isinstance(value, str) and ("\\${" in value or "${" in REFERENCE.sub("", value)):
        raise InputError(
            f"{shown(word)}: only ${{KEY}} of another key is understood, e.g. ${{lattice.Lx}}"
        )
    if re.match(r"[^=]*=\s*shuffle\s*\(", word):
        raise InputError(f"{shown(word)}: a run is the same every time; write the values out")


def check_once(words: Sequence[str]) -> None:
    """Raises InputError for a key that is given twice: which value is meant?"""
    seen: dict[str, str] = {}
    for word in words:
        key = word.partition("=")[0].strip()
        if key in seen:
            both = f"{shown(seen[key])} and {shown(word)}"
            raise InputError(f"{both}: {shown(key)} is given twice; write its values in one word")
        seen[key] = word


def values_of(words: Sequence[str]) -> dict[str, Any]:
    """{key: value} of key=value words, each key once. Raises InputError."""
    check_once(words)
    return {override.key_or_group: override.value() for override in map(parsed, words)}
