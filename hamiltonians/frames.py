"""An operator in the frame of a state: which sites are rotated is the state's choice, not its own.

A state of U H U, U = product of sz_i over its rotated sites, is measured with U A U; an operator
that has chosen V A V for itself therefore needs each flip pattern times -1 for every flipped site
that one of U and V rotates and the other does not. Diagonals are the same in every frame.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian


@final
class InFrame(Hamiltonian):
    """operator with the sites `rotated` (N,) bool rotated, and no others.

    Its own `rotated` says so; all other answers are those of its matrix elements.
    """

    def __init__(self, operator: Hamiltonian, rotated: Tensor) -> None:
        self.operator, self.lattice, self.n_sites = operator, operator.lattice, operator.n_sites
        self.flips, self.rotated = operator.flips, rotated.to(operator.flips.device)
        turned = (self.flips & (self.rotated ^ operator.rotated)).sum(1)  # (G,)
        self._signs = 1.0 - 2.0 * (turned % 2).to(torch.float64)

    def diagonal(self, configs: Tensor) -> Tensor:
        return self.operator.diagonal(configs)

    def off_diagonal(self, configs: Tensor) -> Tensor:
        return self.operator.off_diagonal(configs) * self._signs  # (B, G)

    @property
    def infinite_temperature_energy(self) -> float:
        return self.operator.infinite_temperature_energy

    def describe(self) -> str:
        return self.operator.describe()
