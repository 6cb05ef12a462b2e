"""Seconds to an accuracy, on curves made up for it, and the files and the table made of them."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from benchmarks.accuracy import Point, Result, evaluation_times, ratios, seconds_to, worst
from benchmarks.accuracy_report import POINT_COLUMNS, SUMMARY_COLUMNS, save, table


def point(seconds: float, error: float, bar: float = 0.0, **labels: object) -> Point:
    defaults = {"problem": "4x4", "program": "ours", "seed": 0}
    return Point(
        **{**defaults, **labels},  # type: ignore[arg-type]
        seconds=seconds,
        steps=int(10 * seconds),
        samples=int(1000 * seconds),
        energy=-7.0 * (1 - error),
        energy_error=7 * bar,
        relative_error=error,
        relative_error_bar=bar,
        measured_with=0,
    )


def result(*pairs: tuple[float, float], bar: float = 0.0, **labels: object) -> Result:
    points = tuple(point(seconds, error, bar, **labels) for seconds, error in pairs)
    return Result(points, 99, "budget", 8.0, 0.25)


FALLING = result((1, 5e-2), (2, 8e-3), (4, 9e-4), (8, 2e-5))


@pytest.mark.parametrize(("target", "seconds"), [(1e-2, 2), (1e-3, 4), (1e-4, 8), (1e-5, None)])
def test_a_falling_curve(target: float, seconds: float | None) -> None:
    assert FALLING.seconds_to(target) == seconds


def test_a_dip_that_does_not_last_is_not_an_arrival() -> None:
    curve = result((1, 9e-3), (2, 2e-2), (4, 9e-3), (8, 8e-3))
    assert curve.seconds_to(1e-2) == 4


def test_what_comes_after_the_next_point_does_not_matter() -> None:
    curve = result((1, 9e-3), (2, 9e-3), (4, 5e-2))
    assert curve.seconds_to(1e-2) == 1


def test_one_error_bar_above_must_be_below() -> None:
    assert seconds_to([point(1, 9e-3, 2e-3), point(2, 9e-3, 5e-4), point(4, 9e-3)], 1e-2) == 2


def test_the_last_point_alone_counts_without_error_bar_only() -> None:
    assert seconds_to([point(1, 1e-1), point(2, 1e-3)], 1e-2) == 2
    assert seconds_to([point(1, 1e-1), point(2, 1e-3, 1e-4)], 1e-2) is None
    assert seconds_to([point(1, 1e-1), point(2, 1e-3, 1e-4), point(2, 2e-3, 1e-4)], 1e-2) == 2


def test_far_below_the_reference_and_not_a_number_are_no_success() -> None:
    assert seconds_to([point(1, -0.5), point(2, -0.5)], 1e-2) is None
    assert seconds_to([point(1, math.nan), point(2, math.nan)], 1e-2) is None


def test_worst_seed_is_the_slowest_and_none_if_one_fails() -> None:
    assert worst([1.0, 3.0, 2.0]) == 3.0
    assert worst([1.0, None]) is None


def test_times_are_geometric_and_end_with_the_budget() -> None:
    assert evaluation_times(9, 2) == [1, 2, 4, 8, 9]
    assert evaluation_times(8, 2) == [1, 2, 4, 8]
    assert evaluation_times(0.5, 2) == [0.5]
    assert evaluation_times(1, 2) == [1]


def several() -> list[Result]:
    slow = {"program": "netket-rbm"}
    return [
        FALLING,
        result((1, 5e-2), (3, 8e-3), (6, 5e-3), seed=1),
        result((1, 0.5), (6, 9e-3), (12, 5e-3), **slow),
        result((1, 0.5), (9, 9e-3), (12, 5e-3), seed=1, **slow),
        result((1, 0.5), (12, 0.1), program="older"),
        result((1, 0.5), (12, 0.1), problem="6x6", bar=1e-3),
    ]


def test_ratios_compare_the_worst_seeds() -> None:
    assert ratios(several()) == [
        "4x4, 1e-2: ours 3 s; netket-rbm 9 s (3.0 times slower), "
        "older not in 12 s (more than 4.0 times slower)"
    ]


def test_table_has_a_row_a_run_and_the_worst_of_several_seeds() -> None:
    lines = [line.split() for line in table(several()).splitlines()]
    assert lines[0][:5] == ["problem", "program", "seed", "s", "to"]
    assert lines[1][:7] == ["4x4", "ours", "0", "2", "4", "8", "2.0e-05"]
    assert lines[2][:7] == ["4x4", "ours", "1", "3", ">6", ">6", "5.0e-03"]
    assert lines[3] == ["4x4", "ours", "worst", "3", ">6", ">6", "5.0e-03"]
    assert lines[4][:4] == ["4x4", "netket-rbm", "0", "6"]
    assert lines[-1][3:9] == [">12", ">12", ">12", "1.0e-01", "+-", "1e-03"]
    assert len(lines) == 1 + 6 + 2


def test_files(tmp_path: Path) -> None:
    points, runs, picture = save(several(), tmp_path / "new")
    with points.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(POINT_COLUMNS)
    assert len(rows) == sum(len(r.points) for r in several())
    assert float(rows[2]["relative_error"]) == 9e-4 and float(rows[2]["seconds"]) == 4
    with runs.open(newline="") as file:
        summaries = list(csv.DictReader(file))
    assert list(summaries[0]) == list(SUMMARY_COLUMNS)
    assert [s["seconds_to_1e-2"] for s in summaries] == ["2", "3", "6", "9", "", ""]
    assert float(summaries[0]["samples_per_second"]) == 1000
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_runs_that_failed_at_once_are_drawn_and_listed(tmp_path: Path) -> None:
    failed = Result((point(0.1, math.nan, math.nan),), 0, "failed: out of memory", 8.0, 0.0)
    save([failed], tmp_path)
    row = table([failed]).splitlines()[1]
    assert row.endswith("failed: out of memory") and " nan " in row
