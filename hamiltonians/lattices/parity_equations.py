"""Linear equations over the field of two elements: parities that are to be even or odd.

An equation is a number: bit 0 the right-hand side, bit i + 1 whether the unknown i is in the sum.
"""

from __future__ import annotations

from collections.abc import Iterable


def solution(equations: Iterable[int]) -> int | None:
    """Unknowns that solve all equations, bit i for the unknown i; None if there are none.

    By elimination. Of several solutions the one in which unknowns of low number are 0: the first
    is 0 if it can be.
    """
    pivots: dict[int, int] = {}  # equations by their highest unknown
    for equation in equations:
        while equation > 1 and (unknown := equation.bit_length() - 2) in pivots:
            equation ^= pivots[unknown]
        if equation == 1:
            return None
        if equation:
            pivots[unknown] = equation
    values = 1  # bit i + 1 is unknown i; bit 0 multiplies the right-hand side
    for unknown in sorted(pivots):
        if (pivots[unknown] & values).bit_count() % 2:
            values |= 1 << (unknown + 1)
    return values >> 1
