"""Kind 3, 'not understood' taken for 'not there': one statement of a file at a time."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest
import spglib

from nqs.crystal.structures.cif import crystal_from_cif, crystals_from_cif, group_names, operators
from nqs.crystal.structures.cif.atom_names import CAPITALS, DEUTERIUM
from nqs.crystal.structures.cif.group_names import of_hermann_mauguin
from nqs.crystal.structures.structure import CrystalError
from nqs.crystal.structures.symmetry import call_spglib, space_group

ATOMS = """loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
"""
SALT = ATOMS + "Na1 Na 0 0 0\nCl1 Cl 0 0 0.5\n"
DIAMOND = ATOMS + "C1 C 0.125 0.125 0.125\n"
OXIDE = ATOMS + "Si1 Si .1 .2 .3\nO1 O .3 .4 .15\n"
NAME, HALL = "_symmetry_space_group_name_H-M", "_symmetry_space_group_name_Hall"
NUMBER = "_symmetry_Int_Tables_number"


def cell(*sizes: float) -> str:
    tags = [f"_cell_length_{axis}" for axis in "abc"]
    tags += [f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")]
    return "".join(f"{tag} {size}\n" for tag, size in zip(tags, sizes, strict=True))


def cubic(length: float) -> str:
    return cell(length, length, length, 90, 90, 90)


def salt(*statements: str, atoms: str = SALT, sizes: str | None = None) -> str:
    pairs = "".join(f"{statement}\n" for statement in statements)
    return f"data_x\n{sizes or cubic(5.6402)}{pairs}{atoms}"


def refused(text: str) -> str:
    with pytest.raises(CrystalError) as caught:
        crystal_from_cif(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "statement",
    [
        f"{NAME} 'F 4/m -3 2/m'",
        f"{NAME} 'F m -3 m S'",
        f"{NAME} 'F m -3 m :1'",
        f"{NAME} 'Fm-3m (225)'",
        f"{NAME} FM3M",
        f"{NAME} 'F m \\=3 m'",
        "_space_group_name_H-M_full 'F 4/m -3 2/m'",
        "_space_group.name_H-M_alt 'F m -3 m'",
        "_space_group.IT_number 225",
        "_SYMMETRY_INT_TABLES_NUMBER 225",
        "_symmetry.Int_Tables_number 225",
        f"{NUMBER} 225\nloop_\n_symmetry_equiv_pos_as_xyz\nx,y,z",
        f"{HALL} '-F 4 2 3'",
        "_space_group.name_Hall '-F 4 2 3'",
        "_space_group_name_Schoenflies Oh.5",
        "_symmetry_space_group_name_H-M_ 'F m -3 m'",
        f"{NAME} 'F m -3 m'\n_chemical_formula_sum 'Na1.0 Cl1.0'\n_cell_formula_units_Z 4",
        f"{NAME} 'F m -3 m'\n_exptl_crystal_density_diffrn 2.16(1)",
    ],
)
def test_rock_salt(statement: str) -> None:
    found = crystal_from_cif(salt(statement))
    assert found.structure.formula == "Na4Cl4" and found.space_group == 225
    assert found.structure.density == pytest.approx(2.164, abs=1e-3)


@pytest.mark.parametrize("tag", ["_symmetry_equiv.pos_as_xyz", "_space_group_symop.operation_xyz"])
def test_operators_under_dotted_tags(tag: str) -> None:
    group = gemmi.find_spacegroup_by_name("F m -3 m")
    triplets = "\n".join(operator.triplet() for operator in group.operations())
    found = crystal_from_cif(salt(f"loop_\n{tag}\n{triplets}"))
    assert found.structure.formula == "Na4Cl4" and found.space_group == 225


@pytest.mark.parametrize(
    ("statements", "culprits"),
    [
        ((f"{NAME} 'Q m -3 m'",), ("Q m -3 m", "not understood")),
        (("_space_group_symbol_of_mine 'F m -3 m'",), ("_space_group_symbol_of_mine",)),
        (("_sg_number 225",), ("_sg_number 225",)),
        ((f"{NAME} 'Q m -3 m'", f"{NUMBER} 1"), ("Q m -3 m", "not understood")),
        (("loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n?",), ("not known",)),
        (("_space_group_point_group_H-M m-3m",), ("m-3m", "not understood")),
        ((f"{NAME} 'P 1'", f"{NUMBER} 225"), ("225", "P 1", "contradict")),
        ((f"{NAME} 'F m -3 m'", f"{HALL} '-P 4 2 3'"), ("F m -3 m", "-P 4 2 3", "contradict")),
        (("_chemical_formula_sum 'Na Cl'", "_cell_formula_units_Z 4"), ("Z = 4", "other cell")),
        (
            (f"{NAME} 'F m -3 m'", "_chemical_formula_sum 'Na Cl'", "_cell_formula_units_Z 1"),
            ("Z = 1", "other cell"),
        ),
        ((f"{NAME} 'F m -3 m'", "_cell_formula_units_Z four"), ("four", "whole number")),
        ((f"{NAME} 'F m -3 m'", "_exptl_crystal_density_diffrn 0.541"), ("2.163", "0.541")),
        ((f"{NAME} 'F m -3 m'", "_cell_volume 44.9"), ("_cell_volume 44.9", "contradict")),
        ((f"{NAME} 'F m -3 m'", "_symmetry_cell_setting hexagonal"), ("hexagonal", "contradict")),
        (("_symmetry_cell_setting cubic",), ("195..230", "group 123")),
        (("_space_group_magn_name_BNS 'F m -3 m'",), ("magnetic",)),
        (("_space_group_ssg_name 'F m -3 m(00g)'",), ("modulated",)),
        (
            (f"{NAME} 'F m -3 m'", "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n-x,-y,-z"),
            ("F m -3 m", "2 operators of group 2", "contradict"),
        ),
        (("_cell.length_a 5.7",), ("_cell_length_a 5.6402", "_cell.length_a 5.7", "contradict")),
    ],
)
def test_statements_that_do_not_hold(
    statements: tuple[str, ...], culprits: tuple[str, ...]
) -> None:
    reason = refused(salt(*statements))
    for culprit in culprits:
        assert culprit in reason


def test_lengths_in_nanometres() -> None:
    assert "Angstrom" in refused(salt(f"{NAME} 'F m -3 m'", sizes=cubic(0.56402)))


def test_missing_angles_are_the_dictionarys() -> None:
    lengths = "".join(f"_cell_length_{axis} 5.6402\n" for axis in "abc")
    found = crystal_from_cif(f"data_x\n{lengths}{NAME} 'F m -3 m'\n{SALT}")
    assert found.structure.formula == "Na4Cl4" and len(found.notes) == 3


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ((f"{HALL} '-F 4vw 2vw 3'",), "C8"),
        ((f"{NAME} 'F d -3 m'", f"{HALL} '-F 4vw 2vw 3'"), "C8"),
        ((f"{NAME} 'F d -3 m:2'",), "C8"),
        ((f"{NAME} 'F d -3 m Z'",), "C8"),
        ((f"{NAME} 'F d -3 m'", "_chemical_formula_sum C", "_cell_formula_units_Z 8"), "C8"),
        ((f"{NUMBER} 227", "_exptl_crystal_density_diffrn 3.51"), "C8"),
        (("_space_group.IT_number 227", "_space_group.IT_coordinate_system_code 2"), "C8"),
        ((f"{NAME} 'F d -3 m'",), "leaves open"),
        ((f"{NAME} 'F d -3 m:1'", f"{HALL} '-F 4vw 2vw 3'"), "contradict"),
        ((f"{NAME} 'F d -3 m'", f"{HALL} 'F -4vw 2vw 3'"), "contradict"),
    ],
)
def test_diamond_and_its_origins(statements: tuple[str, ...], expected: str) -> None:
    text = salt(*statements, atoms=DIAMOND, sizes=cubic(3.567))
    if expected != "C8":
        assert expected in refused(text)
        return
    structure = crystal_from_cif(text).structure
    assert structure.formula == "C8" and structure.density == pytest.approx(3.516, abs=1e-3)


def test_operators_are_isometries_of_the_cell() -> None:
    skewed = cell(5, 6, 7, 90, 90, 105)
    found = crystal_from_cif(salt(f"{NAME} 'P 2/m'", atoms=OXIDE, sizes=skewed))
    assert found.space_group == space_group(found.structure) == 10  # the unique axis is c
    reason = refused(salt(f"{NAME} 'P 1 2/m 1'", atoms=OXIDE, sizes=skewed))
    assert "5, 6, 7, 90, 90, 105" in reason and "isometry" in reason
    threefold = "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\ny,z,x\nz,x,y"
    assert "isometry" in refused(salt(threefold, atoms=OXIDE, sizes=cell(5, 6, 7, 90, 90, 90)))
    stretched = cell(5.64, 5.64, 5.66, 90, 90, 90)
    assert "isometry" in refused(salt(f"{NAME} 'F m -3 m'", sizes=stretched))


@pytest.mark.parametrize(
    ("triplets", "message"),
    [
        ("x,y,z\ny,z,x", "z,x,y is missing"),
        ("-x,-y,-z", "x,y,z is missing"),
        ("x,y,z\na,b,c", "a,b,c: not a symmetry operator"),
        ("x,y,z\nx+1/7,y,z", "not a symmetry operator"),
        ("x,y,z\nx+99999999999,y,z", "not a symmetry operator"),
        ("x,y,z\n-x,-y,z,+1", "not a symmetry operator"),
    ],
)
def test_operators_form_a_group(triplets: str, message: str) -> None:
    assert message in refused(salt(f"loop_\n_symmetry_equiv_pos_as_xyz\n{triplets}"))


def test_a_group_that_is_in_no_table() -> None:
    """An inversion at 1/48 of the cell, a centring that doubles a."""
    shifted = operators.of_triplets(("x,y,z", "-x+1/24,-y,-z"))
    doubled = operators.of_triplets(("x,y,z", "x+1/2,y,z"))
    assert (shifted.number, shifted.setting) == (2, "")
    assert (doubled.number, doubled.setting) == (1, "")


@pytest.mark.parametrize(
    ("label", "formula", "element"),
    [
        ("FE1", "", "Fe"),
        ("NA1", "", "Na"),
        ("SI1", "", "Si"),
        ("CL1", "", "Cl"),
        ("CA1", "", "Ca"),
        ("CO1", "Co", "Co"),
        ("CO1", "C", "C"),
        ("CA1", "C", "C"),
        ("FeII", "", "Fe"),
        ("Fe1A", "", "Fe"),
        ("OW1", "", "O"),
        ("Ow1", "O", "O"),
        ("D1", "", "H"),
        ("Cl-1", "", "Cl"),
    ],
)
def test_labels_alone(label: str, formula: str, element: str) -> None:
    stated = f"_chemical_formula_sum {formula}\n" if formula else ""
    atoms = ATOMS.replace("_atom_site_type_symbol\n", "")
    found = crystal_from_cif(f"data_x\n{cubic(4)}{stated}{atoms}{label} 0 0 0\n")
    assert found.structure.formula == element
    decided = not formula and label.isupper() and len(element) == 2
    assert (CAPITALS in found.notes) == decided and (DEUTERIUM in found.notes) == (element == "H")


@pytest.mark.parametrize(
    "labels", [("Wat1",), ("Vac1",), ("Va1",), ("T1",), ("X1",), ("NA1", "N1")]
)
def test_labels_that_name_no_element(labels: tuple[str, ...]) -> None:
    atoms = ATOMS.replace("_atom_site_type_symbol\n", "")
    rows = "".join(f"{label} {index / 2} 0 0\n" for index, label in enumerate(labels))
    assert "_atom_site_type_symbol" in refused(f"data_x\n{cubic(4)}{atoms}{rows}")


@pytest.mark.parametrize(
    ("name", "element"),
    [
        *(("FE", "Fe"), ("Fe2.5+", "Fe"), ("Fe3+", "Fe"), ("Fe+3", "Fe"), ("O-2", "O")),
        *(("D", "H"), ("2H", "H"), ("na", "Na"), ("CO", "Co")),
    ],
)
def test_type_symbols(name: str, element: str) -> None:
    found = crystal_from_cif(f"data_x\n{cubic(4)}{ATOMS}X1 {name} 0 0 0\n")
    assert found.structure.formula == element


@pytest.mark.parametrize("name", ["T", "Wat", "H2O", "Fe(III)", "O1A", "Va", "M", "Xx"])
def test_types_that_are_no_element(name: str) -> None:
    assert "not an element" in refused(f"data_x\n{cubic(4)}{ATOMS}Fe1 {name} 0 0 0\n")


@pytest.mark.parametrize(
    ("column", "values", "culprit"),
    [
        ("_atom_site_occupancy", "0.5 1", "occupancy 0.5"),
        ("_atom_site_disorder_group", "1 .", "disordered"),
        ("_atom_site_attached_hydrogens", "2 0", "hydrogens"),
        ("_atom_site_calc_flag", "dum d", "dummy"),
    ],
)
def test_atoms_that_are_not_all_there(column: str, values: str, culprit: str) -> None:
    first, second = values.split()
    head = ATOMS.replace("_atom_site_fract_x", f"{column}\n_atom_site_fract_x")
    atoms = f"{head}Na1 Na {first} 0 0 0\nCl1 Cl {second} 0 0 0.5\n"
    assert culprit in refused(salt(f"{NAME} 'F m -3 m'", atoms=atoms))


def test_all_atoms_listed_beside_a_group() -> None:
    """In the cell of the group every image must be there; in another cell formula and Z decide."""
    rhombohedral = cell(4.7459, 4.7459, 4.7459, 57.24, 57.24, 57.24)
    bismuth = ATOMS + "Bi1 Bi .234 .234 .234\n"
    name = f"{NAME} 'R -3 m H'"
    assert "isometry" in refused(salt(name, atoms=bismuth, sizes=rhombohedral))
    both = bismuth + "Bi2 Bi .766 .766 .766\n"
    unit = ("_chemical_formula_sum Bi", "_cell_formula_units_Z 2")
    found = crystal_from_cif(salt(name, *unit, atoms=both, sizes=rhombohedral))
    assert found.structure.formula == "Bi2" and found.space_group == 166
    short = salt(f"{NAME} 'R -3 m'", atoms=bismuth, sizes=rhombohedral)
    assert crystal_from_cif(short).structure.formula == "Bi2"


def test_several_crystals_in_a_file() -> None:
    one = salt(f"{NAME} 'F m -3 m'")
    other = one.replace("data_x", "data_y").replace("5.6402", "5.6")
    assert "2 lists of atoms" in refused(one + other)
    names = [
        (name, getattr(found, "space_group", None))
        for name, found in crystals_from_cif(one + other)
    ]
    assert names == [("x", 225), ("y", 225)]


def test_names_belong_to_one_group_each() -> None:
    for name, settings in group_names._index().items():
        assert len({setting.number for setting in settings}) == 1, name


@pytest.mark.parametrize("number", range(1, 531, 5))
def test_every_name_of_a_setting_is_the_same_crystal(number: int, lattice: np.ndarray) -> None:
    """Extended, full and Hall symbols, and operators; spglib finds the group in what comes out."""
    entry = call_spglib(spglib.get_spacegroup_type, number)
    hall = entry.hall_symbol.replace("=", '"')
    setting = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(hall))
    sizes = cell(*fitting_cell(setting, lattice))
    triplets = "\n".join(operator.triplet() for operator in setting.operations())
    texts = [
        salt(f"{NAME} '{setting.xhm()}'", atoms=OXIDE, sizes=sizes),
        salt(f'_space_group_name_Hall "{hall}"', atoms=OXIDE, sizes=sizes),
        salt(f"loop_\n_symmetry_equiv_pos_as_xyz\n{triplets}", atoms=OXIDE, sizes=sizes),
    ]
    found = [crystal_from_cif(text) for text in texts]
    for one in found:
        assert one.space_group in (setting.number, None)
        np.testing.assert_allclose(one.structure.positions, found[0].structure.positions)
    assert space_group(found[0].structure) == setting.number
    full = entry.international_full.replace("_", "")
    assert setting.xhm() in {one.xhm() for one in of_hermann_mauguin(full) or ()}


@pytest.fixture
def lattice() -> np.ndarray:
    return np.array([[7.0, 0.3, 0.2], [0.5, 8.0, 0.4], [0.6, 0.1, 9.0]])


def fitting_cell(setting: gemmi.SpaceGroup, lattice: np.ndarray) -> list[float]:
    """A cell of which all operators are isometries: the mean of the metric's images."""
    rotations = np.array([np.array(op.rot) / op.DEN for op in setting.operations()])
    metric = np.mean([r.T @ lattice @ lattice.T @ r for r in rotations], axis=0)
    lengths = np.sqrt(np.diag(metric))
    cosines = metric / np.outer(lengths, lengths)
    angles = np.degrees(np.arccos([cosines[1, 2], cosines[0, 2], cosines[0, 1]]))
    return [*np.round(lengths, 6).tolist(), *np.round(angles, 6).tolist()]
