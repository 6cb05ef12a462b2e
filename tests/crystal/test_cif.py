"""CIF text in and out, against pymatgen, ase and gemmi; tables; hostile input."""

from __future__ import annotations

import gzip
import io
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure as TheirStructure
from pymatgen.io.cif import CifParser, CifWriter

from nqs.crystal.datasets.examples import examples
from nqs.crystal.datasets.tables import read_table
from nqs.crystal.structures.cif import (
    cif_text,
    crystal_from_cif,
    read_cif,
    structure_from_cif,
    write_cif,
)
from nqs.crystal.structures.structure import CrystalError, Structure
from nqs.crystal.structures.symmetry import ordered

EXAMPLES = {record.name: record.structure for record in examples()}
SKEWED = Structure(
    [3.1, 4.2, 5.3],
    [81.0, 95.5, 112.25],
    [26, 8, 8],
    [[0.1, 0.2, 0.3], [1 / 3, 2 / 3, 0.9871], [0.7, 0.0, 0.55]],
)
SALT = """data_NaCl
_symmetry_space_group_name_H-M   Fm-3m
_cell_length_a   5.6402
_cell_length_b   5.6402
_cell_length_c   5.6402
_cell_angle_alpha   90.0
_cell_angle_beta   90.0
_cell_angle_gamma   90.0
_symmetry_Int_Tables_number   225
_chemical_formula_sum   'Na4 Cl4'
_cell_formula_units_Z   4
loop_
 _symmetry_equiv_pos_site_id
 _symmetry_equiv_pos_as_xyz
  1  'x, y, z'
loop_
 _atom_site_type_symbol
 _atom_site_label
 _atom_site_symmetry_multiplicity
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 _atom_site_occupancy
  Na  Na0  4  0.0000  0.0000  0.0000  1
  Cl  Cl1  4  0.0000  0.0000  0.5000  1
"""


def by_pymatgen(text: str) -> TheirStructure:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells that 0.3333333333 is 1/3 to it
        return CifParser.from_str(text).parse_structures(primitive=False)[0]


def symmetric_by_pymatgen(structure: TheirStructure) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls spglib in the old way
        return str(CifWriter(structure, symprec=0.01))


@pytest.mark.parametrize("structure", [*list(EXAMPLES.values())[::60], SKEWED])
def test_written_and_read_by_all(structure: Structure) -> None:
    text = cif_text(structure)
    others = by_pymatgen(text), ase.io.read(io.StringIO(text), format="cif")
    ours = structure_from_cif(text)
    cells = [
        (ours.lengths, ours.angles, ours.numbers, ours.positions),
        (
            others[0].lattice.abc,
            others[0].lattice.angles,
            others[0].atomic_numbers,
            others[0].frac_coords,
        ),
        (
            others[1].cell.lengths(),
            others[1].cell.angles(),
            others[1].numbers,
            others[1].get_scaled_positions(),
        ),
    ]
    for lengths, angles, numbers, positions in cells:
        np.testing.assert_allclose(lengths, structure.lengths, atol=1e-8)
        np.testing.assert_allclose(angles, structure.angles, atol=1e-6)
        np.testing.assert_array_equal(numbers, structure.numbers)
        offsets = np.asarray(positions) - structure.positions
        np.testing.assert_allclose(offsets - np.round(offsets), 0, atol=1e-8)


@pytest.mark.parametrize(
    "name", ["NaCl-rocksalt", "ZnO-wurtzite", "CaF2-fluorite", "SrTiO3-perovskite"]
)
def test_symmetric_text_with_its_operators(name: str) -> None:
    structure = EXAMPLES[name]
    primitive = by_pymatgen(cif_text(structure))
    text = symmetric_by_pymatgen(primitive)
    crystal = crystal_from_cif(text)
    assert crystal.structure.n_atoms == len(by_pymatgen(text))
    ours = by_pymatgen(cif_text(crystal.structure))
    assert StructureMatcher(primitive_cell=True).fit(ours, primitive)
    lone = text[: text.index("loop_")] + SALT[SALT.index("loop_") : SALT.index("'x, y, z'")]
    lone += "'x, y, z'\n" + text[text.index("loop_", text.index("loop_") + 5) :]
    again = crystal_from_cif(lone)  # the same with its operators forgotten
    assert again.space_group == crystal.space_group
    both = ordered(again.structure), ordered(crystal.structure)
    np.testing.assert_allclose(both[0].positions, both[1].positions, atol=1e-6)


