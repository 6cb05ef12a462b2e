"""Diagonal state-space model: each layer a linear recurrence of complex modes, gated.

    z = LayerNorm(x),   (u, g) = W_in z                       u complex, M modes; g (2 M)
    h_t = a h_{t-1} + sqrt(1 - |a|^2) u_t,   a = exp(-e^nu + i theta)
    x <- x + W_out ((Re h, Im h) silu(g)),   x <- x + W2 act(W1 LayerNorm(x))

|a| < 1 by construction, and the root keeps the variance of h at that of u (S4D: Gu et al.,
arXiv:2206.11893; LRU: Orvieto et al., arXiv:2303.06349, section 3; the gate as in
arXiv:2312.00752). A whole sequence is scanned by doubling: after the pass of stride n each h_t sums
the last 2 n drives, log2 T passes of T M operations and memory O(T log T) for the gradient; no
power of a beyond T, no division: nothing over- or underflows. Complex numbers are pairs of reals.

Letters: B prefixes, F branches of each, R = B F rows, S own tokens, M modes of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from nqs.core.digits import token_embedding, token_head
from nqs.core.initialise import initialise
from nqs.core.perceptron import Activation, Perceptron
from nqs.core.positions import AddedTable, PositionEncoding, Positions
from nqs.core.recurrent import ConstantStateModel, RecurrentState
from nqs.core.sequence import Depth, Width, check_sizes, feed_forward_width

SLOWEST, FASTEST = 0.99, 0.3
"""Range of |a| at the start."""


def scan(drive: tuple[Tensor, Tensor], decay: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """h_t = a h_{t-1} + u_t from h_{-1} = 0, for drives u (R, S, M) and a (R or 1, 1, M).

    Complex numbers as (real, imaginary); returns h (R, S, M).
    """
    (re, im), (a_re, a_im) = drive, decay
    stride = 1
    while stride < re.shape[1]:
        past_re, past_im = re[:, :-stride], im[:, :-stride]
        later_re = re[:, stride:] + a_re * past_re - a_im * past_im
        later_im = im[:, stride:] + a_re * past_im + a_im * past_re
        re = torch.cat([re[:, :stride], later_re], dim=1)
        im = torch.cat([im[:, :stride], later_im], dim=1)
        a_re, a_im = a_re.square() - a_im.square(), 2 * a_re * a_im
        stride *= 2
    return re, im


@final
class Diagonal(nn.Module):
    """h_t = a h_{t-1} + sqrt(1 - |a|^2) u_t with a = exp(-e^nu + i theta), mode by mode.

    nu and theta are a table that is added to zeros: every sequence reads a copy of its own, so
    that the derivatives of each sample's ln psi are those of its copy.
    """

    def __init__(self, n_modes: int) -> None:
        super().__init__()
        self.table = AddedTable(torch.zeros(1, 2 * n_modes))  # nu, then theta

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """|a|^2 uniform between the squares of FASTEST and SLOWEST, theta in [0, pi)."""
        table = self.table.table
        chance = torch.empty_like(table).uniform_(generator=generator)
        radius, angle = chance.chunk(2, dim=1)
        squared = FASTEST**2 + (SLOWEST**2 - FASTEST**2) * radius
        table.copy_(torch.cat([(-0.5 * squared.log()).log(), math.pi * angle], dim=1))

    def forward(self, drive: Tensor, memory: Tensor) -> Tensor:
        """drive (R, S, 2 M), memory (B, 2 M): the last h -> all h (R, S, 2 M); real, imaginary."""
        n_copies = len(drive) if torch.is_grad_enabled() else 1
        nu, theta = self.table(drive.new_zeros(n_copies, 1, drive.shape[2])).chunk(2, dim=2)
        rate = nu.exp()
        radius = torch.exp(-rate)
        decay = (radius * theta.cos(), radius * theta.sin())  # (R or 1, 1, M)
        gain = torch.sqrt(-torch.expm1(-2 * rate))
        re, im = (gain * u for u in drive.chunk(2, dim=2))  # (R, S, M)
        memory = memory.repeat_interleave(len(drive) // len(memory), dim=0)[:, None]
        old_re, old_im = memory.chunk(2, dim=2)  # (R, 1, M)
        first_re = re[:, :1] + decay[0] * old_re - decay[1] * old_im
        first_im = im[:, :1] + decay[0] * old_im + decay[1] * old_re
        re, im = torch.cat([first_re, re[:, 1:]], dim=1), torch.cat([first_im, im[:, 1:]], dim=1)
        return torch.cat(scan((re, im), decay), dim=2)


class StateSpaceBlock(nn.Module):
    """Gated diagonal recurrence of M modes and a perceptron, each on a normalised residual branch.

    The linear maps have no bias, the norm before has one.
    """

    def __init__(self, d_model: int, n_modes: int, d_ff: int, activation: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.enter = nn.Linear(d_model, 4 * n_modes, bias=False)
        self.diagonal = Diagonal(n_modes)
        self.leave = nn.Linear(2 * n_modes, d_model, bias=False)
        self.perceptron = Perceptron(d_model, d_ff, activation)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """x (R, S, D), memory (B, 2 M) -> x (R, S, D), next memory (R, 2 M)."""
        drive, gate = self.enter(self.norm(x)).chunk(2, dim=2)  # (R, S, 2 M) each
        hidden = self.diagonal(drive, memory)
        x = x + self.leave(hidden * nn.functional.silu(gate))
        return self.perceptron(x), hidden[:, -1]


@final
class StateSpace(ConstantStateModel, kind="ssm"):
    """Stacked gated diagonal state-space layers over integer tokens.

    The state has 2 d_state numbers a layer.

    Args:
        n_tokens, n_outputs, length: see SequenceModel.
        d_model: Width of the network.
        n_layers: Number of layers.
        d_state: Complex modes of each recurrence.
        d_ff: Width of the feed-forward layers; null means 2 d_model.
        activation: Non-linearity of the feed-forward layers: gelu, relu or silu.
        positions: Position encoding: learned, sinusoidal or grid (from the tokens' places).
        coordinates: (T, dims), the place of each token.
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
        d_model: Width = 32,
        n_layers: Depth = 2,
        d_state: Width = 16,
        d_ff: Width | None = None,
        activation: Activation = "gelu",
        positions: PositionEncoding = "learned",
        coordinates: Tensor | None = None,
        products: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n_tokens, n_outputs, length)
        d_ff = feed_forward_width(d_model, d_ff)
        check_sizes(d_model=d_model, n_layers=n_layers, d_ff=d_ff, d_state=d_state)
        self.d_state = d_state
        self.embedding = token_embedding(n_tokens, d_model, products)
        self.positions = Positions(positions, length, d_model, coordinates)
        self.blocks: Sequence[StateSpaceBlock] = nn.ModuleList(  # type: ignore[assignment]
            StateSpaceBlock(d_model, d_state, d_ff, activation) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.head = token_head(d_model, n_outputs, products)
        initialise(self, generator)
        with torch.no_grad():  # residual branches add up: keep the sum's variance (GPT-2)
            for block in self.blocks:
                block.diagonal.initialise(generator)
                block.leave.weight.mul_((2 * n_layers) ** -0.5)
                block.perceptron.contract.weight.mul_((2 * n_layers) ** -0.5)

    def carry(
        self, tokens: Tensor, memory: list[Tensor], first: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Memory is (B, 2 M) per layer."""
        x = self.positions(self.embedding(tokens), first)  # (R, S, D)
        for layer, block in enumerate(self.blocks):
            x, memory[layer] = block(x, memory[layer])
        return self.head(self.norm(x)), memory

    def start(self, n_rows: int, capacity: int) -> RecurrentState:
        """Modes at rest; `capacity` is not needed, the state does not grow."""
        weight = self.head.weight
        return RecurrentState([weight.new_zeros(n_rows, 2 * self.d_state) for _ in self.blocks], 0)
