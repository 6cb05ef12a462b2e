"""Parameters carried over to lattices of other sizes."""

from __future__ import annotations

import pytest
import torch
from systems import MODELS, build, random_bits

from hamiltonians.lattices.lattice import Chain, Honeycomb, Kagome, Lattice, Positions, Square
from nqs.core.factored import PairWeights
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.transfer import (
    _pairs,
    as_grid,
    correspondence,
    counterparts,
    displacements,
    like,
    token_groups,
    transfer,
)

SIZES: dict[str, tuple[Lattice, Lattice, str]] = {
    "chain": (Chain(6), Chain(10), "2"),
    "chain-remainder": (Chain(7), Chain(11), "2"),
    "ring": (Chain(6, periodic=True), Chain(10, periodic=True), "2"),
    "square": (Square(4, 4), Square(6, 4), "2x2"),
    "rectangle": (Square(4, 2), Square(6, 4), "2x1"),
    "smaller": (Square(4, 6), Square(4, 4), "2x2"),
    "remainder": (Square(3, 4), Square(5, 6), "2x2"),
    "cylinder": (Square(4, 3, (False, True)), Square(6, 4, (False, True)), "1x1"),
    "rows": (Square(3, 2), Square(4, 4), "2"),
    "kagome": (Kagome(2, 2), Kagome(3, 2), "1x1"),
    "honeycomb": (Honeycomb(2, 2), Honeycomb(4, 2), "2x1"),
}
SQUARES = ("square", "rectangle", "smaller", "remainder", "cylinder")
OTHERS = ("chain-remainder", "rows", "kagome", "honeycomb")


