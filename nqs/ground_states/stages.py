"""The smaller arrays of a run with train.grow, trained one after the other; which these are says
nqs.ground_states.growth.

    RUN/stages/4x4/    a complete run of its own
    RUN/stages/8x8/    another, which starts from the one before
    RUN/               the lattice that was asked for, which starts from the last: inputs/start.pt

All of it belongs to the time in which the run has done no step: a run that is killed there goes on
with the first stage that has no result, from that stage's newest checkpoint. train.max_seconds
counts the stages, evaluations included, and each may take SHARE of what is left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nqs.conf.sections import flatten
from nqs.errors import InputError
from nqs.ground_states import summary
from nqs.ground_states.build import build
from nqs.ground_states.config import Config
from nqs.ground_states.distributed import together
from nqs.ground_states.growth import Stage, stages
from nqs.ground_states.run_folder import START, create, reopen, resumed_config
from nqs.ground_states.start import starting_file
from nqs.runfolder.atomic import write_bytes
from nqs.runfolder.folder import holds_nothing
from nqs.runfolder.signals import Interrupted

if TYPE_CHECKING:
    from nqs.ground_states.ground_state_run import GroundStateRun

FOLDER: Final = "stages"
SHARE: Final = 1 / 3
"""Of the seconds that are left a stage may take so many."""
LEAST_SECONDS: Final = 1e-3
PASSED_ON: Final = (
    *("energies.flip_precision", "device"),
    *("train.checkpoint_every", "train.rank_timeout"),
)
"""Keys in which a stage that is resumed follows the run."""


def grow(session: GroundStateRun) -> float:
    """Trains what is missing of the stages of a run that has done no step, and leaves its start in
    inputs/start.pt or, for a run in memory, in its wavefunction. Called on all ranks. Returns the
    seconds that the stages took, in all sessions.

    Raises InputError, Interrupted (everything up to the last step is saved) and FloatingPointError.
    """
    todo = stages(session.job.config)
    before: Path | None = None
    spent = 0.0
    with _folder(session.path) as folder:
        for number, stage in enumerate(todo, start=1):
            session.log.say(f"stage {number} of {len(todo) + 1}: {stage.name}")
            left = session.limits.seconds
            limit = None if left is None else max(LEAST_SECONDS, SHARE * (left - spent))
            before, seconds = _trained(session, stage, folder / stage.name, before, limit)
            spent += seconds
        session.log.say(f"stage {len(todo) + 1} of {len(todo) + 1}: the lattice that was asked for")
        if session.path is None or (session.leads and not (session.path / START).exists()):
            start = starting_file(session.job, before)
            if session.path is not None:
                (session.path / START).parent.mkdir(exist_ok=True)
                write_bytes(session.path / START, start or b"")
    return spent


@contextlib.contextmanager
def _folder(path: Path | None) -> Iterator[Path]:
    """Where the stages of the run in `path` lie; those of a run in memory are gone at the end."""
    if path is not None:
        yield path / FOLDER
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def _trained(
    session: GroundStateRun, stage: Stage, folder: Path, before: Path | None, limit: float | None
) -> tuple[Path, float]:
    """The folder of a stage, trained now unless it has its result, and the seconds that it took.

    before: folder of the stage before; limit: seconds of its optimisation at most."""
    ranks = session.job.ranks
    (finished,) = ranks.shared([session.leads and summary.is_finished(folder)])
    if finished:
        result = summary.read(folder / "summary.json") if session.leads else {}
        session.log.say(f"done in an earlier session, files in {folder}")
    else:
        run = _opened(session, stage, folder, before, limit)
        _train(session, run, folder)
        result = run.result
    (seconds,) = ranks.shared([float(result.get("wall_seconds", 0.0))])
    return folder, seconds


def _opened(
    session: GroundStateRun, stage: Stage, folder: Path, before: Path | None, limit: float | None
) -> GroundStateRun:
    """The run of a stage, whose folder is made now unless an earlier session did."""
    ours = flatten(session.job.config.to_dict())
    passed_on: dict[str, Any] = {key: ours[key] for key in PASSED_ON if key in ours}

    def settled() -> Config:
        if (folder / "config.yaml").exists():
            return resumed_config(folder, {**passed_on, "train.max_seconds": limit})
        if not holds_nothing(folder):
            raise InputError(
                f"run.dir={session.path}: {FOLDER}/{folder.name} has no config.yaml; restore it, "
                "or delete that folder, and the stage is trained anew"
            )
        start = None if before is None else str(before)
        train = dataclasses.replace(stage.config.train, start_from=start, max_seconds=limit)
        run = dataclasses.replace(stage.config.run, dir=str(folder), resume=False)
        return stage.config.replace(train=train, run=run)

    ranks, command = session.job.ranks, [*session.program, f"run.dir={session.path}"]
    config = together(ranks, settled)
    job = together(ranks, lambda: build(config, ranks))
    run = session.stage(job)
    if session.leads and config.run.resume:
        run.notes += reopen(folder, config, job.wavefunction, command)
    elif session.leads:
        create(config, job.wavefunction, command, starting_file(job))
    return run


def _train(session: GroundStateRun, run: GroundStateRun, folder: Path) -> None:
    """All that is missing of a stage, its result included."""
    with run.at_work(folder, quiet=session.quiet, signals=False):
        run.stop = session.stop
        try:
            run.prepare(run.job.config.run.resume)
            run.optimise()
            run.stop.immediate()
            run.conclude()
        except Interrupted:
            run.report(run.status or "interrupted")
            session.notes.append(f"stopped in stage {folder.name}, at its step {run.step}")
            session.log.say(session.notes[-1])
            raise
        except FloatingPointError as error:
            run.report("failed")
            raise FloatingPointError(f"stage {folder.name}: {error}") from None
        finally:
            run.stop.deferred()
