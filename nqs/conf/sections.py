"""Typed, frozen configuration sections: from a mapping, back to a mapping, and their documentation.

Plain YAML accepts typos and wrong types in silence. Here every key is a dataclass field, every
value is checked against the field's type, and every error is one line that names the key, the value
that was given and what is allowed.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from nqs.errors import InputError, shown, suggestion

S = TypeVar("S")

LARGEST_FLOAT: Final = 10**308


def from_mapping(section: type[S], mapping: Any, prefix: str = "") -> S:
    """The dataclass `section` from a nested mapping; `prefix` is the section's own dotted name.

    Raises InputError for a mapping of the wrong shape, an unknown key (with the closest known one),
    a missing key without default, or a value of the wrong type.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(f"{prefix or 'config'}={shown(mapping)}: must be a mapping of keys")
    fields = {field.name: field for field in dataclasses.fields(section)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(section)
    for key in mapping:
        if key not in fields:
            hint = suggestion(str(key), fields) or f"; known are {', '.join(fields)}"
            raise InputError(f"{_dotted(prefix, shown(key))}: unknown key{hint}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        key = _dotted(prefix, name)
        if name in mapping:
            values[name] = _convert(mapping[name], hints[name], key)
        elif field.default is dataclasses.MISSING:
            raise InputError(f"{key}: missing; {documentation(section)[name]}")
    return section(**values)


def to_mapping(section: Any) -> dict[str, Any]:
    """The nested plain mapping of a dataclass; tuples become lists, as YAML and JSON know them."""
    return {
        field.name: _plain(getattr(section, field.name)) for field in dataclasses.fields(section)
    }


def flatten(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """{'seed': 1, 'lattice': {'Lx': 4}} -> {'seed': 1, 'lattice.Lx': 4}."""
    flat: dict[str, Any] = {}
    for section, value in mapping.items():
        if isinstance(value, Mapping):
            flat.update({_dotted(section, key): entry for key, entry in value.items()})
        else:
            flat[str(section)] = value
    return flat


def documentation(section: type) -> dict[str, str]:
    """{field: its docstring}, read from the string that follows each field in the source."""
    (body,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(body, ast.ClassDef)
    documented: dict[str, str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name) and isinstance(text.value, ast.Constant)
            documented[field.target.id] = " ".join(str(text.value.value).split())
    return documented


def _dotted(prefix: str, key: Any) -> str:
    return f"{prefix}.{key}" if prefix else str(key)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _convert(value: Any, hint: Any, key: str) -> Any:
    """value as the type `hint`, or InputError naming the key, the value and the wanted type."""
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, key)
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        matched, result = _match(value, option)
        if matched:
            if isinstance(result, float) and not math.isfinite(result):
                raise InputError(f"{key}={shown(value)}: must be a finite number")
            if isinstance(result, tuple) and not all(map(_finite, result)):
                raise InputError(f"{key}={shown(value)}: every entry must be a finite number")
            return result
    wanted = " or ".join(_name(option) for option in options)
    raise InputError(f"{key}={shown(value)}: must be {wanted}, not {type(value).__name__}")


def _finite(item: Any) -> bool:
    return not isinstance(item, float) or math.isfinite(item)


def _match(value: Any, option: Any) -> tuple[bool, Any]:
    """(whether value is of the type option, value in that type); a whole float counts as an int."""
    if option is type(None):
        return value is None, None
    if typing.get_origin(option) is tuple:
        if not isinstance(value, list | tuple):
            return False, None
        (item_type, _) = typing.get_args(option)
        items = [_match(item, item_type) for item in value]
        return all(matched for matched, _ in items), tuple(item for _, item in items)
    if option is bool or isinstance(value, bool):
        return option is bool and isinstance(value, bool), value
    if option is float and isinstance(value, int | float):
        return True, float(value) if abs(value) <= LARGEST_FLOAT else math.inf
    if option is int and isinstance(value, float) and value.is_integer():
        return True, int(value)  # 1e4 is how people write ten thousand samples
    return isinstance(value, option), value


def _name(option: Any) -> str:
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): "null",
    }
    if typing.get_origin(option) is tuple:
        inner = _name(typing.get_args(option)[0])
        return f"a list, each entry {inner}"
    return names[option]
