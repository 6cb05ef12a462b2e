"""Errors of the user's input: one line with the culprit, the value and what is allowed."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Final

LONGEST_LINE: Final = 400
"""Characters of an error line."""
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
