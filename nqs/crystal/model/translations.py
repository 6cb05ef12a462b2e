"""How much a model minds where a crystal stands in its cell: increase in perplexity under
translation.

Moving every atom by the same vector changes nothing physical, and a tokeniser's coordinates allow
exactly n_bins such moves along an axis. With PPL(s) = exp(- ln p(s) / number of tokens) of the
sequence s (bos not counted) and t_k(s) the crystal moved by k / n_bins of an axis,

    IPT(axis) = mean_k PPL(t_k(s)) - min_k PPL(t_k(s)),    k = 0 .. n_bins - 1

(Gruver et al., arXiv:2402.04379, section 5, with the group of all translations along one axis in
place of a sample of it): 0 for a model that does not mind at all. The mean over the three axes is
the crystal's. Every one of the 3 n_bins sequences is evaluated, nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from nqs.core.sequence import SequenceModel
from nqs.crystal.datasets.data import collate
from nqs.crystal.model.training import negative_log_likelihoods
from nqs.crystal.tokens.tokeniser import Tokeniser


@final
@dataclass(frozen=True)
class Translations:
    """Of one crystal.

    Attributes:
        log_likelihoods: ln p of the crystal moved by k / n_bins along each axis, (3, n_bins).
        n_tokens: tokens that these are sums over.
    """

    log_likelihoods: Tensor
    n_tokens: int

    @property
    def perplexities(self) -> Tensor:
        """PPL, (3, n_bins)."""
        return (-self.log_likelihoods / self.n_tokens).exp()

    @property
    def increase(self) -> float:
        """IPT, mean over the axes."""
        perplexities = self.perplexities
        return float((perplexities.mean(1) - perplexities.amin(1)).mean())


@torch.no_grad()
def translations(
    model: SequenceModel,
    tokeniser: Tokeniser,
    body: Sequence[int],
    *,
    batch_tokens: int = 8192,
) -> Translations:
    """All moves along each axis of the crystal with tokens `body` (bos .. eos, no conditions)."""
    device = model.head.weight.device
    given = np.asarray(body, dtype=np.int64)
    moved = [
        tokeniser.translated(given, (shift * (axis == 0), shift * (axis == 1), shift * (axis == 2)))
        for axis in range(3)
        for shift in range(tokeniser.n_bins)
    ]
    size = max(1, batch_tokens // len(given))
    found = []
    for begin in range(0, len(moved), size):
        rows = [(row.tolist(), 1) for row in moved[begin : begin + size]]
        found.append(-negative_log_likelihoods(model, collate(tokeniser, rows).to(device)))
    return Translations(torch.cat(found).cpu().view(3, -1), len(given) - 1)
