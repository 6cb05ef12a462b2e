"""One model on one problem: optimise on the clock, evaluate with fresh samples off it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.models import MODELS, Model
from benchmarks.problems import ZOO, Problem
from benchmarks.programs import Ours
from benchmarks.tables import aligned
from nqs.core.recurrent2d import Recurrent2D
from nqs.wavefunctions.symmetrised import Symmetrised

KEY = ("problem", "model", "seed")


@dataclass(frozen=True)
class Accuracy:
    """A row of model_zoo.csv; energies are totals.

    Attributes:
        relative_error: (energy - reference) / |reference|, negative below the reference.
        relative_error_bar: energy_error / |reference|.
        seconds: of optimisation, set-up included.
        ended: "finished" (all steps), "budget" or "failed: why".
        note: what is particular about the model on this lattice.
    """

    problem: str
    model: str
    seed: int
    energy: float
    energy_error: float
    relative_error: float
    relative_error_bar: float
    variance: float
    v_score: float
    seconds: float
    steps: int
    n_parameters: int
    eval_samples: int
    ended: str
    note: str


def measured(
    problem: Problem,
    model: Model,
    *,
    seed: int,
    changes: Sequence[str] = (),
    budget: float = math.inf,
    eval_samples: int | None = None,
) -> Accuracy:
    """Trains for train.steps or `budget` seconds, whichever ends first, then evaluates.

    changes: further key=value arguments. eval_samples: train.eval_samples if None. A run that
    fails is a row that says so. Raises InputError for arguments that train.py would refuse.
    """
    program = Ours(problem, seed, (*model.arguments, *changes))
    n_samples = eval_samples or program.config.train.eval_samples
    energy = error = variance = v_score = math.nan
    began = time.perf_counter()
    seconds = 0.0
    try:
        program.start()
        while not program.finished and time.perf_counter() - began < budget:
            program.step()
        seconds = time.perf_counter() - began
        found = program.evaluation(n_samples)
        energy, error = found.energy, found.energy_error
        variance, v_score = found.variance, found.v_score
        ended = "finished" if program.finished else "budget"
    except (ArithmeticError, RuntimeError, MemoryError) as failure:
        seconds = seconds or time.perf_counter() - began
        ended = f"failed: {' '.join(str(failure).split())[:200]}"
    scale = abs(problem.energy)
    return Accuracy(
        problem=problem.name,
        model=model.name,
        seed=seed,
        energy=energy,
        energy_error=error,
        relative_error=(energy - problem.energy) / scale,
        relative_error_bar=error / scale,
        variance=variance,
        v_score=v_score,
        seconds=seconds,
        steps=program.steps,
        n_parameters=program.n_parameters,
        eval_samples=n_samples,
        ended=ended,
        note=note(program) if program.steps else "",
    )


def note(program: Ours) -> str:
    """What the table says about the model on this lattice."""
    psi = program.job.wavefunction
    if isinstance(psi, Symmetrised):
        return f"{psi.n_images} images"
    if isinstance(psi.core, Recurrent2D) and min(psi.core.grid) == 1:
        return f"{psi.core.grid[0]}x{psi.core.grid[1]} grid: one direction only"
    return ""


def in_order(rows: Sequence[Accuracy]) -> list[Accuracy]:
    """By problem, model and seed."""
    problems, models = list(ZOO), list(MODELS)
    return sorted(
        rows, key=lambda row: (problems.index(row.problem), models.index(row.model), row.seed)
    )


COLUMNS = (
    *("problem", "model", "seed", "relative error", "variance", "seconds", "steps"),
    *("parameters", "ended", "note"),
)


def table(rows: Sequence[Accuracy]) -> str:
    """Aligned text, a row a model and problem."""
    return aligned([COLUMNS, *(_cells(row) for row in in_order(rows))])


def _cells(row: Accuracy) -> list[str]:
    error = f"{row.relative_error:.1e} +- {row.relative_error_bar:.0e}"
    numbers = [f"{row.variance:.2g}", f"{row.seconds:.3g}", str(row.steps), str(row.n_parameters)]
    return [row.problem, row.model, str(row.seed), error, *numbers, row.ended, row.note]


def draw(rows: Sequence[Accuracy], path: Path) -> None:
    """|relative error| with its bar against seconds of optimisation, a panel a problem."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in in_order(rows) if math.isfinite(row.relative_error)]
    problems = list(dict.fromkeys(row.problem for row in rows))
    if not problems:
        return
    figure, panels = plt.subplots(
        1, len(problems), figsize=(4.8 * len(problems), 4.2), squeeze=False, layout="constrained"
    )
    for axes, problem in zip(panels.flat, problems, strict=True):
        for row in (row for row in rows if row.problem == problem):
            _point(axes, row)
        axes.set(yscale="log", title=problem, xlim=(0, None))
        axes.set(xlabel="seconds of optimisation", ylabel="relative error")
    labels = dict(
        pair
        for axes in panels.flat
        for pair in zip(*reversed(axes.get_legend_handles_labels()), strict=True)
    )
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=5)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _point(axes: Any, row: Accuracy) -> None:
    place = list(MODELS).index(row.model)
    axes.errorbar(
        row.seconds,
        abs(row.relative_error),
        yerr=row.relative_error_bar,
        color=f"C{place}",
        marker="osD^v<>Pp"[place % 9],
        ls="",
        label=row.model,
    )
