"""Weighted means and error bars: numpy on the draws written out is the oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from nqs.vmc.statistics import RunningMoments, energy_statistics


def written_out(values: Tensor, counts: Tensor) -> np.ndarray:
    return np.repeat(values.numpy(), counts.numpy(), axis=0)


@given(
    counts=st.lists(st.integers(1, 20), min_size=2, max_size=12),
    cut=st.integers(0, 12),
    shape=st.sampled_from([(), (3,), (2, 2)]),
    seed=st.integers(0, 1_000),
)
def test_numpy_agrees(counts: list[int], cut: int, shape: tuple[int, ...], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(counts), *shape, generator=generator, dtype=torch.float64)
    numbers = torch.tensor(counts)
    moments = RunningMoments()
    for part in (slice(0, cut), slice(cut, None)):  # any two chunks are one
        if len(numbers[part]):
            moments.add(values[part], numbers[part])
    draws = written_out(values, numbers)
    n = len(draws)
    assert moments.n == n
    estimate = moments.estimate()
    exact = {"rtol": 1e-12, "atol": 1e-13}
    assert_close(estimate.value, torch.as_tensor(draws.mean(0)), **exact)
    assert_close(moments.variance, torch.as_tensor(draws.var(0)), **exact)
    error = draws.std(0, ddof=1) / math.sqrt(n)
    assert_close(estimate.error, torch.as_tensor(error), **exact)


def test_small_scatter_on_a_large_mean() -> None:
    """No cancellation: one part in 1e8, in chunks; and float32 values are summed in float64."""
    generator = torch.Generator().manual_seed(0)
    values = 1e8 + torch.randn(10_000, generator=generator, dtype=torch.float64)
    moments = RunningMoments()
    for part in values.split(100):
        moments.add(part, torch.ones(len(part), dtype=torch.int64))
    assert float(moments.variance) == pytest.approx(float(values.var(correction=0)), rel=1e-7)
    third = RunningMoments().add(torch.full((7,), 1 / 3), torch.full((7,), 10**8))
    assert third.estimate().value.dtype == torch.float64
    assert float(third.estimate().value) == pytest.approx(float(torch.tensor(1 / 3)), rel=1e-15)


def test_energy_statistics() -> None:
    """V-score = N Var / (E - E_inf)^2 with the infinite-temperature energy, which is not 0 here."""
    values, counts = torch.tensor([-3.0, -1.0, -2.0]), torch.tensor([2, 1, 5])
    draws = written_out(values.double(), counts)
    statistics = energy_statistics(RunningMoments().add(values, counts), 6, 1.5)
    assert statistics.energy == pytest.approx(draws.mean(), rel=1e-14)
    assert statistics.variance == pytest.approx(draws.var(), rel=1e-14)
    assert statistics.energy_error == pytest.approx(draws.std(ddof=1) / math.sqrt(8), rel=1e-14)
    assert statistics.v_score == pytest.approx(
        6 * draws.var() / (draws.mean() - 1.5) ** 2, rel=1e-14
    )
    assert statistics.n_samples == 8


def test_degenerate_cases() -> None:
    single = RunningMoments().add(torch.tensor([2.0]), torch.tensor([1]))
    assert float(single.estimate().value) == 2 and math.isnan(float(single.estimate().error))
    two = RunningMoments().add(torch.tensor([0.0, 2.0]), torch.tensor([2, 2]))
    assert energy_statistics(two, 4, 1.0).v_score == math.inf
    at_infinity = energy_statistics(
        RunningMoments().add(torch.ones(2), torch.tensor([1, 3])), 4, 1.0
    )
    assert at_infinity.v_score == 0.0  # an eigenstate all the same
    constant = energy_statistics(RunningMoments().add(torch.ones(2), torch.tensor([1, 3])), 4, 0.0)
    assert (constant.energy_error, constant.variance, constant.v_score) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_energies_that_are_not_finite_are_refused(bad: float) -> None:
    moments = RunningMoments().add(torch.tensor([1.0, bad]), torch.tensor([3, 1]))
    with pytest.raises(FloatingPointError, match="the energy is not finite"):
        energy_statistics(moments, 4, 0.0)
