"""A core that reads several texts in a row, each of them much like the one before.

Tokens that separate texts have index 0, those after them 1, 2, ...; with the sinusoids s(i) of
`nqs.core.positions` and the vectors e of the core's embedding it reads, besides its own positions
in the whole,

    e(token) + M s(index) + N e(what followed at this index in the text before),

M and N learned; without the last term where the text before has ended or there is none. So what the
other text would say next is at hand at once, where from the tokens alone a model first has to learn
to look for it (the induction heads of Olsson et al., arXiv:2209.11895, take two layers and long to
form).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self, final

import torch
from torch import Tensor, nn

from nqs.core.digits import DigitHead
from nqs.core.head import Head
from nqs.core.positions import sinusoids
from nqs.core.sequence import EmbeddingModel, SequenceModel, SequenceState

WAVES: Final = 64
"""Channels of the sinusoids."""


@final
@dataclass
class SectionState(SequenceState):
    """That of the core, and the tokens themselves, (B, length)."""

    inner: SequenceState
    tokens: Tensor

    @property
    def length(self) -> int:  # type: ignore[override]
        """Number of tokens read so far."""
        return self.inner.length

    @property
    def n_rows(self) -> int:
        return self.inner.n_rows

    def select(self, rows: Tensor) -> Self:
        return type(self)(self.inner.select(rows), self.tokens[rows])


@final
class InSections(SequenceModel):
    """A core that reads texts in a row.

    Args:
        core: what reads them.
        separators: the tokens between texts, the first token of each sequence among them.
        generator: source of the initial maps.
    """

    separators: Tensor
    waves: Tensor

    def __init__(
        self,
        core: EmbeddingModel,
        separators: Sequence[int],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(core.vocab_size, core.n_outputs, core.max_length)
        self.core = core
        self.register_buffer("separators", torch.tensor(separators), persistent=False)
        table = sinusoids(torch.arange(core.max_length + 1.0)[:, None], WAVES)
        self.register_buffer("waves", table, persistent=False)
        width = core.embedding.embedding_dim
        self.of_index = nn.Linear(WAVES, width, bias=False)
        self.of_other = nn.Linear(width, width, bias=False)
        with torch.no_grad():
            for linear in (self.of_index, self.of_other):
                linear.weight.normal_(0.0, linear.in_features**-0.5, generator=generator)

    @property
    def head(self) -> Head | DigitHead:  # type: ignore[override]
        """The core's."""
        return self.core.head

    def forward(
        self, tokens: Tensor, state: SequenceState | None = None
    ) -> tuple[Tensor, SectionState]:
        """See SequenceModel.forward."""
        n_own, inner, whole = tokens.shape[1], None, tokens
        if state is not None:
            assert isinstance(state, SectionState)
            inner = state.inner
            n_branches = len(tokens) // max(1, state.n_rows)
            whole = torch.cat([state.tokens.repeat_interleave(n_branches, 0), tokens], dim=1)
        index, other, there = (found[:, -n_own:] for found in self.beside(whole))
        embedded = self.core.embedding(tokens) + self.of_index(self.waves[index])
        shown = self.of_other(self.core.embedding(other)) * there[..., None]
        logits, inner = self.core.read(embedded + shown, inner)
        return logits, SectionState(inner, whole)

    def beside(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of whole sequences (R, S): each token's index in its text, the token that followed at
        this index in the text before, and whether there is one, (R, S) each."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        separates = torch.isin(tokens, self.separators)
        begun = torch.where(separates, places, -1).cummax(1).values  # where the text begins
        before = torch.where(begun > 0, begun.gather(1, (begun - 1).clamp(min=0)), -1)
        follows = before + (places - begun) + 1
        there = (before >= 0) & (follows <= begun)
        other = tokens.gather(1, torch.where(there, follows, 0))
        return places - begun, other, there

    def start(self, n_rows: int, capacity: int) -> SectionState:
        """See SequenceModel.start."""
        device = self.of_index.weight.device
        nothing = torch.empty(n_rows, 0, dtype=torch.int64, device=device)
        return SectionState(self.core.start(n_rows, capacity), nothing)

    def prefix(self, state: SequenceState, length: int, *, repeats: bool = False) -> SectionState:
        """See SequenceModel.prefix."""
        assert isinstance(state, SectionState)
        return SectionState(self.core.prefix(state.inner, length), state.tokens[:, :length])
