"""Chances of structure types: against every type that there is, and against shares of draws."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

from nqs.crystal.model.cores import build_core, core_choice
from nqs.crystal.model.generation import Filters, Request, generate
from nqs.crystal.model.structure_types import type_log_likelihoods
from nqs.crystal.tokens import CoordinateTokeniser, WyckoffTokeniser
from nqs.crystal.tokens.tokeniser import Conditions

TOKENISER = WyckoffTokeniser(4)
SALT = Conditions(composition={11: 2, 17: 2}, space_group=123)


def model() -> torch.nn.Module:
    config = core_choice("transformer", d_model=16, n_layers=1, n_heads=2)
    init = torch.Generator().manual_seed(0)
    core = build_core(config, len(TOKENISER.vocabulary), 3 * TOKENISER.max_length, init)
    return core.eval().requires_grad_(False)


def written(tokens: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    start, stop = TOKENISER.type_tokens(tokens)
    return tokens[:stop], start


@pytest.mark.parametrize("prompts", [(), ((3, 4, 5), (6, 7))])
def test_chances_are_products_of_those_of_tokens(prompts: tuple[tuple[int, ...], ...]) -> None:
    core = model()
    request = Request(40, SALT)
    generator = torch.Generator().manual_seed(1)
    drawn = next(
        generate(core, TOKENISER, [request], filters=Filters(), batch_size=40, generator=generator)
    )
    types = {TOKENISER.structure_type(s.tokens): {written(s.tokens)} for s in drawn}
    request = Request(1, SALT, prompts=prompts)
    (found,) = type_log_likelihoods(core, TOKENISER, [request], [types])
    assert found.keys() == types.keys() and len(types) > 3
    for kind, ways in types.items():
        ((tokens, given),) = ways
        chances = []
        for prompt in prompts or ((),):
            whole = torch.tensor([[tokens[0], *prompt, *tokens[1:]]])
            log_p = core(whole)[0].log_softmax(-1)[0]
            places = range(len(prompt) + given, whole.shape[1])
            chances.append(math.exp(sum(float(log_p[i - 1, whole[0, i]]) for i in places)))
        expected = math.log(sum(chances) / len(chances))  # some 1e-30: logarithms are compared
        assert found[kind] == pytest.approx(expected, abs=1e-3)


def test_ways_of_a_type_add_up() -> None:
    core = model()
    one, other = ((1, 5, 9), 1), ((1, 5, 10, 11), 1)
    types = [{"both": {one, other}, "one": {one}, "other": {other}}]
    (found,) = type_log_likelihoods(core, TOKENISER, [Request(1)], types)
    expected = float(np.logaddexp(found["one"], found["other"]))
    assert found["both"] == pytest.approx(expected, abs=1e-6)


def test_shares_of_draws_follow_them() -> None:
    """1 000 draws of one formula and group. Draws are renormalised over what the grammar allows,
    chances are not: compared are types that differ in the last site alone, each within five
    standard errors (false alarm: 6e-7 a type)."""
    core = model()
    generator = torch.Generator().manual_seed(2)
    request = Request(1000, SALT)
    drawn = next(
        generate(
            core, TOKENISER, [request], filters=Filters(), batch_size=1000, generator=generator
        )
    )
    counts = Counter(written(sample.tokens) for sample in drawn)
    types = {way: {way} for way in counts}
    (log_p,) = type_log_likelihoods(core, TOKENISER, [Request(1, SALT)], [types])
    compared = 0
    for _, group in itertools.groupby(sorted(counts), key=lambda way: way[0][:-1]):
        alike = [way for way in group if counts[way] >= 10]
        total = sum(counts[way] for way in alike)
        chances = [math.exp(log_p[way]) for way in alike]
        for way, chance in zip(alike, chances, strict=True):
            share = chance / sum(chances)
            error = math.sqrt(total * share * (1 - share))
            assert abs(counts[way] - total * share) <= 5 * error
            compared += len(alike) > 1
    assert compared >= 10


def test_tokens_that_say_no_type() -> None:
    assert CoordinateTokeniser(4).type_tokens((1, 2)) is None
