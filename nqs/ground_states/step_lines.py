"""How the steps of a ground-state run are written on the console and in run.log."""

from __future__ import annotations

from typing import Final

from nqs.runfolder.progress import Form, Record, duration

HEADER: Final = f"{'step':>9} {'energy':>15} {'error':>9} {'variance':>10} {'s/step':>9} {'ETA':>9}"


def row(record: Record, seconds_per_step: float, remaining: float) -> str:
    """The plain line of a step, aligned with HEADER."""
    return (
        f"{record['step']:9.0f} {record['energy']:15.8g} {record['energy_error']:9.2e} "
        f"{record['variance']:10.3e} {seconds_per_step:9.4f} {duration(remaining):>9}"
    )


def brief(record: Record) -> str:
    """What the bar says of a step."""
    energy, error = record["energy"], record["energy_error"]
    return f"E {energy:.6g} ± {error:.1e}  var {record['variance']:.2e}"


FORM: Final = Form(HEADER, row, brief)
