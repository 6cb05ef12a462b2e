"""Files of positions: a header x,y or x,y,z and one site a line.

The header decides what stands between the numbers: a comma, a semicolon, a tab or spaces. Numbers
have a decimal point; a decimal comma is refused by name, since 1,5 can also be two numbers.
"""

from __future__ import annotations

import re
from pathlib import Path

from hamiltonians.text_file import read_text, shortened

SEPARATORS = {";": "a semicolon", "\t": "a tab", ",": "a comma"}
"""The first that the header holds is taken; without any, spaces."""

HEADERS = (["x", "y"], ["x", "y", "z"])


def read_positions(path: str | Path, max_sites: int) -> list[list[float]]:
    """Rows of 2 or 3 numbers. Raises ValueError, one line without the file's name: what is wrong,
    in which line, and what it must be."""
    lines = read_text(path).split("\n")
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise ValueError("is empty; it needs a header x,y or x,y,z")
    if len(rows) - 1 > max_sites:
        raise ValueError(f"{len(rows) - 1} sites; at most {max_sites} are allowed")
    header = rows[0][1]
    separator = next((mark for mark in SEPARATORS if mark in header), None)
    names = [name.lower() for name in _fields(header, separator)]
    if names not in HEADERS:
        raise ValueError(
            f"the header is {shortened(header)}; it must be x,y or x,y,z (or with semicolons, tabs "
            "or spaces between)"
        )
    return [_site(number, line, separator, len(names)) for number, line in rows[1:]]


def _fields(line: str, separator: str | None) -> list[str]:
    """What stands between the separators, without spaces and quotes around it."""
    return [field.strip().strip('"').strip() for field in line.strip(" \n").split(separator)]


def _site(number: int, line: str, separator: str | None, dimension: int) -> list[float]:
    """The numbers of one line."""
    fields = _fields(line, separator)
    comma = next((f for f in fields if re.fullmatch(r"[+-]?[0-9]+,[0-9]+(e[+-]?[0-9]+)?", f)), None)
    if comma is not None:
        raise ValueError(
            f"line {number} has {shortened(comma)}; write a decimal point, "
            f"like {shortened(comma.replace(',', '.'))}"
        )
    try:
        site = [float(field) for field in fields if "_" not in field]
    except ValueError:
        site = []
    if len(site) != dimension or len(fields) != dimension:
        between = SEPARATORS.get(separator or "", "spaces")
        hint = " (and decimal points)" if len(fields) == 2 * dimension else ""
        raise ValueError(
            f"line {number} is {shortened(line)}; it must be {dimension} numbers with {between} "
            f"between, as in the header{hint}"
        )
    return site
