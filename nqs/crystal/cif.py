"""CIF text to structures and back.

Read: P1 listings; an asymmetric unit with its symmetry operators; and an asymmetric unit beside a
lone 'x, y, z' and the name of a space group, as some data sets have it. The latter is expanded from
the group's tables, trying each of its settings until stated multiplicities and formula are met, in
the order of Hall numbers: the first one is spglib's, hence pymatgen's (unique axis b, hexagonal
axes, origin choice 1).

A site on a special position comes out of a file with its digits cut off (0.3333); the average of
the operators that leave it where it is puts it back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from nqs.crystal.elements import NUMBERS, symbol
from nqs.crystal.structure import CrystalError, Floats, Structure, composition_of, formula_of, wrap
from nqs.runs.schema import shown

LONGEST_TEXT = 4_000_000
"""Characters of a CIF; one with its diffraction data is no use here."""
MOST_ATOMS = 2_000
"""Atoms in a cell."""
MOST_OPERATORS = 384
"""192 are the most that a tabulated setting has."""
MERGED = 0.1
"""Images of a site nearer than this, in Angstrom, are the same atom; two sites may not be."""
FARTHEST = 1_000.0
"""Largest fractional coordinate that is folded back into the cell."""

_LENGTHS = ("_cell_length_a", "_cell_length_b", "_cell_length_c")
_ANGLES = ("_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma")
_SITE = (
    "_atom_site_fract_x",
    "_atom_site_fract_y",
    "_atom_site_fract_z",
    "?_atom_site_type_symbol",
    "?_atom_site_label",
    "?_atom_site_occupancy",
    "?_atom_site_symmetry_multiplicity",
)
_OPERATORS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
_GROUP_NUMBERS = ("_symmetry_Int_Tables_number", "_space_group_IT_number")
_GROUP_NAMES = ("_symmetry_space_group_name_H-M", "_space_group_name_H-M_alt")
_ELEMENT = re.compile(r"([A-Z][a-z]?)(?:\d*[+-]|[+-]\d*|\d*)")
_LABEL = re.compile(r"([A-Z][a-z]?)(?![a-z])")
_TERM = re.compile(r"([A-Z][a-z]?)(\d{0,6})")

Operators = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Rotations (G, 3, 3) and translations (G, 3) in fractional coordinates."""


@dataclass(frozen=True)
class _Sites:
    """The atoms that a file lists; multiplicities and formula as stated there, if they are."""

    numbers: NDArray[np.int64]  # (S,)
    positions: Floats  # (S, 3)
    multiplicities: list[float] | None


@dataclass(frozen=True)
class CifCrystal:
    """A structure and the space group that its file names (None: none, or P1)."""

    structure: Structure
    space_group: int | None


def structure_from_cif(text: str) -> Structure:
    """The crystal of a CIF text. Raises CrystalError for anything else."""
    return crystal_from_cif(text).structure


def read_cif(path: str | Path) -> Structure:
    """The crystal of a CIF file. Raises CrystalError, naming the file, if it holds none."""
    try:
        return structure_from_cif(read_text(Path(path)))
    except CrystalError as error:
        raise CrystalError(f"{path}: {error}") from None


def read_text(path: Path) -> str:
    """A file's text. Raises CrystalError if it cannot be read or is too long."""
    try:
        if path.stat().st_size > LONGEST_TEXT:
            raise CrystalError(f"longer than {LONGEST_TEXT} bytes")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CrystalError("not a text file") from None
    except OSError as error:
        raise CrystalError(error.strerror or "cannot be read") from None


