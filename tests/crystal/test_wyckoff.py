"""The Wyckoff tokeniser: descriptions and their equivalents, round trips, what may be drawn."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections import Counter

import gemmi
import numpy as np
import pytest
import spglib
import torch
from prototypes import caesium_chloride, perovskite, rock_salt, shaken
from test_generation import model_for
from test_grammar import walk

from benchmarks.superposition import displacement
from nqs.crystal.datasets.examples import examples
from nqs.crystal.model.generation import Filters, decode
from nqs.crystal.structures.periodic_distances import shortest_distance
from nqs.crystal.structures.structure import (
    CrystalError,
    Structure,
    cell_matrix,
    cell_parameters,
)
from nqs.crystal.structures.symmetry import call_spglib, canonical, space_group
from nqs.crystal.tokens.coordinate_fields import N_BINS
from nqs.crystal.tokens.tokeniser import Conditions, Tokeniser, structure_type
from nqs.crystal.tokens.wyckoff import WyckoffTokeniser
from nqs.crystal.tokens.wyckoff_description import (
    FREE_RATIOS,
    Description,
    Orbit,
    canonical_of,
    cell_of,
    describe,
    equivalents,
    structure_of,
    table_of,
)

TOKENISER = WyckoffTokeniser(12)
EXAMPLES = {record.name: record.structure for record in examples()}
SALT, WURTZITE = EXAMPLES["NaCl-rocksalt"], EXAMPLES["ZnO-wurtzite"]
RUTILE = structure_of(
    Description(136, 74, (356,), (), (Orbit((1.54, 22), 0, ()), Orbit((3.44, 8), 5, (37,))))
)
QUARTZ = structure_of(  # alpha quartz: P3_1 2 1; its mirror image: P3_2 2 1
    Description(
        152, 83, (410,), (), (Orbit((1.9, 14), 0, (56,)), Orbit((3.44, 8), 2, (50, 32, 14)))
    )
)
CHANGES = ([[1, 1, 0], [0, 1, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
           [[1, 0, 0], [2, 1, 0], [0, -1, 1]])  # fmt: skip


def drawn(n: int, seed: int, *arguments, **question) -> list[list[int]]:
    """Sequences drawn uniformly from what is allowed."""
    generator = torch.Generator().manual_seed(seed)
    return walk(TOKENISER, TOKENISER.grammar(n, *arguments, **question), n, generator).tolist()


def described(row: list[int]) -> Description:
    return TOKENISER.description(row)


@functools.cache
def some_crystals() -> list[Structure]:
    """Of many groups: draws whose atoms are apart, and known ones."""
    structures = [TOKENISER.decode(row)[0] for row in drawn(120, 1)]
    apart = [s for s in structures if shortest_distance(s.matrix, s.positions) > 1.05]
    return [*map(canonical, [*apart, SALT, WURTZITE, RUTILE, QUARTZ, mirrored(QUARTZ)])]


def mirrored(structure: Structure) -> Structure:
    parts = structure.lengths, structure.angles, structure.numbers
    return Structure.wrapped(*parts, -structure.positions)


def in_cell(structure: Structure, change: list[list[int]]) -> Structure:
    """The crystal with the cell vectors `change` @ its own."""
    matrix = np.array(change)
    cell = cell_parameters(matrix @ structure.matrix)
    return Structure.wrapped(*cell, structure.numbers, structure.positions @ np.linalg.inv(matrix))


def check_operations(structure: Structure, description: Description) -> None:
    """The operations, as gemmi has them, keep the metric and the atoms of the conventional cell."""
    table = table_of(description.group)
    cell = cell_matrix(*cell_of(description))
    metric = cell @ cell.T
    points = [table.points(orbit.position, orbit.free) for orbit in description.orbits]
    elements = np.repeat([o.element for o in description.orbits], [len(p) for p in points])
    atoms = np.concatenate(points)  # (A, 3) bins
    n_cells = len(table.group.centring)
    assert len(atoms) == structure.n_atoms * n_cells
    assert structure.volume * n_cells == pytest.approx(np.linalg.det(cell))
    symbol = call_spglib(spglib.get_spacegroup_type, table.group.hall).hall_symbol
    before = sorted(zip(elements.tolist(), map(tuple, atoms.tolist()), strict=True))
    for op in gemmi.symops_from_hall(symbol):
        rotation = np.array(op.rot) // op.DEN
        shift = np.array(op.tran) * N_BINS // op.DEN
        np.testing.assert_allclose(rotation.T @ metric @ rotation, metric, atol=1e-9 * metric.max())
        moved = (atoms @ rotation.T + shift) % N_BINS
        after = sorted(zip(elements.tolist(), map(tuple, moved.tolist()), strict=True))
        assert after == before


def found_group(structure: Structure, description: Description) -> str:
    """Whether spglib finds the group or a higher one, of which the group's operations (of the
    primitive cell) are a part; it finds none where atoms are on one another."""
    if shortest_distance(structure.matrix, structure.positions) < 0.05:
        return "atoms on one another"
    cell = structure.matrix, structure.positions, structure.numbers
    dataset = call_spglib(spglib.get_symmetry_dataset, cell, symprec=1e-4)
    group = table_of(description.group).group
    assert len(dataset.rotations) % (len(group.rotations) // len(group.centring)) == 0
    return "the same" if dataset.number == group.number else "a higher one"


@pytest.mark.parametrize("n", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_draws_of_an_untrained_model_have_their_group(n: int) -> None:
    """All decode, hold their formula, and have the space group that they say or a higher one."""
    model, generator = model_for(TOKENISER), torch.Generator().manual_seed(n)
    counts, groups = Counter[str](), Counter[int]()
    for begin in range(0, n, 500):
        n_rows = min(500, n - begin)
        grammar = TOKENISER.grammar(n_rows)
        tokens, _ = decode(model, TOKENISER, grammar, n_rows, Filters(), generator)
        for row in tokens.tolist():
            structure, known = TOKENISER.decode(row)
            description = described(row)
            assert structure.composition == known.composition == description.composition
            check_operations(structure, description)
            groups[description.group] += 1
            counts[found_group(structure, description)] += 1
    print(f"{n} draws in {len(groups)} groups; spglib finds {dict(counts)}")
    assert counts["the same"] > n / 3 and len(groups) > 60


def test_there_and_back() -> None:
    """The same crystal and hand, in the group that spglib finds; again the same tokens, but where
    two cells are about equally reduced."""
    n_again = 0
    for structure in some_crystals():
        tokens = TOKENISER.encode(structure)
        back, _ = TOKENISER.decode([*tokens, TOKENISER.pad])
        longest = float(cell_of(described(tokens))[0].max())
        assert displacement(structure, back) < 2 * math.sqrt(3) * longest / N_BINS
        assert space_group(back) == space_group(structure)
        n_again += TOKENISER.encode(back) == tokens
    assert n_again > 0.9 * len(some_crystals())


def test_what_lies_on_the_grid_comes_back_exactly() -> None:
    for structure in (SALT, WURTZITE, RUTILE, QUARTZ):
        tokens = TOKENISER.encode(structure)
        back, _ = TOKENISER.decode(tokens)
        assert TOKENISER.encode(back) == tokens
        again, _ = TOKENISER.decode(TOKENISER.encode(back))
        assert displacement(back, again) < 1e-9


def test_the_oracle_says_no() -> None:
    """To another hand, to moved atoms, to exchanged elements, to another cell."""
    quartz = canonical(QUARTZ)
    assert displacement(quartz, quartz) < 1e-9
    assert displacement(quartz, canonical(mirrored(QUARTZ))) > 0.3
    assert 0.02 < displacement(quartz, shaken(quartz, 0.01, 3)) < 0.5
    turned = Structure(SALT.lengths, SALT.angles, SALT.numbers[::-1].copy(), SALT.positions)
    assert displacement(SALT, turned) < 1e-9  # rock salt with its sites exchanged
    sites = EXAMPLES["SrTiO3-perovskite"]
    swapped = np.where(sites.numbers == 38, 22, np.where(sites.numbers == 22, 38, sites.numbers))
    other = Structure(sites.lengths, sites.angles, swapped, sites.positions)
    assert displacement(sites, other) > 1
    assert displacement(SALT, EXAMPLES["KCl-rocksalt"]) == math.inf


@pytest.mark.parametrize("name", ["salt", "wurtzite", "rutile", "quartz"])
def test_tokens_depend_on_the_crystal_alone(name: str) -> None:
    """Not on its origin, cell or order of atoms."""
    structure = {"salt": SALT, "wurtzite": WURTZITE, "rutile": RUTILE, "quartz": QUARTZ}[name]
    tokens, rng = TOKENISER.encode(structure), np.random.default_rng(3)
    for change in CHANGES:
        other = in_cell(structure.shifted(rng.random(3)), change)
        other = other.ordered(rng.permutation(other.n_atoms))
        assert TOKENISER.encode(other) == tokens
    turned = np.diag([-1, -1, 1]).tolist()
    assert TOKENISER.encode(in_cell(structure, turned)) == tokens


def test_the_hand_is_kept() -> None:
    """Quartz and its mirror image have groups of their own; a chiral crystal of P2_1 2_1 2_1 and
    its image have tokens of their own."""
    left, right = TOKENISER.encode(QUARTZ), TOKENISER.encode(mirrored(QUARTZ))
    assert {described(left).group, described(right).group} == {152, 154}
    rank = (1.0, 6)
    chiral = Description(19, 90, (410, 420), (), (Orbit(rank, 0, (7, 22, 41)),))
    structure = structure_of(chiral)
    image = canonical(mirrored(structure))
    assert TOKENISER.encode(image) != TOKENISER.encode(structure)
    assert displacement(image, TOKENISER.decode(TOKENISER.encode(image))[0]) < 0.01
    assert displacement(structure, image) > 0.1


def test_equivalents_are_the_same_crystal_and_all_of_them() -> None:
    """Each once, closed: every member has the same set. (A crystal of P-1, whose origin may be at
    any of 8 centres, with one orbit of two names; wurtzite is polar; rutile.)"""
    centred = Description(2, 90, (410, 420), (80, 85, 75), (Orbit((0.98, 3), 0, ()),
                          Orbit((3.44, 8), 8, (7, 22, 41))))  # fmt: skip
    cases = {"centred": (centred, 8 * 2), "rutile": (describe(RUTILE), None)}
    cases["wurtzite"] = (describe(WURTZITE), None)
    for name, (description, size) in cases.items():
        structure = structure_of(description)
        every = [*equivalents(description)]
        assert len({*every}) == len(every) and description in every
        assert size is None or len(every) == size
        for other in every[:: max(1, len(every) // 12)]:
            assert displacement(structure, structure_of(other)) < 1e-6, name
            assert canonical_of(other) == canonical_of(description)
        assert {*equivalents(every[-1])} == {*every}


def test_equivalents_of_tokens() -> None:
    """Drawn ones are among the enumerated ones, and all of a few come; conditions stay."""
    known = Conditions(None, 136, -2.0)
    tokens = TOKENISER.encode(RUTILE, known)
    every = {tuple(other) for other in TOKENISER.equivalents(tokens)}
    rng = np.random.default_rng(5)
    found = {tuple(TOKENISER.equivalent(tokens, rng)) for _ in range(400)}
    assert found == every  # of at most 16: all come but for a chance of 16 (15/16)^400 = 1e-10
    assert 1 < len(every) <= 16 and tuple(tokens) in every
    for other in every:
        assert len(other) == len(tokens)
        assert TOKENISER.decode(other)[1] == TOKENISER.decode(tokens)[1]


def test_number_of_tokens() -> None:
    """bos, formula, group, two sites of no freedom, the size, eos."""
    assert len(TOKENISER.encode(SALT)) == 1 + 4 + 1 + 1 + 2 * 2 + 1
    assert len(TOKENISER.encode(WURTZITE)) == 1 + 4 + 1 + 2 + 2 * 3 + 1


def test_composition_and_group_are_met() -> None:
    """Perovskites in Pm-3m: the only sites of one atom are a and b."""
    conditions = Conditions({38: 1, 22: 1, 8: 3}, 221, -3.0, 0.02)
    letters = set()
    for row in drawn(100, 3, conditions):
        structure, known = TOKENISER.decode(row)
        assert structure.composition == {38: 1, 22: 1, 8: 3} and known.space_group == 221
        sites = [TOKENISER.fields.vocabulary[t] for t in row if t in TOKENISER.fields.site]
        letters.add(tuple(sorted(sites)))
    assert letters == {("site:a", "site:b", "site:c"), ("site:a", "site:b", "site:d")}
    groups = {described(row).group for row in drawn(100, 4, Conditions({38: 1, 22: 1, 8: 3}))}
    assert len(groups) > 20 and all(groups_hold(group, (1, 1, 3)) for group in groups)


def groups_hold(group: int, counts: tuple[int, ...]) -> bool:
    """Whether some choice of sites comes to the counts, by trying products of them."""
    table = table_of(group)
    sizes = list(zip(table.multiplicities, table.dimensions, strict=True))
    ways = [
        [
            chosen
            for n in range(1, count + 1)
            for chosen in itertools.combinations_with_replacement(range(len(sizes)), n)
            if sum(sizes[k][0] for k in chosen) == count
        ]
        for count in counts
    ]
    for choice in itertools.product(*ways):
        single = [k for chosen in choice for k in chosen if sizes[k][1] == 0]
        if len({*single}) == len(single):
            return True
    return False


def test_a_partial_crystal_keeps_its_group_and_atoms() -> None:
    """Titanium and oxygen of a perovskite: what is added are orbits of Pm-3m."""
    whole = perovskite(3.9, 38, 22)
    frame = whole.ordered([1, 2, 3, 4])
    for conditions in (None, Conditions(whole.composition)):
        for row in drawn(60, 5, conditions, partial=frame):
            structure, known = TOKENISER.decode(row)
            assert described(row).group == 221
            assert structure.lengths == pytest.approx([3.9] * 3, rel=0.01)
            given = structure.ordered(np.flatnonzero(np.isin(structure.numbers, [22, 8])))
            assert given.n_atoms >= 4 and known.composition[8] >= 3
            assert described(row).orbits[:2] == described(TOKENISER.encode(frame)).orbits
            assert structure.volume == pytest.approx(3.9**3, rel=0.016)  # half a step of 3 %
            if conditions is not None:
                assert structure.composition == whole.composition


def test_a_partial_crystal_without_symmetry() -> None:
    """In the group 1, atom by atom."""
    for row in drawn(40, 6, Conditions({11: 1, 17: 1, 8: 2}, 1), partial=SALT):
        structure, _ = TOKENISER.decode(row)
        assert described(row).group == 1 and structure.composition == {11: 1, 8: 2, 17: 1}
        assert structure.lengths == pytest.approx(SALT.lengths, rel=0.01)


def test_refused() -> None:
    for structure, conditions, message in (
        (rock_salt(), None, "its cell holds 4 primitive cells"),
        (SALT, Conditions(None, 221), "space group 225, its condition says 221"),
        (Structure([4.0] * 3, [90.0] * 3, [11, 11], [[0, 0, 0]] * 2), None, "no space group"),
        (Structure([200.0] * 3, [90.0] * 3, [11], [[0, 0, 0]]), None, "volume.*must be within"),
        (Structure([2.0, 2, 150], [90.0] * 3, [11], [[0, 0, 0]]), None, "ratio.*must be within"),
    ):
        with pytest.raises(CrystalError, match=message):
            WyckoffTokeniser(12).encode(structure, conditions)
    with pytest.raises(CrystalError, match=r"no Wyckoff positions of space group 225 .* NaCl3C"):
        TOKENISER.grammar(1, Conditions({11: 1, 17: 3, 6: 1}, 225))
    with pytest.raises(CrystalError, match="225, its condition says 62"):
        TOKENISER.grammar(1, Conditions(None, 62), partial=SALT)
    tiny = Structure([1.1] * 3, [90.0] * 3, [1], [[0, 0, 0]])
    with pytest.raises(CrystalError, match=r"volume / atoms.*must be within"):
        TOKENISER.grammar(1, Conditions({1: 4}), partial=tiny)
    with pytest.raises(CrystalError, match="225 together hold O3 besides the given atoms"):
        TOKENISER.grammar(1, Conditions({11: 1, 17: 1, 8: 3}), partial=SALT)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("Na a Cl a S", "a of space group 225 has no freedom and is named twice"),
        ("Na a Cl m S", "m of space group 225: it has only 12 positions"),
        ("Na a Cl e S 0", "e of space group 225: .* more special one"),
        ("Na a Cl e S", "the end where at:0/120 may be"),
        ("Na a Cl b", "the end where size:1.000 may be"),
        ("Na a Cl b S 0", "at:0/120 where the end may be"),
        ("Na a Cl b 0", "at:0/120 where size:1.000 may be"),
        ("Na a S", "the cell holds Na"),
        ("", "the end where element:H may be"),
    ],
)
def test_spoiled_orbits(spoil: str, message: str) -> None:
    words = {word.split(":")[-1]: token for token, word in enumerate(TOKENISER.vocabulary)
             if word.startswith(("element:", "site:"))}  # fmt: skip
    words |= {"0": TOKENISER.fields.coordinate[0], "S": TOKENISER.fields.size[100]}
    tokens = TOKENISER.encode(SALT)[:-6]  # up to the orbits
    with pytest.raises(CrystalError, match=message):
        TOKENISER.decode([*tokens, *(words[word] for word in spoil.split()), TOKENISER.eos])


def test_hostile_tokens_are_refused_or_a_crystal() -> None:
    rng, tokens = np.random.default_rng(9), TOKENISER.encode(RUTILE, Conditions(None, 136))
    outcomes = Counter()
    for _ in range(400):
        spoilt = [*tokens]
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(len(spoilt)))
            new = rng.integers(-1, len(TOKENISER.vocabulary) + 1, rng.integers(0, 3)).tolist()
            spoilt[place : place + int(rng.integers(0, 3))] = new
        try:
            structure, known = TOKENISER.decode(spoilt)
        except CrystalError as error:
            assert len(str(error)) < 400 and "\n" not in str(error)
            outcomes["refused"] += 1
        else:
            assert structure.composition == known.composition
            outcomes["read"] += 1
    assert outcomes["refused"] > 300


def test_extreme_cells_decode() -> None:
    """Every lattice number at an end of its grid."""
    for group, n_ratios, n_angles in ((225, 0, 0), (166, 1, 0), (70, 2, 0), (5, 2, 1), (2, 2, 3)):
        for ends in itertools.product((0, 250), *[(0, 800)] * n_ratios):
            steps = (400, *ends[1:])
            if max(steps) - min(steps) > 400:
                continue  # refused, and never drawn
            angles = ((0, 5, 5) if n_angles == 3 else (0,))[:n_angles]
            orbit = Orbit((0.98, 3), 0, ()) if group != 5 else Orbit((0.98, 3), 0, (0,))
            structure = structure_of(Description(group, ends[0], ends[1:], angles, (orbit,)))
            volume = structure.n_atoms * math.exp(0.03 * ends[0])
            assert structure.volume == pytest.approx(volume, rel=1e-6)


def test_the_cell_is_that_of_its_numbers() -> None:
    """a^3 r_b r_c f = C A size^3 on random cells of every system, and ratios and angles are met."""
    rng = np.random.default_rng(2)
    for group in (2, 12, 43, 88, 166, 227):
        table = table_of(group)
        for _ in range(20):
            size, n_ratios = int(rng.integers(250)), len(FREE_RATIOS[table.group.system])
            ratios = tuple(rng.integers(300, 500, n_ratios).tolist())
            angles = {2: (80, 85, 75), 12: (95,)}.get(group, ())
            orbits = (Orbit((0.98, 3), 0, (0,) * table.dimensions[0]),)
            described_so = Description(group, size, ratios, angles, orbits)
            lengths, degrees = cell_of(described_so)
            n_atoms = table.multiplicities[0] * len(table.group.centring)
            cell = cell_matrix(lengths, degrees)
            assert np.linalg.det(cell) == pytest.approx(n_atoms * math.exp(0.03 * size))
            for axis, index in zip(FREE_RATIOS[table.group.system], ratios, strict=True):
                assert lengths[axis] / lengths[0] == pytest.approx(math.exp(0.01 * (index - 400)))


def test_structure_types_do_not_depend_on_the_elements_nor_on_the_cell() -> None:
    """Perovskites of several elements and cells have one; rock salt and caesium chloride differ."""
    kinds = set()
    for a, b, corner, centre in ((3.9, 8, 38, 22), (4.6, 9, 19, 12), (6.2, 53, 55, 82)):
        tokens = TOKENISER.encode(canonical(perovskite(a, corner, centre, b)))
        group, sites = TOKENISER.structure_type(tokens)
        kinds.add((group, tuple(position for _, position in sites)))
    assert kinds == {(221, (0, 1, 2))}
    salts = [canonical(rock_salt()), canonical(caesium_chloride())]
    assert len({TOKENISER.structure_type(TOKENISER.encode(s)) for s in salts}) == 2
    for structure in salts:  # and what spglib finds of the atoms is what the tokens say
        tokens = TOKENISER.encode(structure)
        assert structure_type(structure) == TOKENISER.structure_type(tokens)


def test_exchanged_tokens_are_those_of_the_exchanged_crystal() -> None:
    """The oracle: decode, exchange, scale, write again, as every other tokeniser does; but for the
    rounding of the size."""
    for structure in (SALT, WURTZITE, RUTILE, QUARTZ, EXAMPLES["SrTiO3-perovskite"]):
        elements = dict(zip(sorted(structure.composition), (19, 9, 35), strict=False))
        tokens = TOKENISER.encode(structure)
        found = TOKENISER.exchanged(tokens, elements, 1.3)
        expected = Tokeniser.exchanged(TOKENISER, tokens, elements, 1.3)
        one, other = described(found), described(expected)
        assert abs(one.size - other.size) <= 1
        assert dataclasses.replace(one, size=0) == dataclasses.replace(other, size=0)
        assert TOKENISER.decode(found)[0].composition == {
            elements[number]: count for number, count in structure.composition.items()
        }


def test_conditions_are_added_without_a_new_search(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Conditions(RUTILE.composition, 136, -2.0)
    body, expected = TOKENISER.encode(RUTILE), TOKENISER.encode(RUTILE, known)
    assert TOKENISER.conditioned(body, RUTILE, known) == expected
    n_given = TOKENISER.n_condition_tokens(known)
    assert [expected[0], *expected[1 + n_given :]] == body
    with pytest.raises(CrystalError, match="its condition says 62"):
        TOKENISER.conditioned(body, RUTILE, Conditions(None, 62))
