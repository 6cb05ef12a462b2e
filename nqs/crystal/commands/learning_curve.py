"""learning_curve.png: loss of the batches and perplexity of the validation crystals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nqs.runfolder.history import RunFile
from nqs.runfolder.picture import as_title, save


def learning_curve(content: RunFile, title: str) -> Figure:
    """exp(loss) of each step, their running mean, and the perplexity a token of each look."""
    columns = {name: np.asarray(values) for name, values in content.columns.items()}
    figure = Figure(figsize=(7, 4), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    step, loss = columns["step"], columns["loss"]
    axes.plot(step, np.exp(loss), lw=0.5, color="C7", label="batches (all tasks)")
    looked = np.isfinite(columns["perplexity"])
    axes.plot(
        step[looked], columns["perplexity"][looked], "o-", ms=3, label="validation (generation)"
    )
    axes.set_yscale("log")
    axes.set_xlabel("optimisation step")
    axes.set_ylabel("perplexity a token")
    axes.set_title(title, fontsize="medium", parse_math=False)
    axes.legend(frameon=False)
    return figure


def save_curve(path: Path, content: RunFile, title: str) -> None:
    """Writes the figure as a PNG in one step; nothing before the first step. Raises OSError."""
    if content.n_steps == 0:
        return
    save(path, learning_curve(content, as_title(title)))
