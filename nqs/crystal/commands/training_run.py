"""nqs crystal train: read the tables, (resume,) train, report; all in one folder.

The folder of a run is that of a ground-state run (nqs.runfolder.folder): config.yaml,
environment.json, run.log, run.h5 with the history, checkpoints/ (each with the best parameters so
far), summary.json and learning_curve.png. Tables are not copied: config.yaml has their absolute
paths, tables.json their digests, left_out.csv the rows that were not used and why; only training
(and `like=test`) reads them again.
"""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from nqs.conf.sections import flatten
from nqs.conf.words import merged
from nqs.core.sequence import SequenceModel
from nqs.crystal.commands.config import RESUMABLE, Config, current
from nqs.crystal.commands.learning_curve import save_curve
from nqs.crystal.datasets import inputs
from nqs.crystal.datasets.data import Encoded, Tasks
from nqs.crystal.datasets.data_config import EXAMPLES
from nqs.crystal.datasets.splits import NO_CRYSTAL, LeftOut, build_tokeniser, left_out_table, load
from nqs.crystal.model import memory
from nqs.crystal.model.cores import build_core
from nqs.crystal.model.training import StepRecord, Training, build_optimizer, train
from nqs.crystal.tokens.tokeniser import Tokeniser
from nqs.errors import InputError, shown
from nqs.ground_states import summary
from nqs.runfolder import checkpoint, environment, folder, history
from nqs.runfolder.atomic import write_text
from nqs.runfolder.history import Column
from nqs.runfolder.machine import build_device, build_generator
from nqs.runfolder.progress import Form, Log, ProgressDisplay, duration
from nqs.runfolder.signals import StopRequests

LEFT_OUT: Final = "left_out.csv"
CHECKPOINT_SECONDS: Final = 300.0
"""A checkpoint is at most this old, however slow the steps are."""
COLUMNS: Final = (
    Column("step", "1", "optimisation step, from 1"),
    Column("epoch", "1", "pass over the training crystals, from 1"),
    Column("loss", "nats", "- ln p a token that counts, mean over the step's batch"),
    Column("validation", "nats", "- ln p of a validation crystal, mean; NaN: not looked"),
    Column("perplexity", "1", "exp of the same a token; NaN: not looked"),
    Column("gradient_norm", "nats", "norm of the gradient before clipping"),
    Column("learning_rate", "1", "learning rate of the step"),
    Column("seconds", "s", "wall time of the step"),
    Column("elapsed", "s", "wall time of the training so far, all sessions"),
)
HEADER: Final = f"{'step':>9} {'epoch':>6} {'loss':>9} {'perplexity':>11} {'s/step':>9} {'ETA':>9}"
STATUSES: Final = {
    "finished": "all steps done",
    "converged": "train.patience looks without a better one",
    "budget": "train.max_seconds reached",
    "interrupted": "stopped by a signal; resume to go on",
    "failed": "the loss was no longer a number",
}


@dataclass
class Job:
    """All that a run works with."""

    config: Config
    tokeniser: Tokeniser
    crystals: list[Encoded]
    validation: list[Encoded]
    training: Training
    device: torch.device
    tables: dict[str, Any]
    left_out: list[LeftOut]

    @property
    def n_parameters(self) -> int:
        """Real parameters."""
        return sum(p.numel() for p in self.training.model.parameters())


@dataclass
class Session:
    """One process working on a run; fields as nqs.ground_states.run.Session."""

    path: Path
    job: Job
    log: Log
    stop: StopRequests
    content: history.RunFile = field(default_factory=lambda: history.RunFile(COLUMNS))
    elapsed_before: float = 0.0
    elapsed: float = 0.0
    saved_step: int = -1

    @property
    def resume_command(self) -> str:
        """How to go on."""
        return f"nqs crystal train {shlex.quote(f'run.dir={self.path}')} run.resume=true"


