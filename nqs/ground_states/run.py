"""The main job: build, (resume,) optimise, evaluate, report; then compare with exact
diagonalisation and draw, which may fail once the result is on disk.

Several processes (see distributed.py) all go this way, each with a session; rank 0 alone
touches the folder and the console.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from hamiltonians.exact.diagonalisation import ground_state
from nqs.errors import InputError, shown
from nqs.ground_states import distributed, summary
from nqs.ground_states.build import EXACT_GIGABYTES, Job, build
from nqs.ground_states.config import Config, TrainConfig
from nqs.ground_states.distributed import together
from nqs.ground_states.start import put_at_start, starting_file, with_source_patches
from nqs.runfolder import checkpoint, folder, history
from nqs.runfolder.console import tell
from nqs.runfolder.folder import writing
from nqs.runfolder.machine import build_generator, derived_seed
from nqs.runfolder.progress import Log, ProgressDisplay
from nqs.runfolder.signals import Interrupted, StopRequests
from nqs.vmc.energies.flip_precision import steps_by_precision
from nqs.vmc.evaluation import evaluate
from nqs.vmc.observables import owner
from nqs.vmc.optimise import StepRecord, optimise
from nqs.vmc.optimizers.optimizer import Optimizer
from nqs.vmc.product_state import product_energy, product_state
from nqs.vmc.ranks import RankLost, Ranks
from nqs.vmc.verdict import Findings
from nqs.vmc.verdict import doubts as doubts_about
from nqs.wavefunctions.symmetrised import Symmetrised

CHECKPOINT_SECONDS: Final = 300.0
"""A checkpoint is at most this old, however slow the steps are."""
MAY_BE_EXCITED: Final = (
    "warning: this Hamiltonian has off-diagonal elements that are not <= 0; the energy is the "
    "lowest among positive states, only an upper bound of the ground state's; see model.phase=true"
)

MAY_HAVE_CHARACTERS: Final = (
    "warning: this Hamiltonian has off-diagonal elements that are not <= 0, and symmetrised states "
    "are those that each symmetry leaves as they are; a ground state of another momentum or parity "
    "is not among them, compare with model.symmetry=none model.spin_flip=false"
)


OWN_NUMBERS: Final = ("variance_outside", "excess", "largest_share")
"""Of an evaluation, besides what every version has had."""


@dataclass
class Session:
    """One process working on a run.

    Attributes:
        path: the run's folder.
        job: what is optimised.
        content: history and evaluations, the content of run.h5.
        step: steps done.
        elapsed_before: seconds of optimisation in earlier sessions.
        elapsed: seconds of optimisation, all sessions.
        saved_step: step of the newest checkpoint, -1 before the first.
        warning: what qualifies the energy, None if nothing does.
        notes: what did not work beside the result, and what is to be said about its files.
        evaluation: the final one, once it is there.
        exact_energy: of exact diagonalisation, once it is there.
        product: energy and error of the best product state, where it was asked for.
    """

    path: Path
    job: Job
    log: Log
    stop: StopRequests
    content: history.RunFile = field(default_factory=history.RunFile)
    step: int = 0
    elapsed_before: float = 0.0
    elapsed: float = 0.0
    saved_step: int = -1
    warning: str | None = None
    notes: list[str] = field(default_factory=list)
    evaluation: history.Evaluation | None = None
    exact_energy: float | None = None
    product: tuple[float, float] | None = None
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.content.declare(step_columns(self.job))

    @property
    def config(self) -> Config:
        """The run's configuration."""
        return self.job.config

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.job.ranks.rank == 0

    @property
    def wall_seconds(self) -> float:
        """Optimisation of earlier sessions and all of this one."""
        return self.elapsed_before + time.monotonic() - self.started

    @property
    def resume_command(self) -> str:
        """How to go on."""
        word = f"run.dir={self.path}"
        if not re.fullmatch(r"[A-Za-z0-9_./+-]+", str(self.path)):  # quoted for Hydra
            word = shlex.quote(f"run.dir='{self.path}'")
        command = distributed.started_by(["python", "train.py"])
        return f"{shlex.join(command)} {word} run.resume=true"

    def report(self, status: str) -> dict[str, Any]:
        """Writes summary.json (rank 0) and returns its content."""
        content = summary.summarise(
            status=status,
            n_sites=self.job.hamiltonian.n_sites,
            n_parameters=self.job.n_parameters,
            steps=self.step,
            wall_seconds=self.wall_seconds,
            seed=self.config.seed,
            evaluation=self.evaluation,
            exact_energy=self.exact_energy,
            warning=self.warning,
            flip_precision=steps_by_precision(self.content.columns),
            doubts=judged(self),
        )
        content |= remarks(self.content, self.notes)
        if self.leads:
            summary.write(self.path / "summary.json", content)
        return content


