"""The core learns and continues text: nothing in it needs to know about physics."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from nqs.core.recurrent import Recurrent
from nqs.core.sequence import SequenceModel
from nqs.core.transformer import Transformer

TEXT = "a rose is a rose is " * 6
LETTERS = sorted(set(TEXT))


@pytest.mark.parametrize("kind", ["transformer", "gru"])
def test_learns_a_periodic_text(kind: str, generator: torch.Generator) -> None:
    size, length = len(LETTERS), 40
    model: SequenceModel
    if kind == "transformer":
        model = Transformer(
            size, size, length, d_model=16, n_heads=2, attention="softmax", generator=generator
        )
    else:
        model = Recurrent(size, size, length, d_model=24, generator=generator)
    tokens = torch.tensor([LETTERS.index(letter) for letter in TEXT])
    windows = tokens.unfold(0, 31, 1)[:20]  # (20, 31), every phase of the period
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(120):
        logits, _ = model(windows[:, :-1])
        loss = cross_entropy(logits[:, 8:].flatten(0, 1), windows[:, 9:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1.5 and losses[-1] < 0.1

    with torch.no_grad():  # write on, one letter at a time
        logits, state = model(windows[:1, :15], model.start(1, length))
        written = []
        for _ in range(15):
            written.append(int(logits[0, -1].argmax()))
            logits, state = model(torch.tensor([written[-1:]]), state)
    assert written == windows[0, 15:30].tolist()
