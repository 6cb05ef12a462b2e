"""Drawing the next token: one categorical draw a row, or a multinomial split of a row's count.

All draws are made in float64: a float32 uniform number cannot resolve probabilities below 6e-8,
and such tails are where local energies are large.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def draw_tokens(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    """One token a row from normalised log-probabilities (R, K) -> (R,) int64."""
    probs = log_probs.to(torch.float64).exp()
    # n = 1 is torch's exponential race, argmax p / E, with E drawn in float64
    return torch.multinomial(probs, 1, generator=generator).squeeze(1)


def split_counts(counts: Tensor, log_probs: Tensor, generator: torch.Generator) -> Tensor:
    """Multinomial split of counts (R,) int64 over K outcomes -> (R, K) int64, summing to counts.

    A multinomial is a tree of binomials: halve the set of outcomes, give the left half
    Binomial(count, p_left / p), recurse; log2 K vectorised draws in all.
    """
    n_outcomes = log_probs.shape[1]
    depth = math.ceil(math.log2(n_outcomes)) if n_outcomes > 1 else 0
    leaves = log_probs.to(torch.float64).exp()
    if n_outcomes < 2**depth:
        leaves = torch.nn.functional.pad(leaves, (0, 2**depth - n_outcomes))
    masses, lefts = [leaves], []
    for _ in range(depth):  # masses of ever larger sets of outcomes, up to the whole
        left, right = masses[-1][:, ::2], masses[-1][:, 1::2]
        lefts.append(left)
        masses.append(left + right)
    split = counts.to(torch.float64)[:, None]  # (R, 1)
    for whole, left in zip(masses[:0:-1], lefts[::-1], strict=True):
        chance = torch.where(whole > 0, left / whole, 0.0).clamp_(max=1.0)
        n_left = torch.binomial(split, chance, generator=generator)
        split = torch.stack([n_left, split - n_left], dim=-1).flatten(1)
    return split[:, :n_outcomes].to(torch.int64)


def restrict(
    logits: Tensor,
    allowed: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Normalised float64 log-probabilities (R, K) of what may be drawn; -inf for the rest.

    First everything that is not in allowed (R, K) is ruled out, then logits are divided by the
    temperature; of what is left the top_k likeliest tokens stay, and of these the fewest whose
    chances add up to top_p (nucleus sampling: Holtzman et al., arXiv:1904.09751). Of equally likely
    tokens at a limit, those of smaller index stay, so a row always keeps exactly what it says.
    """
    scaled = logits.to(torch.float64) / temperature
    log_probs = scaled.masked_fill(~allowed, -torch.inf).log_softmax(1)
    if top_k is None and top_p is None:
        return log_probs
    ranked, order = log_probs.sort(dim=1, descending=True, stable=True)
    if top_k is not None:
        ranked[:, top_k:] = -torch.inf
        ranked = ranked.log_softmax(1)
    if top_p is not None:
        before = ranked.exp().cumsum(1).roll(1, dims=1)  # chance of all that is likelier
        before[:, 0] = 0
        ranked = ranked.masked_fill(before >= top_p, -torch.inf).log_softmax(1)
    return torch.empty_like(ranked).scatter_(1, order, ranked)
