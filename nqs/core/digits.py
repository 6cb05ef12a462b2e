"""Tokens that are binary numbers: vectors and logits made of their digits, not one for each token.

A token x < K = 2^P has the digits x = sum_j b_j 2^j, read as signs s_j = 1 - 2 b_j. With

    phi_A(x) = c^(|A| - 1) prod_{j in A} s_j      for every set A of 1 .. `order` digits, F of them,

an embedding and logits are

    e(x) = sum_A E_A phi_A(x),         logit(x) = sum_A w_A phi_A(x)

instead of tables of K rows. At order P the products are all Walsh functions but the constant, which
logits do not feel: such sums can be any table. What the decay c < 1 changes is which tables are
near. Natural gradients with a shift (and any other descent) move the entries of tokens x and y
together by

    sum_A phi_A(x) phi_A(y) = (prod_j (1 + c^2 s_j(x) s_j(y)) - 1) / c^2

so that what is learned of one token holds for those that differ from it in few digits (at c = 1 for
none of them, as with tables; the kernel is that of Kondor & Lafferty, ICML 2002, for the
hypercube). With 2^8 and more tokens, each of them seen rarely, tables do not learn without it.

Letters: K tokens, P digits, F products, m kinds of outputs, G groups, D width.
"""

from __future__ import annotations

import itertools
import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nqs.core.head import Head

MOST_PRODUCTS = 600
"""All of up to 9 digits; of more, those of few: columns of weight c^4 and less are left out."""


def digit_products(n_digits: int, decay: float, order: int | None = None) -> Tensor:
    """phi (K, F): products of the signs of 1 .. `order` digits, single ones first.

    order: the highest that gives at most MOST_PRODUCTS by default.
    Raises ValueError unless 0 < decay <= 1 and 1 <= order <= n_digits.
    """
    if order is None:
        order = highest_order(n_digits)
    if not 0 < decay <= 1:
        raise ValueError(f"decay={decay} must be in (0, 1]")
    if not 1 <= order <= n_digits:
        raise ValueError(f"order={order} must be in 1..{n_digits}, the digits of a token")
    places = torch.arange(n_digits)
    signs = 1.0 - 2.0 * ((torch.arange(2**n_digits)[:, None] >> places) & 1)  # (K, P)
    columns = [
        decay ** (size - 1) * signs[:, chosen].prod(1)
        for size in range(1, order + 1)
        for chosen in itertools.combinations(range(n_digits), size)
    ]
    return torch.stack(columns, dim=1).to(torch.get_default_dtype())


def highest_order(n_digits: int) -> int:
    """The highest order with at most MOST_PRODUCTS products, at least 1."""
    order, n_products = 1, n_digits
    while order < n_digits and n_products + math.comb(n_digits, order + 1) <= MOST_PRODUCTS:
        order += 1
        n_products += math.comb(n_digits, order)
    return order


@final
class DigitEmbedding(nn.Module):
    """Vectors of tokens from their digits; stands in for an nn.Embedding of as many rows.

    Args:
        n_tokens: G K + m: G groups of K tokens (the places of a patch, say), each with vectors of
            its own, and m tokens without digits, such as the start.
        d_model: D.
        products: (K, F), phi; scaled here, so that each token has features of length 1.
    """

    features: Tensor

    def __init__(self, n_tokens: int, d_model: int, products: Tensor) -> None:
        super().__init__()
        n_groups, n_single = divmod(n_tokens, len(products))
        groups = [products / products[0].norm()] * n_groups
        features = torch.block_diag(*groups, torch.eye(n_single).to(products))  # (G K + m, G F + m)
        self.embedding_dim = d_model
        self.register_buffer("features", features, persistent=False)
        self.map = nn.Linear(features.shape[1], d_model, bias=False)

    @property
    def weight(self) -> Tensor:
        """(G K + m, D): the vectors of all tokens."""
        return self.map(self.features)

    @property
    def learned(self) -> Tensor:
        """(G F + m, D): what they are made of, a view; those of the m tokens last."""
        return self.map.weight.T

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (...) int64 -> (..., D).

        With gradients every row reads features of its own: so the map's are those of each sample.
        """
        if torch.is_grad_enabled():
            return self.map(self.features[tokens])
        return F.embedding(tokens, self.weight)


@final
class DigitHead(nn.Module):
    """Logits of K tokens, or m numbers of each, from their digits; stands in for Head(D, m K).

    Args:
        d_model: D.
        n_outputs: m K, kind by kind; ValueError for anything else.
        products: (K, F), phi.
    """

    products: Tensor

    def __init__(self, d_model: int, n_outputs: int, products: Tensor) -> None:
        super().__init__()
        n_tokens, n_products = products.shape
        if n_outputs % n_tokens:
            raise ValueError(f"n_outputs={n_outputs} is not a multiple of {n_tokens} tokens")
        self.register_buffer("products", products, persistent=False)
        self.map = Head(d_model, n_outputs // n_tokens * n_products)

    @property
    def weight(self) -> Tensor:
        """(m F, D), learned."""
        return self.map.weight

    @property
    def bias(self) -> Tensor:
        """(m F,), learned."""
        return self.map.bias

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., m K); without gradients by one product with the table of all tokens,
        as Head does and in the precision of Head."""
        with torch.autocast(x.device.type, enabled=False):
            if torch.is_grad_enabled():
                return self.expand(self.map(x))
            table = self.expand(self.weight.T).T  # (m K, D)
            return F.linear(x.to(table.dtype), table, self.expand(self.bias))

    def expand(self, coefficients: Tensor) -> Tensor:
        """sum_A w_A phi_A(x): (..., m F) -> (..., m K)."""
        by_kind = coefficients.unflatten(-1, (-1, self.products.shape[1]))
        return (by_kind @ self.products.T).flatten(-2)

    def coefficients(self, values: Tensor) -> Tensor:
        """w whose expansion is nearest to values (..., K), but for a constant, -> (..., F)."""
        products = self.products.to(values)
        return values @ products / products.square().sum(0)


def token_embedding(
    n_tokens: int, d_model: int, products: Tensor | None
) -> nn.Embedding | DigitEmbedding:
    """One vector for each token, or vectors made of digits if `products` (K, F) are given."""
    if products is None:
        return nn.Embedding(n_tokens, d_model)
    return DigitEmbedding(n_tokens, d_model, products)


def token_head(d_model: int, n_outputs: int, products: Tensor | None) -> Head | DigitHead:
    """One row for each output, or rows made of digits if `products` (K, F) are given."""
    if products is None:
        return Head(d_model, n_outputs)
    return DigitHead(d_model, n_outputs, products)
