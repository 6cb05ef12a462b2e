"""run.h5 of ground-state runs: the columns and numbers that it has.

The kinds of an evaluation: start, of the parameters that a run with train.start_from or train.grow
starts from; final, at the end of the run; raised, of last parameters that were given up for the
start's; later, by `nqs evaluate`; check, of a finished family at some couplings, which its number
couplings says.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from nqs.runfolder import history
from nqs.runfolder.history import Evaluation, RunFile

REQUIRED: Final = ("step", "energy", "energy_error", "variance", "seconds", "elapsed")
"""Columns of every run, whichever version wrote it."""
NUMBERS: Final = {
    "energy": float,
    "energy_error": float,
    "variance": float,
    "v_score": float,
    "n_samples": int,
    "step": int,
    "seed": int,
    "kind": str,
}
"""What every evaluation has."""


def check_evaluation(evaluation: Evaluation) -> None:
    """Raises ValueError for an evaluation that a run does not write."""
    for name, kind in NUMBERS.items():
        value = evaluation.numbers.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"an evaluation without {name}")
    if not math.isfinite(evaluation.numbers["energy"]):
        raise ValueError("an evaluation whose energy is no number")


def read(path: Path) -> RunFile:
    """The content of a run.h5, with the columns that it has; empty if there is none. Raises
    InputError as `history.read`."""
    return history.read(path, (history.STEP,), REQUIRED, check_evaluation)
