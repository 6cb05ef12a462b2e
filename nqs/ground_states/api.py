"""Ground states from Python: train in memory or in a folder, load what was trained, save it.

Nothing here prints unless it is asked to, ends the interpreter or handles signals: Ctrl-C is a
KeyboardInterrupt as anywhere, and of a run in a folder the last checkpoint stays.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Lattice
from nqs.errors import InputError
from nqs.ground_states import summary
from nqs.ground_states.build import Job
from nqs.ground_states.config import Config
from nqs.ground_states.evaluations import evaluated
from nqs.ground_states.ground_state_run import GroundStateRun
from nqs.ground_states.run import built, open_folder, program
from nqs.ground_states.run_file import read as read_run_file
from nqs.ground_states.run_folder import create, read_config
from nqs.ground_states.saved_state import trained_job
from nqs.runfolder.history import Evaluation, RunFile
from nqs.runfolder.run_config import RunConfig
from nqs.runfolder.summary import write
from nqs.vmc.ranks import ALONE
from nqs.wavefunctions.wavefunction import Wavefunction


@dataclass(frozen=True)
class Trained:
    """A state with all that is known of it.

    Attributes:
        job: the objects that it was trained with, at that state.
        step: optimisation steps done.
        content: history and evaluations.
        summary: the result in numbers, as summary.json has it; empty for a run that has not ended.
        path: its folder, None where it was trained in memory.
        session: what trained it in memory.
    """

    job: Job
    step: int
    content: RunFile
    summary: dict[str, Any]
    path: Path | None
    session: GroundStateRun | None = field(default=None, repr=False)

    @property
    def config(self) -> Config:
        return self.job.config

    @property
    def lattice(self) -> Lattice:
        return self.job.lattice

    @property
    def hamiltonian(self) -> Hamiltonian:
        return self.job.hamiltonian

    @property
    def wavefunction(self) -> Wavefunction:
        return self.job.wavefunction

    @property
    def evaluation(self) -> Evaluation | None:
        """What its energy was reported from, None before the end of the run."""
        return self.content.last("final")

    def evaluate(
        self, n_samples: int = 100_000, seed: int = 1, subsystems: Tensor | None = None
    ) -> Evaluation:
        """A fresh evaluation with all observables; subsystems (S, N) bool, whose Renyi entropies
        are measured. Nothing is written."""
        return evaluated(
            self.job, n_samples, seed, self.step, "later", thorough=True, subsystems=subsystems
        )


def train(job: Job, *, quiet: bool = True) -> Trained:
    """Optimises and evaluates in memory. Raises FloatingPointError for a step that is not finite.

    The numbers are those of the same run in a folder.
    """
    session = GroundStateRun(job)
    with session.at_work(None, quiet=quiet, signals=False):
        session.work(resumes=False)
    return _trained(session)


def run(config: Config, command: Sequence[str] | None = None, *, quiet: bool = True) -> Trained:
    """Runs in the folder config.run.dir, or goes on there with config.run.resume.

    command: for environment.json, by default that of this interpreter.
    Raises InputError as the command `nqs train`, and FloatingPointError for a step that is not
    finite: the last checkpoint stays.
    """
    words = list(sys.orig_argv) if command is None else list(command)
    session = GroundStateRun(built(ALONE, config), program(words))
    path = open_folder(session, words)
    with session.at_work(path, quiet=quiet, signals=False):
        session.work(session.job.config.run.resume)
    return _trained(session)


def _trained(session: GroundStateRun) -> Trained:
    if session.failure is not None:
        raise FloatingPointError(session.failure)
    in_memory = session if session.path is None else None
    return Trained(
        session.job, session.step, session.content, session.result, session.path, in_memory
    )


def load(path: str | Path, device: str = "auto", warn: Callable[[str], None] = print) -> Trained:
    """The state of the run in the folder `path` at its newest sound checkpoint.

    warn: takes a line about a damaged checkpoint that is passed over. Raises InputError for a
    folder without a checkpoint, and for files that are not as they were written.
    """
    path = Path(path)
    config = read_config(path)
    job, step = trained_job(path, config, device, warn)
    content, file = read_run_file(path / "run.h5"), path / "summary.json"
    return Trained(job, step, content, summary.read(file) if file.exists() else {}, path)


def save(trained: Trained, path: str | Path) -> Path:
    """Writes a state that was trained in memory as the folder of a run: `load`, `nqs evaluate` and
    the other commands take it, and it resumes bit for bit. Raises InputError for a folder that is
    not empty, or a state that has one."""
    session = trained.session
    if session is None:
        raise InputError(f"{path}: the state lies in {trained.path}; copy that folder")
    config = trained.config.replace(run=RunConfig(dir=str(path)))
    folder = create(config, trained.hamiltonian.n_sites, list(sys.orig_argv))
    session.job = dataclasses.replace(session.job, config=config)
    with session.at_work(folder, quiet=True, signals=False):
        session.save()
        write(folder / "summary.json", trained.summary)
        session.draw()
    return folder
