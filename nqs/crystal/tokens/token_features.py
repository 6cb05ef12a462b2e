"""What is known of the tokens that stand for numbers, elements and space groups, as features.

Numbers of a grid of n, at t = (i + 1/2) / n, get cosines, those of a circle, t = i / n, sines too:

    a_k cos(pi k t),  k = 0 .. K - 1;        a_k cos(2 pi k t), a_k sin(2 pi k t),

with a_k = 1 / sqrt(1 + (k / k_0)^2), k_0 = SMOOTH: near ones are alike, and how near is left open.
Elements have their row and column of the periodic table, and their Mendeleev number and
electronegativity as such numbers; space groups their crystal system, the kind of their lattice,
their point group and whether that has an inversion. Each kind of token has features of its own, of
length 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from nqs.crystal.structures.elements import (
    ELECTRONEGATIVITIES,
    MENDELEEV,
    SYMBOLS,
    column_of,
    period_of,
)
from nqs.crystal.structures.structure import Floats
from nqs.crystal.structures.wyckoff_positions import space_group_of

SMOOTH: Final = 4.0
WAVES: Final = 24
"""Most waves of a kind of number."""


def of_numbers(n: int, n_waves: int = WAVES) -> Floats:
    """(n, K) of the numbers of a grid."""
    places, waves = (np.arange(n) + 0.5) / n, np.arange(float(min(n, n_waves)))
    return unit(np.cos(np.pi * places[:, None] * waves) * _amplitudes(waves))


def of_circle(n: int, n_waves: int = WAVES) -> Floats:
    """(n, K) of the numbers of a circle."""
    waves = np.arange(float(min(n // 2, n_waves)))
    angles = 2 * np.pi * np.arange(n)[:, None] / n * waves
    return unit(np.hstack([np.cos(angles), np.sin(angles)]) * np.tile(_amplitudes(waves), 2))


def of_elements() -> Floats:
    """(118, F)."""
    numbers = range(1, len(SYMBOLS) + 1)
    pulls = [min(pull, 4.0) for pull in ELECTRONEGATIVITIES]  # 4: where there is none
    scale = of_numbers(max(MENDELEEV), 12)[np.array(MENDELEEV) - 1]
    by_pull = of_numbers(41, 8)[np.rint(np.array(pulls) * 10).astype(int)]
    rows = one_hot([period_of(number) for number in numbers])
    columns = one_hot([column_of(number) for number in numbers])
    return unit(np.hstack([rows, columns, scale, by_pull]))


def of_groups() -> Floats:
    """(230, F)."""
    parts: list[tuple[str, bytes, bytes, bool]] = []
    for number in range(1, 231):
        group = space_group_of(number)
        rotations = np.unique(group.rotations, axis=0)
        inverted = bool((rotations == -np.eye(3)).all((1, 2)).any())
        parts.append((group.system, group.centring.tobytes(), rotations.tobytes(), inverted))
    systems, lattices, point_groups, inversions = zip(*parts, strict=True)
    hot = [one_hot(systems), one_hot(lattices), one_hot(point_groups), one_hot(inversions)]
    return unit(np.hstack(hot))


def one_hot(names: Sequence[object]) -> Floats:
    """(n, number of different ones)."""
    different = [*dict.fromkeys(names)]
    return np.eye(len(different))[[different.index(name) for name in names]]


def unit(rows: Floats) -> Floats:
    """Each row of length 1."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _amplitudes(waves: Floats) -> Floats:
    return np.asarray(1 / np.hypot(1, waves / SMOOTH))
