"""Where the chains of a scan run: in this process, in several on this machine, as SLURM jobs.

A launcher is a kind (`nqs.conf.kinds`): its class, its keys and how it runs stand together here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

import torch

from nqs.conf.kinds import Group
from nqs.errors import InputError, shown
from nqs.ground_states.summary import is_finished
from nqs.scans.folder import Point, Scan
from nqs.scans.run import (
    POLL_SECONDS,
    STOP,
    Outcome,
    child_process,
    end_with_parent,
    run_chain,
    say,
)

Chain = tuple[Point, ...]
GRACE_SECONDS: Final = 120.0
"""How long stopped SLURM jobs may take for their checkpoints."""
KILLED: Final = "its process was killed (out of memory?)"


def finished(scan: Scan, chain: Chain) -> bool:
    """Whether every point of the chain has its result."""
    return all(is_finished(scan.folder(point)) for point in chain)


def installed(package: str) -> bool:
    """Whether a package or module, dots in its name or not, can be imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):  # the package around it is not there
        return False


class Launcher(ABC):
    """Runs chains of points; keys are the keyword-only parameters of a kind's constructor.

    Attributes:
        kinds: {name: class}.
        needs: the package that it needs, "" for none.
    """

    kinds: ClassVar[dict[str, type[Launcher]]] = {}
    needs: ClassVar[str] = ""

    def __init_subclass__(cls, *, kind: str | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if kind is not None:
            Launcher.kinds[kind] = cls

    def launch(self, scan: Scan, chains: Sequence[Chain]) -> list[Outcome]:
        """Runs what is missing of the chains; returns the outcome of every point that was
        reached."""
        pending = [chain for chain in chains if not finished(scan, chain)]
        outcomes: Any = self.run(scan, pending) if pending else []
        whole = isinstance(outcomes, list | tuple)
        if not whole or not all(isinstance(each, Outcome) for each in outcomes):
            rule = "run must return a list of nqs.scans.run.Outcome"
            raise InputError(f"launcher={LAUNCHER.name_of(type(self))}: {rule}")
        return list(outcomes)

    def check(self) -> None:
        """Raises InputError unless what the launcher needs is there."""
        needs: Any = self.needs
        if not isinstance(needs, str):
            name = LAUNCHER.name_of(type(self))
            raise InputError(f"launcher={name}: needs={shown(needs)} must be the name of a package")
        if needs and not installed(needs):
            extra = "; pip install 'nqs[scan]'" if type(self) in self.kinds.values() else ""
            raise InputError(f"launcher: the package {needs} is not installed{extra}")

    @abstractmethod
    def run(self, scan: Scan, chains: Sequence[Chain]) -> list[Outcome]:
        """Runs the chains, none of which is finished."""


class Sequential(Launcher, kind="sequential"):
    """One chain after the other in this process, with all threads."""

    def run(self, scan: Scan, chains: Sequence[Chain]) -> list[Outcome]:
        """Ends early when a signal comes."""
        outcomes: list[Outcome] = []
        for chain in chains:
            outcomes += run_chain(scan, chain)
            if outcomes and outcomes[-1].status == "stopped":
                break
        return outcomes


class Joblib(Launcher, kind="joblib"):
    """Several processes on this machine.

    Args:
        n_jobs: processes at a time, which share the processor's threads; null is one a core.
    """

    needs = "joblib"

    def __init__(self, *, n_jobs: Annotated[int, "1 .. 1e9"] | None = None) -> None:
        self._n_jobs = n_jobs

    def run(self, scan: Scan, chains: Sequence[Chain]) -> list[Outcome]:
        """When one process is killed all of joblib's are: what is left then runs in one at a time,
        and the point that a second process dies of counts as failed."""
        import joblib

        n_jobs = min(self._n_jobs or len(os.sched_getaffinity(0)), max(1, len(chains)))
        n_threads = max(1, torch.get_num_threads() // n_jobs)
        work, parent = joblib.delayed(in_process), os.getpid()
        workers = {"batch_size": 1, "initializer": end_with_parent, "initargs": (parent,)}
        terminated = joblib.externals.loky.process_executor.TerminatedWorkerError
        try:
            with joblib.Parallel(n_jobs=max(2, n_jobs), pre_dispatch=n_jobs, **workers) as parallel:
                lists = parallel(work(scan, chain, (), n_threads, parent) for chain in chains)
            return [outcome for outcomes in lists for outcome in outcomes]
        except terminated:
            say(scan, "a process was killed (out of memory?); going on with one at a time")
        outcomes = []
        for chain in chains:
            outcomes += alone(scan, chain, n_threads)
            if (scan.path / STOP).exists():
                break
        return outcomes


def alone(scan: Scan, chain: Chain, n_threads: int) -> list[Outcome]:
    """A chain in a process of joblib's, in another one from the next point on if that is killed."""
    import joblib

    work, parent = joblib.delayed(in_process), os.getpid()
    workers = {"batch_size": 1, "initializer": end_with_parent, "initargs": (parent,)}
    terminated = joblib.externals.loky.process_executor.TerminatedWorkerError
    outcomes: list[Outcome] = []
    skipped: list[str] = []
    while True:
        try:
            parallel = joblib.Parallel(n_jobs=2, pre_dispatch=1, **workers)
            (ended,) = parallel([work(scan, chain, tuple(skipped), n_threads, parent)])
            return outcomes + ended
        except terminated:
            left = [p.name for p in chain if not is_finished(scan.folder(p))]
            victim = next(name for name in left if name not in skipped)
            skipped.append(victim)
            say(scan, f"FAILED {victim}: {KILLED}")
            outcomes.append(Outcome(victim, "failed", KILLED))


def in_process(
    scan: Scan, chain: Chain, skipped: tuple[str, ...], n_threads: int, parent: int
) -> list[Outcome]:
    """A chain in a process of joblib's."""
    torch.set_num_threads(n_threads)
    with child_process(scan, parent):
        return run_chain(scan, chain, skipped)


class Submitit(Launcher, kind="submitit"):
    """A SLURM job a chain of points (a point, without warm starts).

    Args:
        cluster: slurm, or local: processes on this machine, to try the same thing out.
        partition: SLURM partition; null is the cluster's default.
        account: SLURM account; null is the user's default.
        timeout_minutes: wall time of a job, minutes; a run that reaches it saves a checkpoint
            first.
        cpus: processor cores of a job.
        gpus: GPUs of a job; a run uses one.
        memory_gb: memory of a job, GB; null is the cluster's default.
        max_parallel: jobs at a time.
    """

    needs = "submitit"

    def __init__(
        self,
        *,
        cluster: Literal["slurm", "local"] = "slurm",
        partition: str | None = None,
        account: str | None = None,
        timeout_minutes: Annotated[int, "1 .. 1e9"] = 240,
        cpus: Annotated[int, "1 .. 1e9"] = 1,
        gpus: Literal[0, 1] = 0,
        memory_gb: Annotated[float, "1e-3 .. 1e9"] | None = None,
        max_parallel: Annotated[int, "1 .. 1e9"] = 100,
    ) -> None:
        optional = {"slurm_partition": partition, "slurm_account": account, "mem_gb": memory_gb}
        self._cluster = cluster
        self._max_parallel = max_parallel
        self._parameters: dict[str, Any] = {
            "timeout_min": timeout_minutes,
            "cpus_per_task": cpus,
            "tasks_per_node": 1,
            "gpus_per_node": gpus,
            **{key: value for key, value in optional.items() if value is not None},
        }

    def check(self) -> None:
        """Also for srun."""
        super().check()
        if self._cluster == "slurm" and shutil.which("srun") is None:
            rule = "there is no srun here; start the scan where SLURM is, or take launcher=joblib"
            raise InputError(f"launcher.cluster=slurm: {rule}")

    def run(self, scan: Scan, chains: Sequence[Chain]) -> list[Outcome]:
        """Waits for all jobs."""
        import submitit

        executor = submitit.AutoExecutor(folder=scan.path / "jobs", cluster=self._cluster)
        executor.update_parameters(name=f"nqs-{scan.path.name}", **self._parameters)
        parent = os.getpid() if self._cluster == "local" else None
        with importable():
            waiting = list(chains)
            jobs: list[tuple[Chain, Any]] = []
            outcomes: list[Outcome] = []
            deadline = float("inf")
            while waiting or jobs:
                if (scan.path / STOP).exists():
                    waiting, deadline = [], min(deadline, time.monotonic() + GRACE_SECONDS)
                    for _, job in jobs:
                        if job.state in ("PENDING", "UNKNOWN") or time.monotonic() > deadline:
                            job.cancel()
                while waiting and len(jobs) < self._max_parallel:
                    chain = waiting.pop(0)
                    jobs.append((chain, executor.submit(in_job, scan, chain, parent)))
                time.sleep(POLL_SECONDS)
                ended = [(chain, job) for chain, job in jobs if job.done()]
                jobs = [entry for entry in jobs if entry not in ended]
                for chain, job in ended:
                    outcomes += job_outcomes(scan, chain, job)
        return outcomes


def in_job(scan: Scan, chain: Chain, parent: int | None) -> list[Outcome]:
    """A chain in a SLURM job or, with a `parent`, in a process of this machine."""
    torch.set_num_threads(int(os.environ.get("SLURM_CPUS_PER_TASK", torch.get_num_threads())))
    with child_process(scan, parent):
        return run_chain(scan, chain)


def job_outcomes(scan: Scan, chain: Chain, job: Any) -> list[Outcome]:
    """What came of an ended job; a job that died names its first unfinished point and its log."""
    try:
        return list(job.result())
    except Exception:  # submitit raises whatever the job died of, or that it has no result
        if (scan.path / STOP).exists() or finished(scan, chain):
            return []
        victim = next(point for point in chain if not is_finished(scan.folder(point)))
        reason = f"job {job.job_id} died; see {job.paths.stderr}"
        say(scan, f"FAILED {victim.name}: {reason}")
        return [Outcome(victim.name, "failed", reason)]


@contextlib.contextmanager
def importable() -> Iterator[None]:
    """Jobs find this package where this process did, installed or not, and modules that lie in the
    current folder."""
    before = os.environ.get("PYTHONPATH")
    here = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (here, before, os.getcwd())))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


LAUNCHER: Final = Group("launcher", Launcher, frozenset(), "Where the points of a scan run.")
