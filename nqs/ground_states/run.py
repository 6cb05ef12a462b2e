"""The main job from its configuration: join the processes, build, open the folder, work.

Several processes (see distributed.py) all go this way, each with a run of its own; rank 0 alone
touches the folder and the console.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from nqs.errors import InputError, require
from nqs.ground_states import distributed
from nqs.ground_states.build import Job, build
from nqs.ground_states.config import Config, TrainConfig
from nqs.ground_states.distributed import together
from nqs.ground_states.ground_state_run import GroundStateRun
from nqs.ground_states.growth import remarks, with_stages
from nqs.ground_states.run_folder import create, reopen
from nqs.ground_states.start import starting_file, with_source_patches
from nqs.runfolder.console import tell
from nqs.runfolder.folder import locked, writing
from nqs.vmc.ranks import RankLost, Ranks

Work = Callable[[Ranks, Config, Sequence[str]], int]
"""What processes that have joined do with a configuration and a command."""


def run(config: Config, command: Sequence[str], work: Work | None = None) -> int:
    """Runs or resumes; returns the exit code: 0, 1 (not a number, a process lost, a comparison that
    was asked for failed) or 128 + signal.

    command: the words that start it, for environment.json and the line that says how to resume.
    Raises InputError before anything is done if the configuration cannot be run, and later if a
    file cannot be written (disk full): the last checkpoint stays. work: `run_on`, or that of
    another kind of run.
    """
    return run_loaded(lambda: config, command, work)


def run_loaded(load: Callable[[], Config], command: Sequence[str], work: Work | None = None) -> int:
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
            return (work or run_on)(ranks, together(ranks, loaded), command)
    except RankLost as error:
        tell(f"error: lost another process before the first step ({error})", sys.stderr)
        return 1


def run_on(ranks: Ranks, config: Config, command: Sequence[str]) -> int:
    """`run` on processes that have joined."""
    job = built(ranks, config)
    session = GroundStateRun(job, distributed.started_by(program(command)))
    session.notes += remarks(config, job.config)
    words = distributed.started_by(command)
    path = Path(agreed(ranks, lambda: str(open_folder(session, words))))
    with session.at_work(path):
        try:
            return session.work(job.config.run.resume)
        except RankLost as error:
            return session.lost(str(error))


def program(command: Sequence[str]) -> list[str]:
    """The words of a command line that start this program, up to train or train.py."""
    names = [Path(word).name for word in command]
    last = next((i for i, name in enumerate(names) if name in ("train", "train.py")), None)
    return ["nqs", "train"] if last is None else list(command[: last + 1])


def built(ranks: Ranks, config: Config) -> Job:
    """The objects of the run. Raises InputError on all ranks if one of them cannot build them, or
    if they would work on different ones."""

    def settled() -> Config:
        rule = "is of a family, which nqs.families trains; this is a run at one coupling"
        require(not config.family.ranges, "family.ranges", list(config.family.ranges), rule)
        return config if config.run.resume else with_stages(with_source_patches(config))

    config = together(ranks, settled)
    if ranks.size > 1:
        distributed.check_alike(ranks, together(ranks, lambda: distributed.passport(config)))
    job = together(ranks, lambda: build(config, ranks))
    distributed.check_alike(ranks, {"kind of device": job.device.type})
    return job


def agreed(ranks: Ranks, action: Callable[[], str]) -> str:
    """What `action` returns on rank 0, on all ranks; so are the InputErrors that it raises."""
    result = refusal = None
    if ranks.rank == 0:
        try:
            result = action()
        except InputError as error:
            refusal = str(error)
    result, refusal = ranks.shared([result, refusal])
    if refusal is not None:
        raise InputError(refusal)
    return str(result)


def open_folder(session: GroundStateRun, command: Sequence[str]) -> Path:
    """The folder of a new run, or of the one to resume, of which the session notes what is to be
    said."""
    job, config = session.job, session.job.config
    if not config.run.resume:
        return create(config, job.wavefunction, command, starting_file(job))
    assert config.run.dir is not None
    path = Path(config.run.dir)
    with writing(path), locked(path):
        session.restored(path, warn=lambda line: None)  # refuse before a file of it is touched
        session.notes += reopen(path, config, job.wavefunction, command)
    return path
