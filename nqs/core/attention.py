"""Causal self-attention over a shared prefix and a row's own tokens, and the key/value state.

Letters: B prefixes, F branches of each, R = B F rows, S own tokens of a row, L tokens in the
prefix, H heads, d = D / H channels a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Self, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nqs.core.sequence import SequenceState

BOUNDED_SCORE = 60.0
"""Scores up to here need no subtraction of their peak: e^60 and its sums stay in float32."""


@dataclass
class KeyValueState(SequenceState):
    """Keys and values of all tokens read so far, layer by layer.

    Attributes:
        keys, values: one (B, H, C, d) tensor per layer; the first `length` of C places are filled.
        length: tokens read.
        in_place: whether C > length is room to write into (states made by `start`).
        branch: keys and values of tokens read after a shared prefix, (R, H, S, d) per layer; joined
            with the prefix only if the state is used again, so scoring branches copies nothing.
        projected: input of the first layer's attention, (B, T, C), if a whole sequence was read.
        repeated: what branches share in the first layer that repeat the sequence but for a token.
    """

    keys: list[Tensor]
    values: list[Tensor]
    length: int
    in_place: bool = False
    branch: tuple[list[Tensor], list[Tensor]] | None = field(default=None, repr=False)
    projected: Tensor | None = field(default=None, repr=False)
    repeated: Repeated | None = field(default=None, repr=False)

    @property
    def n_rows(self) -> int:
        return (self.branch[0] if self.branch else self.keys)[0].shape[0]

    def select(self, rows: Tensor) -> Self:
        state = self.joined()
        keys, values = (
            [_selected(x, rows, state.length, state.in_place) for x in kv]
            for kv in (state.keys, state.values)
        )
        repeated = None if state.repeated is None else state.repeated.select(rows)
        return type(self)(keys, values, self.length, self.in_place, repeated=repeated)

    def joined(self) -> Self:
        """This state with the shared prefix copied to each of its branches, if it has any."""
        if self.branch is None:
            return self
        pairs = ((self.keys, self.branch[0]), (self.values, self.branch[1]))
        keys, values = (
            [_join(a, b, self.length) for a, b in zip(*pair, strict=True)] for pair in pairs
        )
        return type(self)(keys, values, self.length)

    def filled(self, layer: int) -> tuple[Tensor, Tensor]:
        """Views of the filled part of one layer's keys and values, (B, H, length, d)."""
        return self.keys[layer][:, :, : self.length], self.values[layer][:, :, : self.length]


class Repeated(ABC):
    """What branches share in the first layer that repeat a sequence after one altered token."""

    @abstractmethod
    def altered_at(self, place: int) -> Repeated:
        """For branches whose altered token is the one at position `place`."""

    @abstractmethod
    def select(self, rows: Tensor) -> Repeated:
        """Rows (B',) of the sequences (B,)."""


