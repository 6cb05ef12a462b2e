"""Recurrent sequence models: Elman, GRU and LSTM cells, stacked, optionally residual.

The cells are spelled out (not torch's fused ones) so that one step, a whole sequence and many
branches of one sequence run the same code, and so that every linear map is a module of its own
(per-sample gradients hook there). Gate conventions and formulas are torch.nn.RNN / GRU / LSTM's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, final

import torch
from torch import Tensor, nn

from nqs.core.digits import token_embedding, token_head
from nqs.core.initialise import initialise
from nqs.core.sequence import (
    Depth,
    EmbeddingModel,
    SequenceModel,
    SequenceState,
    Width,
    check_continuation,
    check_sizes,
)


@dataclass
class RecurrentState(SequenceState):
    """memory: tensors (B, ...) of fixed size, each model's own: running sums, hidden vectors."""

    memory: list[Tensor]
    length: int

    @property
    def n_rows(self) -> int:
        return self.memory[0].shape[0]

    def select(self, rows: Tensor) -> Self:
        return type(self)([m[rows] for m in self.memory], self.length)

    @classmethod
    def concatenate(cls, states: list[Self]) -> Self:
        """The rows of several states of one length, one after another."""
        columns = zip(*(state.memory for state in states), strict=True)
        return cls([torch.cat(column) for column in columns], states[0].length)


