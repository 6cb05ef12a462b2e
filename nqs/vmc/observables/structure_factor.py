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

from nqs.vmc.observables.measure import Connections, Measurement
from nqs.vmc.ranks import ALONE, Ranks
from nqs.vmc.statistics import Estimate
from nqs.wavefunctions.wavefunction import Samples

LAUNCH_NUMBERS = 2**21
"""Values of A held at a time."""


@final
class StructureFactor(Measurement):
    """Sums over a stream of draws.

    Args:
        momenta: k points (..., d).
        positions: r_i (N, d).
        ranks: who else adds draws, at least once each.
    """

    def __init__(
        self,
        momenta: Tensor,
        positions: Tensor,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.momenta, self.n_sites = momenta, len(positions)
        phases = positions @ momenta.flatten(0, -2).T  # (N, M)
        self.waves = torch.cat([phases.cos(), phases.sin()], dim=1).to(device)  # (N, 2 M)
        self.n = 0
        self.reference: Tensor | None = None  # c, (N,)
        n_momenta = phases.shape[1]
        self.first = phases.new_zeros(3, n_momenta, device=device)
        self.second = phases.new_zeros(3, 3, n_momenta, device=device)

    def add(self, samples: Samples, connections: Connections) -> None:
        """See Measurement.add."""
        bits, counts = samples.configs.to(torch.float64), samples.counts.to(torch.float64)
        if self.reference is None:
            self.reference = self.ranks.broadcast(samples.weights @ bits)
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
        """See Measurement.join."""
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

    def coordinates(self) -> dict[str, Tensor]:
        """The k points."""
        return {"structure_factor": self.momenta}
