"""What the couplings of a family may be, and how values of them are drawn.

    interval(LOW,HIGH)     any number within, evenly
    [V1,V2,...]            one of these
    uniform(LOW,HIGH)      disorder: a number of its own for each site or bond, evenly within
    normal(MEAN,SPREAD)    the same, Gaussian with this standard deviation

A family's couplings are one vector c: those of a coupling after those of the one before, in the
order in which they were given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, final

import torch
from torch import Tensor

from nqs.errors import InputError, require, shown

BEYOND: Final = 0.1
"""Share of an interval beyond each of its ends from which couplings are drawn, and moved to the
end, which has neighbours on one side alone (docs/families.md)."""
TAIL: Final = 2.0
"""Standard deviations of a Gaussian that count as its ends, where couplings are scaled."""
FAR: Final = 5.0
"""Standard deviations beyond which a number is no draw of a Gaussian: one in 1.7e6."""
LARGEST: Final = 1e30
FORMS: Final = "interval(LOW,HIGH), [V1,V2,...], uniform(LOW,HIGH) or normal(MEAN,SPREAD)"

Kind = Literal["interval", "list", "uniform", "normal"]


@final
@dataclass(frozen=True)
class Law:
    """How a number is distributed.

    Attributes:
        numbers: the ends of an interval or of even draws; mean and standard deviation; the values
            of a list, ascending.
    """

    kind: Kind
    numbers: tuple[float, ...]

    @classmethod
    def parsed(cls, key: str, given: Any) -> Self:
        """From one of the forms at the head of this file, as text or, of a list, as a list. Raises
        InputError that names the key."""
        kind: Any = "list"
        parts: Sequence[Any]
        if isinstance(given, list | tuple):
            parts = given
        else:
            match = re.fullmatch(r"\s*(\w*)\s*([(\[])(.*)([)\]])\s*", str(given))
            brackets = "" if match is None else match[2] + match[4]
            listed = match is not None and not match[1] and brackets == "[]"
            drawn = match is not None and match[1] in ("interval", "uniform", "normal")
            if match is None or not (listed or (drawn and brackets == "()")):
                raise InputError(f"{key}={shown(given)}: must be {FORMS}")
            kind, parts = match[1] or "list", match[3].split(",")
        numbers = [_number(key, part) for part in parts]
        return cls.of(key, given, kind, numbers)

    @classmethod
    def of(cls, key: str, given: Any, kind: Kind, numbers: Sequence[float]) -> Self:
        """The law with these numbers. Raises InputError that names the key and what was given."""
        if kind == "list":
            numbers = sorted(set(numbers))
            require(len(numbers) > 1, key, given, "must list two values or more")
        elif kind == "normal":
            right = len(numbers) == 2 and numbers[1] > 0
            require(right, key, given, "must be normal(MEAN,SPREAD) with SPREAD > 0")
        else:
            right = len(numbers) == 2 and numbers[0] < numbers[1]
            require(right, key, given, f"must be {kind}(LOW,HIGH) with LOW < HIGH")
        return cls(kind, tuple(numbers))

    def __str__(self) -> str:
        numbers = ",".join(f"{number:.12g}" for number in self.numbers)
        return f"[{numbers}]" if self.kind == "list" else f"{self.kind}({numbers})"

    @property
    def is_disorder(self) -> bool:
        """Whether each site or bond has a number of its own."""
        return self.kind in ("uniform", "normal")

    @property
    def ends(self) -> tuple[float, float]:
        """Where most of it lies, for scaling."""
        if self.kind == "normal":
            mean, spread = self.numbers
            return mean - TAIL * spread, mean + TAIL * spread
        return self.numbers[0], self.numbers[-1]

    def holds(self, number: float) -> bool:
        """Whether the number lies where numbers are drawn, or between two of a list."""
        low, high = self.ends
        if self.kind == "normal":
            middle, reach = self.numbers[0], FAR * self.numbers[1]
            low, high = middle - reach, middle + reach
        return low <= number <= high

    def value(self, share: Tensor) -> Tensor:
        """The number below which a share (..., float64, 0 .. 1) of all draws lies."""
        low, high = self.ends
        if self.kind == "list":
            last = len(self.numbers) - 1
            return share.new_tensor(self.numbers)[(share * (last + 1)).long().clamp(max=last)]
        if self.kind == "normal":
            within = share.clamp(1e-9, 1 - 1e-9)
            return self.numbers[0] + self.numbers[1] * torch.special.ndtri(within)
        if self.kind == "interval":
            share = (share * (1 + 2 * BEYOND) - BEYOND).clamp(0, 1)
        return low + share * (high - low)


@final
@dataclass(frozen=True)
class Coupling:
    """A coupling of a family.

    Attributes:
        name: of the argument of its Hamiltonians.
        size: numbers that it has: 1, or with disorder one for each site or bond.
        places: the sites that each of them belongs to, () for those of all sites.
    """

    name: str
    law: Law
    size: int = 1
    places: tuple[tuple[int, ...], ...] = ()


def drawn(couplings: Sequence[Coupling], n_draws: int, generator: torch.Generator | None) -> Tensor:
    """c (C, n) float64 of C draws of all couplings, stratified: of C equal shares of the draws of
    each number one each (Latin hypercube)."""
    shape = (n_draws, sum(coupling.size for coupling in couplings))
    within = torch.rand(shape, generator=generator, dtype=torch.float64)
    order = torch.rand(shape, generator=generator, dtype=torch.float64).argsort(0)
    shares = ((order + within) / n_draws).split([coupling.size for coupling in couplings], dim=1)
    parts = [each.law.value(share) for each, share in zip(couplings, shares, strict=True)]
    return torch.cat(parts, dim=1)


def _number(key: str, given: Any) -> float:
    rule = f"must be a number of a size <= {LARGEST:g}"
    try:
        number = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        number = math.nan
    require(abs(number) <= LARGEST, key, given, rule)
    return number
