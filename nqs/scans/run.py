"""A parameter scan: check the whole grid, run its chains, compare the points with each other, run
the doubtful ones again, say what came of every point.

Nothing about the state of a scan is kept but what its runs' folders hold: a point is finished when
its summary says so, a half-done one resumes from its checkpoint, and a scan resumes by running what
is missing.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import signal
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TextIO

from nqs.errors import InputError, printable
from nqs.ground_states import summary
from nqs.ground_states.build import build
from nqs.ground_states.growth import with_stages
from nqs.ground_states.run import run
from nqs.ground_states.run_folder import resumed_config
from nqs.ground_states.start import starting_file, with_source_patches
from nqs.ground_states.summary import is_finished
from nqs.runfolder.folder import locked
from nqs.runfolder.invocation import program
from nqs.runfolder.progress import duration
from nqs.runfolder.signals import Interrupted, StopRequests
from nqs.scans import attempts, neighbours
from nqs.scans.folder import Point, Scan, create
from nqs.scans.neighbours import Bound

if TYPE_CHECKING:
    from nqs.scans.launchers import Launcher

STOP: Final = ".stop"
"""A file of this name in the scan's folder asks the processes of its points to stop."""
SHOWN: Final = 20
"""Lines about single points, at most."""
LONGEST_REASON: Final = 300
POLL_SECONDS: Final = 0.5
BUSY = threading.Event()
"""Set while this process, a child of a scan, has a chain to run."""


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
                cold = with_stages(with_source_patches(scan.config(point, None)))
                job = build(cold)
                starting_file(job)  # whether it fits, where train.start_from is given
                state = job.wavefunction.state_dict()
            except InputError as error:
                errors.append(f"{point.name}: {error}")
                continue
            own = {name: entry.shape for name, entry in state.items()}
            if shapes is not None and own != shapes:
                rule = "its parameters do not fit its neighbour's; scan.warm_start needs one model"
                errors.append(f"{point.name}: {rule} along {scan.keys.warm_start}")
            shapes = own
    if errors:
        more = len(errors) - SHOWN
        rest = [f"and {more} more points"] if more > 0 else []
        raise InputError(*errors[:SHOWN], *rest)


def start(scan: Scan, launcher: Launcher) -> int:
    """Checks and runs a new scan; returns the exit code as `resume` does."""
    check(scan)
    return resume(create(scan), launcher)


def resume(scan: Scan, launcher: Launcher) -> int:
    """Runs what is missing of a scan in its folder.

    Returns 0, 1 (a point failed) or 128 + signal (stopped).
    """
    began = time.monotonic()
    with locked(scan.path), StopRequests() as stop:
        check_folder(scan)
        attempts.mend(scan)
        (scan.path / STOP).unlink(missing_ok=True)
        try:
            with Echo(scan, stop):
                n_points, n_chains = len(scan.points), len(scan.chains)
                say(scan, f"{n_points} points in {n_chains} chains, files in {scan.path}")
                outcomes = launcher.launch(scan, scan.chains)
                left = settle(scan, launcher, outcomes, lambda: stop.received is not None)
        finally:
            (scan.path / STOP).unlink(missing_ok=True)
        return report(scan, outcomes, left, time.monotonic() - began, stop.received or 0)


def check_folder(scan: Scan) -> None:
    """Raises InputError for files of the scan that are not its own: links, pipes."""
    for name, is_kind in (("scan.log", stat.S_ISREG), ("jobs", stat.S_ISDIR)):
        path = scan.path / name
        with contextlib.suppress(FileNotFoundError):
            if not is_kind(path.lstat().st_mode):
                raise InputError(f"{path}: is no plain file or folder; move it away")


def settle(
    scan: Scan, launcher: Launcher, outcomes: list[Outcome], stopped: Callable[[], bool]
) -> bool:
    """Compares all points with their neighbours and runs doubtful ones again, each at most once.

    Adds to the outcomes. Returns whether something of this is left to do, as a signal came.
    """
    tried: set[str] = set()
    while True:
        if stopped() or any(outcome.status == "stopped" for outcome in outcomes):
            return True
        bounds = neighbours.judge(scan, lambda line: say(scan, line), stopped)
        if any([replace_by_better(scan, point) for point in scan.points]):
            continue  # the verdicts stay, but folders have moved
        again = [point for point in repetitions(scan, bounds) if point.name not in tried]
        if stopped():
            return True
        if not again:
            return False
        tried |= {point.name for point in again}
        repeated = launcher.launch(scan, [(point,) for point in again])
        outcomes += [outcome for outcome in repeated if outcome.status == "stopped"]


