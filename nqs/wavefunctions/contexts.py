"""How the couplings of a family move a network: from the scaled couplings x to vectors.

    v (D,) or (T, D)     added to the vector of every token, or of each place,
    b (F,) or (T, F)     added to the output bias of every patch, or of each

    vector     y = W2 tanh(W1 x + b1) + b2 = (v, b), the same at all places
    places     the same with numbers of their own for each place
    encoder    h_j = W x_j + p_j of the couplings x_j of each patch, read by a bidirectional
               transformer; each place t asks with a learned query q_t:
               y_t = sum_j softmax_j(q_t . K h_j) V h_j,  (v_t, b_t) = W2 y_t
               (cross-attention, Vaswani et al., arXiv:1706.03762)

W2 and b2 begin at 0: at first no coupling moves anything. Queries that know nothing of s keep psi
at fixed couplings a network like any other, all its fast passes included.

Letters: n couplings, T places, D width of a token's vector, F numbers of a patch's bias, H width.
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

Shape = tuple[int, int]


class Context(nn.Module, ABC):
    """Args of all kinds: shapes (rows, D) and (T, F) of the two tables; width H; generator of what
    is drawn at the start."""

    per_place: bool

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """v and b of scaled couplings x (n,)."""


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
        _draw(self, generator)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        v, b = self.perceptron(x).split(self.sizes)
        return v.view(self.shapes[0]), b.view(self.shapes[1])


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
        padded = torch.cat([x, x.new_zeros(1)])
        hidden = self.read(padded[self.groups]) + self.positions  # (J, H)
        with sdpa_kernel(SDPBackend.MATH):  # the others have no batched derivatives
            hidden = self.encoder(hidden[None])
            found = [
                last(self.attention(queries[None], hidden, hidden, need_weights=False)[0])[0]
                for queries, last in zip(self.queries, self.last, strict=True)
            ]
        return found[0], found[1]


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


@torch.no_grad()
def _draw(context: Context, generator: torch.Generator | None) -> None:
    """Matrices ~ N(0, 1 / fan_in), the first biases of a perceptron ~ N(0, 1), norms 1 and 0; the
    last layers 0."""
    for name, parameter in context.named_parameters():
        if name.startswith(("perceptron.2.", "last.")):
            parameter.zero_()
        elif name == "perceptron.0.bias":
            parameter.normal_(generator=generator)
        elif parameter.dim() > 1:
            parameter.normal_(generator=generator).mul_(parameter.shape[1] ** -0.5)
        elif "norm" not in name:
            parameter.zero_()
