"""convergence.png: energy per site against the step, with its error band and the exact line."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nqs.runs.atomic import write_bytes
from nqs.runs.history import RunFile


def convergence_figure(
    content: RunFile, n_sites: int, exact_energy: float | None, title: str
) -> Figure:
    """Energy per site; below it the relative error where the exact energy is known."""
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
        _draw_relative_error(panels[1], step, energy, error, exact_energy)
    final = next((e for e in reversed(content.evaluations) if e.numbers["kind"] == "final"), None)
    if final is not None:
        value, sigma = (final.numbers[key] / n_sites for key in ("energy", "energy_error"))
        label = f"final evaluation, {value:.6f} ± {sigma:.1e}"
        panels[0].errorbar(
            [final.numbers["step"]], [value], yerr=[sigma], fmt="o", ms=4, color="C3", label=label
        )
    panels[0].legend(frameon=False)
    panels[0].set_title(title, fontsize="medium")
    panels[-1].set_xlabel("optimisation step")
    return figure


def save_convergence(
    path: Path, content: RunFile, n_sites: int, exact_energy: float | None, title: str
) -> None:
    """Writes the figure as a PNG in one step. Raises OSError."""
    buffer = io.BytesIO()
    convergence_figure(content, n_sites, exact_energy, title).savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())


def _draw_energy(axes: Axes, step: np.ndarray, energy: np.ndarray, error: np.ndarray) -> None:
    axes.plot(step, energy, lw=0.8, label="samples of each step")
    axes.fill_between(step, energy - error, energy + error, alpha=0.3, lw=0)
    axes.set_ylabel("energy per site (coupling units)")
    if len(energy) > 1:  # the first steps would flatten everything that comes after them
        tail = energy[len(energy) // 10 :]
        low, high = tail.min(), tail.max()
        margin = 0.1 * (high - low) + 1e-9 * max(1.0, abs(low))
        axes.set_ylim(low - 2 * margin, high + 2 * margin)


def _draw_relative_error(
    axes: Axes, step: np.ndarray, energy: np.ndarray, error: np.ndarray, exact_energy: float
) -> None:
    scale = abs(exact_energy)
    axes.plot(step, np.abs(energy - exact_energy) / scale, lw=0.8, label="|E - exact| / |exact|")
    axes.plot(step, error / scale, lw=0.8, color="C7", label="standard error / |exact|")
    axes.set_yscale("log")
    axes.set_ylabel("relative error")
    axes.legend(frameon=False)