def probabilities(psi: Autoregressive, configs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return 2 * psi.log_psi(configs)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("lattice", [Square(3, 4), Positions(torch.rand(10, 2).double())])
def test_to_the_same_lattice_is_the_identity(model: str, lattice: Lattice) -> None:
    """Remainders and free positions included."""
    source, target = (
        build(model, lattice, "4" if lattice.shape is None else "2x2", seed=s) for s in (1, 2)
    )
    transfer(source, target, lattice, lattice)
    theirs, ours = source.state_dict(), target.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    configs = random_bits(20, lattice.n_sites)
    assert torch.equal(probabilities(source, configs), probabilities(target, configs))


@pytest.mark.parametrize("system", SIZES)
def test_places_of_one_lattice_correspond_to_themselves(system: str) -> None:
    """By the way through grids, not by the shortcut for equal groups."""
    for lattice in SIZES[system][:2]:
        groups = token_groups(build("gru", lattice, SIZES[system][2]))
        grid = as_grid(groups, lattice)
        assert grid is not None
        every = list(range(len(groups)))
        assert _pairs(grid, grid, every) == list(range(len(groups) * (len(groups) + 1) // 2))


@pytest.mark.parametrize("system", SIZES)
def test_pairs_keep_their_displacement_and_form(system: str) -> None:
    small, large, spec = SIZES[system]
    before, after = (token_groups(build("gru", x, spec)) for x in (small, large))
    match = correspondence(before, after, small, large)
    there, here = as_grid(before, small), as_grid(after, large)
    assert there is not None and here is not None
    assert len(match.places) == len(after) and match.places[0] == 0
    rows, columns = torch.tril_indices(len(before), len(before)).tolist()
    found = 0
    for number, (t, u) in zip(
        match.pairs.tolist(), torch.tril_indices(len(after), len(after)).T.tolist(), strict=True
    ):
        m = int(match.places[t])
        assert there.layouts[m] == here.layouts[t]
        assert number < 0 or rows[number] == m
        if u == 0:
            assert (rows[number], columns[number]) == (m, 0)
        elif number >= 0:
            t0, u0 = rows[number], columns[number]
            assert set(displacements(there, t0, u0 - 1)) & set(displacements(here, t, u - 1))
            assert there.layouts[u0 - 1] == here.layouts[u - 1]
            found += 1
    assert found >= len(after) // 2


@pytest.mark.parametrize(
    ("n_after", "n_before", "expected"),
    [
        (3, 2, [0, 1, 1]),
        (4, 2, [0, 1, 1, 1]),
        (5, 3, [0, 1, 1, 1, 2]),
        (6, 4, [0, 1, 2, 2, 2, 3]),
        (3, 1, [0, 0, 0]),
        (4, 4, [0, 1, 2, 3]),
        (3, 5, [0, 1, 4]),
        (2, 4, [0, 3]),
    ],
)
def test_rows_keep_their_ends(n_after: int, n_before: int, expected: list[int]) -> None:
    assert [like(i, n_after, n_before) for i in range(n_after)] == expected


def test_middle_patches_come_from_the_middle_and_edges_from_edges() -> None:
    """Of an 8x8 array on a 16x16 one, in patches of 2x2: a patch that touches no edge starts from
    one that touches none, one that touches some from one that touches the same."""

    def edges(place: tuple[int, int], n: int) -> tuple[int, ...]:
        return tuple((i == 0) - (i == n - 1) for i in place)

    small, large = Square(8, 8), Square(16, 16)
    before, after = (token_groups(build("gru", x, "2x2")) for x in (small, large))
    places = counterparts(before, after, small, large)
    there, here = as_grid(before, small), as_grid(after, large)
    assert there is not None and here is not None
    for t, m in enumerate(places):
        assert edges(there.places[m], 4) == edges(here.places[t], 8)
    middle = places[here.places.index((4, 4))]
    assert there.places[middle] == (2, 2)


def test_a_bulk_patch_of_edges_alone_is_not_the_first() -> None:
    """From 4x4 to 8x8 in patches of 2x2 all patches of the source are corners; the first row and
    column know no past."""
    small, large = Square(4, 4), Square(8, 8)
    before, after = (token_groups(build("gru", x, "2x2")) for x in (small, large))
    places = counterparts(before, after, small, large)
    assert places == [0, 1, 1, 1, *[2, 3, 3, 3] * 3]


GROWN = [(model, name) for model in MODELS for name in ("chain", "ring")] + [
    (model, name)
    for place, model in enumerate(m for m in MODELS if not m.startswith("lptf-"))
    for name in (SQUARES[place % len(SQUARES)], OTHERS[place % len(OTHERS)])
]
"""The pairs of successive patches of these tests' lptf are a grid on chains alone."""


@pytest.mark.parametrize(("model", "system"), GROWN)
def test_every_model_grows(model: str, system: str) -> None:
    """Normalised conditionals, and the first patch, before which nothing lies, keeps its own."""
    small, large, spec = SIZES[system]
    source, target = build(model, small, spec, seed=1), build(model, large, spec, seed=2)
    transfer(source, target, small, large)
    start = torch.full((1, 1), source.patches.n_states)
    with torch.no_grad():
        (one, norm, _), (other, other_norm, _) = (
            psi.conditionals(start) for psi in (source, target)
        )
    torch.testing.assert_close(one - norm[..., None], other - other_norm[..., None])


@pytest.mark.parametrize("model", ["factored", "linear", "gru", "rnn2d", "lptf-gru"])
def test_independent_sites_stay_what_they_were(model: str) -> None:
    """A product state, of equal sites, becomes the product state of the larger lattice."""
    small, large = Chain(8), Chain(12)
    source, target = (build(model, lattice, "2", seed=4) for lattice in (small, large))
    source.set_product_state(torch.full((8,), 0.3, dtype=torch.float64), spread=0.0)
    transfer(source, target, small, large)
    configs = random_bits(30, 12)
    n_up = configs.sum(1).double()
    expected = (
        n_up * torch.tensor(0.3).double().log() + (12 - n_up) * torch.tensor(0.7).double().log()
    )
    torch.testing.assert_close(probabilities(target, configs), expected, atol=1e-6, rtol=1e-6)


def test_a_short_ranged_state_is_kept() -> None:
    """Each patch looks at the one before it: the larger lattice repeats the conditionals."""
    source = build("factored", Chain(6), "1", seed=3)
    target = build("factored", Chain(9), "1", seed=5)
    modules = [m for m in source.modules() if isinstance(m, PairWeights)]
    with torch.no_grad():
        for weights in modules:
            t, u = weights.rows, weights.columns
            weights.set(0.7 * (u == t).expand(weights.n_heads, -1))
        source.core.positions.table[:] = source.core.positions.table[2].clone()
        source.bias.table[:] = source.bias.table[2].clone()
    transfer(source, target, Chain(6), Chain(9))
    configs = random_bits(40, 9)
    inputs = target.inputs(target.patches.encode(configs))
    with torch.no_grad():
        logits, norms, _ = target.conditionals(inputs)
        begin, middle, _ = source.conditionals(inputs[:, :6])
        later, end, _ = source.conditionals(inputs[:, 3:])  # a token stands where the start would
    log_probs = logits - norms[..., None]
    torch.testing.assert_close(log_probs[:, :6], begin - middle[..., None])
    torch.testing.assert_close(log_probs[:, 5:], (later - end[..., None])[:, 2:])


def test_what_cannot_be_carried_over_is_refused() -> None:
    grown = build("factored", Square(5, 4), "2x2")
    with pytest.raises(ValueError, match="2 sites has no counterpart of the same form"):
        transfer(build("factored", Square(4, 4), "2x2"), grown, Square(4, 4), Square(5, 4))
    with pytest.raises(ValueError, match="4 sites has no counterpart"):
        transfer(
            build("factored", Square(4, 4), "4"),
            build("factored", Square(4, 4), "2x2"),
            Square(4, 4),
            Square(4, 4),
        )
    with pytest.raises(ValueError, match="periodic directions"):
        transfer(
            build("gru", Chain(6), "2"), build("gru", Chain(8, True), "2"), Chain(6), Chain(8, True)
        )
    free = [Positions(torch.rand(n, 2).double()) for n in (8, 12)]
    with pytest.raises(ValueError, match="no grid"):
        transfer(build("gru", free[0], "4"), build("gru", free[1], "4"), *free)
    with pytest.raises(ValueError, match="no grid"):
        transfer(
            build("gru", Square(3, 4), "5"),
            build("gru", Square(5, 4), "5"),
            Square(3, 4),
            Square(5, 4),
        )
    with pytest.raises(ValueError, match="different kinds"):
        transfer(build("gru", Chain(6), "2"), build("ptf", Chain(6), "2"), Chain(6), Chain(6))
