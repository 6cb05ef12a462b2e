"""A run that can be stopped at any moment and goes on bit for bit: what all kinds of runs share.

    open the folder, lock it, log into it
    resume from the newest sound checkpoint, or begin
    after each step: history, progress, a checkpoint where one is due, stop where one is asked for
    end: finished | converged | budget | interrupted | failed | lost, with a summary and a last line

A kind of run is a subclass that says what its steps are and what its result is. Several processes
may work on one run; process 0 alone touches the folder and the console, and what one of them wants
(its clock is ahead, a signal reached it alone), all do.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from torch import nn

from nqs.runfolder import checkpoint, history, summary
from nqs.runfolder.console import tell
from nqs.runfolder.folder import locked, writing
from nqs.runfolder.history import Column, Evaluation, RunFile
from nqs.runfolder.processes import ALONE, Processes
from nqs.runfolder.progress import Form, Log, ProgressDisplay, Record
from nqs.runfolder.signals import Interrupted, StopRequests

CHECKPOINT_SECONDS: Final = 300.0
"""A checkpoint is at most this old, however slow the steps are."""


@dataclass(frozen=True)
class Limits:
    """How far a run goes.

    Attributes:
        steps: of the optimisation, all sessions.
        seconds: budget of the optimisation, all sessions; None: none.
        checkpoint_every: steps between checkpoints.
    """

    steps: int
    seconds: float | None
    checkpoint_every: int


class ResumableRun(ABC):
    """One process working on a run.

    Attributes:
        path: the run's folder; None for a run in memory, which writes nothing.
        content: history and evaluations, the content of run.h5.
        step: steps done.
        elapsed: seconds of optimisation, all sessions.
        elapsed_before: the same of earlier sessions.
        saved_step: step of the newest checkpoint, -1 before the first.
        notes: what is to be said about the run's files, and what did not work beside the result.
        status: how the run ended; None before its result is there.
        failure: why it did not.
        result: the last summary.
    """

    form: Form
    """How a step is written."""
    finite: ClassVar[Sequence[str]]
    """Numbers of a step that must be finite."""
    required: ClassVar[Collection[str]]
    """Columns without which run.h5 is none of this kind of run's."""
    resumable: ClassVar[Collection[str]]
    """Keys of the configuration that may change when the run is resumed."""
    advice: ClassVar[str] = "Try a smaller optimizer.learning_rate"
    """What to do about a step that is not finite."""

    log: Log
    stop: StopRequests

    def __init__(
        self,
        limits: Limits,
        columns: Sequence[Column],
        device: torch.device,
        program: Sequence[str],
        processes: Processes = ALONE,
    ) -> None:
        """columns: of the history, beside the elapsed time. program: the words before the keys of
        the command line that starts the run."""
        self.limits, self.columns, self.device = limits, [*columns, history.ELAPSED], device
        self.program, self.processes = program, processes
        self.path: Path | None = None
        self.content = RunFile(tuple(self.columns))
        self.step, self.saved_step = 0, -1
        self.elapsed = self.elapsed_before = 0.0
        self.notes: list[str] = []
        self.status: str | None = None
        self.failure: str | None = None
        self.result: dict[str, Any] = {}
        self._quiet = False
        self._started = time.monotonic()

    # What a kind of run fills in.

    def current(self, written: Mapping[str, Any]) -> Mapping[str, Any]:
        """A configuration that an earlier version wrote, in today's keys."""
        return written

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """What is optimised."""

    @property
    @abstractmethod
    def generator(self) -> torch.Generator:
        """Source of the random numbers of the optimisation."""

    @abstractmethod
    def saved_config(self) -> dict[str, Any]:
        """The configuration as config.yaml holds it."""

    @abstractmethod
    def optimizer_state(self) -> Mapping[str, Any]:
        """All that the next step depends on besides parameters, generator and step."""

    @abstractmethod
    def restore(self, saved: Mapping[str, Any]) -> None:
        """Puts that, and the generator, where the checkpoint `saved` has them; self.content is the
        history up to there. Raises InputError."""

    @abstractmethod
    def describe(self) -> list[str]:
        """Lines about what is to run."""

    def begin(self) -> None:  # noqa: B027 (most have nothing to do)
        """Prepares a run that has not done a step."""

    @abstractmethod
    def advance(self, after_step: Callable[[Record], bool]) -> None:
        """Steps self.step + 1 .. limits.steps, until after_step returns True. Raises
        FloatingPointError for a step that must not be kept."""

    def converged(self) -> bool:
        """Whether the run may end before its last step."""
        return False

    @abstractmethod
    def conclude(self) -> int:
        """Works out, saves (`report`) and shows the result; returns the exit code."""

    @abstractmethod
    def summarise(self, status: str) -> dict[str, Any]:
        """The content of summary.json."""

    def show_so_far(self, result: dict[str, Any]) -> None:  # noqa: B027 (most show nothing)
        """Shows the summary of a run that is interrupted."""

    def check_evaluation(self, evaluation: Evaluation) -> None:  # noqa: B027 (most have none)
        """Raises ValueError for an evaluation in run.h5 that this kind of run does not write."""

    # What all kinds share.

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.processes.rank == 0

    @property
    def wall_seconds(self) -> float:
        """Optimisation of earlier sessions and all of this one."""
        return self.elapsed_before + time.monotonic() - self._started

    @property
    def resume_command(self) -> str:
        """How to go on."""
        word = f"run.dir={self.path}"
        if not re.fullmatch(r"[A-Za-z0-9_./+-]+", str(self.path)):  # quoted for Hydra and YAML
            word = shlex.quote(f"run.dir='{self.path}'")
        return f"{shlex.join(self.program)} {word} run.resume=true"

    @contextlib.contextmanager
    def at_work(
        self, path: Path | None, *, quiet: bool = False, signals: bool = True
    ) -> Iterator[None]:
        """Within: the run has its folder `path`, locked, and its log. quiet: nothing is printed.
        signals: those that ask to stop are waited for until a step is done."""
        self.path, self._quiet, self._started = path, quiet, time.monotonic()
        stream = sys.stdout if self.leads and not quiet else None
        with contextlib.ExitStack() as stack:
            file = Path(os.devnull)
            if path is not None and self.leads:
                stack.enter_context(locked(path))
                stack.enter_context(writing(path))
                file = path / "run.log"
            self.log = stack.enter_context(Log(file, stream))
            self.stop = StopRequests()
            if signals:
                stack.enter_context(self.stop)
            yield

    def work(self, resumes: bool) -> int:
        """All of a session: resumes or begins, optimises, concludes; returns the exit code: 0, 1
        (failed) or 128 + signal. Raises InputError where a file cannot be read or written."""
        try:
            self.prepare(resumes)
            self.optimise()
            self.stop.immediate()
            return self.conclude()
        except Interrupted as interruption:
            return self.interrupted(interruption.signum)
        except FloatingPointError as error:
            return self.failed(str(error))

    def prepare(self, resumes: bool) -> None:
        """Says what is about to run, and puts it where it goes on or begins."""
        where = [] if self.path is None else [f"files in {self.path}"]
        for line in [*self.describe(), *where, *self.notes]:
            self.log.say(line)
        if resumes:
            self.resume()
        if self.step == 0:
            self.begin()

    def restored(
        self, path: Path, warn: Callable[[str], None]
    ) -> tuple[dict[str, Any] | None, RunFile]:
        """The newest checkpoint of the run in `path` (None before the first), its parameters in
        place, and the history up to its step. Raises InputError."""
        file = path / "run.h5"
        content = history.read(file, self.columns, self.required, self.check_evaluation)
        saved = checkpoint.newest(
            path / "checkpoints",
            self.saved_config(),
            self.device,
            warn,
            resumable=self.resumable,
            current=self.current,
        )
        content.truncate(0 if saved is None else saved["step"], path)
        if saved is not None:
            checkpoint.restore(self.model, saved)
        return saved, content

    def resume(self) -> None:
        """Puts the run where its newest checkpoint is."""
        saved = None
        if self.leads:
            assert self.path is not None
            saved, self.content = self.restored(self.path, self.log.say)
        saved = self.processes.shared(saved, self.device)
        if saved is None:
            self.log.say("no checkpoint yet, starting at step 0")
            return
        checkpoint.restore(self.model, saved)
        self.step = self.saved_step = self.content.saved_step = saved["step"]
        self.elapsed = self.elapsed_before = saved["elapsed"]
        self.restore(saved)
        self.log.say(f"resumed at step {self.step}")

    def optimise(self) -> None:
        """Goes on until the run has ended or is asked to stop, with checkpoints on the way."""
        if self.ending() is None:
            limits = (self.limits.steps, self.limits.seconds)
            with ProgressDisplay(self.log, *limits, self.form) as display:
                self.advance(_Recorder(self, display))
        if self.saved_step != self.step:
            self.save()

    def ending(self) -> str | None:
        """Why the optimisation is over, None if it is not."""
        if self.step >= self.limits.steps:
            return "finished"
        if self.converged():
            return "converged"
        if self.limits.seconds is not None and self.elapsed >= self.limits.seconds:
            return "budget"
        return None

    @property
    def ended(self) -> str:
        """Why a run is over that was not asked to stop."""
        return self.ending() or "budget"  # of a process whose clock is ahead

    def save(self) -> None:
        """History first, then the checkpoint: whatever happens in between, the history reaches it.

        Raises FloatingPointError on all processes, with the files as they were, if one of them
        holds anything that is not finite.
        """
        state = self.optimizer_state()
        sound = all(bool(p.isfinite().all()) for p in self.model.parameters())
        sound = sound and checkpoint.is_sound(state)
        if not bool(self.processes.gathered(torch.tensor([sound])).all()):
            raise FloatingPointError(f"the update of step {self.step} is not finite")
        generators = self.processes.gathered(self.generator.get_state()[None])  # (W, S)
        if self.leads and self.path is not None:
            self.content.write(self.path / "run.h5")
            checkpoint.save(
                self.path / "checkpoints",
                step=self.step,
                elapsed=self.elapsed,
                config=self.saved_config(),
                model=self.model.state_dict(),
                optimizer=state,
                generators=generators,
            )
        self.saved_step = self.content.saved_step = self.step

    def report(self, status: str) -> dict[str, Any]:
        """Writes summary.json (process 0) and returns its content."""
        notes = {"notes": list(self.notes)} if self.notes else {}
        self.result = self.summarise(status) | notes
        if self.leads and self.path is not None:
            summary.write(self.path / "summary.json", self.result)
        return self.result

    def interrupted(self, signum: int) -> int:
        """A signal came: everything up to the last step is saved, and the result if there is one;
        says how to go on."""
        if self.status is not None:
            name = signal.Signals(signum).name
            self.notes.append(f"stopped by {name} once the result was saved")
            self.report(self.status)
            self.log.say(self.notes[-1])
            return 128 + signum
        self.show_so_far(self.report("interrupted"))
        self.log.say(f"stopped at step {self.step}; resume with: {self.resume_command}")
        return 128 + signum

    def failed(self, reason: str) -> int:
        """A step is not finite: keeps the last good checkpoint and says so."""
        self.report("failed")
        where = f"step {self.saved_step}" if self.saved_step >= 0 else "none yet"
        self.failure = f"{reason}; last good checkpoint: {where}. {self.advice}"
        if self.leads and self.path is not None:
            self.content.write(self.path / "run.h5")
        self._complain(f"error: {self.failure}", everywhere=False)
        return 1

    def lost(self, reason: str) -> int:
        """Another process is gone: whoever is left says so, as process 0 may be the one that
        died."""
        self.report("lost")
        self._complain(
            f"error: process {self.processes.rank} of {self.processes.size} lost another one "
            f"({reason}); resume at step {max(self.saved_step, 0)} with: {self.resume_command}",
            everywhere=True,
        )
        return 1

    def _complain(self, line: str, everywhere: bool) -> None:
        self.log.note(line)
        if (self.leads or everywhere) and not self._quiet:
            tell(line, sys.stderr)


