"""run.h5: the history of the optimisation and every evaluation, in named columns with units.

    attributes format, saved_step (of the newest checkpoint when this was written, -1 for none)
    /history/<column>            one value a step; attributes unit, description
    /evaluations/<number>        attributes energy, energy_error, variance, v_score, n_samples,
                                 step, seed, kind (start: of the parameters of train.start_from,
                                 final: at the end; later: nqs evaluate)
    /evaluations/<number>/<observable>/{value,error}
                                 scalar, per site or per pair of sites; attributes unit, description
    /evaluations/<number>/<observable>/coordinates
                                 where the entries are something else: k points of structure_factor
                                 (..., d), subsystems of renyi2 (S, N)

The content lives in memory and the file is always written whole: a file open while its process is
killed would be lost, and a reader that holds it open could make the writer fail. Its datasets have
HDF5's checksums, and all of it a seal (nqs.runfolder.digests).
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import h5py
import numpy as np

from nqs.errors import InputError
from nqs.runfolder import digests
from nqs.runfolder.atomic import write_bytes

FORMAT: Final = "nqs run 2"
UNSEALED: Final = "nqs run 1"
"""The same without a seal, as older runs have it."""
MOST_VALUES: Final = 2**28
"""Numbers that are read of one file at most, 2 GB."""


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
    Column("seconds", "s", "wall time of the step"),
    Column("elapsed", "s", "wall time of the optimisation so far, all sessions"),
)
"""Those that every optimisation has."""
TIME_COLUMNS: Final = ("seconds", "elapsed")
"""The only columns in which a resumed run differs from an uninterrupted one."""

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


@dataclass(frozen=True)
class Evaluation:
    """Numbers by name; per observable its value and error, what its entries belong to where that is
    not a site or a pair of sites, and its unit and description."""

    numbers: dict[str, Any]
    observables: dict[str, tuple[np.ndarray, np.ndarray]]
    coordinates: dict[str, np.ndarray] = field(default_factory=dict)
    meanings: dict[str, Column] = field(default_factory=dict)

    def repeats(self, other: Evaluation) -> bool:
        """Whether it is the same measurement: the same draws of the same state, and as much of
        them."""
        keys = ("kind", "step", "seed", "n_samples")
        return (
            all(self.numbers.get(key) == other.numbers.get(key) for key in keys)
            and self.observables.keys() == other.observables.keys()
            and self.coordinates.keys() == other.coordinates.keys()
            and all(np.array_equal(x, other.coordinates[n]) for n, x in self.coordinates.items())
        )


@dataclass
class RunFile:
    """The content of run.h5.

    Attributes:
        layout: columns of the history, at least step and elapsed.
        saved_step: step of the newest checkpoint, -1 before the first.
    """

    layout: tuple[Column, ...] = COLUMNS
    saved_step: int = -1
    columns: dict[str, list[float]] = field(init=False)
    evaluations: list[Evaluation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.columns = {column.name: [] for column in self.layout}

    @property
    def n_steps(self) -> int:
        """Steps recorded."""
        return len(self.columns["step"])

    def declare(self, columns: Iterable[Column]) -> None:
        """Adds the columns that it lacks; steps so far have NaN there."""
        for column in columns:
            if column.name not in self.columns:
                self.layout = (*self.layout, column)
                self.columns[column.name] = [math.nan] * self.n_steps

    def append(self, row: Mapping[str, float], elapsed: float) -> None:
        """Adds one step; a column that the row lacks gets NaN."""
        for name, values in self.columns.items():
            values.append(float(row.get(name, math.nan)))
        self.columns["elapsed"][-1] = elapsed

    def keep(self, evaluation: Evaluation) -> None:
        """Adds an evaluation, in the place of the same one if that is there: a run that was killed
        evaluates again when it is resumed."""
        for place, other in enumerate(self.evaluations):
            if evaluation.repeats(other):
                self.evaluations[place] = evaluation
                return
        self.evaluations.append(evaluation)

    def last(self, kind: str) -> Evaluation | None:
        """The last evaluation of a kind."""
        found = [e for e in self.evaluations if e.numbers["kind"] == kind]
        return found[-1] if found else None

    def truncate(self, step: int, folder: Path = Path()) -> None:
        """Forgets everything after `step`, that of the checkpoint to go on from (0: there is none);
        folder: of the run, for messages.

        Raises InputError if the history ends before it, or knows of a checkpoint that is gone.
        """
        if step == 0 and self.saved_step > 0:
            raise InputError(
                f"{folder / 'checkpoints'}: all missing, run.h5 knows of one at step "
                f"{self.saved_step}; restore it from a copy, or start a new run"
            )
        if step > 0 and self.n_steps == 0:
            raise InputError(
                f"{folder / 'run.h5'}: missing, the checkpoint is at step {step}; restore it from "
                "a copy, or start a new run"
            )
        if self.n_steps < step:
            raise InputError(
                f"{folder / 'run.h5'}: ends at step {self.n_steps} but the checkpoint is at step "
                f"{step}; the two do not belong together"
            )
        for values in self.columns.values():
            del values[step:]

    def write(self, path: Path) -> None:
        """Replaces the file by this content in one step. Raises OSError with the old file kept."""
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file.attrs["format"], file.attrs["saved_step"] = FORMAT, self.saved_step
            history = file.create_group("history")
            for column in self.layout:
                values = np.asarray(self.columns[column.name], dtype=np.float64)
                data = _write_array(history, column.name, values)
                data.attrs["unit"], data.attrs["description"] = column.unit, column.description
            evaluations = file.create_group("evaluations")
            for number, evaluation in enumerate(self.evaluations, start=1):
                _write_evaluation(evaluations.create_group(f"{number:04d}"), evaluation)
        write_bytes(path, digests.sealed(buffer.getvalue()))


def array(value: Any) -> np.ndarray:
    """A number, array or tensor on any device as a float64 array."""
    tolist = getattr(value, "tolist", None)
    return np.asarray(value if tolist is None else tolist(), dtype=np.float64)


def read(path: Path, layout: Sequence[Column] = COLUMNS) -> RunFile:
    """The content of a run.h5, whose history has the columns of layout at least; empty if there is
    no file.

    Raises InputError if it cannot be read, is not as it was written, or holds anything that a run
    does not write.
    """
    content = RunFile(tuple(layout))
    if not path.exists():
        return content
    try:
        with digests.unsealed(path) as (opened, has_seal), h5py.File(opened, "r") as file:
            if file.attrs["format"] not in (FORMAT, UNSEALED):
                raise ValueError(f"it is no '{FORMAT}'")
            if file.attrs["format"] == FORMAT and not has_seal:
                raise digests.Damaged("its seal is gone")
            _Reader(MOST_VALUES).fill(content, file)
    except digests.Damaged as error:
        raise InputError(
            f"{path}: not a readable run.h5, it is damaged ({error}); restore it from a copy, or "
            "start a new run"
        ) from None
    except Exception as error:  # HDF5 has an error of its own for each kind of damage
        raise InputError(
            f"{path}: not a readable run.h5 ({' '.join(str(error).split())[:150]})"
        ) from None
    return content


class _Reader:
    """Reads what `RunFile.write` writes and refuses everything else with a ValueError."""

    def __init__(self, room: int) -> None:
        self._room = room  # values that may still come

    def fill(self, content: RunFile, file: h5py.File) -> None:
        """Puts the file's history and evaluations into content."""
        content.saved_step = int(file.attrs.get("saved_step", -1))
        history = self.group(file, "history")
        for name in history:
            if name not in content.columns:
                content.declare([self.column(history, name)])
        for name in content.columns:
            values = self.array(history, name)
            if values.ndim != 1:
                raise ValueError(f"{name} is no column")
            content.columns[name] = values.tolist()
        steps = content.columns["step"]
        if any(len(values) != len(steps) for values in content.columns.values()):
            raise ValueError("its columns differ in length")
        if steps != list(range(1, len(steps) + 1)):
            raise ValueError("its steps are not 1, 2, 3, ...")
        evaluations = self.group(file, "evaluations")
        for name in sorted(evaluations):
            content.evaluations.append(self.evaluation(self.group(evaluations, name)))

    def column(self, parent: h5py.Group, name: str) -> Column:
        """Name, unit and description of what parent holds under this name."""
        entry = self._own(parent, name)
        texts = [entry.attrs.get(key, "") for key in ("unit", "description")]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name} has a unit or description that is no text")
        return Column(name, *texts)

    def evaluation(self, group: h5py.Group) -> Evaluation:
        """One evaluation: numbers of the right kinds, observables with errors of their shape."""
        numbers = {
            name: value.item() if hasattr(value, "item") else value
            for name, value in group.attrs.items()
        }
        for name, kind in NUMBERS.items():
            value = numbers.get(name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"an evaluation without {name}")
            if isinstance(value, int) and not 0 <= value < 2**63:
                raise ValueError(f"an evaluation with {name}={value}")
        if not math.isfinite(numbers["energy"]):
            raise ValueError("an evaluation whose energy is no number")
        observables, coordinates, meanings = {}, {}, {}
        for name in group:
            entry = self.group(group, name)
            value, error = self.array(entry, "value"), self.array(entry, "error")
            if value.shape != error.shape:
                raise ValueError(f"{name} and its error differ in shape")
            observables[name], meanings[name] = (value, error), self.column(group, name)
            if "coordinates" in entry:
                coordinates[name] = self.array(entry, "coordinates")
        return Evaluation(numbers, observables, coordinates, meanings)

    def group(self, parent: h5py.Group, name: str) -> h5py.Group:
        """A group in this very file."""
        found = self._own(parent, name)
        if not isinstance(found, h5py.Group):
            raise ValueError(f"{name} is no group")
        return found

    def array(self, parent: h5py.Group, name: str) -> np.ndarray:
        """Numbers in this very file."""
        found = self._own(parent, name)
        if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "biuf":
            raise ValueError(f"{name} holds no numbers")
        if found.external or found.is_virtual:
            raise ValueError(f"{name} lies in another file")
        self._room -= found.size
        if self._room < 0:
            raise ValueError(f"more than {MOST_VALUES} numbers")
        return np.asarray(found[()])

    def _own(self, parent: h5py.Group, name: str) -> Any:
        if not isinstance(parent.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} lies elsewhere")
        return parent[name]


def _write_array(group: h5py.Group, name: str, values: np.ndarray) -> h5py.Dataset:
    """With checksums, which HDF5 has for arrays alone: the seal covers the rest."""
    if not values.size or not values.ndim:
        return group.create_dataset(name, data=values)
    chunks = values.shape if values.nbytes < 2**20 else True
    return group.create_dataset(name, data=values, chunks=chunks, fletcher32=True)


def _write_evaluation(group: h5py.Group, evaluation: Evaluation) -> None:
    group.attrs.update(evaluation.numbers)
    for name, (value, error) in evaluation.observables.items():
        entry = group.create_group(name)
        _write_array(entry, "value", np.asarray(value))
        _write_array(entry, "error", np.asarray(error))
        if name in evaluation.coordinates:
            _write_array(entry, "coordinates", np.asarray(evaluation.coordinates[name]))
        if name in evaluation.meanings:
            _, entry.attrs["unit"], entry.attrs["description"] = evaluation.meanings[name]