class ConstantStateModel(SequenceModel, ABC):
    """A sequence model whose state is a RecurrentState: all it does is carry its memory along."""

    constant_state: ClassVar[bool] = True

    def forward(
        self, tokens: Tensor, state: SequenceState | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """See SequenceModel.forward."""
        before = self._before(tokens, state)
        logits, memory = self.carry(tokens, list(before.memory), before.length)
        return logits, RecurrentState(memory, before.length + tokens.shape[1])

    def _before(self, inputs: Tensor, state: SequenceState | None) -> RecurrentState:
        """The state that inputs (R, S, ...) continue; an empty one for None."""
        check_continuation(self, inputs, state)
        if state is None:
            return self.start(len(inputs), self.max_length)
        assert isinstance(state, RecurrentState)
        return state

    @abstractmethod
    def start(self, n_rows: int, capacity: int) -> RecurrentState:
        """See SequenceModel.start."""

    @abstractmethod
    def carry(
        self, tokens: Tensor, memory: list[Tensor], first: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits (R, S, K) and next memory of tokens (R, S) read at first, ..., first + S - 1.

        memory has B rows, R a multiple of B: row r continues r // F. Its tensors stay as they are,
        the list may be changed.
        """

    def prefix(self, state: SequenceState, length: int, *, repeats: bool = False) -> RecurrentState:
        raise TypeError("a recurrent state holds only its last position: it has no prefixes")


class Cell(nn.Module, ABC):
    """One step h' = cell(W_in x + b_in, U h + c, h); the linear parts come from outside."""

    n_gates: ClassVar[int]
    memory_per_unit: ClassVar[int] = 1

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.hidden = nn.Linear(d_model, self.n_gates * d_model)

    @abstractmethod
    def forward(self, driven: Tensor, recalled: Tensor, memory: Tensor) -> Tensor:
        """driven and recalled (R, n_gates D), memory (R, M) -> next memory (R, M).

        recalled is U h + c of the hidden vector h = memory[:, :D]; the first D columns of the
        result are the next h.
        """


def tanh(x: Tensor) -> Tensor:
    """2 sigmoid(2 x) - 1: a third of torch.tanh's time on CPU, absolute error 1e-7 (float32)."""
    return (2 * x).sigmoid_().mul(2).sub_(1)


@final
class ElmanCell(Cell):
    """h' = tanh(W_in x + U h + b)."""

    n_gates = 1

    def forward(self, driven: Tensor, recalled: Tensor, memory: Tensor) -> Tensor:
        return tanh(driven + recalled)


@final
class GRUCell(Cell):
    """r, z = sigmoid(.); n = tanh(W_n x + r (U_n h + c_n)); h' = n + z (h - n)."""

    n_gates = 3

    def forward(self, driven: Tensor, recalled: Tensor, memory: Tensor) -> Tensor:
        n_gating = 2 * self.d_model
        gates = (driven[:, :n_gating] + recalled[:, :n_gating]).sigmoid_()
        reset, update = gates.chunk(2, dim=1)
        proposal = tanh(torch.addcmul(driven[:, n_gating:], reset, recalled[:, n_gating:]))
        return torch.lerp(proposal.to(memory.dtype), memory, update.to(memory.dtype))


@final
class LSTMCell(Cell):
    """i, f, g, o gates; c' = f c + i g; h' = o tanh(c'). Memory is (h, c)."""

    n_gates = 4
    memory_per_unit = 2

    def forward(self, driven: Tensor, recalled: Tensor, memory: Tensor) -> Tensor:
        i, f, g, o = (driven + recalled).chunk(4, dim=1)
        cell = torch.sigmoid(f) * memory[:, self.d_model :] + torch.sigmoid(i) * tanh(g)
        return torch.cat([torch.sigmoid(o) * tanh(cell), cell], dim=1)


CellKind = Literal["gru", "lstm", "elman"]
CELLS: dict[str, type[Cell]] = {"elman": ElmanCell, "gru": GRUCell, "lstm": LSTMCell}


@final
class Recurrent(ConstantStateModel, EmbeddingModel, kind="rnn"):
    """Stacked recurrent network over integer tokens, with a linear head.

    The first layer's input map acts on one-hot tokens, so it is an embedding of width n_gates D:
    reading a token costs a look-up, not a product.

    Args:
        n_tokens, n_outputs, length: see SequenceModel.
        d_model: Hidden units of a layer.
        n_layers: Number of layers; each reads the outputs of the one before.
        cell: Recurrent cell: gru, lstm or elman.
        residual: Add each layer's input to its output (not the first's).
        products: of the tokens' digits, (K, F), for vectors and logits made of them
            (`nqs.core.digits`); None: tables of all tokens.
        generator: source of the initial parameters.
    """

    def __init__(
        self,
        n_tokens: int,
        n_outputs: int,
        length: int,
        *,
        d_model: Width = 64,
        n_layers: Depth = 1,
        cell: CellKind = "gru",
        residual: bool = False,
        products: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n_tokens, n_outputs, length)
        check_sizes(d_model=d_model, n_layers=n_layers)
        if cell not in CELLS:
            raise ValueError(f"cell={cell!r} is unknown; allowed: {', '.join(CELLS)}")
        self.d_model, self.residual = d_model, residual
        self.cells: Sequence[Cell] = nn.ModuleList(  # type: ignore[assignment]
            CELLS[cell](d_model) for _ in range(n_layers)
        )
        width = self.cells[0].n_gates * d_model
        self.embedding = token_embedding(n_tokens, width, products)
        self.inputs = nn.ModuleList(nn.Linear(d_model, width) for _ in range(n_layers - 1))
        self.head = token_head(d_model, n_outputs, products)
        initialise(self, generator)
        if cell == "lstm":  # remember by default (Jozefowicz et al., ICML 2015)
            for layer in self.cells:
                nn.init.ones_(layer.hidden.bias[d_model : 2 * d_model])

    def read(
        self, embedded: Tensor, state: SequenceState | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """See EmbeddingModel.read; E = n_gates D."""
        before = self._before(embedded, state)
        logits, memory = self._driven(embedded, list(before.memory))
        return logits, RecurrentState(memory, before.length + embedded.shape[1])

    def carry(
        self, tokens: Tensor, memory: list[Tensor], first: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Memory is (B, M) per layer, M = D (2 D for the LSTM: hidden, then cell)."""
        return self._driven(self.embedding(tokens), memory)

    def _driven(self, driven: Tensor, memory: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Logits (R, S, K), next memory of inputs (R, S, n_gates D) read from memory."""
        n_own = driven.shape[1]
        outputs = driven
        for layer, cell in enumerate(self.cells):
            if layer > 0:
                driven = self.inputs[layer - 1](outputs)
            steps = []
            for t in range(n_own):
                memory[layer] = self._step(cell, driven[:, t], memory[layer])
                steps.append(memory[layer][:, : self.d_model])
            stacked = torch.stack(steps, dim=1) if n_own > 1 else steps[0][:, None]  # (R, S, D)
            outputs = outputs + stacked if self.residual and layer > 0 else stacked
        return self.head(outputs), memory

    def _step(self, cell: Cell, driven: Tensor, memory: Tensor) -> Tensor:
        """One step of R rows from B = R / F memories; branches of one memory share its product."""
        n_branches = driven.shape[0] // memory.shape[0]
        recalled = cell.hidden(memory[:, : self.d_model])  # (B, n_gates D)
        if n_branches > 1:
            recalled = recalled.repeat_interleave(n_branches, dim=0)
            memory = memory.repeat_interleave(n_branches, dim=0)
        return cell(driven, recalled, memory)

    def start(self, n_rows: int, capacity: int) -> RecurrentState:
        """Zero memory; `capacity` is not needed, the state does not grow."""
        width = self.d_model * self.cells[0].memory_per_unit
        memory = [self.head.weight.new_zeros(n_rows, width) for _ in self.cells]
        return RecurrentState(memory, 0)
