"""nqs crystal train: read the tables, (resume,) train, report; all in one folder.

The folder of a run is that of any run (nqs.runfolder.folder): config.yaml, environment.json,
run.log, run.h5 with the history, checkpoints/ (each with the best parameters so far), summary.json
and learning_curve.png. Tables are not copied: config.yaml has their absolute paths, tables.json
their digests, left_out.csv the rows that were not used and why; only training (and `like=test`)
reads them again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch

from nqs.core.sequence import SequenceModel
from nqs.crystal.commands.config import RESUMABLE, Config, current
from nqs.crystal.commands.learning_curve import save_curve
from nqs.crystal.commands.run_folder import (
    check_start,
    portable,
    restore_best,
    separators,
    token_features,
)
from nqs.crystal.datasets import inputs
from nqs.crystal.datasets.data import Encoded, Tasks, longest_sequence
from nqs.crystal.datasets.loading import load
from nqs.crystal.datasets.splits import NO_CRYSTAL, LeftOut, build_tokeniser, left_out_table
from nqs.crystal.model import memory
from nqs.crystal.model.training import COLUMNS, Training, build_optimizer, train
from nqs.crystal.tokens.tokeniser import Tokeniser
from nqs.runfolder import checkpoint, environment, folder, summary
from nqs.runfolder.atomic import write_text
from nqs.runfolder.machine import build_device, build_generator
from nqs.runfolder.progress import Form, Record, duration
from nqs.runfolder.resumable_run import Limits, ResumableRun

PROGRAM: Final = ("nqs", "crystal", "train")
LEFT_OUT: Final = "left_out.csv"
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
    """All that a run works with; notes: what is worth saying about the tables."""

    config: Config
    tokeniser: Tokeniser
    crystals: list[Encoded]
    validation: list[Encoded]
    training: Training
    device: torch.device
    tables: dict[str, Any]
    left_out: list[LeftOut]
    notes: list[str]

    @property
    def n_parameters(self) -> int:
        """Real parameters."""
        return sum(p.numel() for p in self.training.model.parameters())


def run(config: Config, command: Sequence[str]) -> int:
    """Trains or resumes; returns the exit code: 0, 1 (not a number) or 128 + signal.

    Raises InputError before anything is done if the configuration cannot be run, and later if a
    file cannot be written (disk full): the last checkpoint stays.
    """
    session = TrainingRun(build(config))
    path = open_folder(session, command)
    with session.at_work(path):
        return session.work(config.run.resume)


def build(config: Config) -> Job:
    """Everything from its configuration."""
    device = build_device(config.device)
    tokeniser = build_tokeniser(config.data)
    if config.run.resume:
        assert config.run.dir is not None
        inputs.check_vocabulary(Path(config.run.dir), tokeniser)
        inputs.check(Path(config.run.dir), config.data)
    begins_anew = config.train.start is None or config.run.resume
    start = None if begins_anew else check_start(config, tokeniser)
    loaded = load(config.data, config.seed, tokeniser)
    n_tokens, most = len(tokeniser.vocabulary), longest_sequence(tokeniser, config.data.templates)
    in_all = sum(len(crystal.body) for crystal in loaded.train)
    batch_tokens = min(config.data.batch_tokens, in_all)
    parameters = build_generator(config.seed, "parameters", torch.device("cpu"))
    core = memory.guarded_core(
        config.model,
        n_tokens,
        most,
        parameters,
        token_features(config.data, tokeniser),
        separators(config.data, tokeniser),
        batch_tokens=batch_tokens,
        device=device,
    ).to(device)
    if start is not None:
        restore_best(Path(str(config.train.start)), start, core)
    generator = build_generator(config.seed, "batches", torch.device("cpu"))
    return Job(
        config,
        tokeniser,
        loaded.train,
        loaded.validation,
        Training(core, build_optimizer(core, config.optimizer, config.train.steps), generator),
        device,
        inputs.describe(config.data, tokeniser),
        loaded.left_out,
        loaded.notes,
    )


def open_folder(session: TrainingRun, command: Sequence[str]) -> Path:
    """The folder of a new run, or of the one to resume, of which the session notes what is to be
    said."""
    job, config = session.job, session.job.config
    entry = environment.session(command, config.seed, config.device)
    if not config.run.resume:
        name = Path(config.data.train).name.split(".")[0]
        stem = f"crystal-{name}-{config.model.name.replace(':', '-')}"

        def fill(path: Path) -> None:
            inputs.write(path, job.tables)
            if job.left_out:
                write_text(path / LEFT_OUT, left_out_table(job.left_out))
            folder.describe(path, portable(config), entry)

        return folder.make(config.run.dir, stem, fill)
    assert config.run.dir is not None
    path = Path(config.run.dir)
    with folder.writing(path), folder.locked(path):
        session.restored(path, warn=lambda line: None)  # refuse before a file of it is touched
        session.notes += folder.describe(path, portable(config), entry)
    return path


class Rows:
    """The plain lines of steps, aligned with HEADER: `perplexity` of the last look so far."""

    def __init__(self) -> None:
        self._perplexity = math.nan

    def note(self, record: Record) -> None:
        """Every step, whether it has a line or not."""
        if math.isfinite(record["perplexity"]):
            self._perplexity = record["perplexity"]

    def __call__(self, record: Record, seconds_per_step: float, remaining: float) -> str:
        """The line of a step."""
        known = math.isfinite(self._perplexity)
        looked = f"{self._perplexity:11.4f}" if known else " " * 11
        return (
            f"{record['step']:9.0f} {record['epoch']:6.0f} {record['loss']:9.4f} {looked} "
            f"{seconds_per_step:9.4f} {duration(remaining):>9}"
        )


def brief(record: Record) -> str:
    """What stands beside the bar."""
    return f"epoch {record['epoch']:.0f}  loss {record['loss']:.4f}"


@final
class TrainingRun(ResumableRun):
    """The training of a crystal language model in its folder; job: what is trained."""

    finite = ("loss", "gradient_norm")
    required = tuple(column.name for column in COLUMNS)
    resumable = RESUMABLE
    advice = "Try a smaller optimizer.learning_rate or optimizer.muon"

    def __init__(self, job: Job) -> None:
        limits = job.config.train
        super().__init__(
            Limits(limits.steps, limits.max_seconds, limits.checkpoint_every),
            COLUMNS,
            job.device,
            PROGRAM,
        )
        self.job = job
        self.rows = Rows()
        self.form = Form(HEADER, self.rows, brief)

    @property
    def model(self) -> SequenceModel:
        return self.job.training.model

    @property
    def generator(self) -> torch.Generator:
        return self.job.training.generator

    def current(self, written: Mapping[str, Any]) -> Mapping[str, Any]:
        return current(written)

    def saved_config(self) -> dict[str, Any]:
        return portable(self.job.config)

    def optimizer_state(self) -> Mapping[str, Any]:
        return self.job.training.state_dict()

    def restore(self, saved: Mapping[str, Any]) -> None:
        training = self.job.training
        with checkpoint.fitting(saved):
            training.load_state_dict(saved["optimizer"])
            training.generator.set_state(torch.atleast_2d(saved["generator"]).cpu()[0].clone())
        training.step = saved["step"]

    def describe(self) -> list[str]:
        job, model = self.job, self.job.config.model
        n_tokens = sum(len(crystal.body) for crystal in job.crystals)
        return [
            f"{len(job.crystals)} crystals, {n_tokens} tokens; {len(job.validation)} for "
            "validation",
            f"{model.name}, {job.n_parameters} parameters, {len(job.tokeniser.vocabulary)} tokens, "
            f"on {job.device}",
            *job.notes,
        ]

    def advance(self, after_step: Callable[[Record], bool]) -> None:
        job, config = self.job, self.job.config
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
            after_step=lambda record: self._after(record.row(), after_step),
        )

    def _after(self, record: Record, after_step: Callable[[Record], bool]) -> bool:
        self.rows.note(record)
        return after_step(record)

    def converged(self) -> bool:
        patience = self.job.config.train.patience
        return patience is not None and self.job.training.looks_without_gain >= patience

    def conclude(self) -> int:
        self.status = self.ended
        self.show_so_far(self.report(self.status))
        return 0

    def show_so_far(self, result: dict[str, Any]) -> None:
        for line in summary.aligned(summary.entries(result)):
            self.log.say(line)
        if self.path is not None:
            save_curve(self.path / "learning_curve.png", self.content, self.path.name)

    def summarise(self, status: str) -> dict[str, Any]:
        job, columns = self.job, self.content.columns
        best = job.training.best_perplexity
        at = columns["perplexity"].index(best) if best in columns["perplexity"] else None
        n_refused = sum(row.kind == NO_CRYSTAL for row in job.left_out)
        after = job.training.best_after_template
        shown = {"nats_after_template": after} if math.isfinite(after) else {}
        return {
            "status": f"{status} ({STATUSES[status]})",
            "perplexity": best if math.isfinite(best) else None,
            "nats_per_crystal": None if at is None else columns["validation"][at],
            **shown,
            "best_step": None if at is None else int(columns["step"][at]),
            "n_crystals": len(job.crystals),
            "n_validation": len(job.validation),
            "n_tokens": sum(len(crystal.body) for crystal in job.crystals),
            "rows_without_a_crystal": n_refused,
            "crystals_not_written": len(job.left_out) - n_refused,
            "left_out": LEFT_OUT if job.left_out else None,
            "n_parameters": job.n_parameters,
            "steps": self.step,
            "epochs": job.training.epoch,
            "wall_seconds": round(self.elapsed, 3),
            "seed": job.config.seed,
        }


def tasks(config: Config) -> Tasks:
    """What crystals are made into."""
    data = config.data
    return Tasks(
        condition_dropout=data.condition_dropout,
        template_dropout=data.template_dropout,
        infilling=data.infilling,
        translate=data.translate,
        permute=data.permute,
        equivalents=data.equivalents,
        batch_tokens=data.batch_tokens,
    )