def step_columns(job: Job) -> list[history.Column]:
    """What is recorded of each step."""
    columns = (*StepRecord.columns, *job.optimizer.columns, *job.energies.columns)
    return [history.Column(*column) for column in columns]


def judged(session: Session) -> list[str]:
    """What speaks against the final energy, none before there is one. The result is saved even if
    it cannot be judged."""
    if session.evaluation is None or not session.leads:
        return []
    try:
        return findings(session, session.evaluation)
    except Exception as error:  # of a user's Hamiltonian, say
        reason = " ".join(str(error).split())[:200]
        return [f"unjudged: the verdict failed ({type(error).__name__}: {reason})"]


def findings(session: Session, evaluation: history.Evaluation) -> list[str]:
    """What nqs.vmc.verdict finds."""
    numbers, columns = evaluation.numbers, session.content.columns
    start = session.content.last("start")
    names = ("energy", "energy_error", "variance", "variance_outside", "excess", "largest_share")
    density, error = map(torch.from_numpy, evaluation.observables["density"])
    found = Findings(
        **{name: numbers[name] for name in names},
        density=(density, error),
        history=(columns["energy"], columns["energy_error"]),
        start=None if start is None else (start.numbers["energy"], start.numbers["energy_error"]),
        product=product_bound(session, start is not None),
        exact_energy=session.exact_energy,
        warning=session.warning and session.warning.removeprefix("warning: "),
    )
    return doubts_about(found, session.job.hamiltonian.to("cpu"), session.job.lattice)


def product_bound(session: Session, elsewhere: bool) -> tuple[float, float] | None:
    """Energy and standard error of the best product state, where the run started `elsewhere` and
    any number of 1 bits is allowed: worked out once."""
    job = session.job
    if elsewhere and job.config.model.n_up is None and session.product is None:
        generator = build_generator(session.config.seed, "product_state", job.device)
        chances = product_state(job.hamiltonian, generator)
        session.product = product_energy(job.hamiltonian, chances, generator)
    return session.product


def remarks(content: history.RunFile, notes: Sequence[str]) -> dict[str, Any]:
    """What a summary has besides the result, where there is any: notes, the energy of the state
    that the run started from (train.start_from), and what `nqs evaluate` has measured."""
    found: dict[str, Any] = {"notes": list(notes)} if notes else {}
    start = content.last("start")
    if start is not None:
        found["start_energy"] = start.numbers["energy"]
        found["start_energy_error"] = start.numbers["energy_error"]
    later = [e.numbers for e in content.evaluations if e.numbers["kind"] == "later"]
    if later:
        found["later_evaluations"] = [
            {name: value for name, value in numbers.items() if name != "kind"} for numbers in later
        ]
    return found


def run(config: Config, command: Sequence[str]) -> int:
    """Runs or resumes; returns the exit code: 0, 1 (not a number, a process lost, a comparison that
    was asked for failed) or 128 + signal.

    Raises InputError before anything is done if the configuration cannot be run, and later if a
    file cannot be written (disk full): the last checkpoint stays.
    """
    return run_loaded(lambda: config, command)


