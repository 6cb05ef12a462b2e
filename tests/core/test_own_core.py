"""A sequence model of one's own: the least that has to be written, chosen by name."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from nqs.core import SequenceModel
from nqs.core.head import Head
from nqs.core.initialise import initialise
from nqs.core.recurrent import ConstantStateModel, RecurrentState
from nqs.core.sequence import UncachedModel


class Mean(UncachedModel):
    """The mean of what was read.

    Args:
        width: Of its vectors.
    """

    def __init__(
        self,
        n_tokens: int,
        n_outputs: int,
        length: int,
        *,
        width: int = 16,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n_tokens, n_outputs, length)
        self.embedding = nn.Embedding(n_tokens, width)
        self.head = Head(width, n_outputs)
        initialise(self, generator)

    def logits(self, tokens: Tensor) -> Tensor:
        seen = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)[:, None]
        return self.head(self.embedding(tokens).cumsum(1) / seen)


class Fading(ConstantStateModel):
    """A sum of vectors of which each step forgets half: carried along in a memory of one vector."""

    def __init__(
        self, n_tokens: int, n_outputs: int, length: int, *, generator: torch.Generator
    ) -> None:
        super().__init__(n_tokens, n_outputs, length)
        self.embedding, self.head = nn.Embedding(n_tokens, 3), Head(3, n_outputs)
        initialise(self, generator)

    def start(self, n_rows: int, capacity: int) -> RecurrentState:
        return RecurrentState([self.head.weight.new_zeros(n_rows, 3)], 0)

    def carry(
        self, tokens: Tensor, memory: list[Tensor], first: int
    ) -> tuple[Tensor, list[Tensor]]:
        vectors, (held,) = self.embedding(tokens), memory
        held, outputs = held.repeat_interleave(len(tokens) // len(held), dim=0), []
        for vector in vectors.unbind(1):
            held = 0.5 * held + vector
            outputs.append(held)
        return self.head(torch.stack(outputs, dim=1)), [held]


class Leaky(Mean):
    """Looks ahead: what no sequence model may do."""

    constant_state: ClassVar[bool] = False

    def logits(self, tokens: Tensor) -> Tensor:
        return super().logits(tokens).flip(1)


def model(kind: type[Mean] = Mean) -> Mean:
    return kind(5, 4, 7, generator=torch.Generator().manual_seed(0)).double()


def test_it_is_known_by_its_name() -> None:
    assert not {Mean, Leaky} & set(SequenceModel.kinds.values())


@torch.no_grad()
def reads_forwards(core: Mean) -> None:
    """A sequence cut short, and branches that continue a prefix, have the logits of the whole."""
    tokens = torch.randint(5, (6, 7), generator=torch.Generator().manual_seed(1))
    tokens[:, :3] = tokens[::2, :3].repeat_interleave(2, dim=0)  # B = 3 prefixes, 2 branches each
    whole, _ = core(tokens)
    assert_close(core(tokens[:, :4])[0], whole[:, :4])
    _, state = core(tokens[::2], core.start(3, 7))
    assert (state.n_rows, state.length) == (3, 7)
    later, after = core(tokens[:, 3:], core.prefix(state, 3))
    assert_close(later, whole[:, 3:])
    again, _ = core(tokens[:2, 5:], core.prefix(after, 5).select(torch.tensor([0, 1])))
    assert_close(again, whole[:2, 5:])


def test_reads_forwards() -> None:
    reads_forwards(model())
    with pytest.raises(AssertionError):
        reads_forwards(model(Leaky))


@torch.no_grad()
def test_a_memory_of_ones_own() -> None:
    core = Fading(5, 4, 7, generator=torch.Generator().manual_seed(0)).double()
    tokens = torch.randint(5, (6, 7), generator=torch.Generator().manual_seed(1))
    tokens[:, :3] = tokens[::2, :3].repeat_interleave(2, dim=0)
    whole, _ = core(tokens)
    _, state = core(tokens[::2, :3], core.start(3, 7))
    assert_close(core(tokens[:, 3:], state)[0], whole[:, 3:])


def test_what_does_not_fit() -> None:
    core = model()
    with pytest.raises(ValueError, match="position 8 is beyond max_length=7"):
        core(torch.zeros(1, 8, dtype=torch.int64))
    with pytest.raises(ValueError, match="outside"):
        core.prefix(core.start(1, 0), 1)
    with pytest.raises(ValueError, match="length=0 must be a positive integer"):
        Mean(5, 4, 0)
