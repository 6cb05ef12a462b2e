"""convergence.png: energy per site against the step, with its error band and the exact line."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nqs.runfolder.history import RunFile
from nqs.runfolder.picture import as_title, save

NOTHING: Final = 1e-12
"""An exact energy that is zero but for rounding."""


def convergence_figure(
    content: RunFile, n_sites: int, exact_energy: float | None, title: str
) -> Figure:
    """Energy per site; below it the error where the exact energy is known, relative unless that is
    zero."""
    step = np.asarray(content.columns["step"])
    energy = np.asarray(content.columns["energy"])
    error = np.asarray(content.columns["energy_error"])
    figure = Figure(
        figsize=(7, 6 if exact_energy is not None else 4), layout="constrained", dpi=150
    )
    FigureCanvasAgg(figure)
    n_panels = 1 if exact_energy is None else 2
    panels = np.atleast_1d(figure.subplots(n_panels, 1, sharex=True))
    _draw_energy(panels[0], step, energy / n_sites, error / n_sites)
    if exact_energy is not None:
        label = f"exact, {exact_energy / n_sites:.6f}"
        panels[0].axhline(exact_energy / n_sites, color="black", ls="--", lw=1, label=label)
        _draw_error(panels[1], step, energy, error, exact_energy)
    final = content.last("final")
    if final is not None:
        value, sigma = (final.numbers[key] / n_sites for key in ("energy", "energy_error"))
        raised = content.last("raised")
        kept = raised is not None and raised.numbers["step"] == final.numbers["step"]
        whose = "the start, kept" if kept else "final evaluation"
        label = f"{whose}, {value:.6f} ± {sigma:.1e}"
        panels[0].errorbar(
            [final.numbers["step"]], [value], yerr=[sigma], fmt="o", ms=4, color="C3", label=label
        )
    panels[0].legend(frameon=False)
    panels[0].set_title(as_title(title), fontsize="medium", parse_math=False)
    panels[-1].set_xlabel("optimisation step")
    return figure


def save_convergence(
    path: Path, content: RunFile, n_sites: int, exact_energy: float | None, title: str
) -> None:
    """Writes the figure as a PNG in one step. Raises OSError."""
    save(path, convergence_figure(content, n_sites, exact_energy, title))


def _draw_energy(axes: Axes, step: np.ndarray, energy: np.ndarray, error: np.ndarray) -> None:
    known = np.isfinite(energy) & np.isfinite(error)
    step, energy, error = step[known], energy[known], error[known]
    axes.plot(step, energy, lw=0.8, label="samples of each step")
    axes.fill_between(step, energy - error, energy + error, alpha=0.3, lw=0)
    axes.set_ylabel("energy per site (coupling units)")
    if len(energy) > 1:  # the first steps would flatten everything that comes after them
        tail = energy[len(energy) // 10 :]
        low, high = tail.min(), tail.max()
        margin = 0.1 * (high - low) + 1e-9 * max(1.0, abs(low))
        axes.set_ylim(low - 2 * margin, high + 2 * margin)


def _draw_error(
    axes: Axes, step: np.ndarray, energy: np.ndarray, error: np.ndarray, exact_energy: float
) -> None:
    relative = abs(exact_energy) > NOTHING
    scale, unit = (abs(exact_energy), " / |exact|") if relative else (1.0, "")
    distance = np.abs(energy - exact_energy) / scale
    axes.plot(step, distance, lw=0.8, label=f"|E - exact|{unit}")
    axes.plot(step, error / scale, lw=0.8, color="C7", label=f"standard error{unit}")
    if (distance > 0).any() or (error > 0).any():
        axes.set_yscale("log")
    axes.set_ylabel("relative error" if relative else "error (coupling units)")
    axes.legend(frameon=False)
