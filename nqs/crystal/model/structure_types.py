"""How likely a model finds structure types (space group, element and site of each orbit).

Where tokens say the type right after the formula, its chance is a product of those of its tokens,

    p(type | request) = mean over the prompts that the request shows of
        sum over the ways in which the type is written of  prod p(token | all before it),

known well where a share of draws is not, small ones too, and no numbers need to be drawn. Tokens
are not renormalised over what the grammar allows, which a trained model hardly misses.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Final

import torch

from nqs.core.sequence import SequenceModel
from nqs.crystal.datasets.data import after, plain_batches
from nqs.crystal.model.generation import Request
from nqs.crystal.model.training import negative_log_likelihoods
from nqs.crystal.tokens.tokeniser import Tokeniser

BATCH_TOKENS: Final = 16384

Written = tuple[int, ...]
"""Tokens from bos, with the request's conditions, to the last of the type."""


@torch.no_grad()
def type_log_likelihoods(
    model: SequenceModel,
    tokeniser: Tokeniser,
    requests: Sequence[Request],
    written: Sequence[Mapping[Hashable, set[tuple[Written, int]]]],
) -> list[dict[Hashable, float]]:
    """ln p(type | request) of each request's types, of which `written` has (tokens, how many of
    them are given) of the ways in which they are written."""
    rows: list[tuple[Sequence[int], int]] = []
    places: list[tuple[int, Hashable, int]] = []
    for index, (request, types) in enumerate(zip(requests, written, strict=True)):
        prompts = request.prompts or ((),)
        for kind, ways in types.items():
            for tokens, given in sorted(ways):
                rows += [after(prompt, tokens, given) for prompt in prompts]
                places += [(index, kind, len(prompts))] * len(prompts)
    found: dict[tuple[int, Hashable, int], list[float]] = defaultdict(list)
    for chosen, batch in plain_batches(tokeniser, rows, BATCH_TOKENS):
        nats = negative_log_likelihoods(model, batch.to(model.head.weight.device))
        for row, value in zip(chosen, nats.tolist(), strict=True):
            found[places[row]].append(-value)
    totals: list[dict[Hashable, float]] = [{} for _ in requests]
    for (index, kind, n_prompts), values in found.items():
        sum_of_all = torch.tensor(values, dtype=torch.float64).logsumexp(0)
        totals[index][kind] = float(sum_of_all) - math.log(n_prompts)
    return totals
