"""The fields of the coordinate tokeniser: which numbers they hold, and as which tokens.

The rounding of each is a choice between error and learnability:

- coordinates to 1/120 (at most 0.03 Angstrom along an axis of 8), which holds 1/2, 1/3, 1/4, 1/5,
  1/6 and 1/8 exactly, so that special positions stay special;
- lengths to 1 %, in powers of e^0.01 (at most 0.02 Angstrom at 4; equal strain at every length),
  from 1 to 147 Angstrom; or, where a cell is written by size and shape, (V / A)^(1/3) in such
  powers from 1 to 12 Angstrom, and ratios of lengths, from e^-4 to e^4;
- angles to whole degrees, 5 to 175, so that 60, 90 and 120 are exact;
- formation energies to 0.1 eV per atom, -6 to 6; energies above the hull to 0.01, 0 to 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nqs.crystal.structures.elements import SYMBOLS
from nqs.crystal.structures.structure import CrystalError, Floats
from nqs.crystal.tokens import token_features

PAD, BOS, EOS, MASK = 0, 1, 2, 3
N_BINS = 120
LEAST_FLATNESS = 0.01
"""Least V / (a b c) of a cell whose angles the grammar allows."""


@dataclass(frozen=True)
class Grid:
    """Numbers first, first + step, ... or, with `ratio`, first, first e^step, ...: `size` of them.

    Attributes:
        label: what the numbers are, with their unit, for messages.
    """

    label: str
    first: float
    step: float
    size: int
    ratio: bool = False

    def index(self, values: ArrayLike) -> NDArray[np.int64]:
        """Of the nearest number of the grid. Raises CrystalError beyond its ends."""
        given = np.asarray(values, dtype=np.float64)
        steps = np.log(given / self.first) if self.ratio else given - self.first
        index = np.rint(steps / self.step)
        if not np.all((index >= 0) & (index < self.size)):
            culprit = given[~((index >= 0) & (index < self.size))].flat[0]
            low, high = self.values[0], self.values[-1]
            raise CrystalError(f"{self.label} {culprit:g}: must be within {low:g}..{high:g}")
        return index.astype(np.int64)

    @functools.cached_property
    def values(self) -> Floats:
        """(size,)"""
        steps = np.arange(self.size) * self.step
        if self.ratio:
            return np.asarray(self.first * np.exp(steps))
        return np.round(self.first + steps, 10)


LENGTHS = Grid("cell length (Angstrom)", 1.0, 0.01, 500, ratio=True)
SIZES = Grid("(volume / atoms)^(1/3) (Angstrom)", 1.0, 0.01, 251, ratio=True)
WIDEST = 400
"""Steps of RATIOS from 1 to the largest."""
RATIOS = Grid("ratio of cell lengths", math.exp(-0.01 * WIDEST), 0.01, 2 * WIDEST + 1, ratio=True)
ANGLES = Grid("cell angle (degrees)", 5.0, 1.0, 171)
ENERGIES = Grid("formation energy (eV per atom)", -6.0, 0.1, 121)
HULLS = Grid("energy above the hull (eV per atom)", 0.0, 0.01, 101)


@final
class Fields:
    """The tokens of each kind of field, disjoint ranges, for crystals of at most max_atoms.

    Args:
        sites: names of sites, for the tokenisers that have them; these write sizes and ratios, the
            others lengths.

    Attributes:
        group, energy, hull, count, element, length, size, ratio, angle, coordinate, site: ranges of
            tokens, empty for those that are not written.
        vocabulary: what each token stands for.
    """

    def __init__(self, max_atoms: int, sites: Sequence[str] = ()) -> None:
        words = ["pad", "bos", "eos", "mask"]

        def field(name: str, values: list[str]) -> range:
            words.extend(f"{name}:{value}" for value in values)
            return range(len(words) - len(values), len(words))

        self.group = field("group", [str(number) for number in range(1, 231)])
        self.energy = field("energy", [f"{value:.1f}" for value in ENERGIES.values])
        self.hull = field("hull", [f"{value:.2f}" for value in HULLS.values])
        self.count = field("count", [str(count) for count in range(1, max_atoms + 1)])
        self.element = field("element", list(SYMBOLS))
        self.length = field("length", [] if sites else [f"{x:.3f}" for x in LENGTHS.values])
        self.size = field("size", [f"{x:.3f}" for x in SIZES.values] if sites else [])
        self.ratio = field("ratio", [f"{x:.4g}" for x in RATIOS.values] if sites else [])
        self.angle = field("angle", [f"{value:.0f}" for value in ANGLES.values])
        self.coordinate = field("at", [f"{index}/{N_BINS}" for index in range(N_BINS)])
        self.site = field("site", list(sites))
        self.vocabulary = tuple(words)

    def features(self) -> Floats:
        """(V, F), see nqs.crystal.tokens.token_features."""
        numbers = (self.energy, self.hull, self.count, self.length, self.size, self.ratio)
        kinds = [(tokens, token_features.of_numbers(len(tokens))) for tokens in numbers if tokens]
        kinds.append((self.angle, token_features.of_numbers(len(self.angle))))
        kinds.append((self.coordinate, token_features.of_circle(len(self.coordinate))))
        kinds.append((self.element, token_features.of_elements()))
        kinds.append((self.group, token_features.of_groups()))
        table = np.zeros((len(self.vocabulary), sum(known.shape[1] for _, known in kinds)))
        column = 0
        for tokens, known in kinds:
            end = column + known.shape[1]
            table[tokens.start : tokens.stop, column:end] = known
            column = end
        return table


@functools.lru_cache(maxsize=1)
def angle_table() -> NDArray[np.bool_]:
    """(171, 171, 171): whether alpha, beta, gamma of the grid make a cell of positive volume,

    gamma < alpha + beta and its permutations, alpha + beta + gamma < 360, and flatness
    V^2 / (a b c)^2 = 1 - cos^2 alpha - cos^2 beta - cos^2 gamma + 2 cos alpha cos beta cos gamma
    of at least LEAST_FLATNESS^2.
    """
    degrees = ANGLES.values
    alpha, beta, gamma = degrees[:, None, None], degrees[:, None], degrees
    closes = (gamma < alpha + beta) & (gamma > np.abs(alpha - beta))
    closes = closes & (alpha + beta + gamma < 360)
    cosines = np.cos(np.radians(degrees))
    x, y, z = cosines[:, None, None], cosines[:, None], cosines
    return np.asarray(closes & (1 - x**2 - y**2 - z**2 + 2 * x * y * z >= LEAST_FLATNESS**2))


def check_angles(angles: Floats, index: NDArray[np.int64]) -> None:
    """Raises CrystalError if the rounded angles (grid indices (3,)) make no cell."""
    if not angle_table()[tuple(index)]:
        shown = ", ".join(f"{angle:g}" for angle in angles)
        raise CrystalError(f"cell angles ({shown}) are too flat to be rounded to whole degrees")
