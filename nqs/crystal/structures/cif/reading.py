"""From a CIF to the one crystal that meets all its statements.

The file's group leaves one or several settings (stated_group.py). Each whose operators
are isometries of the cell is tried: the atoms are expanded, and what comes out must have the stated
multiplicities, formula, Z, volume and density. By construction it has the symmetry of the stated
group. Where several settings fit,

- axes that a name leaves open are the standard ones (unique axis b, the first cell choice);
- an origin that it leaves open is refused, unless both give the same crystal, one puts atoms closer
  than bonds are, or pymatgen wrote the file (which takes spglib's first origin).

Beside a group, what is listed is the asymmetric unit. Where that does not fit it is all atoms, if
spglib finds the stated group in them, and the list has all images of each or formula and Z agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from nqs.crystal.structures.cif import group_names, operators
from nqs.crystal.structures.cif.blocks import LONGEST_TEXT, Block, number, read_blocks, the_block
from nqs.crystal.structures.cif.content import StatedContent, stated_content
from nqs.crystal.structures.cif.expansion import (
    Expanded,
    check_distances,
    expanded,
    holds_all_images,
)
from nqs.crystal.structures.cif.operators import Operators
from nqs.crystal.structures.cif.sites import Sites, read_sites
from nqs.crystal.structures.cif.stated_group import Candidate, StatedGroup, stated_group
from nqs.crystal.structures.elements import symbol
from nqs.crystal.structures.periodic_distances import nearest_images, relevant_vectors
from nqs.crystal.structures.structure import CrystalError, Floats, Structure
from nqs.crystal.structures.symmetry import space_group
from nqs.errors import InputError, shown
from nqs.runfolder import text_file

Indices = NDArray[np.intp]

LISTED_TOLERANCE = 0.05
"""Angstrom by which atoms that are all listed may be off the symmetry that is stated."""
BONDED = 0.6
"""Least distance of two atoms in a likely crystal, in sums of their covalent radii."""
SAME = 1e-3
"""Angstrom to which the distances of two equal crystals agree."""

_LENGTHS = ("_cell_length_a", "_cell_length_b", "_cell_length_c")
_ANGLES = ("_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma")
_PYMATGEN = "# generated using pymatgen"


@dataclass(frozen=True)
class CifCrystal:
    """A structure, the space group that its file states (None: none, or P1), the name of its
    block, and what had to be decided to read it, a phrase each."""

    structure: Structure
    space_group: int | None
    name: str = ""
    notes: tuple[str, ...] = ()


def structure_from_cif(text: str) -> Structure:
    """The crystal of a CIF text. Raises CrystalError for anything else."""
    return crystal_from_cif(text).structure


def read_cif(path: str | Path) -> Structure:
    """The crystal of a CIF file. Raises CrystalError, naming the file, if it holds none."""
    text = read_text(Path(path))
    try:
        return structure_from_cif(text)
    except CrystalError as error:
        raise CrystalError(f"{path}: {error}") from None


def read_text(path: Path) -> str:
    """A file's text. Raises CrystalError, naming the file, if it cannot be read."""
    try:
        return text_file.read_text(path, LONGEST_TEXT)
    except InputError as error:
        raise CrystalError(str(error)) from None


def crystal_from_cif(text: str) -> CifCrystal:
    """The crystal of a CIF text with what the text says of its group.

    Raises CrystalError for text that is not CIF, holds no crystal or several, or whose statements
    do not all hold of one crystal.
    """
    return _crystal(the_block(text), text.lstrip("\ufeff \n").startswith(_PYMATGEN))


def crystals_from_cif(text: str) -> list[tuple[str, CifCrystal | CrystalError]]:
    """(name, crystal) of every block of a CIF text that lists atoms; the error where it is none.

    Raises CrystalError for text that is no CIF or lists no atoms.
    """
    blocks = read_blocks(text)
    if len(blocks) < 2:
        block = the_block(text)
        return [(block.name, crystal_from_cif(text))]
    found: list[tuple[str, CifCrystal | CrystalError]] = []
    for block in blocks:
        try:
            found.append((block.name, _crystal(block, False)))
        except CrystalError as error:
            found.append((block.name, error))
    return found


@dataclass(frozen=True)
class _Problem:
    """All that decides which crystal a block is."""

    lengths: Floats
    angles: Floats
    matrix: Floats
    sites: Sites
    content: StatedContent
    group: StatedGroup


