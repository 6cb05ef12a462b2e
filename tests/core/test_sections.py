"""Texts in a row: indices by hand, the same in any pieces and rows, and what they are for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from nqs.core import Recurrent, Transformer
from nqs.core.sections import InSections
from nqs.core.sequence import EmbeddingModel

VOCAB, LENGTH, SEPARATORS = 7, 12, (1, 2)


def sections(core: str = "ptf", n_layers: int = 2, seed: int = 0) -> InSections:
    generator = torch.Generator().manual_seed(seed)
    inner: EmbeddingModel
    if core == "ptf":
        inner = Transformer(VOCAB, VOCAB, LENGTH, d_model=16, n_layers=n_layers, n_heads=2,
                            attention="softmax", generator=generator)  # fmt: skip
    else:
        inner = Recurrent(VOCAB, VOCAB, LENGTH, d_model=16, generator=generator)
    return InSections(inner, SEPARATORS, generator)


def test_what_stands_beside_each_token() -> None:
    """Index in its text; what followed at this index in the text before, the separator at its end
    included; nothing in the first text and beyond the end of the one before."""
    model = sections()
    tokens = torch.tensor([[1, 5, 6, 2, 4, 4, 4, 2], [1, 2, 3, 2, 6, 6, 6, 6]])
    index, other, there = model.beside(tokens)
    assert index.tolist() == [[0, 1, 2, 0, 1, 2, 3, 0], [0, 0, 1, 0, 1, 2, 3, 4]]
    shown = torch.where(there, other, -1).tolist()
    assert shown == [[-1, -1, -1, 5, 6, 2, -1, 4], [-1, 2, -1, 3, 2, -1, -1, -1]]


@pytest.mark.parametrize("core", ["ptf", "rnn"])
@pytest.mark.parametrize("in_place", [False, True])
def test_pieces_and_rows(core: str, in_place: bool) -> None:
    """Logits in pieces of any length are those of the whole, after select and in branches too."""
    model = sections(core).double()
    draws = torch.Generator().manual_seed(1)
    tokens = torch.randint(VOCAB, (6, LENGTH), generator=draws)
    tokens[:, 0] = 1
    whole, _ = model(tokens)
    for cuts in ((1, 2, 7), (5,), tuple(range(1, LENGTH))):
        state = model.start(6, LENGTH) if in_place else None
        found = []
        for start, stop in zip((0, *cuts), (*cuts, LENGTH), strict=True):
            logits, state = model(tokens[:, start:stop], state)
            found.append(logits)
        assert_close(torch.cat(found, 1), whole, rtol=0, atol=1e-12)
        assert state.length == LENGTH and state.n_rows == 6
    rows = torch.tensor([4, 1, 1])
    _, state = model(tokens[:, :5])
    again, _ = model(tokens[rows, 5:], state.select(rows))
    assert_close(again, whole[rows, 5:], rtol=0, atol=1e-12)
    shared = tokens.clone()
    shared[:, :5] = shared[[0, 0, 2, 2, 4, 4], :5]
    expected, _ = model(shared)
    _, state = model(shared[::2, :5])
    branches, _ = model(shared[:, 5:], state)
    assert_close(branches, expected[:, 5:], rtol=0, atol=1e-12)


def test_prefixes() -> None:
    model = sections().double()
    tokens = torch.randint(VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(2))
    whole, state = model(tokens)
    again, _ = model(tokens[:, 4:], model.prefix(state, 4))
    assert_close(again, whole[:, 4:], rtol=0, atol=1e-12)


def copying_loss(model: torch.nn.Module, n_steps: int) -> float:
    """Nats a token of a text of four random tokens that stood before it, after training; 0 to 3
    others stood after it."""
    draws = torch.Generator().manual_seed(5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    def batch() -> Tensor:
        text = torch.randint(3, VOCAB, (64, 4), generator=draws)
        ends = torch.full((64, 1), 2)
        n_others = int(torch.randint(4, (), generator=draws))
        others = torch.randint(3, VOCAB, (64, n_others), generator=draws)
        return torch.cat([ends, text, others, ends, text], dim=1)

    losses = []
    for _ in range(n_steps):
        tokens = batch()
        logits, _ = model(tokens[:, :-1])
        copied, found = tokens[:, -4:].flatten(), logits[:, -4:].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(found, copied)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return sum(losses[-10:]) / 10


def test_copies_come_at_once() -> None:
    """A text is copied by one layer; the core alone, which would need a second one, is not half as
    far (a guess costs ln 4 = 1.39)."""
    with_indices = copying_loss(sections(n_layers=1), 200)
    alone = copying_loss(sections(n_layers=1).core, 200)
    assert with_indices < 0.15 and alone > 2 * with_indices + 0.2, (with_indices, alone)
