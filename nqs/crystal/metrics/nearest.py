"""Of the crystals that are known, the one nearest to another, and how far apart they are.

Two distances, the second only among crystals that are equally near by the first:

    elements      int |F(m) - G(m)| dm over Magpie's Mendeleev numbers m, F and G the shares of
                  atoms up to m: how far atoms have to be moved along the scale on which chemically
                  alike elements are neighbours (Hargreaves et al., Chem. Mater. 32, 10610 (2020),
                  on another such scale). 0 for one composition; NaCl and KCl are half of the step
                  from Na to K apart;
    displacement  the matcher's root mean square displacement in (V / A)^(1/3), NaN where no mapping
                  is within its tolerances.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from nqs.crystal.metrics.matching import Key, Matcher, Reduced, reduced_composition
from nqs.crystal.structures.elements import MENDELEEV
from nqs.crystal.structures.structure import Structure

MOST_MENDELEEV = max(MENDELEEV)
ROWS = 256
"""Compositions compared at a time: ROWS x known ones."""


@dataclass(frozen=True)
class Nearest:
    """The known crystal nearest to one.

    Attributes:
        index: which of the known ones.
        element_distance: 0 for the same composition.
        displacement: NaN where no mapping is within the tolerances.
        same: whether one of the known crystals is the same (Matcher.same; every atom counts, which
            is stricter than having a displacement).
    """

    index: int
    element_distance: float
    displacement: float
    same: bool


def element_shares(key: Key) -> NDArray[np.float64]:
    """(MOST_MENDELEEV,): the share of atoms with Mendeleev numbers up to 1, 2, ..."""
    shares = np.zeros(MOST_MENDELEEV)
    for number, count in key:
        shares[MENDELEEV[number - 1] - 1] += count
    cumulative: NDArray[np.float64] = np.cumsum(shares / shares.sum())
    return cumulative


def nearest(
    crystals: Sequence[Structure],
    reduced: Sequence[Reduced | None],
    known: Sequence[Structure],
    matcher: Matcher,
) -> list[Nearest]:
    """For each crystal (with what `matcher` made of it) the nearest of the known ones, the first of
    several; `known` is not empty. Only those with a composition that occurs are reduced."""
    members: dict[Key, list[int]] = defaultdict(list)
    for i, structure in enumerate(known):
        members[reduced_composition(structure)].append(i)
    keys = [reduced_composition(structure) for structure in crystals]
    closest = _closest_compositions([*dict.fromkeys(keys)], [*members])
    cells: dict[int, Reduced | None] = {}
    found = []
    for crystal, key in zip(reduced, keys, strict=True):
        other, distance = closest[key]
        if other != key or crystal is None:
            found.append(Nearest(members[other][0], distance, math.nan, False))
            continue
        for i in members[key]:
            if i not in cells:
                cells[i] = matcher.reduced(known[i])
        found.append(_nearest_alike(crystal, {i: cells[i] for i in members[key]}, matcher))
    return found


def _nearest_alike(crystal: Reduced, known: dict[int, Reduced | None], matcher: Matcher) -> Nearest:
    """Among known crystals of the same composition."""
    distances = {i: matcher.rms(crystal, other) for i, other in known.items()}
    matched = sorted((d, i) for i, d in distances.items() if not math.isnan(d))
    if not matched:
        return Nearest(next(iter(known)), 0.0, math.nan, False)
    same = any(matcher.same(crystal, known[i]) for _, i in matched)
    return Nearest(matched[0][1], 0.0, matched[0][0], same)


def _closest_compositions(
    wanted: Sequence[Key], known: Sequence[Key]
) -> dict[Key, tuple[Key, float]]:
    """For each composition itself if it is known, else the nearest one, and its distance."""
    closest = {key: (key, 0.0) for key in {*wanted} & {*known}}
    others = [key for key in wanted if key not in closest]
    if not others:
        return closest
    shares = np.array([element_shares(key) for key in known])  # (K, 103)
    for start in range(0, len(others), ROWS):
        part = others[start : start + ROWS]
        distances = cdist(np.array([element_shares(k) for k in part]), shares, "cityblock")
        best = distances.argmin(axis=1)  # (ROWS,)
        closest |= {
            key: (known[j], float(distances[i, j]))
            for i, (key, j) in enumerate(zip(part, best.tolist(), strict=True))
        }
    return closest
