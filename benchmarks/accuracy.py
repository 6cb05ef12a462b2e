"""From measured points to seconds per accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

TARGETS = {"1e-2": 1e-2, "1e-3": 1e-3, "1e-4": 1e-4}
"""Relative errors that the seconds are given for, as they are written."""


@dataclass(frozen=True)
class Point:
    """A state on the way.

    Attributes:
        seconds: of optimisation up to here, compilation included.
        samples: configurations drawn for it.
        energy, energy_error: measured, totals; the error is 0 where the basis was summed over.
        relative_error: (energy - reference) / |reference|.
        relative_error_bar: energy_error / |reference|.
        measured_with: fresh samples of the measurement, 0 for the sum over the basis.
    """

    problem: str
    program: str
    seed: int
    seconds: float
    steps: int
    samples: int
    energy: float
    energy_error: float
    relative_error: float
    relative_error_bar: float
    measured_with: int

    def reaches(self, target: float) -> bool:
        """One error bar above the measured distance is still below the target. An energy below
        the reference counts by its distance: a broken estimate is no success."""
        return abs(self.relative_error) + self.relative_error_bar < target


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        ended: "budget", "finished" (the program's own plan) or "failed: why".
        budget: seconds it was given.
        setup_seconds: of `seconds`, those before and with the first step (compilation).
    """

    points: tuple[Point, ...]
    n_parameters: int
    ended: str
    budget: float
    setup_seconds: float

    @property
    def last(self) -> Point:
        return self.points[-1]

    @property
    def samples_per_second(self) -> float:
        """Over the whole run, compilation included."""
        return self.last.samples / self.last.seconds

    def seconds_to(self, target: float) -> float | None:
        """See the function of this name."""
        return seconds_to(self.points, target)


def evaluation_times(budget: float, spacing: float) -> list[float]:
    """1, spacing, spacing^2, ... seconds, and the budget itself as the last."""
    times = [1.0]
    while times[-1] * spacing < budget * (1 - 1e-9):
        times.append(times[-1] * spacing)
    return [*(time for time in times if time < budget), budget]


def seconds_to(points: Sequence[Point], target: float) -> float | None:
    """Seconds at the first point that reaches the target and whose successor reaches it too.

    The last point stands alone only if it has no error bar (the race measures the last state
    twice otherwise). None if the target was not reached.
    """
    for index, point in enumerate(points):
        if not point.reaches(target):
            continue
        if index + 1 < len(points):
            confirmed = points[index + 1].reaches(target)
        else:
            confirmed = point.relative_error_bar == 0
        if confirmed:
            return point.seconds
    return None


def worst(values: Sequence[float | None]) -> float | None:
    """The slowest of several seeds; None if one did not arrive."""
    return None if None in values else max(v for v in values if v is not None)


def ratios(results: Sequence[Result], ours: str = "ours") -> list[str]:
    """A line for each problem, peer and target: how many times faster ours is, worst seed of each.

    Targets that ours does not reach are left out.
    """
    lines = []
    for problem in dict.fromkeys(result.last.problem for result in results):
        groups: dict[str, list[Result]] = {}
        for result in results:
            if result.last.problem == problem:
                groups.setdefault(result.last.program, []).append(result)
        for written, target in TARGETS.items():
            times = {name: worst([r.seconds_to(target) for r in g]) for name, g in groups.items()}
            own = times.pop(ours, None)
            if own is None:
                continue
            parts = [_factor(name, time, own, groups[name]) for name, time in times.items()]
            if parts:
                lines.append(f"{problem}, {written}: ours {own:.3g} s; {', '.join(parts)}")
    return lines


def _factor(name: str, time: float | None, own: float, group: list[Result]) -> str:
    if time is not None:
        return f"{name} {time:.3g} s ({time / own:.1f} times slower)"
    spent = min(result.last.seconds for result in group)
    if not math.isfinite(spent) or spent <= own:
        return f"{name} not reached"
    return f"{name} not in {spent:.3g} s (more than {spent / own:.1f} times slower)"
