"""How the benchmark commands read their options: bad ones are one line and exit code 2."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Bad input is one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


def positive(text: str) -> float:
    """A finite number > 0."""
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise ValueError
    return value


positive.__name__ = "number > 0"


def above_one(text: str) -> float:
    """A finite number >= 1.05: closer points would be measured without end."""
    value = positive(text)
    if value < 1.05:
        raise ValueError
    return value


above_one.__name__ = "number >= 1.05"


def sample_number(text: str) -> int:
    """At least 2, for an error bar."""
    value = int(text)
    if value < 2:
        raise ValueError
    return value


sample_number.__name__ = "whole number >= 2"


def whole_number(text: str) -> int:
    """At least 1."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


whole_number.__name__ = "whole number >= 1"


def seed(text: str) -> int:
    """A whole number >= 0."""
    value = int(text)
    if value < 0:
        raise ValueError
    return value


seed.__name__ = "whole number >= 0"


def seeds(text: str) -> tuple[int, ...]:
    """Comma-separated whole numbers >= 0."""
    values = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    if min(values) < 0:
        raise ValueError
    return values


seeds.__name__ = "list of seeds such as 0,1,2"


def chosen(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """Reader of a comma-separated choice among `known`."""

    def read(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"{name!r} is unknown; it must be of {', '.join(known)}"
                )
        return names

    return read


def made(out: Path) -> None:
    """Makes the folder of --out. Raises ValueError if that cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {out}: {error.strerror or error}") from None
