"""A crystal: a cell and the atoms in it; the one form in which everything here passes crystals.

Cell vectors follow from lengths a, b, c and angles alpha, beta, gamma in the standard setting
(a along x, b in the xy plane), so a structure has no orientation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from nqs.runs.schema import InputError

Floats = NDArray[np.float64]


class CrystalError(InputError):
    """Text, a file or tokens that hold no crystal: one line with the culprit and what is allowed."""


@final
@dataclass(frozen=True, eq=False)
class Structure:
    """A unit cells' atoms.

    Attributes:
        lengths: (3,) a, b, c in Angstrom, > 0.
        angles: (3,) alpha, beta, gamma in degrees, of a cell of positive volume.
        numbers: (A,) int64, atomic numbers.
        positions: (A, 3) fractional coordinates in [0, 1).

    Raises CrystalError for anything else (not finite, no atom, flat cell, unknown element).
    """

    lengths: Floats
    angles: Floats
    numbers: NDArray[np.int64]
    positions: Floats
