"""Seconds of optimisation to a given relative error: ours, NetKet and the older code side by side.

    python -m benchmarks.time_to_accuracy [--older-code PATH]
        [--problems 4x4,6x6,...] [--programs ours,netket-rbm,...] [--seeds 0,1] [--budget SECONDS]

One after the other on one machine. The clock holds everything from an empty process with its
imports done: compilation, initial state, steps. It stands still while a state is measured, at 1,
1.4, 2, 2.8, ... seconds: up to 16 sites by summing over the whole basis, beyond with fresh samples,
as many as make the error bar a fifth of the error. "Seconds to 1e-3" is the first point at which
the distance from the reference plus one error bar is below 1e-3, and is so at the next point too.

ours is what `python train.py` runs for this system without any tuning (it ends with its own
train.steps); the peers' settings are in benchmarks/peers.yaml, the reference energies and where
they come from in benchmarks/references/energies.csv. Writes time_to_accuracy.csv,
time_to_accuracy_summary.csv and time_to_accuracy.png into --out, anew after each run.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import train  # noqa: F401  before torch: it says how torch's idle threads wait

# isort: split
from benchmarks.accuracy import Point, Result, evaluation_times, ratios
from benchmarks.accuracy_report import save, table
from benchmarks.arguments import Parser, above_one, chosen, made, positive, sample_number, seeds
from benchmarks.measurement import Measure
from benchmarks.older_code import checkout
from benchmarks.older_program import Older
from benchmarks.problems import DEFAULT_PROBLEMS, PROBLEMS, Problem
from benchmarks.programs import Ours, Program
from benchmarks.race import Race

PROGRAMS = ("ours", "ours-adam", "netket-rbm", "netket-ar", "older")


def parser() -> argparse.ArgumentParser:
    result = Parser(
        prog="python -m benchmarks.time_to_accuracy",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = result.add_argument
    add("--problems", type=chosen(tuple(PROBLEMS)), default=DEFAULT_PROBLEMS, metavar="A,B,..")
    add("--programs", type=chosen(PROGRAMS), default=PROGRAMS, metavar="A,B,..")
    add("--seeds", type=seeds, default=(0,), metavar="0,1,..")
    add("--budget", type=positive, metavar="SECONDS", help="of optimisation; default: by problem")
    add("--spacing", type=above_one, default=2**0.5, help="between measurements; default 1.414")
    add("--eval-samples", type=sample_number, default=65_536, help="at most, a measurement")
    add("--ours", action="append", default=[], metavar="KEY=VALUE", help="changes ours: not train")
    add("--older-code", metavar="PATH", help="a checkout of VMC_with_LPTFs")
    add("--out", type=Path, default=Path("benchmarks/results"))
    return result


def make(name: str, problem: Problem, seed: int, args: argparse.Namespace) -> Program | str:
    """The program, or why it is left out. Raises ValueError for input that cannot be used."""
    if name == "older":
        if args.older_code is None:
            return "no --older-code PATH given"
        if problem.system != "rydberg":
            return "the older code knows Rydberg arrays only"
        if problem.shape[0] % 2:
            return "its 2x2 patches need even sides"
        return Older(problem, seed, args.older_code)
    if name.startswith("netket"):
        if importlib.util.find_spec("netket") is None:
            return "netket is not installed; pip install 'nqs[netket]' brings it"
        from benchmarks.netket_peers import NetKetAR, NetKetRBM  # JAX: seconds to import

        return (NetKetRBM if name == "netket-rbm" else NetKetAR)(problem, seed)
    changes = ("optimizer=adam",) if name == "ours-adam" else ()
    return Ours(problem, seed, (*changes, *args.ours))


def checked(args: argparse.Namespace) -> None:
    """Raises ValueError, one line, for what would fail hours later."""
    if args.older_code is not None:
        checkout(args.older_code)
    for problem in (PROBLEMS[name] for name in args.problems):
        for name in {"ours", "ours-adam"} & set(args.programs):
            make(name, problem, args.seeds[-1], args)
    made(args.out)


def runs(args: argparse.Namespace) -> Iterator[Result]:
    """All runs, one after the other; says what is left out and each point as it is measured."""
    for problem in (PROBLEMS[name] for name in args.problems):
        measure = Measure(problem.hamiltonian(), problem.energy, args.eval_samples)
        times = evaluation_times(args.budget or problem.budget, args.spacing)
        for name in args.programs:
            for seed in args.seeds:
                program = make(name, problem, seed, args)
                if isinstance(program, str):
                    print(f"{problem.name}  {name}: left out, {program}")
                    break
                labels = (problem.name, name, seed)
                yield Race(program, measure, times, labels=labels, said=say).run()


def say(point: Point) -> None:
    """A line as soon as a point is measured."""
    bar = f" +- {point.relative_error_bar:.0e}" if point.relative_error_bar else ""
    where = f"{point.problem}  {point.program}  seed {point.seed}"
    text = f"{point.seconds:8.2f} s  {point.steps:6d} steps  {point.relative_error:.2e}{bar}"
    print(f"{where}  {text}", flush=True)


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    results: list[Result] = []
    try:
        checked(args)
        seconds = sum(args.budget or PROBLEMS[name].budget for name in args.problems)
        seconds *= len(args.programs) * len(args.seeds)
        print(f"at most {seconds / 60:.0f} minutes of optimisation, measurements come on top")
        for result in runs(args):
            results.append(result)
            save(results, args.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what was measured of finished runs is saved", file=sys.stderr)
    if not results:
        print("error: nothing was run, see above", file=sys.stderr)
        return 2
    print("", table(results), "", *ratios(results), "", sep="\n")
    print("written: " + ", ".join(str(path) for path in save(results, args.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
