"""Symmetry operators x' = R x + t on fractional coordinates: from text, and whether they can be.

The operators of a crystal form a group modulo the translations of its lattice, and each leaves the
metric tensor G = M M^T of the cell (rows of M its vectors) as it is: R^T G R = G.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import gemmi
import numpy as np
import spglib
from numpy.typing import NDArray

from nqs.crystal.structures.structure import CrystalError, Floats
from nqs.crystal.structures.symmetry import call_spglib
from nqs.errors import shown

MOST_OPERATORS: Final = 384
"""192 are the most that a tabulated setting has."""
METRIC_TOLERANCE: Final = 2e-3
"""By how much of |a_i| |a_j| an entry of the metric tensor may change: lengths to 0.1 %."""
PARTS: Final = 24
"""Translations are multiples of 1/24 of the cell vectors."""

_TRIPLET = re.compile(r"[xyzXYZ0-9+\-/., ]{5,80}")
_LONG = re.compile(r"(?<![.\d])\d{3,}")


@dataclass(frozen=True, eq=False)
class Operators:
    """A group of symmetry operators, each once, the identity first.

    Attributes:
        rotations: (G, 3, 3) whole numbers.
        translations: (G, 3) in 1/PARTS of the cell vectors, 0 .. PARTS - 1.
        number: of their space group, 1..230.
        setting: its name, such as 'F d -3 m:2'; '' for one that is in no table.
    """

    rotations: NDArray[np.int64]
    translations: NDArray[np.int64]
    number: int
    setting: str

    @property
    def only_identity(self) -> bool:
        """Whether the identity is all there is: every atom has to be listed."""
        return len(self.rotations) == 1

    def images(self, position: Floats) -> Floats:
        """(G, 3) of a position (3,)."""
        return np.asarray(self.rotations @ position + self.translations / PARTS)

    def fit(self, matrix: Floats) -> bool:
        """Whether all are isometries of the cell."""
        return self.changes_metric(matrix) is None

    def changes_metric(self, matrix: Floats) -> int | None:
        """Which operator is no isometry of the cell; None: all are."""
        if self.only_identity:
            return None
        metric = matrix @ matrix.T
        lengths = np.sqrt(np.diag(metric))
        turned = np.swapaxes(self.rotations, 1, 2) @ metric @ self.rotations  # (G, 3, 3)
        change = np.abs(turned - metric) / np.outer(lengths, lengths)
        bad = np.flatnonzero(change.max(axis=(1, 2)) > METRIC_TOLERANCE)
        return int(bad[0]) if len(bad) else None

    def triplet(self, index: int) -> str:
        """An operator as '-y,x-y,z+1/3'."""
        operator = gemmi.Op("x,y,z")
        operator.rot = (self.rotations[index] * gemmi.Op.DEN).tolist()
        operator.tran = (self.translations[index] * (gemmi.Op.DEN // PARTS)).tolist()
        return str(operator.triplet())


@functools.lru_cache(maxsize=1024)
def of_triplets(triplets: tuple[str, ...], *, generators: bool = False) -> Operators:
    """The group of texts such as '-y, x-y, z+1/3'; of generators the group that they generate.

    Raises CrystalError for text that is no operator, and for operators that are no group.
    """
    if len(triplets) > MOST_OPERATORS:
        raise CrystalError(f"{len(triplets)} symmetry operators: at most {MOST_OPERATORS} exist")
    seitz = np.array([_seitz(triplet) for triplet in triplets])  # (G, 3, 4)
    return _group(seitz, triplets, generators)


@functools.lru_cache(maxsize=1024)
def of_hall(symbol: str) -> Operators | None:
    """The group of a Hall symbol; None if it is not understood."""
    text = symbol.replace("_", " ").replace("=", '"').replace("''", '"').strip()
    try:
        operations = list(gemmi.symops_from_hall(text[:80]))
    except (ValueError, RuntimeError):
        return None
    try:
        return of_triplets(tuple(operation.triplet() for operation in operations))
    except CrystalError:
        return None


def identity() -> Operators:
    """That of P 1."""
    return of_triplets(("x,y,z",))


def _seitz(triplet: str) -> list[list[int]]:
    """(3, 4): rotation and translation of one operator, in whole numbers and PARTS."""
    text = triplet.strip()
    if not _TRIPLET.fullmatch(text) or _LONG.search(text):
        raise CrystalError(f"{shown(triplet)}: not a symmetry operator such as -y,x-y,z+1/3")
    try:
        operator = gemmi.Op(text)
    except (ValueError, RuntimeError):
        raise CrystalError(f"{shown(triplet)}: not a symmetry operator") from None
    if abs(operator.det_rot()) != gemmi.Op.DEN**3:
        raise CrystalError(f"{shown(triplet)}: a symmetry operator keeps the volume")
    rotation = np.array(operator.rot) // gemmi.Op.DEN
    translation = np.array(operator.tran) * PARTS // gemmi.Op.DEN % PARTS
    return np.column_stack([rotation, translation]).tolist()


def _group(seitz: NDArray[np.int64], triplets: Sequence[str], generators: bool) -> Operators:
    one = np.column_stack([np.eye(3, dtype=np.int64), np.zeros(3, dtype=np.int64)])
    members = _once(np.concatenate([one[None], seitz]) if generators else seitz)
    while True:
        products = _products(members)
        grown = _once(np.concatenate([members, products]))
        if len(grown) == len(members):
            break
        if not generators:
            raise CrystalError(
                f"the {len(triplets)} symmetry operators are no group: {_missing(members)} is "
                f"missing"
            )
        if len(grown) > MOST_OPERATORS:
            raise CrystalError(f"the generators make more than {MOST_OPERATORS} operators")
        members = grown
    first = np.array([(member != one).any() for member in members])
    members = members[np.argsort(first, kind="stable")]
    rotations, translations = members[:, :, :3], members[:, :, 3]
    number, setting = _named(rotations, translations)
    return Operators(rotations, translations, number, setting)


def _once(members: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each operator once, in the order in which they come first."""
    _, first = np.unique(members.reshape(len(members), -1), axis=0, return_index=True)
    return members[np.sort(first)]


