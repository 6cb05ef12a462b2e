"""Increase in perplexity under translations, against every move made and scored by hand."""

from __future__ import annotations

import math

import pytest
import torch

from nqs.crystal.datasets.examples import examples
from nqs.crystal.model.cores import build_core, core_choice
from nqs.crystal.model.translations import translations
from nqs.crystal.tokens.coordinate import CoordinateTokeniser

TOKENISER = CoordinateTokeniser(8)


def core() -> torch.nn.Module:
    init = torch.Generator().manual_seed(0)
    config = core_choice(d_model=16, n_layers=1, n_heads=2)
    return build_core(config, len(TOKENISER.vocabulary), TOKENISER.max_length, init)


def test_against_brute_force() -> None:
    """Structures moved atom by atom, encoded anew and scored one at a time."""
    model, structure = core(), examples()[70].structure
    result = translations(model, TOKENISER, TOKENISER.encode(structure), batch_tokens=500)
    assert result.log_likelihoods.shape == (3, TOKENISER.n_bins)
    increases = []
    for axis in range(3):
        perplexities = []
        for shift in range(TOKENISER.n_bins):
            vector = [0.0, 0.0, 0.0]
            vector[axis] = shift / TOKENISER.n_bins
            tokens = torch.tensor([TOKENISER.encode(structure.shifted(vector))])
            with torch.no_grad():
                logits, _ = model(tokens[:, :-1])
            log_p = logits.double().log_softmax(-1).gather(2, tokens[:, 1:, None]).sum()
            perplexities.append(math.exp(-log_p / (tokens.shape[1] - 1)))
            assert float(result.log_likelihoods[axis, shift]) == pytest.approx(float(log_p), 1e-5)
        increases.append(sum(perplexities) / len(perplexities) - min(perplexities))
    assert min(increases) > 0
    assert result.increase == pytest.approx(sum(increases) / 3, rel=1e-4)


def test_a_model_that_does_not_mind_has_none() -> None:
    """All coordinates equally likely, whatever came before."""
    model = core()
    with torch.no_grad():
        model.head.weight.zero_()
    result = translations(model, TOKENISER, TOKENISER.encode(examples()[0].structure))
    assert result.increase == pytest.approx(0, abs=1e-3)
    assert float(result.perplexities.mean()) == pytest.approx(len(TOKENISER.vocabulary), rel=1e-5)
