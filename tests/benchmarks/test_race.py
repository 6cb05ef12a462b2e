"""The clock of the race: what is on it, what is off it, and programs that end or fail."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import Tensor

from benchmarks.measurement import Measure
from benchmarks.programs import Program
from benchmarks.race import Race
from hamiltonians import TransverseFieldIsing
from hamiltonians.exact import ground_state
from hamiltonians.lattices.lattice import Chain

H = TransverseFieldIsing(Chain(4), J=1.0, h=1.0)
EXACT = ground_state(H, k=1)


class Still(Program):
    """Sleeps `pause` seconds a step and is always in the ground state."""

    samples_per_step = 7
    n_parameters = 3

    def __init__(self, pause: float, last: int | None = None, fails_at: int | None = None) -> None:
        self.pause, self.last, self.fails_at = pause, last, fails_at

    def start(self) -> None:
        time.sleep(self.pause)

    def step(self) -> None:
        if self.steps == self.fails_at:
            raise FloatingPointError("the energy is\nnot finite")
        time.sleep(self.pause)
        self.steps += 1

    @property
    def finished(self) -> bool:
        return self.steps == self.last

    def log_psi(self, configs: Tensor) -> Tensor:
        time.sleep(0.2)  # measuring is slow, and off the clock
        return torch.from_numpy(EXACT.state.copy()).log() + 2000  # any factor will do

    def sampled_energy(self, n_samples: int) -> tuple[float, float]:
        return EXACT.energy + 0.1, 1.0 / n_samples**0.5


def race(program: Program, times: list[float]) -> Race:
    measure = Measure(H, EXACT.energy, 1_000)
    return Race(program, measure, times, labels=("chain", "still", 5))


def test_the_clock_stands_still_while_measuring() -> None:
    result = race(Still(0.01), [0.05, 0.1, 0.2]).run()
    assert result.ended == "budget"
    assert [p.seconds for p in result.points] == pytest.approx([0.05, 0.1, 0.2], abs=0.045)
    assert result.setup_seconds == pytest.approx(0.02, abs=0.02)
    assert result.last.samples == 7 * result.last.steps
    assert abs(result.last.relative_error) < 1e-12
    assert (result.last.problem, result.last.program, result.last.seed) == ("chain", "still", 5)


def test_times_that_pass_within_a_step_are_measured_once() -> None:
    result = race(Still(0.1), [0.05, 0.1, 0.15, 0.25]).run()
    assert [p.steps for p in result.points] == [1, 2]


def test_a_program_ends_by_its_own_plan() -> None:
    result = race(Still(0.01, last=5), [0.01, 60.0]).run()
    assert result.ended == "finished"
    assert result.last.steps == 5


def test_failure_keeps_what_was_measured() -> None:
    result = race(Still(0.02, fails_at=3), [0.03, 60.0]).run()
    assert result.ended == "failed: the energy is not finite"
    assert [p.steps for p in result.points] == [1]
    broken = race(Still(0.0, fails_at=0), [1.0]).run()
    assert broken.ended.startswith("failed") and math.isnan(broken.last.relative_error)


def test_beyond_enumeration_the_last_state_is_measured_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.measurement.ENUMERATED_SITES", 3)
    result = race(Still(0.01), [0.05]).run()
    assert [p.seconds for p in result.points] == [result.last.seconds] * 2
    assert result.last.relative_error == pytest.approx(0.1 / abs(EXACT.energy))


@pytest.mark.parametrize(
    ("error", "most", "expected"),
    [
        (1.0 / 2_048**0.5, 10**6, 2_500),  # a fifth of 0.1: 1 / sqrt(n) = 0.02
        (1.0 / 2_048**0.5, 2_200, 2_200),
        (1e-9, 10**6, 2_048),
        (math.nan, 10**6, 2_048),
    ],
)
def test_samples_follow_the_accuracy(
    monkeypatch: pytest.MonkeyPatch, error: float, most: int, expected: int
) -> None:
    monkeypatch.setattr("benchmarks.measurement.ENUMERATED_SITES", 3)
    program = Still(0.0)
    monkeypatch.setattr(program, "sampled_energy", lambda n: (EXACT.energy + 0.1, error))
    measured = Measure(H, EXACT.energy, most)(program)
    assert measured.n_samples == pytest.approx(expected, abs=1)
    assert measured.energy == EXACT.energy + 0.1
