"""The result of a ground-state run: what its summary.json says, and lines for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from nqs.errors import InputError, shown
from nqs.runfolder.history import Evaluation
from nqs.runfolder.progress import duration
from nqs.runfolder.summary import aligned, one_line
from nqs.runfolder.summary import entries as all_entries
from nqs.runfolder.summary import read as read_any

DESCRIPTIONS = {
    "finished": "all steps done",
    "converged": "the energy no longer falls, the next stage goes on",
    "budget": "train.max_seconds reached",
    "interrupted": "stopped by a signal; resume to go on",
    "lost": "a process of the run ended; resume to go on",
    "failed": "the energy was no longer a number",
}
ENDED: Final = ("finished", "converged", "budget")
"""States after which nothing is left to do."""
GOOD: Final = "good"
DOUBTFUL: Final = "doubtful"
REQUIRED: Final = ("status", "energy", "variance", "v_score", "n_sites", "n_parameters", "steps")
NUMBERS: Final = ("n_sites", "n_parameters", "steps", "wall_seconds", "seed")
MAYBE_NUMBERS: Final = (
    *("energy", "energy_error", "variance", "v_score"),
    *("exact_energy", "difference", "relative_error", "z_score"),
)


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
    doubts: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of summary.json; energies and the verdict are null where there was no final
    evaluation.

    wall_seconds counts the optimisation of all sessions and the rest of this one; flip_precision
    the steps by their flips' products. doubts: why the energy may not be the ground state's, each
    a sentence that begins with its kind and a colon; with none of them the verdict is good.
    remarks: what else is to be known of the state, of the same form.
    """
    numbers: dict[str, Any] = {} if evaluation is None else evaluation.numbers
    energy = numbers.get("energy")
    summary: dict[str, Any] = {
        "status": status,
        "verdict": None if energy is None else DOUBTFUL if doubts else GOOD,
        "doubts": [] if energy is None else list(doubts),
        "remarks": [] if energy is None else list(remarks),
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
            summary |= against_exact(energy, numbers.get("energy_error"), exact_energy)
    if warning is not None:
        summary["warning"] = warning
    if evaluation is not None:
        summary["observables"] = {
            name: {"value": _plain(value), "error": _plain(error)}
            for name, (value, error) in evaluation.observables.items()
            if value.ndim == 0 or name == "density"  # the rest is in run.h5
        }
    return summary


def against_exact(energy: float, error: float | None, exact: float) -> dict[str, float | None]:
    """E - E_exact; the same over |E_exact| and over the standard error, None where that is 0."""
    difference = energy - exact
    return {
        "difference": difference,
        "relative_error": difference / abs(exact) if exact else None,
        "z_score": difference / error if error else None,
    }


def verdict(summary: dict[str, Any]) -> str | None:
    """good, doubtful, or None: no final evaluation, or a run older than verdicts."""
    return DOUBTFUL if summary.get("doubts") else summary.get("verdict")


def status(folder: Path) -> str:
    """The status of the run in `folder`; "missing" without a summary, "unreadable" with a damaged
    one, "without an energy" where one that has ended holds none."""
    if not (folder / "summary.json").exists():
        return "missing"
    try:
        summary = read(folder / "summary.json")
    except InputError:
        return "unreadable"
    if summary.get("status") in ENDED and summary.get("energy") is None:
        return "without an energy"
    return one_line(summary.get("status"))


def is_finished(folder: Path) -> bool:
    """Whether the run in `folder` has its result."""
    return status(folder) in ENDED


def read(path: Path) -> dict[str, Any]:
    """The content of a summary.json; raises InputError if there is none or it cannot be read."""
    content = read_any(path)
    if "energy" in content:
        _check(path, content)
    return content


def _check(path: Path, summary: dict[str, Any]) -> None:
    """Raises InputError unless what is read of a ground-state run is what `summarise` writes."""
    bad = [key for key in REQUIRED if key not in summary]
    bad += [key for key in NUMBERS if key in summary and not _is_number(summary[key])]
    bad += [key for key in MAYBE_NUMBERS if not _is_number(summary.get(key), or_none=True)]
    bad += [] if isinstance(summary.get("status"), str) else ["status"]
    bad += [] if summary.get("verdict") in (GOOD, DOUBTFUL, None) else ["verdict"]
    for key in ("doubts", "remarks"):
        texts = summary.get(key, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            bad.append(key)
    observables = summary.get("observables", {})
    entries = observables.values() if isinstance(observables, dict) else [None]
    if not all(isinstance(e, dict) and {"value", "error"} <= e.keys() for e in entries):
        bad.append("observables")
    if not isinstance(summary.get("flip_precision", {}), dict):
        bad.append("flip_precision")
    if _is_number(summary.get("n_sites")) and summary["n_sites"] < 1:
        bad.append("n_sites")
    if bad:
        raise InputError(f"{path}: no summary of a run, for its {shown(bad[0])}; evaluate it again")


def _is_number(value: Any, or_none: bool = False) -> bool:
    if value is None:
        return or_none
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308


def lines(content: dict[str, Any]) -> list[str]:
    """The summary as aligned lines, scalar observables included."""
    return aligned(entries(content))


def entries(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, text) of everything worth reading in a summary; all there is, of another kind of
    run's."""
    if "energy" not in summary:
        return all_entries(summary)
    status = summary["status"]
    meaning = DESCRIPTIONS.get(status)
    rows = [("status", one_line(status) + (f" ({meaning})" if meaning else ""))]
    if summary["energy"] is not None:
        n_sites = summary["n_sites"]
        energy, error = summary["energy"], summary["energy_error"]
        per_site = None if error is None else error / n_sites
        rows.append(("energy", with_error(energy, error)))
        rows.append(("energy per site", with_error(energy / n_sites, per_site)))
        rows.append(("verdict", verdict(summary) or "no verdict (older run)"))
        rows += [("", one_line(doubt)) for doubt in summary.get("doubts", [])]
        rows += kept_rows(summary)
        rows += [("remark", one_line(text)) for text in summary.get("remarks", [])]
    rows += exact_rows(summary)
    for key, name in (("variance", "variance"), ("v_score", "V-score")):
        if summary[key] is not None:
            rows.append((name, f"{summary[key]:.4g}"))
    for name, entry in summary.get("observables", {}).items():
        if _is_number(entry["value"]) and _is_number(entry["error"], or_none=True):
            text = with_error(entry["value"], entry["error"])
            rows.append((one_line(name).replace("_", " "), text))
    cheaper = summary.get("flip_precision", {})
    if set(cheaper) - {"full"}:
        rows.append(
            ("flips", one_line(", ".join(f"{kind} {n} steps" for kind, n in cheaper.items())))
        )
    wall_seconds = summary.get("wall_seconds")
    rows += [
        ("sites", f"{summary['n_sites']}"),
        ("parameters", f"{summary['n_parameters']}"),
        ("steps", f"{summary['steps']}"),
        *([] if wall_seconds is None else [("wall time", duration(wall_seconds))]),
        ("seed", one_line(summary.get("seed"))),
    ]
    return rows


def kept_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Whose energy it is, where that is the start's (nqs.ground_states.kept_start)."""
    energy, error = summary.get("raised_energy"), summary.get("raised_energy_error")
    if not _is_number(energy) or not _is_number(error, or_none=True):
        return []
    reason = f"the steps raised it to {with_error(float(energy or 0), error)}"
    return [("state", f"that of the start: {reason}")]


def exact_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The comparison with exact diagonalisation, where there was one."""
    exact, energy = summary.get("exact_energy"), summary["energy"]
    if exact is None:
        return []
    rows = [("exact energy", f"{exact:.8f}")]
    if energy is None:
        return rows
    numbers = against_exact(energy, summary["energy_error"], exact)
    sigmas = numbers["z_score"]
    away = "" if sigmas is None else f" ({sigmas:+.1f} standard errors)"
    rows.append(("error against exact", f"{numbers['difference']:+.2e}{away}"))
    if numbers["relative_error"] is not None:
        rows.append(("relative error", f"{numbers['relative_error']:+.2e}"))
    return rows


def with_error(value: float, error: float | None) -> str:
    """-7.2543 ± 0.0012: as many digits as the two leading ones of the error."""
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:.8g}"
    exponent = int(f"{error:.1e}".split("e")[1])  # after rounding: 9.99e-5 counts as 1.0e-4
    digits = max(0, 1 - exponent)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()