def run(config: Config, command: Sequence[str]) -> int:
    """Trains or resumes; returns the exit code: 0, 1 (not a number) or 128 + signal.

    Raises InputError before anything is done if the configuration cannot be run, and later if a
    file cannot be written (disk full): the last checkpoint stays.
    """
    job, notes = build(config)
    path, found = open_folder(job, command)
    with (
        folder.locked(path),
        folder.writing(path),
        Log(path / "run.log", sys.stdout) as log,
        StopRequests() as stop,
    ):
        session = Session(path, job, log, stop)
        for line in [*describe(job), *notes, *found, f"files in {path}"]:
            log.say(line)
        if config.run.resume:
            resume(session)
        try:
            return finish(session, optimise(session))
        except FloatingPointError as error:
            report(session, "failed")
            log.note(f"error: {error}")
            print(f"error: {error}; try a smaller optimizer.learning_rate", file=sys.stderr)
            return 1


def build(config: Config) -> tuple[Job, list[str]]:
    """Everything from its configuration, and what is worth saying about the tables."""
    device = build_device(config.device)
    tokeniser = build_tokeniser(config.data)
    if config.run.resume:
        assert config.run.dir is not None
        inputs.check_vocabulary(Path(config.run.dir), tokeniser)
        inputs.check(Path(config.run.dir), config.data)
    loaded = load(config.data, config.seed, tokeniser)
    n_tokens, most = len(tokeniser.vocabulary), tokeniser.max_length
    in_all = sum(len(crystal.body) for crystal in loaded.train)
    batch_tokens = min(config.data.batch_tokens, in_all)
    parameters = build_generator(config.seed, "parameters", torch.device("cpu"))
    core = memory.guarded_core(
        config.model, n_tokens, most, parameters, batch_tokens=batch_tokens, device=device
    ).to(device)
    generator = build_generator(config.seed, "batches", torch.device("cpu"))
    training = Training(core, build_optimizer(core, config.optimizer), generator)
    tables = inputs.describe(config.data, tokeniser)
    job = Job(
        config,
        tokeniser,
        loaded.train,
        loaded.validation,
        training,
        device,
        tables,
        loaded.left_out,
    )
    return job, loaded.notes


def describe(job: Job) -> list[str]:
    """What is about to run."""
    model = job.config.model
    n_tokens = sum(len(crystal.body) for crystal in job.crystals)
    return [
        f"{len(job.crystals)} crystals, {n_tokens} tokens; {len(job.validation)} for validation",
        f"{model.name}, {job.n_parameters} parameters, {len(job.tokeniser.vocabulary)} tokens, "
        f"on {job.device}",
    ]


def portable(config: Config) -> dict[str, Any]:
    """The configuration as config.yaml holds it, tables by their absolute paths."""
    mapping = config.to_dict()
    for key in ("train", "validation"):
        if mapping["data"][key] not in (None, EXAMPLES):
            mapping["data"][key] = str(Path(mapping["data"][key]).resolve())
    return mapping


def read_config(path: Path) -> Config:
    """The configuration of the run in folder `path`."""
    return Config.from_dict(saved_mapping(path))


def saved_mapping(path: Path) -> dict[str, Any]:
    """What config.yaml of the run in `path` says.

    Raises InputError for a run whose tokens meant something else: those of `coordinate` from before
    the formula came first, known by the lack of data.permute, which came with it.
    """
    mapping = folder.saved_mapping(path)
    data = mapping.get("data")
    if isinstance(data, dict) and data.get("tokeniser") == "coordinate" and "permute" not in data:
        raise InputError(
            f"{path}: a run from before the coordinate tokeniser wrote the formula first; its "
            f"tokens cannot be read any more, train it again"
        )
    return current(mapping)


def resumed_config(path: Path, given: Mapping[str, Any]) -> Config:
    """The saved configuration of the run in `path` with the keys `given` on the command line.

    Raises InputError naming a key that differs from the saved run and may not change.
    """
    mapping = saved_mapping(path)
    saved = flatten(mapping)
    for key, value in given.items():
        if key not in RESUMABLE and not (key in saved and _same(key, saved[key], value)):
            allowed = ", ".join(key for key in RESUMABLE if not key.startswith("run."))
            raise InputError(
                f"{key}={shown(value)}: the run in {path} has {shown(saved.get(key))}; a resumed "
                f"run may only change {allowed}: start a new run instead"
            )
    changes = {key: value for key, value in given.items() if key in RESUMABLE}
    changed = merged(mapping, changes)
    return Config.from_dict(changed | {"run": {"dir": str(path), "resume": True}})


