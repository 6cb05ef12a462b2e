"""How ln psi of each sample depends on the parameters of a layer: one rule for each kind of layer.

With the gradient g_t of ln psi with respect to a layer's output and its input x_t, at the positions
t at which the layer reads the sample,

    linear      y = W x + b           J_W = sum_t g_t x_t^T,   J_b = sum_t g_t
    embedding   y = E[token]          J_E[v] = sum_{t: token_t = v} g_t
    norm        y = gamma x^ + beta   J_gamma = sum_t g_t x^_t, J_beta = sum_t g_t
    added table y = x + table[t]      J_table[t] = g_t
    pairs       y_i = sum_j a(i, j) x_j           J_a(i, j) = g_i . x_j, on each head's channels

A layer of another kind is told to the natural gradient by a rule of its own,

    @layer_rule(Scale)  # y = s x
    def scale(layer: Scale, seen: Seen, span: Span, out: Tensor) -> None:
        torch.sum(seen.gradients * seen.inputs, dim=1, out=out)

which holds for its subclasses, too, unless they have another.

Letters: B samples, M rows of each in a layer (1 as a rule), T positions, C columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nqs.core.factored import PairWeights
from nqs.core.positions import AddedTable


@dataclass(frozen=True)
class Seen:
    """What a layer read of each sample, and how one real part of ln psi depends on what it wrote.

    Attributes:
        inputs: (B, M T, in), or tokens (B, M T).
        gradients: (B, M T, out).
        length: T, the positions of one call of the layer.
    """

    inputs: Tensor
    gradients: Tensor
    length: int


@dataclass(frozen=True)
class Span:
    """Elements first .. first + width - 1 of a flattened parameter, whole rows of it.

    A row is what one index of the parameter's first dimension holds.
    """

    parameter: str
    first: int
    width: int

    @property
    def elements(self) -> slice:
        """Places in the flattened parameter."""
        return slice(self.first, self.first + self.width)

    def rows(self, row: int) -> slice:
        """Rows of `row` elements each."""
        return slice(self.first // row, (self.first + self.width) // row)


@dataclass(frozen=True)
class LayerRule:
    """Attributes:
    write: (layer, seen, span, out): writes the derivatives of each sample's ln psi with respect
        to the elements of the span into out (B, C), which may be a part of a wider tensor.
    whole: whether spans are whole parameters, for rules that cannot take some rows alone.
    """

    write: Callable[[Any, Seen, Span, Tensor], None]
    whole: bool = False


RULES: dict[type[nn.Module], LayerRule] = {}

Write = TypeVar("Write", bound=Callable[[Any, Seen, Span, Tensor], None])


def layer_rule(kind: type[nn.Module], *, whole: bool = False) -> Callable[[Write], Write]:
    """Registers the decorated function as `LayerRule.write` of layers of this kind."""

    def register(write: Write) -> Write:
        RULES[kind] = LayerRule(write, whole)
        return write

    return register


def rule_of(layer: nn.Module) -> LayerRule | None:
    """The rule of the layer's class, or of the nearest one that it extends."""
    return next((RULES[kind] for kind in type(layer).__mro__ if kind in RULES), None)


@layer_rule(nn.Linear)
def linear(layer: nn.Linear, seen: Seen, span: Span, out: Tensor) -> None:
    """J_W = sum_t g_t x_t^T, J_b = sum_t g_t."""
    if span.parameter == "bias":
        torch.sum(seen.gradients[:, :, span.elements], dim=1, out=out)
        return
    part = seen.gradients[:, :, span.rows(layer.in_features)].transpose(1, 2)
    if out.is_contiguous():  # a panel of its own: written once, at half the time for short T
        torch.bmm(part, seen.inputs, out=out.view(len(out), -1, layer.in_features))
    else:
        out[:] = torch.bmm(part, seen.inputs).flatten(1)  # (B, out in)


@layer_rule(nn.Embedding)
def embedding(layer: nn.Embedding, seen: Seen, span: Span, out: Tensor) -> None:
    """J_E[v] = sum of g_t over the places t of token v."""
    rows = span.rows(layer.embedding_dim)
    tokens = torch.arange(rows.start, rows.stop, device=seen.inputs.device)
    chosen = (seen.inputs[:, :, None] == tokens).to(seen.gradients.dtype)  # (B, T, V)
    out[:] = torch.bmm(chosen.transpose(1, 2), seen.gradients).flatten(1)


@layer_rule(nn.LayerNorm)
def layer_norm(layer: nn.LayerNorm, seen: Seen, span: Span, out: Tensor) -> None:
    """J_gamma = sum_t g_t x^_t, J_beta = sum_t g_t."""
    gradients = seen.gradients
    if span.parameter == "weight":
        gradients = gradients * F.layer_norm(seen.inputs, layer.normalized_shape, eps=layer.eps)
    torch.sum(gradients[:, :, span.elements], dim=1, out=out)


@layer_rule(AddedTable, whole=True)
def added_table(layer: AddedTable, seen: Seen, span: Span, out: Tensor) -> None:
    """J_table[t] = g_t; positions beyond the sequence are not read."""
    read = seen.gradients.unflatten(1, (-1, seen.length)).sum(1).flatten(1)
    out[:, : read.shape[1]] = read
    out[:, read.shape[1] :] = 0


@layer_rule(PairWeights)
def pair_weights(layer: PairWeights, seen: Seen, span: Span, out: Tensor) -> None:
    """J_a(i, j) = g_i . x_j on the channels of a head; J_own = s J_a, J_shared its sums."""
    heads = span.rows(getattr(layer, span.parameter).shape[1])
    weights = layer.jacobian(seen.inputs, seen.gradients, heads, seen.length)  # (B, h, M)
    if span.parameter == "own":
        torch.mul(weights, layer.scales, out=out.view(weights.shape))
    else:
        out[:] = layer.of_kinds(weights).flatten(1)
