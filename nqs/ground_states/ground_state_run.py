"""A ground-state run: what its steps are, what a checkpoint of it holds, what its result is.

The result first: the evaluation is on disk before exact diagonalisation and the picture, which may
fail, are tried.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import torch

from hamiltonians.exact import ground_state
from nqs.errors import InputError, shown
from nqs.ground_states import summary
from nqs.ground_states.build import EXACT_GIGABYTES, Job
from nqs.ground_states.config import RESUMABLE
from nqs.ground_states.evaluations import evaluated, remarks, start_evaluation
from nqs.ground_states.judgement import Judgement, warning_about
from nqs.ground_states.judgement import remarks as remarks_on
from nqs.ground_states.kept_start import (
    StartState,
    as_raised,
    begin_anew,
    is_above,
    is_below,
    line_about,
    remark,
)
from nqs.ground_states.older_config import current
from nqs.ground_states.plateau import no_longer_pays
from nqs.ground_states.run_file import REQUIRED, check_evaluation
from nqs.ground_states.run_folder import START, portable
from nqs.ground_states.saved_state import restore_generator, restore_optimizer
from nqs.ground_states.stages import grow
from nqs.ground_states.start import put_at_start, put_in_place, starting_file
from nqs.ground_states.step_lines import FORM
from nqs.runfolder.history import Column, Evaluation, RunFile
from nqs.runfolder.progress import Record
from nqs.runfolder.resumable_run import Limits, ResumableRun
from nqs.runfolder.signals import Interrupted
from nqs.vmc.energies.flip_precision import steps_by_precision
from nqs.vmc.optimise import StepRecord, optimise
from nqs.wavefunctions.wavefunction import Wavefunction

BACK: Final = "steps_back"
"""The column of an optimizer that goes back where the energy rises."""
PROGRAM: Final = ("python", "train.py")


@final
class GroundStateRun(ResumableRun):
    """One process working on a ground-state run.

    Attributes:
        job: what is optimised.
        warning: what qualifies the energy, None if nothing does.
        evaluation: the final one, once it is there.
        exact_energy: of exact diagonalisation, once it is there.
    """

    form = FORM
    finite = ("energy", "energy_error", "variance", "gradient_norm", "learning_rate")
    required = REQUIRED
    resumable = RESUMABLE

    def __init__(
        self, job: Job, program: Sequence[str] = PROGRAM, *, until_plateau: bool = False
    ) -> None:
        """until_plateau: end before the last step once the energy no longer falls."""
        train = job.config.train
        limits = Limits(train.steps, train.max_seconds, train.checkpoint_every)
        super().__init__(limits, step_columns(job), job.device, program, job.ranks)
        self.job, self.warning = job, warning_about(job)
        self.evaluation: Evaluation | None = None
        self.exact_energy: float | None = None
        self._judgement = Judgement(job)
        self._until_plateau, self._had_plateau = until_plateau, False
        self._start: StartState | None = None
        self._uncompared: list[str] = []

    @property
    def model(self) -> Wavefunction:
        return self.job.wavefunction

    @property
    def quiet(self) -> bool:
        """Whether nothing is printed."""
        return self._quiet

    def stage(self, job: Job) -> GroundStateRun:
        """A run of a smaller array before this one."""
        return GroundStateRun(job, self.program, until_plateau=True)

    @property
    def generator(self) -> torch.Generator:
        return self.job.generator

    def current(self, written: Mapping[str, Any]) -> Mapping[str, Any]:
        return current(written)

    def saved_config(self) -> dict[str, Any]:
        return portable(self.job.config)

    def optimizer_state(self) -> Mapping[str, Any]:
        return self.job.optimizer.state_dict()

    def check_evaluation(self, evaluation: Evaluation) -> None:
        check_evaluation(evaluation)

    def describe(self) -> list[str]:
        job, ranks = self.job, self.job.ranks
        where = f"{job.device}" if ranks.size == 1 else f"{ranks.size} x {job.device.type}"
        return [
            job.hamiltonian.describe(),
            f"{job.config.model.name}, {job.n_parameters} parameters, on {where}",
            *([] if self.warning is None else [self.warning]),
        ]

    def restore(self, saved: Mapping[str, Any]) -> None:
        restore_optimizer(self.job.optimizer, saved, self.job.n_parameters)
        last = {name: values[-1] for name, values in self.content.columns.items() if values}
        if last:
            self.job.energies.restore(last)
        restore_generator(self.job, saved["generator"], self.step, self.log.say)
        (self._had_plateau,) = self.job.ranks.shared([self._has_plateau()])

    def converged(self) -> bool:
        return self._had_plateau or self._has_plateau()

    def _has_plateau(self) -> bool:
        """Whether the history, of which rank 0 alone has all, says so."""
        columns = self.content.columns
        # the first half of the schedule takes long, noisy steps
        judged = self._until_plateau and self.leads and 2 * self.step >= self.limits.steps
        return judged and no_longer_pays(columns["energy"], columns["energy_error"])

    def begin(self) -> None:
        job, train = self.job, self.job.config.train
        if train.grow:
            self.elapsed = self.elapsed_before = grow(self)
            self._started = time.monotonic()  # the stages are counted
        elif self.path is None:
            starting_file(job)  # which puts the parameters in place, too
        if self.leads and not (self.path is None and train.starts_warm):
            put_at_start(job, self.path, self.log.say)
        state = job.ranks.shared(dict(job.wavefunction.state_dict()), job.device)
        job.wavefunction.load_state_dict(state)
        if train.starts_warm:
            self._start = StartState.of(job)
            self.content.keep(start_evaluation(job))

    @property
    def start(self) -> StartState | None:
        """The parameters that the run started from, where these were trained before; None where
        they are not to be had."""
        if self._start is None and self.leads and self.job.config.train.starts_warm:
            file = None if self.path is None else self.path / START
            if file is not None and file.exists():
                self._start = StartState.read(file)
            elif file is not None:
                self.log.say(f"{file} is missing: the run may have ended above its start")
        return self._start

    def advance(self, after_step: Callable[[Record], bool]) -> None:
        before = self._steps_back()

        def seen(record: StepRecord) -> bool:
            nonlocal before
            row = record.row()
            if row.get(BACK, 0) > before:
                before = row[BACK]
                self.log.say(
                    f"step {record.step}: the energy has risen by more than its noise; back to "
                    "where it was lowest, and on with steps half as long"
                )
            return after_step(row)

        advance(self.job, self.step, seen)

    def _steps_back(self) -> float:
        """Returns to a lower energy so far, as recorded."""
        recorded = self.content.columns.get(BACK) or [0.0]
        return 0.0 if math.isnan(recorded[-1]) else recorded[-1]

    def conclude(self) -> int:
        """Final evaluation, exact diagonalisation, files and the last lines."""
        train, seed = self.job.config.train, self.job.config.seed
        self.log.say(f"evaluating with {train.eval_samples} fresh samples")
        evaluation = evaluated(self.job, train.eval_samples, seed, self.step, "final")
        evaluation = self._not_above_start(evaluation)
        if not self.leads:
            return 0
        self.content.keep(evaluation)
        if self.path is not None:
            self.content.write(self.path / "run.h5")
        self.evaluation, self.status = evaluation, self.ended
        self.report(self.status)
        code = self._compare() if self.job.exact else 0
        self.report(self.status)
        if not self.draw():
            self.report(self.status)
        for line in summary.lines(self.result):
            self.log.say(line)
        return code

    def _not_above_start(self, evaluation: Evaluation) -> Evaluation:
        """The final evaluation, or that of the start if the steps have raised the energy: then the
        start's parameters take the place of the last ones, and a resumed run goes on from there."""
        start, job = self.start, self.job
        before = self.content.last("start")
        doubtful = False
        if start is not None and before is not None:
            doubtful = not is_below(evaluation, before) and not start.is_of(job)
        (doubtful,) = job.ranks.shared([doubtful])
        if not doubtful:
            return evaluation
        last = StartState.of(job)
        model = job.ranks.shared(dict(start.model) if start is not None else {}, job.device)
        put_in_place(job, model)
        train = job.config.train
        again = evaluated(job, train.eval_samples, job.config.seed, self.step, "final")
        (raised,) = job.ranks.shared([is_above(evaluation, again)])
        if not raised:
            put_in_place(job, last.model)
            return evaluation
        self.content.keep(as_raised(evaluation))
        begin_anew(job, self.step)
        self.save()
        self.log.say(line_about(evaluation, again))
        return again

    def _compare(self) -> int:
        """Exact diagonalisation; returns the exit code, 1 if it was asked for and failed."""
        job = self.job

        def diagonalise() -> None:
            self.exact_energy = ground_state(
                job.hamiltonian, k=1, n_up=job.config.model.n_up, max_memory_gb=EXACT_GIGABYTES
            ).energy

        done = self._attempt("comparison", diagonalise)
        if not done:
            self._uncompared = [f"exact: the {self.notes[-1].replace(':', '', 1)}"]
        return 0 if done or shown(job.config.train.exact) != "true" else 1

    def draw(self) -> bool:
        """Draws the picture of a run in a folder; returns whether that went well."""
        path = self.path
        return path is None or self._attempt(
            "picture", lambda: draw(path, self.content, self.result)
        )

    def _attempt(self, name: str, action: Callable[[], None]) -> bool:
        """Whether an action went well that the result does not depend on; if not, a note says
        why."""
        try:
            action()
        except Interrupted:
            raise
        except Exception as error:  # whatever it dies of, the result is saved
            reason = " ".join(str(error).split()) or "no reason given"
            self.notes.append(f"{name}: failed ({type(error).__name__}: {reason[:200]})")
            self.log.say(self.notes[-1])
            return False
        return True

    def summarise(self, status: str) -> dict[str, Any]:
        job, evaluation = self.job, self.evaluation
        doubts = []
        if evaluation is not None and self.leads:
            doubts = self._judgement.doubts(evaluation, self.content, self.exact_energy)
            doubts += self._uncompared
        content = summary.summarise(
            status=status,
            n_sites=job.hamiltonian.n_sites,
            n_parameters=job.n_parameters,
            steps=self.step,
            wall_seconds=self.wall_seconds,
            seed=job.config.seed,
            evaluation=evaluation,
            exact_energy=self.exact_energy,
            warning=self.warning,
            flip_precision=steps_by_precision(self.content.columns),
            doubts=doubts,
            remarks=[] if evaluation is None else remarks_on(evaluation),
        )
        return content | remarks(self.content) | remark(self.content)