@final
@dataclass
class RepeatedSoftmax(Repeated):
    """First layer of a whole sequence, for branches that differ from it in one token alone.

    There a branch's later queries and all its keys but one are those of the sequence. So with the
    sequence's exp(q k^T / sqrt(d)) at hand, its softmax without the altered token's key is shared
    by all branches, and a branch only mixes in the new key's value:

        mixed_j = (1 - a_j) shared_j + a_j v',    a_j = e_j / (Z_j + e_j),  e_j = exp(q_j k')

    Attributes:
        place: position of the altered token.
        queries: scaled by 1 / sqrt(d), of the positions after it, (B, H, S - 1, d).
        weights: e^score of these positions over all T, without the altered one's, causal.
        values: (B, H, T, d).
    """

    place: int
    queries: Tensor
    weights: Tensor
    values: Tensor

    @classmethod
    def of(cls, queries: Tensor, keys: Tensor, values: Tensor) -> RepeatedSoftmax | None:
        """From (B, H, T, d) each, for place 0; None where scores are too large to share them."""
        queries = queries * queries.shape[-1] ** -0.5
        if not bounded(queries, keys):
            return None
        weights = (queries @ keys.transpose(2, 3)).exp_().tril_()  # (B, H, T, T)
        return cls(-1, queries, weights, values)

    def altered_at(self, place: int) -> RepeatedSoftmax:
        assert self.place == -1
        weights = self.weights[:, :, place + 1 :].clone()
        weights[..., place] = 0
        return RepeatedSoftmax(place, self.queries[:, :, place + 1 :], weights, self.values)

    def select(self, rows: Tensor) -> RepeatedSoftmax:
        parts = (self.queries[rows], self.weights[rows], self.values[rows])
        return RepeatedSoftmax(self.place, *parts)

    def mix(self, keys: Tensor, values: Tensor) -> Tensor:
        """The altered token's keys and values (R, H, d) -> mixed later positions (R, S - 1, D)."""
        n_shared, n_heads, n_own, d_head = self.queries.shape
        n_branches = keys.shape[0] // n_shared
        by_head = keys.view(n_shared, n_branches, n_heads, d_head).transpose(1, 2)
        # (B, H, F, d) x (B, H, d, S - 1)
        e = (by_head @ self.queries.transpose(2, 3)).exp_()
        norms = self.weights.sum(-1)  # (B, H, S - 1)
        share = e.div_(norms[:, :, None] + e).permute(0, 2, 3, 1)  # (B, F, S - 1, H)
        shared = (self.weights @ self.values) / norms[..., None]
        shared = shared.transpose(1, 2).reshape(n_shared, 1, n_own, -1)  # (B, 1, S - 1, D)
        spread = torch.eye(n_heads, dtype=e.dtype, device=e.device).repeat_interleave(d_head, 1)
        weights = share.reshape(-1, n_heads) @ spread  # each head's share on all its channels
        weights = weights.view(n_shared, n_branches, n_own, -1)
        new = values.reshape(n_shared, n_branches, 1, -1)  # (B, F, 1, D)
        return torch.lerp(shared, new, weights).view(len(keys), n_own, -1)


def bounded(queries: Tensor, *keys: Tensor) -> bool:
    """Whether no product of a scaled query and a key (..., d) exceeds BOUNDED_SCORE in size."""
    longest = [torch.linalg.vector_norm(x.detach(), dim=-1).amax() for x in (queries, *keys)]
    return float(longest[0] * torch.stack(longest[1:]).amax()) < BOUNDED_SCORE


def normalised(mixed: Tensor, *weights: Tensor) -> Tensor:
    """mixed (..., S, d) over the sum of all weights (..., S, n), in float32 at least: as precise as
    torch's softmax, and on a CPU 17 times faster than a division of bfloat16 numbers."""
    wide = torch.promote_types(mixed.dtype, torch.float32)
    norms = [part.sum(-1, keepdim=True, dtype=wide) for part in weights]
    return mixed.to(wide) / sum(norms[1:], norms[0])


def _selected(x: Tensor, rows: Tensor, length: int, in_place: bool) -> Tensor:
    """Rows of the filled part of x (B, H, C, d), with as much room after it if in_place."""
    filled = x[:, :, :length]
    if not in_place:
        return filled[rows]
    selected = x.new_empty(len(rows), *x.shape[1:])  # the room is never touched: no memory yet
    torch.index_select(filled, 0, rows, out=selected[:, :, :length])
    return selected


