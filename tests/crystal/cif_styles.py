"""The same crystals as CIF files in the styles that programs and people write, by a seed.

    python tests/crystal/cif_styles.py [SEED]

prints how many of them gemmi, pymatgen and this package read right, refuse or read as something
else (the table of docs/crystals.md).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import gemmi
import spglib
from pymatgen.core import Lattice
from pymatgen.core import Structure as TheirStructure
from pymatgen.io.cif import CifParser

Site = tuple[str, tuple[float, float, float]]
CELL_TAGS = (
    *("_cell_length_a", "_cell_length_b", "_cell_length_c"),
    *("_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma"),
)


@dataclass(frozen=True)
class Prototype:
    """A crystal: its setting (gemmi's extended symbol), cell, asymmetric unit, formula unit, Z."""

    name: str
    setting: str
    lengths: tuple[float, float, float]
    angles: tuple[float, float, float]
    sites: tuple[Site, ...]
    formula: tuple[tuple[str, int], ...]
    units: int

    @property
    def group(self) -> gemmi.SpaceGroup:
        return gemmi.find_spacegroup_by_name(self.setting)

    @property
    def composition(self) -> dict[str, int]:
        return {element: count * self.units for element, count in self.formula}

    @property
    def full_name(self) -> str:
        """The full symbol, from spglib's tables."""
        for number in range(1, 531):
            found = spglib_type(number)
            if found.hall_symbol.replace("=", '"') == self.group.hall:
                return found.international_full.replace("_", "")
        raise AssertionError(self.setting)

    def whole(self) -> TheirStructure:
        """All atoms, by pymatgen from gemmi's operators."""
        lattice = Lattice.from_parameters(*self.lengths, *self.angles)
        symbols, places = [], []
        for symbol, position in self.sites:
            for place in orbit(self.group, position):
                symbols.append(symbol)
                places.append(place)
        return TheirStructure(lattice, symbols, places, to_unit_cell=True)


def spglib_type(number: int) -> spglib.SpaceGroupType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return spglib.get_spacegroup_type(number)


def orbit(group: gemmi.SpaceGroup, position: Sequence[float]) -> list[tuple[float, ...]]:
    """The images of a position that is written with all its digits."""
    images = {}
    for operator in group.operations():
        image = tuple(value % 1.0 for value in operator.apply_to_xyz(list(position)))
        key = tuple(round(value * 1e5) % 100_000 for value in image)
        images.setdefault(key, image)
    return list(images.values())


def cube(length: float) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    return (length, length, length), (90.0, 90.0, 90.0)


ROCK_SALT = Prototype(
    "rock salt",
    "F m -3 m",
    *cube(5.6402),
    (("Na", (0, 0, 0)), ("Cl", (0, 0, 0.5))),
    (("Na", 1), ("Cl", 1)),
    4,
)
DIAMOND = Prototype(
    "diamond", "F d -3 m:2", *cube(3.567), (("C", (0.125, 0.125, 0.125)),), (("C", 1),), 8
)
PEROVSKITE = Prototype(
    "perovskite",
    "P m -3 m",
    *cube(3.905),
    (("Sr", (0, 0, 0)), ("Ti", (0.5, 0.5, 0.5)), ("O", (0.5, 0.5, 0))),
    (("Sr", 1), ("Ti", 1), ("O", 3)),
    1,
)
WURTZITE = Prototype(
    "wurtzite",
    "P 63 m c",
    (3.2495, 3.2495, 5.2069),
    (90.0, 90.0, 120.0),
    (("Zn", (1 / 3, 2 / 3, 0)), ("O", (1 / 3, 2 / 3, 0.3821))),
    (("Zn", 1), ("O", 1)),
    2,
)
RUTILE = Prototype(
    "rutile",
    "P 42/m n m",
    (4.5937, 4.5937, 2.9587),
    (90.0, 90.0, 90.0),
    (("Ti", (0, 0, 0)), ("O", (0.3053, 0.3053, 0))),
    (("Ti", 1), ("O", 2)),
    2,
)
BADDELEYITE = Prototype(
    "baddeleyite",
    "P 1 21/c 1",
    (5.1505, 5.2116, 5.3173),
    (90.0, 99.23, 90.0),
    (
        ("Zr", (0.2754, 0.0395, 0.2083)),
        ("O", (0.07, 0.3317, 0.3447)),
        ("O", (0.4496, 0.7569, 0.4792)),
    ),
    (("Zr", 1), ("O", 2)),
    4,
)
CORUNDUM = Prototype(
    "corundum",
    "R -3 c:H",
    (4.7589, 4.7589, 12.9919),
    (90.0, 90.0, 120.0),
    (("Al", (0, 0, 0.3522)), ("O", (0.3063, 0, 0.25))),
    (("Al", 2), ("O", 3)),
    6,
)
PROTOTYPES = (ROCK_SALT, DIAMOND, PEROVSKITE, WURTZITE, RUTILE, BADDELEYITE, CORUNDUM)


@dataclass(frozen=True)
class Writing:
    """How a file is written; every tag in `group` and `others` as it stands there."""

    group: tuple[tuple[str, str], ...] = ()
    operators: tuple[str, tuple[str, ...]] | None = None
    others: tuple[tuple[str, str], ...] = ()
    columns: tuple[str, ...] = ("_atom_site_label", "_atom_site_type_symbol")
    dotted: bool = False
    everything: bool = False
    """All atoms of the cell, not the asymmetric unit."""
    symbol: Callable[[str], str] = str
    number: Callable[[float], str] = "{:.5f}".format
    occupancy: str | None = None


def text(prototype: Prototype, how: Writing, dice: random.Random) -> str:
    """The crystal as CIF; equivalent atoms stand for the asymmetric unit, in random order."""
    lines = [f"data_{prototype.name.replace(' ', '_')}"]
    values = (*prototype.lengths, *prototype.angles)
    lines += [f"{tag} {how.number(value)}" for tag, value in zip(CELL_TAGS, values, strict=True)]
    pairs = [*how.group, *how.others]
    dice.shuffle(pairs)
    lines += [f"{tag} {quoted(value)}" for tag, value in pairs]
    if how.operators is not None:
        tag, triplets = how.operators
        lines += ["loop_", tag, *(quoted(triplet) for triplet in triplets)]
    columns = [*how.columns, *(f"_atom_site_fract_{axis}" for axis in "xyz")]
    columns += ["_atom_site_occupancy"] if how.occupancy else []
    lines += ["loop_", *columns]
    for index, (symbol, position) in enumerate(listed(prototype, how, dice)):
        words = [
            f"{how.symbol(symbol)}{index + 1}" if column.endswith("label") else how.symbol(symbol)
            for column in how.columns
        ]
        words += [f"{value:.5f}" for value in position]
        lines.append(" ".join([*words, *([how.occupancy] if how.occupancy else [])]))
    whole = "\n".join(lines) + "\n"
    return dots(whole) if how.dotted else whole


def listed(prototype: Prototype, how: Writing, dice: random.Random) -> list[Site]:
    sites = []
    for symbol, position in prototype.sites:
        images = orbit(prototype.group, position)
        chosen = images if how.everything else [dice.choice(images)]
        sites += [(symbol, tuple(image)) for image in chosen]
    dice.shuffle(sites)
    return sites  # type: ignore[return-value]


def quoted(value: str) -> str:
    return f"'{value}'" if " " in value or value.startswith(("-", "_")) else value


def dots(cif: str) -> str:
    """The same with the tags of the newer dictionaries: a dot after the category."""
    categories = (
        *("_space_group_symop", "_symmetry_equiv", "_space_group", "_symmetry", "_atom_site"),
        *("_cell", "_chemical_formula", "_exptl_crystal"),
    )
    lines = []
    for line in cif.splitlines():
        category = next((name for name in categories if line.startswith(name + "_")), None)
        lines.append(line if category is None else f"{category}.{line[len(category) + 1 :]}")
    return "\n".join(lines) + "\n"


Style = Callable[[Prototype, random.Random], "str | bytes"]
READ: dict[str, Style] = {}
"""Styles that must come out right."""
REFUSED: dict[str, Style] = {}
"""Files whose statements do not all hold of one crystal."""


def style(name: str, styles: dict[str, Style]) -> Callable[[Style], Style]:
    def add(function: Style) -> Style:
        styles[name] = function
        return function

    return add


def triplets(prototype: Prototype) -> tuple[str, ...]:
    return tuple(operator.triplet() for operator in prototype.group.operations())


def short(prototype: Prototype) -> str:
    """Without origin and axes: F d -3 m."""
    return str(prototype.group.hm)


def formula(
    prototype: Prototype, number: Callable[[int], str] = str
) -> tuple[tuple[str, str], ...]:
    terms = [f"{element}{number(count)}" for element, count in prototype.formula]
    return (
        ("_chemical_formula_sum", " ".join(terms)),
        ("_cell_formula_units_Z", str(prototype.units)),
    )


def number_of(prototype: Prototype) -> str:
    return str(prototype.group.number)


def named(tag: str, name: Callable[[Prototype], str], **options: object) -> Style:
    """A style with one statement of the group, formula and Z."""

    def write(prototype: Prototype, dice: random.Random) -> str:
        group = ((tag, name(prototype)),)
        return text(prototype, Writing(group, others=formula(prototype), **options), dice)  # type: ignore[arg-type]

    return write


def with_operators(prototype: Prototype, tag: str = "_symmetry_equiv_pos_as_xyz") -> Writing:
    return Writing(operators=(tag, triplets(prototype)))


def overbar(name: str) -> str:
    return name.replace("-3", "3\u0305").replace("-1", "1\u0305")


def screws(name: str, brackets: str) -> str:
    for screw in ("63", "42", "21", "41"):
        name = name.replace(screw, f"{screw[0]}{brackets[0]}{screw[1]}{brackets[1:]}")
    return name


HM, NEW_HM = "_symmetry_space_group_name_H-M", "_space_group_name_H-M_alt"
READ |= {
    "H-M symbol": named(HM, short),
    "H-M symbol, new tag": named(NEW_HM, short),
    "H-M symbol, dotted tags": named(NEW_HM, short, dotted=True),
    "H-M full tag": named("_space_group_name_H-M_full", lambda p: p.full_name),
    "H-M full symbol": named(HM, lambda p: p.full_name),
    "H-M extended": named(HM, lambda p: p.group.xhm()),
    "H-M without blanks": named(HM, lambda p: short(p).replace(" ", "")),
    "H-M in capitals": named(HM, lambda p: short(p).upper()),
    "H-M and number in brackets": named(
        HM, lambda p: f"{short(p).replace(' ', '')} ({p.group.number})"
    ),
    "H-M with S": named(
        HM, lambda p: f"{short(p)} {'Z' if p is DIAMOND else 'H' if p is CORUNDUM else 'S'}"
    ),
    "H-M with overbar": named(HM, lambda p: overbar(short(p))),
    "H-M with 2_1": named(HM, lambda p: screws(short(p), "_")),
    "H-M with 2(1)": named(HM, lambda p: screws(short(p), "()")),
    "number alone": named("_symmetry_Int_Tables_number", number_of),
    "number alone, new tag": named("_space_group_IT_number", number_of),
    "number alone, dotted": named("_space_group_IT_number", number_of, dotted=True),
    "Hall alone": named("_symmetry_space_group_name_Hall", lambda p: p.group.hall),
    "Hall alone, new tag, dotted": named(
        "_space_group_name_Hall", lambda p: p.group.hall, dotted=True
    ),
    "Schoenflies alone": named(
        "_space_group_name_Schoenflies", lambda p: schoenflies(p.group.number)
    ),
    "capitals, no types": named(HM, short, columns=("_atom_site_label",), symbol=str.upper),
    "types in capitals": named(HM, short, symbol=str.upper),
    "occupancy ?": named(HM, short, occupancy="?"),
    "uncertainties": named(HM, short, number=lambda value: f"{value:.4f}({int(value) % 9 + 1})"),
    "tags in capitals": lambda p, dice: capital_tags(READ["H-M symbol"](p, dice)),
    "CR line ends": lambda p, dice: READ["H-M symbol"](p, dice).replace("\n", "\r"),
    "CR LF line ends": lambda p, dice: READ["H-M symbol"](p, dice).replace("\n", "\r\n"),
    "byte order mark": lambda p, dice: b"\xef\xbb\xbf" + READ["H-M symbol"](p, dice).encode(),
    "UTF-16": lambda p, dice: READ["H-M symbol"](p, dice).encode("utf-16"),
    "Latin-1": lambda p, dice: (
        "# dans l'état fondamental\n".encode("latin-1") + READ["H-M symbol"](p, dice).encode()
    ),
    "several blocks": lambda p, dice: (
        "data_global\n_publ_section_title 'Two'\n"
        + READ["H-M symbol"](p, dice)
        + "data_reflections\n_diffrn_ambient_temperature 293\n"
    ),
}


def capital_tags(cif: str | bytes) -> str:
    assert isinstance(cif, str)
    lines = cif.splitlines()
    heads = [line.split(" ", 1) for line in lines]
    return (
        "\n".join(
            " ".join([h[0].upper(), *h[1:]]) if h[0][:1] == "_" else " ".join(h) for h in heads
        )
        + "\n"
    )


@functools.cache
def schoenflies(number: int) -> str:
    found = next(t for t in map(spglib_type, range(1, 531)) if t.number == number)
    return found.schoenflies.replace("^", ".")


@style("operators", READ)
def _(prototype: Prototype, dice: random.Random) -> str:
    return text(prototype, with_operators(prototype), dice)


@style("operators, new tag", READ)
def _(prototype: Prototype, dice: random.Random) -> str:
    return text(prototype, with_operators(prototype, "_space_group_symop_operation_xyz"), dice)


@style("operators, dotted tag", READ)
def _(prototype: Prototype, dice: random.Random) -> str:
    how = with_operators(prototype, "_space_group_symop_operation_xyz")
    return text(prototype, dataclasses.replace(how, dotted=True), dice)


@style("operators and the symbol without its origin", READ)
def _(prototype: Prototype, dice: random.Random) -> str:
    how = dataclasses.replace(with_operators(prototype), group=((HM, short(prototype)),))
    return text(prototype, how, dice)


@style("H-M symbol, number and Hall symbol", READ)
def _(prototype: Prototype, dice: random.Random) -> str:
    group = (
        (HM, short(prototype)),
        ("_symmetry_space_group_name_Hall", prototype.group.hall),
        ("_symmetry_Int_Tables_number", number_of(prototype)),
    )
    return text(prototype, Writing(group), dice)


@style("lone x,y,z beside number and symbol", READ)
def _(prototype: Prototype, dice: random.Random) -> str:
    group = ((HM, short(prototype)), ("_symmetry_Int_Tables_number", number_of(prototype)))
    lone = ("_symmetry_equiv_pos_as_xyz", ("x, y, z",))
    return text(prototype, Writing(group, lone, formula(prototype)), dice)


@style("lone x,y,z beside the number", READ)
def _(prototype: Prototype, dice: random.Random) -> str:
    group = (("_symmetry_Int_Tables_number", number_of(prototype)),)
    lone = ("_symmetry_equiv_pos_as_xyz", ("x,y,z",))
    return text(prototype, Writing(group, lone, formula(prototype)), dice)


@style("formula with decimals", READ)
def _(prototype: Prototype, dice: random.Random) -> str:
    decimals = formula(prototype, lambda count: f"{count}.0")
    return text(prototype, Writing(((HM, short(prototype)),), others=decimals), dice)


@style("formula of the cell", READ)
def _(prototype: Prototype, dice: random.Random) -> str:
    whole = " ".join(f"{element}{n}" for element, n in prototype.composition.items())
    units = str(math.gcd(*prototype.composition.values()))
    others = (("_chemical_formula_sum", whole), ("_cell_formula_units_Z", units))
    return text(prototype, Writing(((HM, short(prototype)),), others=others), dice)


@style("charges in types", READ)
def _(prototype: Prototype, dice: random.Random) -> str:
    charge = dice.choice(["2.5+", "3+", "2-", "+1", "0+"])
    how = Writing(
        ((HM, short(prototype)),),
        others=formula(prototype),
        columns=("_atom_site_type_symbol",),
        symbol=lambda element: element + charge,
    )
    return text(prototype, how, dice)


@style("all atoms listed, P 1", READ)
def _(prototype: Prototype, dice: random.Random) -> str:
    group = ((HM, "P 1"), ("_symmetry_Int_Tables_number", "1"))
    lone = ("_symmetry_equiv_pos_as_xyz", ("x,y,z",))
    return text(prototype, Writing(group, lone, formula(prototype), everything=True), dice)


@style("all atoms listed beside the symbol", READ)
def _(prototype: Prototype, dice: random.Random) -> str:
    lone = ("_symmetry_equiv_pos_as_xyz", ("x,y,z",))
    how = Writing(((HM, short(prototype)),), lone, formula(prototype), everything=True)
    return text(prototype, how, dice)


@style("symbol and number contradict", REFUSED)
def _(prototype: Prototype, dice: random.Random) -> str:
    other = str(dice.choice([n for n in range(1, 231) if n != prototype.group.number]))
    group = ((HM, short(prototype)), ("_symmetry_Int_Tables_number", other))
    return text(prototype, Writing(group, others=formula(prototype)), dice)


@style("symbol and operators contradict", REFUSED)
def _(prototype: Prototype, dice: random.Random) -> str:
    other = dice.choice([one for one in PROTOTYPES if one is not prototype])
    return text(
        prototype,
        Writing(((HM, short(other)),), ("_symmetry_equiv_pos_as_xyz", triplets(prototype))),
        dice,
    )


@style("symbol and Hall symbol contradict", REFUSED)
def _(prototype: Prototype, dice: random.Random) -> str:
    other = dice.choice([one for one in PROTOTYPES if one is not prototype])
    group = ((HM, short(prototype)), ("_symmetry_space_group_name_Hall", other.group.hall))
    return text(prototype, Writing(group, others=formula(prototype)), dice)


@style("an unknown symbol alone", REFUSED)
def _(prototype: Prototype, dice: random.Random) -> str:
    name = short(prototype) + dice.choice(["q", " 7", "//", " mmm"])
    return text(
        prototype,
        Writing(((HM, name),), ("_symmetry_equiv_pos_as_xyz", ("x,y,z",)), formula(prototype)),
        dice,
    )


@style("Z of another cell", REFUSED)
def _(prototype: Prototype, dice: random.Random) -> str:
    units = str(prototype.units * dice.choice([2, 3, 4]))
    others = (formula(prototype)[0], ("_cell_formula_units_Z", units))
    group = ((HM, prototype.group.xhm()),)  # with its origin: diamond's other one has 16 atoms
    return text(prototype, Writing(group, others=others), dice)


@style("another formula", REFUSED)
def _(prototype: Prototype, dice: random.Random) -> str:
    terms = [f"{element}{count}" for element, count in prototype.formula]
    others = (("_chemical_formula_sum", " ".join([*terms, dice.choice(["H2", "Xe", "Si3"])])),)
    return text(prototype, Writing(((HM, short(prototype)),), others=others), dice)


@style("another density", REFUSED)
def _(prototype: Prototype, dice: random.Random) -> str:
    density = prototype.whole().density * dice.choice([0.25, 0.5, 0.9, 1.1, 2])
    how = with_operators(prototype)
    return text(
        prototype,
        dataclasses.replace(how, others=(("_exptl_crystal_density_diffrn", f"{density:.3f}"),)),
        dice,
    )


@style("another volume", REFUSED)
def _(prototype: Prototype, dice: random.Random) -> str:
    volume = prototype.whole().volume * dice.choice([0.25, 0.9, 1.05, 4])
    how = with_operators(prototype)
    return text(
        prototype, dataclasses.replace(how, others=(("_cell_volume", f"{volume:.3f}"),)), dice
    )


@style("a cell that the operators change", REFUSED)
def _(prototype: Prototype, dice: random.Random) -> str:
    alpha, beta, gamma = prototype.angles
    skewed = dataclasses.replace(prototype, angles=(alpha, beta, gamma - dice.choice([1, 3, 8])))
    return text(skewed, with_operators(prototype), dice)


@style("an operator missing", REFUSED)
def _(prototype: Prototype, dice: random.Random) -> str:
    every = list(triplets(prototype))
    del every[dice.randrange(1, len(every))]
    return text(prototype, Writing(operators=("_symmetry_equiv_pos_as_xyz", tuple(every))), dice)


@style("partial occupancy", REFUSED)
def _(prototype: Prototype, dice: random.Random) -> str:
    return text(
        prototype,
        Writing(((HM, short(prototype)),), occupancy=dice.choice(["0.5", "0.98(1)"])),
        dice,
    )


@style("a magnetic group", REFUSED)
def _(prototype: Prototype, dice: random.Random) -> str:
    magnetic = (("_space_group_magn_name_BNS", dice.choice(["P 1", "F d -3 m'", "P 1' 21/c"])),)
    return text(prototype, dataclasses.replace(with_operators(prototype), others=magnetic), dice)


@style("atoms of a disorder group", REFUSED)
def _(prototype: Prototype, dice: random.Random) -> str:
    content = text(prototype, Writing(((HM, short(prototype)),), occupancy="1"), dice)
    content = content.replace("_atom_site_occupancy", "_atom_site_disorder_group").rstrip()
    return f"{content[:-1]}{dice.choice(['2', '-1'])}\n"


def files(seed: int) -> Iterator[tuple[str, Prototype, str | bytes, bool]]:
    """(style, crystal, file, whether it must be read) of every style and crystal."""
    dice = random.Random(seed)
    for styles, readable in ((READ, True), (REFUSED, False)):
        for name, write in styles.items():
            for prototype in PROTOTYPES:
                yield name, prototype, write(prototype, dice), readable


def by_gemmi(content: str | bytes) -> tuple[Counter[str], float]:
    """(atoms of the cell, volume) as gemmi reads it."""
    block = next(
        b for b in gemmi.cif.read_string(as_text(content)) if b.find_loop("_atom_site_fract_x")
    )
    small = gemmi.make_small_structure_from_block(block)
    return Counter(site.element.name for site in small.get_all_unit_cell_sites()), small.cell.volume


def by_pymatgen(content: str | bytes) -> tuple[Counter[str], float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (found,) = CifParser.from_str(as_text(content)).parse_structures(primitive=False)
    return Counter(site.specie.symbol for site in found), found.volume


def by_us(content: str | bytes) -> tuple[Counter[str], float]:
    import tempfile
    from pathlib import Path

    from nqs.crystal.structures.cif import read_cif
    from nqs.crystal.structures.elements import symbol

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "crystal.cif"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        found = read_cif(path)
    return Counter(symbol(number) for number in found.numbers.tolist()), found.volume


def as_text(content: str | bytes) -> str:
    return content if isinstance(content, str) else content.decode("utf-8")


def outcome(
    reader: Callable[[str | bytes], tuple[Counter[str], float]],
    content: str | bytes,
    prototype: Prototype,
) -> str:
    """right, refused, or other: read as something else."""
    try:
        atoms, volume = reader(content)
    except Exception:
        return "refused"
    same = atoms == Counter(prototype.composition)
    return "right" if same and abs(volume / prototype.whole().volume - 1) < 1e-3 else "other"


def table(seed: int) -> str:
    readers = {"this package": by_us, "gemmi": by_gemmi, "pymatgen": by_pymatgen}
    counts: dict[tuple[bool, str], Counter[str]] = {}
    for _, prototype, content, readable in files(seed):
        for name, reader in readers.items():
            found = counts.setdefault((readable, name), Counter())
            found[outcome(reader, content, prototype)] += 1
    lines = ["| files | read by | right | refused | as something else |", "|---|---|---|---|---|"]
    for (readable, name), found in counts.items():
        kind = f"{found.total()} {'sound' if readable else 'contradictory'}"
        cells = (str(found[key]) for key in ("right", "refused", "other"))
        lines.append(f"| {kind} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
