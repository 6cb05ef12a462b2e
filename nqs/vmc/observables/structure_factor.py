"""Structure factor S(k) = (1/N) <|sum_i exp(i k r_i) (n_i - <n_i>)|^2> from draws of |psi|^2.

With A = sum_i exp(i k r_i) (n_i - c_i) for any constants c, N S = <|A|^2> - |<A>|^2. c is the mean
of the first draws (rank 0's), so that <A> is small and nothing cancels. The error bar by the delta
method: S changes by the mean of |A|^2 - 2 Re (<A>* A), whose variance follows from the covariance
of (|A|^2, Re A, Im A).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from nqs.vmc.observables.momenta import momentum_grid
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

LAUNCH_NUMBERS = 2**21
"""Values of A held at a time."""


@final
class StructureFactor(Observable, kind="structure_factor"):
    """Sums over a stream of draws, for the k points (..., d) of `momentum_grid`."""

    quantities = (
        Quantity(
            "structure_factor",
            "1",
            "(1/N) <|sum_i exp(i k r_i) (n_i - <n_i>)|^2>",
            Picture("momenta", "S"),
        ),
    )

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        assert request.lattice is not None
        positions, device = request.lattice.positions, request.hamiltonian.flips.device
        self.momenta = momenta = momentum_grid(request.lattice)
        self.n_sites = len(positions)
        phases = positions @ momenta.flatten(0, -2).T  # (N, M)
        self.waves = torch.cat([phases.cos(), phases.sin()], dim=1).to(device)  # (N, 2 M)
        self.n = 0
        self.reference: Tensor | None = None  # c, (N,)
        n_momenta = phases.shape[1]
        self.first = phases.new_zeros(3, n_momenta, device=device)
        self.second = phases.new_zeros(3, 3, n_momenta, device=device)

    @classmethod
    def applies(cls, request: Request) -> bool:
        """Where the sites have positions."""
        return request.lattice is not None

    def add(self, samples: Samples, connections: Connections) -> None:
        bits, counts = samples.configs.to(torch.float64), samples.counts.to(torch.float64)
        if self.reference is None:
            self.reference = self.request.ranks.broadcast(samples.weights @ bits)
        rows = max(1, LAUNCH_NUMBERS // self.first.shape[1])
        deviations = bits - self.reference  # (U, N)
        for part, drawn in zip(deviations.split(rows), counts.split(rows), strict=True):
            real, imag = (part @ self.waves).chunk(2, dim=1)  # (u, M) each
            values = (real.square() + imag.square(), real, imag)
            for i, x in enumerate(values):
                self.first[i] += drawn @ x
                for j, y in enumerate(values[: i + 1]):
                    self.second[i, j] += drawn @ (x * y)
        self.n += samples.n_samples

    def join(self, ranks: Ranks) -> None:
        self.first, self.second = ranks.sum(self.first), ranks.sum(self.second)
        self.n = int(ranks.sum(torch.tensor(self.n, device=self.first.device)))

    def estimates(self) -> dict[str, Estimate]:
        """structure_factor (...)."""
        mean = self.first / self.n  # (3, M)
        covariance = self.second / self.n - mean[:, None] * mean[None]  # where j <= i
        slope = torch.stack([torch.ones_like(mean[0]), -2 * mean[1], -2 * mean[2]])  # (3, M)
        variance = torch.zeros_like(mean[0])
        for i in range(3):
            for j in range(i + 1):
                variance += (1 if i == j else 2) * slope[i] * slope[j] * covariance[i, j]
        freedom = self.n - 1
        value = (mean[0] - mean[1].square() - mean[2].square()) * (self.n / freedom)
        error = (variance.clamp(min=0) / freedom).sqrt()
        shape = self.momenta.shape[:-1]
        scaled = ((x / self.n_sites).view(shape) for x in (value, error))
        return {"structure_factor": Estimate(*scaled)}

    def expectation(self, configs: Tensor, amplitudes: Tensor) -> dict[str, Tensor]:
        """(1/N) sum_s |psi(s)|^2 |sum_i exp(i k r_i) (n_i - <n_i>)|^2."""
        weights, bits = amplitudes.abs().square().to(torch.float64), configs.to(torch.float64)
        real, imag = ((bits - weights @ bits) @ self.waves.to(bits)).chunk(2, dim=1)  # (M, K) each
        value = weights @ (real.square() + imag.square()) / self.n_sites
        return {"structure_factor": value.view(self.momenta.shape[:-1])}

    def coordinates(self) -> dict[str, Tensor]:
        """The k points."""
        return {"structure_factor": self.momenta}
