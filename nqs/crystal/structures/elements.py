"""The elements: symbols, standard atomic weights, Pauling electronegativities.

Weights in g/mol (IUPAC, as gemmi and pymatgen have them; the longest-lived isotope's mass number
where there is no stable one), electronegativities from the same compilation as pymatgen's.
"""

from __future__ import annotations

import math

_TABLE = """
H 1.00794 2.20 He 4.0026 - Li 6.941 0.98 Be 9.01218 1.57 B 10.811 2.04 C 12.0107 2.55
N 14.0067 3.04 O 15.9994 3.44 F 18.9984 3.98 Ne 20.1797 - Na 22.9898 0.93 Mg 24.305 1.31
Al 26.9815 1.61 Si 28.0855 1.90 P 30.9738 2.19 S 32.065 2.58 Cl 35.453 3.16 Ar 39.948 -
K 39.0983 0.82 Ca 40.078 1.00 Sc 44.9559 1.36 Ti 47.867 1.54 V 50.9415 1.63 Cr 51.9961 1.66
Mn 54.938 1.55 Fe 55.845 1.83 Co 58.9332 1.88 Ni 58.6934 1.91 Cu 63.546 1.90 Zn 65.38 1.65
Ga 69.723 1.81 Ge 72.64 2.01 As 74.9216 2.18 Se 78.96 2.55 Br 79.904 2.96 Kr 83.798 3.00
Rb 85.4678 0.82 Sr 87.62 0.95 Y 88.9059 1.22 Zr 91.224 1.33 Nb 92.9064 1.60 Mo 95.95 2.16
Tc 98 1.90 Ru 101.07 2.20 Rh 102.906 2.28 Pd 106.42 2.20 Ag 107.868 1.93 Cd 112.411 1.69
In 114.818 1.78 Sn 118.71 1.96 Sb 121.76 2.05 Te 127.6 2.10 I 126.904 2.66 Xe 131.293 2.60
Cs 132.905 0.79 Ba 137.327 0.89 La 138.905 1.10 Ce 140.116 1.12 Pr 140.908 1.13 Nd 144.24 1.14
Pm 145 1.13 Sm 150.36 1.17 Eu 151.964 1.20 Gd 157.25 1.20 Tb 158.925 1.10 Dy 162.5 1.22
Ho 164.93 1.23 Er 167.259 1.24 Tm 168.934 1.25 Yb 173.05 1.10 Lu 174.967 1.27 Hf 178.49 1.30
Ta 180.948 1.50 W 183.84 2.36 Re 186.207 1.90 Os 190.23 2.20 Ir 192.217 2.20 Pt 195.084 2.28
Au 196.967 2.54 Hg 200.59 2.00 Tl 204.383 1.62 Pb 207.2 2.33 Bi 208.98 2.02 Po 209 2.00
At 210 2.20 Rn 222 2.20 Fr 223 0.70 Ra 226 0.90 Ac 227 1.10 Th 232.038 1.30 Pa 231.036 1.50
U 238.029 1.38 Np 237 1.36 Pu 244 1.28 Am 243 1.30 Cm 247 1.30 Bk 247 1.30 Cf 251 1.30
Es 252 1.30 Fm 257 1.30 Md 258 1.30 No 259 1.30 Lr 262 1.30 Rf 267 - Db 268 - Sg 271 - Bh 272 -
Hs 270 - Mt 276 - Ds 281 - Rg 280 - Cn 285 - Nh 284 - Fl 289 - Mc 288 - Lv 293 - Ts 294 -
Og 294 -
"""  # symbol, weight, electronegativity (-: none)
_WORDS = _TABLE.split()

SYMBOLS: tuple[str, ...] = tuple(_WORDS[0::3])
"""SYMBOLS[Z - 1] is the symbol of atomic number Z."""
WEIGHTS: tuple[float, ...] = tuple(float(word) for word in _WORDS[1::3])
"""Standard atomic weights in g/mol."""
ELECTRONEGATIVITIES: tuple[float, ...] = tuple(
    math.inf if word == "-" else float(word) for word in _WORDS[2::3]
)
"""Pauling's; infinite where there is none (He, Ne, Ar, the superheavy), so that they sort last."""

HEAVIEST = len(SYMBOLS)
_MENDELEEV = """
92 98 1 67 72 77 82 87 93 99 2 68 73 78 83 88 94 100 3 7 11 43 46 49 52 55 58 61 64 69 74 79 84
89 95 101 4 8 12 44 47 50 53 56 59 62 65 70 75 80 85 90 96 102 5 9 13 15 17 19 21 23 25 27 29 31
33 35 37 39 41 45 48 51 54 57 60 63 66 71 76 81 86 91 97 103 6 10 14 16 18 20 22 24 26 28 30
"""
_KNOWN = tuple(int(word) for word in _MENDELEEV.split())
MENDELEEV: tuple[int, ...] = _KNOWN + (max(_KNOWN),) * (HEAVIEST - len(_KNOWN))
"""Mendeleev numbers, 1..103: a scale on which chemically alike elements are neighbours (Magpie's,
Ward et al., npj Comput. Mater. 2, 16028 (2016); Villars' by columns of the periodic table). 103
beyond Bk."""
NOBLE_GASES = (2, 10, 18, 36, 54, 86, 118)
NUMBERS: dict[str, int] = {symbol: number for number, symbol in enumerate(SYMBOLS, start=1)}
"""Atomic number by symbol."""


def symbol(number: int) -> str:
    """The symbol of an atomic number 1..118."""
    return SYMBOLS[number - 1]


def formula_order(number: int) -> tuple[float, int]:
    """Sort key of elements in formulas and of atoms in cells: the most electropositive first."""
    return ELECTRONEGATIVITIES[number - 1], number


def period_of(number: int) -> int:
    """1..7, the row of the periodic table."""
    return next(row for row, last in enumerate(NOBLE_GASES, start=1) if number <= last)


def column_of(number: int) -> int:
    """1..18, the column of the periodic table; 0 for lanthanides and actinides (La..Yb, Ac..No)."""
    period = period_of(number)
    place = number - (0, *NOBLE_GASES)[period - 1]  # 1 ..
    if place <= 2 and number != 2:
        return place
    if period in (6, 7) and place <= 16:
        return 0
    return 18 + number - NOBLE_GASES[period - 1]
