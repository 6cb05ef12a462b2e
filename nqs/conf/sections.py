"""Typed, frozen configuration sections: from a mapping, back to a mapping, and their documentation.

Plain YAML accepts typos and wrong types in silence. Here every key is a dataclass field, every
value is checked against the field's type (a kind and its keys where that is
`Annotated[Selection, GROUP]`), and every error is one line that names the key, the value
that was given and what is allowed.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from nqs.conf.kinds import Group, Selection
from nqs.conf.values import convert, plain
from nqs.errors import InputError, shown, suggestion

S = TypeVar("S")


def from_mapping(section: type[S], mapping: Any, prefix: str = "") -> S:
    """The dataclass `section` from a nested mapping; `prefix` is the section's own dotted name.

    Raises InputError for a mapping of the wrong shape, an unknown key (with the closest known one),
    a missing key without default, or a value of the wrong type.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(f"{prefix or 'config'}={shown(mapping)}: must be a mapping of keys")
    fields = {field.name: field for field in dataclasses.fields(section)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(section, include_extras=True)
    for key in mapping:
        if key not in fields:
            hint = suggestion(str(key), fields) or f"; known are {', '.join(fields)}"
            raise InputError(f"{_dotted(prefix, shown(key))}: unknown key{hint}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        key = _dotted(prefix, name)
        if name in mapping:
            values[name] = _convert(mapping[name], hints[name], key)
        elif field.default is field.default_factory is dataclasses.MISSING:
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
        return value.to_mapping() if isinstance(value, Selection) else to_mapping(value)
    return plain(value)


def _convert(value: Any, hint: Any, key: str) -> Any:
    """value as the type `hint`, or InputError naming the key, the value and the wanted type."""
    for note in getattr(hint, "__metadata__", ()):
        if isinstance(note, Group):
            return note.read(value, key)
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, key)
    return convert(value, hint, key)
