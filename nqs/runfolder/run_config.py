"""The section `run` of any job's configuration: where its files are."""

from __future__ import annotations

from dataclasses import dataclass

from nqs.errors import require


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where the run lives."""

    dir: str | None = None
    """Folder of the run; null makes a numbered one under runs/. Never overwritten."""
    resume: bool = False
    """Continue the run in run.dir from its newest checkpoint."""

    def __post_init__(self) -> None:
        rule = "needs run.dir=PATH, the folder of the run to continue"
        require(not self.resume or self.dir is not None, "run.resume", self.resume, rule)
        require(self.dir is None or bool(self.dir.strip()), "run.dir", "''", "give a folder")
