"""Densities and two-point correlators of all pairs of sites, from draws of |psi|^2.

    density            m_i = <n_i>
    density_density    D_ij = <n_i n_j>, with D_ii = m_i
    connected          C_ij = D_ij - m_i m_j

n_i n_j is 0 or 1, so their sums over the draws hold everything, error bars included: memory is
N^2 numbers however many draws there are.

Error bars. m and D are chances. A pair within the blockade radius is often never seen, and 0 +- 0
would claim to know that it never happens; hence the standard deviation of the chance p given k of
n draws and a flat prior,

    error^2 = q (1 - q) / (n + 3),    q = (k + 1) / (n + 2)

which is p (1 - p) / n up to terms of relative order 1 / (n p) and 1 / n where k is 0. C by the
delta method: its change is the mean of (n_i - m_i) (n_j - m_j) - C_ij, so that

    error^2 = [<(n_i - m_i)^2 (n_j - m_j)^2> - C_ij^2] / n + [C_ij^2 + C_ii C_jj] / (n (n - 1))
    (n_i - m_i)^2 = (1 - 2 m_i) n_i + m_i^2

which the same sums give, covariance of m and D included. The second term makes it the exact
variance of a sample covariance; it counts where the first vanishes, as for C_ii at m_i = 1/2.
Its moments are those after two more draws in which each of 00, 01, 10, 11 came half a time, which
keeps an error bar where one of them was never seen (with m as with the flat prior above).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from nqs.vmc.observables.observable import (
    Connections,
    Observable,
    Picture,
    Quantity,
    Request,
)
from nqs.vmc.ranks import Ranks
from nqs.vmc.statistics import Estimate
from nqs.wavefunctions.wavefunction import Samples


@final
class Correlations(Observable, kind="correlations"):
    """Sums over a stream of draws, for N sites."""

    quantities = (
        Quantity(
            "density",
            "1",
            "<n_i>, chance of bit 1, (N,)",
            Picture("sites", r"$\langle n_i\rangle$"),
        ),
        Quantity("density_density", "1", "<n_i n_j>, (N, N)"),
        Quantity(
            "connected",
            "1",
            "<n_i n_j> - <n_i> <n_j>, (N, N)",
            Picture(
                "pairs",
                r"$\langle n_c n_j\rangle - \langle n_c\rangle\langle n_j\rangle$",
            ),
        ),
    )

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.n = 0
        self.sums: Tensor | None = None  # (N, N) float64, how often i and j were both 1

    def add(self, samples: Samples, connections: Connections) -> None:
        self.count(samples.configs, samples.counts)

    def count(self, configs: Tensor, counts: Tensor) -> None:
        """Draws (U, N) bool with counts (U,)."""
        bits = configs.to(torch.float64)  # (U, N)
        sums = bits.T @ (counts.to(torch.float64)[:, None] * bits)
        self.sums = sums if self.sums is None else self.sums + sums
        self.n += int(counts.sum())

    def join(self, ranks: Ranks) -> None:
        assert self.sums is not None
        self.sums = ranks.sum(self.sums)
        self.n = int(ranks.sum(torch.tensor(self.n, device=self.sums.device)))

    def estimates(self) -> dict[str, Estimate]:
        """density (N,), density_density (N, N), connected (N, N)."""
        assert self.sums is not None and self.n > 1
        pairs = Estimate(self.sums / self.n, _chance_error(self.sums, self.n))
        density = Estimate(pairs.value.diagonal().clone(), pairs.error.diagonal().clone())
        bessel = self.n / (self.n - 1)  # the mean of m_i m_j holds C_ij / n
        connected = bessel * (pairs.value - torch.outer(density.value, density.value))
        return {
            "density": density,
            "density_density": pairs,
            "connected": Estimate(connected, _connected_error(self.sums, self.n)),
        }

    def expectation(self, configs: Tensor, amplitudes: Tensor) -> dict[str, Tensor]:
        """Sums of |psi(s)|^2 over the configurations that hold the bits."""
        bits = configs.to(torch.float64)  # (M, N)
        pairs = bits.T @ (amplitudes.abs().square().to(torch.float64)[:, None] * bits)
        density = pairs.diagonal().clone()
        connected = pairs - torch.outer(density, density)
        return {"density": density, "density_density": pairs, "connected": connected}


def _chance_error(k: Tensor, n: int) -> Tensor:
    """Standard deviation of a chance after k of n, flat prior: Beta(k + 1, n - k + 1)."""
    q = (k + 1) / (n + 2)
    return (q * (1 - q) / (n + 3)).sqrt()


def _connected_error(sums: Tensor, n: int) -> Tensor:
    """(N, N), the formula at the head of this file."""
    pairs = (sums + 0.5) / (n + 2)
    m = (sums.diagonal() + 1) / (n + 2)
    pairs.diagonal().copy_(m)
    slope, square = 1 - 2 * m, m.square()  # (n_i - m_i)^2 = slope n_i + square
    cross = torch.outer(slope * m, square)
    fourth = torch.outer(slope, slope) * pairs + cross + cross.T + torch.outer(square, square)
    squared, own = (pairs - torch.outer(m, m)).square(), m * (1 - m)
    variance = (fourth - squared).clamp(min=0) / n
    return (variance + (squared + torch.outer(own, own)) / (n * (n - 1))).sqrt()
