"""The likelihood of a crystal by all its descriptions.

Where a tokeniser writes one crystal in several ways (nqs.crystal.tokens.tokeniser.Tokeniser.
equivalents: other axes, origins, names of orbits),

    p(crystal) = sum over its descriptions d of p(d):

the likelihood of the one that is written is a lower bound of it, which a model meets that has
learnt to write no other.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch

from nqs.core.sequence import SequenceModel
from nqs.crystal.datasets.data import collate
from nqs.crystal.model.training import negative_log_likelihoods
from nqs.crystal.tokens.tokeniser import Tokeniser

MOST: Final = 256
"""Descriptions of a crystal that are summed over; along polar axes alone there are 120 and more."""


@final
@dataclass(frozen=True)
class Summed:
    """Of the crystals with at most MOST descriptions.

    Attributes:
        n_crystals: how many.
        n_descriptions: of one, mean.
        nats: - ln p of the description that is written, mean.
        nats_summed: - ln of the sum over all, mean.
    """

    n_crystals: int
    n_descriptions: float
    nats: float
    nats_summed: float


@torch.no_grad()
def summed(
    model: SequenceModel,
    tokeniser: Tokeniser,
    bodies: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 8192,
) -> Summed | None:
    """Of crystals with tokens `bodies` (bos .. eos, no conditions); None where all have more
    descriptions than MOST."""
    rows = []
    for body in bodies:
        every = [*itertools.islice(tokeniser.equivalents(body), MOST + 1)]
        if len(every) <= MOST:
            total, own = _log_sum(model, tokeniser, every, list(body), batch_tokens)
            rows.append((len(every), -own, -total))
    if not rows:
        return None
    counts, nats, nats_summed = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    return Summed(len(rows), counts, nats, nats_summed)


def _log_sum(
    model: SequenceModel,
    tokeniser: Tokeniser,
    every: Sequence[list[int]],
    body: list[int],
    batch_tokens: int,
) -> tuple[float, float]:
    """ln of the sum of p over all descriptions, and ln p of `body`, one of them."""
    device = model.head.weight.device
    size = max(1, batch_tokens // len(body))
    found = []
    for begin in range(0, len(every), size):
        batch = collate(tokeniser, [(row, 1) for row in every[begin : begin + size]])
        found.append(-negative_log_likelihoods(model, batch.to(device)))
    log_p = torch.cat(found)
    return float(log_p.logsumexp(0)), float(log_p[every.index(body)])