def run_loaded(load: Callable[[], Config], command: Sequence[str]) -> int:
    """`run` with the configuration that `load` returns, or refuses by an InputError: of several
    processes all refuse what one does."""
    config = refusal = None
    try:
        config = load()
    except InputError as error:
        if distributed.number("WORLD_SIZE", 1) == 1:
            raise
        refusal = error
    timeout = TrainConfig.rank_timeout if config is None else config.train.rank_timeout

    def loaded() -> Config:
        if config is None:
            raise InputError(str(refusal))
        return config

    try:
        with distributed.joined(timeout) as ranks:
            return run_on(ranks, together(ranks, loaded), command)
    except RankLost as error:
        tell(f"error: lost another process before the first step ({error})", sys.stderr)
        return 1


def run_on(ranks: Ranks, config: Config, command: Sequence[str]) -> int:
    """`run` on processes that have joined."""
    job = built(ranks, config)
    notes: list[str] = []
    command = distributed.started_by(command)
    path = Path(agreed(ranks, lambda: str(open_folder(job, command, notes))))
    with writer(path, ranks) as log, StopRequests() as stop:
        session = Session(path, job, log, stop, notes=notes)
        try:
            prepare(session)
            train(session)
            return finish(session)
        except Interrupted as interruption:
            return interrupted(session, interruption.signum)
        except FloatingPointError as error:
            return failed(session, str(error))
        except RankLost as error:
            return lost(session, str(error))


def built(ranks: Ranks, config: Config) -> Job:
    """The objects of the run. Raises InputError on all ranks if one of them cannot build them, or
    if they would work on different ones."""

    def settled() -> Config:
        return config if config.run.resume else with_source_patches(config)

    config = together(ranks, settled)
    if ranks.size > 1:
        distributed.check_alike(ranks, together(ranks, lambda: distributed.passport(config)))
    job = together(ranks, lambda: build(config, ranks))
    distributed.check_alike(ranks, {"kind of device": job.device.type})
    return job


def agreed(ranks: Ranks, action: Callable[[], str]) -> str:
    """What `action` returns on rank 0, on all ranks; so are the InputErrors that it raises."""
    found = refusal = None
    if ranks.rank == 0:
        try:
            found = action()
        except InputError as error:
            refusal = str(error)
    found, refusal = ranks.shared([found, refusal])
    if refusal is not None:
        raise InputError(refusal)
    return str(found)


@contextlib.contextmanager
def writer(path: Path, ranks: Ranks) -> Iterator[Log]:
    """The log, with the folder locked; that of a rank that does not write leads nowhere."""
    if ranks.rank > 0:
        with open(os.devnull, "w") as nowhere, Log(Path(os.devnull), nowhere) as log:
            yield log
        return
    with folder.locked(path), writing(path), Log(path / "run.log", sys.stdout) as log:
        yield log


def open_folder(job: Job, command: Sequence[str], notes: list[str]) -> Path:
    """The folder of a new run, or of the one to resume; adds to notes what is to be said of it."""
    config = job.config
    if not config.run.resume:
        start = starting_file(job)
        return folder.create(config, job.hamiltonian.n_sites, command, start)
    assert config.run.dir is not None
    path = Path(config.run.dir)
    with writing(path), folder.locked(path):
        restored(path, job, warn=lambda line: None)  # refuse before a file of the run is touched
        notes += folder.reopen(path, config, command)
    return path


def prepare(session: Session) -> None:
    """Says what is about to run and restores the newest checkpoint of a resumed run."""
    job, log = session.job, session.log
    log.say(f"{job.hamiltonian.describe()}")
    where = f"{job.device}" if job.ranks.size == 1 else f"{job.ranks.size} x {job.device.type}"
    log.say(f"{session.config.model.name}, {job.n_parameters} parameters, on {where}")
    log.say(f"files in {session.path}")
    session.warning = doubts(job)
    if session.warning is not None:
        log.say(session.warning)
    for note in session.notes:
        log.say(note)
    if session.config.run.resume:
        resume(session)
    if session.step == 0:
        if session.leads:
            put_at_start(job, session.path, log.say)
        state = job.ranks.shared(dict(job.wavefunction.state_dict()), job.device)
        job.wavefunction.load_state_dict(state)
        if session.config.train.start_from is not None:
            session.content.keep(start_evaluation(session))


