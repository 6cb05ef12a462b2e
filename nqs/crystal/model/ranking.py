"""Of many crystals drawn for one request, those that are kept: the most typical ones first.

Crystals of one structure type (space group, element and Wyckoff position of each orbit) are votes
for it. First comes the likeliest crystal of each type, types by their votes; then the second of
each, and so on: so n guesses differ in space group and sites as long as the draws do, and the first
guess is of the type to which the model gives the largest chance, not of the one that it happened to
draw first.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Sequence

from nqs.crystal.model.generation import Sample


def ranked(
    drawn: Sequence[tuple[Sample, Hashable]],
    others: Sequence[tuple[Sample, Hashable]] = (),
    n: int | None = None,
) -> list[Sample]:
    """The first n (None: all) of crystals with their types; `others` (templates, the nearest first)
    have no vote and come after the drawn ones of their type, types that only they have last."""
    groups: dict[Hashable, list[Sample]] = defaultdict(list)
    for sample, kind in drawn:
        groups[kind].append(sample)
    kinds = sorted(groups, key=lambda kind: -len(groups[kind]))  # stable: the first drawn first
    for group in groups.values():
        group.sort(key=lambda sample: -sample.log_likelihood)
    for sample, kind in others:
        if kind not in groups:
            kinds.append(kind)
        groups[kind].append(sample)
    rounds = itertools.zip_longest(*(groups[kind] for kind in kinds))
    return [sample for row in rounds for sample in row if sample is not None][:n]
