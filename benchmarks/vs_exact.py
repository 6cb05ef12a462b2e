"""Ground states against exact diagonalisation: energies, variances, overlaps, observables.

    python -m benchmarks.vs_exact [--instances A,B,..] [--models ptf,rnn] [--seeds 0,1]
        [--budget SECONDS] [--file my.yaml] [--resume]

Runs what `python train.py` runs for each instance of benchmarks/instances.yaml (or of --file, in
the same form) without tuning, measures the state with fresh samples, as many as make the error bar
a fifth of the error (1e-5 of the energy at the finest), and compares with the ground state by exact
diagonalisation. Observables are given as the largest deviation in standard errors of all values
compared; they and the overlap stand in parentheses where the energy is not resolved from the next
level (two ordered patterns, say, of which the state has chosen one).

Writes vs_exact.csv and vs_exact.png into --out, anew after each run, and ends with a table.
--resume keeps the rows of vs_exact.csv and leaves out what they have with the same arguments.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import train  # noqa: F401  before torch: it says how torch's idle threads wait

# isort: split
from benchmarks.arguments import Parser, chosen, made, positive, sample_number, seeds
from benchmarks.exact_comparison import Comparison, compare, exact
from benchmarks.exact_report import draw, line, read, save, table, verdict
from benchmarks.instances import INSTANCES, Instance, load
from benchmarks.programs import Ours
from nqs.ground_states.build import build
from nqs.ground_states.groups import MODEL

Key = tuple[str, str, int]
"""Instance, model and seed: what a row of the table is for."""


def parser() -> argparse.ArgumentParser:
    result = Parser(
        prog="python -m benchmarks.vs_exact",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = result.add_argument
    add("--file", type=Path, default=INSTANCES, metavar="YAML", help="other instances")
    add("--instances", metavar="A,B,..", help="names of them; default: all")
    add("--models", type=chosen(tuple(MODEL.kinds)), default=("ptf",), metavar="A,B,..")
    add("--seeds", type=seeds, default=(0,), metavar="0,1,..")
    add("--budget", type=positive, metavar="SECONDS", help="of optimisation; default: train.steps")
    add("--eval-samples", type=sample_number, default=2**20, help="at most, a measurement")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="for all: not train.py's")
    add("--resume", action="store_true", help="keep the rows of vs_exact.csv")
    add("--out", type=Path, default=Path("benchmarks/results"))
    return result


def selected(args: argparse.Namespace) -> list[Instance]:
    """The chosen instances of the file. Raises ValueError, one line."""
    instances = load(args.file)
    if args.instances is None:
        return instances
    names = tuple(instance.name for instance in instances)
    try:
        wanted = chosen(names)(args.instances)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"--instances: {error}") from None
    return [instance for instance in instances if instance.name in wanted]


def changes(model: str, args: argparse.Namespace) -> tuple[str, ...]:
    """What is added to the instance's own arguments, but the seed."""
    return (f"model={model}", *args.set)


def signature(instance: Instance, key: Key, args: argparse.Namespace) -> str:
    """The command line of a run: rows of the table with equal ones need not be run again."""
    words = [*instance.arguments, *changes(key[1], args), f"seed={key[2]}"]
    if args.budget is not None:
        words.append(f"train.max_seconds={args.budget:g}")
    return shlex.join(words)


def runs(
    instances: list[Instance], done: dict[Key, Comparison], args: argparse.Namespace
) -> Iterator[tuple[Key, Comparison]]:
    """Every run that `done` lacks; an instance is diagonalised once."""
    for instance in instances:
        keys = [(instance.name, model, seed) for model in args.models for seed in args.seeds]
        missing = [
            key
            for key in keys
            if key not in done or done[key].arguments != signature(instance, key, args)
        ]
        if not missing:
            continue
        reference = exact(build(instance.config(*changes(missing[0][1], args))))
        for key in missing:
            row = compare(
                instance,
                Ours(instance, key[2], changes(key[1], args)),
                reference,
                budget=args.budget,
                max_samples=args.eval_samples,
                arguments=signature(instance, key, args),
            )
            yield key, row


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    path, picture = args.out / "vs_exact.csv", args.out / "vs_exact.png"
    try:
        instances = selected(args)
        for instance in instances:
            for model in args.models:
                instance.check(*changes(model, args), f"seed={args.seeds[-1]}")
        kept = read(path) if args.resume else []
        made(args.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows: dict[Key, Comparison] = {(r.instance, r.model, r.seed): r for r in kept}
    try:
        for key, row in runs(instances, rows, args):
            rows[key] = row
            save(list(rows.values()), path)
            print(line(row), flush=True)
    except KeyboardInterrupt:
        print("interrupted: finished runs are saved, --resume does the others", file=sys.stderr)
    if rows:
        report = list(rows.values())
        draw(report, picture)
        print("", table(report), "", *verdict(report), "", f"written: {path}, {picture}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
