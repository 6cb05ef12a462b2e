"""Bias and noise of cheaper flips on trained states, against float64 on the same samples.

    python -m benchmarks.flip_precision RUN [RUN ...] [--samples 2000] [--fraction 0.5]

RUN: folders of runs of `train.py`; their newest checkpoints are measured. For each and for each
kind of products: bias of the energy of these samples, its standard error and z = bias / error (a
test of zero bias: |z| > 3 happens by chance once in 370 rows), the rms error of a local energy over
the local energies' standard deviation, the bias over the standard error of a step of the run, and
how many times faster than full the flip pass is (pairs in turn, median of the ratios).
Writes flip_precision.csv into --out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from benchmarks.matmul import synchronise
from benchmarks.tables import aligned, write_csv
from nqs.errors import InputError
from nqs.ground_states.build import Job, build
from nqs.ground_states.run_folder import read_config
from nqs.ground_states.saved_state import newest_checkpoint
from nqs.runfolder import checkpoint
from nqs.vmc.energies.flip_precision import rounding
from nqs.vmc.energies.local_energy import local_energies
from nqs.vmc.energies.proposal import blurred_samples
from nqs.vmc.energies.rounding import PRECISIONS
from nqs.wavefunctions.wavefunction import Samples

COLUMNS = (
    *("run", "model", "n_sites", "steps", "products", "n_samples", "fraction"),
    *("bias", "bias_error", "z", "rms_share", "bias_share", "times_faster"),
)
SEED = 7


def trained(path: Path) -> tuple[Job, int]:
    """The job of a run with the parameters of its newest checkpoint, and that one's step."""
    config = read_config(path)
    job = build(config)
    saved = newest_checkpoint(path, config, job.device)
    if saved is None:
        raise InputError(f"{path}: holds no checkpoint yet")
    checkpoint.restore(job.wavefunction, saved)
    return job, saved["step"]


def measure(path: Path, args: argparse.Namespace) -> list[dict[str, object]]:
    """Rows of one run: full, then what the device has that is cheaper."""
    job, step = trained(path)
    generator = torch.Generator(job.device).manual_seed(SEED)
    draws = blurred_samples(
        job.wavefunction, job.hamiltonian, args.samples, args.fraction, generator
    )
    n_step = job.config.train.n_samples
    rows = []
    for kind in PRECISIONS:
        if kind == "tf32" and job.device.type != "cuda":
            continue
        error = rounding(job.wavefunction, job.hamiltonian, draws, kind, fraction=args.fraction)
        row: dict[str, object] = {
            "run": path.name,
            "model": job.config.model.name,
            "n_sites": job.hamiltonian.n_sites,
            "steps": step,
            "products": kind,
            "n_samples": draws.n_samples,
            "fraction": args.fraction,
            "bias": error.bias,
            "bias_error": error.bias_error,
            "z": error.bias / error.bias_error,
            "rms_share": error.rms_share,
            "bias_share": abs(error.bias) / (error.spread / n_step**0.5),
        }
        if kind != "full":
            row["times_faster"] = speed_up(job, draws, kind, args)
        rows.append(row)
    return rows


def speed_up(job: Job, draws: Samples, kind: str, args: argparse.Namespace) -> float:
    """Seconds of the full flip pass of args.timed rows over those with these products."""
    rows = slice(0, args.timed)
    part = Samples(draws.configs[rows], draws.counts[rows], draws.log_psi[rows])

    def seconds(products: str) -> float:
        synchronise(job.device)
        began = time.perf_counter()
        local_energies(job.wavefunction, job.hamiltonian, part, precision=products)
        synchronise(job.device)
        return time.perf_counter() - began

    pairs = [(seconds("full"), seconds(kind)) for _ in range(args.repeats + 1)]
    return statistics.median(full / cheaper for full, cheaper in pairs[1:])


def cell(value: object) -> str:
    """A number in a few digits, text as it is, nothing for what was not measured."""
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--samples", type=int, default=2_000, help="draws compared with float64")
    parser.add_argument("--fraction", type=float, default=0.5, help="share that takes a flip")
    parser.add_argument("--timed", type=int, default=256, help="rows of the timed flip passes")
    parser.add_argument("--repeats", type=int, default=3, help="timed pairs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args(argv)
    try:
        rows = [row for path in args.runs for row in measure(path, args)]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "flip_precision.csv", COLUMNS, rows)
    print(aligned([COLUMNS, *([cell(row.get(column)) for column in COLUMNS] for row in rows)]))
    print(f"written: {args.out / 'flip_precision.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