def crystal_from_cif(text: str) -> CifCrystal:
    """The crystal of a CIF text with what the text says of its group.

    Raises CrystalError for text that is not CIF, holds no crystal or several, lacks its cell,
    or has partial occupancies, unknown elements, atoms on one another, or a count of atoms that
    belies its own formula.
    """
    block = _crystal_block(text)
    lengths = np.array([_number(block, tag) for tag in _LENGTHS])
    angles = np.array([_number(block, tag) for tag in _ANGLES])
    sites = _sites(block)
    cell = Structure.wrapped(lengths, angles, sites.numbers, sites.positions)  # checked
    group = _group_number(block)
    formula, units = _stated_formula(block), _formula_units(block)
    failure = ""
    for operators in _candidate_operators(block, sites, group, formula, units):
        numbers, positions, found = _expanded(sites, cell.matrix, operators)
        fits = _trivial(operators) or sites.multiplicities in (None, found)
        if fits and _meets(numbers, formula, units):
            structure = Structure(lengths, angles, numbers, positions)
            _check_distances(structure)
            return CifCrystal(structure, group if group != 1 else None)
        failure = failure or f"{formula_of(composition_of(numbers.tolist()))} in the cell"
    stated = f"formula {formula_of(formula)}" if formula else "site multiplicities"
    raise CrystalError(f"{failure}: does not come to the stated {stated}{_of_group(group)}")


def cif_text(structure: Structure, name: str = "crystal") -> str:
    """A P1 CIF with every atom, coordinates to ten decimals."""
    formula = structure.composition
    cell = zip((*_LENGTHS, *_ANGLES), (*structure.lengths, *structure.angles), strict=True)
    atoms = zip(structure.numbers.tolist(), structure.positions.tolist(), strict=True)
    lines = [
        f"data_{re.sub('[^A-Za-z0-9_.-]', '_', name) or 'crystal'}",
        "_symmetry_space_group_name_H-M 'P 1'",
        *(f"{tag} {value:.10f}" for tag, value in cell),
        "_symmetry_Int_Tables_number 1",
        f"_chemical_formula_structural {structure.reduced_formula}",
        f"_chemical_formula_sum '{' '.join(f'{symbol(z)}{n}' for z, n in formula.items())}'",
        f"_cell_volume {structure.volume:.8f}",
        f"_cell_formula_units_Z {math.gcd(*formula.values())}",
        "loop_\n_symmetry_equiv_pos_site_id\n_symmetry_equiv_pos_as_xyz\n1 'x, y, z'",
        "loop_\n_atom_site_type_symbol\n_atom_site_label\n_atom_site_symmetry_multiplicity",
        "_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n_atom_site_occupancy",
        *(
            f"{symbol(number)} {symbol(number)}{index} 1 {x:.10f} {y:.10f} {z:.10f} 1"
            for index, (number, (x, y, z)) in enumerate(atoms)
        ),
    ]
    return "\n".join(lines) + "\n"


def write_cif(structure: Structure, path: str | Path, name: str | None = None) -> None:
    """Write `cif_text` to a file, named after it unless told otherwise."""
    text = cif_text(structure, Path(path).stem if name is None else name)
    Path(path).write_text(text, encoding="utf-8")


def _crystal_block(text: str) -> gemmi.cif.Block:
    if len(text) > LONGEST_TEXT:
        raise CrystalError(f"a CIF of {len(text)} characters: at most {LONGEST_TEXT} are read")
    try:
        blocks = list(gemmi.cif.read_string(text))
    except (ValueError, RuntimeError) as error:
        raise CrystalError(f"not a CIF: {shown(error)}") from None
    blocks = [block for block in blocks if len(block.find_values("_atom_site_fract_x"))]
    if len(blocks) != 1:
        raise CrystalError(
            f"the CIF holds {len(blocks)} lists of atoms with fractional coordinates: one is needed"
        )
    return blocks[0]


def _number(block: gemmi.cif.Block, tag: str) -> float:
    text = block.find_value(tag)
    value = gemmi.cif.as_number(text) if text is not None else math.nan
    if not math.isfinite(value):
        raise CrystalError(f"{tag}: {'missing' if text is None else shown(text)}, must be a number")
    return float(value)


def _first(block: gemmi.cif.Block, tags: Sequence[str]) -> str | None:
    """The text of the first of the tags that is there and known."""
    for tag in tags:
        value = block.find_value(tag)
        if value is not None and value not in ("?", "."):
            return str(gemmi.cif.as_string(value))
    return None


