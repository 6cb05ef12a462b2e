"""Progress of the optimisation: a bar on a terminal, aligned plain lines everywhere else.

run.log always gets the plain lines. A line comes at the first and the last step and in between at
most every five seconds, more rarely the longer the run lasts, so that a log stays readable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from nqs.errors import printable
from nqs.runfolder.console import LastingStream

Record = Mapping[str, float]
"""What a step measured, by the names of the history's columns."""


class Log:
    """Lines for the user, on the console while there is one, and in run.log.

    What they quote of names and files is written so that it cannot steer the terminal.
    """

    def __init__(self, path: Path, stream: TextIO | None) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)
        lasting = cast(TextIO, LastingStream(stream, self._console_is_gone))
        self.console = Console(file=lasting, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def say(self, line: str) -> None:
        """A line for both."""
        self.note(line)
        self.console.print(printable(line))

    def note(self, line: str) -> None:
        """A line for run.log alone."""
        self._file.write(printable(line) + "\n")

    def _console_is_gone(self, reason: str) -> None:
        self.note(f"the console takes no more lines ({reason}); the run goes on, they are all here")


class Clock:
    """Seconds a step (over the last 50) and the time that is left."""

    def __init__(self, n_steps: int, max_seconds: float | None) -> None:
        self._n_steps = n_steps
        self._max_seconds = max_seconds
        self._recent: deque[float] = deque(maxlen=50)

    def add(self, seconds: float) -> None:
        """Counts one step."""
        self._recent.append(seconds)

    @property
    def seconds_per_step(self) -> float:
        """Mean over the recent steps."""
        return sum(self._recent) / len(self._recent)

    def remaining(self, step: int, elapsed: float) -> float:
        """Seconds until the last step or the end of the budget, whichever comes first."""
        by_steps = (self._n_steps - step) * self.seconds_per_step
        if self._max_seconds is None:
            return by_steps
        return max(0.0, min(by_steps, self._max_seconds - elapsed))


def duration(seconds: float) -> str:
    """0:42, 12:03, 5:07:00 or 3d 4:07."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}:{minutes:02d}"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Form(NamedTuple):
    """How the steps of one kind of run are written.

    Attributes:
        header: heading of the plain lines.
        row: (record, seconds per step, seconds that remain) -> plain line, aligned with it.
        brief: record -> what stands beside the bar.
    """

    header: str
    row: Callable[[Record, float, float], str]
    brief: Callable[[Record], str]


class ProgressDisplay:
    """Shows each step of the optimisation; a context manager around it."""

    def __init__(self, log: Log, n_steps: int, max_seconds: float | None, form: Form) -> None:
        self._log = log
        self._form = form
        self._n_steps = n_steps
        self._clock = Clock(n_steps, max_seconds)
        self._next_line = 0.0
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        if self._log.console.is_terminal:
            text = TextColumn("{task.fields[text]}")
            self._bar = Progress(
                BarColumn(bar_width=24), MofNCompleteColumn(), text, console=self._log.console
            )
            self._task = self._bar.add_task("", total=self._n_steps, text="")
            self._bar.start()
            self._log.note(self._form.header)
        else:
            self._log.say(self._form.header)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, record: Record, elapsed: float, last: bool) -> None:
        """One finished step, with `step` and `seconds` among its numbers; `last` forces its line.
        elapsed: seconds of optimisation so far."""
        self._clock.add(record["seconds"])
        remaining = self._clock.remaining(int(record["step"]), elapsed)
        per_step = self._clock.seconds_per_step
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=int(record["step"]),
                text=f"{self._form.brief(record)}  {per_step:.3g} s/step  "
                f"ETA {duration(remaining)}",
            )
        if last or elapsed >= self._next_line:
            line = self._form.row(record, per_step, remaining)
            (self._log.say if self._bar is None else self._log.note)(line)
            self._next_line = elapsed + min(300.0, max(5.0, elapsed / 20))
