"""run.h5: the history of the optimisation and every evaluation, in named columns with units.

    /history/<column>            one value a step; attributes unit, description
    /evaluations/<number>        attributes energy, energy_error, variance, v_score, n_samples,
                                 step, seed, kind (final: at the end; later: nqs evaluate)
    /evaluations/<number>/<observable>/{value,error}
                                 scalar, per site or per pair of sites; attributes unit, description
    /evaluations/<number>/<observable>/coordinates
                                 where the entries are something else: k points of structure_factor
                                 (..., d), subsystems of renyi2 (S, N)

The content lives in memory and the file is always written whole: a file open while its process is
killed would be lost, and a reader that holds it open could make the writer fail.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import h5py
import numpy as np

from nqs.runs.atomic import write_bytes
from nqs.runs.schema import InputError
from nqs.vmc.precision import kind_of


class Column(NamedTuple):
    """A named column of the history."""

    name: str
    unit: str
    description: str


COLUMNS: Final = (
    Column("step", "1", "optimisation step, from 1"),
    Column("energy", "couplings", "mean local energy of the step's samples"),
    Column("energy_error", "couplings", "standard error of that mean"),
    Column("variance", "couplings^2", "variance of the local energy"),
    Column("v_score", "1", "N Var(H) / (E - E_inf)^2"),
    Column("n_unique", "1", "distinct configurations among the samples"),
    Column("gradient_norm", "couplings", "norm of the energy's gradient"),
    Column("learning_rate", "1", "learning rate of the step"),
    Column("flip_bits", "1", "significant bits of the operands of the flips' matrix products"),
    Column("flip_bias", "couplings", "error of the energy from these, last measured; 0 if full"),
    Column("flip_rms_share", "1", "rms error of E_loc from these over its standard deviation"),
    Column("added_variance", "couplings^2", "what local flips add to the variance of E_loc"),
    Column("seconds", "s", "wall time of the step"),
    Column("elapsed", "s", "wall time of the optimisation so far, all sessions"),
)
TIME_COLUMNS: Final = ("seconds", "elapsed")
"""The only columns in which a resumed run differs from an uninterrupted one."""

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


@dataclass(frozen=True)
class Evaluation:
    """Numbers by name; per observable its value and error, and what its entries belong to where
    that is not a site or a pair of sites."""

    numbers: dict[str, Any]
    observables: dict[str, tuple[np.ndarray, np.ndarray]]
    coordinates: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class RunFile:
    """The content of run.h5.

    Attributes:
        layout: columns of the history; the first is step, the last elapsed.
    """

    layout: Sequence[Column] = COLUMNS
    columns: dict[str, list[float]] = field(init=False)
    evaluations: list[Evaluation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.columns = {column.name: [] for column in self.layout}

    @property
    def n_steps(self) -> int:
        """Steps recorded."""
        return len(self.columns["step"])

    def append(self, record: Any, elapsed: float) -> None:
        """Adds one step; record has an attribute for each column but the last."""
        for column in self.layout[:-1]:
            self.columns[column.name].append(float(getattr(record, column.name)))
        self.columns["elapsed"].append(elapsed)

    def flip_precision(self) -> dict[str, int]:
        """Steps by their flips' products: {"full": 200}."""
        return dict(Counter(kind_of(bits) for bits in self.columns["flip_bits"]))

    def truncate(self, step: int) -> None:
        """Forgets everything after `step`; raises InputError if the history ends before it."""
        if self.n_steps < step:
            raise InputError(
                f"run.h5: ends at step {self.n_steps} but the checkpoint is at step {step}; "
                "the two do not belong together"
            )
        for values in self.columns.values():
            del values[step:]

    def write(self, path: Path) -> None:
        """Replaces the file by this content in one step. Raises OSError with the old file kept."""
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file.attrs["format"] = "nqs run 1"
            history = file.create_group("history")
            for column in self.layout:
                data = history.create_dataset(
                    column.name, data=np.asarray(self.columns[column.name], dtype=np.float64)
                )
                data.attrs["unit"], data.attrs["description"] = column.unit, column.description
            evaluations = file.create_group("evaluations")
            for number, evaluation in enumerate(self.evaluations, start=1):
                _write_evaluation(evaluations.create_group(f"{number:04d}"), evaluation)
        write_bytes(path, buffer.getvalue())


def array(value: Any) -> np.ndarray:
    """A number, array or tensor on any device as a float64 array."""
    tolist = getattr(value, "tolist", None)
    return np.asarray(value if tolist is None else tolist(), dtype=np.float64)


def read(path: Path, layout: Sequence[Column] = COLUMNS) -> RunFile:
    """The content of a run.h5; empty if there is none. Raises InputError if it cannot be read."""
    content = RunFile(layout)
    if not path.exists():
        return content
    try:
        with h5py.File(path, "r") as file:
            for column in layout:
                content.columns[column.name] = file["history"][column.name][:].tolist()
            for name in sorted(file["evaluations"]):
                content.evaluations.append(_read_evaluation(file["evaluations"][name]))
    except (OSError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path}: not a readable run.h5 ({' '.join(str(error).split())})"
        ) from None
    return content


def _write_evaluation(group: h5py.Group, evaluation: Evaluation) -> None:
    group.attrs.update(evaluation.numbers)
    for name, (value, error) in evaluation.observables.items():
        group.create_dataset(f"{name}/value", data=value)
        group.create_dataset(f"{name}/error", data=error)
        if name in evaluation.coordinates:
            group.create_dataset(f"{name}/coordinates", data=evaluation.coordinates[name])
        if name in OBSERVABLES:
            _, group[name].attrs["unit"], group[name].attrs["description"] = OBSERVABLES[name]


def _read_evaluation(group: h5py.Group) -> Evaluation:
    numbers = {
        name: value.item() if hasattr(value, "item") else value
        for name, value in group.attrs.items()
    }
    observables = {
        name: (np.asarray(entry["value"][()]), np.asarray(entry["error"][()]))
        for name, entry in group.items()
    }
    coordinates = {
        name: np.asarray(entry["coordinates"][()])
        for name, entry in group.items()
        if "coordinates" in entry
    }
    return Evaluation(numbers, observables, coordinates)
