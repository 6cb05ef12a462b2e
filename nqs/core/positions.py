"""Position embeddings: one vector of width D for each place in the sequence.

Sinusoids follow Vaswani et al., arXiv:1706.03762, section 3.5; for coordinates in d dimensions
every coordinate gets D / d of the channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

KINDS = ("learned", "sinusoidal", "grid")


class Positions(nn.Module):
    """A table (T, D) added to the token embeddings.

    Args:
        kind: "learned" (parameters), "sinusoidal" (of the index) or "grid" (of `coordinates`).
        max_length: T.
        d_model: D.
        coordinates: (T, d) place of each token in space; required by "grid".
    """

    table: Tensor

    def __init__(
        self, kind: str, max_length: int, d_model: int, coordinates: Tensor | None = None
    ) -> None:
        super().__init__()
        self.kind = kind
        if kind == "learned":
            self.table = nn.Parameter(torch.empty(max_length, d_model))
            return
        if kind == "sinusoidal":
            coordinates = torch.arange(max_length, dtype=torch.float64)[:, None]
        elif kind != "grid":
            raise ValueError(f"positions={kind!r} is unknown; allowed: {', '.join(KINDS)}")
        elif coordinates is None or coordinates.shape[0] != max_length:
            raise ValueError(f"positions='grid' needs one coordinate row per token ({max_length})")
        table = sinusoids(coordinates.to(torch.float64), d_model)
        self.register_buffer("table", table.to(torch.get_default_dtype()), persistent=False)

    def forward(self, start: int, length: int) -> Tensor:
        """Rows start .. start + length - 1 -> (length, D)."""
        return self.table[start : start + length]


def sinusoids(coordinates: Tensor, d_model: int) -> Tensor:
    """sin and cos of coordinates (T, d) at geometric wavelengths 2 pi .. 2 pi 10^4 -> (T, D).

    Channels beyond a multiple of 2 d are zero, so any width works.
    """
    n_tokens, n_dims = coordinates.shape
    n_frequencies = d_model // (2 * n_dims)
    table = coordinates.new_zeros(n_tokens, d_model)
    if n_frequencies == 0:
        raise ValueError(f"d_model={d_model} is too small for {n_dims} coordinates; use >= {2 * n_dims}")
    exponents = torch.arange(n_frequencies, dtype=coordinates.dtype) / n_frequencies
    frequencies = torch.exp(-math.log(1e4) * exponents)  # (n_frequencies,)
    phases = coordinates[:, :, None] * frequencies  # (T, d, n_frequencies)
    waves = torch.cat([phases.sin(), phases.cos()], dim=-1).reshape(n_tokens, -1)
    table[:, : waves.shape[1]] = waves
    return table
