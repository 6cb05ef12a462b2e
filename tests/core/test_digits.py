"""Vectors and logits made of digits against tables, and the laws of the products themselves."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from nqs.core.digits import (
    MOST_PRODUCTS,
    DigitEmbedding,
    DigitHead,
    digit_products,
    highest_order,
    token_embedding,
    token_head,
)
from nqs.core.transformer import Transformer

EXACT = {"rtol": 0.0, "atol": 1e-12}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_products_are_written_out() -> None:
    products = digit_products(3, 0.5, 2)
    rows = []
    for token in range(8):
        s = [1 - 2 * ((token >> place) & 1) for place in range(3)]
        rows.append([*s, 0.5 * s[0] * s[1], 0.5 * s[0] * s[2], 0.5 * s[1] * s[2]])
    assert torch.equal(products, torch.tensor(rows))


@pytest.mark.parametrize("decay", [0.3, 1.0])
@pytest.mark.parametrize("n_digits", [1, 4, 6])
def test_similarity_falls_with_the_digits_that_differ(n_digits: int, decay: float) -> None:
    """phi(x) . phi(y) = (prod_j (1 + c^2 s_j s'_j) - 1) / c^2."""
    products = digit_products(n_digits, decay).double()
    bits = (torch.arange(2**n_digits)[:, None] >> torch.arange(n_digits)) & 1
    alike = (bits[:, None] == bits[None]).sum(-1)
    square = decay**2
    expected = (1 + square) ** alike.double() * (1 - square) ** (n_digits - alike).double()
    assert_close(products @ products.T, (expected - 1) / square, rtol=1e-5, atol=1e-5)


def test_highest_order() -> None:
    for n_digits in range(1, 13):
        order = highest_order(n_digits)
        sizes = [sum(math.comb(n_digits, k) for k in range(1, o + 1)) for o in (order, order + 1)]
        assert sizes[0] <= MOST_PRODUCTS
        assert order == n_digits or sizes[1] > MOST_PRODUCTS
        if n_digits <= 9:
            assert order == n_digits


def test_any_table_of_logits_can_be_made() -> None:
    """All products but the constant: logits up to a constant, with as few parameters less."""
    head = DigitHead(3, 16, digit_products(4, 0.4)).double()
    values = torch.randn(5, 16, generator=generator(), dtype=torch.float64)
    made = head.expand(head.coefficients(values))
    assert_close(made, values - values.mean(1, keepdim=True), rtol=0, atol=1e-6)
    assert head.weight.shape == (15, 3)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_embedding_is_its_table(order: int) -> None:
    """Two groups of tokens and three single tokens; with gradients as without."""
    products = digit_products(4, 0.6, order)
    layer = DigitEmbedding(2 * 16 + 3, 5, products).double()
    tokens = torch.randint(0, 35, (7, 6), generator=generator())
    phi = products.double() / products[0].double().norm()
    n_products = products.shape[1]
    table = torch.cat(
        [
            phi @ layer.learned[:n_products],
            phi @ layer.learned[n_products : 2 * n_products],
            layer.learned[2 * n_products :],
        ]
    )
    assert_close(layer.weight, table, rtol=0, atol=1e-6)
    assert_close(layer(tokens), layer.weight[tokens], **EXACT)
    with torch.no_grad():
        assert_close(layer(tokens), layer.weight[tokens], **EXACT)


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("n_kinds", [1, 2])
def test_head_is_its_table(n_kinds: int, order: int) -> None:
    head = DigitHead(5, 16 * n_kinds, digit_products(4, 0.6, order)).double()
    x = torch.randn(3, 2, 5, generator=generator(), dtype=torch.float64)
    kinds = head.map(x).chunk(n_kinds, dim=-1)
    expected = torch.cat([kind @ head.products.T for kind in kinds], dim=-1)
    assert_close(head(x), expected, **EXACT)
    with torch.no_grad():
        assert_close(head(x), expected, **EXACT)


def test_vectors_start_as_those_of_a_table() -> None:
    """Unit variance of every channel: 256 x 64 numbers, each mean square within 5 sigma."""
    core = Transformer(
        257,
        256,
        4,
        d_model=64,
        attention="softmax",
        products=digit_products(8, 0.5),
        generator=generator(),
    )
    squares = core.embedding.weight.detach().square().mean(0)  # of 257 correlated rows
    assert_close(squares.mean().item(), 1.0, rtol=0, atol=0.25)


def test_tables_without_products() -> None:
    assert isinstance(token_embedding(5, 3, None), torch.nn.Embedding)
    assert isinstance(token_head(3, 5, None), torch.nn.Linear)


@pytest.mark.parametrize(
    ("decay", "order"), [(0.0, 2), (1.5, 2), (math.nan, 2), (0.5, 0), (0.5, 5)]
)
def test_bad_products(decay: float, order: int) -> None:
    with pytest.raises(ValueError, match="must be in"):
        digit_products(4, decay, order)


def test_outputs_that_are_no_tokens() -> None:
    with pytest.raises(ValueError, match="n_outputs=17 is not a multiple of 16 tokens"):
        DigitHead(3, 17, digit_products(4, 0.5))
