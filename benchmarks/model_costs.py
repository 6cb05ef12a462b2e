"""What a model costs: sampling, ln psi and the flip pass against N, then optimisation steps."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.exponents import exponent
from benchmarks.matmul import synchronise
from benchmarks.models import MODELS, Model
from benchmarks.problems import LARGE, rydberg
from benchmarks.tables import aligned
from nqs.ground_states.build import build, start_from_product_state

OPERATIONS = ("sampling", "log_psi", "flips")
TIME_KEY = ("operation", "model", "n_sites", "samples")
STEP_KEY = ("problem", "model", "seed")
REPEATS = 3


@dataclass(frozen=True)
class Time:
    """Seconds of one operation on `samples` configurations of an L x L Rydberg array, N = L^2."""

    operation: str
    model: str
    n_sites: int
    samples: int
    seconds: float


@dataclass(frozen=True)
class Step:
    """Seconds of an optimisation step and peak resident memory of its process.

    ended: "finished" or "failed: why"; the numbers are nan then.
    """

    problem: str
    model: str
    seed: int
    seconds_per_step: float
    peak_gb: float
    steps: int
    n_samples: int
    n_parameters: int
    ended: str


@torch.no_grad()
def times(model: Model, side: int, n_samples: int, seed: int) -> list[Time]:
    """The three operations, medians of REPEATS after a first call that warms up.

    Independent draws (each a row), ln psi of them, and ln psi after each of the N single flips.
    """
    problem = rydberg(f"{side}x{side}", side, math.inf)
    job = build(problem.config(f"seed={seed}", *model.arguments))
    start_from_product_state(job)
    psi, n_sites = job.wavefunction, problem.n_sites
    configs = psi.sample(n_samples, job.generator).configs
    flips = torch.eye(n_sites, dtype=torch.bool, device=job.device)
    work: dict[str, Callable[[], object]] = {
        "sampling": lambda: psi.sample(n_samples, job.generator),
        "log_psi": lambda: psi.log_psi(configs),
        "flips": lambda: psi.log_psi_flipped(configs, flips),
    }
    return [
        Time(name, model.name, n_sites, n_samples, _seconds(work[name], job.device))
        for name in OPERATIONS
    ]


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    marks = []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        work()
        synchronise(device)
        marks.append(time.perf_counter() - began)
    return statistics.median(marks[1:])


def step(problem: str, model: str, n_steps: int, seed: int) -> Step:
    """Measured in a process of its own, so that no other entry's memory counts."""
    options = {"problem": problem, "model": model, "steps": n_steps, "seed": seed}
    command = [sys.executable, "-m", "benchmarks.step_memory"]
    command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Step(problem, model, seed, math.nan, math.nan, 0, 0, 0, f"failed: {said[:200]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Step(
        problem=problem,
        model=model,
        seed=seed,
        seconds_per_step=found["seconds_per_step"],
        peak_gb=found["peak_bytes"] / 1e9,
        steps=n_steps,
        n_samples=found["n_samples"],
        n_parameters=found["n_parameters"],
        ended="finished",
    )


def times_table(rows: Sequence[Time]) -> str:
    """Seconds for each N, the fitted exponent of N and the one expected, a row a model."""
    sizes = sorted({row.n_sites for row in rows})
    header = ["operation", "model", *(f"N={n}" for n in sizes), "exponent", "theory"]
    lines = []
    for operation in OPERATIONS:
        for model in MODELS.values():
            seconds = _of(rows, operation, model.name)
            if seconds:
                fitted = exponent(list(seconds), list(seconds.values()))
                cells = [f"{seconds[n]:.3g}" if n in seconds else "" for n in sizes]
                expected = "-".join(f"{x:g}" for x in dict.fromkeys(model.theory(operation)))
                lines.append([operation, model.name, *cells, f"{fitted:.2f}", expected])
    return aligned([header, *lines])


def _of(rows: Sequence[Time], operation: str, model: str) -> dict[int, float]:
    """N -> seconds, by N."""
    found = {r.n_sites: r.seconds for r in rows if (r.operation, r.model) == (operation, model)}
    return dict(sorted(found.items()))


def steps_table(rows: Sequence[Step]) -> str:
    """A row a problem and model."""
    header = ["problem", "model", "s / step", "peak GB", "samples", "parameters", "ended"]
    problems, models = list(LARGE), list(MODELS)
    order = sorted(rows, key=lambda r: (problems.index(r.problem), models.index(r.model)))
    lines = [
        [
            *(row.problem, row.model, f"{row.seconds_per_step:.3g}", f"{row.peak_gb:.2f}"),
            *(str(row.n_samples), str(row.n_parameters), row.ended),
        ]
        for row in order
    ]
    return aligned([header, *lines])


def draw(rows: Sequence[Time], path: Path) -> None:
    """Seconds against N, log-log, a panel an operation."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
    for axes, operation in zip(panels, OPERATIONS, strict=True):
        for place, model in enumerate(MODELS):
            seconds = _of(rows, operation, model)
            if seconds:
                fitted = exponent(list(seconds), list(seconds.values()))
                label = f"{model}  {fitted:.1f}"
                axes.plot(list(seconds), list(seconds.values()), f"C{place}.-", label=label)
        axes.set(xscale="log", yscale="log", title=operation, xlabel="N", ylabel="seconds")
        axes.legend(fontsize="x-small", title="fitted exponent", title_fontsize="x-small")
    figure.savefig(path, dpi=150)
    plt.close(figure)
