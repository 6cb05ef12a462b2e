"""Position embeddings: one vector of width D for each place in the sequence.

Sinusoids follow Vaswani et al., arXiv:1706.03762, section 3.5; for coordinates in d dimensions
every coordinate gets D / d of the channels.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

PositionEncoding = Literal["learned", "sinusoidal", "grid"]
KINDS = get_args(PositionEncoding)


class AddedTable(nn.Module):
    """Adds row t of a table (T, D) at position t; the table is learned or fixed."""

    table: Tensor

    def __init__(self, table: Tensor, *, learned: bool = True) -> None:
        super().__init__()
        if learned:
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """x (..., S, D) read at positions start .. start + S - 1 -> (..., S, D)."""
        return x + self.table[start : start + x.shape[-2]]

    def at(self, x: Tensor, places: Tensor) -> Tensor:
        """x (..., S, D) read at positions `places` (S,) -> (..., S, D)."""
        return x + self.table[places]


class Positions(AddedTable):
    """A table (T, D) added to the token embeddings.

    Args:
        kind: "learned" (parameters), "sinusoidal" (of the index) or "grid" (of `coordinates`).
        max_length: T.
        d_model: D.
        coordinates: (T, d) place of each token in space; required by "grid".
    """

    def __init__(
        self, kind: str, max_length: int, d_model: int, coordinates: Tensor | None = None
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"positions={kind!r} is unknown; allowed: {', '.join(KINDS)}")
        if kind == "learned":
            super().__init__(torch.empty(max_length, d_model))
            return
        if kind == "sinusoidal":
            coordinates = torch.arange(max_length, dtype=torch.float64)[:, None]
        elif coordinates is None or coordinates.shape[0] != max_length:
            raise ValueError(f"positions='grid' needs one coordinate row per token ({max_length})")
        table = sinusoids(coordinates.to(torch.float64), d_model)
        super().__init__(table.to(torch.get_default_dtype()), learned=False)


def sinusoids(coordinates: Tensor, d_model: int) -> Tensor:
    """sin and cos of coordinates (T, d) at geometric wavelengths 2 pi .. 2 pi 10^4 -> (T, D).

    Channels beyond a multiple of 2 d are zero, so any width works.
    """
    n_tokens, n_dims = coordinates.shape
    n_frequencies = d_model // (2 * n_dims)
    table = coordinates.new_zeros(n_tokens, d_model)
    if n_frequencies == 0:
        raise ValueError(
            f"d_model={d_model} is too small for {n_dims} coordinates; use >= {2 * n_dims}"
        )
    exponents = torch.arange(n_frequencies, dtype=coordinates.dtype) / n_frequencies
    frequencies = torch.exp(-math.log(1e4) * exponents)  # (n_frequencies,)
    phases = coordinates[:, :, None] * frequencies  # (T, d, n_frequencies)
    waves = torch.cat([phases.sin(), phases.cos()], dim=-1).reshape(n_tokens, -1)
    table[:, : waves.shape[1]] = waves
    return table