def step_columns(job: Job) -> list[Column]:
    """What is recorded of each step."""
    columns = (*StepRecord.columns, *job.optimizer.columns, *job.energies.columns)
    return [Column(*column) for column in columns]


def advance(job: Job, first_step: int, after_step: Callable[[StepRecord], bool]) -> None:
    """Steps first_step + 1 .. train.steps of a job as its configuration says."""
    optimise(
        job.wavefunction,
        job.hamiltonian,
        job.optimizer,
        energies=job.energies,
        first_step=first_step,
        n_steps=job.config.train.steps,
        n_samples=job.config.train.n_samples,
        generator=job.generator,
        ranks=job.ranks,
        after_step=after_step,
    )


def draw(path: Path, content: RunFile, result: dict[str, Any]) -> None:
    """convergence.png of a run. Raises InputError for a summary that lacks what it needs."""
    from nqs.ground_states.plot import save_convergence  # matplotlib: slow, and rarely needed

    counts = [result.get(name) for name in ("n_sites", "n_parameters")]
    exact = result.get("exact_energy")
    numbers = [*counts, 0.0 if exact is None else exact]
    if not all(isinstance(n, int | float) and abs(n) < 1e300 for n in numbers) or not counts[0]:
        raise InputError(f"{path / 'summary.json'}: without n_sites, n_parameters or as no run has")
    title = f"{path.name}: {counts[0]} sites, {counts[1]} parameters"
    save_convergence(path / "convergence.png", content, counts[0], exact, title)
