"""What came of a command line, run in this process, and whether the user was treated well."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 400
MOST_LINES = 21
"""Of a scan: a line for each of its first 20 bad points."""


class TooLong(BaseException):
    """The alarm clock; nothing in the program catches it."""


class Accepted(BaseException):
    """The command line was taken: all that is left is the work itself."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code, or what it died of."""

    words: tuple[str, ...]
    code: int | str
    output: str
    errors: str

    def faults(self, allowed: Sequence[int | str]) -> list[str]:
        """What is wrong with it, nothing for a command that behaves."""
        found = [] if self.code in allowed else [f"ended with {self.code}"]
        lines = self.errors.splitlines()
        told = [line for line in lines if line.startswith("error: ")]
        if self.code in (1, 2) and not told:
            found.append("no error line")
        if len(told) > (MOST_LINES if "-m" in self.words else 1):
            found.append(f"{len(told)} error lines")
        if self.code == 2 and len(lines) > len(told) + ("--ptf" in self.words):
            found.append("more than the error line")
        if any(len(line) > LONGEST for line in lines):
            found.append("a line that is too long")
        if "Traceback" in self.errors:
            found.append("a traceback")
        for text in (self.output, self.errors):
            if not text.replace("\n", "").isprintable():
                found.append("control characters reach the terminal")
        return found

    def __str__(self) -> str:
        words = " ".join(repr(word)[:120] for word in self.words)
        return f"{words} -> {self.code}: {self.errors[-600:]!r}"


def train_main() -> Callable[[Sequence[str]], int]:
    """main of train.py."""
    spec = importlib.util.spec_from_file_location("train", ROOT / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main  # type: ignore[no-any-return]


def outcome(
    main: Callable[[Sequence[str]], int], words: Sequence[str], seconds: int = 30
) -> Outcome:
    """Runs main(words), stopped after `seconds`."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2)]
    code: int | str
    try:
        with (
            contextlib.redirect_stdout(streams[0]),
            contextlib.redirect_stderr(streams[1]),
            alarm(seconds),
        ):
            code = main(list(words))
    except TooLong:
        code = "hang: " + traceback.format_exc()[-800:]
    except Accepted:
        code = "accepted"
    except BaseException as error:
        code = f"{type(error).__name__}: {error}"[:200] + traceback.format_exc()[-800:]
    output, errors = (text(stream) for stream in streams)
    return Outcome(tuple(words), code, output, errors)


def text(stream: io.TextIOWrapper) -> str:
    with contextlib.suppress(ValueError):
        stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode("utf-8", "replace")


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Raises TooLong in the block after so many seconds."""

    def ring(signum: int, frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def stop_before_work(patch: pytest.MonkeyPatch) -> None:
    """Whatever is accepted ends there, once everything is built and checked."""
    from nqs.crystal.commands import training_run
    from nqs.ground_states.ground_state_run import GroundStateRun
    from nqs.scans import run as scan

    def accepted(*arguments: Any, **keywords: Any) -> None:
        raise Accepted

    patch.setattr(GroundStateRun, "work", accepted)
    patch.setattr(scan, "resume", accepted)
    patch.setattr(training_run, "open_folder", accepted)


def report(outcomes: Sequence[tuple[Outcome, list[str]]]) -> str:
    """The bad ones, a line or two each."""
    bad = [f"{', '.join(faults)}: {one}" for one, faults in outcomes if faults]
    return f"{len(bad)} of {len(outcomes)} misbehave:\n" + "\n".join(bad)


def note(line: str) -> None:
    """On the real stderr, for who runs the campaign by hand."""
    print(line, file=sys.__stderr__)
