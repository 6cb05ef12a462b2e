"""Transformer with causal linear attention: a state of constant size, as a recurrent network has.

    phi(x) = elu(x) + 1
    S_t = sum_{s <= t} phi(k_s) v_s^T,   z_t = sum_{s <= t} phi(k_s)
    mixed_t = phi(q_t)^T S_t / (phi(q_t)^T z_t)

(Katharopoulos et al., arXiv:2006.16236, equations 8 to 20), in pre-norm blocks as in `transformer`.
One token at a time that is a recurrence of H matrices (d, d + 1); a whole sequence goes in chunks
of C positions, attention within a chunk, the running sums between them: T (C + d) D operations and
memory O(T), where ordinary attention takes T^2 D.

Letters: B prefixes, F branches of each, R = B F rows, S own tokens, H heads, d = D / H.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from nqs.core.digits import token_embedding, token_head
from nqs.core.initialise import initialise
from nqs.core.perceptron import Activation, Perceptron
from nqs.core.positions import PositionEncoding, Positions
from nqs.core.recurrent import ConstantStateModel, RecurrentState
from nqs.core.sequence import Depth, Width, check_heads, check_sizes, feed_forward_width

CHUNK = 32
"""Positions whose weights are written out against each other."""


def feature_map(x: Tensor) -> Tensor:
    """elu(x) + 1 > 0, without the cancellation of exp(x) - 1 + 1 at negative x."""
    return torch.relu(x) + x.clamp(max=0).exp()


def linear_attention(
    queries: Tensor, keys: Tensor, values: Tensor, memory: Tensor, *, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Mixed values (R, H, S, d) and the next memory (R, H, d, d + 1).

    queries, keys, values (R, H, S, d), before the feature map. memory (B, H, d, d + 1) holds S and,
    as its last column, z; row r continues memory r // F.
    """
    queries, keys = feature_map(queries), feature_map(keys)
    values = nn.functional.pad(values, (0, 1), value=1.0)  # so that z is one more column of S
    mixed = []
    for begin in range(0, queries.shape[2], chunk):
        q, k, v = (x[:, :, begin : begin + chunk] for x in (queries, keys, values))
        added = k.transpose(2, 3) @ v  # (R, H, d, d + 1)
        n_shared = len(memory)
        summed = (memory[:, None] + added.unflatten(0, (n_shared, -1))).flatten(0, 1)
        if q.shape[2] == 1:
            sums = q @ summed  # (R, H, 1, d + 1)
        else:
            by_prefix = q.unflatten(0, (n_shared, -1)).transpose(1, 2).flatten(2, 3)
            far = by_prefix @ memory  # (B, H, F C, d + 1)
            far = far.unflatten(2, (-1, q.shape[2])).transpose(1, 2).flatten(0, 1)
            sums = far + (q @ k.transpose(2, 3)).tril() @ v  # (R, H, C, d + 1)
        mixed.append(sums[..., :-1] / sums[..., -1:].clamp(min=torch.finfo(sums.dtype).tiny))
        memory = summed
    return torch.cat(mixed, dim=2) if len(mixed) > 1 else mixed[0], memory


class LinearAttention(nn.Module):
    """Multi-head linear attention with fused query, key and value projections."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.project = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """x (R, S, D), memory (B, H, d, d + 1) -> mixed (R, S, D), next memory (R, H, d, d + 1)."""
        qkv = self.qkv(x).unflatten(2, (3, self.n_heads, -1))
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (R, H, S, d)
        mixed, memory = linear_attention(queries, keys, values, memory)
        return self.project(mixed.transpose(1, 2).flatten(2)), memory


class LinearBlock(nn.Module):
    """Linear attention and a perceptron, each on a normalised residual branch."""

    def __init__(self, d_model: int, n_heads: int, d_ff: int, activation: str) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(d_model)
        self.attention = LinearAttention(d_model, n_heads)
        self.perceptron = Perceptron(d_model, d_ff, activation)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """x (R, S, D), memory (B, H, d, d + 1) -> x, next memory (R, H, d, d + 1)."""
        mixed, memory = self.attention(self.norm_attention(x), memory)
        return self.perceptron(x + mixed), memory


@final
class LinearTransformer(ConstantStateModel, kind="linear_attention"):
    """Causal transformer with linear attention over integer tokens.

    The state has D (D / n_heads + 1) numbers a layer.

    Args:
        n_tokens, n_outputs, length: see SequenceModel.
        d_model: Width of the network; a multiple of n_heads.
        n_layers: Number of layers.
        n_heads: Attention heads; must divide d_model.
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
        n_heads: Width = 4,
        d_ff: Width | None = None,
        activation: Activation = "gelu",
        positions: PositionEncoding = "learned",
        coordinates: Tensor | None = None,
        products: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n_tokens, n_outputs, length)
        d_ff = feed_forward_width(d_model, d_ff)
        check_sizes(d_model=d_model, n_layers=n_layers, d_ff=d_ff, n_heads=n_heads)
        self.check_keys(d_model=d_model, n_heads=n_heads)
        self.d_model, self.n_heads = d_model, n_heads
        self.embedding = token_embedding(n_tokens, d_model, products)
        self.positions = Positions(positions, length, d_model, coordinates)
        self.blocks: Sequence[LinearBlock] = nn.ModuleList(  # type: ignore[assignment]
            LinearBlock(d_model, n_heads, d_ff, activation) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.head = token_head(d_model, n_outputs, products)
        initialise(self, generator)
        with torch.no_grad():  # residual branches add up: keep the sum's variance (GPT-2)
            for block in self.blocks:
                block.attention.project.weight.mul_((2 * n_layers) ** -0.5)
                block.perceptron.contract.weight.mul_((2 * n_layers) ** -0.5)

    @staticmethod
    def check_keys(*, d_model: int, n_heads: int, **_: object) -> None:
        """Raises ValueError unless the heads divide the width."""
        check_heads(d_model, n_heads)

    def carry(
        self, tokens: Tensor, memory: list[Tensor], first: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Memory is (B, H, d, d + 1) per layer."""
        x = self.positions(self.embedding(tokens), first)  # (R, S, D)
        for layer, block in enumerate(self.blocks):
            x, memory[layer] = block(x, memory[layer])
        return self.head(self.norm(x)), memory

    def start(self, n_rows: int, capacity: int) -> RecurrentState:
        """Sums of nothing; `capacity` is not needed, the state does not grow."""
        d_head = self.d_model // self.n_heads
        shape = (n_rows, self.n_heads, d_head, d_head + 1)
        return RecurrentState([self.head.weight.new_zeros(shape) for _ in self.blocks], 0)
