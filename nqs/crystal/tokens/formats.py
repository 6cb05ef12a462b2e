"""Three ways to write a crystal as text, told apart by their words (tokens) and digits.

character   every character is a token (LM-CH of Flam-Shepherd & Aspuru-Guzik, arXiv:2305.05708):
            lengths to 0.01 Angstrom, angles to 0.01 degree, coordinates to 0.001

                5.58 5.58 5.58
                90.00 90.00 90.00
                Na 0.000 0.000 0.000

text        elements and phrases are whole tokens, digits single ones, as a language model's
            tokeniser has them (Gruver et al., arXiv:2402.04379): lengths to 0.1, angles to 1
            (rounded, where they cut off), coordinates to 0.01 (1.00 becomes 0.00)

                5.6 5.6 5.6
                90 90 90
                Na
                0.00 0.00 0.00

cif         a CIF in the words of CrystaLLM (Antunes et al., arXiv:2307.04340): 89 elements, digits,
            keywords, symbols, space groups; all four decimals. Its 371 without <unk>, with the
            three groups that its data lack. The atoms are all listed (P1), the formula always
            stands in the first line, and there is no word for energies.

Conditions are lines before the cell. Positions round to the nearest digit, 1 to 0.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import gemmi

from nqs.crystal.structures.elements import SYMBOLS

SPECIAL = ("<pad>", "<bos>", "<eos>", "<mask>")
LEAST_FLATNESS = 0.01
"""Least V / (a b c) of a cell that is written."""
SMALLEST_ANGLE, LARGEST_ANGLE = 10, 170
"""Degrees: within them, any alpha and beta leave room for gamma."""
LONGEST = 199
"""Angstrom, whole: lengths lie within 1..200."""


@final
@dataclass(frozen=True)
class Format:
    """How a crystal is written.

    Attributes:
        words: the tokens besides the special ones; text is cut into the longest that fit.
        elements: symbols that can be written.
        decimals: of lengths, angles, coordinates.
        between: what stands before a, b, c, alpha, beta, gamma and after gamma.
        after_element: what stands between an element and its coordinates.
        formula, group, energy, hull: lines of the conditions; None: cannot be written.
        groups: how the space groups 1..230 are spelled.
        joint: what joins the terms of a formula.
        formula_always: whether the formula is part of every crystal, before the other conditions.
    """

    words: tuple[str, ...]
    elements: tuple[str, ...]
    decimals: tuple[int, int, int]
    between: tuple[str, str, str, str, str, str, str]
    after_element: str
    formula: str
    group: str
    energy: str | None
    hull: str | None
    groups: tuple[str, ...]
    joint: str
    formula_always: bool = False

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return (*SPECIAL, *self.words)


class Words:
    """Text to tokens and back, by the longest word that fits. Args: the vocabulary."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._words = tuple(vocabulary)
        self._index = {word: index for index, word in enumerate(vocabulary)}
        longest_first = sorted(vocabulary[len(SPECIAL) :], key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def tokens(self, text: str) -> list[int]:
        """Of text made of words alone."""
        return [self._index[word] for word in self._pattern.findall(text)]

    def text(self, tokens: Sequence[int]) -> str:
        return "".join(self._words[token] for token in tokens)


def _group_names() -> tuple[str, ...]:
    """Short Hermann-Mauguin symbols of 1..230 in their first setting, such as Fm-3m and P21/c."""
    names: dict[int, str] = {}
    for group in gemmi.spacegroup_table():
        short = group.short_name()
        names.setdefault(group.number, f"R{short[1:]}" if short.startswith("H") else short)
    return tuple(names[number] for number in range(1, 231))


_NUMBERED = tuple(str(number) for number in range(1, 231))
_DIGITS = tuple(string.digits)
_PLAIN = ("", " ", " ", "\n", " ", " ", "\n")

CHARACTER = Format(
    words=(*_DIGITS, ".", "+", "-", " ", "\n", *string.ascii_letters),
    elements=SYMBOLS,
    decimals=(2, 2, 3),
    between=_PLAIN,
    after_element=" ",
    formula="formula {}\n",
    group="group {}\n",
    energy="energy {}\n",
    hull="hull {}\n",
    groups=_NUMBERED,
    joint=" ",
)

_PHRASES = (
    "The chemical formula is ",
    "The spacegroup number is ",
    "The formation energy per atom is ",
    "The energy above the convex hull is ",
)

TEXT = Format(
    words=(*_DIGITS, ".", "+", "-", " ", "\n", *SYMBOLS, *_PHRASES),
    elements=SYMBOLS,
    decimals=(1, 0, 2),
    between=_PLAIN,
    after_element="\n",
    formula=_PHRASES[0] + "{}\n",
    group=_PHRASES[1] + "{}\n",
    energy=_PHRASES[2] + "{}\n",
    hull=_PHRASES[3] + "{}\n",
    groups=_NUMBERED,
    joint=" ",
)

_UNWRITTEN = {"Po", "At", "Rn", "Fr", "Ra", *SYMBOLS[94:]}  # of no crystal of CrystaLLM's
_GROUPS = tuple(f"{name}_sg" for name in _group_names())  # Pm is also an element
_KEYWORDS = (
    *(f"_cell_length_{axis}" for axis in "abc"),
    *(f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")),
    *("_cell_volume", "_cell_formula_units_Z"),
    *(f"_chemical_{kind}" for kind in ("formula_structural", "formula_sum", "name_systematic")),
    *("_symmetry_space_group_name_H-M", "_symmetry_Int_Tables_number"),
    *("_symmetry_equiv_pos_site_id", "_symmetry_equiv_pos_as_xyz"),
    *("_atom_site_type_symbol", "_atom_site_label", "_atom_site_symmetry_multiplicity"),
    *(f"_atom_site_fract_{axis}" for axis in "xyz"),
    *("_atom_site_occupancy", "_atom_site_attached_hydrogens", "_atom_site_B_iso_or_equiv"),
    *("_atom_type_symbol", "_atom_type_electronegativity", "_atom_type_radius"),
    *("_atom_type_ionic_radius", "_atom_type_oxidation_number", "loop_", "data_"),
)

CIF = Format(
    words=(
        *(symbol for symbol in SYMBOLS if symbol not in _UNWRITTEN),
        *_DIGITS,
        *_KEYWORDS,
        *("x", "y", "z", ".", "(", ")", "+", "-", "/", "'", ",", " ", "\n"),
        *_GROUPS,
    ),
    elements=tuple(symbol for symbol in SYMBOLS if symbol not in _UNWRITTEN),
    decimals=(4, 4, 4),
    between=(
        "_cell_length_a ",
        "\n_cell_length_b ",
        "\n_cell_length_c ",
        "\n_cell_angle_alpha ",
        "\n_cell_angle_beta ",
        "\n_cell_angle_gamma ",
        "\nloop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\nloop_\n_atom_site_type_symbol\n"
        "_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n",
    ),
    after_element=" ",
    formula="data_{}\n",
    group="_symmetry_space_group_name_H-M {}\n",
    energy=None,
    hull=None,
    groups=_GROUPS,
    joint="",
    formula_always=True,
)
