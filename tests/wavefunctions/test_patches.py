"""Patches partition the sites; encode and decode are inverse; bad specifications are refused."""

from __future__ import annotations

import pytest
import torch
from systems import GROUPS, SYSTEMS, every_system, random_bits, scattered
from torch.testing import assert_close

from hamiltonians.exact import basis
from hamiltonians.lattices.lattice import (
    Chain,
    Honeycomb,
    Kagome,
    Lattice,
    Positions,
    Square,
    Triangular,
)
from nqs.wavefunctions.patches import Patches, hilbert_order


def groups_of(patches: Patches) -> list[list[int]]:
    return [
        row[:size].tolist() for row, size in zip(patches.sites, patches.sizes.tolist(), strict=True)
    ]


@every_system
def test_encode_and_decode_are_inverse(system: str) -> None:
    lattice, spec = SYSTEMS[system]
    patches = Patches.from_spec(lattice, spec)
    configs = basis(lattice.n_sites)
    tokens = patches.encode(configs)
    assert tokens.shape == (2**lattice.n_sites, patches.n_patches)
    assert torch.equal(patches.decode(tokens), configs)
    for t in range(patches.n_patches):  # every state that exists occurs, and no other
        seen = torch.zeros(patches.n_states, dtype=torch.bool)
        seen[tokens[:, t]] = True
        assert torch.equal(seen, patches.allowed()[t])


@every_system
def test_tokens_are_the_bits_of_their_sites(system: str) -> None:
    lattice, spec = SYSTEMS[system]
    patches = Patches.from_spec(lattice, spec)
    for config in random_bits(20, lattice.n_sites):
        token = patches.encode(config[None])[0]
        for t, group in enumerate(groups_of(patches)):
            assert int(token[t]) == sum(int(config[site]) << j for j, site in enumerate(group))
            bits = patches.state_bits()[token[t], : len(group)]
            assert torch.equal(bits, config[group])


@every_system
def test_flipping_sites_is_xor_of_tokens(system: str) -> None:
    lattice, spec = SYSTEMS[system]
    patches = Patches.from_spec(lattice, spec)
    configs, flips = random_bits(30, lattice.n_sites), random_bits(30, lattice.n_sites, seed=1)
    assert torch.equal(
        patches.encode(configs ^ flips), patches.encode(configs) ^ patches.encode(flips)
    )


@pytest.mark.parametrize(
    ("lattice", "spec", "groups"),
    [
        (Chain(7), "3", [[0, 1, 2], [3, 4, 5], [6]]),
        (Chain(4), 2, [[0, 1], [2, 3]]),
        (Square(3, 4), "2x2", [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9], [10, 11]]),
        (Square(3, 4), "2x3", [[0, 1, 2, 4, 5, 6], [3, 7], [8, 9, 10], [11]]),
        (Square(3, 4), "1x4", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
        (Square(3, 4), "5", [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]),
        (Square(2, 4), "auto", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        (Triangular(2, 2), "auto", [[0, 1, 2, 3]]),
        (Kagome(2, 1), "1x1", [[0, 1, 2], [3, 4, 5]]),
        (Kagome(2, 2), "auto", [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]),
        (Honeycomb(2, 2), "auto", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        (Chain(6), "auto", [[0, 1, 2, 3], [4, 5]]),
        (Chain(3), "auto", [[0, 1, 2]]),
        (Square(3, 3), GROUPS, GROUPS),
    ],
)
def test_known_patches(lattice: Lattice, spec: object, groups: list[list[int]]) -> None:
    assert groups_of(Patches.from_spec(lattice, spec)) == groups


@pytest.mark.parametrize(
    ("lattice", "spec", "grid", "path"),
    [
        (Square(4, 4), "2x2", (2, 2), [0, 1, 3, 2]),
        (Square(3, 4), "2x2", (2, 2), [0, 1, 3, 2]),  # does not divide
        (Square(5, 3), "2x2", (3, 2), [0, 1, 3, 2, 4, 5]),
        (Square(3, 6), "1x2", (3, 3), [0, 1, 2, 5, 4, 3, 6, 7, 8]),
        (Square(2, 6), "3", (2, 2), [0, 1, 3, 2]),  # two runs a row
        (Square(4, 2), "4", (1, 2), [0, 1]),  # two rows a run
        (Square(4, 3), "2x3", (1, 2), [0, 1]),  # a single column is a line
        (Kagome(2, 2), "auto", (2, 2), [0, 1, 3, 2]),
        (Kagome(2, 2), "2x1", (1, 2), [0, 1]),
        (Honeycomb(3, 2), "2x1", (2, 2), [0, 1, 3, 2]),
        (Honeycomb(2, 2), "1", (2, 4), [0, 1, 2, 3, 7, 6, 5, 4]),
        (Triangular(3, 2), "1x1", (3, 2), [0, 1, 3, 2, 4, 5]),
        (Chain(7), "3", (1, 3), [0, 1, 2]),
        (Chain(6), "2x1", (1, 3), [0, 1, 2]),
        (Chain(5), "auto", (1, 2), [0, 1]),
    ],
)
def test_zigzag_path(lattice: Lattice, spec: str, grid: tuple[int, int], path: list[int]) -> None:
    """The same patches, every second row of the grid backwards."""
    raster = Patches.from_spec(lattice, spec)
    zigzag = Patches.from_spec(lattice, spec, path="zigzag")
    assert raster.grid == zigzag.grid == grid
    assert groups_of(zigzag) == [groups_of(raster)[t] for t in path]


@pytest.mark.parametrize(
    ("lattice", "spec"),
    [
        (scattered(8), "2x2"),
        (scattered(8), "4"),
        (Square(3, 4), "3"),
        (Square(3, 4), "5"),
        (Square(3, 3), GROUPS),
    ],
)
def test_patches_that_are_no_grid(lattice: Lattice, spec: object) -> None:
    assert Patches.from_spec(lattice, spec).grid is None
    with pytest.raises(ValueError, match="not a grid of patches; use 'AxB'"):
        Patches.from_spec(lattice, spec, path="zigzag")


def test_unknown_path() -> None:
    with pytest.raises(ValueError, match="path='spiral' is unknown; allowed: raster, zigzag"):
        Patches.from_spec(Square(4, 4), "2x2", path="spiral")


def test_centres() -> None:
    patches = Patches.from_spec(Square(3, 4), "2x2")
    expected = [[0.5, 0.5], [0.5, 2.5], [2.0, 0.5], [2.0, 2.5]]
    assert_close(patches.centres, torch.tensor(expected, dtype=torch.float64))
    assert_close(Patches([[1], [0, 2]]).centres, torch.tensor([[0.0], [1.0]], dtype=torch.float64))


@pytest.mark.parametrize("shape", [(4, 4), (8, 8), (4, 4, 4)])
def test_hilbert_curve_steps_to_neighbours(shape: tuple[int, ...]) -> None:
    """On a grid of 2^k points a side the curve visits every point and moves by one each step."""
    places = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in shape))
    shuffled = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(1))]
    order = hilbert_order(shuffled)
    assert sorted(order) == list(range(len(places)))
    assert_close(shuffled[order].diff(dim=0).abs().sum(1), torch.ones(len(places) - 1).double())