def start_evaluation(session: Session) -> history.Evaluation:
    """Of the parameters that the run starts from, lest it end above them unnoticed. Its draws are
    its own: the run goes on as without it."""
    job, config = session.job, session.config
    n_samples = max(config.train.n_samples, 2 * job.ranks.size)
    return evaluated(job, n_samples, config.seed, 0, "start", thorough=False)


def doubts(job: Job) -> str | None:
    """What qualifies the energy: states that the wavefunction cannot be. None if nothing does."""
    if job.hamiltonian.is_stoquastic:
        return None  # Perron-Frobenius: a positive ground state, of every symmetry's trivial kind
    if not job.config.model.phase:
        return MAY_BE_EXCITED
    return MAY_HAVE_CHARACTERS if isinstance(job.wavefunction, Symmetrised) else None


def restored(path: Path, job: Job, warn: Any) -> tuple[dict[str, Any] | None, history.RunFile]:
    """The newest checkpoint (None before the first), its parameters in place, and the history up
    to its step."""
    content = history.read(path / "run.h5")
    saved = checkpoint.newest(path / "checkpoints", folder.portable(job.config), job.device, warn)
    content.truncate(0 if saved is None else saved["step"], path)
    if saved is not None:
        checkpoint.restore(job.wavefunction, saved)
    return saved, content


def resume(session: Session) -> None:
    """Puts the session where the newest checkpoint was."""
    job, saved = session.job, None
    if session.leads:
        saved, session.content = restored(session.path, job, session.log.say)
        session.content.declare(step_columns(job))
    saved = job.ranks.shared(saved, job.device)
    if saved is None:
        session.log.say("no checkpoint yet, starting at step 0")
        return
    checkpoint.restore(job.wavefunction, saved)
    checkpoint.restore_optimizer(job.optimizer, saved, job.n_parameters)
    session.step = session.saved_step = session.content.saved_step = saved["step"]
    session.elapsed = session.elapsed_before = saved["elapsed"]
    last = {name: values[-1] for name, values in session.content.columns.items() if values}
    if last:
        job.energies.restore(last)
    session.log.say(f"resumed at step {session.step}")
    restore_generator(session, torch.atleast_2d(saved["generator"]).cpu())


def restore_generator(session: Session, states: Tensor) -> None:
    """This rank's of the saved states (W, S), or, where others were saved, one of its own."""
    job = session.job
    if states.shape == (job.ranks.size, len(job.generator.get_state())):
        job.generator.set_state(states[job.ranks.rank].clone())  # torch crashes on a view
        return
    key = (job.ranks.rank, session.step)
    job.generator.manual_seed(derived_seed(session.config.seed, "samples", key))
    session.log.say(
        f"saved with {len(states)} generators, for another number of processes or kind of device: "
        f"the samples go on differently, seeded anew by seed, process and step {session.step}"
    )


def train(session: Session) -> None:
    """Optimises up to train.steps or the end of the budget, with checkpoints on the way."""
    config, job = session.config, session.job
    if session.step < config.train.steps and not out_of_time(session):
        with ProgressDisplay(session.log, config.train.steps, config.train.max_seconds) as display:
            advance(job, session.step, Recorder(session, display))
    if session.saved_step != session.step:
        save(session)


def advance(job: Job, first_step: int, after_step: Callable[[StepRecord], bool]) -> None:
    """Steps first_step + 1 .. train.steps of a job as its configuration says."""
    config = job.config.train
    optimise(
        job.wavefunction,
        job.hamiltonian,
        job.optimizer,
        energies=job.energies,
        first_step=first_step,
        n_steps=config.steps,
        n_samples=config.n_samples,
        generator=job.generator,
        ranks=job.ranks,
        after_step=after_step,
    )


def out_of_time(session: Session) -> bool:
    """Whether the optimisation has used up its budget."""
    budget = session.config.train.max_seconds
    return budget is not None and session.elapsed >= budget


