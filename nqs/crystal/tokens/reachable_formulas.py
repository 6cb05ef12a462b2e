"""Which formulas the Wyckoff positions of a space group can still come to.

A position without free coordinates holds one orbit at most, one with them any number. With counts
n_e of atoms to be placed, multiplicities m_k (of the primitive cell) and the positions without
freedom that are left, asked is whether whole numbers x_ek >= 0 exist with

    sum_k x_ek m_k = n_e  for each element e,    sum_e x_ek <= 1  for k without freedom.

Positions of equal multiplicity are alike, so it is a search over how many of each are taken.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from typing import Final, final

from nqs.crystal.tokens.wyckoff_description import table_of

N_GROUPS: Final = 230


@final
class ReachableFormulas:
    """Those of one group."""

    def __init__(self, group: int) -> None:
        table = table_of(group)
        sizes = zip(table.multiplicities, table.dimensions, strict=True)
        self.multiplicities = table.multiplicities
        self.single = tuple(dimension == 0 for dimension in table.dimensions)
        self._repeated = sorted({size for size, dimension in sizes if dimension > 0})
        self._alike = tuple(
            sorted({m for m, once in zip(self.multiplicities, self.single, strict=True) if once})
        )
        self._sums = [True]  # whether n atoms fit on positions with freedom
        self._search = functools.lru_cache(maxsize=2**17)(self._reaches)

    def reaches(self, counts: Iterable[int], used: Iterable[int] = ()) -> bool:
        """Whether so many atoms of each element can be placed, the positions `used` being full."""
        free = [*map(self._on_repeated, wanted := sorted(n for n in counts if n > 0))]
        if all(free):
            return True
        taken = {*used}
        left = [0] * len(self._alike)
        for position, (size, once) in enumerate(zip(self.multiplicities, self.single, strict=True)):
            if once and position not in taken:
                left[self._alike.index(size)] += 1
        return self._search(tuple(wanted), tuple(left))

    def _reaches(self, counts: tuple[int, ...], left: tuple[int, ...]) -> bool:
        if not counts:
            return True
        first, others = counts[0], counts[1:]
        bounds = [
            range(min(n, first // size) + 1) for n, size in zip(left, self._alike, strict=True)
        ]
        for taken in itertools.product(*bounds):
            rest = first - sum(n * size for n, size in zip(taken, self._alike, strict=True))
            if rest >= 0 and self._on_repeated(rest):
                after = tuple(n - t for n, t in zip(left, taken, strict=True))
                if self._search(others, after):
                    return True
        return False

    def _on_repeated(self, n: int) -> bool:
        while len(self._sums) <= n:
            total = len(self._sums)
            self._sums.append(any(m <= total and self._sums[total - m] for m in self._repeated))
        return self._sums[n]


@functools.cache
def formulas_of(group: int) -> ReachableFormulas:
    """Those of the group 1..230; what it knows is computed once."""
    return ReachableFormulas(group)


@functools.lru_cache(maxsize=2**15)
def groups_of(counts: tuple[int, ...]) -> tuple[int, ...]:
    """The groups in which so many atoms of each element can be placed."""
    return tuple(g for g in range(1, N_GROUPS + 1) if formulas_of(g).reaches(counts))