def test_lone_identity_with_a_group() -> None:
    crystal = crystal_from_cif(SALT)
    assert (crystal.structure.formula, crystal.space_group) == ("Na4Cl4", 225)
    expected = [[0, 0, 0.5], [0, 0.5, 0], [0.5, 0, 0], [0.5, 0.5, 0.5]]
    assert sorted(crystal.structure.positions[4:].tolist()) == expected


def test_the_setting_is_the_one_that_meets_the_multiplicities() -> None:
    """Diamond: the atom of origin choice 2 is on 1/8 1/8 1/8, of choice 1 on 0 0 0."""
    diamond = SALT.replace("Fm-3m", "Fd-3m").replace("225", "227").replace("'Na4 Cl4'", "C8")
    diamond = diamond[: diamond.index("  Na  Na0")]
    for place in ("0.0", "0.125"):
        text = diamond + f"  C  C0  8  {place}  {place}  {place}  1\n"
        structure = structure_from_cif(text.replace("units_Z   4", "units_Z   8"))
        offsets = structure.positions - structure.positions[0]
        on_the_grid = np.round(offsets * 4) / 4
        np.testing.assert_allclose(offsets, on_the_grid, atol=1e-9)
        assert structure.n_atoms == 8


def test_cut_off_digits_are_put_back() -> None:
    text = SALT.replace("Fm-3m", "P6_3/mmc").replace("225", "194").replace("'Na4 Cl4'", "Mg2")
    text = text.replace("5.6402\n_cell_angle_alpha", "5.21\n_cell_angle_alpha")
    text = text.replace("gamma   90.0", "gamma   120.0").replace("units_Z   4", "units_Z   2")
    text = text[: text.index("  Na  Na0")] + "  Mg  Mg0  2  0.3333  0.6667  0.2500  1\n"
    positions = structure_from_cif(text).positions
    np.testing.assert_allclose(positions * 12, [[4, 8, 3], [8, 4, 9]], atol=1e-9)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("data_NaCl", "", "not a CIF"),
        ("_cell_length_b   5.6402\n", "", "_cell_length_b: missing"),
        ("beta   90.0", "beta   ?", "_cell_angle_beta: [?], must be a number"),
        ("beta   90.0", "beta   nan", "must be a number"),
        ("beta   90.0", "beta   180", "between 0 and 180"),
        ("0.5000  1\n", "0.5000  0.5\n", "atom 1 has occupancy 0.5"),
        ("  Cl  Cl1", "  Xx  Xx1", "atom 1 is Xx: not an element"),
        ("  Na  Na0", "  D  D0", "does not come to the stated formula"),
        ("  Na  Na0", "  ?  ?", "unnamed"),
        ("0.0000  0.5000  1", "0.0000  nan  1", "coordinate nan"),
        ("0.0000  0.5000  1", "0.0000  1e300  1", "coordinate 1e300"),
        ("0.0000  0.5000  1", "0.0000  0.5000", "not a CIF"),
        ("0.0000  0.5000  1", "0.0000  0.0000  1", "atoms 0 and 4 are 0.000 Angstrom apart"),
        ("'Na4 Cl4'", "'Na4 Cl5'", "does not come to the stated formula Na4Cl5"),
        ("'Na4 Cl4'", "'Na1000000000 Cl4'", "formula"),
        ("'Na4 Cl4'", "'Na0.5 Cl4'", "formula"),
        ("number   225", "number   231", "231: must be within 1..230"),
        ("number   225", "number   1", "225.*contradict|1 and .* Fm-3m contradict"),
        ("  Cl  Cl1  4", "  Cl  Cl1  24", "does not come"),
        ("'x, y, z'", "'x, y'", "x, y: not a symmetry operator"),
        ("'x, y, z'", "'x, x, z'", "keeps the volume"),
        ("_atom_site_fract_z", "_atom_site_fract_q", "0 complete rows"),
        ("_atom_site_fract_x", "_atom_site_cartn_x", "0 lists of atoms"),
    ],
)
def test_refused(old: str, new: str, message: str) -> None:
    assert old in SALT
    with pytest.raises(CrystalError, match=message) as caught:
        structure_from_cif(SALT.replace(old, new))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        SALT + "\n".join(f"  Na  Na{i}  1  {i / 3000:.5f}  0  0  1" for i in range(2500)),
        SALT.replace(
            "'x, y, z'\n", "'x, y, z'\n" + "".join(f"{i} 'x,y,z'\n" for i in range(2, 900))
        ),
        SALT * 2,
        SALT + " " * 5_000_000,
        "",
        "\0" * 100,
    ],
    ids=["atoms", "operators", "crystals", "characters", "empty", "zeros"],
)
def test_too_much_or_nothing(text: str) -> None:
    with pytest.raises(CrystalError):
        structure_from_cif(text)