def _products(members: NDArray[np.int64]) -> NDArray[np.int64]:
    """All products of two operators: (R R', R t' + t)."""
    rotations, translations = members[:, :, :3], members[:, :, 3]
    turned = np.einsum("aij,bjk->abik", rotations, rotations)
    moved = np.einsum("aij,bj->abi", rotations, translations) + translations[:, None]
    products = np.concatenate([turned, moved[..., None] % PARTS], axis=-1)
    return products.reshape(-1, 3, 4)


def _missing(members: NDArray[np.int64]) -> str:
    known = {member.tobytes() for member in members}
    for product in _products(members):
        if np.ascontiguousarray(product).tobytes() not in known:
            found = Operators(product[None, :, :3], product[None, :, 3], 1, "")
            return found.triplet(0)
    raise AssertionError("the operators are a group")


def _named(rotations: NDArray[np.int64], translations: NDArray[np.int64]) -> tuple[int, str]:
    """(number, setting) of the group's type. Raises CrystalError where it has none."""
    operators = Operators(rotations, translations, 1, "")
    texts = [gemmi.Op(operators.triplet(index)) for index in range(len(rotations))]
    tabulated = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(texts))
    if tabulated is not None:
        return int(tabulated.number), str(tabulated.xhm())
    found = call_spglib(
        spglib.get_spacegroup_type_from_symmetry,
        rotations.astype(np.intc),
        translations / PARTS,
        lattice=_lattice(rotations),
    )
    if found is None:
        raise CrystalError(f"the {len(rotations)} symmetry operators are no space group's")
    return int(found.number), ""


def _lattice(rotations: NDArray[np.int64]) -> Floats:
    """(3, 3) rows: vectors of a cell of which all the rotations are isometries."""
    metric = np.mean(np.swapaxes(rotations, 1, 2) @ rotations, axis=0)
    return np.asarray(np.linalg.cholesky(metric))
