"""Kind 4, endings: every way in which a run is asked to stop, and consoles that go away."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_ground_state_run import after_step, assert_same_run, result, run, steps_of

from nqs.runfolder.console import LastingStream, escaped, tell
from nqs.runfolder.signals import SIGNALS, Interrupted, StopRequests

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    *("lattice.Lx=2", "lattice.Ly=2", "model.patch=2", "model.d_model=4", "model.n_layers=1"),
    *("train.n_samples=16", "train.eval_samples=64", "train.checkpoint_every=2"),
]


@pytest.mark.parametrize("signum", SIGNALS)
def test_every_signal_saves_and_resumes(
    signum: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signum)
    with monkeypatch.context() as patch:
        after_step(patch, 4, lambda: os.kill(os.getpid(), signum))
        assert run(tmp_path / "run") == 128 + signum
    assert signal.getsignal(signum) is before
    assert capsys.readouterr().out.splitlines()[-1].endswith("run.resume=true")
    assert result(tmp_path / "run")["status"] == "interrupted"
    assert run(tmp_path / "run", run__resume=True) == 0
    assert run(tmp_path / "whole") == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGUSR1])
def test_signals_during_the_evaluation(
    signum: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killing(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), signum)
        raise AssertionError("the signal must not wait here")

    monkeypatch.setattr("nqs.ground_states.evaluations.evaluate", killing)
    assert run(tmp_path / "run") == 128 + signum
    assert len(steps_of(tmp_path / "run")["step"]) == 8


@pytest.fixture
def usual_handlers() -> Iterator[None]:
    """Those of a process in the foreground, whatever this one was started with."""
    usual = {signum: signal.SIG_DFL for signum in SIGNALS}
    usual[signal.SIGINT] = signal.default_int_handler
    before = {signum: signal.signal(signum, handler) for signum, handler in usual.items()}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def test_several_signals(usual_handlers: None) -> None:
    """What a closing session sends, SIGHUP and SIGTERM, asks once; SIGTERM again ends at once."""
    with StopRequests() as stop:
        for signum in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            os.kill(os.getpid(), signum)
        assert stop.received == signal.SIGHUP
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) != signal.SIG_DFL
        with pytest.raises(KeyboardInterrupt):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_interrupted_once() -> None:
    with StopRequests() as stop:
        stop.immediate()
        with pytest.raises(Interrupted, match="SIGUSR1"):
            os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGHUP)  # while the first is being answered


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequests() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class Broken(io.StringIO):
    """A stream that takes no more."""

    def __init__(self, error: Exception, after: int = 0) -> None:
        super().__init__()
        self._error, self._left = error, after

    def write(self, text: str) -> int:
        self._left -= 1
        if self._left < 0:
            raise self._error
        return super().write(text)


@pytest.mark.parametrize(
    "error",
    [BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError(errno.ENOSPC, "No space left on device"),
     OSError(errno.EIO, "Input/output error"), ValueError("I/O operation on closed file")],
)  # fmt: skip
def test_a_console_that_goes_away(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on, and run.log has every line."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Broken(error, after=3))
        assert run(tmp_path / "run") == 0
    assert run(tmp_path / "whole") == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    lines = (tmp_path / "run/run.log").read_text().splitlines()
    told = [line for line in lines if "the console takes no more lines" in line]
    assert len(told) == 1 and lines[-1].startswith("seed")
    assert len(lines) == len((tmp_path / "whole/run.log").read_text().splitlines()) + 1


def test_no_console_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has none when its descriptors are closed at the start."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        patch.setattr(sys, "stderr", None)
        assert run(tmp_path / "run") == 0
        tell("error", None)


def test_what_an_encoding_lacks() -> None:
    bytes_written = io.BytesIO()
    stream = io.TextIOWrapper(bytes_written, encoding="ascii")
    lasting = LastingStream(stream, lambda reason: None)
    assert lasting.write("E = 1 ± 2 \udc80\n") == 12
    lasting.flush()
    assert bytes_written.getvalue() == b"E = 1 \\xb1 2 \\udc80\n"
    assert escaped("±", "utf-8") == "±" and lasting.encoding == "ascii"


def command(path: Path, steps: int) -> list[str]:
    words = [*TINY, f"train.steps={steps}", f"run.dir={path}"]
    return [sys.executable, str(ROOT / "train.py"), *words]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more


def wait_for(path: Path, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


def test_a_reader_that_leaves(tmp_path: Path) -> None:
    """`| head -1`: exit code 0, nothing on stderr, not even from Python as it ends."""
    process = subprocess.Popen(
        command(tmp_path / "run", 6),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 0 and process.stderr.read() == b""
    process.stderr.close()
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "finished"
    assert "the run goes on" in (tmp_path / "run/run.log").read_text()


def test_a_closed_console(tmp_path: Path) -> None:
    """(One of few characters: tests/runfolder/test_terminal.py.)"""
    words = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command(tmp_path / "run", 3)]
    done = subprocess.run(words, env=environment(), stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == 0
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "finished"


def test_a_terminal_that_closes(tmp_path: Path) -> None:
    """SIGHUP and a terminal that cannot be written to any more, with the bar on it."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "-c", *command(tmp_path / "run", 100_000)],
        env=environment(TERM="xterm"),
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    while not (tmp_path / "run/checkpoints/step-000000002.pt").exists():
        with contextlib.suppress(BlockingIOError):
            os.read(ours, 65_536)
        assert process.poll() is None
        time.sleep(0.01)
    os.close(ours)
    assert process.wait(60) == 128 + signal.SIGHUP
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "interrupted"
    assert "run.resume=true" in (tmp_path / "run/run.log").read_text().splitlines()[-1]
