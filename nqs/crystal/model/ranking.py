"""Of many crystals drawn for one request, those that are kept: the most typical ones first.

Crystals of one structure type (space group, element and Wyckoff position of each orbit) are votes
for it, each of n draws 1 / n. Templates, the nearest first, vote too, with little weight: template
k = 0, 1, ... at distance d_k (nqs.crystal.datasets.templates)

    TEMPLATE exp(- (d_k - d_0) / NEAR) / (1 + k),

which decides where the draws do not. First comes one crystal of each type, types by their votes;
then the second of each, and so on: so n guesses differ in space group and sites as long as there
are types left. Of one type templates come first, the nearest first (their coordinates are those of
a real crystal), then draws, the likeliest first.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Final

from nqs.crystal.model.generation import Sample

TEMPLATE: Final = 0.15
NEAR: Final = 30.0
"""Chosen among 0.05 .. 2 and 3 .. 30 on 400 crystals of MP-20 (docs/crystals.md)."""


def ranked(
    drawn: Sequence[tuple[Sample, Hashable]],
    templates: Sequence[tuple[Sample, Hashable, float]] = (),
    n: int | None = None,
) -> list[Sample]:
    """The first n (None: all) of draws with their types and templates with their types and
    distances, the nearest first."""
    votes: dict[Hashable, float] = defaultdict(float)
    groups: dict[Hashable, list[Sample]] = defaultdict(list)
    for k, (sample, kind, distance) in enumerate(templates):
        votes[kind] += TEMPLATE * math.exp((templates[0][2] - distance) / NEAR) / (1 + k)
        groups[kind].append(sample)
    for sample, kind in sorted(drawn, key=lambda pair: -pair[0].log_likelihood):
        votes[kind] += 1 / len(drawn)
        groups[kind].append(sample)
    kinds = sorted(groups, key=lambda kind: -votes[kind])  # stable
    rounds = itertools.zip_longest(*(groups[kind] for kind in kinds))
    return [sample for row in rounds for sample in row if sample is not None][:n]