@settings(max_examples=200)
@given(st.data())
def test_mutated_text_is_read_or_refused(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([SALT, cif_text(SKEWED)]))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        stop = start + data.draw(st.integers(0, 12))
        pieces = st.sampled_from(
            ["'", ";", "loop_", "1e999", "-", "\n", "9" * 30, ".", "#", "data_b"]
        )
        text = text[:start] + data.draw(pieces | st.text(max_size=6)) + text[stop:]
    try:
        structure = structure_from_cif(text)
    except CrystalError as error:
        assert "\n" not in str(error)
    else:
        assert structure.n_atoms > 0


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_random_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "noise.cif"
    path.write_bytes(content)
    with pytest.raises(CrystalError, match=r"noise\.cif"):
        read_cif(path)
    for name in ("noise.csv", "noise.csv.gz"):
        table = path.with_name(name)
        table.write_bytes(content)
        with pytest.raises(CrystalError, match=name):
            read_table(table)


def test_files(tmp_path: Path) -> None:
    write_cif(SKEWED, tmp_path / "a b.cif")
    assert "data_a_b\n" in (tmp_path / "a b.cif").read_text()
    assert read_cif(tmp_path / "a b.cif").formula == "FeO2"
    with pytest.raises(CrystalError, match="No such file"):
        read_cif(tmp_path / "absent.cif")
    table = read_table(tmp_path)
    assert [record.name for record in table.records] == ["a b"]


def test_tables(tmp_path: Path) -> None:
    header = "material_id,cif,formation_energy_per_atom,e_above_hull,spacegroup.number\n"
    rows = [
        f'mp-1,"{SALT}",-2.1,-1e-9,225\n',
        f'mp-2,"{SALT}",,,\n',
        f'mp-3,"{SALT}",high,0.1,\n',
        f'mp-4,"{SALT}",0.0,0.1,0\n',
        "mp-5,no crystal,0,0,1\n",
    ]
    for name in ("t.csv", "t.csv.gz"):
        content = (header + "".join(rows)).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        table = read_table(tmp_path / name)
        first, second = (record.conditions for record in table.records)
        assert (first.formation_energy, first.energy_above_hull) == (-2.1, 0.0)
        assert first.space_group == second.space_group == 225
        assert first.composition == {11: 4, 17: 4} and second.formation_energy is None
        reasons = {refusal.name: refusal.reason for refusal in table.refusals}
        assert list(reasons) == ["mp-3", "mp-4", "mp-5"]
        assert reasons["mp-3"] == "formation_energy_per_atom is high: must be a number"
        assert len(read_table(tmp_path / name, limit=1).records) == 1


def test_heat_of_a_perovskite_is_of_its_cell(tmp_path: Path) -> None:
    text = cif_text(EXAMPLES["SrTiO3-perovskite"])
    (tmp_path / "p.csv").write_text(f'cif,heat_all\n"{text}",2.5\n')
    (record,) = read_table(tmp_path / "p.csv").records
    assert record.name == "row 1" and record.conditions.formation_energy == 0.5
    assert record.conditions.space_group is None  # P1 says nothing


def test_bad_tables(tmp_path: Path) -> None:
    cases = {
        "a.csv": (b"material_id,structure\nx,y\n", "no column cif, its columns are material_id"),
        "b.csv.gz": (gzip.compress(b"cif\n" * 10_000)[:40], "damaged"),
        "c.csv": (b"cif\nnothing\n", "holds no crystal"),
        "d.txt": (b"", "must be a .csv"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CrystalError, match=message):
            read_table(tmp_path / name)
