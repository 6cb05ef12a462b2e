"""The cost of patches against counting, and which of them are taken."""

from __future__ import annotations

import pytest
import torch

from hamiltonians.lattices.lattice import Chain, Kagome, Square, Triangular
from nqs.core.transformer import Transformer
from nqs.wavefunctions.patch_costs import (
    LARGE_SITES,
    TokenCost,
    cheapest_spec,
    flip_cost,
    flip_tokens,
)
from nqs.wavefunctions.patches import Patches, auto_spec


def cost_of(width: int) -> TokenCost:
    return lambda k: Transformer.token_cost(k, {"d_model": width, "n_layers": 2, "d_ff": None})


WIDTH = cost_of(32)


@pytest.mark.parametrize("spec", ["2x2", "3x2", "4x2"])
def test_tokens_are_counted_flip_by_flip(spec: str) -> None:
    patches = Patches.from_spec(Square(5, 4), spec)
    changed = patches.encode(torch.eye(20, dtype=torch.bool)) != 0  # (N, T)
    first = changed.to(torch.int8).argmax(1)
    assert flip_tokens(patches) == int((patches.n_patches - 1 - first).sum())


def test_tokens_of_equal_patches() -> None:
    patches = Patches.from_spec(Square(12, 12), "3x2")
    assert flip_tokens(patches) == 144 * 23 // 2


def test_cost_has_a_best_size() -> None:
    """Tokens win at first, the softmax over 2^12 states in the end."""
    lattice = Square(12, 12)
    costs = [flip_cost(Patches.from_spec(lattice, s), WIDTH) for s in ("1", "2x2", "4x2", "4x3")]
    assert costs[0] > costs[1] > costs[2] and costs[3] > costs[2]


def test_wider_networks_take_larger_patches() -> None:
    shares = [
        flip_cost(Patches.from_spec(Square(12, 12), "3x3"), cost_of(width))
        / flip_cost(Patches.from_spec(Square(12, 12), "2x2"), cost_of(width))
        for width in (16, 32, 64, 128)
    ]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    "lattice", [Chain(200), Square(8, 8), Square(2, 60), Kagome(6, 6), Square(4, 4)]
)
def test_about_four_sites_elsewhere(lattice: Chain | Square | Kagome) -> None:
    assert cheapest_spec(lattice, WIDTH) == auto_spec(lattice)


@pytest.mark.parametrize("lattice", [Square(12, 12), Triangular(16, 16)])
def test_large_lattices_take_the_cheapest(lattice: Square | Triangular) -> None:
    assert lattice.n_sites >= LARGE_SITES
    chosen = cheapest_spec(lattice, WIDTH)
    cost = flip_cost(Patches.from_spec(lattice, chosen), WIDTH)
    for spec in ("2x2", "3x2"):
        assert cost <= flip_cost(Patches.from_spec(lattice, spec), WIDTH)
