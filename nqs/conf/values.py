"""From plain data to the type that an annotation asks for, or one line that says what is allowed.

    int, float, bool, str, None     a whole float counts as an int (1e4), an int as a float
    Literal["auto", True]           one of these
    tuple[T, ...], Sequence[T]      a list, however it came; it becomes a tuple
    Annotated[T, "1e-5 .. 1e5"]     every number in it within bounds (`Bounds`)
    A | B                           the first that fits

Types that plain data never has (a Tensor, a Path, a class) are passed over; where no other is left
any plain data will do.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import itertools
import math
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from nqs.errors import InputError, shown, suggestion

LARGEST_FLOAT: Final = 10**308
_SEQUENCES: Final = (tuple, list, collections.abc.Sequence)
_NAMES: Final = {int: "a whole number", float: "a number", bool: "true or false", str: "text",
                 type(None): "null", Any: "numbers, text, true, false, null or lists of them",
                 }  # fmt: skip
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_BOUNDS = re.compile(
    rf"(?P<zero>0 or )?(?P<low>{_NUMBER}) \.\. (?P<high>{_NUMBER})(?P<size> in size)?"
)


@dataclass(frozen=True)
class Bounds:
    """What a number may be: "1 .. 9", "0 or 1e-3 .. 1", "0 or 1e-30 .. 1e30 in size" (of either
    sign); both ends are allowed."""

    text: str
    low: float
    high: float
    or_zero: bool
    in_size: bool

    @classmethod
    def parsed(cls, text: str) -> Self:
        """Raises ValueError for anything but these forms."""
        match = _BOUNDS.fullmatch(text)
        if match is None or float(match["low"]) > float(match["high"]):
            raise ValueError(f"bounds {text!r} are none; write LOW .. HIGH, with '0 or ' before or "
                             "' in size' after it")  # fmt: skip
        return cls(
            text,
            float(match["low"]),
            float(match["high"]),
            match["zero"] is not None,
            match["size"] is not None,
        )

    def hold(self, number: float) -> bool:
        """Whether the number is inside."""
        size = abs(number) if self.in_size else number
        return self.low <= size <= self.high or (self.or_zero and number == 0)

    @property
    def rule(self) -> str:
        """The words of an error."""
        inside = f">= {self.low:g} and <= {self.high:g}{', or 0' if self.or_zero else ''}"
        return f"must be of a size {inside}" if self.in_size else f"must be {inside}"


def bounds_of(hint: Any) -> list[Bounds]:
    """The bounds in an annotation, in the order in which they are written."""
    found = [Bounds.parsed(note) for note in _notes(hint)]
    for part in typing.get_args(hint) if typing.get_origin(hint) is not Literal else ():
        if not isinstance(part, str):
            found += bounds_of(part)
    return found


def convert(value: Any, hint: Any, key: str) -> Any:
    """value as the type `hint`. Raises InputError naming the key, the value and what is allowed."""
    value = _of_python(value)
    complaints: list[str] = []
    for option in _options(hint) or [Any]:
        matched, result = _match(value, option)
        if not matched:
            continue
        numbers = [item for item in _leaves(result) if isinstance(item, int | float)]
        if not all(math.isfinite(n) for n in numbers if isinstance(n, float)):
            every = "every entry must be" if isinstance(result, tuple) else "must be"
            raise InputError(f"{key}={shown(value)}: {every} a finite number")
        broken = [b for b in bounds_of(option) if not all(b.hold(n) for n in numbers)]
        if not broken:
            return result
        complaints += [bounds.rule for bounds in broken]
    if not complaints:
        raise InputError(f"{key}={shown(value)}: {_wanted(value, hint)}")
    rule = " or ".join(dict.fromkeys([*complaints, *_words(hint)]))
    raise InputError(f"{key}={shown(value)}: {rule}")


def _of_python(value: Any) -> Any:
    """The same with Python's numbers in the place of numpy's or torch's."""
    if isinstance(value, list | tuple):
        return type(value)(map(_of_python, value)) if type(value) in (list, tuple) else value
    return value.item() if getattr(value, "ndim", None) == 0 else value