def _crystal(block: Block, by_pymatgen: bool) -> CifCrystal:
    lengths = np.array([_number(block, tag) for tag in _LENGTHS])
    angles = np.array([_number(block, tag, default=90.0) for tag in _ANGLES])
    notes = [f"{tag} not stated: 90 degrees" for tag in _ANGLES if not block.one(tag)]
    content = stated_content(block)
    sites = read_sites(block, content.formulas)
    cell = Structure.wrapped(lengths, angles, sites.numbers, sites.positions)  # checked
    content.check_volume(cell)
    group = stated_group(block)
    problem = _Problem(lengths, angles, cell.matrix, sites, content, group)
    structure, decision = _decided(problem, by_pymatgen)
    _check_system(structure, group)
    notes += [*sites.notes, *group.notes, *([decision] if decision else [])]
    stated = group.number if group.number != 1 else None
    return CifCrystal(structure, stated, block.name, tuple(notes))


def _number(block: Block, tag: str, default: float | None = None) -> float:
    """A number of the cell; the dictionary's default where the tag is missing or '.'."""
    texts = block.raw(tag) or []
    if default is not None and (not texts or texts == ["."]):
        return default
    if len(texts) != 1 or not np.isfinite(value := number(texts[0])):
        said = "missing" if not texts else shown(texts[0])
        raise CrystalError(f"{tag}: {said}, must be a number")
    return value


def _decided(problem: _Problem, by_pymatgen: bool) -> tuple[Structure, str]:
    """(the crystal, what was decided to know it). Raises CrystalError if there is not one."""
    fitting, failures = _fitting(problem, by_pymatgen)
    if len(fitting) > 1:
        fitting = _likely(fitting)
    if len(fitting) > 1:
        fitting = _one_of_equals(fitting)
    if not fitting:
        return _as_listed(problem, failures)
    (chosen, structure), *others = fitting
    rivals = [candidate for candidate, _ in others if _undecided(problem, chosen, candidate)]
    if rivals:
        raise CrystalError(
            f"{problem.group.statement} leaves open whether {chosen.name} or {rivals[0].name} is "
            f"meant, which are different crystals here; give the operators or a Hall symbol"
        )
    is_open = len(problem.group.candidates) > 1
    kind = "read in the setting {} of several that the group's name may mean"
    return structure, kind.format(chosen.name) if is_open else ""


def _fitting(
    problem: _Problem, first_only: bool
) -> tuple[list[tuple[Candidate, Structure]], list[str]]:
    """The candidates that meet all statements with their crystals, and why the others do not."""
    fitting, failures = [], []
    for candidate in problem.group.candidates:
        try:
            fitting.append((candidate, _tried(problem, candidate.operators)))
        except CrystalError as error:
            failures.append(str(error))
        if first_only and fitting:
            break
    return fitting, failures


def _tried(problem: _Problem, chosen: Operators) -> Structure:
    """The crystal by these operators. Raises CrystalError if it does not meet all statements."""
    bad = chosen.changes_metric(problem.matrix)
    if bad is not None:
        cell = ", ".join(f"{value:g}" for value in (*problem.lengths, *problem.angles))
        name = f"space group {problem.group.number} ({problem.group.statement})"
        raise CrystalError(
            f"{name} does not fit the cell {cell}: {chosen.triplet(bad)} is no isometry of it"
        )
    whole = expanded(problem.sites, problem.matrix, chosen)
    structure = Structure(problem.lengths, problem.angles, whole.numbers, whole.positions)
    objection = problem.content.objection(structure, problem.sites.notes)
    if objection:
        raise CrystalError(f"{objection}{_of_group(problem.group)}")
    _check_multiplicities(problem, whole, len(chosen.rotations))
    check_distances(structure)
    return structure


def _check_multiplicities(problem: _Problem, whole: Expanded, n_operators: int) -> None:
    """Raises CrystalError unless the stated multiplicities are the numbers of images, or (as one
    program long wrote them) the orders of the sites' symmetry, or mean nothing: 1 throughout, or
    those of the conventional listing in P 1, where formula and Z say what is in the cell."""
    stated = problem.sites.multiplicities
    if stated is None or list(stated) == whole.sizes:
        return
    if [count * size for count, size in zip(stated, whole.sizes, strict=True)] == [
        n_operators
    ] * len(stated):
        return
    if problem.content.complete and (n_operators == 1 or set(stated) == {1.0}):
        return
    index = next(i for i, size in enumerate(whole.sizes) if size != stated[i])
    raise CrystalError(
        f"atom {index} has {whole.sizes[index]} images, which does not come to the stated "
        f"multiplicity {stated[index]:g}{_of_group(problem.group)}"
    )