def _same(key: str, saved: Any, value: Any) -> bool:
    """Whether a saved value and a given one are equal, tables by where they lie."""
    if key in ("data.train", "data.validation") and value not in (None, EXAMPLES):
        value = str(Path(str(value)).resolve())
    return bool(saved == value) or (isinstance(saved, str | list) and str(saved) == str(value))


def open_folder(job: Job, command: Sequence[str]) -> tuple[Path, list[str]]:
    """The folder of a new run, or of the one to resume, and lines about what was found in it."""
    config = job.config
    entry = environment.session(command, config.seed, config.device)
    if not config.run.resume:
        name = Path(config.data.train).name.split(".")[0]
        stem = f"crystal-{name}-{config.model.name.replace(':', '-')}"

        def fill(path: Path) -> None:
            inputs.write(path, job.tables)
            if job.left_out:
                write_text(path / LEFT_OUT, left_out_table(job.left_out))
            folder.describe(path, portable(config), entry)

        return folder.make(config.run.dir, stem, fill), []
    assert config.run.dir is not None
    path = Path(config.run.dir)
    with folder.writing(path), folder.locked(path):
        restored(path, config, job.training.model, job.device, warn=lambda line: None)
        found = folder.describe(path, portable(config), entry)
    return path, found


def restored(
    path: Path,
    config: Config,
    model: SequenceModel,
    device: torch.device,
    warn: Callable[[str], None],
) -> tuple[dict[str, Any] | None, history.RunFile]:
    """The newest checkpoint (None before the first), its parameters in place, and the history up
    to its step."""
    content = history.read(path / "run.h5", COLUMNS)
    saved = checkpoint.newest(
        path / "checkpoints", portable(config), device, warn, resumable=RESUMABLE, current=current
    )
    content.truncate(0 if saved is None else saved["step"])
    if saved is not None:
        checkpoint.restore(model, saved)
    return saved, content


def resume(session: Session) -> None:
    """Puts the session where the newest checkpoint was."""
    job = session.job
    training = job.training
    saved, session.content = restored(
        session.path, job.config, training.model, job.device, session.log.say
    )
    if saved is None:
        session.log.say("no checkpoint yet, starting at step 0")
        return
    with checkpoint.fitting(saved):
        training.load_state_dict(saved["optimizer"])
        training.generator.set_state(saved["generator"].cpu())
    training.step = session.saved_step = saved["step"]
    session.elapsed = session.elapsed_before = saved["elapsed"]
    session.log.say(f"resumed at step {training.step}")


def optimise(session: Session) -> str:
    """Trains with checkpoints on the way; returns the status."""
    job, config = session.job, session.job.config
    status = ended(session)
    if status is None:
        form = Form(HEADER, row, brief)
        limits = (config.train.steps, config.train.max_seconds)
        with ProgressDisplay(session.log, *limits, form) as display:
            recorder = Recorder(session, display)
            train(
                job.training,
                job.tokeniser,
                job.crystals,
                job.validation,
                tasks(config),
                config.optimizer,
                n_steps=config.train.steps,
                validate_every=config.train.validate_every,
                precision=config.train.precision,
                after_step=recorder,
            )
        status = recorder.status
    assert status is not None
    if session.saved_step != job.training.step:
        save(session)
    return status


def tasks(config: Config) -> Tasks:
    """What crystals are made into."""
    data = config.data
    return Tasks(
        data.condition_dropout, data.infilling, data.translate, data.permute, data.batch_tokens
    )


def ended(session: Session) -> str | None:
    """Why the training is over, None if it is not."""
    config, training = session.job.config.train, session.job.training
    if session.stop.received is not None:
        return "interrupted"
    if training.step >= config.steps:
        return "finished"
    if config.patience is not None and training.looks_without_gain >= config.patience:
        return "converged"
    if config.max_seconds is not None and session.elapsed >= config.max_seconds:
        return "budget"
    return None


