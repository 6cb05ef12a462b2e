"""Names of space groups: Hermann-Mauguin symbols in every spelling, Schoenflies symbols, numbers.

A name is answered by all settings (choices of axes and origin) that it may mean: 'F d -3 m' is
both origins, 'R -3 m' hexagonal and rhombohedral axes, 'P 2/m' any unique axis, 'P 1 2/m 1' one
setting alone. The tables are gemmi's (564 settings) and, for full symbols, spglib's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable

import gemmi
import spglib

from nqs.crystal.structures.symmetry import call_spglib

Settings = tuple[gemmi.SpaceGroup, ...]
"""Entries of gemmi's table, all of one space group, in its order: the standard one first."""

LONGEST_NAME = 80
_E_GLIDES = (39, 41, 64, 67, 68)
"""Groups that have another short symbol since 1992, such as Cmce for Cmca."""

_UNICODE = str.maketrans(
    {"\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2212": "-"}
    | {chr(0x2080 + digit): str(digit) for digit in range(10)}
)
_OVERBARS = (
    (re.compile("(\\d)[\u0304\u0305]"), r"-\1"),
    (re.compile(r"\\(?:bar|overline)\s*\{?\s*(\d)\s*\}?"), r"-\1"),
    (re.compile(r"\\=\s*(\d)"), r"-\1"),
)
_MARKUP = re.compile(r"</?[A-Za-z]{1,6}>|[$~_{}]")
_SCREW = re.compile(r"([2346])\(([1-5])\)")
_NUMBERED = re.compile(
    r"(.*?)[\s,;:]*[(\[]?\s*(?:no\.?|nr\.?|number|#)?\s*(?<![\d/])(\d{1,3})\s*[)\]]?", re.I
)
_MARKED_NUMBER = re.compile(r"[(\[#]|no\.?\s|nr\.?\s|number|[,;]", re.I)
_CODED = re.compile(r"(.+?)\s*:\s*(-?[0-9A-Za-z-]{1,6})")
_TAILED = re.compile(r"(.+?)\s*([HRSZ]|[Oo]\d)")
_WORDS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"origin\s*(?:choice)?\s*(?:no\.?)?\s*([12])", re.I), r"\1"),
    (re.compile(r"(?:hexagonal|hex\.?)(?:\s*(?:axes|setting|cell))?", re.I), "H"),
    (re.compile(r"(?:rhombohedral|rhomb?\.?)(?:\s*(?:axes|setting|cell))?", re.I), "R"),
    (re.compile(r"unique\s*axis\s*([abc])", re.I), r"\1"),
    (re.compile(r"unique\s*axis\s*([abc])[,;\s]*cell\s*choice\s*([123])", re.I), r"\1\2"),
)
_LEFT_OUT = re.compile(r"[(\[]([^()\[\]]{2,40})[)\]]")


@functools.cache
def of_number(number: int) -> Settings:
    """The settings of the space group 1..230."""
    return tuple(entry for entry in gemmi.spacegroup_table() if entry.number == number)


def of_schoenflies(name: str) -> Settings | None:
    """The settings of a Schoenflies symbol such as Oh^5, C2h.5 or D_3d^6; None: no such one."""
    number = _schoenflies().get(re.sub(r"[\s_^.{}$]", "", name[:LONGEST_NAME]).lower())
    return None if number is None else of_number(number)


def of_hermann_mauguin(name: str) -> Settings | None:
    """The settings that a Hermann-Mauguin symbol may mean; None if it is not understood.

    Short, full, old (F m 3 m) and extended symbols, with their parts apart or not, in any case,
    with screw axes as 21, 2_1, 2(1), with overbars as -3; and what data bases add to them: the
    number (Fm-3m (225)), axes and origin (:H, :2, H, R, S, Z, 'origin choice 2').
    """
    if len(name) > LONGEST_NAME:
        return None
    text = _MARKUP.sub("", _replaced(name.translate(_UNICODE))).strip()
    text = _SCREW.sub(lambda m: m[1] + m[2] if m[2] < m[1] else m[0], text)
    readers: tuple[Callable[[str], Settings | None], ...] = (
        _known,
        _with_code,
        _with_words,
        _with_number,
        _with_tail,
    )
    return next((found for reader in readers if (found := reader(text))), None)


def of_code(settings: Settings, code: str) -> Settings:
    """Those of the settings with a coordinate system's code (1, 2, H, R, b1, -cab, 2cab, ...)."""
    wanted = code.strip().lower()
    found = tuple(entry for entry in settings if wanted in _codes(entry))
    if not found and wanted == "1" and not any(_extension(entry) for entry in settings):
        return settings  # the only origin there is
    return found


def describe(setting: gemmi.SpaceGroup) -> str:
    """Such as 'F d -3 m:2'."""
    return str(setting.xhm())


