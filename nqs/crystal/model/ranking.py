"""Of many crystals proposed for one request, those that are kept: the most typical ones first.

Structure types (space group, element and Wyckoff position of each orbit) are ordered by

    ln p(t) + WEIGHT ln (v(t) + FLOOR),    v(t) = sum_k exp(-(d_k - d_0) / NEAR) / (1 + k),

p(t) the chance that the model gives type t (nqs.crystal.model.structure_types; where its tokens do
not say types, the share of its draws, each type as if drawn half a time more), v the votes of the
templates k = 0, 1, ... of type t, the nearest first, at distances d_k
(nqs.crystal.datasets.templates). Without templates only p counts.

First comes one crystal of each type in that order; then the second of each, and so on: so n guesses
differ in space group and sites as long as there are types left. Of one type templates come first,
the nearest first (their coordinates are those of a real crystal), then draws, the likeliest first.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nqs.crystal.model.generation import Sample

WEIGHT: Final = 2.0
FLOOR: Final = 0.002
NEAR: Final = 20.0
"""Chosen on 300 crystals of MP-20 by what matches them, shown on no other table
(docs/crystals.md)."""


@dataclass(frozen=True)
class Proposal:
    """A crystal that may be kept.

    Attributes:
        sample: the crystal; its draw is its rank where it is a template.
        tokens: its own, with the request's conditions; () where it cannot be written.
        kind: its structure type.
        distance: of a template; None of a draw.
    """

    sample: Sample
    tokens: tuple[int, ...]
    kind: Hashable
    distance: float | None = None


def ranked(
    proposals: Sequence[Proposal],
    likelihoods: Mapping[Hashable, float] | None = None,
    n: int | None = None,
) -> list[Sample]:
    """The first n (None: all) of draws and templates, the latter the nearest first.

    likelihoods: ln p of types, those without come last; None: from the draws.
    """
    templates = [one for one in proposals if one.distance is not None]
    drawn = [one for one in proposals if one.distance is None]
    kinds = [*dict.fromkeys(one.kind for one in [*templates, *drawn])]
    log_p = log_shares(drawn, kinds) if likelihoods is None else likelihoods
    votes: dict[Hashable, float] = defaultdict(float)
    groups: dict[Hashable, list[Sample]] = defaultdict(list)
    for k, one in enumerate(templates):
        assert one.distance is not None and templates[0].distance is not None
        votes[one.kind] += math.exp((templates[0].distance - one.distance) / NEAR) / (1 + k)
        groups[one.kind].append(one.sample)
    for one in sorted(drawn, key=lambda one: -one.sample.log_likelihood):
        groups[one.kind].append(one.sample)

    def score(kind: Hashable) -> float:
        return log_p.get(kind, -math.inf) + WEIGHT * math.log(votes[kind] + FLOOR)

    kinds.sort(key=score, reverse=True)  # stable
    rounds = itertools.zip_longest(*(groups[kind] for kind in kinds))
    return [sample for row in rounds for sample in row if sample is not None][:n]


def log_shares(drawn: Sequence[Proposal], kinds: Sequence[Hashable]) -> dict[Hashable, float]:
    """ln of the share of draws of each type, half a draw added to each."""
    counts = dict.fromkeys(kinds, 0.5)
    for one in drawn:
        counts[one.kind] += 1
    total = sum(counts.values())
    return {kind: math.log(count / total) for kind, count in counts.items()}
