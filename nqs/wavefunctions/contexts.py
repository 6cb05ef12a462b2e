"""How the couplings of a family move a network: from the scaled couplings x to vectors.

    v (D,) or (T, D)     added to the vector of every token, or of each place,
    b (F,) or (T, F)     added to the output bias of every patch, or of each

    vector     y = W2 tanh(W1 x + b1) + A x + b2 = (v, b), the same at all places
    places     the same with numbers of their own for each place
    encoder    h_j = W x_j + p_j of the couplings x_j of each patch, read by a bidirectional
               transformer; each place t asks with a learned query q_t:
               y_t = sum_j softmax_j(q_t . K h_j) V h_j,  (v_t, b_t) = W2 y_t + b2
               (cross-attention, Vaswani et al., arXiv:1706.03762)

W2, A and b2 begin at 0: at first no coupling moves anything, but for the biases once these are
fitted (`Context.fit`). Queries that know nothing of s keep psi at fixed couplings a network like
any other, all its fast passes included.

Letters: n couplings, K fitted couplings, T places, D width of a token's vector, F numbers of a
patch's bias, H width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, Literal, final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

ContextKind = Literal["vector", "places", "encoder"]
HEADS: Final = 4
LAYERS: Final = 2
RIDGE: Final = 1.0
"""Product states are known up to their sampling noise, slopes are of that size and less."""

Shape = tuple[int, int]


class Context(nn.Module, ABC):
    """Args of all kinds: shapes (rows, D) and (T, F) of the two tables; width H; generator of what
    is drawn at the start."""

    per_place: bool

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """v and b of scaled couplings x (n,)."""

    @abstractmethod
    def fit(self, x: Tensor, biases: Tensor) -> None:
        """Sets the last layer of a fresh context so that b is near biases (K, T, F) at x (K, n)."""


@final
class PerceptronContext(Context):
    """A perceptron of all couplings, whose outputs are v and b of all places or of each.

    Args:
        shapes: of v and b.
        per_place: whether these have a row for each place.
    """

    def __init__(
        self,
        n_couplings: int,
        shapes: Sequence[tuple[int, ...]],
        width: int,
        generator: torch.Generator | None,
        *,
        per_place: bool,
    ) -> None:
        super().__init__()
        self.per_place, self.shapes = per_place, tuple(shapes)
        self.sizes = [math.prod(shape) for shape in shapes]
        self.perceptron = nn.Sequential(
            nn.Linear(n_couplings, width), nn.Tanh(), nn.Linear(width, sum(self.sizes))
        )
        self.linear = nn.Linear(n_couplings, sum(self.sizes), bias=False)
        _draw(self, generator)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        v, b = (self.perceptron(x) + self.linear(x)).split(self.sizes)
        return v.view(self.shapes[0]), b.view(self.shapes[1])

    @torch.no_grad()
    def fit(self, x: Tensor, biases: Tensor) -> None:
        """By A and b2."""
        wanted = biases.flatten(1) if self.per_place else biases.mean(1)
        slopes, constant = _fitted(x, wanted)
        last = self.perceptron[2]
        assert isinstance(last, nn.Linear)
        self.linear.weight[self.sizes[0] :] = slopes.to(self.linear.weight)
        last.bias[self.sizes[0] :] = constant.to(last.bias)


@final
class EncoderContext(Context):
    """An encoder of the couplings of each patch, and cross-attention from each place.

    Args:
        groups: of each patch the indices of the couplings that it reads, as many for each, n for
            none.
    """

    per_place = True
    groups: Tensor

    def __init__(
        self,
        groups: Tensor,
        tables: tuple[Shape, Shape],
        width: int,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        n_patches, n_read = groups.shape
        self.register_buffer("groups", groups, persistent=False)
        self.read = nn.Linear(n_read, width)
        self.positions = nn.Parameter(torch.empty(n_patches, width))
        self.queries = nn.ParameterList([torch.empty(rows, width) for rows, _ in tables])
        heads = HEADS if width % HEADS == 0 else 1
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.last = nn.ModuleList([nn.Linear(width, width_of) for _, width_of in tables])
        _draw(self, generator)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        v, b = (last(y) for last, y in zip(self.last, self._answers(x), strict=True))
        return v, b

    @torch.no_grad()
    def fit(self, x: Tensor, biases: Tensor) -> None:
        """By W2 and b2."""
        answers = torch.cat([self._answers(each)[1] for each in x])  # (K T, H)
        slopes, constant = _fitted(answers, biases.flatten(0, 1))
        last = self.last[1]
        assert isinstance(last, nn.Linear)
        last.weight.copy_(slopes)
        last.bias.copy_(constant)

    def _answers(self, x: Tensor) -> list[Tensor]:
        """y (rows, H) of the places of either table."""
        padded = torch.cat([x, x.new_zeros(1)])
        hidden = self.read(padded[self.groups]) + self.positions  # (J, H)
        with sdpa_kernel(SDPBackend.MATH):  # the others have no batched derivatives
            hidden = self.encoder(hidden[None])
            return [
                self.attention(queries[None], hidden, hidden, need_weights=False)[0][0]
                for queries in self.queries
            ]


def build_context(
    kind: ContextKind,
    groups: Tensor,
    n_couplings: int,
    tables: tuple[Shape, Shape],
    width: int,
    generator: torch.Generator | None,
) -> Context:
    """The context of a kind; groups as for EncoderContext."""
    if kind == "encoder":
        return EncoderContext(groups, tables, width, generator)
    per_place = kind == "places"
    shapes = tables if per_place else [(width_of,) for _, width_of in tables]
    return PerceptronContext(n_couplings, shapes, width, generator, per_place=per_place)


def coupling_groups(places: Sequence[Sequence[int]], patches: Sequence[Sequence[int]]) -> Tensor:
    """Of each patch the indices of the couplings that belong to one of its sites, or to all sites:
    (J, most), filled up with n.

    places: the sites of each of n couplings, () for all. patches: the sites of each patch.
    """
    read = [
        [k for k, sites in enumerate(places) if not sites or set(sites) & set(patch)]
        for patch in patches
    ]
    most = max(1, *map(len, read))
    return torch.tensor([row + [len(places)] * (most - len(row)) for row in read])


def _fitted(inputs: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes (M, n) and constant (M,) that minimise |wanted - slopes . inputs - constant|^2 over K
    rows, (K, M) and (K, n), + RIDGE |slopes|^2."""
    x, y = inputs.to(torch.float64), wanted.to(torch.float64)
    middle, mean = x.mean(0), y.mean(0)
    x, y = x - middle, y - mean
    metric = x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    slopes = torch.linalg.solve(metric, x.T @ y).T
    return slopes, mean - slopes @ middle


@torch.no_grad()
def _draw(context: Context, generator: torch.Generator | None) -> None:
    """Matrices ~ N(0, 1 / fan_in), the first biases of a perceptron ~ N(0, 1), norms 1 and 0; the
    last layers 0."""
    for name, parameter in context.named_parameters():
        if name.startswith(("perceptron.2.", "linear.", "last.")):
            parameter.zero_()
        elif name == "perceptron.0.bias":
            parameter.normal_(generator=generator)
        elif parameter.dim() > 1:
            parameter.normal_(generator=generator).mul_(parameter.shape[1] ** -0.5)
        elif "norm" not in name:
            parameter.zero_()
