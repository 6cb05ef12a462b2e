"""Causal self-attention over a shared prefix and a row's own tokens, and the key/value state.

Letters: B prefixes, F branches of each, R = B F rows, S own tokens of a row, L tokens in the
prefix, H heads, d = D / H channels a head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nqs.core.sequence import SequenceState


@dataclass
class KeyValueState(SequenceState):
    """Keys and values of all tokens read so far, layer by layer.

    Attributes:
        keys, values: one (B, H, C, d) tensor per layer; the first `length` of C places are filled.
        length: tokens read.
        in_place: whether C > length is room to write into (states made by `start`).
        branch: keys and values of tokens read after a shared prefix, (R, H, S, d) per layer; joined
            with the prefix only if the state is used again, so scoring branches copies nothing.
    """

    keys: list[Tensor]
    values: list[Tensor]
    length: int
    in_place: bool = False
    branch: tuple[list[Tensor], list[Tensor]] | None = field(default=None, repr=False)

    @property
    def n_rows(self) -> int:
        return (self.branch[0] if self.branch else self.keys)[0].shape[0]

    def select(self, rows: Tensor) -> Self:
        state = self.joined()
        room = None if state.in_place else state.length
        keys, values = ([x[:, :, :room][rows] for x in kv] for kv in (state.keys, state.values))
        return type(self)(keys, values, self.length, self.in_place)

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
    than both products together (measured 4 times the time of amax + exp + sum).
    """
    n_rows, n_heads, n_own, d_head = queries.shape
    if prefix is None:
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    shared_keys, shared_values = prefix
    n_shared, n_prefix = shared_keys.shape[0], shared_keys.shape[2]
    n_branches = n_rows // n_shared
    queries = _by_head(queries * d_head**-0.5, n_shared)  # (B H F, S, d)
    keys, values = _by_head(keys, n_shared), _by_head(values, n_shared)
    shared_keys = shared_keys.reshape(-1, n_prefix, d_head)  # (B H, L, d)
    shared_values = shared_values.reshape(-1, n_prefix, d_head)
    # every query of a prefix's branches in one product, (B H, F S, d) x (d, L)
    far = torch.bmm(queries.view(len(shared_keys), -1, d_head), shared_keys.transpose(1, 2))
    hidden = queries.new_full((n_own, n_own), -torch.inf).triu(1)  # a row's own later tokens
    near = torch.baddbmm(hidden, queries, keys.transpose(1, 2))  # (B H F, S, S)
    far = far.view(-1, n_own, n_prefix)  # (B H F, S, L)
    peak = torch.maximum(far.detach().amax(-1, keepdim=True), near.detach().amax(-1, keepdim=True))
    far = far.sub_(peak).exp_()
    near = near.sub_(peak).exp_()
    norm = far.sum(-1, keepdim=True) + near.sum(-1, keepdim=True)  # (B H F, S, 1)
    mixed = torch.bmm(far.view(len(shared_keys), -1, n_prefix), shared_values)
    mixed = torch.baddbmm(mixed.view(-1, n_own, d_head), near, values) / norm
    mixed = mixed.view(n_shared, n_heads, n_branches, n_own, d_head).transpose(1, 2)
    return mixed.reshape(n_rows, n_heads, n_own, d_head)


def _by_head(x: Tensor, n_shared: int) -> Tensor:
    """(R, H, S, d) -> (B H F, S, d), the order in which the branches of one prefix are adjacent."""
    _, n_heads, n_own, d_head = x.shape
    x = x.view(n_shared, -1, n_heads, n_own, d_head).transpose(1, 2)
    return x.reshape(-1, n_own, d_head)


class CausalSelfAttention(nn.Module):
    """Multi-head causal self-attention with fused query, key and value projections."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.project = nn.Linear(d_model, d_model, bias=False)

    def forward(
        self, projected: Tensor, prefix: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """qkv(x) (R, S, 3 D) -> mixed (R, S, D), this layer's new keys and values (R, H, S, d)."""
        n_rows, n_own, _ = projected.shape
        d_model = self.project.in_features
        # (R, S, 3 D) -> three of (R, H, S, d)
        qkv = projected.unflatten(2, (3, self.n_heads, d_model // self.n_heads))
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = attend(queries, keys, values, prefix)
        mixed = mixed.transpose(1, 2).reshape(n_rows, n_own, d_model)  # (R, H, S, d) -> (R, S, D)
        return self.project(mixed), keys, values
