"""Position embeddings."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from nqs.core.positions import Positions, sinusoids


def test_sinusoids_of_an_index() -> None:
    """sin(t / 10^(4 k / n)) and cos, n = D / 2 frequencies (Vaswani et al., section 3.5)."""
    table = sinusoids(torch.arange(20, dtype=torch.float64)[:, None], 8)
    for t in range(20):
        phases = [t / 1e4 ** (k / 4) for k in range(4)]
        row = [math.sin(x) for x in phases] + [math.cos(x) for x in phases]
        assert_close(table[t], torch.tensor(row, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("d_model", "n_dims"), [(8, 2), (9, 2), (7, 3), (12, 3)])
def test_each_coordinate_has_its_channels(d_model: int, n_dims: int) -> None:
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(6, n_dims, generator=generator, dtype=torch.float64)
    table = sinusoids(places, d_model)
    share = d_model // (2 * n_dims) * 2
    for axis in range(n_dims):
        moved = places.clone()
        moved[:, axis] += 0.7
        changed = (sinusoids(moved, d_model) != table).any(0)
        own = torch.zeros(d_model, dtype=torch.bool)
        own[axis * share : (axis + 1) * share] = True
        assert torch.equal(changed, own)
    assert not table[:, share * n_dims :].any()


@pytest.mark.parametrize("kind", ["learned", "sinusoidal", "grid"])
def test_rows_and_what_is_learned(kind: str) -> None:
    places = torch.arange(10.0).view(5, 2) if kind == "grid" else None
    positions = Positions(kind, 5, 4, places)
    assert len(list(positions.parameters())) == (kind == "learned")
    assert set(positions.state_dict()) == ({"table"} if kind == "learned" else set())
    x = torch.ones(2, 3, 4)
    assert_close(positions(x, 2), 1 + positions.table[2:5].expand(2, 3, 4), rtol=0, atol=0)