def repetitions(scan: Scan, bounds: dict[str, list[Bound]]) -> list[Point]:
    """Second attempts that are due: those from the product state or, once these are done, those
    that take the state of lowest energy beside a point that started from the product state."""
    due = [point for point in scan.points if attempts.needs_second(scan, point)]
    warm = [point for point in due if attempts.started_warm(scan, point)]
    if warm:
        return [attempts.second(scan, point, None) for point in warm]
    seconds = []
    for point in due:
        beside = [
            bound for bound in bounds.get(point.name, []) if differ_by_couplings(point, bound.point)
        ]
        if beside:
            best = min(beside, key=lambda bound: bound.energy)
            seconds.append(attempts.second(scan, point, best.folder))
    return seconds


def differ_by_couplings(one: Point, two: Point) -> bool:
    """Whether nothing but the couplings differs: seeds and the like are to be compared as they
    are."""
    first, second = ({**point.config, "hamiltonian": None} for point in (one, two))
    return first == second


def replace_by_better(scan: Scan, point: Point) -> bool:
    """Keeps the better of two attempts at a point; returns whether that is another one now."""
    changed = attempts.keep_better(scan, point)
    if changed:
        best, other = (
            summary.read(folder / "summary.json") for folder in attempts.attempts(scan, point)
        )
        say(
            scan,
            f"kept another attempt at {point.name}: {energy(best)} instead of {energy(other)}",
        )
    return changed


