"""summary.json: the result of a run in numbers, for programs, and as aligned lines for people."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from nqs.errors import InputError
from nqs.runfolder import digests
from nqs.runfolder.atomic import write_text

FILE: Final = "summary.json"
LONGEST_VALUE: Final = 400
"""Characters of a value that are shown at most."""


def write(path: Path, summary: dict[str, Any]) -> None:
    """Writes summary.json (strict JSON: what is not a number becomes null). Raises OSError."""
    content = digests.vouched(finite(summary))
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """The content of a summary.json; raises InputError if there is none or it cannot be read."""
    if not os.path.exists(path):
        raise InputError(f"{path}: no readable summary; the run has not ended, resume it first")
    try:
        summary = digests.read_mapping(path)[0]
    except digests.Damaged as error:
        raise InputError(
            f"{path}: no readable summary ({error}); resume the run to write it again"
        ) from None
    if not summary:
        raise InputError(f"{path}: no readable summary; it holds no keys")
    return summary


def entries(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, text) of all there is."""
    return [(one_line(key).replace("_", " "), one_line(value)) for key, value in summary.items()]


def aligned(rows: Sequence[tuple[str, str]]) -> list[str]:
    """A line each: the name, and the text in a column of its own."""
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {text}" for name, text in rows]


def one_line(value: Any) -> str:
    """A value in a line, whatever the file holds: no control characters, not too long."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


def finite(value: Any) -> Any:
    """Nested lists and dicts with null for every number that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
