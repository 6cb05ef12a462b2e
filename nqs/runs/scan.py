"""A parameter scan: check the whole grid, run its chains, say what came of every point.

Nothing about the state of a scan is kept but what its runs' folders hold: a point is finished when
its summary says so, a half-done one resumes from its checkpoint, and a scan resumes by running what
is missing.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nqs.runs import directory, scan_folder, summary
from nqs.runs.build import build
from nqs.runs.ground_state_run import run
from nqs.runs.progress import duration
from nqs.runs.scan_config import LauncherConfig
from nqs.runs.scan_folder import Point, Scan
from nqs.runs.schema import InputError
from nqs.runs.signals import Interrupted, StopRequests

ENDED: Final = ("finished", "budget")
"""States of a run's summary after which nothing is left to do."""
STOP: Final = ".stop"
"""A file of this name in the scan's folder asks the processes of its points to stop."""
SHOWN_ERRORS: Final = 20


@dataclass(frozen=True)
class Outcome:
    """What came of a point: "finished", "failed" or "stopped" (by a signal), and why."""

    name: str
    status: str
    reason: str = ""
    signum: int = 0


def check(scan: Scan) -> None:
    """Builds every point and throws it away. Raises InputError, a line for each bad point; also for
    neighbours along scan.warm_start whose parameters do not fit each other."""
    errors = []
    for chain in scan.chains:
        shapes = None
        for point in chain:
            try:
                if len(chain) > 1:
                    scan.config(point, chain[0])  # fewer steps must be allowed too
                state = build(scan.config(point, None)).wavefunction.state_dict()
            except InputError as error:
                errors.append(f"{point.name}: {error}")
                continue
            found = {name: entry.shape for name, entry in state.items()}
            if shapes is not None and found != shapes:
                rule = "its parameters do not fit its neighbour's; scan.warm_start needs one model"
                errors.append(f"{point.name}: {rule} along {scan.keys.warm_start}")
            shapes = found
    if errors:
        more = len(errors) - SHOWN_ERRORS
        rest = [f"and {more} more points"] if more > 0 else []
        raise InputError(*errors[:SHOWN_ERRORS], *rest)


def start(scan: Scan, launcher: LauncherConfig) -> int:
    """Checks and runs a new scan; returns the exit code as `resume` does."""
    check(scan)
    return resume(scan_folder.create(scan), launcher)


def resume(scan: Scan, launcher: LauncherConfig) -> int:
    """Runs what is missing of a scan in its folder.

    Returns 0, 1 (a point failed) or 128 + signal (stopped).
    """
    from nqs.runs.scan_launchers import launch

    began = time.monotonic()
    with directory.locked(scan.path), StopRequests() as stop:
        (scan.path / STOP).unlink(missing_ok=True)
        try:
            with Echo(scan, stop):
                n_points, n_chains = len(scan.points), len(scan.chains)
                say(scan, f"{n_points} points in {n_chains} chains, files in {scan.path}")
                outcomes = launch(scan, launcher)
        finally:
            (scan.path / STOP).unlink(missing_ok=True)
        return report(scan, outcomes, time.monotonic() - began, stop.received or 0)