def report(scan: Scan, outcomes: Sequence[Outcome], left: bool, seconds: float, signum: int) -> int:
    """The closing lines, on the console and in scan.log; returns the exit code. left: whether the
    comparison of the points did not come to its end."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    n_finished = sum(is_finished(scan.folder(point)) for point in scan.points)
    lines = [f"{n_finished} of {len(scan.points)} points finished, {duration(seconds)} this time"]
    doubtful = [p.name for p in scan.points if attempts.is_doubtful(scan, p)]
    if doubtful:
        more = f" and {len(doubtful) - SHOWN} more" if len(doubtful) > SHOWN else ""
        lines.append(f"{len(doubtful)} doubtful: {', '.join(doubtful[:SHOWN])}{more}")
    lines += [f"failed: {outcome.name}: {outcome.reason}" for outcome in failed]
    code = 1 if n_finished < len(scan.points) else 0
    signum = signum or next((outcome.signum for outcome in outcomes if outcome.signum), 0)
    if code and not failed and not signum:
        n_missing = len(scan.points) - n_finished
        lines.append(
            f"failed: {n_missing} points have no result, and the launcher does not say why"
        )
    if signum and (code or left):
        code = 128 + signum
        lines.append("stopped by a signal")
    if code:
        resume = f"{shlex.join(program())} -m {folder_word(scan)} scan.resume=true"
        lines.append(f"resume with: {resume}")
    lines.append(f"collect with: nqs collect {shlex.quote(str(scan.path))}")
    for line in lines:
        say(scan, line)
        tell(f"{printable(line)}\n", sys.stderr if line.startswith("failed") else sys.stdout)
    return code


def folder_word(scan: Scan) -> str:
    """scan.dir=PATH as the shell, and then Hydra, take it."""
    path = str(scan.path)
    plain = re.fullmatch(r"[\w./~@-]+", path)
    return f"scan.dir={path}" if plain else shlex.quote(f"scan.dir='{path}'")


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
                outcomes.append(run_attempts(scan, point, source))
            except Interrupted as interruption:
                outcomes.append(Outcome(point.name, "stopped", signum=interruption.signum))
            if outcomes[-1].status == "stopped":
                say(scan, f"stopped: {point.name}")
                break
            failed = outcomes[-1].status == "failed"
            if failed or (scan.keys.repeats and attempts.is_doubtful(scan, point)):
                if place + 1 < len(chain):
                    start = attempts.beginning(point) if source is None else source.name
                    why = "failed" if failed else "is doubtful"
                    say(
                        scan, f"{chain[place + 1].name} starts from {start}, for {point.name} {why}"
                    )
            else:
                source = point
    return outcomes


def run_attempts(scan: Scan, point: Point, source: Point | None) -> Outcome:
    """Runs a point, and once more from its product state if it started elsewhere and is doubtful;
    then the better attempt is the point. Raises Interrupted."""
    outcome = run_point(scan, point, source)
    if outcome.status != "finished" or attempts.is_second(point):
        return outcome
    if attempts.needs_second(scan, point) and attempts.started_warm(scan, point):
        say(scan, f"{point.name} is doubtful: once more, from {attempts.beginning(point)}")
        again = run_point(scan, attempts.second(scan, point, None), None)
        if again.status == "stopped":
            return Outcome(point.name, "stopped", signum=again.signum)
    if len(attempts.attempts(scan, point)) > 1:
        neighbours.mark(scan, point, [], lambda line: say(scan, line))
        replace_by_better(scan, point)
    return outcome


def run_point(scan: Scan, point: Point, source: Point | None) -> Outcome:
    """Runs or resumes one point unless it is finished. Raises Interrupted."""
    path = scan.folder(point)
    if is_finished(path):
        return Outcome(point.name, "finished")
    output, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            if (path / "config.yaml").exists():
                config = resumed_config(path, {})
            else:
                config = scan.config(point, source)
            code = run(config, [*program(), *scan.command])
        line = progress_line(scan, point) if code == 0 else ""
    except Interrupted:
        raise
    except InputError as error:
        return _failed(scan, point, str(error))
    except Exception as error:  # whatever a point dies of, the others go on
        say(scan, traceback.format_exc().rstrip())
        return _failed(scan, point, f"{type(error).__name__}: {error}")
    if code > 128:
        return Outcome(point.name, "stopped", signum=code - 128)
    if code:
        last = (errors.getvalue().strip() or "no reason given").splitlines()[-1]
        return _failed(scan, point, last.removeprefix("error: "))
    say(scan, line)
    return Outcome(point.name, "finished")


def _failed(scan: Scan, point: Point, reason: str) -> Outcome:
    reason = printable(" ".join(reason.split()))
    if len(reason) > LONGEST_REASON:
        reason = reason[:LONGEST_REASON] + "..."
    say(scan, f"FAILED {point.name}: {reason}")
    return Outcome(point.name, "failed", reason)


def progress_line(scan: Scan, point: Point) -> str:
    """A finished point in a line. Raises InputError if it has no result."""
    result = summary.read(scan.folder(point) / "summary.json")
    if result.get("energy") is None:
        raise InputError("ended without an energy")
    n_finished = sum(is_finished(scan.folder(other)) for other in scan.points)
    width = len(str(len(scan.points)))
    error, score, doubts = (result.get(key) for key in ("relative_error", "v_score", "doubts"))
    kinds = ", ".join(doubt.partition(":")[0] for doubt in doubts or ())
    parts = [
        f"E = {energy(result)}",
        *([f"relative error {error:+.1e}"] if error is not None else []),
        *([f"V-score {score:.1e}"] if score is not None else []),
        f"{result['steps']} steps",
        f"{result.get('wall_seconds', 0):.1f} s",
        *([f"doubtful ({kinds})"] if doubts else []),
    ]
    return f"[{n_finished:{width}d}/{len(scan.points)}] {point.name}  {', '.join(parts)}"


def energy(result: dict[str, Any]) -> str:
    """The energy of a summary with its error."""
    return summary.with_error(result["energy"], result["energy_error"])


def say(scan: Scan, line: str) -> None:
    """A line of scan.log, which every process of the scan writes to."""
    with contextlib.suppress(OSError), plain_file(scan.path / "scan.log", "a") as log:
        log.write("".join(f"{printable(part)}\n" for part in line.split("\n")).encode())


@contextlib.contextmanager
def plain_file(path: Path, mode: str) -> Iterator[IO[bytes]]:
    """The file open for "r" or "a"; never through a link or a pipe that somebody has planted.
    Raises OSError."""
    flags = {"r": os.O_RDONLY, "a": os.O_WRONLY | os.O_APPEND | os.O_CREAT}[mode]
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    with os.fdopen(descriptor, f"{mode}b") as file:
        yield file


def tell(text: str, stream: TextIO) -> None:
    """Prints text. A console that is gone (| head) or knows few characters loses nothing: all is in
    scan.log."""
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):  # nor must Python's last flush complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
                with contextlib.suppress(OSError), plain_file(self._path / STOP, "a"):
                    pass
            with contextlib.suppress(OSError), plain_file(self._path / "scan.log", "r") as log:
                log.seek(self._offset)
                text = log.read()
                whole = text.rfind(b"\n") + 1
                self._offset += whole
                if whole:
                    tell(text[:whole].decode(errors="replace"), self._stream)
            if last:
                return


@contextlib.contextmanager
def child_process(scan: Scan, parent: int | None) -> Iterator[None]:
    """Within: this process stops (as by SIGTERM) when the scan's folder says so or, on the same
    machine, when the process that launched it, `parent`, is gone. Not reached by Ctrl-C, which the
    launching process passes on."""
    with contextlib.suppress(OSError):
        os.setsid()
    with contextlib.suppress(ValueError):  # SLURM's warning before the end of the wall time
        signal.signal(signal.SIGUSR2, lambda signum, frame: os.kill(os.getpid(), signal.SIGTERM))
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(POLL_SECONDS):
            orphaned = parent is not None and not is_alive(parent)
            if orphaned or (scan.path / STOP).exists():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    BUSY.set()
    try:
        yield
    finally:
        BUSY.clear()
        ended.set()
        watcher.join()


def end_with_parent(parent: int) -> None:
    """From here on this worker ends soon after the process `parent`, at once while it is idle;
    joblib's own would wait five minutes for more work."""

    def watch() -> None:
        while is_alive(parent) or BUSY.is_set():
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not waited for does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except (OSError, IndexError):  # another user's, or a system without /proc
        return True
    return state not in "ZX"
