"""The keys of a parameter scan, `nqs scan ...`, beside those of its runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from nqs.errors import require


@dataclass(frozen=True, kw_only=True)
class ScanConfig:
    """A grid of runs: give several values of any keys, hamiltonian.delta=0,1,2 or
    "hamiltonian.delta=range(0,4,0.25)"."""

    dir: str | None = None
    """Folder of the scan, one folder a point in it; null makes a numbered one under scans/. Never
    overwritten."""
    warm_start: str | None = None
    """A scanned key: along it each point starts from the parameters of its neighbour; the chains
    along it are independent. null starts every point from its product state."""
    warm_steps: Annotated[int, "1 .. 1e9"] | None = None
    """Optimisation steps of a point that starts from its neighbour; null is a quarter of
    train.steps."""
    direction: Literal["forward", "backward", "both"] = "forward"
    """Order along scan.warm_start: forward (as written), backward, or both, which shows hysteresis
    (each point twice)."""
    zip: tuple[str, ...] | None = None
    """Scanned keys that advance together, one dimension instead of several: scan.zip=[A,B] takes
    the first value of A with the first of B, and so on. They need equally many values."""
    repeat: bool | None = None
    """Run a point that ends doubtful again, once, and keep the better of the two: from its product
    state or, if it started there, from its best neighbour. null: true, but false with
    scan.direction=both, whose branches are to be seen as they are."""
    resume: bool = False
    """Go on with the scan in scan.dir: finished points stay, a half-done one resumes from its
    checkpoint, failed ones are tried again."""

    def __post_init__(self) -> None:
        require(self.dir is None or bool(self.dir.strip()), "scan.dir", "''", "give a folder")
        rule = "needs scan.dir=PATH, the folder of the scan to continue"
        require(not self.resume or self.dir is not None, "scan.resume", self.resume, rule)
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
