"""Covering arrays: few cases in which every pair of values of any two factors occurs.

Faults come from one value, or from two that meet, far more often than from three (Kuhn, Wallace &
Gallo, IEEE Trans. Softw. Eng. 30, 418 (2004)), so a full product of three factors and more mostly
repeats itself. Each case is chosen greedily among a few that contain an uncovered pair; nothing is
random, the same factors give the same cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

Pair = tuple[int, int, int, int]
"""(factor, place of its value, later factor, place of its value)."""


def pairwise(*factors: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Cases with a value of each factor that together hold every pair of values of two factors."""
    uncovered: dict[Pair, None] = {  # in order, as a set is not
        (f, a, g, b): None
        for f, g in combinations(range(len(factors)), 2)
        for a in range(len(factors[f]))
        for b in range(len(factors[g]))
    }
    cases = []
    while uncovered:
        case = _completed(next(iter(uncovered)), factors, uncovered)
        for pair in _pairs(case):
            uncovered.pop(pair, None)
        cases.append(tuple(factor[place] for factor, place in zip(factors, case, strict=True)))
    return cases


def _completed(
    pair: Pair, factors: Sequence[Sequence[Any]], uncovered: Mapping[Pair, None]
) -> list[int]:
    """The places of a case with this pair; each other factor takes what covers most."""
    f, a, g, b = pair
    chosen = {f: a, g: b}
    for factor in range(len(factors)):
        if factor not in chosen:
            gains = [
                sum(_pair(factor, place, *other) in uncovered for other in chosen.items())
                for place in range(len(factors[factor]))
            ]
            chosen[factor] = gains.index(max(gains))
    return [chosen[factor] for factor in range(len(factors))]


def _pair(f: int, a: int, g: int, b: int) -> Pair:
    return (f, a, g, b) if f < g else (g, b, f, a)


def _pairs(case: Sequence[int]) -> list[Pair]:
    return [(f, case[f], g, case[g]) for f, g in combinations(range(len(case)), 2)]
