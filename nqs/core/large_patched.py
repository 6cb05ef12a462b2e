"""Large patches: one sequence model over groups of tokens, another over the tokens in each group.

The T groups (large patches) hold S_0, S_1, ... tokens. The large model reads a start vector and the
large patches so far, each as the sum of its tokens' embeddings (one table over place and token: a
4x4 patch has 2^16 states, its four 2x2 tokens only 4 x 16 rows). Its output at a large patch is not
logits but a context, with which the sub-sampler begins: it stands where the start token's embedding
would, be the sub-sampler a transformer or a recurrent network (whose hidden state it thus sets),
and the sub-sampler's logits are those of the tokens:

    c_t = large(start, x_0, ..., x_{t-1}),    x_t = sum_s E[s, token_ts]
    p(token_ts | all before) = softmax sub(c_t, token_t0, ..., token_t,s-1)

(Sprague & Czischek, Commun. Phys. 7, 90 (2024), arXiv:2306.03921; in language Yu et al.,
arXiv:2305.07185.) Attention is over T positions instead of all M = sum_t S_t tokens.

Letters: R rows, T large patches, S tokens in the largest, M tokens in all, K token values, n large
patches opened at a time, E width of a context (the sub-sampler's inputs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, final

import torch
from torch import Tensor

from nqs.core.digits import DigitEmbedding, DigitHead
from nqs.core.head import Head
from nqs.core.perceptron import Activation
from nqs.core.positions import PositionEncoding
from nqs.core.recurrent import CellKind, Recurrent
from nqs.core.sequence import (
    Depth,
    EmbeddingModel,
    SequenceModel,
    SequenceState,
    Width,
    check_continuation,
    check_heads,
    check_sizes,
)
from nqs.core.transformer import AttentionKind, Transformer

SubPatch = Annotated[str | int | tuple[tuple[int, ...], ...], "0 .. 32768"]
"""What a token is within its group, as whoever makes groups and tokens reads it."""
MOST_ROWS = 32_768
"""Rows of one launch of the sub-sampler; fused attention on GPUs fails from 65 536 on."""


@dataclass
class LargePatchedState(SequenceState):
    """What was read, and where both models stand; B rows.

    Branches of a large patch share what was before it: contexts and large may have B / F rows, row
    r belonging to r // F.

    Attributes:
        tokens: (B, length - 1), all tokens read after the start token.
        length: tokens read, start token included.
        contexts: (B, n, E) of the last large patches opened; the last row is the current one's.
        large: state of the large model, None before the start.
        sub: state of the sub-sampler in the current large patch, None if it has yet to be read.
    """

    tokens: Tensor
    length: int
    contexts: Tensor
    large: SequenceState | None
    sub: SequenceState | None

    @property
    def n_rows(self) -> int:
        return self.tokens.shape[0]

    def select(self, rows: Tensor) -> Self:
        large, sub = self.large, self.sub
        if large is not None:
            large = large.select(rows // (self.n_rows // large.n_rows))
        if sub is not None:
            sub = sub.select(rows)
        contexts = self.contexts[rows // (self.n_rows // len(self.contexts))]
        return type(self)(self.tokens[rows], self.length, contexts, large, sub)


class LargePatched(SequenceModel):
    """Sequence model over tokens in groups; token K starts the sequence.

    Args:
        large: model with vocab_size = S K + 1, n_outputs = E and max_length >= T.
        sub: model with vocab_size = K, max_length >= S; n_outputs is K or whatever is wanted of
            each token; E is the width of its embedding.
        lengths: number of tokens in each large patch.

    Raises ValueError if these sizes do not fit.
    """

    groups_tokens: ClassVar[bool] = True
    places: Tensor
    present: Tensor
    offsets: Tensor

    def __init__(self, large: EmbeddingModel, sub: EmbeddingModel, lengths: Sequence[int]) -> None:
        if len(lengths) == 0:
            raise ValueError("lengths is empty; give the number of tokens in each large patch")
        for length in lengths:
            check_sizes(length=length)
        super().__init__(sub.vocab_size + 1, sub.n_outputs, sum(lengths))
        n_states, longest, width = sub.vocab_size, max(lengths), sub.embedding.embedding_dim
        wanted = (longest * n_states + 1, width)
        if (large.vocab_size, large.n_outputs) != wanted:
            raise ValueError(
                f"the large model reads {large.vocab_size} tokens and writes {large.n_outputs}, "
                f"the sub-sampler reads {sub.vocab_size}; large patches of up to {longest} tokens "
                f"of {n_states} values need {wanted[0]} and {wanted[1]}"
            )
        for name, model, needed in (("large", large, len(lengths)), ("sub", sub, longest)):
            if model.max_length < needed:
                raise ValueError(f"{name}: max_length={model.max_length} is below {needed}")
        self.large, self.sub = large, sub
        self.lengths = tuple(lengths)
        self.begins = [sum(lengths[:t]) for t in range(len(lengths))]
        self.patch_of = [t for t, length in enumerate(lengths) for _ in range(length)]
        steps = torch.arange(longest)
        places = torch.tensor(self.begins)[:, None] + steps  # (T, S)
        present = steps < torch.tensor(self.lengths)[:, None]
        self.register_buffer("places", places.clamp(max=self.max_length - 1), persistent=False)
        # what the large model reads at position t is patch t - 1, and at 0 the start alone
        self.register_buffer("present", torch.cat([steps[None] == 0, present]), persistent=False)
        self.register_buffer("offsets", steps * n_states, persistent=False)
        with torch.no_grad():  # the sum over a patch has the variance of one embedding
            vectors = large.embedding
            learned = vectors.learned if isinstance(vectors, DigitEmbedding) else vectors.weight
            learned[:-1].mul_(longest**-0.5)

    @classmethod
    def over(cls, sub: EmbeddingModel, lengths: Sequence[int], **keys: Any) -> Self:
        """A transformer, with keys of its constructor, over large patches that `sub` draws."""
        size = (max(lengths) * sub.vocab_size + 1, sub.embedding.embedding_dim, len(lengths))
        return cls(Transformer(*size, writes_tokens=False, **keys), sub, lengths)

    @property
    def head(self) -> Head | DigitHead:  # type: ignore[override]
        """The sub-sampler's."""
        return self.sub.head

    def forward(
        self, tokens: Tensor, state: SequenceState | None = None
    ) -> tuple[Tensor, LargePatchedState]:
        """See SequenceModel.forward."""
        first = check_continuation(self, tokens, state)
        n_rows, end = len(tokens), first + tokens.shape[1]
        if state is None:
            state = self.start(n_rows, 0)
            state.large = None
        assert isinstance(state, LargePatchedState)
        known = _branched(state.tokens, n_rows)
        known = torch.cat([known, tokens if first > 0 else tokens[:, 1:]], dim=1)  # (R, end - 1)
        pieces, n_within = [], 0
        contexts, large, sub = state.contexts, state.large, None
        if first > 0:  # the rest of the large patch in which the state stands
            patch = self.patch_of[first - 1]
            n_within = min(self.begins[patch] + self.lengths[patch], end) - first
            if n_within > 0:
                logits, sub = self.sub(tokens[:, :n_within], self._standing(state))
                pieces.append(logits)
        if first + n_within < end:
            patches = range(self.patch_of[first + n_within], self.patch_of[end - 1] + 1)
            contexts, large = self.large.read(self._large_inputs(known, patches), large)
            logits, sub = self._opened(contexts, known, patches, end)
            pieces.append(logits)
        logits = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
        return logits, LargePatchedState(known, end, contexts, large, sub)

    def _large_inputs(self, known: Tensor, patches: range) -> Tensor:
        """What the large model reads to open `patches`: known tokens (R, .) -> (R, n, E_large)."""
        part = slice(patches.start, patches.stop)
        last = torch.arange(patches.start - 1, patches.stop - 1, device=self.places.device)
        before = self.places[last.clamp(min=0)]  # (n, S)
        if known.shape[1]:
            rows = known[:, before.clamp(max=known.shape[1] - 1)] + self.offsets  # (R, n, S)
        else:
            rows = self.offsets.expand(len(known), *before.shape).clone()
        if patches.start == 0:
            rows[:, 0] = self.large.vocab_size - 1
        present = self.present[part, :, None].to(self.head.weight.dtype)
        return (self.large.embedding(rows) * present).sum(2)

    def _opened(
        self, contexts: Tensor, known: Tensor, patches: range, end: int
    ) -> tuple[Tensor, SequenceState | None]:
        """Logits (R, m, K) of the tokens of `patches` before `end`, from contexts (R, n, E).

        All patches as rows of one launch, as long as the longest; what is past a patch's end is cut
        off. Launches are cut between patches, so that each has the same rows in the same order. The
        sub-sampler's state comes with a single patch only.
        """
        n_rows, n_patches, _ = contexts.shape
        needed = [min(end - self.begins[t], self.lengths[t]) for t in patches]
        inputs = contexts[:, :, None]  # (R, n, 1, E)
        if max(needed) > 1:
            places = self.places[patches.start : patches.stop, : max(needed) - 1]
            read = known[:, places.clamp(max=known.shape[1] - 1)]
            inputs = torch.cat([inputs, self.sub.embedding(read)], dim=2)  # (R, n, S, E)
        logits, states = [], []
        for some in inputs.split(max(1, MOST_ROWS // max(1, n_rows)), dim=1):
            found, state = self.sub.read(some.flatten(0, 1))
            logits.append(found.view(*some.shape[:3], -1))
            states.append(state)
        joined = torch.cat(logits, dim=1) if len(logits) > 1 else logits[0]
        if min(needed) < max(needed):
            chosen = [(i, s) for i, length in enumerate(needed) for s in range(length)]
            of, step = torch.tensor(chosen, device=contexts.device).unbind(1)
            return joined[:, of, step], None
        return joined.flatten(1, 2), states[0] if n_patches == 1 else None

    def _standing(self, state: LargePatchedState) -> SequenceState:
        """The sub-sampler's state in the current large patch."""
        if state.sub is not None:
            return state.sub
        patch = self.patch_of[state.length - 1]
        own = self.sub.embedding(state.tokens[:, self.begins[patch] :])
        context = _branched(state.contexts[:, -1:], state.n_rows)
        return self.sub.read(torch.cat([context, own], dim=1))[1]

    def start(self, n_rows: int, capacity: int) -> LargePatchedState:
        """Nothing read; the large model's state has room for all large patches."""
        weight = self.head.weight
        return LargePatchedState(
            tokens=torch.empty(n_rows, 0, dtype=torch.int64, device=weight.device),
            length=0,
            contexts=weight.new_empty(n_rows, 0, self.large.n_outputs),
            large=self.large.start(n_rows, len(self.lengths) if capacity else 0),
            sub=None,
        )

    def prefix(
        self, state: SequenceState, length: int, *, repeats: bool = False
    ) -> LargePatchedState:
        """See SequenceModel.prefix; the sub-sampler reads the current large patch once more.

        What a large model of constant state, or a state that was continued, no longer holds of the
        large patches is read once more as well.
        """
        assert isinstance(state, LargePatchedState)
        if not 0 <= length <= state.length:
            raise ValueError(f"prefix length {length} is outside 0..{state.length}")
        if length == 0:
            prefix = self.start(state.n_rows, 0)
            prefix.large = None
            return prefix
        patch, last = self.patch_of[length - 1], self.patch_of[state.length - 1]
        tokens, held = state.tokens[:, : length - 1], patch - last - 1  # counted from the end
        if self.large.constant_state or -held > state.contexts.shape[1]:
            inputs = self._large_inputs(tokens, range(patch + 1))
            contexts, large = self.large.read(inputs)
            contexts = contexts[:, -1:]
        else:
            assert state.large is not None
            contexts = state.contexts[:, held, None]
            # branches that differ in one token differ in one large patch; a gain if more follow
            repeats = repeats and patch < last - 1
            large = self.large.prefix(state.large, patch + 1, repeats=repeats)
        prefix = LargePatchedState(tokens, length, contexts, large, None)
        prefix.sub = self._standing(prefix)
        return prefix


@final
class LargePatchedRecurrent(LargePatched, kind="lptf"):
    """A transformer over large patches, within each of which a recurrent network draws tokens.

    Args:
        sub_patch: Sites of a large patch that its sub-sampler draws at once, written as patch.
        d_model: Width of the transformer; a multiple of n_heads.
        n_layers: Number of layers.
        n_heads: Attention heads; must divide d_model.
        d_ff: Width of the feed-forward layers; null means 2 d_model.
        attention: What decides where to look: factored (learned for each pair of places; also null)
            or softmax (of queries and keys).
        activation: Non-linearity of the feed-forward layers: gelu, relu or silu.
        positions: Position encoding: learned, sinusoidal or grid (from the large patches' centres).
        sub_d_model: Width of the sub-sampler.
        sub_n_layers: Number of layers of the sub-sampler.
        sub_cell: Recurrent cell of the sub-sampler: gru, lstm or elman.
    """

    @classmethod
    def from_keys(
        cls,
        n_tokens: int,
        n_outputs: int,
        lengths: Sequence[int],
        *,
        sub_patch: SubPatch = "auto",
        d_model: Width = 32,
        n_layers: Depth = 2,
        n_heads: Width = 4,
        d_ff: Width | None = None,
        attention: AttentionKind | None = "factored",
        activation: Activation = "gelu",
        positions: PositionEncoding = "learned",
        sub_d_model: Width = 32,
        sub_n_layers: Depth = 1,
        sub_cell: CellKind = "gru",
        coordinates: Tensor | None = None,
        products: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Self:
        """From its keys and what is supplied; coordinates are those of the large patches."""
        sub = Recurrent(
            n_tokens - 1,
            n_outputs,
            max(lengths),
            d_model=sub_d_model,
            n_layers=sub_n_layers,
            cell=sub_cell,
            products=products,
            generator=generator,
        )
        return cls.over(
            sub,
            lengths,
            d_model=d_model,
            n_layers=n_layers,
            n_heads=n_heads,
            d_ff=d_ff,
            attention=attention,
            activation=activation,
            positions=positions,
            coordinates=coordinates,
            products=products,
            generator=generator,
        )

    @staticmethod
    def check_keys(*, d_model: int, n_heads: int, **_: object) -> None:
        """Raises ValueError unless the heads divide the width."""
        check_heads(d_model, n_heads)


@final
class LargePatchedTransformer(LargePatched, kind="lptf_ptf"):
    """A transformer over large patches, within each of which another one draws tokens.

    Args:
        sub_patch: Sites of a large patch that its sub-sampler draws at once, written as patch.
        d_model: Width of the outer transformer; a multiple of n_heads.
        n_layers: Number of layers.
        n_heads: Attention heads; must divide d_model.
        d_ff: Width of the feed-forward layers; null means 2 d_model.
        attention: What decides where to look: factored (learned for each pair of places; also null)
            or softmax (of queries and keys).
        activation: Non-linearity of the feed-forward layers: gelu, relu or silu.
        positions: Position encoding: learned, sinusoidal or grid (from the large patches' centres).
        sub_d_model: Width of the sub-sampler; a multiple of sub_n_heads.
        sub_n_layers: Number of layers of the sub-sampler.
        sub_n_heads: Attention heads of the sub-sampler; must divide sub_d_model.
    """

    @classmethod
    def from_keys(
        cls,
        n_tokens: int,
        n_outputs: int,
        lengths: Sequence[int],
        *,
        sub_patch: SubPatch = "auto",
        d_model: Width = 32,
        n_layers: Depth = 2,
        n_heads: Width = 4,
        d_ff: Width | None = None,
        attention: AttentionKind | None = "factored",
        activation: Activation = "gelu",
        positions: PositionEncoding = "learned",
        sub_d_model: Width = 32,
        sub_n_layers: Depth = 1,
        sub_n_heads: Width = 4,
        coordinates: Tensor | None = None,
        products: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Self:
        """From its keys and what is supplied; coordinates are those of the large patches.

        The sub-sampler attends by softmax of queries and keys.
        """
        sub = Transformer(
            n_tokens - 1,
            n_outputs,
            max(lengths),
            d_model=sub_d_model,
            n_layers=sub_n_layers,
            n_heads=sub_n_heads,
            attention="softmax",
            activation=activation,
            products=products,
            generator=generator,
        )
        return cls.over(
            sub,
            lengths,
            d_model=d_model,
            n_layers=n_layers,
            n_heads=n_heads,
            d_ff=d_ff,
            attention=attention,
            activation=activation,
            positions=positions,
            coordinates=coordinates,
            products=products,
            generator=generator,
        )

    @staticmethod
    def check_keys(
        *, d_model: int, n_heads: int, sub_d_model: int, sub_n_heads: int, **_: object
    ) -> None:
        """Raises ValueError unless the heads divide the widths."""
        check_heads(d_model, n_heads)
        check_heads(sub_d_model, sub_n_heads, "sub_")


def _branched(x: Tensor, n_rows: int) -> Tensor:
    """(B, ...) -> (R, ...) with R = B F, each row F times."""
    return x if len(x) == n_rows else x.repeat_interleave(n_rows // len(x), dim=0)
