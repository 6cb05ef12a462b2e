"""Factored attention against its formula, and where it looks before anything is learned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from nqs.core.factored import PairWeights, distances

EXACT = {"rtol": 0.0, "atol": 1e-12}
N_HEADS, LENGTH, D_MODEL = 3, 6, 12


def pairs(seed: int = 0) -> PairWeights:
    layer = PairWeights(N_HEADS, LENGTH).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weights.copy_(torch.randn(layer.weights.shape, generator=generator))
    return layer


def written_out(layer: PairWeights, values: Tensor) -> Tensor:
    """sum_{j <= i} a_h(i, j) v_j, one number after another."""
    width = D_MODEL // N_HEADS
    mixed = torch.zeros_like(values)
    for pair, (i, j) in enumerate(zip(layer.rows.tolist(), layer.columns.tolist(), strict=True)):
        if i >= values.shape[1]:
            break
        for head in range(N_HEADS):
            channels = slice(head * width, (head + 1) * width)
            mixed[:, i, channels] += layer.weights[head, pair] * values[:, j, channels]
    return mixed


def random_values(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(*shape, D_MODEL, generator=generator, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 4, LENGTH])
def test_formula(length: int) -> None:
    layer, values = pairs(), random_values(5, length)
    assert_close(layer(values), written_out(layer, values), **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("n_branches", [1, 3])
@pytest.mark.parametrize("n_prefix", [0, 2, LENGTH - 1])
def test_branches_of_a_prefix(n_prefix: int, n_branches: int) -> None:
    layer, values = pairs(), random_values(2 * n_branches, LENGTH)
    prefix = values[::n_branches, :n_prefix]
    values[:, :n_prefix] = prefix.repeat_interleave(n_branches, 0)
    mixed = layer(values[:, n_prefix:], prefix)
    assert_close(mixed, written_out(layer, values)[:, n_prefix:], **EXACT)


@pytest.mark.parametrize("length", [3, LENGTH])
def test_jacobian_of_each_sample(length: int) -> None:
    layer, values = pairs(), random_values(4, length)
    gradients = random_values(4, length).flip(0)
    expected = []
    for v, g in zip(values, gradients, strict=True):
        (row,) = torch.autograd.grad((layer(v[None]) * g).sum(), layer.weights)
        expected.append(row[1:].flatten())
    result = layer.jacobian(values, gradients, slice(1, None))
    assert_close(result, torch.stack(expected), **EXACT)


def test_starts_near() -> None:
    """Weights of each place sum to 1 and fall with the distance from the place that is read."""
    generator = torch.Generator().manual_seed(2)
    places = torch.rand(LENGTH, 2, generator=generator)
    layer = PairWeights(N_HEADS, LENGTH, places)
    dense = layer.dense(0, LENGTH).detach()
    assert_close(dense.sum(-1), torch.ones(N_HEADS, LENGTH))
    assert bool((dense.triu(1) == 0).all())
    between = distances(LENGTH, places)
    for i in range(1, LENGTH):
        read = [float((places[i] - places[j - 1]).norm()) for j in range(1, i + 1)]
        assert_close(between[i, 1 : i + 1] / between[i, 1], torch.tensor(read).double() / read[0])
        order = between[i, : i + 1].argsort()
        for head in dense:
            assert bool((head[i, order].diff() <= 1e-7).all())
