"""One run of one program: optimise on the clock, measure off it, at geometrically spaced times."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from benchmarks.accuracy import Point, Result
from benchmarks.measurement import Measure
from benchmarks.programs import Program


class Race:
    """Runs `program` until the last of `times` (seconds) or its own end.

    The clock starts before `program.start` and runs only while the program works; a time that
    passes within a step is measured after that step. `said` is called with each point.
    """

    def __init__(
        self,
        program: Program,
        measure: Measure,
        times: Sequence[float],
        *,
        labels: tuple[str, str, int],
        said: Callable[[Point], None] = lambda point: None,
    ) -> None:
        self.program, self.measure, self.times = program, measure, times
        self.labels, self.said = labels, said
        self.seconds = self.setup_seconds = 0.0
        self.points: list[Point] = []

    def run(self) -> Result:
        """Never raises for a program that fails: what it reached before is kept."""
        try:
            self._timed(self._set_up)
            self.setup_seconds = self.seconds
            ended = self._optimise()
            if self.points[-1].relative_error_bar > 0:
                self._record()  # a last point nothing follows is confirmed by a second measurement
        except (ArithmeticError, RuntimeError, MemoryError) as error:
            ended = f"failed: {' '.join(str(error).split())[:200]}"
            if not self.points:
                self._append(math.nan, math.nan, 0)
        return Result(
            tuple(self.points),
            self.program.n_parameters,
            ended,
            self.times[-1],
            self.setup_seconds,
        )

    def _set_up(self) -> None:
        self.program.start()
        self.program.step()

    def _optimise(self) -> str:
        for target in self.times:
            if self.program.finished:
                break
            if self.seconds < target:
                self._timed(lambda until=target - self.seconds: self._advance(until))
            elif self.points and self.points[-1].seconds == self.seconds:
                continue  # this time passed within a step, whose state is measured already
            self._record()
        if not self.points:
            self._record()
        return "finished" if self.program.finished else "budget"

    def _advance(self, seconds: float) -> None:
        began = time.perf_counter()
        while time.perf_counter() - began < seconds and not self.program.finished:
            self.program.step()

    def _timed(self, work: Callable[[], None]) -> None:
        began = time.perf_counter()
        try:
            work()
        finally:
            self.seconds += time.perf_counter() - began

    def _record(self) -> None:
        measured = self.measure(self.program)
        self._append(measured.energy, measured.energy_error, measured.n_samples)

    def _append(self, energy: float, error: float, measured_with: int) -> None:
        reference, program = self.measure.reference, self.program
        point = Point(
            *self.labels,
            seconds=self.seconds,
            steps=program.steps,
            samples=program.steps * program.samples_per_step,
            energy=energy,
            energy_error=error,
            relative_error=(energy - reference) / abs(reference),
            relative_error_bar=error / abs(reference),
            measured_with=measured_with,
        )
        self.points.append(point)
        self.said(point)
