"""Other descriptions of a crystal in the standard setting of its space group.

A map y = P x + p is in the proper normaliser of G if it takes the operations of G to operations of
G, with P of determinant 1 that keeps the form of the cell (its equal lengths and its angles of 90
or 120 degrees; a monoclinic cell's beta, a triclinic cell altogether): it changes the axes or the
origin, never the crystal nor its hand. Two maps that differ by an operation of G describe alike;
here is one of each such set. Along the polar axes the origin is free: of these the maps with p = 0
there, shifts along them come on top.

For every x, W (P x + p) + w = P (V x + v) + p for some operation V of G, so P V P^-1 = W and

    (1 - P V P^-1) p = w - P v    (mod lattice).
"""

from __future__ import annotations

import functools
import itertools
from typing import Final

import numpy as np

from nqs.crystal.structures.wyckoff_positions import (
    UNIT,
    Integers,
    SpaceGroup,
    generic_cell,
    grid_points,
    space_group_of,
)

LENGTHS_CHANGE_PLACES: Final = ("monoclinic", "orthorhombic")
"""Systems of which a, b, c may be named in another order; a triclinic cell is Niggli-reduced."""


@functools.cache
def normaliser(number: int) -> tuple[tuple[Integers, Integers], ...]:
    """(P (3, 3), p (3,) in units of 1 / UNIT) of the group 1..230."""
    group = space_group_of(number)
    found: dict[bytes, tuple[Integers, Integers]] = {}
    for linear in _axes(group.system):
        for shift in _shifts(group, linear):
            found.setdefault(_coset(group, linear, shift), (linear, shift))
    return tuple(found.values())


@functools.cache
def _axes(system: str) -> Integers:
    """(K, 3, 3) changes of axes P, of determinant 1, that keep the form of the system's cells: the
    products a.b, a.c, b.c and, but where a, b, c are free anyway, the lengths."""
    entries = np.array([*itertools.product((0, 1, -1), repeat=9)]).reshape(-1, 3, 3)
    entries = entries[np.rint(np.linalg.det(entries)) == 1]
    cell = generic_cell(system)
    metric = cell @ cell.T
    back = np.linalg.inv(entries)
    same = np.isclose(back.transpose(0, 2, 1) @ metric @ back, metric)  # (K, 3, 3)
    same |= np.eye(3, dtype=bool) & (system in LENGTHS_CHANGE_PLACES)
    return entries[same.all((1, 2))]


def _shifts(group: SpaceGroup, linear: Integers) -> Integers:
    """(K, 3) every p with which the map is in the normaliser."""
    back = np.rint(np.linalg.inv(linear)).astype(np.int64)
    lattice = {translation.tobytes() for translation in group.centring}
    if {translation.tobytes() for translation in group.centring @ linear.T % UNIT} != lattice:
        return np.zeros((0, 3), dtype=np.int64)
    shifts = grid_points()
    shifts = shifts[(shifts[:, group.polar_axes] == 0).all(1)]
    table: dict[bytes, list[Integers]] = {}
    for rotation, translation in zip(group.rotations, group.translations, strict=True):
        table.setdefault(rotation.tobytes(), []).append(translation)
    for rotation, translations in list(table.items()):
        turned = linear @ np.frombuffer(rotation, dtype=np.int64).reshape(3, 3) @ back
        goals = table.get(turned.tobytes())
        if goals is None:
            return shifts[:0]
        needed = (np.array(goals) - linear @ translations[0]) % UNIT  # (C, 3)
        offsets = (shifts - shifts @ turned.T) % UNIT  # (K, 3)
        shifts = shifts[(offsets[:, None] == needed).all(2).any(1)]
    return shifts


def _coset(group: SpaceGroup, linear: Integers, shift: Integers) -> bytes:
    """The same for maps that differ by an operation and a shift along polar axes."""
    turned = group.rotations @ linear  # (G, 3, 3)
    moved = (group.rotations @ shift + group.translations) % UNIT
    moved[:, group.polar_axes] = 0
    rows = np.concatenate([turned.reshape(-1, 9), moved], axis=1)
    return bytes(rows[np.lexsort(rows.T)[0]].tobytes())
