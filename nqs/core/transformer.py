"""Decoder-only transformer with pre-normalisation and a resumable key/value state.

x <- x + Attention(LayerNorm(x)),  x <- x + W2 gelu(W1 LayerNorm(x)),  logits = W LayerNorm(x) + b
(Vaswani et al., arXiv:1706.03762; pre-norm as in GPT-2).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, final, get_args

import torch
from torch import Tensor, nn

from nqs.core.attention import (
    Attention,
    CausalSelfAttention,
    Frozen,
    KeyValueState,
    Repeated,
)
from nqs.core.digits import token_embedding, token_head
from nqs.core.factored import FactoredAttention
from nqs.core.initialise import initialise
from nqs.core.native.branches import BranchScorer
from nqs.core.native.network import STEPS, OutputTables, obstacle
from nqs.core.native.steps import Stepper, StepState
from nqs.core.perceptron import Activation, Perceptron
from nqs.core.positions import PositionEncoding, Positions
from nqs.core.sequence import (
    Depth,
    EmbeddingModel,
    Reading,
    SequenceState,
    Width,
    check_continuation,
    check_heads,
    check_sizes,
    feed_forward_width,
)

AttentionKind = Literal["factored", "softmax"]
POINTWISE = 400
"""What is no product of a block and channel, as long as so many multiplications: norms, activations
and mixing. Measured at D = 32 on a CPU with AVX-512: 2.4 ms of 3.5 ms for 4096 tokens."""
EXPONENTIAL = 90
"""The same of a logit, from seconds a step of 12x12 atoms with 2x2, 3x2 and 4x2 patches: 1 : 0.73 :
0.87."""


class TransformerBlock(nn.Module):
    """Attention and a two-layer perceptron of width d_ff, each on a normalised residual branch."""

    def __init__(
        self,
        attention: Attention,
        d_model: int,
        d_ff: int,
        activation: str,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(d_model)
        self.attention = attention
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.perceptron = Perceptron(d_model, d_ff, activation, dropout)

    def forward(
        self, x: Tensor, projected: Tensor, prefix: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (R, S, D) and read(x) (R, S, C) -> x, keys and values for the state."""
        mixed, keys, values = self.attention(projected, prefix)
        return self.perceptron(x + self.dropout(mixed)), keys, values

    def read(self, x: Tensor) -> Tensor:
        """What the attention reads of the normalised input, (..., D) -> (..., C)."""
        return self.attention.read(self.norm_attention(x))


