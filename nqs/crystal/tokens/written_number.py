"""Decimal numbers drawn digit by digit, R side by side, each within bounds of its own.

A number of D decimals is the whole number n = number * 10^D. A digit may follow if some way to go
on ends within [low, high]: with e more digits before the point, a prefix p can still become any of
p 10^(e+D) .. (p + 1) 10^(e+D) - 1.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

MOST_DIGITS = 4
"""Before the point."""


@final
class WrittenNumbers:
    """The number that each row is writing; tensors of shape (R,) int64.

    Attributes:
        value: digits so far, as a whole number.
        whole: digits before the point so far.
        after: digits after the point so far, -1 before it.
        decimals: D.
        low, high: bounds of n.
    """

    def __init__(self, n_rows: int, device: torch.device | str) -> None:
        zeros = torch.zeros(n_rows, dtype=torch.int64, device=device)
        self.value, self.whole, self.after = zeros.clone(), zeros.clone(), zeros.clone()
        self.decimals, self.low, self.high = zeros.clone(), zeros.clone(), zeros.clone()
        self._digits = torch.arange(10, device=device)

    def begin(
        self, rows: Tensor, after: Tensor, decimals: Tensor, low: Tensor, high: Tensor
    ) -> None:
        """New numbers on the rows (R,) bool; `after` is 0 where '0.' stands already, else -1."""
        self.value = self.value.masked_fill(rows, 0)
        self.whole = self.whole.masked_fill(rows, 0)
        self.after = torch.where(rows, after, self.after)
        self.decimals = torch.where(rows, decimals, self.decimals)
        self.low = torch.where(rows, low, self.low)
        self.high = torch.where(rows, high, self.high)

    def digits(self) -> Tensor:
        """(R, 10) bool: which digits may follow."""
        prefix = self.value[:, None] * 10 + self._digits
        before = torch.zeros_like(prefix, dtype=torch.bool)
        for extra in range(MOST_DIGITS):
            scale = 10 ** (self.decimals + extra)[:, None]
            before |= self._reaches(prefix, scale) & ((prefix > 0) | (extra == 0))
        before &= ((self.whole == 0) | (self.value > 0))[:, None]  # nothing follows a leading zero
        scale = 10 ** (self.decimals - self.after - 1).clamp_min(0)[:, None]
        return torch.where((self.after < 0)[:, None], before, self._reaches(prefix, scale))

    def point(self) -> Tensor:
        """(R,) bool: whether the point may follow."""
        reaches = self._reaches(self.value[:, None], 10 ** self.decimals[:, None])[:, 0]
        return reaches & (self.after < 0) & (self.whole > 0) & (self.decimals > 0)

    def may_end(self) -> Tensor:
        """(R,) bool: whether what has no decimals may end here."""
        inside = (self.low <= self.value) & (self.value <= self.high)
        return inside & (self.decimals == 0) & (self.whole > 0)

    def read(self, rows: Tensor, digit: Tensor) -> Tensor:
        """Read a digit, or the point where it is -1, on the rows; (R,) bool: the last decimal."""
        drawn = rows & (digit >= 0)
        self.value = torch.where(drawn, self.value * 10 + digit, self.value)
        self.whole = self.whole + (drawn & (self.after < 0))
        self.after = self.after + (drawn & (self.after >= 0))
        self.after = self.after.masked_fill(rows & (digit < 0), 0)
        return drawn & (self.decimals > 0) & (self.after == self.decimals)

    def _reaches(self, prefix: Tensor, scale: Tensor) -> Tensor:
        low, high = self.low[:, None], self.high[:, None]
        return (prefix * scale <= high) & ((prefix + 1) * scale - 1 >= low)
