"""run.h5 of ground-state runs: the columns, numbers and observables that it has.

The kinds of an evaluation: start, of the parameters of train.start_from; final, at the end of the
run; later, by `nqs evaluate`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from nqs.runfolder import history
from nqs.runfolder.history import Column, Evaluation, RunFile

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
OBSERVABLES: Final = {
    column.name: column
    for column in (
        Column("density", "1", "<n_i>, chance of bit 1, (N,)"),
        Column("density_density", "1", "<n_i n_j>, (N, N)"),
        Column("connected", "1", "<n_i n_j> - <n_i> <n_j>, (N, N)"),
        Column("sigma_x", "1", "<sigma^x_i>, (N,)"),
        Column("structure_factor", "1", "(1/N) <|sum_i exp(i k r_i) (n_i - <n_i>)|^2>"),
        Column("renyi2", "nats", "second Renyi entropy -ln Tr rho_A^2 of the subsystems A"),
        Column("excitation_fraction", "1", "(1/N) sum_i <n_i>"),
        Column("magnetisation", "1", "m = (1/N) sum_i <sigma^z_i>"),
        Column("abs_magnetisation", "1", "<|m|>"),
        Column("squared_magnetisation", "1", "<m^2>"),
        Column("staggered_magnetisation", "1", "M = (1/N) sum_i signs_i <sigma^z_i>"),
        Column("abs_staggered_magnetisation", "1", "<|M|>"),
        Column("squared_staggered_magnetisation", "1", "<M^2>"),
        *(
            Column(f"{name}_order", "1", f"<|(1/N) sum_i exp(i k r_i) n_i|>, mean over {star}")
            for name, star in (
                ("z2", "k = pi"),
                ("z3", "k = 2 pi / 3"),
                ("z4", "k = pi / 2"),
                ("checkerboard", "k = (pi, pi)"),
                ("striated", "k = (pi, 0), (0, pi)"),
                ("star", "k = (pi, pi/2), (pi/2, pi)"),
                ("m_point", "the three M points"),
                ("k_point", "three equivalent K points"),
            )
        ),
    )
}
"""Unit and description of each observable."""


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
