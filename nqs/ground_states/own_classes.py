"""What is asked of classes of anyone's, MODULE:CLASS, before a run has a folder.

Each function raises InputError, one line that names the section, the class and what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor

from nqs.conf.kinds import Selection, one_line_of
from nqs.errors import InputError, shown
from nqs.ground_states.groups import OBSERVABLE
from nqs.vmc.columns import Column
from nqs.vmc.energies import Energies
from nqs.vmc.observables import Diagonal, Observable, Picture, Quantity, Request
from nqs.vmc.optimise import StepRecord
from nqs.vmc.optimizers import Optimizer

RESERVED: Final = frozenset(
    {
        *("step", "seed", "kind", "site", "direction", "doubtful", "doubts", "steps"),
        *("energy", "energy_error", "energy_per_site", "variance", "variance_outside", "v_score"),
        *("exact_energy", "difference", "relative_error", "z_score", "excess", "largest_share"),
        *("n_samples", "n_sites", "wall_seconds"),
    }
)
"""Names that evaluations and collected scans have for something else."""
PICTURES: Final = ("sites", "pairs", "bonds", "momenta")


def own_observables(names: Iterable[str]) -> tuple[type[Observable], ...]:
    """The classes of train.observables that the program does not have by a kind's name."""
    owners = {q.name: kind for kind, cls in Observable.kinds.items() for q in cls.quantities}
    owners |= dict.fromkeys(RESERVED, "the program")
    own: list[type[Observable]] = []
    for name in names:
        kind, whose = OBSERVABLE.find(name), f"train.observables={shown(name)}"
        if kind in Observable.kinds.values():
            continue
        for quantity in _quantities(kind, whose):
            if quantity.name in owners:
                rule = f"is there already, of {owners[quantity.name]}; choose another name"
                raise InputError(f"{whose}: its quantity {quantity.name} {rule}")
            owners[quantity.name] = shown(name)
        own.append(kind)
    return tuple(own)


def _quantities(kind: type[Observable], whose: str) -> tuple[Quantity, ...]:
    """Those that a class says it has."""
    quantities: Any = getattr(kind, "quantities", ())
    whole = isinstance(quantities, tuple | list) and len(quantities) > 0
    if not whole or not all(isinstance(each, Quantity) for each in quantities):
        raise InputError(f"{whose}: quantities must be a tuple of nqs.vmc.observables.Quantity")
    for name, unit, description, picture in quantities:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*", name, flags=re.ASCII):
            rule = "must have a name of letters, digits and _, the first no digit"
            raise InputError(f"{whose}: the quantity {shown(name)!r} {rule}")
        if not isinstance(unit, str) or not isinstance(description, str):
            raise InputError(f"{whose}: unit and description of {name} must be text")
        if picture is not None and not (isinstance(picture, Picture) and picture[0] in PICTURES):
            raise InputError(f"{whose}: the picture of {name} must be over {', '.join(PICTURES)}")
    return tuple(quantities)


def check_observables(names: Iterable[str], request: Request) -> None:
    """Calls each own class of train.observables once, on two draws of the wavefunction."""
    own = {kind: name for name in names if (kind := OBSERVABLE.find(name)) in request.also}
    if not own:
        return
    assert request.wavefunction is not None
    device = request.hamiltonian.flips.device
    configs = request.wavefunction.sample(2, torch.Generator(device).manual_seed(0)).configs
    for kind, name in own.items():
        whose = f"train.observables={shown(name)}"
        with one_line_of(f"{whose}: applies"):
            applies = kind.applies(request)
        if not applies:
            continue
        with one_line_of(f"{whose}: its constructor"):
            observable = kind(request)
        with one_line_of(f"{whose}: coordinates"):
            coordinates = observable.coordinates()
        names_of = {quantity.name for quantity in kind.quantities}
        _check_tensors(coordinates, names_of, f"{whose}: coordinates")
        if isinstance(observable, Diagonal):
            with one_line_of(f"{whose}: values"):
                values, of_one = observable.values(configs), observable.values(configs[:1])
            _check_tensors(values, names_of, f"{whose}: values")
            for quantity in (each for each in kind.quantities if each.name in values):
                key = f"{whose}: values of {quantity.name}"
                value, one = values[quantity.name], of_one[quantity.name]
                _check_value(value, one, key)
                _check_picture(quantity, value, coordinates.get(quantity.name), request, key)
            if not values:
                raise InputError(f"{whose}: values is empty; say in `applies` where it is measured")


def _check_tensors(entries: Any, names: set[str], whose: str) -> None:
    """A dictionary of tensors by names that the class has declared."""
    if not isinstance(entries, dict) or not all(isinstance(x, Tensor) for x in entries.values()):
        raise InputError(f"{whose} must be a dictionary of tensors by the names of quantities")
    for name in entries:
        if name not in names:
            raise InputError(f"{whose} has {shown(name)}, which is not among its quantities")


def _check_value(value: Tensor, of_one: Tensor, key: str) -> None:
    """Two configurations' values (2, ...), and those of one of them."""
    if not value.ndim or len(value) != 2 or value.shape[1:] != of_one.shape[1:]:
        rule = "must be one for each configuration along the first dimension"
        raise InputError(f"{key} have the shape {tuple(value.shape)} for 2 configurations; {rule}")
    if value.is_complex() or not bool(value.to(torch.float64).isfinite().all()):
        raise InputError(
            f"{key} must be real and finite, are {shown(value.flatten()[:2].tolist())}"
        )


def _check_picture(
    quantity: Quantity, value: Tensor, coordinates: Tensor | None, request: Request, key: str
) -> None:
    """That what is drawn over sites, pairs, bonds or momenta belongs to as many of them."""
    if quantity.picture is None:
        return
    n, over = request.hamiltonian.n_sites, quantity.picture.over
    if over in ("bonds", "momenta") and (coordinates is None or coordinates.ndim < 2):
        raise InputError(f"{key}: drawn over {over}, which `coordinates` must return")
    shapes: dict[str, tuple[int, ...]] = {"sites": (n,), "pairs": (n, n)}
    if coordinates is not None:
        shapes |= dict.fromkeys(("bonds", "momenta"), tuple(coordinates.shape[:-1]))
    if value.shape[1:] != shapes[over]:
        raise InputError(
            f"{key} have the shape {tuple(value.shape[1:])} for each configuration, a picture over "
            f"{over} needs {shapes[over]}"
        )


def check_columns(optimizer: Optimizer, energies: Energies, sections: Iterable[Selection]) -> None:
    """What is recorded of each step: Columns, each name once."""
    taken = {column.name for column in StepRecord.columns}
    parts: tuple[Optimizer | Energies, ...] = (optimizer, energies)
    for part, section in zip(parts, sections, strict=True):
        whose = f"{section.group.name}={shown(section.name)}"
        columns: Any = part.columns
        whole = isinstance(columns, tuple | list)
        if not whole or not all(isinstance(column, Column) for column in columns):
            raise InputError(f"{whose}: columns must be a tuple of nqs.vmc.columns.Column")
        for name in (column.name for column in columns):
            if name in taken:
                raise InputError(f"{whose}: a column {shown(name)} is there already")
            taken.add(name)
