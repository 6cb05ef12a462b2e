"""The keys of a parameter scan, `python train.py -m ...`, beside those of its runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nqs.errors import require, require_choice
from nqs.ground_states.config import _check_int, _check_kind, _check_positive

LAUNCHERS: Final[dict[str, dict[str, bool]]] = {
    "sequential": {},
    "joblib": {"n_jobs": False},
    "submitit": {
        "cluster": True,
        "partition": False,
        "account": False,
        "timeout_minutes": True,
        "cpus": True,
        "gpus": True,
        "memory_gb": False,
        "max_parallel": True,
    },
}


@dataclass(frozen=True, kw_only=True)
class ScanConfig:
    """A grid of runs: give -m and several values of any keys, hamiltonian.delta=0,1,2 or
    "hamiltonian.delta=range(0,4,0.25)"."""

    dir: str | None
    """Folder of the scan, one folder a point in it; null makes a numbered one under scans/. Never
    overwritten."""
    warm_start: str | None
    """A scanned key: along it each point starts from the parameters of its neighbour; the chains
    along it are independent. null starts every point from its product state."""
    warm_steps: int | None
    """Optimisation steps of a point that starts from its neighbour, >= 1; null is a quarter of
    train.steps."""
    direction: str
    """Order along scan.warm_start: forward (as written), backward, or both, which shows hysteresis
    (each point twice)."""
    zip: tuple[str, ...] | None = None
    """Scanned keys that advance together, one dimension instead of several: scan.zip=[A,B] takes
    the first value of A with the first of B, and so on. They need equally many values."""
    repeat: bool | None = None
    """Run a point that ends doubtful again, once, and keep the better of the two: from its product
    state or, if it started there, from its best neighbour. null: true, but false with
    scan.direction=both, whose branches are to be seen as they are."""
    resume: bool
    """Go on with the scan in scan.dir: finished points stay, a half-done one resumes from its
    checkpoint, failed ones are tried again."""

    def __post_init__(self) -> None:
        require(self.dir is None or bool(self.dir.strip()), "scan.dir", "''", "give a folder")
        rule = "needs scan.dir=PATH, the folder of the scan to continue"
        require(not self.resume or self.dir is not None, "scan.resume", self.resume, rule)
        require_choice("scan.direction", self.direction, ("forward", "backward", "both"))
        _check_int("scan.warm_steps", self.warm_steps, 1)
        for key, unset in (("direction", "forward"), ("warm_steps", None)):
            value = getattr(self, key)
            means = self.warm_start is not None or value == unset
            require(means, f"scan.{key}", value, "means nothing without scan.warm_start=KEY")
        tied = self.zip
        several = tied is None or (len(tied) > 1 and len(set(tied)) == len(tied))
        rule = "give two or more different scanned keys, e.g. [lattice.Lx,lattice.Ly]"
        require(several, "scan.zip", tied, rule)

    @property
    def repeats(self) -> bool:
        """Whether doubtful points are run again."""
        return self.direction != "both" if self.repeat is None else self.repeat


@dataclass(frozen=True, kw_only=True)
class LauncherConfig:
    """Where the points of a scan run: sequential = one after the other in this process, joblib =
    several processes on this machine, submitit = SLURM jobs."""

    name: str
    """Kind: sequential, joblib or submitit (the group option)."""
    n_jobs: int | None = None
    """Processes at a time, >= 1, which share the processor's threads; null is one a core."""
    cluster: str | None = None
    """slurm, or local: processes on this machine, to try the same thing out."""
    partition: str | None = None
    """SLURM partition; null is the cluster's default."""
    account: str | None = None
    """SLURM account; null is the user's default."""
    timeout_minutes: int | None = None
    """Wall time of a job, minutes, >= 1; a run that reaches it saves a checkpoint first."""
    cpus: int | None = None
    """Processor cores of a job, >= 1."""
    gpus: int | None = None
    """GPUs of a job, 0 or 1."""
    memory_gb: float | None = None
    """Memory of a job, GB, > 0; null is the cluster's default."""
    max_parallel: int | None = None
    """Jobs at a time, >= 1."""

    def __post_init__(self) -> None:
        _check_kind("launcher", self, LAUNCHERS)
        for key, lowest in {
            "n_jobs": 1, "timeout_minutes": 1, "cpus": 1, "gpus": 0, "max_parallel": 1
        }.items():  # fmt: skip
            _check_int(f"launcher.{key}", getattr(self, key), lowest)
        _check_positive("launcher.memory_gb", self.memory_gb)
        if self.gpus is not None:
            require(self.gpus <= 1, "launcher.gpus", self.gpus, "a run uses one; give 0 or 1")
        if self.cluster is not None:
            require_choice("launcher.cluster", self.cluster, ("slurm", "local"))