def test_hilbert_curve_on_awkward_positions() -> None:
    assert hilbert_order(torch.zeros(1, 2, dtype=torch.float64)) == [0]
    line = torch.tensor([[3.0, 5.0], [1.0, 5.0], [2.0, 5.0]], dtype=torch.float64)
    assert hilbert_order(line) in ([1, 2, 0], [0, 2, 1])
    lattice = scattered(10)
    assert groups_of(Patches.from_spec(lattice, "2x2")) == groups_of(
        Patches.from_spec(lattice, "4")
    )
    path = [site for group in groups_of(Patches.from_spec(lattice, "3")) for site in group]
    assert path == hilbert_order(lattice.positions)


@pytest.mark.parametrize(
    ("lattice", "spec", "message"),
    [
        (Chain(4), "", "patch='' is not understood"),
        (Chain(4), "two", "patch='two' is not understood"),
        (Chain(4), "0", "patch='0' is not understood"),
        (Chain(4), -2, "patch=-2 is not understood"),
        (Chain(4), True, "patch=True is not understood"),
        (Chain(4), "2x", "patch='2x' is not understood"),
        (Square(4, 4), "2x2x2", "patch='2x2x2' is not understood"),
        (Square(4, 4), "0x2", "patch='0x2' is not understood"),
        (Square(4, 4), "2.0", "patch='2.0' is not understood"),
        (Chain(4), "5", "patch=5 is larger than the lattice's 4 sites"),
        (Chain(4), "2x2", "'2x2' is larger than the lattice's 4x1 cells"),
        (Square(2, 4), "4x2", "'4x2' is larger than the lattice's 2x4 cells"),
        (
            Positions([[0.0, 0.0], [1.0, 0.0]]),
            "2x2",
            "patch=4 is larger than the lattice's 2 sites",
        ),
        (Square(4, 4), "4x4", r"16 sites need a softmax over 2\^16 states; use at most 12"),
        (Square(6, 6), "6x6", r"softmax over 2\^36 states"),
        (Kagome(3, 2), "3x2", r"softmax over 2\^18 states"),
        (Chain(16), "13", r"softmax over 2\^13 states"),
        (Chain(4), [], "every patch needs at least one site"),
        (Chain(4), [[0, 1, 2, 3], []], "every patch needs at least one site"),
        (Chain(4), [[0, 1], [1, 2, 3]], "exactly once"),
        (Chain(4), [[0, 1], [3]], "exactly once"),
        (Chain(4), [[-1, 0], [1, 2]], "exactly once"),
        (Chain(4), [[0, 1], [2]], r"every site 0\.\.3"),
        (Chain(4), [[0, 1], [2, 3], [4]], r"every site 0\.\.3"),
    ],
)
def test_bad_specifications(lattice: Lattice, spec: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        Patches.from_spec(lattice, spec)
    assert "\n" not in str(raised.value)