def _sites(block: gemmi.cif.Block) -> _Sites:
    table = block.find(_SITE)
    if not 1 <= len(table) <= MOST_ATOMS:
        raise CrystalError(
            f"{len(table)} complete rows of fractional coordinates: 1 to {MOST_ATOMS} are read"
        )
    numbers, positions, multiplicities = [], [], []
    for index, row in enumerate(table):
        name = f"atom {index}"
        numbers.append(_element(row, name))
        positions.append([_coordinate(row[axis], name) for axis in range(3)])
        if row.has(5) and row[5] != ".":  # '.': the default, 1
            occupancy = gemmi.cif.as_number(row[5])
            if not abs(occupancy - 1) < 1e-3:
                raise CrystalError(f"{name} has occupancy {shown(row[5])}: only 1 is a crystal")
        if row.has(6):
            multiplicities.append(gemmi.cif.as_number(row[6]))
    stated = len(multiplicities) == len(numbers) and bool(np.all(np.isfinite(multiplicities)))
    return _Sites(np.array(numbers), np.array(positions), multiplicities if stated else None)


def _element(row: gemmi.cif.Table.Row, name: str) -> int:
    """Atomic number, from the type symbol (Fe, Fe3+) or else from the start of the label (Fe1)."""
    text = _text(row, 3)
    match = _ELEMENT.fullmatch(text)
    if not text:
        text = _text(row, 4)
        match = _LABEL.match(text)
    if match is None or match[1] not in NUMBERS:
        raise CrystalError(f"{name} is {shown(text) or 'unnamed'}: not an element")
    return NUMBERS[match[1]]


def _text(row: gemmi.cif.Table.Row, column: int) -> str:
    value = row[column] if row.has(column) else "?"
    return "" if value in ("?", ".") else str(gemmi.cif.as_string(value))


def _coordinate(text: str, name: str) -> float:
    value = gemmi.cif.as_number(text)
    if not abs(value) <= FARTHEST:
        raise CrystalError(
            f"{name} has coordinate {shown(text)}: a number within +-{FARTHEST:g} is needed"
        )
    return float(value)


def _group_number(block: gemmi.cif.Block) -> int | None:
    """1..230 as stated, by number or else by Hermann-Mauguin name."""
    text = _first(block, _GROUP_NUMBERS)
    if text is not None:
        if not re.fullmatch(r"\d{1,3}", text) or not 1 <= int(text) <= 230:
            raise CrystalError(f"space group number {shown(text)}: must be within 1..230")
        return int(text)
    group = _named_group(block)
    return None if group is None else int(group.number)


def _named_group(block: gemmi.cif.Block) -> gemmi.SpaceGroup | None:
    name = _first(block, _GROUP_NAMES)
    return None if name is None else gemmi.find_spacegroup_by_name(name[:40].replace("_", ""))


def _stated_formula(block: gemmi.cif.Block) -> dict[int, int] | None:
    """Atomic number -> number of atoms, of the cell or of a formula unit; None: not stated."""
    text = _first(block, ("_chemical_formula_sum",))
    if text is None:
        return None
    terms = [_TERM.fullmatch(term) for term in re.findall(r"[A-Z][^A-Z\s]*|[^\s]", text[:2000])]
    if not terms or any(term is None or term[1] not in NUMBERS for term in terms):
        raise CrystalError(f"formula {shown(text)}: whole numbers of elements are needed")
    counts: dict[int, int] = {}
    for term in terms:
        assert term is not None
        counts[NUMBERS[term[1]]] = counts.get(NUMBERS[term[1]], 0) + int(term[2] or 1)
    return counts


def _formula_units(block: gemmi.cif.Block) -> int | None:
    text = _first(block, ("_cell_formula_units_Z",))
    return int(text) if text is not None and re.fullmatch(r"[1-9]\d{0,5}", text) else None


def _meets(numbers: NDArray[np.int64], formula: dict[int, int] | None, units: int | None) -> bool:
    """Whether the cell holds the formula once or `units` times (any number of times if unsaid)."""
    if formula is None:
        return True
    counts = composition_of(numbers.tolist())
    if counts.keys() != formula.keys() or 0 in formula.values():
        return False
    ratios = {counts[number] / formula[number] for number in counts}
    ratio = ratios.pop()
    return not ratios and (ratio in (1, units) if units else ratio == int(ratio))


