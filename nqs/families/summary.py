"""The result of a family's run: what its summary.json says, and lines for people."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Final

from nqs.families.points import Point
from nqs.ground_states.summary import DESCRIPTIONS, DOUBTFUL, GOOD, with_error
from nqs.runfolder.progress import duration
from nqs.runfolder.summary import aligned, one_line

LONGEST: Final = 60
"""Characters of the couplings of a check that are shown."""
SHOWN: Final = 8
"""Later evaluations that are shown, the last ones."""


def summarise(
    *,
    status: str,
    ranges: list[str],
    points: Sequence[Point],
    warning: str | None,
    variance: float | None,
    n_sites: int,
    n_parameters: int,
    steps: int,
    wall_seconds: float,
    seed: int,
) -> dict[str, Any]:
    """The content of summary.json: of each check its couplings, numbers and verdict, and of all
    together how many are doubtful, the largest V-score, and the median and largest relative error
    where exact energies are known. variance: mean of the last ten steps."""
    entries = [point.entry() for point in points]
    errors = [abs(e["relative_error"]) for e in entries if e.get("relative_error") is not None]
    doubtful = sum(entry["verdict"] == DOUBTFUL for entry in entries)
    summary: dict[str, Any] = {
        "status": status,
        "verdict": None if not entries else DOUBTFUL if doubtful else GOOD,
        "family": ranges,
        "doubtful_checks": doubtful,
        "checks": entries,
        "v_score_worst": max((entry["v_score"] for entry in entries), default=None),
        "variance": variance,
        "n_sites": n_sites,
        "n_parameters": n_parameters,
        "steps": steps,
        "wall_seconds": round(wall_seconds, 3),
        "seed": seed,
    }
    if errors:
        summary["relative_error_median"] = statistics.median(errors)
        summary["relative_error_worst"] = max(errors)
    return summary if warning is None else summary | {"warning": warning}


def is_family(summary: dict[str, Any]) -> bool:
    """Whether a summary.json is that of a family's run."""
    return isinstance(summary.get("checks"), list) and "family" in summary


def lines(summary: dict[str, Any]) -> list[str]:
    """The summary as aligned lines."""
    return aligned(entries(summary))


def entries(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, text) of everything worth reading."""
    status = summary.get("status")
    meaning = DESCRIPTIONS.get(str(status))
    rows = [("status", one_line(status) + (f" ({meaning})" if meaning else ""))]
    rows += [("varied", one_line(entry)) for entry in summary.get("family", [])]
    if summary.get("verdict") is not None:
        n_checks, doubtful = len(summary["checks"]), summary.get("doubtful_checks")
        rows.append(("verdict", f"{summary['verdict']}: {doubtful} of {n_checks} checks doubtful"))
    rows += [("check", _check(entry)) for entry in summary.get("checks", [])]
    later = summary.get("later_evaluations")
    later = later if isinstance(later, list) else []  # of a file that somebody has written
    rows += [("evaluated", _evaluated(entry)) for entry in later[-SHOWN:]]
    if len(later) > SHOWN:
        rows.append(("", f"and {len(later) - SHOWN} before, in summary.json"))
    for key, name in (
        ("relative_error_median", "relative error, median"),
        ("relative_error_worst", "relative error, worst"),
        ("v_score_worst", "V-score, worst"),
        ("variance", "variance"),
    ):
        if isinstance(summary.get(key), float):
            rows.append((name, f"{summary[key]:.3g}"))
    rows += [
        ("sites", one_line(summary.get("n_sites"))),
        ("parameters", one_line(summary.get("n_parameters"))),
        ("steps", one_line(summary.get("steps"))),
        ("wall time", duration(float(summary.get("wall_seconds") or 0))),
        ("seed", one_line(summary.get("seed"))),
    ]
    return rows


def _check(entry: Any) -> str:
    """One line of a check."""
    try:
        couplings = " ".join(f"{name}={_short(x)}" for name, x in entry["couplings"].items())
        text = f"{couplings[:LONGEST]}: E {with_error(entry['energy'], entry['energy_error'])}"
        if entry.get("relative_error") is not None:
            text += f", relative error {entry['relative_error']:+.1e}"
        kinds = [str(doubt).partition(":")[0] for doubt in entry["doubts"]]
        return one_line(text + (f", doubtful: {', '.join(kinds)}" if kinds else ""))
    except (KeyError, TypeError, AttributeError, ValueError):
        return one_line(entry)


def _evaluated(entry: Any) -> str:
    """One line of what `nqs evaluate` has measured."""
    try:
        couplings = f"{entry['couplings']}"[:LONGEST]
        text = f"{couplings}: E {with_error(entry['energy'], entry['energy_error'])}"
        kinds = [doubt.partition(":")[0] for doubt in entry["doubts"].split(" | ") if doubt]
        return one_line(text + (f", doubtful: {', '.join(kinds)}" if kinds else ", good"))
    except (KeyError, TypeError, AttributeError, ValueError):
        return one_line(entry)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(f'{x:.3g}' for x in value[:3])}, ...]"
    return f"{value:.6g}"