def report(scan: Scan, outcomes: Sequence[Outcome], seconds: float, signum: int) -> int:
    """The closing lines, on the console and in scan.log; returns the exit code."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    n_finished = sum(is_finished(scan.folder(point)) for point in scan.points)
    lines = [f"{n_finished} of {len(scan.points)} points finished, {duration(seconds)} this time"]
    lines += [f"failed: {outcome.name}: {outcome.reason}" for outcome in failed]
    code = 1 if n_finished < len(scan.points) else 0
    signum = signum or next((outcome.signum for outcome in outcomes if outcome.signum), 0)
    if signum and code:
        code = 128 + signum
        lines.append("stopped by a signal")
    if code:
        lines.append(f"resume with: python train.py -m scan.dir={scan.path} scan.resume=true")
    lines.append(f"collect with: nqs collect {scan.path}")
    for line in lines:
        say(scan, line)
        print(line, file=sys.stderr if line.startswith("failed") else sys.stdout)
    return code


def run_chain(scan: Scan, chain: Sequence[Point], skipped: Sequence[str] = ()) -> list[Outcome]:
    """Runs the points of a chain one after the other; each starts from the nearest finished one
    before it. Points named in `skipped` are left out. Ends early when a signal comes."""
    outcomes: list[Outcome] = []
    source = None
    with StopRequests() as stop:
        for place, point in enumerate(chain):
            if point.name in skipped:
                continue
            try:
                stop.immediate()
                if (scan.path / STOP).exists():
                    raise Interrupted(signal.SIGTERM)
                outcomes.append(run_point(scan, point, source))
            except Interrupted as interruption:
                outcomes.append(Outcome(point.name, "stopped", signum=interruption.signum))
            if outcomes[-1].status == "stopped":
                say(scan, f"stopped: {point.name}")
                break
            if outcomes[-1].status == "finished":
                source = point
            elif place + 1 < len(chain):
                start = "from its product state" if source is None else f"from {source.name}"
                say(scan, f"{chain[place + 1].name} starts {start}, for {point.name} failed")
    return outcomes


def run_point(scan: Scan, point: Point, source: Point | None) -> Outcome:
    """Runs or resumes one point unless it is finished. Raises Interrupted."""
    path = scan.folder(point)
    if is_finished(path):
        return Outcome(point.name, "finished")
    output, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            if (path / "config.yaml").exists():
                config = directory.resumed_config(path, {})
            else:
                config = scan.config(point, source)
            code = run(config, ["python", "train.py", *scan.command])
    except Interrupted:
        raise
    except InputError as error:
        return _failed(scan, point, str(error))
    except Exception as error:  # whatever a point dies of, the others go on
        say(scan, traceback.format_exc().rstrip())
        return _failed(scan, point, f"{type(error).__name__}: {' '.join(str(error).split())}")
    if code > 128:
        return Outcome(point.name, "stopped", signum=code - 128)
    if code:
        last = (errors.getvalue().strip() or "no reason given").splitlines()[-1]
        return _failed(scan, point, last.removeprefix("error: "))
    say(scan, progress_line(scan, point))
    return Outcome(point.name, "finished")


def _failed(scan: Scan, point: Point, reason: str) -> Outcome:
    say(scan, f"FAILED {point.name}: {reason}")
    return Outcome(point.name, "failed", reason)


def progress_line(scan: Scan, point: Point) -> str:
    """A finished point in a line."""
    result = summary.read(scan.folder(point) / "summary.json")
    n_finished = sum(is_finished(scan.folder(other)) for other in scan.points)
    width = len(str(len(scan.points)))
    exact = result.get("relative_error")
    return (
        f"[{n_finished:{width}d}/{len(scan.points)}] {point.name}  "
        f"E = {summary.with_error(result['energy'], result['energy_error'])}, "
        + (f"relative error {exact:.1e}, " if exact is not None else "")
        + f"V-score {result['v_score']:.1e}, {result['steps']} steps, "
        f"{result['wall_seconds']:.1f} s"
    )


def is_finished(path: Path) -> bool:
    """Whether the run in `path` has its result."""
    return status(path) in ENDED


def status(path: Path) -> str:
    """The status in a run's summary; "missing" without one."""
    try:
        return str(summary.read(path / "summary.json").get("status"))
    except InputError:
        return "missing"


def say(scan: Scan, line: str) -> None:
    """A line of scan.log, which every process of the scan writes to."""
    with contextlib.suppress(OSError), (scan.path / "scan.log").open("a", encoding="utf-8") as log:
        log.write(line + "\n")


class Echo:
    """Prints what is added to scan.log while the block runs, and passes a stop request on to the
    processes of the points."""

    def __init__(self, scan: Scan, stop: StopRequests) -> None:
        self._path = scan.path
        self._stop = stop
        self._ended = threading.Event()
        self._offset = 0
        self._stream = sys.stdout
        self._thread = threading.Thread(target=self._follow, daemon=True)
        log = scan.path / "scan.log"
        self._offset = log.stat().st_size if log.exists() else 0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        while True:
            last = self._ended.wait(0.2)
            if self._stop.received is not None:
                with contextlib.suppress(OSError):
                    (self._path / STOP).touch()
            with contextlib.suppress(OSError), (self._path / "scan.log").open("rb") as log:
                log.seek(self._offset)
                text = log.read()
                whole = text.rfind(b"\n") + 1
                self._offset += whole
                self._stream.write(text[:whole].decode(errors="replace"))
                self._stream.flush()
            if last:
                return


@contextlib.contextmanager
def child_process(scan: Scan, dies_with_parent: bool) -> Iterator[None]:
    """Within: this process stops (as by SIGTERM) when the scan's folder says so or, on the same
    machine, when the process that launched it is gone. Not reached by Ctrl-C, which the launching
    process passes on."""
    with contextlib.suppress(OSError):
        os.setsid()
    with contextlib.suppress(ValueError):  # SLURM's warning before the end of the wall time
        signal.signal(signal.SIGUSR2, lambda signum, frame: os.kill(os.getpid(), signal.SIGTERM))
    ended, parent = threading.Event(), os.getppid()

    def watch() -> None:
        while not ended.wait(0.5):
            orphaned = dies_with_parent and os.getppid() != parent
            if orphaned or (scan.path / STOP).exists():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
