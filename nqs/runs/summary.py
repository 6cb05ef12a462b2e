"""The result of a run in numbers: summary.json for programs, a few aligned lines for people."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from nqs.runs import digests
from nqs.runs.atomic import write_text
from nqs.runs.history import Evaluation
from nqs.runs.progress import duration
from nqs.runs.schema import InputError

DESCRIPTIONS = {
    "finished": "all steps done",
    "budget": "train.max_seconds reached",
    "interrupted": "stopped by a signal; resume to go on",
    "lost": "a process of the run ended; resume to go on",
    "failed": "the energy was no longer a number",
}


def summarise(
    *,
    status: str,
    n_sites: int,
    n_parameters: int,
    steps: int,
    wall_seconds: float,
    seed: int,
    evaluation: Evaluation | None = None,
    exact_energy: float | None = None,
    warning: str | None = None,
    flip_precision: dict[str, int] | None = None,
) -> dict[str, Any]:
    """The content of summary.json; energies are null where there was no final evaluation.

    wall_seconds counts the optimisation of all sessions and the rest of this one; flip_precision
    the steps by their flips' products.
    """
    numbers: dict[str, Any] = {} if evaluation is None else evaluation.numbers
    energy = numbers.get("energy")
    summary: dict[str, Any] = {
        "status": status,
        "energy": energy,
        "energy_error": numbers.get("energy_error"),
        "energy_per_site": None if energy is None else energy / n_sites,
        "variance": numbers.get("variance"),
        "v_score": numbers.get("v_score"),
        "n_samples": numbers.get("n_samples"),
        "n_sites": n_sites,
        "n_parameters": n_parameters,
        "steps": steps,
        "wall_seconds": round(wall_seconds, 3),
        "seed": seed,
        "flip_precision": flip_precision or {},
    }
    if exact_energy is not None:
        summary["exact_energy"] = exact_energy
        if energy is not None:
            summary["relative_error"] = abs(energy - exact_energy) / abs(exact_energy)
    if warning is not None:
        summary["warning"] = warning
    if evaluation is not None:
        summary["observables"] = {
            name: {"value": _plain(value), "error": _plain(error)}
            for name, (value, error) in evaluation.observables.items()
            if value.ndim == 0 or name == "density"  # the rest is in run.h5
        }
    return summary


def write(path: Path, summary: dict[str, Any]) -> None:
    """Writes summary.json (strict JSON: what is not a number becomes null). Raises OSError."""
    content = digests.vouched(_finite(summary))
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """The content of a summary.json; raises InputError if there is none or it cannot be read."""
    if not os.path.exists(path):
        raise InputError(f"{path}: no such summary; the run has not ended, resume it first")
    try:
        return digests.read_mapping(path)[0]
    except digests.Damaged as error:
        raise InputError(
            f"{path}: no readable summary ({error}); resume the run to write it again"
        ) from None


def lines(summary: dict[str, Any]) -> list[str]:
    """The summary as aligned lines, scalar observables included."""
    rows = entries(summary)
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def entries(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, text) of everything worth reading in a summary; all there is, of another kind of
    run's."""
    if "energy" not in summary:
        return [(key.replace("_", " "), _text(value)) for key, value in summary.items()]
    status = summary["status"]
    rows = [("status", f"{status} ({DESCRIPTIONS[status]})")]
    if summary["energy"] is not None:
        n_sites = summary["n_sites"]
        energy, error = summary["energy"], summary["energy_error"]
        rows.append(("energy", with_error(energy, error)))
        rows.append(("energy per site", with_error(energy / n_sites, error / n_sites)))
    if summary.get("exact_energy") is not None:
        rows.append(("exact energy", f"{summary['exact_energy']:.8f}"))
    if summary.get("relative_error") is not None:
        rows.append(("relative error", f"{summary['relative_error']:.2e}"))
    for key, name in (("variance", "variance"), ("v_score", "V-score")):
        if summary[key] is not None:
            rows.append((name, f"{summary[key]:.4g}"))
    for name, entry in summary.get("observables", {}).items():
        if isinstance(entry["value"], int | float):
            rows.append((name.replace("_", " "), with_error(entry["value"], entry["error"])))
    cheaper = summary.get("flip_precision", {})
    if set(cheaper) - {"full"}:
        rows.append(("flips", ", ".join(f"{kind} {n} steps" for kind, n in cheaper.items())))
    rows += [
        ("sites", f"{summary['n_sites']}"),
        ("parameters", f"{summary['n_parameters']}"),
        ("steps", f"{summary['steps']}"),
        ("wall time", duration(summary["wall_seconds"])),
        ("seed", f"{summary['seed']}"),
    ]
    return rows


def with_error(value: float, error: float | None) -> str:
    """-7.2543 ± 0.0012: as many digits as the two leading ones of the error."""
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:.8g}"
    exponent = int(f"{error:.1e}".split("e")[1])  # after rounding: 9.99e-5 counts as 1.0e-4
    digits = max(0, 1 - exponent)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
