"""A family's run from its configuration: build, open the folder, work. Several processes go this
way as those of a ground-state run do (nqs.ground_states.run)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nqs.families.family_run import FamilyRun
from nqs.ground_states import distributed
from nqs.ground_states.build import Job, build_lattice
from nqs.ground_states.config import Config
from nqs.ground_states.distributed import together
from nqs.ground_states.members import Members, build_family, members_of
from nqs.ground_states.run import agreed, program
from nqs.ground_states.run_folder import create, reopen
from nqs.runfolder.folder import locked, writing
from nqs.vmc.ranks import RankLost, Ranks


def run_on(ranks: Ranks, config: Config, command: Sequence[str]) -> int:
    """Runs or resumes on processes that have joined; returns the exit code. Raises InputError."""
    if ranks.size > 1:
        distributed.check_alike(ranks, together(ranks, lambda: distributed.passport(config)))
    job, members = together(ranks, lambda: built(config, ranks))
    distributed.check_alike(ranks, {"kind of device": job.device.type})
    session = together(
        ranks, lambda: FamilyRun(job, members, distributed.started_by(program(command)))
    )
    words = distributed.started_by(command)
    path = Path(agreed(ranks, lambda: str(open_folder(session, words))))
    with session.at_work(path):
        try:
            return session.work(config.run.resume)
        except RankLost as error:
            return session.lost(str(error))


def built(config: Config, ranks: Ranks) -> tuple[Job, Members]:
    """The objects of the run."""
    lattice = build_lattice(config.lattice)
    members = members_of(config, lattice)
    return build_family(config, members, ranks, lattice=lattice), members


def open_folder(session: FamilyRun, command: Sequence[str]) -> Path:
    """The folder of a new run, or of the one to resume, of which the session notes what is to be
    said."""
    job, config = session.job, session.job.config
    if not config.run.resume:
        return create(config, job.wavefunction, command)
    assert config.run.dir is not None
    path = Path(config.run.dir)
    with writing(path), locked(path):
        session.restored(path, warn=lambda line: None)  # refuse before a file of it is touched
        session.notes += reopen(path, config, job.wavefunction, command)
    return path
