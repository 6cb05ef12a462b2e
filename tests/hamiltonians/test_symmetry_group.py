"""Groups of permutations with inversion: products, generating sets, orbits, characters."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from hamiltonians.exact import basis
from hamiltonians.lattices.characters import named_elements, odd_under
from hamiltonians.lattices.lattice import Chain, Honeycomb, Kagome, Lattice, Positions, Square
from hamiltonians.lattices.symmetry_group import Element, SymmetryGroup

RING, SQUARE, TORUS = Chain(6, True), Square(3, 3), Square(2, 4, True)
LINE = Positions([[0, 0], [1, 2], [2, 4]])
GROUPS = {
    "square": SQUARE.point_group(),
    "ring": RING.space_group() * SymmetryGroup.spin_flip(6),
    "torus": TORUS.space_group() * SymmetryGroup.spin_flip(8),
    "shifts": Honeycomb(2, 2, True).translations(),
    "flip": SymmetryGroup.spin_flip(4),
    "identity": SymmetryGroup.identity(4),
}
every_group = pytest.mark.parametrize("name", GROUPS)


def as_set(group: SymmetryGroup) -> set[tuple[int, ...]]:
    return {(inverted, *row.tolist()) for row, inverted in group}


def product(g: Element, h: Element) -> Element:
    """First h, then g."""
    return h[0][g[0]], g[1] != h[1]


@every_group
def test_it_acts_as_a_group(name: str) -> None:
    """g (h s) = (g h) s, which is an element; a generating set makes all of them."""
    group = GROUPS[name]
    configs = torch.rand(5, group.n_sites, generator=torch.Generator().manual_seed(0)) < 0.5
    images = group.images(configs)  # (B, E, N)
    elements = list(group)
    for (i, g), (j, h) in itertools.product(list(enumerate(elements))[-6:], enumerate(elements)):
        assert product(g, h) in group
        assert torch.equal(
            images[:, j][:, g[0]] ^ g[1], configs[:, product(g, h)[0]] ^ (g[1] ^ h[1])
        )
        chosen = torch.tensor([i, j, i, j, i])
        assert torch.equal(group.act(configs, chosen), images[torch.arange(5), chosen])
    generating_set = group.generating_set()
    assert 2 ** len(generating_set) <= len(group)
    if generating_set:
        assert as_set(SymmetryGroup.generated_by(generating_set)) == as_set(group)


@every_group
def test_orbits_and_representatives(name: str) -> None:
    group = GROUPS[name]
    labels = group.orbits().tolist()
    for i in range(group.n_sites):
        orbit = set(group.permutations[:, i].tolist())
        assert orbit == {j for j in range(group.n_sites) if labels[j] == labels[i]}
    assert list(dict.fromkeys(labels)) == list(range(max(labels) + 1))
    configs = basis(group.n_sites)[::5]
    for config, one in zip(configs, group.representatives(configs).tolist(), strict=True):
        assert one == min(group.images(config[None])[0].tolist())


def test_products_are_sorted_and_say_what_they_are() -> None:
    group = RING.translations() * SymmetryGroup.spin_flip(6)
    assert group.permutations[0].tolist() == list(range(6)) and len(group) == 12
    rows = [(inverted, *row.tolist()) for row, inverted in group]
    assert rows == sorted(rows)
    assert as_set(RING.translations() * RING.point_group()) == as_set(RING.space_group())
    assert repr(group) == "SymmetryGroup(12 elements on 6 sites, 6 of them invert all bits)"
    assert repr(SymmetryGroup.identity(2)) == "SymmetryGroup(1 element on 2 sites)"
    odd = odd_under(RING.translations(), RING, ["shift_x"])
    assert repr(odd) == "SymmetryGroup(6 elements on 6 sites, 3 characters other than 1)"
    with pytest.raises(ValueError, match="not of its factors"):
        _ = odd * SymmetryGroup.spin_flip(6)
    with pytest.raises(ValueError, match="6 and 4 sites"):
        _ = odd * SymmetryGroup.spin_flip(4)


SHIFTS = RING.translations()


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ((torch.tensor([[0, 1, 1, 2, 3, 4]]),), "each of the 6 sites once"),
        ((torch.arange(5),), "each of the 5 sites once"),
        ((torch.arange(6.0)[None],), "each of the 6 sites once"),
        ((torch.arange(6).repeat(2, 1),), "twice"),
        ((torch.arange(6).roll(1)[None],), "identity is missing"),
        ((torch.stack([torch.arange(6), torch.arange(6).roll(1)]),), "no group"),
        ((torch.arange(6)[None], torch.zeros(2).bool()), "1 bools"),
        ((SHIFTS.permutations, None, torch.ones(5)), "6 numbers of modulus 1"),
        ((SHIFTS.permutations, None, 2 * torch.ones(6)), "modulus 1"),
        ((SHIFTS.permutations, None, torch.tensor([1, -1, -1, 1, 1, 1.0])), "no representation"),
        ((torch.arange(6)[None], None, torch.tensor([-1.0])), "no representation"),
    ],
)
def test_what_is_no_group(arguments: tuple[Tensor, ...], culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        SymmetryGroup(*arguments)


def test_too_many_products_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hamiltonians.lattices.symmetry_group.MAX_GENERATED", 100)
    exchange = torch.tensor([1, 0, 2, 3, 4, 5])
    with pytest.raises(ValueError, match="more than 100 elements"):
        SymmetryGroup.generated_by([(exchange, False), (torch.arange(6).roll(1), False)])


NAMES: list[tuple[Lattice, list[str]]] = [
    (Chain(4), ["rotation180", "mirror90"]),
    (Chain(4, True), ["shift_x", "rotation180", "mirror90"]),
    (
        SQUARE,
        [*(f"rotation{a}" for a in (90, 180, 270)), *(f"mirror{a}" for a in (0, 45, 90, 135))],
    ),
    (Square(2, 3, (False, True)), ["shift_y", "rotation180", "mirror0", "mirror90"]),
    (Kagome(1, 1), ["rotation120", "rotation240", "mirror30", "mirror90", "mirror150"]),
    (LINE, ["rotation180"]),
    (Positions([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]]), []),
]


@pytest.mark.parametrize(("lattice", "names"), NAMES, ids=lambda value: str(value)[:30])
def test_names_of_symmetries(lattice: Lattice, names: list[str]) -> None:
    group = lattice.space_group()
    assert list(named_elements(group, lattice)) == names
    flipped = group * SymmetryGroup.spin_flip(lattice.n_sites)
    assert list(named_elements(flipped, lattice)) == ["spin_flip", *names]


def all_signs(group: SymmetryGroup) -> set[tuple[int, ...]]:
    """Every character of +-1, by trying all signs of a generating set on all words."""
    generating_set, found = group.generating_set(), set()
    numbers = {(inverted, *row.tolist()): i for i, (row, inverted) in enumerate(group)}
    for signs in itertools.product((1, -1), repeat=len(generating_set)):
        values = {0: 1}
        frontier = [(torch.arange(group.n_sites), False)]
        consistent = True
        while frontier:
            h = frontier.pop()
            value = values[numbers[h[1], *h[0].tolist()]]
            for g, sign in zip(generating_set, signs, strict=True):
                image = product(g, h)
                i = numbers[image[1], *image[0].tolist()]
                if i not in values:
                    values[i] = value * sign
                    frontier.append(image)
                consistent &= values[i] == value * sign
        if consistent:
            found.add(tuple(values[i] for i in range(len(group))))
    return found


@pytest.mark.parametrize(
    ("group", "lattice"),
    [
        (SQUARE.point_group(), SQUARE),
        (GROUPS["ring"], RING),
        (Chain(5, True).space_group(), Chain(5, True)),
        (Square(2, 2, True).space_group(), Square(2, 2, True)),
        (Kagome(1, 1).point_group(), Kagome(1, 1)),
    ],
    ids=["square", "ring", "odd ring", "small torus", "triangle"],
)
def test_signs_are_characters_and_all_there_are(group: SymmetryGroup, lattice: Lattice) -> None:
    """Some odd elements: a character that is -1 there and +1 elsewhere if it can be, or none is."""
    expected = all_signs(group)
    elements = named_elements(group, lattice)
    numbers = {(inverted, *row.tolist()): i for i, (row, inverted) in enumerate(group)}
    places = {name: numbers[flip, *row.tolist()] for name, (row, flip) in elements.items()}
    chosen = list(elements)[:2] + list(elements)[-1:]
    seen = set()
    for keep in itertools.product((True, False), repeat=len(chosen)):
        odd = list(itertools.compress(chosen, keep))
        fitting = [chi for chi in expected if all(chi[places[name]] == -1 for name in odd)]
        if not fitting:
            with pytest.raises(ValueError, match="no state is odd under"):
                odd_under(group, lattice, odd)
            continue
        character = tuple(odd_under(group, lattice, odd).characters.real.int().tolist())
        assert character in fitting
        order = [places[name] for name in elements]  # others even where they can be, in this order
        assert character == max(fitting, key=lambda chi: [chi[i] for i in order])
        seen.add(character)
    assert len(seen) > 1 or len(expected) == 1


def test_a_character_by_name() -> None:
    """B1 of the square: odd under quarter turns, even under mirrors along the bonds."""
    group = odd_under(SQUARE.point_group(), SQUARE, ["rotation90"])
    signs = {
        name: int(group.characters[group.index(element)].real)
        for name, element in named_elements(group, SQUARE).items()
    }
    assert [name for name, sign in signs.items() if sign < 0] == [
        "rotation90",
        "rotation270",
        "mirror45",
        "mirror135",
    ]
    assert odd_under(SQUARE.point_group(), SQUARE, []).is_trivial
    with pytest.raises(ValueError, match=r"shift_x is not among .* here: rotation90, .*mirror135"):
        odd_under(SQUARE.point_group(), SQUARE, ["shift_x"])
    with pytest.raises(ValueError, match="no state is odd under rotation180 at once"):
        odd_under(SQUARE.point_group(), SQUARE, ["rotation180"])