class Recorder:
    """Called after each step: keeps the history, shows it, saves it, says when to stop.

    Clocks differ and a signal may reach one process only: what one of them wants, all do.
    """

    def __init__(self, session: Session, display: ProgressDisplay) -> None:
        self._session = session
        self._display = display
        self._started = self._saved = time.monotonic()

    def __call__(self, record: StepRecord) -> bool:
        """True stops the loop. Raises FloatingPointError for a step that must not be kept."""
        session, config = self._session, self._session.config
        check_finite(record)
        now = time.monotonic()
        session.step += 1
        session.elapsed = session.elapsed_before + now - self._started
        session.content.append(record.row(), session.elapsed)
        due = session.step % config.train.checkpoint_every == 0
        due = due or now - self._saved >= CHECKPOINT_SECONDS
        wishes = torch.tensor([[session.stop.received or 0, out_of_time(session), due]])
        signum, late, due = session.job.ranks.gathered(wishes).amax(0).tolist()
        if signum:
            session.stop.received = signum
        stop = bool(signum or late)
        last = stop or session.step == config.train.steps
        self._display.update(record, session.elapsed, last)
        if last or due:
            save(session)
            self._saved = now
        return stop


def check_finite(record: StepRecord) -> None:
    """Raises FloatingPointError naming the step and the quantity."""
    row = record.row()
    names = ("energy", "energy_error", "variance", *(column.name for column in Optimizer.columns))
    for name in names:
        if not math.isfinite(row[name]):
            raise FloatingPointError(
                f"the {name.replace('_', ' ')} of step {record.step:.0f} is not finite"
            )


def save(session: Session) -> None:
    """History first, then the checkpoint: whatever happens in between, the history reaches it.

    Raises FloatingPointError on all ranks, with the files as they were, if one of them holds
    anything that is not finite.
    """
    job = session.job
    model, optimizer = job.wavefunction.state_dict(), job.optimizer.state_dict()
    sound = all(bool(p.isfinite().all()) for p in job.wavefunction.parameters())
    sound = sound and checkpoint.is_sound(optimizer)
    if not bool(job.ranks.gathered(torch.tensor([sound])).all()):
        raise FloatingPointError(f"the update of step {session.step} is not finite")
    generators = job.ranks.gathered(job.generator.get_state()[None])  # (W, S)
    if session.leads:
        session.content.write(session.path / "run.h5")
        checkpoint.save(
            session.path / "checkpoints",
            step=session.step,
            elapsed=session.elapsed,
            config=folder.portable(session.config),
            model=model,
            optimizer=optimizer,
            generators=generators,
        )
    session.saved_step = session.content.saved_step = session.step


def finish(session: Session) -> int:
    """Final evaluation, exact diagonalisation, files and the last lines; returns the exit code.

    The evaluation draws from its own generator: its number depends on the parameters and the seed,
    not on where the run was interrupted.
    """
    session.stop.immediate()
    job, config = session.job, session.config
    session.log.say(f"evaluating with {config.train.eval_samples} fresh samples")
    evaluation = evaluated(job, config.train.eval_samples, config.seed, session.step, "final")
    return conclude(session, evaluation) if session.leads else 0


def conclude(session: Session, evaluation: history.Evaluation) -> int:
    """What rank 0 does once the evaluation is there: first it is on disk, then comes what may
    fail."""
    session.content.keep(evaluation)
    session.content.write(session.path / "run.h5")
    session.evaluation = evaluation
    status = ended(session)
    session.report(status)
    code = compare(session) if session.job.exact else 0
    result = session.report(status)
    if not attempt(session, "picture", lambda: draw(session.path, session.content, result)):
        result = session.report(status)
    for line in summary.lines(result):
        session.log.say(line)
    return code


def ended(session: Session) -> str:
    """The status of a run with its result."""
    return "finished" if session.step >= session.config.train.steps else "budget"


def compare(session: Session) -> int:
    """Exact diagonalisation; returns the exit code, 1 if it was asked for and failed."""
    job, config = session.job, session.config

    def diagonalise() -> None:
        session.exact_energy = ground_state(
            job.hamiltonian, k=1, n_up=config.model.n_up, max_memory_gb=EXACT_GIGABYTES
        ).energy

    done = attempt(session, "comparison", diagonalise)
    return 0 if done or shown(config.train.exact) != "true" else 1


