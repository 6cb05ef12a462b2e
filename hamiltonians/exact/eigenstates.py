"""The lowest levels of a Hamiltonian, its ground state and what is measured in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamiltonians.exact.configurations import chunks
from hamiltonians.exact.matrix import Array


@dataclass(frozen=True, repr=False)
class GroundState:
    """The lowest eigenstates of a Hamiltonian on n_sites sites.

    Attributes:
        n_sites: N.
        energies: (k,) float64, lowest first, each as often as it is degenerate.
        state: (D,) float64 or complex128, the ground state, norm 1; its largest amplitude is
            positive. Where the ground level is degenerate it is one of its states. D = 2^N, or
            C(N, n_up) in the order of `sector_basis`. Where sites are rotated it is that of U H U.
        n_up: number of 1 bits of every configuration, None: all configurations.
        x_signs: (N,) signs of sx in the basis of the state (`Hamiltonian.x_signs`).
        residual: |H psi - E psi| of the ground state, as computed.
        energy_error: how far the energy may be from a level of H: the residual r, r^2 / (gap - r)
            where there is a second level and that is less; and what rounding adds.
    """

    n_sites: int
    energies: NDArray[np.float64]
    state: Array
    n_up: int | None = None
    x_signs: NDArray[np.float64] | float = 1.0
    residual: float = math.nan
    energy_error: float = math.nan

    def __repr__(self) -> str:
        sector = "" if self.n_up is None else f", {self.n_up} up"
        gap = "" if len(self.energies) < 2 else f", gap {self.gap:.6g}"
        error = f" (error below {self.energy_error:.1g})" if self.energy_error >= 0 else ""
        return f"GroundState({self.n_sites} sites{sector}, E = {self.energy:.12g}{error}{gap})"

    @property
    def energy(self) -> float:
        """Ground-state energy."""
        return float(self.energies[0])

    @property
    def gap(self) -> float:
        """E_1 - E_0; nan if only one level was asked for."""
        return float(self.energies[1] - self.energies[0]) if len(self.energies) > 1 else math.nan

    def probabilities(self) -> NDArray[np.float64]:
        """(D,) |psi(s)|^2."""
        return np.abs(self.state) ** 2

    def expectation_diagonal(self, f: Callable[[Tensor], Tensor]) -> NDArray[np.float64]:
        """sum_s |psi(s)|^2 f(s) for f of configs (B, N) bool -> (B,) or (B, ...)."""
        total: NDArray[np.float64] | float = 0.0
        for start, configs in chunks(self.n_sites, self.n_up):
            weights = np.abs(self.state[start : start + len(configs)]) ** 2  # (B,)
            total = total + np.tensordot(weights, f(configs).to(torch.float64).numpy(), axes=1)
        return np.asarray(total)

    def density(self) -> NDArray[np.float64]:
        """(N,) <n_i>, the probability of bit 1 (the excited atom)."""
        return self.expectation_diagonal(lambda configs: configs)

    def sigma_z(self) -> NDArray[np.float64]:
        """(N,) <sz_i> = 1 - 2 <n_i>."""
        return 1 - 2 * self.density()

    def sigma_x(self) -> NDArray[np.float64]:
        """(N,) <sx_i> = +-2 Re sum over s with s_i = 0 of psi*(s) psi(s with s_i = 1).

        - where site i is rotated; 0 where n_up is fixed.
        """
        values = np.zeros(self.n_sites)
        if self.n_up is not None:
            return values
        for i in range(self.n_sites):
            halves = self.state.reshape(2**i, 2, -1)  # (2^i, 2, 2^(N-1-i))
            values[i] = 2 * np.sum(halves[:, 0].conj() * halves[:, 1]).real
        return values * self.x_signs

    def correlation(self) -> NDArray[np.float64]:
        """(N, N) <sz_i sz_j>; connected: subtract the outer product of sigma_z with itself."""
        total = np.zeros((self.n_sites, self.n_sites))
        for start, configs in chunks(self.n_sites, self.n_up):
            spins = 1 - 2 * configs.to(torch.float64).numpy()  # (B, N)
            weights = np.abs(self.state[start : start + len(configs)]) ** 2  # (B,)
            total += spins.T @ (weights[:, None] * spins)
        return total

    def density_density(self) -> NDArray[np.float64]:
        """(N, N) <n_i n_j>; the diagonal is <n_i>."""
        density = self.density()
        pairs = self.correlation() - 1 + 2 * (density[:, None] + density)  # 4 <n_i n_j>
        return pairs / 4

    def magnetization(self, signs: Tensor | None = None) -> float:
        """<|sum_i signs_i sz_i|> / N; signs (N,) default to +1.

        With lattice.sublattice_signs() it is the staggered magnetisation. The absolute value keeps
        it finite where the ground state is the even superposition of the two ordered states.
        """
        pattern = torch.ones(self.n_sites) if signs is None else signs
        pattern = pattern.to(torch.float64) / self.n_sites  # (N,)
        order = self.expectation_diagonal(lambda s: ((1 - 2 * s.to(torch.float64)) @ pattern).abs())
        return float(order)
