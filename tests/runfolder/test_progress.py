"""The printed numbers: rates, times left, alignment, how often a line comes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from nqs.ground_states.step_lines import FORM, HEADER, row
from nqs.runfolder.progress import Clock, Log, ProgressDisplay, Record, duration


def record(step: int, seconds: float = 1.0) -> Record:
    energy = {"energy": -7.254611338, "energy_error": 1.234e-3, "variance": 0.0123}
    return {"step": float(step), **energy, "seconds": seconds}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (59.6, "1:00"),
        (723, "12:03"),
        (3600, "1:00:00"),
        (18_420, "5:07:00"),
        (273_978, "3d 4:06"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_clock_averages_recent_steps() -> None:
    clock = Clock(n_steps=1000, max_seconds=None)
    for _ in range(50):
        clock.add(10.0)
    for _ in range(50):
        clock.add(2.0)
    assert clock.seconds_per_step == pytest.approx(2.0)
    assert clock.remaining(step=100, elapsed=600.0) == pytest.approx(1800.0)


def test_budget_bounds_the_time_left() -> None:
    clock = Clock(n_steps=1000, max_seconds=60.0)
    clock.add(1.0)
    assert clock.remaining(step=10, elapsed=15.0) == pytest.approx(45.0)
    assert clock.remaining(step=995, elapsed=15.0) == pytest.approx(5.0)
    assert clock.remaining(step=10, elapsed=61.0) == 0.0


def test_rows_align_with_the_header() -> None:
    for step, left in ((1, 0.0), (123_456, 1e6)):
        line = row(record(step), 0.0123, left)
        assert len(line) == len(HEADER)
        assert line.split()[:2] == [str(step), "-7.2546113"]


def display_lines(tmp_path: Path, n_steps: int, seconds: float) -> list[str]:
    stream = io.StringIO()
    log = Log(tmp_path / "run.log", stream)
    with log, ProgressDisplay(log, n_steps, None, FORM) as display:
        for step in range(1, n_steps + 1):
            display.update(record(step, seconds), step * seconds, last=step == n_steps)
    assert stream.getvalue() == (tmp_path / "run.log").read_text()
    return stream.getvalue().splitlines()


def test_lines_come_at_a_sane_rate(tmp_path: Path) -> None:
    lines = display_lines(tmp_path, n_steps=10_000, seconds=0.01)
    assert lines[0] == HEADER
    shown = [int(line.split()[0]) for line in lines[1:]]
    assert shown[0] == 1 and shown[-1] == 10_000
    assert 15 <= len(shown) <= 22  # 100 s, one line every five
    assert len(display_lines(tmp_path / "..", 100_000, 1.0)) < 600  # 28 h


def test_terminal_shows_a_bar_and_the_log_plain_lines(tmp_path: Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream: Any = Terminal()
    log = Log(tmp_path / "run.log", stream)
    with log, ProgressDisplay(log, 2, None, FORM) as display:
        display.update(record(1), 1.0, last=False)
        display.update(record(2), 2.0, last=True)
    assert "\x1b[" in stream.getvalue() and "s/step" in stream.getvalue()
    text = (tmp_path / "run.log").read_text()
    assert "\x1b[" not in text and len(text.splitlines()) == 3