def _candidate_operators(
    block: gemmi.cif.Block,
    sites: _Sites,
    group: int | None,
    formula: dict[int, int] | None,
    units: int | None,
) -> Iterator[Operators]:
    """The operators that the file lists; the settings of its group where it lists none that fit."""
    columns = [block.find_values(tag) for tag in _OPERATORS]
    triplets = next(([str(t) for t in column] for column in columns if len(column)), None)
    listed = None if triplets is None else _operators(triplets)
    if listed is not None and not _trivial(listed):
        yield listed
        return
    whole = sites.multiplicities is None or sum(sites.multiplicities) == len(sites.numbers)
    if group in (None, 1) or (listed and whole and _meets(sites.numbers, formula, units)):
        yield _operators(["x,y,z"])
        return
    named = _named_group(block)
    settings = [entry for entry in gemmi.spacegroup_table() if entry.number == group]
    settings.sort(key=lambda entry: named is None or entry.xhm() != named.xhm())  # stable
    for setting in settings:
        yield _operators([operator.triplet() for operator in setting.operations()])


def _operators(triplets: Sequence[str]) -> Operators:
    """From texts such as '-y, x-y, z+1/3'."""
    if len(triplets) > MOST_OPERATORS:
        raise CrystalError(f"{len(triplets)} symmetry operators: at most {MOST_OPERATORS} exist")
    seitz = []
    for triplet in triplets:
        try:
            operator = gemmi.Op(gemmi.cif.as_string(triplet)[:80])
        except (ValueError, RuntimeError):
            raise CrystalError(f"{shown(triplet)}: not a symmetry operator") from None
        seitz.append(operator.float_seitz())
    matrices = np.array(seitz)  # (G, 4, 4)
    rotations = matrices[:, :3, :3]
    bad = np.flatnonzero(~np.isclose(np.abs(np.linalg.det(rotations)), 1.0))
    if len(bad):
        raise CrystalError(f"{shown(triplets[bad[0]])}: a symmetry operator keeps the volume")
    return rotations, matrices[:, :3, 3]


def _trivial(operators: Operators) -> bool:
    return len(operators[0]) == 1 and bool(np.array_equal(operators[0][0], np.eye(3)))


def _expanded(
    sites: _Sites, matrix: Floats, operators: Operators
) -> tuple[NDArray[np.int64], Floats, list[int]]:
    """(numbers, positions, atoms of each site) of all images of the sites, once each."""
    if len(operators[0]) == 1:
        return sites.numbers, wrap(sites.positions), [1] * len(sites.numbers)
    orbits = [_orbit(position, matrix, operators) for position in sites.positions]
    sizes = [len(orbit) for orbit in orbits]
    if sum(sizes) > MOST_ATOMS:
        raise CrystalError(f"{sum(sizes)} atoms in the cell: at most {MOST_ATOMS} are read")
    return np.repeat(sites.numbers, sizes), np.concatenate(orbits), sizes


def _orbit(position: Floats, matrix: Floats, operators: Operators) -> Floats:
    """The distinct images (M, 3) of a position; those nearer than MERGED become their average."""
    rotations, translations = operators
    images = wrap(rotations @ position + translations)  # (G, 3)
    distinct = []
    while len(images):
        offsets = images - images[0]
        offsets -= np.round(offsets)  # exact for the short distances that matter
        near = np.linalg.norm(offsets @ matrix, axis=1) < MERGED
        distinct.append(images[0] + offsets[near].mean(axis=0))
        images = images[~near]
    return wrap(np.array(distinct))


def _check_distances(structure: Structure) -> None:
    """Raises CrystalError if two atoms are on one another."""
    positions, matrix = structure.positions, structure.matrix
    for index in range(1, structure.n_atoms):
        offsets = positions[:index] - positions[index]
        offsets -= np.round(offsets)
        distances = np.linalg.norm(offsets @ matrix, axis=1)
        if distances.min() < MERGED:
            raise CrystalError(
                f"atoms {int(distances.argmin())} and {index} are {distances.min():.3f} Angstrom "
                f"apart: at least {MERGED:g} is needed"
            )


def _of_group(group: int | None) -> str:
    return "" if group in (None, 1) else f" in any setting of space group {group}"
