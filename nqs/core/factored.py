"""Factored attention: weights of each pair of places, learned directly, the same for all inputs.

    mixed_i = sum_{j <= i} a_h(i, j) v_j        on the channels of head h

instead of a softmax over q_i k_j. In ground states of lattices what a site must look at is decided
by where it is, and wavefunctions with a(i, j) alone reach the accuracy of full attention (Rende &
Viteritti, arXiv:2405.18874; Viteritti, Rende & Becca, arXiv:2211.05504). It costs no exponentials
and less than half the products; and the part that a shared prefix contributes is the same for all
branches that continue it.

Letters: B prefixes, F branches of each, R = B F rows, S own tokens of a row, L prefix tokens,
T positions, H heads, D width, d = D / H channels a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from nqs.core.attention import Attention, Frozen, Repeated

LONGEST_RANGE = 4.0
"""Decay length, in nearest distances, of the head that looks farthest at the start."""
PLACE_SHARE = 0.1
"""How much of a pair's weight is its own, as a share of what it has in common with others."""
SAME_PLACE = 1e-4
"""Differences of places, in nearest distances, that are rounding."""


@final
class PairWeights(nn.Module):
    """Mixes values with one learned weight per head and pair of positions,

        a_h(i, j) = shared_h[c(i, j)] + s own_h(i, j),        s^2 = PLACE_SHARE

    where c numbers the displacements r_i - r_j that several pairs have (r_i the place that is
    predicted at i, r_j that whose token is read at j); pairs that read the start token, which has
    no place, count as having the same. A pair that is alone has a = own sqrt(1 + PLACE_SHARE). So
    what translation invariance leaves to be learned is learned from all places at once, and what a
    weight does differently from those of its kind in small steps: the gradient flow, natural or
    not, is that of a in the metric PLACE_SHARE + [same displacement] (see docs/decisions.md).

    At the start a(i, j) falls off as exp(-r_ij / xi_h) and the weights of each i sum to 1.

    Args:
        n_heads: H; decay lengths are spread geometrically from 1/2 to LONGEST_RANGE.
        max_length: T.
        coordinates: (T, dims) place that each position predicts; its index by default.

    Attributes:
        shared: (H, C).
        own: (H, M), M = T (T + 1) / 2.
    """

    rows: Tensor
    columns: Tensor
    kinds: Tensor
    scales: Tensor

    def __init__(self, n_heads: int, max_length: int, coordinates: Tensor | None = None) -> None:
        super().__init__()
        rows, columns = torch.tril_indices(max_length, max_length)
        self.n_heads, self.max_length = n_heads, max_length
        kinds, n_kinds = displacements(rows, columns, coordinates)
        dtype = torch.get_default_dtype()
        scales = torch.where(kinds < n_kinds, PLACE_SHARE, 1 + PLACE_SHARE).sqrt().to(dtype)
        self.register_buffer("rows", rows, persistent=False)  # (M,)
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer("kinds", kinds, persistent=False)  # (M,), C for pairs that are alone
        self.register_buffer("scales", scales, persistent=False)  # (M,)
        self.shared = nn.Parameter(torch.empty(n_heads, n_kinds, dtype=dtype))
        self.own = nn.Parameter(torch.empty(n_heads, len(rows), dtype=dtype))
        self.set(decaying(n_heads, distances(max_length, coordinates))[:, rows, columns])

    @torch.no_grad()
    def set(self, weights: Tensor) -> None:
        """Makes a(i, j) these weights (H, M): each kind shares its mean."""
        weights = weights.to(self.own)
        self.shared.copy_(self.of_kinds(weights) / self.kinds.bincount()[: self.shared.shape[1]])
        self.own.copy_((weights - self._of_pairs(slice(None))) / self.scales)

    @property
    def weights(self) -> Tensor:
        """a, (H, M)."""
        return self.among_pairs(slice(None))

    def among_pairs(self, pairs: slice) -> Tensor:
        """a of some pairs, (H, m)."""
        return torch.addcmul(self._of_pairs(pairs), self.own[:, pairs], self.scales[pairs])

    def _of_pairs(self, pairs: slice) -> Tensor:
        """shared_h[c(i, j)] of some pairs, 0 of those that are alone, (H, m)."""
        return nn.functional.pad(self.shared, (0, 1))[:, self.kinds[pairs]]

    def of_kinds(self, numbers: Tensor) -> Tensor:
        """Sums of numbers (..., M) over the pairs of each kind, (..., C)."""
        n_kinds = self.shared.shape[1]
        sums = numbers.new_zeros(*numbers.shape[:-1], n_kinds + 1)
        return sums.scatter_add_(-1, self.kinds.expand(numbers.shape), numbers)[..., :n_kinds]

    def dense(self, begin: int, end: int) -> Tensor:
        """(H, end - begin, end): the weights of positions begin .. end - 1, zero above j = i."""
        first, last = begin * (begin + 1) // 2, end * (end + 1) // 2
        table = self.own.new_zeros(self.n_heads, end - begin, end)
        heads = torch.arange(self.n_heads, device=self.rows.device)
        index = (self.rows[first:last] - begin, self.columns[first:last])
        return table.index_put((heads[:, None], *index), self.among_pairs(slice(first, last)))

    def among(self, places: Tensor) -> Tensor:
        """(H, S, S): the weights of positions places (S,), ascending, on each other."""
        pairs = (places * (places + 1) // 2)[:, None] + places
        return self.weights[:, pairs.tril()].tril()

    def forward(self, values: Tensor, prefix: Tensor | None = None) -> Tensor:
        """values (R, S, D) read after a prefix (B, L, D) -> mixed (R, S, D)."""
        n_own, n_prefix = values.shape[1], 0 if prefix is None else prefix.shape[1]
        table = self.dense(n_prefix, n_prefix + n_own)  # (H, S, L + S)
        mixed = self.product(table[:, :, n_prefix:], values)
        if prefix is None or n_prefix == 0:
            return mixed
        shared = self.product(table[:, :, :n_prefix], prefix)  # (B, S, D)
        n_branches = len(values) // max(1, len(prefix))
        return (mixed.unflatten(0, (len(prefix), n_branches)) + shared[:, None]).flatten(0, 1)

    def product(self, table: Tensor, values: Tensor) -> Tensor:
        """sum_j table_h(i, j) values_j: (H, S, L), (R, L, D) -> (R, S, D).

        One product a head with all rows side by side, (S x L) (L x R d).
        """
        n_rows, _, d_model = values.shape
        by_head = values.unflatten(2, (self.n_heads, d_model // self.n_heads))
        by_head = by_head.permute(2, 1, 0, 3)  # (H, L, R, d)
        mixed = torch.bmm(table, by_head.flatten(2))  # (H, S, R d)
        mixed = mixed.view(*table.shape[:2], *by_head.shape[2:]).permute(2, 1, 0, 3)
        return mixed.reshape(n_rows, table.shape[1], d_model)

    def jacobian(
        self, values: Tensor, gradients: Tensor, heads: slice, n_read: int | None = None
    ) -> Tensor:
        """Derivative with respect to a of each sample's output along `gradients`, both (B, I T, D):
        (B, heads, M).

        I sequences of T = n_read positions (one of all by default) belong to a sample; their
        derivatives are summed.
        """
        n_read = values.shape[1] if n_read is None else n_read
        values, gradients = (
            x.unflatten(2, (self.n_heads, -1))
            .unflatten(1, (-1, n_read))[:, :, :, heads]
            .permute(0, 3, 2, 1, 4)
            .flatten(3)
            for x in (values, gradients)
        )  # (B, h, T, I d)
        dense = gradients @ values.transpose(2, 3)  # (B, h, T, T)
        n_pairs = n_read * (n_read + 1) // 2
        seen = dense[:, :, self.rows[:n_pairs], self.columns[:n_pairs]]
        return nn.functional.pad(seen, (0, len(self.rows) - n_pairs))


def displacements(rows: Tensor, columns: Tensor, coordinates: Tensor | None) -> tuple[Tensor, int]:
    """Kinds of pairs of positions (M,): those with the same displacement, see PairWeights.

    Returns their numbers (M,), C for a pair that is alone, and C.
    """
    length = int(rows.max()) + 1
    places = torch.arange(length)[:, None] if coordinates is None else coordinates.cpu()
    places = places.to(torch.float64)
    between = torch.cdist(places, places)
    unit = between[between > 0].min() if length > 1 else 1.0
    apart = ((places[rows] - places[columns - 1]) / unit / SAME_PLACE).round()  # (M, dims)
    apart[columns == 0] = torch.inf
    _, kinds, counts = apart.unique(dim=0, return_inverse=True, return_counts=True)
    several = counts > 1
    n_kinds = int(several.sum())
    numbers = torch.where(several, several.cumsum(0) - 1, n_kinds)
    return numbers[kinds], n_kinds


def distances(max_length: int, coordinates: Tensor | None) -> Tensor:
    """(T, T) float64: from the place predicted at i to the one whose token is read at j.

    Position j reads the token of place j - 1; the start token (j = 0) counts as far as the farthest
    place. In units of the smallest distance.
    """
    if coordinates is None:
        coordinates = torch.arange(max_length)[:, None]
    coordinates = coordinates.to(torch.float64)
    between = torch.cdist(coordinates, coordinates)
    if max_length > 1:
        between = between / between[between > 0].min()
    return torch.cat([between.amax(1, keepdim=True), between[:, :-1]], dim=1)


def decaying(n_heads: int, between: Tensor) -> Tensor:
    """softmax over j <= i of -between / xi_h, (H, T, T) float64."""
    lengths = torch.logspace(-1, torch.tensor(LONGEST_RANGE).log2(), n_heads, base=2.0)
    scores = -between / lengths.to(torch.float64)[:, None, None]
    hidden = torch.ones_like(between).triu(1).bool()
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)


@final
@dataclass
class RepeatedSum(Repeated):
    """A branch's later positions see one other value: mixed_i + a(i, p) (v'_p - v_p).

    Attributes:
        mixed: of the sequence, (B, S, D) at the altered position and after it.
        values: of the sequence (B, T, D), or of the altered position (B, 1, D).
        column: a_h(i, p) on all channels of head h, (S, D); None before `altered_at`.
        weights: where the columns come from.
    """

    mixed: Tensor
    values: Tensor
    weights: PairWeights
    column: Tensor | None = None

    def altered_at(self, place: int) -> RepeatedSum:
        column = self.weights.dense(place, self.mixed.shape[1])[:, :, place]  # (H, S)
        width = self.mixed.shape[2] // len(column)
        column = column.T.repeat_interleave(width, dim=1)  # (S, D)
        parts = (self.mixed[:, place:], self.values[:, place : place + 1])
        return RepeatedSum(*parts, self.weights, column)

    def select(self, rows: Tensor) -> RepeatedSum:
        return RepeatedSum(self.mixed[rows], self.values[rows], self.weights, self.column)

    def mix(self, values: Tensor) -> Tensor:
        """The altered token's values (R, 1, D) -> mixed (R, S, D)."""
        assert self.column is not None
        change = values.unflatten(0, (len(self.values), -1)) - self.values[:, None]  # (B, F, 1, D)
        return torch.addcmul(self.mixed[:, None], change, self.column).flatten(0, 1)


@final
@dataclass(frozen=True)
class FrozenSum(Frozen):
    """mixed_i + sum_j a(i, j) (v'_j - v_j), the sum over the revised positions j <= i.

    Attributes:
        mixed, values: of the sequences, (B, T, D).
    """

    mixed: Tensor
    values: Tensor
    weights: PairWeights

    def revised(self, projected: Tensor, places: Tensor) -> Tensor:
        by_sequence = projected.unflatten(0, (len(self.values), -1))  # (B, F, S, D)
        change = (by_sequence - self.values[:, None, places]).flatten(0, 1)
        change = self.weights.product(self.weights.among(places), change)  # (R, S, D)
        return (change.view_as(by_sequence) + self.mixed[:, None, places]).flatten(0, 1)


@final
class FactoredAttention(Attention):
    """v = W_v x, mixed by PairWeights, projected."""

    def __init__(
        self, d_model: int, n_heads: int, max_length: int, coordinates: Tensor | None = None
    ) -> None:
        super().__init__()
        self.values = nn.Linear(d_model, d_model, bias=False)
        self.pairs = PairWeights(n_heads, max_length, coordinates)
        self.project = nn.Linear(d_model, d_model, bias=False)

    def read(self, x: Tensor) -> Tensor:
        """Values, (..., D) -> (..., D)."""
        return self.values(x)

    def forward(
        self, projected: Tensor, prefix: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See Attention.forward; keys are empty (R, 1, S, 0), values (R, 1, S, D)."""
        before = None if prefix is None else prefix[1].squeeze(1)
        mixed = self.pairs(projected, before)
        return self.project(mixed), projected[:, None, :, :0], projected[:, None]

    def empty(self, n_rows: int, capacity: int) -> tuple[Tensor, Tensor]:
        weight = self.project.weight
        shape = (n_rows, 1, capacity)
        return weight.new_empty(*shape, 0), weight.new_empty(*shape, len(weight))

    def shared(self, projected: Tensor) -> RepeatedSum:
        return RepeatedSum(self.pairs(projected), projected, self.pairs)

    def repeat(self, altered: Tensor, prefix: tuple[Tensor, Tensor], repeated: Repeated) -> Tensor:
        assert isinstance(repeated, RepeatedSum)
        return self.project(repeated.mix(altered))

    def frozen(self, projected: Tensor) -> tuple[Tensor, FrozenSum]:
        mixed = self.pairs(projected)
        return mixed, FrozenSum(mixed, projected, self.pairs)