def two_origins(one: gemmi.SpaceGroup, other: gemmi.SpaceGroup) -> bool:
    """Whether two settings differ in their origin and not in their axes."""
    return bool(one.hm == other.hm and {one.ext, other.ext} == {"1", "2"})


def _known(text: str) -> Settings | None:
    return _index().get(_key(text))


def _with_code(text: str) -> Settings | None:
    match = _CODED.fullmatch(text)
    settings = match and _known(match[1])
    return (of_code(settings, match[2]) or None) if match and settings else None


def _with_number(text: str) -> Settings | None:
    """'Fm-3m (225)', 'Fm-3m #225', '225': the number must be that of the name."""
    match = _NUMBERED.fullmatch(text)
    if match is None or not 1 <= int(match[2]) <= 230:
        return None
    if not match[1].strip():
        return of_number(int(match[2]))
    marked = _MARKED_NUMBER.search(text[match.end(1) :])
    settings = of_hermann_mauguin(match[1]) if marked else None
    same = settings is not None and settings[0].number == int(match[2])
    return settings if same else None


def _with_words(text: str) -> Settings | None:
    """'F d -3 m (origin choice 2)', 'R -3 m hexagonal axes'."""
    bare = _LEFT_OUT.sub(r" \1", text)
    for pattern, code in _WORDS:
        match = re.fullmatch(rf"(.+?)[\s,;]+{pattern.pattern}", bare, re.I)
        settings = match and _known(match[1])
        if match and settings:
            inner = pattern.fullmatch(bare[match.end(1) :].lstrip(" ,;"))
            return of_code(settings, inner.expand(code)) or None if inner else None
    return None


def _with_tail(text: str) -> Settings | None:
    """The letters of data bases: H, R (axes), S, Z (origin 1 or 2 where there are two), O2."""
    match = _TAILED.fullmatch(text)
    settings = match and _known(match[1])
    if not match or not settings:
        return None
    tail = match[2].upper()
    has_origins = any(entry.ext in ("1", "2") for entry in settings)
    if tail in ("S", "Z"):  # S is what stands for nothing special where there is one origin
        return (of_code(settings, "12"[tail == "Z"]) or None) if has_origins else settings
    return of_code(settings, tail[-1]) or None


def _replaced(text: str) -> str:
    for pattern, replacement in _OVERBARS:
        text = pattern.sub(replacement, text)
    return text


def _key(text: str) -> str:
    return re.sub(r"\s", "", text).upper()


def _extension(entry: gemmi.SpaceGroup) -> str:
    return str(entry.ext).strip("\0")


def _codes(entry: gemmi.SpaceGroup) -> set[str]:
    extension, axes = _extension(entry).lower(), str(entry.qualifier).lower()
    return {extension, axes, extension + axes, *([axes[:1]] if axes[:1] in "abc" else [])} - {""}


@functools.cache
def _index() -> dict[str, Settings]:
    """Every spelling, without spaces and in capitals, to the settings that it may mean."""
    found: dict[str, dict[str, gemmi.SpaceGroup]] = {}
    for entry in gemmi.spacegroup_table():
        for name in _spellings(entry):
            found.setdefault(_key(name), {})[entry.xhm()] = entry
    return {key: tuple(entries.values()) for key, entries in found.items()}


def _spellings(entry: gemmi.SpaceGroup) -> Iterable[str]:
    yield from (entry.xhm(), entry.hm)
    if entry.hall not in _full_names():  # 34 rare settings, whose short names others have
        return
    yield entry.short_name()
    names = [entry.hm, _full_names()[entry.hall]]
    if entry.number in _E_GLIDES:
        names.append(_short_names()[entry.hall])
    for name in names:
        yield name
        if entry.ext == "H":
            yield "H" + name[1:]
        if entry.crystal_system_str() == "monoclinic":
            yield " ".join(part for part in name.split() if part != "1")
        if entry.number >= 195:
            yield name.replace("-3", "3")


@functools.cache
def _types() -> tuple[tuple[str, spglib.SpaceGroupType], ...]:
    """(Hall symbol as gemmi writes it, spglib's description) of its 530 settings."""
    entries = []
    for number in range(1, 531):
        description = call_spglib(spglib.get_spacegroup_type, number)
        operations = gemmi.symops_from_hall(description.hall_symbol.replace("=", '"'))
        entries.append((gemmi.find_spacegroup_by_ops(operations).hall, description))
    return tuple(entries)


@functools.cache
def _full_names() -> dict[str, str]:
    return {hall: entry.international_full.replace("_", "") for hall, entry in _types()}


@functools.cache
def _short_names() -> dict[str, str]:
    return {hall: entry.international_short.replace("_", "") for hall, entry in _types()}


@functools.cache
def _schoenflies() -> dict[str, int]:
    return {entry.schoenflies.replace("^", "").lower(): entry.number for _, entry in _types()}
