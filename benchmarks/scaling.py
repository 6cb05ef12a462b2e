"""Seconds, utilisation and memory of an optimisation step against the size of everything.

    python -m benchmarks.scaling [--sweeps sites,samples,patch,width,dtype,state]
        [--sides 4,6,8,12,16,24,32,48] [--samples 512] [--few 16] [--device cpu|cuda]
        [--older-code PATH] [--seconds 60] [--memory-gb 8] [--steps 3] [--seed 0]

The default run (patched transformer of 2x2 patches, each state of a patch with vectors of its own,
width 32, natural gradient) on L x L Rydberg arrays, V = 7,
delta = Omega = 1. One thing is changed at a time; all but `sites` at L = 8:

    sites     L, with --samples and with --few samples
    samples   64 to 4096
    patch     1x2, 2x2, 2x3, 2x4, 3x3
    width     16 to 128
    dtype     float64
    state     after 20 steps instead of at the start

Each point is a process of its own: a small step to warm up, then the median of up to --steps steps.
What a step costs depends on the distinct rows among the samples (`rows`), and these on the state:
at the start, the best product state, nearly all differ from 6x6 on; `state` says where it was.

    MFU = least operations of a dense network / seconds / rate of a large matrix product

(benchmarks.flops). A point is skipped, with its reason in the last column, where its operations at
the best speed so far take longer than --seconds a step, and ends at --memory-gb (of a CPU); nothing
that happens in it ends the table. With --older-code its patched transformer
runs at the same sizes with Adam (its feed-forward layers are 2048 wide whatever the width).
Exponents of N, samples and width are fitted by least squares of the logarithms.
Writes scaling.csv after each point, and scaling.png; rows that the file holds stay unless they are
measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as train.py, before torch

import torch

from benchmarks.arguments import Parser, chosen, made, positive, seed, whole_number
from benchmarks.flops import least_flops
from benchmarks.matmul import matmul_rate
from benchmarks.older_code import checkout
from benchmarks.scaling_report import SWEEPS, draw, table
from benchmarks.scaling_rows import KEY, Row, failed
from benchmarks.tables import Rows
from benchmarks.trial import Setting, Trial

BASE_SIDE = 8
SIDES = (4, 6, 8, 12, 16, 24, 32, 48)
SAMPLES = (64, 128, 256, 512, 1024, 2048, 4096)
PATCHES = ("1x2", "2x2", "2x3", "2x4", "3x3")
WIDTHS = (16, 32, 64, 128)
AFTER = 20
EXPECTED_SHARE = 0.1
"""Share of the matrix-product rate that is expected of a size that fills the device."""


@dataclass(frozen=True)
class Point:
    """One row to be measured."""

    sweep: str
    program: str
    setting: Setting
    after: int = 0


def points(args: argparse.Namespace) -> Iterator[Point]:
    """All rows, small ones first within a sweep."""
    base = Setting(BASE_SIDE, args.samples, device=args.device, seed=args.seed)
    changes: dict[str, list[dict[str, object]]] = {
        "sites": [{"side": side} for side in args.sides],
        "samples": [{"samples": n} for n in SAMPLES],
        "patch": [{"patch": patch} for patch in PATCHES],
        "width": [{"width": width} for width in WIDTHS],
        "dtype": [{"dtype": "float64"}],
        "state": [{}],
    }
    programs = ["ours", *(["older code"] if args.older_code else [])]
    for sweep in args.sweeps:
        bases = [base]
        if sweep == "sites" and args.few < args.samples:
            bases.append(replace(base, samples=args.few))
        for program in programs:
            if program == "older code" and sweep in ("patch", "dtype", "state"):
                continue
            for start in bases:
                for change in changes[sweep]:
                    after = AFTER if sweep == "state" else 0
                    yield Point(sweep, program, replace(start, **change), after)  # type: ignore[arg-type]


class Forecast:
    """Seconds that a step will take: its least operations at the best speed so far.

    Small sizes are slower than that, but they are fast.
    """

    def __init__(self, device: str) -> None:
        self.speed = EXPECTED_SHARE * matmul_rate(device=device, n_repeats=4)
        self.slow_from: dict[tuple[str, int], int] = {}

    def seconds(self, setting: Setting) -> float:
        """Of one of our steps, all rows distinct and drawn one by one."""
        trial = Trial(replace(setting, device="cpu"))
        return least_flops(trial.psi, trial.hamiltonian, setting.samples).total / self.speed

    def learn(self, operations: float, seconds: float) -> None:
        """From the least operations of a measured step."""
        self.speed = max(self.speed, operations / seconds)


def measure(point: Point, args: argparse.Namespace, forecast: Forecast) -> Row:
    """The row of a point, measured or with the reason why not."""
    setting, curve = point.setting, (point.program, point.setting.samples)
    if point.program == "ours":
        expected = forecast.seconds(setting)
        if expected > args.seconds:
            return failed(point, f"skipped: a step would take about {expected:.0f} s")
    elif forecast.slow_from.get(curve, setting.side + 1) <= setting.side:
        smaller = forecast.slow_from[curve]
        return failed(point, f"skipped: {smaller}x{smaller} took longer than allowed")
    # a small step, imports, the steps before and after the measured ones, and what was misjudged
    limit = 60 + args.seconds * (4 + point.after)
    try:
        done = subprocess.run(
            command(point, args), capture_output=True, text=True, check=False, timeout=limit
        )
    except subprocess.TimeoutExpired:
        forecast.slow_from[curve] = setting.side
        return failed(point, f"skipped: not done in {limit:.0f} s")
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        forecast.slow_from[curve] = setting.side
        return failed(point, f"failed: {said.removeprefix('error: ')[:160]}")
    found = json.loads(done.stdout.splitlines()[-1])
    seconds, run = found["seconds_per_step"], found.get("run_flops", math.nan)
    if point.program == "ours":
        forecast.learn(found["least_flops"], seconds)
    elif seconds > args.seconds:
        forecast.slow_from[curve] = setting.side
    rate = found.get("matmul_rate", math.nan)
    return replace(
        failed(point, "finished"),
        rows=found["rows"],
        seconds_per_step=seconds,
        samples_per_second=setting.samples / seconds,
        mfu=found.get("mfu", math.nan),
        run_share=run / seconds / rate,
        least_gflop=found.get("least_flops", math.nan) / 1e9,
        peak_gb=found["peak_bytes"] / 1e9,
        matmul_gflops=rate / 1e9,
        n_parameters=found["n_parameters"],
        steps=found["steps"],
    )


def command(point: Point, args: argparse.Namespace) -> list[str]:
    """The child process of a point."""
    options = {**vars(point.setting), "after": point.after, "steps": args.steps}
    options |= {"seconds": args.seconds, "memory-gb": args.memory_gb}
    if point.program == "older code":
        options["older-code"] = args.older_code
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return [sys.executable, "-m", "benchmarks.scaling_point", *words]


def sides(text: str) -> tuple[int, ...]:
    """Comma-separated whole numbers >= 2."""
    values = tuple(sorted({int(part) for part in text.split(",")}))
    if values[0] < 2:
        raise ValueError
    return values


sides.__name__ = "list of sides >= 2 such as 4,6,8"


def parser() -> argparse.ArgumentParser:
    result = Parser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = result.add_argument
    add("--sweeps", type=chosen(SWEEPS), default=SWEEPS, metavar="A,B,..")
    add("--sides", type=sides, default=SIDES, metavar="L,..")
    add("--samples", type=whole_number, default=512)
    add("--few", type=whole_number, default=16, help="samples that reach the largest arrays")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--older-code", metavar="PATH", help="a checkout of VMC_with_LPTFs")
    add("--seconds", type=positive, default=60.0, help="of a step, at most")
    add("--memory-gb", type=positive, default=8.0)
    add("--steps", type=whole_number, default=3, help="timed of each point, at most")
    add("--seed", type=seed, default=0)
    add("--out", type=Path, default=Path("benchmarks/results"))
    return result


def checked(args: argparse.Namespace) -> None:
    """Raises ValueError, one line, for what would fail later."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU here; use --device cpu")
    if args.older_code:
        checkout(args.older_code)
        if args.device == "cpu" and torch.cuda.is_available():
            raise ValueError("--older-code with --device cpu: it takes the GPU that torch sees")
    made(args.out)


def run(args: argparse.Namespace) -> Sequence[Row]:
    """Measures all points; the rows of the file."""
    kept = Rows(args.out / "scaling.csv", Row, KEY)
    forecast = Forecast(args.device)
    try:
        for point in points(args):
            row = measure(point, args, forecast)
            kept.add(row)
            print(row.line, flush=True)
    finally:
        if kept.rows:
            draw(kept.rows, args.out / "scaling.png")
    return kept.rows


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        checked(args)
        rows = run(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what was measured is saved", file=sys.stderr)
        return 130
    print("", table(rows), "", sep="\n")
    print(f"written: {args.out / 'scaling.csv'}, {args.out / 'scaling.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
