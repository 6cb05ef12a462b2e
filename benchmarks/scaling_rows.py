"""A row of the scaling table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from benchmarks.trial import Setting

KEY = (
    *("sweep", "program", "device", "side", "samples", "patch", "width", "dtype", "state"),
    "seed",
)


@dataclass(frozen=True)
class Row:
    """One point; numbers that were not measured are nan, or 0 where they are whole.

    state: "start" or "after N steps"; rows: distinct ones of the samples, which are evaluated.
    run_share: as mfu, of the operations that are really run. ended: "finished", "skipped: why" or
    "failed: why".
    """

    sweep: str
    program: str
    device: str
    side: int
    n_sites: int
    samples: int
    patch: str
    width: int
    dtype: str
    state: str
    seed: int
    rows: int
    seconds_per_step: float
    samples_per_second: float
    mfu: float
    run_share: float
    least_gflop: float
    peak_gb: float
    matmul_gflops: float
    n_parameters: int
    steps: int
    ended: str

    @property
    def line(self) -> str:
        """As it is printed when it is done."""
        what = f"{self.program}  {self.side}x{self.side}  {self.samples} samples"
        what += f"  {self.patch}  width {self.width}  {self.dtype}  {self.state}"
        if not self.measured:
            return f"{what}  {self.ended}"
        share = "" if math.isnan(self.mfu) else f"  MFU {self.mfu:.1%}"
        return f"{what}  {self.seconds_per_step:.3g} s  {self.peak_gb:.2f} GB{share}"

    @property
    def measured(self) -> bool:
        """Whether it has a time."""
        return self.ended == "finished"


class Point(Protocol):
    """What is measured (benchmarks.scaling.Point)."""

    @property
    def sweep(self) -> str: ...
    @property
    def program(self) -> str: ...
    @property
    def setting(self) -> Setting: ...
    @property
    def after(self) -> int: ...


def failed(point: Point, ended: str) -> Row:
    """The row of a point without numbers."""
    s, nan = point.setting, math.nan
    state = f"after {point.after} steps" if point.after else "start"
    return Row(
        sweep=point.sweep,
        program=point.program,
        device=s.device,
        side=s.side,
        n_sites=s.side**2,
        samples=s.samples,
        patch=s.patch,
        width=s.width,
        dtype=s.dtype,
        state=state,
        seed=s.seed,
        rows=0,
        seconds_per_step=nan,
        samples_per_second=nan,
        mfu=nan,
        run_share=nan,
        least_gflop=nan,
        peak_gb=nan,
        matmul_gflops=nan,
        n_parameters=0,
        steps=0,
        ended=ended,
    )
