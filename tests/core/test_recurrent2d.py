"""The two-dimensional cell against its formula on a dictionary of places, and its path."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from nqs.core.recurrent2d import Recurrent2D, zigzag

VOCAB, OUTPUTS = 6, 5


@pytest.mark.parametrize(("rows", "columns"), [(1, 5), (5, 1), (2, 3), (3, 4)])
def test_zigzag_steps_to_neighbours(rows: int, columns: int) -> None:
    path = list(zigzag(rows, columns))
    assert len(set(path)) == rows * columns and path[0] == (0, 0)
    assert sorted(path) == [(r, c) for r in range(rows) for c in range(columns)]
    for (r, c), (s, d) in itertools.pairwise(path):
        assert abs(r - s) + abs(c - d) == 1 and s >= r


def written_out(model: Recurrent2D, tokens: Tensor) -> Tensor:
    """Every place looks up its two neighbours' hidden vectors and tokens; tokens[:, t] was written
    at place t - 1, and the first place reads the start token."""
    path = list(zigzag(*model.grid))
    hidden: dict[tuple[int, int], Tensor] = {}
    nobody = torch.full_like(tokens[:, 0], VOCAB)
    logits = []
    for t, (r, c) in enumerate(path):
        left = (r, c - 1) if r % 2 == 0 else (r, c + 1)
        above = (r - 1, c)
        pieces = []
        for place in (left, above):
            known = place in hidden
            token = tokens[:, path.index(place) + 1] if known else nobody
            if t == 0 and place == left:
                token = tokens[:, 0]
            at_rest = torch.zeros(len(tokens), model.d_model).double()
            pieces.append((model.embedding.weight[token], hidden.get(place, at_rest)))
        (e_a, h_a), (e_v, h_v) = pieces
        one = torch.ones(len(tokens), 1).double()
        x, y = torch.cat([one, e_a, e_v], dim=1), torch.cat([one, h_a, h_v], dim=1)
        tensor = model.cell.products.weight.view(-1, x.shape[1], y.shape[1])
        p, q = torch.einsum("gij,ri,rj->rg", tensor, x, y).chunk(2, dim=1)
        z = q.sigmoid()
        carried = torch.cat([h_a, h_v], dim=1) @ model.cell.merge.weight.T
        hidden[r, c] = z * p.tanh() + (1 - z) * carried
        logits.append(hidden[r, c] @ model.head.weight.T + model.head.bias)
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("grid", [(1, 6), (6, 1), (2, 3), (3, 2), (4, 3)])
@torch.no_grad()
def test_written_out(grid: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    model = Recurrent2D(VOCAB, OUTPUTS, grid, d_model=4, d_embed=3, generator=generator).double()
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter += 0.3 * noise
    tokens = torch.randint(VOCAB, (5, grid[0] * grid[1]), generator=generator)
    expected = written_out(model, tokens)
    assert_close(model(tokens)[0], expected, rtol=0, atol=1e-12)
    state = model.start(5, tokens.shape[1])
    for t in range(tokens.shape[1]):
        logits, state = model(tokens[:, t : t + 1], state)
        assert_close(logits[:, 0], expected[:, t], rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_state_is_one_row_of_the_grid() -> None:
    model = Recurrent2D(VOCAB, OUTPUTS, (7, 3), d_model=4)
    _, state = model(torch.zeros(2, 20, dtype=torch.int64))
    assert [tuple(m.shape) for m in state.memory] == 3 * [(2, 4)] + 3 * [(2,)]


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        ((0, 3), {}, "rows=0 must be a positive integer"),
        ((3, -1), {}, "columns=-1 must be a positive integer"),
        ((3, 3), {"d_model": 0}, "d_model=0 must be a positive integer"),
        ((3, 3), {"d_embed": 1.5}, "d_embed=1.5 must be a positive integer"),
    ],
)
def test_bad_arguments(grid: tuple[int, int], options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recurrent2D(VOCAB, OUTPUTS, grid, **options)
