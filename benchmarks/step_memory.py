"""Seconds of an optimisation step and the peak memory of one model, in a process of its own.

    python -m benchmarks.step_memory --problem tfim12x12 --model rnn [--steps 3] [--seed 0]

Prints one line of JSON. What `train.py` does with its defaults, for 1 + --steps steps: the first
warms up and counts for the memory only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import train  # noqa: F401  before torch: it says how torch's idle threads wait

# isort: split
from benchmarks.arguments import Parser, seed, whole_number
from benchmarks.memory import peak_bytes
from benchmarks.models import MODELS
from benchmarks.problems import LARGE
from benchmarks.programs import Ours


def measured(program: Ours, n_steps: int) -> dict[str, Any]:
    """Median seconds of n_steps steps after a first one, peak bytes, parameters."""
    program.start()
    seconds = []
    for _ in range(1 + n_steps):
        began = time.perf_counter()
        program.step()
        seconds.append(time.perf_counter() - began)
    return {
        "seconds_per_step": statistics.median(seconds[1:]),
        "peak_bytes": peak_bytes(),
        "n_parameters": program.n_parameters,
        "n_samples": program.samples_per_step,
    }


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m benchmarks.step_memory",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--problem", choices=tuple(LARGE), required=True)
    parser.add_argument("--model", choices=tuple(MODELS), required=True)
    parser.add_argument("--steps", type=whole_number, default=3)
    parser.add_argument("--seed", type=seed, default=0)
    args = parser.parse_args(argv)
    program = Ours(LARGE[args.problem], args.seed, MODELS[args.model].arguments)
    print(json.dumps(measured(program, args.steps)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
