"""Structures, the tables of elements, and canonical cells, against pymatgen and spglib."""

from __future__ import annotations

import math
import warnings

import gemmi
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Element, Lattice
from pymatgen.core import Structure as TheirStructure

from nqs.crystal.datasets.examples import examples
from nqs.crystal.structures.elements import ELECTRONEGATIVITIES, NUMBERS, SYMBOLS, WEIGHTS
from nqs.crystal.structures.structure import (
    CrystalError,
    Structure,
    cell_parameters,
    flatness,
    wrap,
)
from nqs.crystal.structures.symmetry import canonical, ordered, space_group

SALT = Structure([5.6] * 3, [90.0] * 3, [11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]])


def theirs(structure: Structure) -> TheirStructure:
    lattice = Lattice.from_parameters(*structure.lengths, *structure.angles)
    return TheirStructure(lattice, structure.numbers.tolist(), structure.positions)


@given(
    st.lists(st.floats(1, 40), min_size=3, max_size=3),
    st.lists(st.floats(15, 165), min_size=3, max_size=3),
)
def test_cell(lengths: list[float], angles: list[float]) -> None:
    try:
        structure = Structure(lengths, angles, [26], [[0.1, 0.2, 0.3]])
    except CrystalError:
        assume(False)
    matrix = structure.matrix
    assert np.linalg.det(matrix) == pytest.approx(structure.volume, rel=1e-8)
    back = cell_parameters(matrix)
    np.testing.assert_allclose(back[0], lengths, rtol=1e-10)
    np.testing.assert_allclose(back[1], angles, atol=1e-6)
    metric = Lattice.from_parameters(*lengths, *angles).metric_tensor
    np.testing.assert_allclose(matrix @ matrix.T, metric, atol=1e-6 * max(lengths) ** 2)


def test_what_follows_from_the_atoms() -> None:
    for record in examples()[::29]:
        structure, other = record.structure, theirs(record.structure)
        assert structure.volume == pytest.approx(other.volume, rel=1e-8)
        assert structure.density == pytest.approx(other.density, rel=1e-3)  # weights of other years
        assert structure.composition == {
            element.Z: count for element, count in other.composition.items()
        }
        assert structure.reduced_formula == other.composition.reduced_formula
    water = Structure([4.0] * 3, [90.0] * 3, [8, 1, 1] * 2, np.linspace(0, 0.9, 18).reshape(6, 3))
    assert (water.formula, water.reduced_formula) == ("H4O2", "H2O")


def test_elements() -> None:
    assert len(set(SYMBOLS)) == 118 and NUMBERS["Fe"] == 26
    for number, symbol in enumerate(SYMBOLS, start=1):
        assert Element.from_Z(number).symbol == symbol
        assert WEIGHTS[number - 1] == pytest.approx(gemmi.Element(number).weight, rel=1e-5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen on noble gases
            pull = Element.from_Z(number).X
        assert ELECTRONEGATIVITIES[number - 1] == (
            pytest.approx(pull) if pull == pull else math.inf
        )


def test_wrapping() -> None:
    assert wrap(np.array([-1e-18, 1.0, -0.25, 7.5])).tolist() == [0.0, 0.0, 0.75, 0.5]
    moved = SALT.shifted([0.75, 0.5, -0.25])
    np.testing.assert_allclose(moved.positions, [[0.75, 0.5, 0.75], [0.25, 0.0, 0.25]])
    with pytest.raises(ValueError, match="read-only"):
        SALT.positions[0] = 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lengths": [1.0, 2.0]}, "three finite lengths"),
        ({"lengths": [1.0, 2.0, -3.0]}, r"\(1, 2, -3\)"),
        ({"lengths": [1.0, 2.0, math.inf]}, "finite"),
        ({"lengths": [1e-9, 2.0, 3.0]}, "within 0.01..10000"),
        ({"angles": [60.0, 60.0, 121.0]}, "no cell of positive volume"),
        ({"angles": [120.0, 120.0, 120.0]}, "no cell of positive volume"),
        ({"angles": [90.0, 90.0, 180.0]}, "between 0 and 180"),
        ({"angles": [90.0, 90.0, math.nan]}, "between 0 and 180"),
        ({"numbers": [11, 119]}, "119: must be within 1..118"),
        ({"numbers": [0, 11]}, "atomic number 0"),
        ({"numbers": [1.5, 11]}, "whole numbers"),
        ({"numbers": ["Na", "Cl"]}, "must be numbers"),
        ({"numbers": [11]}, "A elements"),
        ({"positions": [[0, 0, 0], [0, 0, 1.0]]}, r"atom 1 at \(0, 0, 1\)"),
        ({"positions": [[0, 0, 0], [0, 0, math.nan]]}, "atom 1"),
        ({"numbers": [], "positions": np.zeros((0, 3))}, "at least one atom"),
    ],
)
def test_refused(changed: dict[str, object], message: str) -> None:
    fields = {"lengths": [4.0] * 3, "angles": [90.0] * 3, "numbers": [11, 17]}
    fields["positions"] = [[0, 0, 0], [0.5, 0.5, 0.5]]
    with pytest.raises(CrystalError, match=message):
        Structure(**(fields | changed))


