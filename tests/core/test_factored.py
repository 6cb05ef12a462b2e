"""Factored attention against its formula, and where it looks before anything is learned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from nqs.core.factored import PLACE_SHARE, PairWeights, displacements, distances
from nqs.vmc.optimizers.layer_rules import Seen, Span, pair_weights

EXACT = {"rtol": 0.0, "atol": 1e-12}
N_HEADS, LENGTH, D_MODEL = 3, 6, 12


def pairs(seed: int = 0) -> PairWeights:
    layer = PairWeights(N_HEADS, LENGTH).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (layer.shared, layer.own):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
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
@pytest.mark.parametrize("parameter", ["shared", "own"])
def test_jacobian_of_each_sample(parameter: str, length: int) -> None:
    """The natural gradient's rule against backward passes of one sample after another."""
    layer, values = pairs(), random_values(4, length)
    gradients = random_values(4, length).flip(0)
    expected = []
    for v, g in zip(values, gradients, strict=True):
        (row,) = torch.autograd.grad((layer(v[None]) * g).sum(), getattr(layer, parameter))
        expected.append(row[1:].flatten())
    width = getattr(layer, parameter).shape[1]
    wider = torch.full((4, (N_HEADS - 1) * width + 2), torch.nan).double()
    span = Span(parameter, width, (N_HEADS - 1) * width)
    pair_weights(layer, Seen(values, gradients, length), span, wider[:, 1:-1])
    assert_close(wider[:, 1:-1], torch.stack(expected), **EXACT)


def test_pairs_of_a_kind() -> None:
    """By displacement; those with the start token; those that are alone."""
    places = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1 + 1e-9], [5, 5]])
    rows, columns = torch.tril_indices(5, 5)
    kinds, n_kinds = displacements(rows, columns, places)
    found: dict[int, set[tuple[int, int]]] = {}
    for kind, i, j in zip(kinds.tolist(), rows.tolist(), columns.tolist(), strict=True):
        found.setdefault(kind, set()).add((i, j))
    start = {(i, 0) for i in range(5)}
    right, up = {(1, 1), (3, 3)}, {(2, 1), (3, 2)}
    alone = found.pop(n_kinds)
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, [start, right, up]))
    assert alone == {(2, 2), (3, 1), (4, 1), (4, 2), (4, 3), (4, 4)}


def test_metric_of_the_weights() -> None:
    """A step along the gradient changes a by (PLACE_SHARE + [same displacement]) grad_a."""
    layer = PairWeights(N_HEADS, LENGTH).double()
    generator = torch.Generator().manual_seed(7)
    gradient = torch.randn(layer.weights.shape, generator=generator, dtype=torch.float64)
    (layer.weights * gradient).sum().backward()
    before = layer.weights.detach()
    with torch.no_grad():
        for parameter in layer.parameters():
            assert parameter.grad is not None
            parameter.add_(parameter.grad)
    i, j = layer.rows, layer.columns
    kinds = torch.where(j == 0, -1, i - j)
    same = (kinds[:, None] == kinds).double()
    expected = gradient @ (same + PLACE_SHARE * torch.eye(len(i)))
    assert_close(layer.weights.detach() - before, expected, rtol=0, atol=1e-6)


def test_a_single_place_shares_nothing() -> None:
    layer = PairWeights(N_HEADS, 1)
    assert layer.shared.shape == (N_HEADS, 0)
    assert_close(layer.weights, torch.ones(N_HEADS, 1))


@torch.no_grad()
def test_set() -> None:
    layer = PairWeights(N_HEADS, LENGTH, torch.rand(LENGTH, 2)).double()
    weights = torch.randn(layer.own.shape, dtype=torch.float64)
    layer.set(weights)
    assert_close(layer.weights, weights, rtol=0, atol=1e-7)


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
