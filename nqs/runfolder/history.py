"""run.h5: the history of the optimisation and every evaluation, in named columns with units.

    attributes format, saved_step (of the newest checkpoint when this was written, -1 for none)
    /history/<column>            one value a step; attributes unit, description
    /evaluations/<number>        its numbers as attributes, among them step, seed, n_samples, kind
    /evaluations/<number>/<observable>/{value,error}
                                 arrays of one shape; attributes unit, description
    /evaluations/<number>/<observable>/coordinates
                                 what the entries belong to, where that does not go without saying

Which columns, numbers and observables there are, the job says that writes them.

The content lives in memory and the file is always written whole: a file open while its process is
killed would be lost, and a reader that holds it open could make the writer fail. Its datasets have
HDF5's checksums, and all of it a seal (nqs.runfolder.digests).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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
LONGEST_TEXT: Final = 1000
"""Characters of a unit or a description at most."""
MOST_VALUES: Final = 2**28
"""Numbers that are read of one file at most, 2 GB."""


class Column(NamedTuple):
    """A named column of the history."""

    name: str
    unit: str
    description: str


STEP: Final = Column("step", "1", "optimisation step, from 1")
SECONDS: Final = Column("seconds", "s", "wall time of the step")
ELAPSED: Final = Column("elapsed", "s", "wall time of the optimisation so far, all sessions")
TIME_COLUMNS: Final = (SECONDS.name, ELAPSED.name)
"""The only columns in which a resumed run differs from an uninterrupted one."""


@dataclass(frozen=True)
class Evaluation:
    """A measurement of one state.

    Attributes:
        numbers: by name.
        observables: value and error of each, of one shape.
        coordinates: what the entries of an observable belong to, where that needs saying.
        meanings: name, unit and description of an observable.
    """

    numbers: dict[str, Any]
    observables: dict[str, tuple[np.ndarray, np.ndarray]]
    coordinates: dict[str, np.ndarray] = field(default_factory=dict)
    meanings: dict[str, Column] = field(default_factory=dict)

    def repeats(self, other: Evaluation) -> bool:
        """Whether it is the same measurement: the same draws of the same state, and as much of
        them."""
        keys = ("kind", "step", "seed", "n_samples", "couplings")  # the last of a family's
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
        layout: columns of the history, step among them.
        saved_step: step of the newest checkpoint, -1 before the first.
    """

    layout: tuple[Column, ...] = (STEP, ELAPSED)
    saved_step: int = -1
    columns: dict[str, list[float]] = field(init=False)
    evaluations: list[Evaluation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.columns = {column.name: [] for column in self.layout}

    def declare(self, columns: Iterable[Column]) -> None:
        """Adds the columns that it lacks; steps so far have NaN there."""
        for column in columns:
            if column.name not in self.columns:
                self.layout = (*self.layout, column)
                self.columns[column.name] = [math.nan] * self.n_steps

    @property
    def n_steps(self) -> int:
        """Steps recorded."""
        return len(self.columns["step"])

    def append(self, record: Mapping[str, float], elapsed: float) -> None:
        """Adds one step; NaN where the record lacks a column, as of an older version of the run.

        Raises KeyError for a number that has no column.
        """
        numbers = {**record, ELAPSED.name: elapsed}
        unknown = numbers.keys() - self.columns.keys()
        if unknown:
            raise KeyError(f"no column for {', '.join(sorted(unknown))}")
        for name, values in self.columns.items():
            values.append(float(numbers.get(name, math.nan)))

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
        those = [e for e in self.evaluations if e.numbers["kind"] == kind]
        return those[-1] if those else None

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


def read(
    path: str | Path,
    layout: Sequence[Column] = (STEP,),
    required: Collection[str] = (STEP.name,),
    check: Callable[[Evaluation], None] = lambda evaluation: None,
) -> RunFile:
    """The content of a run.h5; empty if there is none.

    layout: columns that it shall have: NaN at the steps of a file that lacks one, unless it is
    `required`; further ones of the file come after them. check: raises ValueError for an
    evaluation that is none of the job's.
    Raises InputError if it cannot be read, is not as it was written, or holds anything that a run
    does not write.
    """
    content, path = RunFile(tuple(layout)), Path(path)
    if not path.exists():
        return content
    try:
        with digests.unsealed(path) as (opened, has_seal), h5py.File(opened, "r") as file:
            if file.attrs["format"] not in (FORMAT, UNSEALED):
                raise ValueError(f"it is no '{FORMAT}'")
            if file.attrs["format"] == FORMAT and not has_seal:
                raise digests.Damaged("its seal is gone")
            content = _Reader(MOST_VALUES).content(file, layout, required)
            for evaluation in content.evaluations:
                check(evaluation)
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

    def content(
        self, file: h5py.File, layout: Sequence[Column], required: Collection[str]
    ) -> RunFile:
        """All of it; see `read`."""
        history = self.group(file, "history")
        missing = [name for name in required if name not in history]
        if missing:
            raise ValueError(f"it has no column {missing[0]}")
        content = RunFile(tuple(self.column(history, name) for name in history))
        content.saved_step = int(file.attrs.get("saved_step", -1))
        for name in history:
            values = self.array(history, name)
            if values.ndim != 1:
                raise ValueError(f"{name} is no column")
            content.columns[name] = values.tolist()
        n_steps = content.n_steps
        if any(len(values) != n_steps for values in content.columns.values()):
            raise ValueError("its columns differ in length")
        if content.columns[STEP.name] != list(range(1, n_steps + 1)):
            raise ValueError("its steps are not 1, 2, 3, ...")
        content.declare(layout)
        evaluations = self.group(file, "evaluations")
        for name in sorted(evaluations):
            content.evaluations.append(self.evaluation(self.group(evaluations, name)))
        return content

    def column(self, parent: h5py.Group, name: str) -> Column:
        """Name, unit and description of a column or an observable."""
        entry = self._own(parent, name)
        texts = [entry.attrs.get(key, "") for key in ("unit", "description")]
        if not all(isinstance(text, str) and len(text) <= LONGEST_TEXT for text in texts):
            raise ValueError(f"{name} has a unit or description that is no short text")
        return Column(name, *texts)

    def evaluation(self, group: h5py.Group) -> Evaluation:
        """One evaluation: whole numbers that fit, observables with errors of their shape."""
        numbers = {
            name: value.item() if hasattr(value, "item") else value
            for name, value in group.attrs.items()
        }
        for name, value in numbers.items():
            if isinstance(value, int) and not 0 <= value < 2**63:
                raise ValueError(f"an evaluation with {name}={value}")
            if not isinstance(value, int | float | str):
                raise ValueError(f"an evaluation whose {name} is neither number nor text")
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
        entry = self._own(parent, name)
        if not isinstance(entry, h5py.Group):
            raise ValueError(f"{name} is no group")
        return entry

    def array(self, parent: h5py.Group, name: str) -> np.ndarray:
        """Numbers in this very file."""
        entry = self._own(parent, name)
        if not isinstance(entry, h5py.Dataset) or entry.dtype.kind not in "biuf":
            raise ValueError(f"{name} holds no numbers")
        if entry.external or entry.is_virtual:
            raise ValueError(f"{name} lies in another file")
        self._room -= entry.size
        if self._room < 0:
            raise ValueError(f"more than {MOST_VALUES} numbers")
        return np.asarray(entry[()])

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
