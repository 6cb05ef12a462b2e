"""Configurations for which a Hamiltonian is asked for its elements, to tell its symmetries."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

MAX_LISTED_SITES: Final = 8
"""Up to this many sites all configurations are compared."""

RANDOM_CONFIGURATIONS: Final = 256
"""Drawn where there are more."""


def probing_configurations(n_sites: int) -> Tensor:
    """(B, N) bool: all configurations of few sites; else random ones and all, no or one bit set.

    One bit at a time only for the first 256 sites. What one random configuration in four shows
    escapes all of them with chance 1e-32.
    """
    if n_sites <= MAX_LISTED_SITES:
        return all_configurations(n_sites)
    generator = torch.Generator().manual_seed(0)
    random = torch.rand(RANDOM_CONFIGURATIONS, n_sites, generator=generator) < 0.5
    extremes = torch.tensor([[False], [True]]).expand(2, n_sites)
    single = torch.eye(n_sites, dtype=torch.bool)[:RANDOM_CONFIGURATIONS]
    return torch.cat([random, extremes, single])


def all_configurations(n_sites: int) -> Tensor:
    """(2^N, N) bool in the order of their numbers, site 0 the most significant bit."""
    places = torch.arange(n_sites - 1, -1, -1)  # (N,)
    return torch.arange(2**n_sites)[:, None] >> places & 1 != 0
