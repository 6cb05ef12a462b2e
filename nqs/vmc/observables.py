"""Observables that are diagonal in the configurations: one value per configuration.

sigma^z = 1 - 2 n (bit 1 is the excited atom, or spin down). Per-site averages, so values are in
[-1, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor


def diagonal_observables(configs: Tensor, sublattice_signs: Tensor | None) -> dict[str, Tensor]:
    """Values for configs (U, N) bool, float64.

    excitation_fraction (U,): (1/N) sum n_i; magnetisation (U,): m = (1/N) sum sigma^z_i, with abs_magnetisation |m| and
    squared_magnetisation m^2; and where the lattice is bipartite, with signs (N,) of +-1,
    staggered_magnetisation (1/N) sum signs_i sigma^z_i, its absolute value and its square.
    """
    density = configs.to(torch.float64)
    spins = 1 - 2 * density
    values = {"excitation_fraction": density.mean(1)}
    values |= _moments("magnetisation", spins.mean(1))
    if sublattice_signs is not None:
        signs = sublattice_signs.to(spins)
        values |= _moments("staggered_magnetisation", (spins * signs).mean(1))
    return values


def _moments(name: str, m: Tensor) -> dict[str, Tensor]:
    return {name: m, f"abs_{name}": m.abs(), f"squared_{name}": m.square()}
