"""The likelihood summed over descriptions, one sequence at a time by hand."""

from __future__ import annotations

import math

import pytest
import torch

from nqs.crystal.datasets.examples import examples
from nqs.crystal.model import descriptions
from nqs.crystal.model.cores import build_core, core_choice
from nqs.crystal.model.descriptions import summed
from nqs.crystal.tokens import make_tokeniser
from nqs.crystal.tokens.coordinate import CoordinateTokeniser

TOKENISER = make_tokeniser("wyckoff", 8)
EXAMPLES = {record.name: record.structure for record in examples()}
NAMES = ("NaCl-rocksalt", "CaF2-fluorite", "ZnO-wurtzite", "SrTiO3-perovskite")


def core(n_tokens: int, length: int) -> torch.nn.Module:
    init = torch.Generator().manual_seed(0)
    return build_core(core_choice(d_model=16, n_layers=1, n_heads=2), n_tokens, length, init)


@torch.no_grad()
def test_against_every_description_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four crystals; wurtzite, whose axis is polar, has more than a limit of 100."""
    model = core(len(TOKENISER.vocabulary), TOKENISER.max_length)
    bodies = [TOKENISER.encode(EXAMPLES[name]) for name in NAMES]
    rows = []
    for body in bodies:
        chances = {}
        for other in TOKENISER.equivalents(body):
            tokens = torch.tensor([other])
            logits, _ = model(tokens[:, :-1])
            log_p = logits.double().log_softmax(-1).gather(2, tokens[:, 1:, None]).sum()
            chances[tuple(other)] = math.exp(log_p)
        written, total = chances[tuple(body)], sum(chances.values())
        rows.append((len(chances), -math.log(written), -math.log(total)))
    assert rows[0][0] == 2 and rows[2][0] >= 120  # sodium at a or b; an origin along the axis
    for most, kept in ((1000, rows), (100, [row for row in rows if row[0] <= 100])):
        monkeypatch.setattr(descriptions, "MOST", most)
        found = summed(model, TOKENISER, bodies, batch_tokens=100)
        assert found is not None and found.n_crystals == len(kept)
        means = [sum(column) / len(kept) for column in zip(*kept, strict=True)]
        assert [found.n_descriptions, found.nats, found.nats_summed] == pytest.approx(means, 1e-5)
        assert found.nats_summed < found.nats
    monkeypatch.setattr(descriptions, "MOST", 0)
    assert summed(model, TOKENISER, bodies) is None


def test_one_description_alone() -> None:
    """Of a tokeniser that writes a crystal as it stands: the sum is the term."""
    tokeniser = CoordinateTokeniser(8)
    model = core(len(tokeniser.vocabulary), tokeniser.max_length)
    found = summed(model, tokeniser, [tokeniser.encode(EXAMPLES[name]) for name in NAMES])
    assert found is not None
    assert found.n_descriptions == 1 and found.nats == pytest.approx(found.nats_summed)