def _as_listed(problem: _Problem, failures: list[str]) -> tuple[Structure, str]:
    """The crystal if all its atoms are listed although a group is stated. Raises CrystalError, with
    the first reason why the group's settings do not fit, if they are not."""
    group = problem.group
    several = f" (nor do {len(failures) - 1} other settings)" if len(failures) > 1 else ""
    reason = CrystalError(f"{failures[0]}{several}")
    if group.number in (None, 1):
        raise reason
    try:
        structure = _tried(problem, operators.identity())
        found = space_group(structure, LISTED_TOLERANCE)
    except CrystalError:
        raise reason from None
    fitting = [c.operators for c in group.candidates if c.operators.fit(problem.matrix)]
    whole = any(holds_all_images(structure, one) for one in fitting)
    if found != group.number or not (whole or problem.content.complete):
        raise reason
    return structure, "all atoms listed although a space group is stated, which they have"


def _likely(
    fitting: list[tuple[Candidate, Structure]],
) -> list[tuple[Candidate, Structure]]:
    """Those whose atoms are as far apart as atoms are; all, if none is."""
    likely = [pair for pair in fitting if not _crowded(pair[1])]
    return likely or fitting


def _crowded(structure: Structure) -> bool:
    radii = np.array([gemmi.Element(symbol(z)).covalent_r for z in structure.numbers])
    first, second, distances = _distances(structure)
    return bool(np.any(distances < BONDED * (radii[first] + radii[second])))


def _one_of_equals(
    fitting: list[tuple[Candidate, Structure]],
) -> list[tuple[Candidate, Structure]]:
    """The different crystals among them, the first of each."""
    different: list[tuple[Candidate, Structure]] = []
    for pair in fitting:
        if not any(_equal(pair[1], other) for _, other in different):
            different.append(pair)
    return different


def _equal(one: Structure, other: Structure) -> bool:
    """Whether two crystals in one cell have the same distances between the same elements."""
    if one.composition != other.composition:
        return False
    tables = []
    for structure in (one, other):
        first, second, distances = _distances(structure)
        pairs = np.sort(np.stack([structure.numbers[first], structure.numbers[second]]), axis=0)
        tables.append(distances[np.lexsort((distances, pairs[1], pairs[0]))])
    return bool(np.allclose(tables[0], tables[1], atol=SAME))


def _distances(structure: Structure) -> tuple[Indices, Indices, Floats]:
    """(i, j, distance of their nearest images) of all pairs of atoms i < j."""
    try:
        vectors = relevant_vectors(structure.matrix)
    except ValueError as error:
        raise CrystalError(str(error)) from None
    first, second = np.triu_indices(structure.n_atoms, k=1)
    differences = structure.positions[second] - structure.positions[first]
    differences = differences @ structure.matrix @ np.linalg.inv(vectors[:3])
    differences -= np.rint(differences)
    nearest = nearest_images(differences @ vectors[:3], vectors)
    return first, second, np.asarray(np.linalg.norm(nearest, axis=1))


def _undecided(problem: _Problem, chosen: Candidate, other: Candidate) -> bool:
    """Whether nothing says that the chosen setting is meant rather than the other."""
    if not problem.group.standard_axes:
        return True
    if chosen.setting is None or other.setting is None:
        return True
    return group_names.two_origins(chosen.setting, other.setting)


def _check_system(structure: Structure, group: StatedGroup) -> None:
    """Raises CrystalError where a crystal system is stated, no group is, and the atoms have not
    that system."""
    if group.number is not None or len(group.system) == 230:
        return
    found = space_group(structure, LISTED_TOLERANCE)
    if found not in group.system:
        raise CrystalError(
            f"the stated crystal system has groups {group.system[0]}..{group.system[-1]}, the "
            f"atoms as listed group {found}"
        )


def _of_group(group: StatedGroup) -> str:
    return "" if group.number in (None, 1) else f" in space group {group.number}"