@final
class Transformer(EmbeddingModel, kind="ptf"):
    """Causal transformer over integer tokens.

    Args:
        n_tokens, n_outputs, length: see SequenceModel.
        d_model: Width of the network; a multiple of n_heads.
        n_layers: Number of layers.
        n_heads: Attention heads; must divide d_model.
        d_ff: Width of the feed-forward layers; null means 2 d_model.
        attention: What decides where to look: factored (learned for each pair of places; also null)
            or softmax (of queries and keys).
        activation: Non-linearity of the feed-forward layers: gelu, relu or silu.
        positions: Position encoding: learned, sinusoidal or grid (from the tokens' places).
        dropout: Share of what each branch adds that training leaves out, in [0, 1): against
            learning few examples by heart.
        coordinates: (T, dims), the place of each token; its index by default.
        products: of the tokens' digits, (K, F), for vectors and logits made of them
            (`nqs.core.digits`); None: tables of all tokens.
        writes_tokens: whether outputs are numbers of each token, not channels of a context.
        generator: source of the initial parameters.
    """

    constant_state: ClassVar[bool] = False

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
        attention: AttentionKind | None = "factored",
        activation: Activation = "gelu",
        positions: PositionEncoding = "learned",
        dropout: float = 0.0,
        coordinates: Tensor | None = None,
        products: Tensor | None = None,
        writes_tokens: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n_tokens, n_outputs, length)
        d_ff = feed_forward_width(d_model, d_ff)
        check_sizes(d_model=d_model, n_layers=n_layers, d_ff=d_ff, n_heads=n_heads)
        self.check_keys(d_model=d_model, n_heads=n_heads, dropout=dropout)
        if attention not in (None, *get_args(AttentionKind)):
            allowed = ", ".join(get_args(AttentionKind))
            raise ValueError(f"attention={attention!r} is unknown; allowed: {allowed}")
        self.d_model, self.n_heads = d_model, n_heads
        self.embedding = token_embedding(n_tokens, d_model, products)
        self.positions = Positions(positions, length, d_model, coordinates)
        self.blocks: Sequence[TransformerBlock] = nn.ModuleList(  # type: ignore[assignment]
            TransformerBlock(
                CausalSelfAttention(d_model, n_heads)
                if attention == "softmax"
                else FactoredAttention(d_model, n_heads, length, coordinates),
                d_model,
                d_ff,
                activation,
                dropout,
            )
            for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.head = token_head(d_model, n_outputs, products if writes_tokens else None)
        initialise(self, generator)
        with torch.no_grad():  # residual branches add up: keep the sum's variance (GPT-2)
            for block in self.blocks:
                block.attention.project.weight.mul_((2 * n_layers) ** -0.5)
                block.perceptron.contract.weight.mul_((2 * n_layers) ** -0.5)

    @staticmethod
    def check_keys(*, d_model: int, n_heads: int, dropout: float = 0.0, **_: object) -> None:
        """Raises ValueError unless the heads divide the width and dropout is in [0, 1)."""
        check_heads(d_model, n_heads)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must be in [0, 1)")

    @classmethod
    def token_cost(cls, n_outputs: int, keys: Mapping[str, Any]) -> float:
        """L (2 D^2 + 2 D F + c D) + K (D + s), F the width of the perceptrons."""
        d_model, d_ff = keys["d_model"], feed_forward_width(keys["d_model"], keys["d_ff"])
        body = keys["n_layers"] * d_model * (2 * d_model + 2 * d_ff + POINTWISE)
        return float(body + n_outputs * (d_model + EXPONENTIAL))

    def forward(
        self, tokens: Tensor, state: SequenceState | None = None
    ) -> tuple[Tensor, KeyValueState]:
        """See SequenceModel.forward."""
        state, start = self._continued(tokens, state)
        if state is not None and state.repeated is not None:
            x = _looked_up(self._vectors(tokens.shape[1], start), tokens)  # (R, S, D)
            return self._repeating(x, state, state.repeated)
        return self._run(*self._embedded(tokens, start), state)

    def read(
        self, embedded: Tensor, state: SequenceState | None = None
    ) -> tuple[Tensor, KeyValueState]:
        """See EmbeddingModel.read; E = D."""
        state, start = self._continued(embedded, state)
        x = self.positions(embedded, start)
        if state is not None and state.repeated is not None:
            return self._repeating(x, state, state.repeated)
        return self._run(x, self.blocks[0].read(x), state)

    def _continued(
        self, inputs: Tensor, state: SequenceState | None
    ) -> tuple[KeyValueState | None, int]:
        """The state with its branches joined, the position of the first of inputs (R, S, ...)."""
        if state is not None:
            assert isinstance(state, KeyValueState)
            state = state.joined()
        return state, check_continuation(self, inputs, state)

    def _run(
        self, x: Tensor, projected: Tensor, state: KeyValueState | None
    ) -> tuple[Tensor, KeyValueState]:
        """Logits and the next state of inputs x (R, S, D), projected (R, S, C) for block 0."""
        keys, values, first = [], [], None
        for layer, block in enumerate(self.blocks):
            prefix = state.filled(layer) if state is not None and state.length > 0 else None
            projected = projected if layer == 0 else block.read(x)
            x, new_keys, new_values = block(x, projected, prefix)
            keys.append(new_keys)
            values.append(new_values)
            if layer == 0 and state is None and not torch.is_grad_enabled():
                first = projected
        extended = _extended(state, keys, values)
        extended.projected = first
        return self.head(self.norm(x)), extended

    def _repeating(
        self, x: Tensor, state: KeyValueState, repeated: Repeated
    ) -> tuple[Tensor, KeyValueState]:
        """Branches x (R, S, D) that repeat a sequence after their first input (see `prefix`)."""
        start, n_own = state.length, x.shape[1]
        first = self.blocks[0]
        mixed = first.attention.repeat(first.read(x[:, :1]), state.filled(0), repeated)
        if mixed is None:
            return self._run(x, first.read(x), dataclasses.replace(state, repeated=None))
        x = first.perceptron(x + mixed)
        for layer, block in enumerate(self.blocks[1:], start=1):
            x, _, _ = block(x, block.read(x), state.filled(layer))
        return self.head(self.norm(x)), KeyValueState([], [], start + n_own)

    def _embedded(self, tokens: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Input x (R, S, D) of the first block and its projection (R, S, C).

        Both depend on token and position alone, so without gradients and with more rows than
        tokens in the vocabulary each pair is projected once and looked up.
        """
        first = self.blocks[0]
        if torch.is_grad_enabled() or tokens.shape[0] <= self.vocab_size:
            x = self.positions(self.embedding(tokens), start)
            return x, first.read(x)
        vectors = self._vectors(tokens.shape[1], start)
        both = _looked_up(torch.cat([vectors, first.read(vectors)], dim=-1), tokens)
        return both[..., : self.d_model], both[..., self.d_model :]  # (R, S, D), (R, S, C)

    def _vectors(self, n_own: int, start: int) -> Tensor:
        """Inputs of the first block for every token at every position from start, (V, S, D)."""
        every = self.embedding.weight[:, None].expand(-1, n_own, -1)
        return self.positions(every, start)

    @torch.no_grad()
    def whole(self, tokens: Tensor) -> TransformerReading:
        """See SequenceModel.whole."""
        check_continuation(self, tokens, None)
        x, projected = self._embedded(tokens, 0)
        layers = []
        for layer, block in enumerate(self.blocks):
            mixed, frozen = block.attention.frozen(projected if layer == 0 else block.read(x))
            x = block.perceptron(x + block.attention.project(mixed))
            layers.append(frozen)
        return TransformerReading(self, layers, self.head(self.norm(x)))

    def branch_obstacle(self) -> str | None:
        """See SequenceModel.branch_obstacle."""
        return obstacle(self)

    def branch_scorer(self) -> BranchScorer:
        """See SequenceModel.branch_scorer."""
        return BranchScorer(self)

    def compiled_start(self, tables: OutputTables, n_rows: int) -> StepState | None:
        """See SequenceModel.compiled_start."""
        if obstacle(self, STEPS) is not None:
            return None
        return Stepper(self, tables).start(n_rows)

    def start(self, n_rows: int, capacity: int) -> KeyValueState:
        """Empty keys and values for n_rows sequences, written in place by forward."""
        pairs = [block.attention.empty(n_rows, capacity) for block in self.blocks]
        return KeyValueState([k for k, _ in pairs], [v for _, v in pairs], 0, in_place=True)

    def prefix(self, state: SequenceState, length: int, *, repeats: bool = False) -> KeyValueState:
        """See SequenceModel.prefix; shares memory with `state`."""
        assert isinstance(state, KeyValueState)
        if not 0 <= length <= state.length:
            raise ValueError(f"prefix length {length} is outside 0..{state.length}")
        state = state.joined()
        prefix = KeyValueState(state.keys, state.values, length)
        if repeats and state.projected is not None and length > 0:
            if state.repeated is None:
                state.repeated = self.blocks[0].attention.shared(state.projected)
            if state.repeated is not None:
                prefix.repeated = state.repeated.altered_at(length)
        return prefix


@final
class TransformerReading(Reading):
    """Keys and values, or sums, of each layer (see nqs.core.attention.Frozen)."""

    def __init__(self, model: Transformer, layers: list[Frozen], logits: Tensor) -> None:
        self._model, self._layers, self.logits = model, layers, logits

    @torch.no_grad()
    def revised(self, tokens: Tensor, places: Tensor) -> Tensor:
        """See Reading.revised."""
        model = self._model
        x = model.positions.at(model.embedding(tokens), places)  # (R, S, D)
        for block, frozen in zip(model.blocks, self._layers, strict=True):
            mixed = frozen.revised(block.read(x), places)
            x = block.perceptron(x + block.attention.project(mixed))
        return model.head(model.norm(x))


def _looked_up(table: Tensor, tokens: Tensor) -> Tensor:
    """What a table (V, S, C) holds of each token at its place: tokens (R, S) -> (R, S, C)."""
    n_own = tokens.shape[1]
    rows = tokens * n_own + torch.arange(n_own, device=tokens.device)
    return nn.functional.embedding(rows, table.flatten(0, 1))


def _extended(
    state: KeyValueState | None, keys: list[Tensor], values: list[Tensor]
) -> KeyValueState:
    """The state after appending one forward pass's keys and values (R, H, S, d) per layer."""
    n_own = keys[0].shape[2]
    if state is None:  # contiguous, since branches will multiply with them again and again
        return KeyValueState(
            [k.contiguous() for k in keys], [v.contiguous() for v in values], n_own
        )
    end = state.length + n_own
    if state.in_place and keys[0].shape[0] == state.keys[0].shape[0]:
        capacity = state.keys[0].shape[2]
        if end > capacity:  # a slice beyond it is empty, and assigning one token to it is no error
            raise ValueError(f"a state with room for {capacity} tokens cannot hold {end}")
        for cache, new in zip(state.keys + state.values, keys + values, strict=True):
            cache[:, :, state.length : end] = new
        return KeyValueState(state.keys, state.values, end, in_place=True)
    return KeyValueState(state.keys, state.values, end, branch=(keys, values))
