"""Tokenisers of crystals side by side: the same network for the same minutes on the same crystals.

    python -m benchmarks.crystal_tokenisers TRAIN VALIDATION [--minutes 3] [--draws 300]
        [--guesses 200] [--seed 0] [--out FOLDER] [--tokenisers NAME ...] [KEY=VALUE ...]

For each tokeniser, by the commands that a user types: a short training says how many steps fit into
the minutes, so that every schedule is complete at its end; then the training itself, raw draws
(min_distance=null), their evaluation, and one guess for each of the first validation crystals.
KEY=VALUE go to `nqs crystal train`. Preparation (reading, symmetry search) is not part of the
minutes. Nats a crystal depend on how finely numbers are written, which differs between tokenisers.

Writes crystal_tokenisers.csv into --out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import h5py

from benchmarks.arguments import Parser, positive, whole_number
from benchmarks.tables import aligned, write_csv
from nqs.crystal.tokens import TOKENISERS

FEWEST: Final = 100
"""Steps of a training, more than its warm-up."""
TRIAL: Final = 40
"""Steps of the training that is timed."""
COLUMNS: Final = (
    *("tokeniser", "tokens", "steps", "seconds", "nats", "structural", "compositional"),
    *("density", "elements", "match_rate", "rmse", "draws_per_second"),
)


def nqs(*words: object) -> float:
    """Runs `nqs crystal ...`; the seconds it took. Raises SystemExit where it fails."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "nqs", "crystal", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(map(str, words))}: {done.stderr.strip()}")
    return time.perf_counter() - started


def summary(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return content


def step_seconds(run: Path) -> list[float]:
    """Of each step."""
    with h5py.File(run / "run.h5") as file:
        seconds: list[float] = file["history/seconds"][:].tolist()
    return seconds


def first_column(folder: Path) -> dict[str, Any]:
    """Of the evaluation in a folder."""
    columns = json.loads((folder / "evaluation.json").read_text())["columns"]
    found: dict[str, Any] = next(iter(columns.values()))
    return found


def measured(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One row."""
    words = [f"data.train={args.train}", f"data.validation={args.validation}", f"seed={args.seed}"]
    words += [f"data.tokeniser={name}", "train.patience=null", *args.keys]
    trial, run = folder / f"trial-{name}", folder / name
    short = [f"train.steps={TRIAL}", f"train.validate_every={TRIAL + 1}"]
    timed = [word for word in words if not word.startswith("optimizer.warmup_steps=")]
    nqs("train", *timed, *short, "optimizer.warmup_steps=0", f"run.dir={trial}")
    a_step = sorted(step_seconds(trial))[TRIAL // 2]
    steps = max(FEWEST, round(60 * args.minutes / a_step))
    looks = [f"train.steps={steps}", f"train.validate_every={steps}"]
    nqs("train", *words, *looks, f"run.dir={run}")
    shutil.rmtree(trial)
    free, guesses = run / "free", run / "guesses"
    draws = ("at_most=0", "min_distance=null", f"seed={args.seed}")
    seconds = nqs("generate", run, f"n={args.draws}", *draws, f"out={free}")
    seconds -= nqs("generate", run, "n=1", *draws, f"out={run / 'one'}")  # to load and to end
    nqs("evaluate", free, "baselines=false")
    limit = f"limit={args.guesses}"
    nqs("generate", run, "n=1", "like=validation", limit, "at_most=0", f"out={guesses}")
    nqs("evaluate", guesses, "baselines=false", "n=[1]")
    drawn, matched, result = first_column(free), first_column(guesses), summary(run)
    return {
        "tokeniser": name,
        "tokens": result["n_tokens"] / result["n_crystals"],
        "steps": steps,
        "seconds": sum(step_seconds(run)[:-1]),  # the last one looks at the validation crystals
        "nats": result["nats_per_crystal"],
        "structural": drawn["structural"],
        "compositional": drawn["compositional"],
        "density": drawn["density_distance"],
        "elements": drawn["elements_distance"],
        "match_rate": matched["match_rate"],
        "rmse": matched["rmse"],
        "draws_per_second": args.draws / seconds,
    }


def main(arguments: list[str] | None = None) -> None:
    """See the module."""
    parser = Parser(prog="python -m benchmarks.crystal_tokenisers")
    parser.add_argument("train")
    parser.add_argument("validation")
    parser.add_argument("--minutes", type=positive, default=3.0)
    parser.add_argument("--draws", type=whole_number, default=300)
    parser.add_argument("--guesses", type=whole_number, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--tokenisers", nargs="+", choices=[*TOKENISERS.kinds],
                        default=[*TOKENISERS.kinds])  # fmt: skip
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_intermixed_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in args.tokenisers:
        rows.append(measured(name, args, args.out))
        write_csv(args.out / "crystal_tokenisers.csv", COLUMNS, rows)
        print(name, flush=True)
    shown = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    print(aligned([COLUMNS, *shown]))


if __name__ == "__main__":
    main()
