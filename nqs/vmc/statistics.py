"""Weighted means, standard errors and the V-score, accumulated in float64.

For n independent draws with values x: mean = sum_s w_s x_s, variance = sum_s w_s |x_s - mean|^2,
standard error = sqrt(variance / (n - 1)). Distinct configurations with counts give the same numbers
as the draws written out one by one.

Local energies of a complex psi are complex, with a mean that is real up to sampling noise: the
energy and its error come from the real parts; the variance <|E_loc - E|^2> counts both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from nqs.vmc.ranks import Ranks
from nqs.wavefunctions.wavefunction import Samples


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error; scalars or arrays of one shape, float64."""

    value: Tensor
    error: Tensor


class RunningMoments:
    """Mean and variance of a stream of weighted values (Chan, Golub & LeVeque 1979).

    `add` takes values (U, ...) drawn counts (U,) times each; chunk boundaries do not matter.
    Complex values (U, ...) count as pairs of real and imaginary part (U, ..., 2).
    """

    def __init__(self) -> None:
        self.n = 0.0
        self.mean: Tensor | None = None
        self.squares: Tensor | None = None  # sum of count * |x - mean|^2

    def add(self, values: Tensor, counts: Tensor) -> Self:
        if values.is_complex():
            values = torch.view_as_real(values)
        values = values.to(torch.float64)
        counts = counts.to(torch.float64)
        n = float(counts.sum())
        mean = torch.tensordot(counts, values, dims=1) / n
        squares = torch.tensordot(counts, (values - mean).square(), dims=1)
        if self.mean is None or self.squares is None:
            self.n, self.mean, self.squares = n, mean, squares
            return self
        total, shift = self.n + n, mean - self.mean
        self.squares = self.squares + squares + shift.square() * (self.n * n / total)
        self.mean = self.mean + shift * (n / total)
        self.n = total
        return self

    def join(self, ranks: Ranks) -> None:
        """The moments of all ranks' values together, on each of them; every rank has some."""
        assert self.mean is not None and self.squares is not None
        own = self.mean[None]
        counts = ranks.gathered(own.new_tensor([self.n]))  # (W,)
        means, squares = ranks.gathered(own), ranks.gathered(self.squares[None])  # (W, ...)
        self.n, self.mean = float(counts.sum()), joined_mean(counts, means)
        shifts = torch.tensordot(counts, (means - self.mean).square(), dims=1)
        self.squares = squares.sum(0) + shifts

    def estimate(self) -> Estimate:
        """Mean and standard error; the error of a single draw is NaN."""
        assert self.mean is not None and self.squares is not None
        freedom = self.n - 1 if self.n > 1 else math.nan
        return Estimate(self.mean, (self.squares / (self.n * freedom)).sqrt())

    @property
    def variance(self) -> Tensor:
        """Mean squared deviation."""
        assert self.squares is not None
        return self.squares / self.n


def joined_mean(weights: Tensor, means: Tensor) -> Tensor:
    """Mean of parts with weights (W,) and means (W, ...) of their own, exactly that of one part."""
    return means[0] + torch.tensordot(weights / weights.sum(), means - means[0], dims=1)


@dataclass(frozen=True)
class EnergyStatistics:
    """Energy of a state from its local energies, in the Hamiltonian's units.

    Attributes:
        energy: <H>, total.
        energy_error: standard error of the mean.
        variance: Var(H) = |H psi - E psi|^2, zero for an eigenstate.
        v_score: N Var(H) / (E - E_inf)^2 (Wu et al., Science 386, 296 (2024)).
        n_samples: number of draws.
        variance_outside: the part of the variance in configurations that the state does not visit,
            seen by flips of the draws (nqs.vmc.residual); contained in variance and energy_error.
    """

    energy: float
    energy_error: float
    variance: float
    v_score: float
    n_samples: int
    variance_outside: float


def mean_and_error(values: Tensor, samples: Samples) -> tuple[float, float]:
    """Of real values (U,) of the samples; the standard error is that of `sample_statistics`."""
    weights, counts = samples.weights, samples.counts
    mean = weights @ values
    squared = weights @ (weights / counts * (values - mean).square())
    value, squared_error, n = torch.stack([mean, squared, counts.sum().to(mean)]).tolist()
    return value, math.sqrt(squared_error * n / max(n - 1, 1))


def sample_statistics(
    local_energies: Tensor,
    samples: Samples,
    n_sites: int,
    infinite_temperature_energy: float,
    noise: Tensor | None = None,
    outside: float = 0.0,
) -> EnergyStatistics:
    """Statistics of one batch, weighted by counts and importance.

    Standard error of the self-normalised mean: sqrt(sum_s counts_s r_s^2 |E_s - E|^2) / sum_s
    counts_s r_s with importance r (and n - 1 for n, so that r = 1 is the usual error); for complex
    E_s the real parts.

    noise (U,): variance of each row's energy, if it is itself an unbiased estimate (see
    energies.near_flips). The error contains it, once for the draws that share a row; the variance
    and the V-score do not: noise is taken off, and with few samples may leave less than nothing.

    outside: the part of the variance in rows whose weight is 0; see nqs.vmc.energies.estimates.
    """
    weights = samples.weights
    energy = weights @ local_energies.real
    deviations = (local_energies.real - energy).square()
    each = weights / samples.counts  # weight of a single draw
    n = samples.n_samples
    squared_error = weights @ (each * deviations) * (n / max(n - 1, 1))
    variance = weights @ deviations
    if local_energies.is_complex():
        variance = variance + weights @ local_energies.imag.square()
    if noise is not None:
        squared_error = squared_error + weights @ ((weights - each) * noise)
        variance = variance - weights @ noise
    squared_error = squared_error + outside / max(n - 1, 1)
    return checked_statistics(
        float(energy),
        float(squared_error.sqrt()),
        float(variance) + outside,
        n,
        n_sites,
        infinite_temperature_energy,
        outside,
    )


def energy_statistics(
    moments: RunningMoments, n_sites: int, infinite_temperature_energy: float
) -> EnergyStatistics:
    """Statistics of accumulated local energies. FloatingPointError if they are not finite."""
    estimate = moments.estimate()
    value, error = estimate.value.reshape(-1), estimate.error.reshape(-1)  # (1,); complex: (2,)
    variance = moments.variance.sum() + value[1:].square().sum()  # <Im^2> = Var Im + (mean Im)^2
    return checked_statistics(
        float(value[0]),
        float(error[0]),
        float(variance),
        int(moments.n),
        n_sites,
        infinite_temperature_energy,
    )


def checked_statistics(
    energy: float,
    error: float,
    variance: float,
    n_samples: int,
    n_sites: int,
    infinite_temperature_energy: float,
    outside: float = 0.0,
) -> EnergyStatistics:
    """With the V-score. Raises FloatingPointError unless energy and variance are finite."""
    if not (math.isfinite(energy) and math.isfinite(variance)):
        raise FloatingPointError(f"the energy is not finite (mean {energy}, variance {variance})")
    square = (energy - infinite_temperature_energy) ** 2
    v_score = n_sites * variance / square if square else math.inf if variance else 0.0
    return EnergyStatistics(energy, error, variance, v_score, n_samples, outside)
