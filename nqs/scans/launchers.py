"""Where the chains of a scan run: in this process, in several on this machine, as SLURM jobs."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from nqs.errors import InputError
from nqs.ground_states.summary import is_finished
from nqs.scans.config import LauncherConfig
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


def launch(scan: Scan, launcher: LauncherConfig, chains: Sequence[Chain]) -> list[Outcome]:
    """Runs what is missing of the chains; returns the outcome of every point that was reached."""
    pending = [chain for chain in chains if not finished(scan, chain)]
    if not pending:
        return []
    if launcher.name == "joblib":
        return with_joblib(scan, pending, launcher.n_jobs)
    if launcher.name == "submitit":
        return with_submitit(scan, pending, launcher)
    return sequentially(scan, pending)


def check_installed(launcher: LauncherConfig) -> None:
    """Raises InputError unless what the launcher needs is there."""
    name = launcher.name
    if name != "sequential" and importlib.util.find_spec(name) is None:
        rule = f"the package {name} is not installed; pip install 'nqs[scan]'"
        raise InputError(f"launcher={name}: {rule}")
    if launcher.cluster == "slurm" and shutil.which("srun") is None:
        rule = "there is no srun here; start the scan where SLURM is, or take launcher=joblib"
        raise InputError(f"launcher.cluster=slurm: {rule}")


def finished(scan: Scan, chain: Chain) -> bool:
    """Whether every point of the chain has its result."""
    return all(is_finished(scan.folder(point)) for point in chain)


def sequentially(scan: Scan, chains: Sequence[Chain]) -> list[Outcome]:
    """One after the other, with all threads."""
    outcomes: list[Outcome] = []
    for chain in chains:
        outcomes += run_chain(scan, chain)
        if outcomes and outcomes[-1].status == "stopped":
            break
    return outcomes


def with_joblib(scan: Scan, chains: Sequence[Chain], n_jobs: int | None) -> list[Outcome]:
    """Several processes. When one is killed all of joblib's are: what is left then runs in one at a
    time, and the point that a second process dies of counts as failed."""
    import joblib

    n_jobs = min(n_jobs or len(os.sched_getaffinity(0)), max(1, len(chains)))
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
        skipped: list[str] = []
        while True:
            try:
                parallel = joblib.Parallel(n_jobs=2, pre_dispatch=1, **workers)
                (found,) = parallel([work(scan, chain, tuple(skipped), n_threads, parent)])
                outcomes += found
                break
            except terminated:
                left = [p.name for p in chain if not is_finished(scan.folder(p))]
                victim = next(name for name in left if name not in skipped)
                skipped.append(victim)
                say(scan, f"FAILED {victim}: {KILLED}")
                outcomes.append(Outcome(victim, "failed", KILLED))
        if (scan.path / STOP).exists():
            break
    return outcomes


def in_process(
    scan: Scan, chain: Chain, skipped: tuple[str, ...], n_threads: int, parent: int
) -> list[Outcome]:
    """A chain in a process of joblib's."""
    torch.set_num_threads(n_threads)
    with child_process(scan, parent):
        return run_chain(scan, chain, skipped)


def with_submitit(scan: Scan, chains: Sequence[Chain], launcher: LauncherConfig) -> list[Outcome]:
    """A SLURM job (or, with launcher.cluster=local, a process) a chain."""
    import submitit

    executor = submitit.AutoExecutor(folder=scan.path / "jobs", cluster=launcher.cluster)
    executor.update_parameters(**job_parameters(scan, launcher))
    parent = os.getpid() if launcher.cluster == "local" else None
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
            assert launcher.max_parallel is not None
            while waiting and len(jobs) < launcher.max_parallel:
                chain = waiting.pop(0)
                jobs.append((chain, executor.submit(in_job, scan, chain, parent)))
            time.sleep(POLL_SECONDS)
            ended = [(chain, job) for chain, job in jobs if job.done()]
            jobs = [entry for entry in jobs if entry not in ended]
            for chain, job in ended:
                outcomes += job_outcomes(scan, chain, job)
    return outcomes


def job_parameters(scan: Scan, launcher: LauncherConfig) -> dict[str, Any]:
    """What submitit asks SLURM for."""
    optional = {
        "slurm_partition": launcher.partition,
        "slurm_account": launcher.account,
        "mem_gb": launcher.memory_gb,
    }
    return {
        "name": f"nqs-{scan.path.name}",
        "timeout_min": launcher.timeout_minutes,
        "cpus_per_task": launcher.cpus,
        "tasks_per_node": 1,
        "gpus_per_node": launcher.gpus,
        **{key: value for key, value in optional.items() if value is not None},
    }


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
    """Jobs find this package where this process did, installed or not."""
    before = os.environ.get("PYTHONPATH")
    here = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (here, before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