def test_flatness() -> None:
    assert flatness(np.array([90.0] * 3)) == 1
    assert flatness(np.array([60.0] * 3)) == pytest.approx(math.sqrt(0.5))


def supercell(structure: Structure, transform: np.ndarray) -> Structure:
    """Cell vectors transform @ matrix, of a whole number of cells."""
    other = theirs(structure)
    other.make_supercell(transform)
    lengths, angles = other.lattice.abc, other.lattice.angles
    return Structure.wrapped(lengths, angles, [site.specie.Z for site in other], other.frac_coords)


@pytest.mark.parametrize(
    "name", ["CsCl-CsCl", "SrTiO3-perovskite", "CaF2-fluorite", "ZnO-wurtzite"]
)
def test_canonical_is_the_same_crystal_whatever_its_cell(name: str) -> None:
    structure = next(r.structure for r in examples() if r.name == name)
    expected = canonical(structure)
    assert StructureMatcher().fit(theirs(structure), theirs(expected))
    for transform in ([[1, 1, 0], [0, 1, 0], [0, 1, 1]], [[2, 0, 1], [0, 1, 0], [1, 0, 1]]):
        other = canonical(supercell(structure, np.array(transform)))
        np.testing.assert_allclose(other.lengths, expected.lengths, atol=1e-4)
        np.testing.assert_allclose(other.angles, expected.angles, atol=1e-3)
        np.testing.assert_array_equal(other.numbers, expected.numbers)
        assert StructureMatcher().fit(theirs(structure), theirs(other))
    assert canonical(expected).n_atoms == expected.n_atoms


def test_canonical_keeps_the_hand() -> None:
    """Left quartz, P3_1 2 1, must not become right quartz, P3_2 2 1."""
    operations = gemmi.find_spacegroup_by_name("P 31 2 1").operations()
    sites = {14: [0.4697, 0.0, 1 / 3], 8: [0.4133, 0.2672, 0.2145]}
    numbers, positions = [], []
    for number, site in sites.items():
        images = {tuple(np.round(np.mod(op.apply_to_xyz(site), 1), 6)) for op in operations}
        numbers += [number] * len(images)
        positions += sorted(images)
    quartz = Structure.wrapped([4.913, 4.913, 5.405], [90, 90, 120], numbers, positions)
    mirrored = Structure.wrapped(quartz.lengths, quartz.angles, numbers, -np.array(positions))
    for structure, group in ((quartz, 152), (mirrored, 154)):
        assert space_group(structure) == group
        for transform in (np.eye(3), [[0, 1, 0], [1, 0, 0], [0, 0, 1]]):
            flipped = np.linalg.det(transform) < 0
            shuffled = supercell(structure, np.array(transform))
            assert space_group(canonical(shuffled)) == (306 - group if flipped else group)


def test_examples_have_their_groups() -> None:
    records = examples()
    assert len(records) == 361 and len({record.name for record in records}) == 361
    for record in records[::7]:
        assert space_group(record.structure) == record.conditions.space_group
        assert record.conditions.composition == record.structure.composition
    known = {"NaCl-rocksalt": 2.17, "CaF2-fluorite": 3.18, "SrTiO3-perovskite": 5.12}  # g/cm^3
    for record in records:
        if record.name in known:
            assert record.structure.density == pytest.approx(known[record.name], rel=0.1)


def test_order_of_atoms() -> None:
    shuffled = Structure(
        [4.0] * 3,
        [90.0] * 3,
        [8, 22, 8, 38],
        [[0.5, 0, 0], [0.5, 0.5, 0.5], [0.99999, 0.5, 0], [0, 0, 0]],
    )
    arranged = ordered(shuffled)
    assert arranged.numbers.tolist() == [38, 22, 8, 8]
    assert arranged.positions[2, 0] == 0.99999  # as good as 0


def test_atoms_on_one_another_have_no_symmetry() -> None:
    stacked = Structure([4.0] * 3, [90.0] * 3, [1, 1], np.zeros((2, 3)))
    with pytest.raises(CrystalError, match="H2: spglib finds no"):
        space_group(stacked)
    with pytest.raises(CrystalError, match="H2: spglib finds no"):
        canonical(stacked)