def attempt(session: Session, name: str, action: Callable[[], None]) -> bool:
    """Whether an action went well that the result does not depend on; if not, a note says why."""
    try:
        action()
    except Interrupted:
        raise
    except Exception as error:  # whatever it dies of, the result is saved
        reason = " ".join(str(error).split()) or "no reason given"
        session.notes.append(f"{name}: failed ({type(error).__name__}: {reason[:200]})")
        session.log.say(session.notes[-1])
        return False
    return True


def evaluated(
    job: Job,
    n_samples: int,
    seed: int,
    step: int,
    kind: str,
    *,
    thorough: bool | None = None,
    subsystems: Tensor | None = None,
) -> history.Evaluation:
    """A fresh evaluation as run.h5 keeps it; thorough and subsystems as for `evaluate`."""
    stream = "start" if kind == "start" else "evaluation"
    generator = build_generator(seed, stream, job.device, job.ranks.rank)
    result = evaluate(
        job.wavefunction,
        job.hamiltonian,
        n_samples,
        generator,
        lattice=job.lattice,
        thorough=thorough,
        subsystems=subsystems,
        ranks=job.ranks,
    )
    names = ("energy", "energy_error", "variance", "v_score", "n_samples", *OWN_NUMBERS)
    numbers: dict[str, Any] = {name: getattr(result, name) for name in names}
    numbers |= {"step": step, "seed": seed, "kind": kind}
    observables = {
        name: (history.array(estimate.value), history.array(estimate.error))
        for name, estimate in result.observables.items()
    }
    coordinates = {name: x.cpu().numpy() for name, x in result.coordinates.items()}
    owners = [(name, owner(name)) for name in observables]
    meanings = {name: history.Column(*known[1].column) for name, known in owners if known}
    return history.Evaluation(numbers, observables, coordinates, meanings)


def draw(path: Path, content: history.RunFile, result: dict[str, Any]) -> None:
    """convergence.png of a run. Raises InputError for a summary that lacks what it needs."""
    from nqs.ground_states.plot import (
        save_convergence,  # matplotlib is slow to import and rarely needed
    )

    counts = [result.get(name) for name in ("n_sites", "n_parameters")]
    exact = result.get("exact_energy")
    numbers = [*counts, 0.0 if exact is None else exact]
    if not all(isinstance(n, int | float) and abs(n) < 1e300 for n in numbers) or not counts[0]:
        raise InputError(f"{path / 'summary.json'}: without n_sites, n_parameters or as no run has")
    title = f"{path.name}: {counts[0]} sites, {counts[1]} parameters"
    save_convergence(path / "convergence.png", content, counts[0], exact, title)


def interrupted(session: Session, signum: int) -> int:
    """A signal came: everything up to the last step is saved, and the result if there is one; says
    how to go on."""
    if session.evaluation is not None:
        session.notes.append(f"stopped by {signal.Signals(signum).name} once the result was saved")
        session.report(ended(session))
        session.log.say(session.notes[-1])
        return 128 + signum
    session.report("interrupted")
    session.log.say(f"stopped at step {session.step}; resume with: {session.resume_command}")
    return 128 + signum


def failed(session: Session, reason: str) -> int:
    """The energy is not a number: keeps the last good checkpoint and says so."""
    session.report("failed")
    where = f"step {session.saved_step}" if session.saved_step >= 0 else "none yet"
    line = f"error: {reason}; last good checkpoint: {where}. Try a smaller optimizer.learning_rate"
    session.log.note(line)
    if session.leads:
        session.content.write(session.path / "run.h5")
        tell(line, sys.stderr)
    return 1


def lost(session: Session, reason: str) -> int:
    """Another process is gone: whoever is left says so, as rank 0 may be the one that died."""
    session.report("lost")
    ranks, step = session.job.ranks, max(session.saved_step, 0)
    line = (
        f"error: process {ranks.rank} of {ranks.size} lost another one ({reason}); "
        f"resume at step {step} with: {session.resume_command}"
    )
    session.log.note(line)
    tell(line, sys.stderr)
    return 1