class Recorder:
    """Called after each step: keeps the history, shows it, saves it, says when to stop."""

    def __init__(self, session: Session, display: ProgressDisplay) -> None:
        self._session, self._display = session, display
        self._started = self._saved = time.monotonic()
        self.status: str | None = None

    def __call__(self, record: StepRecord) -> bool:
        """True stops the loop. Raises FloatingPointError for a step that must not be kept."""
        session = self._session
        if not math.isfinite(record.loss) or not math.isfinite(record.gradient_norm):
            raise FloatingPointError(f"the loss of step {record.step} is not finite")
        now = time.monotonic()
        session.elapsed = session.elapsed_before + now - self._started
        session.content.append(vars(record), session.elapsed)
        self.status = ended(session)
        last = self.status is not None
        self._display.update(record, session.elapsed, last)
        due = record.step % session.job.config.train.checkpoint_every == 0
        if last or due or now - self._saved >= CHECKPOINT_SECONDS:
            save(session)
            self._saved = now
        return last


def row(record: StepRecord, seconds_per_step: float, remaining: float) -> str:
    """The plain line of a step, aligned with HEADER."""
    looked = f"{record.perplexity:11.4f}" if math.isfinite(record.perplexity) else " " * 11
    return (
        f"{record.step:9d} {record.epoch:6d} {record.loss:9.4f} {looked} "
        f"{seconds_per_step:9.4f} {duration(remaining):>9}"
    )


def brief(record: StepRecord) -> str:
    """What stands beside the bar."""
    return f"epoch {record.epoch}  loss {record.loss:.4f}"


def save(session: Session) -> None:
    """History first, then the checkpoint: whatever happens in between, the history reaches it."""
    session.content.write(session.path / "run.h5")
    training = session.job.training
    checkpoint.save(
        session.path / "checkpoints",
        step=training.step,
        elapsed=session.elapsed,
        config=portable(session.job.config),
        model=training.model.state_dict(),
        optimizer=training.state_dict(),
        generators=training.generator.get_state(),
    )
    session.saved_step = training.step


def finish(session: Session, status: str) -> int:
    """Files and the last lines; returns the exit code."""
    result = report(session, status)
    for line in summary.lines(result):
        session.log.say(line)
    save_curve(session.path / "learning_curve.png", session.content, session.path.name)
    if status != "interrupted":
        return 0
    assert session.stop.received is not None
    step = session.job.training.step
    session.log.say(f"stopped at step {step}; resume with: {session.resume_command}")
    return 128 + session.stop.received


def report(session: Session, status: str) -> dict[str, Any]:
    """Writes summary.json and returns its content."""
    job = session.job
    columns = session.content.columns
    best = job.training.best_perplexity
    at = columns["perplexity"].index(best) if best in columns["perplexity"] else None
    n_refused = sum(row.kind == NO_CRYSTAL for row in job.left_out)
    content = {
        "status": f"{status} ({STATUSES[status]})",
        "perplexity": best if math.isfinite(best) else None,
        "nats_per_crystal": None if at is None else columns["validation"][at],
        "best_step": None if at is None else int(columns["step"][at]),
        "n_crystals": len(job.crystals),
        "n_validation": len(job.validation),
        "rows_without_a_crystal": n_refused,
        "crystals_not_written": len(job.left_out) - n_refused,
        "left_out": LEFT_OUT if job.left_out else None,
        "n_parameters": job.n_parameters,
        "steps": job.training.step,
        "epochs": job.training.epoch,
        "wall_seconds": round(session.elapsed, 3),
        "seed": job.config.seed,
    }
    summary.write(session.path / "summary.json", content)
    return content


@dataclass(frozen=True)
class Trained:
    """A model ready for use: the best parameters of a run."""

    config: Config
    tokeniser: Tokeniser
    model: SequenceModel
    device: torch.device
    step: int


def read_trained(path: Path, device: str = "auto") -> Trained:
    """The best parameters of the run in folder `path`, whatever has become of its tables.

    Raises InputError for a folder without a readable checkpoint.
    """
    config = read_config(path)
    tokeniser = build_tokeniser(config.data)
    inputs.check_vocabulary(path, tokeniser)
    where = build_device(device)
    core = build_core(
        config.model, len(tokeniser.vocabulary), tokeniser.max_length, torch.Generator()
    ).to(where)
    saved, _ = restored(path, config, core, where, warn=print)
    if saved is None:
        raise InputError(f"{path}: holds no checkpoint yet; resume the run first")
    if saved["optimizer"]["best"]:
        core.load_state_dict(saved["optimizer"]["best"])
    return Trained(config, tokeniser, core.eval().requires_grad_(False), where, saved["step"])
