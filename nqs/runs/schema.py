"""Typed, frozen configuration sections: from a mapping, back to a mapping, and their documentation.

Plain YAML accepts typos and wrong types in silence. Here every key is a dataclass field, every
value is checked against the field's type, and every error is one line that names the key, the value
that was given and what is allowed.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import math
import types
import typing
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

S = TypeVar("S")

LONGEST_LINE: Final = 400
"""Characters of an error line."""
LARGEST_FLOAT: Final = 10**308
READ: Final = 100_000
"""Characters of a text that are looked at: whatever is longer is somebody's file or an attack."""


class InputError(ValueError):
    """Something the user gave cannot be used: one line with the culprit, the value and the fix.

    Several arguments are several lines, one for each thing that is wrong.
    """

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


def error_lines(error: InputError) -> list[str]:
    """What is printed of an error: for each of its lines one that is safe to print."""
    return [one_line(f"error: {line}") for line in error.args]


def one_line(text: str) -> str:
    """Text on one line of at most LONGEST_LINE characters, of which the middle is left out; white
    space folded, all else that is no visible character escaped."""
    if len(text) > READ:
        text = text[: READ // 2] + text[-READ // 2 :]
    text = printable(" ".join(text.split()))
    if len(text) <= LONGEST_LINE:
        return text
    tail = LONGEST_LINE // 3
    return f"{text[: LONGEST_LINE - tail - 5]} ... {text[-tail:]}"


def printable(text: str) -> str:
    """Text with its control characters, line ends, invisible and lone halves of characters written
    as escapes: nothing that a file or a name holds moves the cursor or the reading direction."""
    return "".join(
        character if character.isprintable() else _escaped(character) for character in text
    )


def _escaped(character: str) -> str:
    if unicodedata.category(character) == "Zs":
        return " "
    return character.encode("unicode_escape").decode("ascii")


def shown(value: Any) -> str:
    """A value as the command line writes it, cut to a readable length."""
    text = printable(" ".join(_written(value)[:1000].split()))
    return text if len(text) <= 60 else text[:57] + "..."


def _written(value: Any, room: int = 1000) -> str:
    """A value as text, no more of it than `shown` needs, however deep and wide it is."""
    if room <= 0:
        return "..."
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple | Mapping):
        pairs, items = isinstance(value, Mapping), list[str]()
        for item in value.items() if isinstance(value, Mapping) else value:
            parts = item if pairs else (item,)
            items.append(":".join(_written(part, room // 2) for part in parts))
            room -= len(items[-1]) + 1
            if room <= 0:
                break
        return ("{%s}" if pairs else "[%s]") % ",".join(items)
    if isinstance(value, int) and value.bit_length() > 200:  # str() refuses 4300 digits
        return f"a whole number of about {round(value.bit_length() * 0.30103)} digits"
    return str(value)


def suggestion(word: str, candidates: Iterable[str]) -> str:
    """' (did you mean X?)' for the candidate closest to a misspelt word, or nothing."""
    candidates = list(candidates)
    if len(word) > 100:  # nobody's slip of the finger
        return ""
    tails = {candidate.rsplit(".", 1)[-1]: candidate for candidate in candidates}
    if word not in candidates and word.rsplit(".", 1)[-1] in tails:  # right name, wrong section
        return f" (did you mean {tails[word.rsplit('.', 1)[-1]]}?)"
    close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def require(condition: bool, key: str, value: Any, rule: str) -> None:
    """Raises InputError 'key=value: rule' unless the condition holds."""
    if not condition:
        raise InputError(f"{key}={shown(value)}: {rule}")


def require_choice(key: str, value: Any, choices: Iterable[Any]) -> None:
    """Raises InputError with the allowed values and the closest one unless value is a choice."""
    choices = list(choices)
    names = [shown(choice) for choice in choices]
    rule = f"must be one of {', '.join(names)}{suggestion(shown(value), names)}"
    require(any(value == choice and type(value) is type(choice) for choice in choices),
            key, value, rule)  # fmt: skip


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
