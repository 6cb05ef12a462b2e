"""The run of a family: what its steps are, what a checkpoint holds, what its result is.

The result is a check: fresh evaluations at a few couplings that no step chose, each with exact
diagonalisation where that is possible and a verdict of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor

from hamiltonians.exact import ground_state
from nqs.errors import shown
from nqs.families.points import Point, checks, point_at
from nqs.families.start import start_from_product_states
from nqs.families.summary import lines, summarise
from nqs.ground_states.build import Job
from nqs.ground_states.config import RESUMABLE
from nqs.ground_states.evaluations import remarks
from nqs.ground_states.ground_state_run import PROGRAM, draw
from nqs.ground_states.judgement import warning_about
from nqs.ground_states.members import Members, conditional
from nqs.ground_states.run_file import REQUIRED, check_evaluation
from nqs.ground_states.run_folder import portable
from nqs.ground_states.saved_state import restore_generator, restore_optimizer
from nqs.ground_states.step_lines import FORM
from nqs.runfolder import checkpoint
from nqs.runfolder.history import Column, Evaluation
from nqs.runfolder.machine import build_generator, derived_seed
from nqs.runfolder.progress import Record
from nqs.runfolder.resumable_run import Limits, ResumableRun
from nqs.vmc.draw_shares import DrawShares
from nqs.vmc.optimise_family import FamilyRecord, optimise_family
from nqs.vmc.optimizers.natural_gradient import NaturalGradient
from nqs.wavefunctions.conditional import Conditional

CPU: Final = torch.device("cpu")


@final
class FamilyRun(ResumableRun):
    """One process working on a family.

    Attributes:
        job: the network, optimizer and energies, in the middle of the ranges.
        members: H(c).
        psi: the state.
        points: the checks, once they are done.
    """

    form = FORM
    finite = ("energy", "energy_error", "variance", "gradient_norm", "learning_rate")
    required = REQUIRED
    resumable = RESUMABLE

    def __init__(self, job: Job, members: Members, program: Sequence[str] = PROGRAM) -> None:
        train = job.config.train
        limits = Limits(train.steps, train.max_seconds, train.checkpoint_every)
        assert isinstance(job.optimizer, NaturalGradient)
        columns = (*FamilyRecord.columns, *job.optimizer.columns, *job.energies.columns)
        own = [Column(*column) for column in columns]
        super().__init__(limits, own, job.device, program, job.ranks)
        self.job, self.members = job, members
        self.psi: Conditional = conditional(job, members)
        self.shares = DrawShares(members.of_all_sites)
        self.points: list[Point] = []
        self.listener: Callable[[FamilyRecord], None] = lambda record: None

    @property
    def model(self) -> Conditional:
        return self.psi

    @property
    def n_parameters(self) -> int:
        """Of the state."""
        return sum(parameter.numel() for parameter in self.psi.parameters())

    @property
    def generator(self) -> torch.Generator:
        return self.job.generator

    def saved_config(self) -> dict[str, Any]:
        return portable(self.job.config)

    def optimizer_state(self) -> Mapping[str, Any]:
        return {**self.job.optimizer.state_dict(), "shares": self.shares.state_dict()}

    def check_evaluation(self, evaluation: Evaluation) -> None:
        check_evaluation(evaluation)

    def describe(self) -> list[str]:
        job, ranks = self.job, self.job.ranks
        where = f"{job.device}" if ranks.size == 1 else f"{ranks.size} x {job.device.type}"
        varied = ", ".join(f"{each.name} {each.law}" for each in self.members.couplings)
        warning = warning_about(job)
        return [
            f"family of {job.hamiltonian.describe()}",
            f"varied: {varied}",
            f"{job.config.model.name}, {self.n_parameters} parameters, on {where}",
            *([] if warning is None else [warning]),
        ]

    def begin(self) -> None:
        start_from_product_states(self.job, self.members, self.psi)
        state = self.job.ranks.shared(dict(self.psi.state_dict()), self.job.device)
        self.psi.load_state_dict(state)

    def restore(self, saved: Mapping[str, Any]) -> None:
        job = self.job
        restore_optimizer(job.optimizer, saved, self.n_parameters)
        with checkpoint.fitting(saved):
            self.shares.load_state_dict(saved["optimizer"]["shares"])
        last = {name: values[-1] for name, values in self.content.columns.items() if values}
        if last:
            job.energies.restore(last)
        restore_generator(job, saved["generator"], self.step, self.log.say)

    def couplings(self, step: int) -> Tensor:
        """c (C, n) of a step: a function of the seed and the step alone."""
        config = self.job.config
        seed = derived_seed(config.seed, "couplings", (step,))
        return self.members.drawn(config.family.couplings, torch.Generator().manual_seed(seed))

    def advance(self, after_step: Callable[[Record], bool]) -> None:
        job = self.job
        assert isinstance(job.optimizer, NaturalGradient)

        def seen(record: FamilyRecord) -> bool:
            self.listener(record)
            return after_step(record.row())

        optimise_family(
            self.psi,
            lambda c: self.members.at(c).to(job.device),
            job.optimizer,
            couplings=self.couplings,
            energies=job.energies,
            shares=self.shares,
            n_steps=job.config.train.steps,
            n_samples=job.config.train.n_samples,
            generator=job.generator,
            first_step=self.step,
            ranks=job.ranks,
            after_step=seen,
        )

    def conclude(self) -> int:
        """The checks, files and the last lines."""
        train, seed, ranks = self.job.config.train, self.job.config.seed, self.job.ranks
        couplings = checks(self.members, build_generator(seed, "checks", CPU))
        n_each = max(2 * ranks.size, train.eval_samples // len(couplings))
        self.log.say(f"checking {len(couplings)} couplings with {n_each} fresh samples each")
        points = []
        for c in couplings:
            point = point_at(
                self.job, self.members, self.psi, c, n_each, seed, self.step, kind="check"
            )
            points.append(point)
            if self.leads:
                self.content.keep(point.evaluation)
        if not self.leads:
            return 0
        self.points, self.status = points, self.ended
        if self.path is not None:
            self.content.write(self.path / "run.h5")
        self.report(self.status)
        code = self._compare() if self.job.exact else 0
        self.report(self.status)
        self._draw()
        for line in lines(self.result):
            self.log.say(line)
        return code

    def _compare(self) -> int:
        """Exact diagonalisation at each check; returns the exit code, 1 if it was asked for and
        failed."""
        job, done = self.job, True
        for point in self.points:
            try:
                point.compare(ground_state)
            except Exception as error:  # whatever it dies of, the result is saved
                reason = " ".join(str(error).split())[:200] or "no reason given"
                self.notes.append(f"comparison: failed ({type(error).__name__}: {reason})")
                self.log.say(self.notes[-1])
                done = False
                break
        return 0 if done or shown(job.config.train.exact) != "true" else 1

    def _draw(self) -> None:
        if self.path is None:
            return
        try:
            draw(self.path, self.content, self.result)
        except Exception as error:  # the result is saved
            reason = " ".join(str(error).split())[:200] or "no reason given"
            self.notes.append(f"picture: failed ({type(error).__name__}: {reason})")
            self.log.say(self.notes[-1])
            self.report(self.status or "finished")

    def summarise(self, status: str) -> dict[str, Any]:
        job = self.job
        variances = np.asarray(self.content.columns["variance"][-10:])
        content = summarise(
            status=status,
            ranges=list(job.config.family.ranges)
            or [f"{each.name}={each.law}" for each in self.members.couplings],
            points=self.points,
            warning=warning_about(job),
            variance=float(variances.mean()) if len(variances) else None,
            n_sites=job.hamiltonian.n_sites,
            n_parameters=self.n_parameters,
            steps=self.step,
            wall_seconds=self.wall_seconds,
            seed=job.config.seed,
        )
        return content | remarks(self.content)
