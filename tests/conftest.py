"""What the whole suite shares: reproducible hypothesis, seeded generators, devices, the chi-square
law, signals as a terminal leaves them, runs without pictures."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from pictures import without_pictures
from scipy.stats import chi2
from simulated_accelerator import Accelerator, simulated_accelerator

settings.register_profile(
    "suite",
    derandomize=True,  # the same examples in every run
    deadline=None,  # machines differ
    database=None,  # leaves no folder behind
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")

# A background job or nohup has these ignored, and processes started by the tests inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


FALSE_ALARM = 1e-6
"""Chance that a chi-square test below rejects a correct sampler, per test and choice of seed."""


@pytest.fixture(scope="session", autouse=True)
def _without_pictures() -> Iterator[None]:
    """Except in tests that ask for them by `with_pictures`."""
    with without_pictures():
        yield


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20241)


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """The simulated accelerator, with its counts."""
    with simulated_accelerator() as simulated:
        yield simulated


@pytest.fixture(params=["cpu", "simulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where a law must hold: the CPU, the simulated accelerator, a GPU with -m gpu."""
    if request.param == "simulated":
        accelerator: Accelerator = request.getfixturevalue("accelerator")
        return accelerator.device
    return torch.device(request.param)


@pytest.fixture(scope="session")
def assert_distribution() -> Callable[[torch.Tensor, torch.Tensor], None]:
    """assert_distribution(counts (C,), probabilities (C,)): Pearson's chi-square.

    Cells expected less than 10 times are pooled, likely with likely, into groups of 10 or more;
    cells of probability 0 must be empty. A correct sampler is rejected with chance FALSE_ALARM.
    """

    def check(counts: torch.Tensor, probabilities: torch.Tensor) -> None:
        seen = counts.to(torch.float64).numpy()
        p = probabilities.to(torch.float64).numpy()
        assert abs(p.sum() - 1) < 1e-6
        assert not seen[p == 0].any(), "an outcome of probability zero was drawn"
        expected = seen.sum() * p / p.sum()
        order = np.argsort(-expected)
        seen, expected = seen[order], expected[order]
        groups = np.arange(len(expected))
        likely = int((expected >= 10).sum())
        below = expected[likely:].cumsum()  # cut where it passes 20, 40, ..: groups of 10 to 30
        last = max(below.max(initial=0) // 20 - 1, 0)  # the incomplete one joins its neighbour
        groups[likely:] = likely + np.minimum(below // 20, last)
        seen, expected = np.bincount(groups, seen), np.bincount(groups, expected)
        seen, expected = seen[expected > 0], expected[expected > 0]
        assert len(seen) > 1, "too few draws: this test could not fail"
        statistic = ((seen - expected) ** 2 / expected).sum()
        assert chi2.sf(statistic, len(seen) - 1) > FALSE_ALARM

    return check
