"""What a step of the default run costs at one size, in a process of its own.

    python -m benchmarks.scaling_point --side 16 [--samples 512] [--patch 2x2] [--width 32]
        [--dtype float32] [--device cpu] [--after 0] [--steps 3] [--seconds 60]

Prints one line of JSON: median seconds of up to --steps steps within --seconds (at least one),
distinct rows, operations of one more step (run, and the least), peak memory. --after N first takes
N steps: the number of distinct rows, which decides the cost, falls as the state concentrates.
--older-code PATH times the older code instead (its feed-forward layer is 2048 wide), --memory-gb
bounds the memory on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as train.py, before torch

import torch

from benchmarks.arguments import Parser, positive, seed, whole_number
from benchmarks.matmul import matmul_rate
from benchmarks.memory import peak_bytes
from benchmarks.older_code import OlderCode
from benchmarks.trial import DTYPES, Setting, Trial, timed, utilisation, warm_up


def ours(setting: Setting, args: argparse.Namespace) -> dict[str, Any]:
    """Our step."""
    warm_up(setting)
    trial = Trial(setting).start()
    for _ in range(args.after):
        trial.advance()
    steps = timed(trial, args.steps, args.seconds)
    rate = matmul_rate(DTYPES[setting.dtype], setting.device)
    found = {
        "seconds_per_step": steps.seconds,
        "rows": steps.n_rows,
        "steps": steps.n_steps,
        "run_flops": steps.run,
        "least_flops": steps.least,
        "matmul_rate": rate,
        "mfu": utilisation(steps.least, steps.seconds, rate),
        "n_parameters": trial.n_parameters,
        "peak_bytes": peak_bytes(trial.device),
    }
    return found


def older(setting: Setting, args: argparse.Namespace) -> dict[str, Any]:
    """The older code's step, one warm-up first unless a step outlasts half of the time."""
    n_patches = setting.side**2 // _patch_sites(setting.patch)
    code = OlderCode(
        args.older_code,
        "ptf",
        side=setting.side,
        n_samples=setting.samples,
        n_loops=n_patches,
        options={"Nh": setting.width, "patch": setting.patch, "nhead": args.older_heads},
    )
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 1 + args.steps and time.perf_counter() - began < args.seconds / 2:
        times.append(sum(code.step().values()))
    counted = times[1:] or times
    return {
        "seconds_per_step": statistics.median(counted),
        "rows": setting.samples,
        "steps": len(counted),
        "n_parameters": code.n_parameters,
        "peak_bytes": peak_bytes(torch.device(setting.device)),
    }


def _patch_sites(patch: str) -> int:
    sites = 1
    for number in patch.split("x"):
        sites *= int(number)
    return sites


def parser() -> argparse.ArgumentParser:
    result = Parser(
        prog="python -m benchmarks.scaling_point",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = result.add_argument
    add("--side", type=whole_number, required=True)
    add("--samples", type=whole_number, default=512)
    add("--patch", default="2x2")
    add("--width", type=whole_number, default=32)
    add("--dtype", choices=tuple(DTYPES), default="float32")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--seed", type=seed, default=0)
    add("--after", type=int, default=0, metavar="STEPS")
    add("--steps", type=whole_number, default=3)
    add("--seconds", type=positive, default=60.0)
    add("--memory-gb", type=positive, help="on a CPU; default: no limit")
    add("--older-code", metavar="PATH")
    add("--older-heads", type=whole_number, default=8)
    return result


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.memory_gb and args.device == "cpu":
        size = int(args.memory_gb * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (size, resource.RLIM_INFINITY))
    names = ("side", "samples", "patch", "width", "dtype", "device", "seed")
    setting = Setting(**{name: getattr(args, name) for name in names})
    try:
        found = older(setting, args) if args.older_code else ours(setting, args)
    except (ValueError, RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {reason[:200]}", file=sys.stderr)
        return 2
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
