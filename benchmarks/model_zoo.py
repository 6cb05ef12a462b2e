"""All models in one table: the same three systems, or with --costs what they cost.

    python -m benchmarks.model_zoo [--models ptf,rnn,..] [--problems 4x4,ring16,heisenberg20]
        [--steps N] [--budget SECONDS] [--seed 0] [--eval-samples N]
    python -m benchmarks.model_zoo --costs [--models ..] [--problems heisenberg10x10,tfim12x12]
        [--sides 4,6,8,10,12] [--samples N] [--steps N] [--seed 0]

First form: each model with the project's defaults on a 4x4 Rydberg array (V = 7, delta = Omega =
1), a periodic critical Ising chain of 16 and a periodic Heisenberg chain of 20 at magnetisation 0
(in that sector); the energies are compared with exact ones (benchmarks/references/energies.csv) in
a fresh evaluation. ptf-symmetric averages |psi|^2 over the point group. rnn2d takes a chain as a
grid of one row. Writes model_zoo.csv and model_zoo.png.

--costs: seconds of sampling, ln psi and ln psi after all N single flips of --samples
configurations on L x L Rydberg arrays, with exponents of N fitted over all sides by least squares
of the logarithms, beside those of the operations counted (a range: the dense layers' and the
attention's); below those where launches and not operations decide: small N, few samples. Then
seconds of a step and peak memory on an open 10x10 Heisenberg magnet and a periodic 12x12 Ising
model at h = 3, --steps steps in a process for each. Writes model_times.csv, model_steps.csv and
model_costs.png.

One thing after the other. The CSV files are written after each row; rows that they hold already
stay unless they are measured again, so a table can be made in pieces.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import train  # noqa: F401  before torch: it says how torch's idle threads wait

# isort: split
from benchmarks import model_accuracy, model_costs
from benchmarks.arguments import Parser, chosen, made, positive, sample_number, seed, whole_number
from benchmarks.models import MODELS
from benchmarks.problems import LARGE, ZOO
from benchmarks.programs import Ours
from benchmarks.tables import Rows

SIDES = (4, 6, 8, 10, 12)
SAMPLES = 128
COST_STEPS = 3


def sides(text: str) -> tuple[int, ...]:
    """Comma-separated whole numbers >= 2."""
    values = tuple(sorted({int(part) for part in text.split(",")}))
    if values[0] < 2:
        raise ValueError
    return values


sides.__name__ = "list of sides >= 2 such as 4,6,8"


def parser() -> argparse.ArgumentParser:
    result = Parser(
        prog="python -m benchmarks.model_zoo",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = result.add_argument
    add("--costs", action="store_true", help="time and memory instead of accuracy")
    add("--models", type=chosen(tuple(MODELS)), default=tuple(MODELS), metavar="A,B,..")
    add("--problems", type=chosen((*ZOO, *LARGE)), metavar="A,B,..", help="default: all")
    add("--steps", type=whole_number, help=f"default: train.steps; with --costs {COST_STEPS}")
    add("--budget", type=positive, metavar="SECONDS", help="of optimisation; default: no limit")
    add("--seed", type=seed, default=0)
    add("--eval-samples", type=sample_number, help="default: train.eval_samples")
    add("--sides", type=sides, metavar="L,..", help=f"default {','.join(map(str, SIDES))}")
    add("--samples", type=whole_number, help=f"configurations timed; default {SAMPLES}")
    add("--out", type=Path, default=Path("benchmarks/results"))
    return result


def checked(args: argparse.Namespace) -> None:
    """Raises ValueError, one line, for options of the other form and for what would fail later."""
    known, other = (LARGE, ZOO) if args.costs else (ZOO, LARGE)
    foreign = ("budget", "eval_samples") if args.costs else ("sides", "samples")
    for name in foreign:
        if getattr(args, name) is not None:
            rule = "means nothing with" if args.costs else "needs"
            raise ValueError(f"--{name.replace('_', '-')} {rule} --costs")
    args.problems = tuple(known) if args.problems is None else args.problems
    for name in args.problems:
        if name in other:
            rule = "with --costs" if args.costs else "without --costs"
            raise ValueError(f"--problems {name}: {rule} use {', '.join(known)}")
        for model in args.models:
            Ours(known[name], args.seed, MODELS[model].arguments)
    made(args.out)


def accuracy(args: argparse.Namespace) -> None:
    """The first form."""
    path = args.out / "model_zoo.csv"
    kept = Rows(path, model_accuracy.Accuracy, model_accuracy.KEY)
    changes = () if args.steps is None else (f"train.steps={args.steps}",)
    try:
        for problem in args.problems:
            for model in args.models:
                row = model_accuracy.measured(
                    ZOO[problem],
                    MODELS[model],
                    seed=args.seed,
                    changes=changes,
                    budget=args.budget or math.inf,
                    eval_samples=args.eval_samples,
                )
                kept.add(row)
                error = f"{row.relative_error:.1e} +- {row.relative_error_bar:.0e}"
                print(f"{problem}  {model}  {error}  {row.seconds:.3g} s  {row.ended}", flush=True)
    finally:
        model_accuracy.draw(kept.rows, path.with_suffix(".png"))
    print("", model_accuracy.table(kept.rows), "", sep="\n")
    print(f"written: {path}, {path.with_suffix('.png')}")


def costs(args: argparse.Namespace) -> None:
    """The second form."""
    paths = [args.out / name for name in ("model_times.csv", "model_steps.csv")]
    times = Rows(paths[0], model_costs.Time, model_costs.TIME_KEY)
    steps = Rows(paths[1], model_costs.Step, model_costs.STEP_KEY)
    n_samples = args.samples or SAMPLES
    for model in args.models:
        for side in args.sides or SIDES:
            for row in model_costs.times(MODELS[model], side, n_samples, args.seed):
                times.add(row)
        print(f"{model}: sampling, ln psi and flips timed", flush=True)
    of_these = [row for row in times.rows if row.samples == n_samples]
    picture = args.out / "model_costs.png"
    model_costs.draw(of_these, picture)
    for problem in args.problems:
        for model in args.models:
            row = model_costs.step(problem, model, args.steps or COST_STEPS, args.seed)
            steps.add(row)
            said = f"{row.seconds_per_step:.3g} s a step, {row.peak_gb:.2f} GB"
            print(f"{problem}  {model}  {said}  {row.ended}", flush=True)
    sizes = sorted({row.n_sites for row in of_these})
    print(f"\nseconds, {n_samples} configurations; exponents fitted over N = {sizes}")
    print(model_costs.times_table(of_these), "", model_costs.steps_table(steps.rows), "", sep="\n")
    print("written: " + ", ".join(map(str, [*paths, picture])))


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        checked(args)
        (costs if args.costs else accuracy)(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what was measured is saved", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
