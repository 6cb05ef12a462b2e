"""Draws that take one flip of the Hamiltonian at random."""

from __future__ import annotations

import torch
from torch import Tensor


def movers(counts: Tensor, chance: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """How many draws of each row move, each with this chance, (U,); the row each leaves, (R,).

    counts (U,): draws of each row.
    """
    chances = torch.full(counts.shape, chance, dtype=torch.float64, device=counts.device)
    n_moved = torch.binomial(counts.to(torch.float64), chances, generator=generator)
    n_moved = n_moved.to(torch.int64)
    rows = torch.arange(len(n_moved), device=n_moved.device).repeat_interleave(n_moved)
    return n_moved, rows


def apply_flips(configs: Tensor, flips: Tensor, acts: Tensor) -> Tensor:
    """configs (R, N) after the flip flips (R, N) of each where it acts (R,), else as they are."""
    return configs ^ (flips & acts[:, None])