def _join(prefix: Tensor, own: Tensor, length: int) -> Tensor:
    n_own = own.shape[2]
    shared = prefix[:, :, : length - n_own]
    return torch.cat([shared.repeat_interleave(own.shape[0] // shared.shape[0], dim=0), own], dim=2)


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, prefix: tuple[Tensor, Tensor] | None
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over the shared prefix and, causally, a row's own tokens.

    queries, keys, values (R, H, S, d); prefix keys and values (B, H, L, d) with B dividing R: row
    r sees prefix r // F. Returns (R, H, S, d).

    The prefix is used by broadcast: its scores are B H products of (F S x d) with (d x L).
    The softmax is spelled out because torch.softmax over a short last dimension costs more on CPU
    than both products together (measured 4 times the time of amax + exp + sum); the peak is only
    looked for where the lengths of queries and keys do not bound it.
    """
    n_rows, n_heads, n_own, d_head = queries.shape
    if prefix is None:
        if queries.dtype is torch.bfloat16 and queries.device.type == "cpu":
            return _attend_spelled_out(queries, keys, values)
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    n_shared = len(prefix[0])
    queries = _by_head(queries * d_head**-0.5, n_shared)  # (B H F, S, d)
    keys, values = _by_head(keys, n_shared), _by_head(values, n_shared)
    far_keys, far_values = (x.reshape(-1, *x.shape[2:]) for x in prefix)  # (B H, L, d)
    from_peak = not bounded(queries, keys, far_keys)
    mixed = _mixed(queries, keys, values, far_keys, far_values, from_peak=from_peak)
    mixed = mixed.view(n_shared, n_heads, -1, n_own, d_head).transpose(1, 2)
    return mixed.reshape(n_rows, n_heads, n_own, d_head)


def _mixed(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    far_keys: Tensor,
    far_values: Tensor,
    *,
    later: Tensor | None = None,
    from_peak: bool,
) -> Tensor:
    """Softmax attention of F branches to their prefix and, causally, to themselves.

    queries, scaled by 1 / sqrt(d), keys and values (B H F, S, d); of the prefixes (B H, L, d).
    later (S, L): what of the prefix a query must not see; None hides nothing. from_peak: whether
    scores count from the largest of each query, without which they must be `bounded`.
    """
    _, n_own, d_head = queries.shape
    n_shared, n_prefix = far_keys.shape[:2]
    # every query of a prefix's branches in one product, (B H, F S, d) x (d, L)
    far = torch.bmm(queries.reshape(n_shared, -1, d_head), far_keys.transpose(1, 2))
    far = far.view(len(queries), n_own, n_prefix)  # (B H F, S, L)
    if later is not None:
        far = far.masked_fill_(later, -torch.inf)
    hidden = queries.new_full((n_own, n_own), -torch.inf).triu(1)  # a row's own later tokens
    near = torch.baddbmm(hidden, queries, keys.transpose(1, 2))  # (B H F, S, S)
    if from_peak:
        peak = near.detach().amax(-1, keepdim=True)
        if n_prefix:
            peak = torch.maximum(peak, far.detach().amax(-1, keepdim=True))
        far, near = far.sub_(peak), near.sub_(peak)
    far, near = far.exp_(), near.exp_()
    mixed = torch.bmm(far.view(n_shared, len(queries) // n_shared * n_own, n_prefix), far_values)
    mixed = torch.baddbmm(mixed.view(-1, n_own, d_head), near, values)
    return normalised(mixed, far, near)  # (B H F, S, d)


def _attend_spelled_out(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal softmax(q k^T / sqrt(d)) v, (R, H, S, d) each, as two batched products.

    In bfloat16 on a CPU torch's fused attention is 4 times slower than this, forward and backward
    at S = 60 and 90 (AVX512-BF16); in float32 it is the faster one.
    """
    hidden = queries.new_full((queries.shape[2],) * 2, -torch.inf).triu(1)
    scores = queries * queries.shape[-1] ** -0.5 @ keys.transpose(2, 3)  # (R, H, S, S)
    return (scores + hidden).softmax(-1).to(values.dtype) @ values


def _by_head(x: Tensor, n_shared: int) -> Tensor:
    """(R, H, S, d) -> (B H F, S, d), the order in which the branches of one prefix are adjacent."""
    _, n_heads, n_own, d_head = x.shape
    x = x.view(n_shared, -1, n_heads, n_own, d_head).transpose(1, 2)
    return x.reshape(-1, n_own, d_head)


class Frozen(ABC):
    """One layer of whole sequences (B, T), to compute some of its positions again."""

    @abstractmethod
    def revised(self, projected: Tensor, places: Tensor) -> Tensor:
        """read(x) (R, S, C) of positions places (S,), ascending -> mixed there, (R, S, D).

        Row r belongs to sequence r // F; all other positions offer what they did.
        """


@final
@dataclass(frozen=True)
class FrozenSoftmax(Frozen):
    """keys, values: of the sequences, (B, H, T, d)."""

    attention: CausalSelfAttention
    keys: Tensor
    values: Tensor

    def revised(self, projected: Tensor, places: Tensor) -> Tensor:
        queries, keys, values = self.attention.split(projected)  # (R, H, S, d)
        n_shared, n_heads, _, d_head = self.keys.shape
        n_own = len(places)
        before = torch.arange(int(places[-1]), device=places.device)
        others = before[~torch.isin(before, places)]  # (L,)
        queries = _by_head(queries * d_head**-0.5, n_shared)  # (B H F, S, d)
        keys, values = _by_head(keys, n_shared), _by_head(values, n_shared)
        far_keys, far_values = (x[:, :, others].flatten(0, 1) for x in (self.keys, self.values))
        later = others > places[:, None]  # (S, L)
        mixed = _mixed(queries, keys, values, far_keys, far_values, later=later, from_peak=True)
        mixed = mixed.view(n_shared, n_heads, -1, n_own, d_head).permute(0, 2, 3, 1, 4)
        return mixed.reshape(len(projected), n_own, -1)  # (B, F, S, H, d) -> (R, S, D)


class Attention(nn.Module, ABC):
    """Mixes what positions project of themselves, causally; one of its state's layers."""

    project: nn.Linear
    """Output map, D -> D."""

    @abstractmethod
    def read(self, x: Tensor) -> Tensor:
        """What a position offers and asks for: (..., D) -> (..., C)."""

    @abstractmethod
    def forward(
        self, projected: Tensor, prefix: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """read(x) (R, S, C) -> output (R, S, D) and this layer's new keys and values.

        Keys and values (R, h, S, d) are what later positions need; `prefix` holds those of the
        positions before, (B, h, L, d).
        """

    @abstractmethod
    def empty(self, n_rows: int, capacity: int) -> tuple[Tensor, Tensor]:
        """Room for keys and values of `capacity` positions."""

    @abstractmethod
    def shared(self, projected: Tensor) -> Repeated | None:
        """From read(x) (B, T, C) of whole sequences; None where nothing can be shared."""

    @abstractmethod
    def repeat(
        self, altered: Tensor, prefix: tuple[Tensor, Tensor], repeated: Repeated
    ) -> Tensor | None:
        """read(x) (R, 1, C) of the altered token -> output (R, S, D) of it and what it repeats.

        None where the shared part cannot be used for these rows.
        """

    @abstractmethod
    def frozen(self, projected: Tensor) -> tuple[Tensor, Frozen]:
        """From read(x) (B, T, C) of whole sequences: mixed (B, T, D) and the layer to revise."""


@final
class CausalSelfAttention(Attention):
    """Multi-head causal self-attention with fused query, key and value projections."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.project = nn.Linear(d_model, d_model, bias=False)

    def read(self, x: Tensor) -> Tensor:
        """Queries, keys and values, (..., D) -> (..., 3 D)."""
        return self.qkv(x)

    def forward(
        self, projected: Tensor, prefix: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See Attention.forward; keys and values (R, H, S, d)."""
        queries, keys, values = self.split(projected)
        mixed = attend(queries, keys, values, prefix)
        mixed = mixed.transpose(1, 2).flatten(2)  # (R, H, S, d) -> (R, S, D)
        return self.project(mixed), keys, values

    def split(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(R, S, 3 D) -> queries, keys, values, each a view (R, H, S, d)."""
        d_head = self.project.in_features // self.n_heads
        qkv = projected.unflatten(2, (3, self.n_heads, d_head))
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return queries, keys, values

    def empty(self, n_rows: int, capacity: int) -> tuple[Tensor, Tensor]:
        weight = self.project.weight
        shape = (n_rows, self.n_heads, capacity, len(weight) // self.n_heads)
        return weight.new_empty(shape), weight.new_empty(shape)

    def shared(self, projected: Tensor) -> RepeatedSoftmax | None:
        queries, keys, values = (x.contiguous() for x in self.split(projected))
        return RepeatedSoftmax.of(queries, keys, values)

    def repeat(
        self, altered: Tensor, prefix: tuple[Tensor, Tensor], repeated: Repeated
    ) -> Tensor | None:
        assert isinstance(repeated, RepeatedSoftmax)
        queries, keys, values = self.split(altered)
        if not bounded(repeated.queries, keys):
            return None
        first = attend(queries, keys, values, prefix).transpose(1, 2).flatten(2)  # (R, 1, D)
        later = repeated.mix(keys.squeeze(2), values.squeeze(2))
        return self.project(torch.cat([first, later], dim=1))

    def frozen(self, projected: Tensor) -> tuple[Tensor, FrozenSoftmax]:
        queries, keys, values = self.split(projected)
        mixed = attend(queries, keys, values, None).transpose(1, 2).flatten(2)
        return mixed, FrozenSoftmax(self, keys.contiguous(), values.contiguous())
