"""Mean density and magnetisations, uniform and staggered: values in [-1, 1], per site."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from nqs.vmc.observables.diagonal import Diagonal
from nqs.vmc.observables.observable import Quantity, Request


@final
class Magnetisation(Diagonal, kind="magnetisation"):
    """Averages of `magnetisations`; the staggered ones where the lattice is bipartite."""

    quantities = (
        Quantity("excitation_fraction", "1", "(1/N) sum_i <n_i>"),
        Quantity("magnetisation", "1", "m = (1/N) sum_i <sigma^z_i>"),
        Quantity("abs_magnetisation", "1", "<|m|>"),
        Quantity("squared_magnetisation", "1", "<m^2>"),
        Quantity("staggered_magnetisation", "1", "M = (1/N) sum_i signs_i <sigma^z_i>"),
        Quantity("abs_staggered_magnetisation", "1", "<|M|>"),
        Quantity("squared_staggered_magnetisation", "1", "<M^2>"),
    )

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        lattice = request.lattice
        self.signs = None if lattice is None else lattice.sublattice_signs()

    def values(self, configs: Tensor) -> dict[str, Tensor]:
        return magnetisations(configs, self.signs)


def magnetisations(configs: Tensor, sublattice_signs: Tensor | None) -> dict[str, Tensor]:
    """Values for configs (U, N) bool, (U,) float64 each.

    excitation_fraction: (1/N) sum n_i; magnetisation: m = (1/N) sum sigma^z_i, with
    abs_magnetisation |m| and squared_magnetisation m^2; and with signs (N,) of +-1
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
