"""KEY=VALUE words of a command line, values as YAML writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from nqs.errors import InputError, shown, suggestion


def parsed(words: Iterable[str]) -> dict[str, Any]:
    """{'train.steps': 500} of ['train.steps=500']. Raises InputError for other words, and for a key
    that comes twice."""
    keys: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise InputError(f"{shown(word)}: not understood; write key=value, e.g. seed=1")
        if key in keys:
            raise InputError(f"{key}: given twice")
        keys[key] = value_of(key, text)
    return keys


def value_of(key: str, text: str) -> Any:
    """What `text` stands for; NO, on and the like are text, not booleans. Raises InputError naming
    the key."""
    if not text.strip():
        raise InputError(f"{key}=: no value is given; {key}=null is none")
    try:
        value = yaml.safe_load(text)
    except Exception:  # YAML's constructors raise almost anything
        rule = "not understood; quote brackets and colons"
        raise InputError(f"{key}={shown(text)}: {rule}") from None
    if isinstance(value, bool) and text.strip().lower() not in ("true", "false"):
        return text.strip()
    if isinstance(value, str):
        try:
            return float(value)  # YAML takes 1e-3 for text
        except ValueError:
            return value
    return value


def merged(base: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """The nested mapping `base` with dotted keys put in.

    Raises InputError for a key within what is no section.
    """
    result = {key: dict(v) if isinstance(v, Mapping) else v for key, v in base.items()}
    for key, value in keys.items():
        section, _, name = key.rpartition(".")
        target = result.setdefault(section, {}) if section else result
        if not isinstance(target, dict):
            raise InputError(f"{section}={shown(target)}: must be a mapping of keys")
        target[name] = value
    return result


def check_known(keys: Iterable[str], known: Iterable[str]) -> None:
    """Raises InputError for a key that is not among `known`, with the closest one."""
    known = list(known)
    for key in keys:
        if key not in known:
            hint = suggestion(key, known) or f"; known are {', '.join(known)}"
            raise InputError(f"{key}: unknown key{hint}")
