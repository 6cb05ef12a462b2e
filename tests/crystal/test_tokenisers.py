"""Every tokeniser: there and back, conditions, translation, infilling, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from covering import pairwise
from hypothesis import assume, given
from hypothesis import strategies as st

from nqs.crystal.datasets.examples import examples
from nqs.crystal.structures.elements import NUMBERS
from nqs.crystal.structures.structure import CrystalError, Structure
from nqs.crystal.tokens import TOKENISERS, make_tokeniser
from nqs.crystal.tokens.coordinate import CoordinateTokeniser
from nqs.crystal.tokens.coordinate_fields import ANGLES, HULLS, LENGTHS
from nqs.crystal.tokens.tokeniser import Conditions, Tokeniser, check_agreement, remaining_atoms
from nqs.errors import InputError

MADE = {name: make_tokeniser(name, 12) for name in TOKENISERS.kinds}
ROUNDING = {  # of lengths (relative, absolute), angles
    "coordinate": (0.005, 0.0, 0.5),
    "character": (0.0, 0.005, 0.005),
    "cif": (0.0, 0.00005, 0.00005),
    "text": (0.0, 0.05, 0.5),
}
EXAMPLES = {record.name: record.structure for record in examples()}
SALT = EXAMPLES["NaCl-rocksalt"]

PLACED = {name: made for name, made in MADE.items() if not made.canonical}
"""Those that keep the cell and the order of atoms; test_wyckoff.py has the laws of the other."""

each = pytest.mark.parametrize("tokeniser", MADE.values(), ids=MADE.keys())
each_placed = pytest.mark.parametrize("tokeniser", PLACED.values(), ids=PLACED.keys())


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    """Any cell that is not flat, with atoms of elements that every tokeniser knows."""
    lengths = [draw(st.floats(1.1, 140)) for _ in range(3)]
    angles = [draw(st.floats(12, 168)) for _ in range(3)]
    numbers = draw(st.lists(st.sampled_from([1, 6, 17, 27, 55, 64, 92]), min_size=1, max_size=12))
    places = st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, 0.25, 1 / 3, 0.999999])
    positions = [[draw(places) for _ in range(3)] for _ in numbers]
    try:
        return Structure(lengths, angles, numbers, positions)
    except CrystalError:
        assume(False)
        raise


def assert_close(back: Structure, structure: Structure, tokeniser: Tokeniser) -> None:
    """Equal up to the rounding that the tokeniser states."""
    relative, absolute, angle = ROUNDING[tokeniser.name]
    np.testing.assert_allclose(
        back.lengths, structure.lengths, rtol=relative * 1.01, atol=absolute + 1e-9
    )
    np.testing.assert_allclose(back.angles, structure.angles, rtol=0, atol=angle + 1e-9)
    np.testing.assert_array_equal(back.numbers, structure.numbers)
    offsets = back.positions - structure.positions
    offsets -= np.round(offsets)
    np.testing.assert_allclose(offsets, 0, atol=0.5 / tokeniser.n_bins + 1e-9)


@each_placed
def test_examples_there_and_back(tokeniser: Tokeniser) -> None:
    for structure in list(EXAMPLES.values())[:: 1 if tokeniser.name == "coordinate" else 4]:
        tokens = tokeniser.encode(structure)
        back, _ = tokeniser.decode([*tokens, tokeniser.pad, tokeniser.pad])
        assert_close(back, structure, tokeniser)
        assert tokeniser.encode(back) == tokens
        assert len(tokens) <= tokeniser.max_length
        assert tokens[0] == tokeniser.bos and tokens[-1] == tokeniser.eos


@each_placed
@given(structures())
def test_any_structure_there_and_back(tokeniser: Tokeniser, structure: Structure) -> None:
    try:
        tokens = tokeniser.encode(structure)
    except CrystalError as error:
        assert "flat" in str(error) or "within" in str(error)
        return
    back, _ = tokeniser.decode(tokens)
    assert_close(back, structure, tokeniser)
    assert tokeniser.encode(back) == tokens


@each_placed
def test_special_positions_stay_special(tokeniser: Tokeniser) -> None:
    back, _ = tokeniser.decode(tokeniser.encode(EXAMPLES["ZnO-wurtzite"]))
    assert back.angles.tolist() == [90, 90, 120]
    if tokeniser.name == "coordinate":
        np.testing.assert_allclose(back.positions, EXAMPLES["ZnO-wurtzite"].positions, atol=1e-12)


@each
@pytest.mark.parametrize(
    ("composition", "group", "energies"),
    pairwise(
        [None, {17: 1, 11: 1}],
        [None, 1, 225],
        [(None, None), (-2.04, 0.004), (0.51, 0.26), (-0.04, None)],
    ),
)
def test_conditions(
    tokeniser: Tokeniser,
    composition: dict[int, int] | None,
    group: int | None,
    energies: tuple[float | None, float | None],
) -> None:
    given = Conditions(composition, group, *energies)
    if tokeniser.name == "cif" and energies != (None, None):
        with pytest.raises(CrystalError, match="cif tokeniser has no word for energies"):
            tokeniser.encode(SALT, given)
        return
    if tokeniser.name == "wyckoff" and group == 1:
        with pytest.raises(CrystalError, match="space group 225, its condition says 1"):
            tokeniser.encode(SALT, given)
        return
    tokens = tokeniser.encode(SALT, given)
    _, back = tokeniser.decode(tokens)
    always = tokeniser.name in ("coordinate", "wyckoff", "cif")
    assert back.composition == ({11: 1, 17: 1} if always else composition)
    assert back.space_group == group
    for value, original, step in (
        (back.formation_energy, energies[0], 0.1),
        (back.energy_above_hull, energies[1], 0.01),
    ):
        assert value == (None if original is None else pytest.approx(original, abs=step / 2 + 1e-9))
    assert tokeniser.encode(SALT, back) == tokens
    if not always:  # the body is the same, whatever stands before it
        assert tokens[-len(tokeniser.encode(SALT)) + 1 :] == tokeniser.encode(SALT)[1:]


@each
def test_vocabulary(tokeniser: Tokeniser) -> None:
    assert len(set(tokeniser.vocabulary)) == len(tokeniser.vocabulary)
    special = {tokeniser.pad, tokeniser.bos, tokeniser.eos, tokeniser.mask}
    assert len(special) == 4
    seen = {token for s in EXAMPLES.values() for token in tokeniser.encode(s)[1:-1]}
    assert max(seen) < len(tokeniser.vocabulary) and not seen & special


def test_sizes() -> None:
    """CrystaLLM: 371 with <unk>, without three of the 230 groups."""
    assert len(MADE["cif"].vocabulary) == 371 - 1 + 3 + 4
    record = EXAMPLES["SrTiO3-perovskite"]
    assert len(MADE["coordinate"].encode(record)) == 2 + 2 * 3 + 6 + 4 * 5


def test_fields_are_disjoint() -> None:
    fields = CoordinateTokeniser(7).fields
    ranges = [fields.group, fields.energy, fields.hull, fields.count, fields.element]
    ranges += [fields.length, fields.angle, fields.coordinate]
    tokens = [token for field in ranges for token in field]
    assert tokens == list(range(4, len(fields.vocabulary)))


@pytest.mark.parametrize("grid", [LENGTHS, ANGLES, HULLS])
def test_grids(grid) -> None:
    np.testing.assert_array_equal(grid.index(grid.values), np.arange(grid.size))
    middle = grid.values[:-1] + 0.49 * np.diff(grid.values)
    np.testing.assert_array_equal(grid.index(middle), np.arange(grid.size - 1))
    for outside in (grid.values[-1] + 2 * grid.step * 200, grid.values[0] / 2 - 1, np.nan):
        with np.errstate(invalid="ignore"), pytest.raises(CrystalError, match="must be within"):
            grid.index(outside)


@each_placed
@given(structures(), st.tuples(*[st.integers(-2, 20_000)] * 3))
def test_translated_is_the_shifted_crystal(
    tokeniser: Tokeniser, structure: Structure, shift: tuple[int, int, int]
) -> None:
    try:
        tokens = tokeniser.encode(structure)
    except CrystalError:
        assume(False)
    back, known = tokeniser.decode(tokens)
    expected = tokeniser.encode(back.shifted(np.array(shift) / tokeniser.n_bins), known)
    assert tokeniser.translated(np.array(tokens), shift).tolist() == expected


@each
def test_translated_batches_with_conditions(tokeniser: Tokeniser) -> None:
    energies = (None, None) if tokeniser.name == "cif" else (0.5, 0.05)
    known = [Conditions(), Conditions(None, 225, *energies), Conditions({11: 1, 17: 1}, 225)]
    batch = tokeniser.padded([tokeniser.encode(SALT, conditions) for conditions in known]).numpy()
    shift = (1, 2, tokeniser.n_bins - 1)
    moved = tokeniser.translated(batch, shift)
    for row, before in zip(moved, batch, strict=True):
        np.testing.assert_array_equal(row, tokeniser.translated(before, shift))
        assert tokeniser.decode(row)[1] == tokeniser.decode(before)[1]
    np.testing.assert_array_equal(tokeniser.translated(moved, (-1, -2, 1)), batch)


@each_placed
def test_infilling_hides_whole_elements(tokeniser: Tokeniser) -> None:
    mixed = Structure(
        [5.0] * 3, [90.0] * 3, [6, 17, 27, 6], [[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    )
    tokens = tokeniser.encode(mixed, Conditions(mixed.composition, 10))
    n_mentions = 3  # once in the formula
    carbon = tokeniser.element_tokens(NUMBERS["C"])
    hidden, position = tokeniser.infilling(tokens, NUMBERS["C"])
    assert len(hidden) <= tokeniser.max_length
    assert hidden[position] == tokeniser.mask and hidden[position + 1 :] == [*carbon, tokeniser.eos]
    assert hidden[:position].count(tokeniser.mask) == n_mentions
    restored: list[int] = []
    for token in hidden[:position]:
        restored += carbon if token == tokeniser.mask else [token]
    assert restored == tokens
    left = {tuple(hidden[start:stop]) for start, stop in tokeniser.element_spans(hidden[:position])}
    assert left == {tuple(tokeniser.element_tokens(NUMBERS[name])) for name in ("Cl", "Co")}
    with pytest.raises(CrystalError, match="Fe is not in the crystal"):
        tokeniser.infilling(tokens, NUMBERS["Fe"])


@each_placed
@given(st.data())
def test_spoiled_tokens_are_refused_or_another_crystal(
    tokeniser: Tokeniser, data: st.DataObject
) -> None:
    conditions = Conditions({11: 1, 17: 1}, 225)
    tokens = tokeniser.encode(SALT, conditions)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(tokens) - 1))
        new = data.draw(st.lists(st.integers(-1, len(tokeniser.vocabulary)), max_size=2))
        tokens[place : place + data.draw(st.integers(0, 2))] = new
    try:
        structure, known = tokeniser.decode(tokens)
    except CrystalError:
        return
    assert tokeniser.encode(structure, known) == [t for t in tokens if t != tokeniser.pad]


@each_placed
def test_refused(tokeniser: Tokeniser) -> None:
    def cell(lengths: float = 5.0, angles: tuple[float, ...] = (90.0, 90.0, 90.0), n: int = 1):
        positions = np.linspace(0, 0.9, 3 * n).reshape(n, 3)
        return Structure([lengths] * 3, angles, [26] * n, positions)

    for structure, message in (
        (cell(n=13), "13 atoms: at most 12"),
        (cell(lengths=500.0), "length.* 500.*: must be within"),
        (cell(lengths=0.5), "length.* 0.5.*: must be within"),
        (cell(angles=(177.0, 91.0, 91.0)), "angle.* 177.*: must be within"),
        (cell(angles=(60.0, 60.0, 119.999)), "too flat"),
    ):
        with pytest.raises(CrystalError, match=message):
            tokeniser.encode(structure)
    with pytest.raises(CrystalError, match="NaCl, its condition says Na2Cl"):
        tokeniser.encode(SALT, Conditions({11: 2, 17: 1}))
    with pytest.raises(CrystalError):
        tokeniser.decode([])
    if tokeniser.name == "cif":
        with pytest.raises(CrystalError, match="no word for Po"):
            tokeniser.encode(Structure([3.3] * 3, [90.0] * 3, [84], [[0, 0, 0]]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"composition": {0: 1}},
        {"composition": {11: 0}},
        {"composition": {}},
        {"space_group": 231},
        {"formation_energy": float("nan")},
        {"energy_above_hull": -0.1},
    ],
)
def test_impossible_conditions(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"must be|needs"):
        Conditions(**wrong)


def test_remaining_atoms() -> None:
    wanted = Conditions({11: 2, 17: 2})
    assert remaining_atoms(wanted, SALT, 10) == {11: 1, 17: 1}
    assert remaining_atoms(None, SALT, 10) is None
    check_agreement(SALT, Conditions({17: 1, 11: 1}))
    for conditions, partial, most, message in (
        (wanted, None, 3, "Na2Cl2 has 4 atoms: at most 3 fit"),
        (Conditions({11: 1}), SALT, 10, "hold 1 Cl, the composition 0"),
        (None, SALT, 1, "2 atoms are given"),
    ):
        with pytest.raises(CrystalError, match=message):
            remaining_atoms(conditions, partial, most)


def test_padded() -> None:
    tokeniser = MADE["coordinate"]
    batch = tokeniser.padded([[1, 5, 2], [1, 2]])
    assert torch.equal(batch, torch.tensor([[1, 5, 2], [1, 2, 0]]))


def test_unknown_name() -> None:
    with pytest.raises(InputError, match="did you mean coordinate"):
        make_tokeniser("coordinates")