class _Recorder:
    """Called after each step: keeps the history, shows it, saves it, says when to stop."""

    def __init__(self, run: ResumableRun, display: ProgressDisplay) -> None:
        self._run, self._display = run, display
        self._started = self._saved = time.monotonic()

    def __call__(self, record: Record) -> bool:
        """True stops the loop. Raises FloatingPointError for a step that must not be kept."""
        run = self._run
        check_finite(record, run.finite)
        now = time.monotonic()
        run.step = int(record["step"])
        run.elapsed = run.elapsed_before + now - self._started
        run.content.append(record, run.elapsed)
        due = run.step % run.limits.checkpoint_every == 0
        due = due or now - self._saved >= CHECKPOINT_SECONDS
        wishes = torch.tensor([[run.stop.received or 0, run.ending() is not None, due]])
        signum, over, due = run.processes.gathered(wishes).amax(0).tolist()
        if signum:
            run.stop.received = signum
        last = bool(signum or over)
        self._display.update(record, run.elapsed, last)
        if last or due:
            run.save()
            self._saved = now
        return last


def check_finite(record: Record, names: Sequence[str]) -> None:
    """Raises FloatingPointError naming the step and the quantity that is not finite."""
    for name in names:
        if not math.isfinite(record[name]):
            raise FloatingPointError(
                f"the {name.replace('_', ' ')} of step {record['step']:.0f} is not finite"
            )
