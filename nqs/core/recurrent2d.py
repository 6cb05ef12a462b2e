"""Two-dimensional recurrent network: a tensorised gated cell on a zigzag path over a grid.

Rows of the grid are visited one after another, every second one backwards. The cell at a place
reads its horizontal predecessor on the path (a: the place before it in the same row) and the place
above it (v): their hidden vectors h and the embeddings e of their tokens, zero where there is none.

    x = (1, e_a, e_v),   y = (1, h_a, h_v)
    (p, r) = W (x (x) y)                             every product x_i y_j, a linear map of them
    h' = z tanh(p) + (1 - z) M (h_a, h_v),   z = sigmoid(r)

(two-dimensional RNN: Hibat-Allah et al., arXiv:2002.02973, section II C; tensorised gated cell:
arXiv:2207.14314, appendix A, whose one-hot tokens are embedded here, a low-rank factor of its
tensor.) The state is one row of hidden vectors and tokens: in each column the place visited last,
which is either the place above or, next to it, the horizontal predecessor.

Letters: B prefixes, F branches of each, R = B F rows, S own tokens, D units, E channels of e,
C columns of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from nqs.core.digits import token_embedding, token_head
from nqs.core.initialise import initialise
from nqs.core.recurrent import ConstantStateModel, RecurrentState, tanh
from nqs.core.sequence import Width, check_sizes


def zigzag(n_rows: int, n_columns: int) -> Iterator[tuple[int, int]]:
    """(row, column) of each step: rows in turn, the odd ones backwards."""
    for row in range(n_rows):
        columns = range(n_columns)
        for column in reversed(columns) if row % 2 else columns:
            yield row, column


class TensorCell(nn.Module):
    """One step of the gated cell above."""

    def __init__(self, d_model: int, d_embed: int) -> None:
        super().__init__()
        self.products = nn.Linear((1 + 2 * d_embed) * (1 + 2 * d_model), 2 * d_model, bias=False)
        self.merge = nn.Linear(2 * d_model, d_model, bias=False)

    def forward(self, read: Tensor, hidden: Tensor) -> Tensor:
        """x (R, 1 + 2 E) and (h_a, h_v) (R, 2 D) -> h' (R, D)."""
        y = nn.functional.pad(hidden, (1, 0), value=1.0)
        products = (read[:, :, None] * y[:, None, :]).flatten(1)  # (R, (1 + 2 E) (1 + 2 D))
        proposal, update = self.products(products).chunk(2, dim=1)
        return torch.lerp(self.merge(hidden), tanh(proposal), update.sigmoid())


@final
class Recurrent2D(ConstantStateModel, kind="rnn2d"):
    """Two-dimensional recurrent network over integer tokens in zigzag order, with a linear head.

    Args:
        n_tokens, n_outputs: see SequenceModel.
        grid: (rows, columns); position t is step t of `zigzag`, T = rows columns.
        d_model: Hidden units.
        d_embed: Channels of a token in its products with hidden units.
        products: of the tokens' digits, (K, F), for vectors and logits made of them
            (`nqs.core.digits`); None: tables of all tokens.
        generator: source of the initial parameters.
    """

    path: ClassVar[Literal["raster", "zigzag"]] = "zigzag"

    def __init__(
        self,
        n_tokens: int,
        n_outputs: int,
        grid: tuple[int, int],
        *,
        d_model: Width = 32,
        d_embed: Width = 4,
        products: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_sizes(rows=grid[0], columns=grid[1])
        super().__init__(n_tokens, n_outputs, grid[0] * grid[1])
        check_sizes(d_model=d_model, d_embed=d_embed)
        self.grid = grid
        self.d_model, self.d_embed = d_model, d_embed
        self.steps = list(zigzag(*grid))
        self.embedding = token_embedding(n_tokens + 1, d_embed, products)  # last: no neighbour
        self.cell = TensorCell(d_model, d_embed)
        self.head = token_head(d_model, n_outputs, products)
        initialise(self, generator)

    def carry(
        self, tokens: Tensor, memory: list[Tensor], first: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Memory is, column by column, C hidden vectors (B, D), then C tokens (B,)."""
        n_branches = len(tokens) // len(memory[0])
        if n_branches > 1:
            memory = [m.repeat_interleave(n_branches, dim=0) for m in memory]
        hidden, seen = memory[: self.grid[1]], memory[self.grid[1] :]
        nobody = torch.full_like(tokens[:, 0], self.vocab_size)
        at_rest = torch.zeros_like(hidden[0])
        pairs, beside = [], []
        for t, token in enumerate(tokens.unbind(1), start=first):
            (row, column), (last_row, last) = self.steps[t], self.steps[max(t - 1, 0)]
            if t > 0:
                seen[last] = token
            inside = row == last_row
            pairs += [token if inside else nobody, seen[column]]
            beside.append(last if inside and t > 0 else None)
        embedded = self.embedding(torch.stack(pairs, dim=1))  # (R, 2 S, E)
        read = embedded.unflatten(1, (-1, 2)).flatten(2)  # (R, S, 2 E)
        read = nn.functional.pad(read, (1, 0), value=1.0)
        outputs = []
        for i, neighbour in enumerate(beside):
            column = self.steps[first + i][1]
            before = at_rest if neighbour is None else hidden[neighbour]
            hidden[column] = self.cell(read[:, i], torch.cat([before, hidden[column]], dim=1))
            outputs.append(hidden[column])
        return self.head(torch.stack(outputs, dim=1)), hidden + seen

    def start(self, n_rows: int, capacity: int) -> RecurrentState:
        """At rest, no tokens seen; `capacity` is not needed, the state does not grow."""
        weight = self.head.weight
        hidden = [weight.new_zeros(n_rows, self.d_model) for _ in range(self.grid[1])]
        nobody = torch.full((n_rows,), self.vocab_size, device=weight.device)
        return RecurrentState(hidden + [nobody.clone() for _ in hidden], 0)
