"""What a file states of its space group, under any of the tags, and what that may mean.

Number, Hermann-Mauguin and Schoenflies symbols give a group and some of its settings, Hall symbols
and operators one setting alone. All must be of one group: Hall symbols and operators then decide
its setting. Where only names are given, several settings may be left (two origins, hexagonal or
rhombohedral axes); `candidates` are those, the standard one first.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import gemmi

from nqs.crystal.structures.cif import group_names, operators
from nqs.crystal.structures.cif.blocks import Block
from nqs.crystal.structures.cif.group_names import Settings
from nqs.crystal.structures.cif.operators import Operators
from nqs.crystal.structures.structure import CrystalError
from nqs.errors import shown

_NUMBERS = (
    "_space_group_it_number",
    "_symmetry_int_tables_number",
    "_space_group_int_tables_number",
    "_symmetry_space_group_it_number",
    "_symmetry_space_group_number",
    "_symmetry_it_number",
    "_space_group_number",
)
_NAMES = (
    "_space_group_name_h_m_alt",
    "_space_group_name_h_m_full",
    "_space_group_name_h_m",
    "_space_group_name_hm",
    "_space_group_name",
    "_space_group_h_m",
    "_space_group_symbol",
    "_space_group_symbol_h_m",
    "_space_group",
    "_symmetry_space_group_name_h_m",
    "_symmetry_space_group_name_h_m_full",
    "_symmetry_space_group_name_h_m_alt",
    "_symmetry_space_group_name_hm",
    "_symmetry_space_group_name",
    "_symmetry_space_group",
    "_symmetry_pdbx_full_space_group_name_h_m",
)
_REFERENCE_NAMES = ("_space_group_name_h_m_ref",)
_HALL = (
    "_space_group_name_hall",
    "_space_group_hall",
    "_space_group_symbol_hall",
    "_symmetry_space_group_name_hall",
    "_symmetry_hall",
)
_SCHOENFLIES = (
    "_space_group_name_schoenflies",
    "_space_group_schoenflies",
    "_symmetry_space_group_name_schoenflies",
    "_symmetry_schoenflies",
)
_OPERATORS = (
    "_space_group_symop_operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_xyz",
    "_space_group_symop_as_xyz",
    "_space_group_operation_xyz",
    "_space_group_symop_operation",
    "_symmetry_equiv_pos_xyz",
    "_symmetry_equiv_as_xyz",
    "_symmetry_operation_xyz",
)
_GENERATORS = ("_space_group_symop_generator_xyz",)
_CODES = ("_space_group_it_coordinate_system_code",)
_SYSTEMS = ("_space_group_crystal_system", "_symmetry_cell_setting")
_HARMLESS = re.compile(
    r"_space_group_(id|reference_setting|symop_(id|sg_?id|operation_description))"
    r"|_symmetry_(entry_id|equiv_pos_site_id|equiv_id)"
)
_TRANSFORMS = re.compile(r"_space_group_transform_\w+")
_NO_TRANSFORMS = ("a,b,c;0,0,0", "a,b,c", "x,y,z", "x,y,z;0,0,0", "pp")
_OTHERS = re.compile(
    r"(?!_(atom|geom|refln|diffrn|exptl|parent|journal|publ|audit|computing|chemical)).*"
    r"(space_?group|symmetry|symop|int_tables|hermann|_sg_|_(hall|h_m|hm)(_|$))"
)
_OTHER_KINDS = {
    "magnetic": re.compile(r"_(space_group_(symop_)?|symmetry_)magn"),
    "modulated": re.compile(r"_(space_group_(symop_)?ssg|cell_modulation|cell_wave_vector|jana_)"),
}
_OF_SYSTEM = {
    "triclinic": range(1, 3),
    "anorthic": range(1, 3),
    "monoclinic": range(3, 16),
    "orthorhombic": range(16, 75),
    "tetragonal": range(75, 143),
    "trigonal": range(143, 195),
    "rhombohedral": range(143, 195),
    "hexagonal": range(143, 195),
    "cubic": range(195, 231),
    "isometric": range(195, 231),
}
_ANY = range(1, 231)


@dataclass(frozen=True)
class Candidate:
    """Operators that the file may mean, and the setting that they are of (None: no table's)."""

    operators: Operators
    setting: gemmi.SpaceGroup | None = None

    @property
    def name(self) -> str:
        return self.operators.setting or f"{len(self.operators.rotations)} operators"


@dataclass(frozen=True)
class StatedGroup:
    """What a file states of its space group.

    Attributes:
        number: 1..230; None: nothing is stated.
        statement: the tag and the text that say so; '' for None.
        candidates: the operators that it may mean; P 1's where nothing is stated.
        standard_axes: axes that are left open are the standard ones (where that gives a crystal);
            False where the file says something of them that is not understood.
        system: numbers of the groups of the stated crystal system.
        notes: what was decided.
    """

    number: int | None
    statement: str
    candidates: tuple[Candidate, ...]
    standard_axes: bool = True
    system: range = _ANY
    notes: tuple[str, ...] = ()


@dataclass
class _Statement:
    """One tag: what it says, and the settings (all of one group) that it may mean."""

    where: str
    settings: Settings
    operators: Operators | None = None

    @property
    def number(self) -> int:
        return self.operators.number if self.operators else int(self.settings[0].number)


@dataclass
class _Collected:
    """What the tags of a block say, by kind; riddles are what is not understood."""

    named: list[_Statement] = field(default_factory=list)
    hall: list[_Statement] = field(default_factory=list)
    listed: list[_Statement] = field(default_factory=list)
    riddles: list[str] = field(default_factory=list)


def stated_group(block: Block) -> StatedGroup:
    """All that a block states of its space group.

    Raises CrystalError for statements that contradict each other, and for a space group that is
    stated but not understood.
    """
    _refuse_other_kinds(block)
    found = _collected(block)
    system = _system(block, found)
    for alike in (found.hall, found.listed):
        for other in alike[1:]:
            if not _same(alike[0].operators, other.operators):
                raise CrystalError(_contradiction(alike[0].where, other.where))
    meaningful = [one for one in found.listed if not _only_identity(one)]
    statements = [*found.named, *found.hall, *meaningful]
    if not statements:
        return _nothing_stated(block, found, system)
    first = statements[0]
    for other in statements[1:]:
        if other.number != first.number:
            raise CrystalError(_contradiction(first.where, other.where))
    if first.number == 1 and found.riddles:
        raise CrystalError(f"{found.riddles[0]}: not understood, and {first.where} is no answer")
    if first.number not in system:
        said = next(_said(block, tag) for tag in _SYSTEMS if block.texts(tag))
        raise CrystalError(_contradiction(said, first.where))
    notes = tuple(f"not understood, others decide: {riddle}" for riddle in found.riddles)
    if not meaningful:
        _check_origin(found)
    exact = (*meaningful, *found.hall)[:1]
    if exact:
        assert exact[0].operators is not None
        only = (Candidate(exact[0].operators),)
        return StatedGroup(first.number, first.where, only, True, system, notes)
    settings = _common(block, found.named)
    groups = [(operators.of_hall(setting.hall), setting) for setting in settings]
    candidates = tuple(Candidate(group, setting) for group, setting in groups if group)
    return StatedGroup(first.number, first.where, candidates, not found.riddles, system, notes)


def _only_identity(statement: _Statement) -> bool:
    return statement.operators is not None and statement.operators.only_identity


def _nothing_stated(block: Block, found: _Collected, system: range) -> StatedGroup:
    """P 1, unless something is said that is not understood."""
    if found.riddles:
        raise CrystalError(f"{found.riddles[0]}: a space group that is not understood")
    _refuse_unknown_tags(block)
    only = (Candidate(operators.identity()),)
    if found.listed:
        return StatedGroup(None, "", only, system=system)
    notes = ("no space group stated: every atom taken as listed",)
    return StatedGroup(None, "", only, system=system, notes=notes)


def _collected(block: Block) -> _Collected:
    found = _Collected()
    readers: tuple[tuple[tuple[str, ...], Callable[[str], Settings | None]], ...] = (
        (_NUMBERS, _of_number),
        (_NAMES, group_names.of_hermann_mauguin),
        (_REFERENCE_NAMES, _of_reference),
        (_SCHOENFLIES, group_names.of_schoenflies),
    )
    for tags, reader in readers:
        for tag in tags:
            text = block.one(tag)
            if text is None:
                continue
            settings = reader(text)
            if settings:
                found.named.append(_Statement(_said(block, tag), settings))
            else:
                found.riddles.append(_said(block, tag))
    for tag in _HALL:
        symbol = block.one(tag)
        group = None if symbol is None else operators.of_hall(symbol)
        if group is not None:
            found.hall.append(_Statement(_said(block, tag), (), group))
        elif symbol is not None:
            found.riddles.append(_said(block, tag))
    for tag in (*_OPERATORS, *_GENERATORS):
        triplets = tuple(block.texts(tag))
        if triplets:
            if len(triplets) < len(block.raw(tag) or ()):
                raise CrystalError(f"{block.spelled(tag)}: some symmetry operators are not known")
            group = operators.of_triplets(triplets, generators=tag in _GENERATORS)
            where = f"{block.spelled(tag)} ({len(triplets)} operators of group {group.number})"
            found.listed.append(_Statement(where, (), group))
    for tag in block:
        text = block.one(tag) if _TRANSFORMS.fullmatch(tag) else None
        if text is not None and re.sub(r"\s", "", text).lower() not in _NO_TRANSFORMS:
            found.riddles.append(_said(block, tag))
    return found


def _said(block: Block, tag: str) -> str:
    return f"{block.spelled(tag)} {shown(block.one(tag))}"


def _of_number(text: str) -> Settings:
    """Of '225', '225.0' or '48:2'."""
    match = re.fullmatch(r"#?(\d{1,3})(?:\.0*)?(?::(\w{1,5}))?", text)
    if match is None or not 1 <= int(match[1]) <= 230:
        raise CrystalError(f"space group number {shown(text)}: must be within 1..230")
    settings = group_names.of_number(int(match[1]))
    coded = group_names.of_code(settings, match[2]) if match[2] else settings
    if not coded:
        raise CrystalError(f"space group number {shown(text)}: has no such setting")
    return coded


def _of_reference(text: str) -> Settings | None:
    """The reference setting's name says which group it is, not in which setting it is used."""
    settings = group_names.of_hermann_mauguin(text)
    return None if settings is None else group_names.of_number(int(settings[0].number))


def _same(one: Operators | None, other: Operators | None) -> bool:
    assert one is not None and other is not None
    members = [
        {(rotation.tobytes(), shift.tobytes()) for rotation, shift in pairs}
        for pairs in (
            zip(one.rotations, one.translations, strict=True),
            zip(other.rotations, other.translations, strict=True),
        )
    ]
    return members[0] == members[1]


def _check_origin(found: _Collected) -> None:
    """Raises CrystalError where a name says one origin and a Hall symbol the other."""
    for exact in found.hall:
        assert exact.operators is not None
        meant = group_names.of_hermann_mauguin(exact.operators.setting) or ()
        for named in found.named:
            pairs = [(one, two) for one in meant for two in named.settings]
            if len(pairs) == 1 and group_names.two_origins(*pairs[0]):
                raise CrystalError(_contradiction(named.where, exact.where))


def _common(block: Block, named: list[_Statement]) -> Settings:
    """The settings that all names may mean."""
    settings, source = named[0].settings, named[0]
    for statement in named[1:]:
        halls = {setting.hall for setting in statement.settings}
        common = tuple(setting for setting in settings if setting.hall in halls)
        if not common:
            raise CrystalError(_contradiction(source.where, statement.where))
        if len(common) < len(settings):
            settings, source = common, statement
    code = block.one(*_CODES)
    if code is None:
        return settings
    coded = group_names.of_code(settings, code)
    if not coded:
        raise CrystalError(_contradiction(source.where, _said(block, _CODES[0])))
    return coded


def _contradiction(one: str, other: str) -> str:
    return f"{one} and {other} contradict each other"


def _system(block: Block, found: _Collected) -> range:
    """The groups of the stated crystal system."""
    text = block.one(*_SYSTEMS)
    if text is None:
        return _ANY
    system = _OF_SYSTEM.get(text.lower())
    if system is None:
        tag = next(tag for tag in _SYSTEMS if block.texts(tag))
        found.riddles.append(_said(block, tag))
    return system or _ANY


def _refuse_other_kinds(block: Block) -> None:
    for tag in block:
        for kind, pattern in _OTHER_KINDS.items():
            if pattern.match(tag) and block.texts(tag) not in ([], ["0"]):
                raise CrystalError(f"{block.spelled(tag)}: {kind} structures are not read")


def _refuse_unknown_tags(block: Block) -> None:
    """Raises CrystalError for a tag that may state the group where nothing else does."""
    known = {
        *(*_NUMBERS, *_NAMES, *_REFERENCE_NAMES, *_HALL, *_SCHOENFLIES),
        *(*_OPERATORS, *_GENERATORS, *_CODES, *_SYSTEMS),
    }
    for tag in block:
        unknown = tag not in known and not _HARMLESS.fullmatch(tag)
        if unknown and _OTHERS.match(tag) and block.texts(tag):
            said = f"{block.spelled(tag)} {shown(block.texts(tag)[0])}"
            raise CrystalError(f"{said}: a space group that is not understood")
