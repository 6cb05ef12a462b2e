"""Averages over |psi|^2 of values that each configuration has by itself."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from nqs.vmc.observables.observable import Connections, Observable, Request
from nqs.vmc.ranks import Ranks
from nqs.vmc.statistics import Estimate, RunningMoments
from nqs.wavefunctions.wavefunction import Samples


class Diagonal(Observable):
    """Running means of `values`; a class says these and its quantities."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.moments: dict[str, RunningMoments] = {}

    @abstractmethod
    def values(self, configs: Tensor) -> dict[str, Tensor]:
        """The values (U, ...) of each quantity for configs (U, N) bool."""

    def add(self, samples: Samples, connections: Connections) -> None:
        for name, value in self.values(samples.configs).items():
            self.moments.setdefault(name, RunningMoments()).add(value, samples.counts)

    def join(self, ranks: Ranks) -> None:
        for moments in self.moments.values():
            moments.join(ranks)

    def estimates(self) -> dict[str, Estimate]:
        return {name: moments.estimate() for name, moments in self.moments.items()}

    def expectation(self, configs: Tensor, amplitudes: Tensor) -> dict[str, Tensor]:
        """sum_s |psi(s)|^2 values(s)."""
        weights = amplitudes.abs().square().to(torch.float64)
        return {
            name: torch.tensordot(weights, value.to(torch.float64), dims=1)
            for name, value in self.values(configs).items()
        }