def plain(value: Any) -> Any:
    """A value as YAML and JSON know it: tuples become lists."""
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def _words(hint: Any) -> list[str]:
    """The choices that an annotation allows, null among them."""
    options = _options(hint)
    choices = [c for o in options if typing.get_origin(o) is Literal for c in typing.get_args(o)]
    return [shown(c) for c in choices] + ["null"] * (type(None) in options)


def _wanted(value: Any, hint: Any) -> str:
    """What is allowed instead of a value of the wrong type."""
    words = _words(hint)
    types = [name for o in _options(hint) or [Any] if (name := _name(o)) and name != "null"]
    rules = [bounds.rule.removeprefix("must be ") for bounds in bounds_of(hint)]
    numbers = f" ({'; '.join(rules)})" if rules else ""
    if words and words != ["null"] and len(types) <= 1:
        also = "".join(f", or {name}{numbers}" for name in types)
        return f"must be one of {', '.join(words)}{also}{suggestion(shown(value), words)}"
    lists = [o for o in _options(hint) if typing.get_origin(o) in _SEQUENCES]
    if lists and isinstance(value, list | tuple):
        odd = next((item for item in value if not any(_match([item], o)[0] for o in lists)), None)
        kind = "a list of other length" if odd is None and None not in value else f"[{shown(odd)}]"
    else:
        kind = "null" if value is None else type(value).__name__
    return f"must be {' or '.join([*types, *words])}{numbers}, not {kind}"


def _options(hint: Any) -> list[Any]:
    """The members of a union, nested ones too, without those that plain data cannot be."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        nested = [_options(option) for option in typing.get_args(hint)]
        return list(itertools.chain(*nested))
    notes = _notes(hint)
    bare = typing.get_args(hint)[0] if notes else hint
    if notes and typing.get_origin(bare) in (typing.Union, types.UnionType):
        return [typing.Annotated[option, *notes] for option in _options(bare)]
    known = bare is Any or bare in _NAMES or typing.get_origin(bare) in (Literal, *_SEQUENCES)
    return [hint] if known or dataclasses.is_dataclass(bare) else []


def _notes(hint: Any) -> list[str]:
    notes = getattr(hint, "__metadata__", ())
    return [note for note in notes if isinstance(note, str)]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        yield from itertools.chain.from_iterable(map(_leaves, value))
    elif not isinstance(value, bool):
        yield value


def _match(value: Any, option: Any) -> tuple[bool, Any]:
    """(whether value is of the type option, value in that type)."""
    if _notes(option):
        return _match(value, typing.get_args(option)[0])
    origin, arguments = typing.get_origin(option), typing.get_args(option)
    if option is Any:
        return _is_plain(value), _tuples(value)
    if option is type(None):
        return value is None, None
    if origin is Literal:
        same = (c for c in arguments if c == value and type(c) is type(value))
        return (choice := next(same, None)) is not None, choice
    if origin in _SEQUENCES:
        return _match_items(value, arguments)
    if option is bool or isinstance(value, bool):
        return option is bool and isinstance(value, bool), value
    if option is float and isinstance(value, int | float):
        return True, float(value) if abs(value) <= LARGEST_FLOAT else math.inf
    if option is int and isinstance(value, float) and value.is_integer():
        return True, int(value)  # 1e4 is how people write ten thousand samples
    return isinstance(value, option), value


def _match_items(value: Any, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    """A list or tuple whose entries are all of one type, or of as many as are named."""
    if not isinstance(value, list | tuple):
        return False, None
    fixed = len(arguments) > 1 and arguments[-1] is not Ellipsis
    if fixed and len(arguments) != len(value):
        return False, None
    kinds = arguments if fixed else arguments[:1] * len(value)
    items = []
    for item, kind in zip(value, kinds, strict=True):
        for option in _options(kind):
            matched, result = _match(item, option)
            if matched:
                items.append(result)
                break
        else:
            return False, None
    return True, tuple(items)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _name(option: Any) -> str:
    """The words for a type; '' for a choice."""
    if _notes(option):
        return _name(typing.get_args(option)[0])
    if typing.get_origin(option) is Literal:
        return ""
    if typing.get_origin(option) in _SEQUENCES:
        arguments = [a for a in typing.get_args(option) if a is not Ellipsis]
        inner = " or ".join(dict.fromkeys(filter(None, map(_name, _options(arguments[0])))))
        return f"a list, each entry {inner or 'one of the choices'}"
    return _NAMES.get(option, "a value")
