"""Any sum of Pauli strings with real coefficients: every spin-1/2 Hamiltonian has this form.

    H = sum_t c_t P_t,     P_t = product over its sites of X, Y or Z

A string is a flip mask x (its X and Y), a sign mask z (its Z and Y) and the number of its Y:

    <s| P |s xor x> = (-i)^{n_Y} (-1)^{s . z}

(Y has <0|Y|1> = -i and <1|Y|0> = +i). Strings with one flip mask form one flip pattern; an empty
flip mask is the diagonal. Equal strings are added, cancelled ones dropped.

Flip patterns whose elements are all >= 0 get the other sign by a rotation of sites where one does
that and leaves all other patterns alone (`Hamiltonian.rotated`, `rotation.py`).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Self, final

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian, PauliTerm
from hamiltonians.lattices.lattice import Lattice, check_site_count, positive_integer
from hamiltonians.rotation import rotation_for
from hamiltonians.text_file import check_file, read_text, shortened

PauliString = str | Mapping[int, str]

MAX_ENUMERATED = 16
"""Largest number of sites whose sign patterns `_element_range` enumerates."""


MAX_LETTERS = 2**28
"""Most strings times sites: their masks take 5 bytes each."""


@final
class PauliSum(Hamiltonian, kind="pauli"):
    """sum_t c_t P_t on n_sites sites.

    Args:
        n_sites: N.
        terms: pairs of a real coefficient and a string: dense "XIZY" (site 0 first, N letters),
            sparse "X0 Z3", or {0: "X", 3: "Z"}; "" and {} are the identity.
        lattice: where the sites are, if that is known.

    Raises ValueError for a coefficient that is not real and finite, letters other than I, X, Y, Z,
    sites outside 0..N-1 or named twice, a dense string of another length.
    """

    def __init__(
        self,
        n_sites: int,
        terms: Iterable[tuple[complex, PauliString]],
        *,
        lattice: Lattice | None = None,
    ) -> None:
        n_sites = positive_integer("PauliSum", "n_sites", n_sites)
        check_site_count("PauliSum", n_sites)
        if lattice is not None and lattice.n_sites != n_sites:
            raise ValueError(f"PauliSum: n_sites is {n_sites}, but the lattice is {lattice!r}")
        self.n_sites = n_sites
        self.lattice = lattice
        self._terms = _collected(n_sites, terms)
        if len(self._terms) * n_sites > MAX_LETTERS:
            raise ValueError(
                f"PauliSum: {len(self._terms)} strings on {n_sites} sites; at most "
                f"{MAX_LETTERS // n_sites} are allowed for so many sites (tables of one number a "
                "string and site)"
            )
        self._identity = self._terms.get((), 0.0)
        self._build_diagonal()
        self._build_off_diagonal()

    @classmethod
    def from_file(cls, path: str | Path, n_sites: int | None = None) -> Self:
        """Read lines of `coefficient string`; # starts a comment.

        n_sites defaults to the length of the dense strings, or to the largest site named plus one.
        Raises ValueError, naming file and line, where a line is something else.
        """
        try:
            terms = _read_terms(path)
            if n_sites is None:
                n_sites = max(1, *(_extent(string) for _, string in terms))
            return cls(n_sites, terms)
        except ValueError as error:
            raise ValueError(f"Pauli file {path}: {error}") from None

    @classmethod
    def from_keys(cls, n_sites: int, *, file: str) -> Self:
        """As a configuration chooses it, on as many sites as its lattice has.

        Args:
            file: text file of Pauli strings, a coefficient and a string a line.
        """
        check_file(file, "a text file of Pauli strings")
        return cls.from_file(file, n_sites)

    def to_keys(self, folder: Path) -> dict[str, str]:
        """The keys that make this sum again, from a file that is written into the folder."""
        file = folder / "pauli.txt"
        lines = [
            f"{c!r} {' '.join(f'{p}{i}' for i, p in sorted(sites.items())) or 'I' * self.n_sites}"
            for c, sites in self.pauli_terms()
        ]
        file.write_text("\n".join([*lines, ""]), encoding="utf-8")
        return {"file": str(file)}

    def _build_diagonal(self) -> None:
        """Sign masks (N, T) and coefficients (T,) of the strings of Z alone."""
        strings = [key for key in self._terms if key and all(p == "Z" for _, p in key)]
        self._diagonal_masks = _masks(self.n_sites, strings, "Z").T.to(torch.float32)
        self._diagonal_weights = torch.tensor(
            [self._terms[key] for key in strings], dtype=torch.float64
        )

    def _build_off_diagonal(self) -> None:
        """Sign masks (N, T), complex coefficients (T,) and flip pattern (T,) of the others."""
        strings = [key for key in self._terms if any(p != "Z" for _, p in key)]
        rows: dict[tuple[int, ...], int] = {}  # number of each distinct flip pattern
        patterns = [tuple(i for i, p in key if p in "XY") for key in strings]
        self._pattern = torch.tensor(
            [rows.setdefault(pattern, len(rows)) for pattern in patterns], dtype=torch.int64
        )
        flipped = [tuple((i, "X") for i in sites) for sites in rows]
        self.flips = _masks(self.n_sites, flipped, "X")  # (G, N)
        self._sign_masks = _masks(self.n_sites, strings, "YZ").T.to(torch.float32)
        count_y = [sum(p == "Y" for _, p in key) for key in strings]
        self._weights = torch.tensor(
            [
                self._terms[key] * (1, -1j, -1, 1j)[y % 4]
                for key, y in zip(strings, count_y, strict=True)
            ],
            dtype=torch.complex128,
        )
        self.is_complex = any(y % 2 for y in count_y)  # different strings cannot cancel
        if not self.is_complex:
            self._weights = self._weights.real.clone()
        self._rotate()
        plain = len(strings) == len(self.flips) and not self._sign_masks.any()
        self._constant = self._weights if plain else None  # one string of X alone a pattern

    def _rotate(self) -> None:
        """Turns the patterns of elements >= 0 if a rotation of sites does that and no more.

        `is_stoquastic` is exact for flip patterns whose signs depend on at most 16 sites. For
        longer ones the sufficient condition c_X + sum |c| <= 0 stands in (c_X the coefficient of
        the pattern's string of X alone, the sum over its others), so True is always right.
        """
        ranges = self._element_ranges()  # (G, 2)
        turned = (ranges[:, 0] >= 0) & (ranges[:, 1] > 0)  # (G,)
        self.is_stoquastic = bool((ranges[:, 1] <= 0).all())
        rotated = rotation_for(self.flips, turned) if turned.any() else None
        if rotated is not None:
            self.rotated = rotated  # (N,)
            self._weights = torch.where(turned[self._pattern], -self._weights, self._weights)
            self.is_stoquastic = bool((turned | (ranges[:, 1] <= 0)).all())

    def diagonal(self, configs: Tensor) -> Tensor:
        signs = _signs(configs, self._diagonal_masks)  # (B, T)
        return signs @ self._diagonal_weights + self._identity  # (B,)

    def off_diagonal(self, configs: Tensor) -> Tensor:
        if self._constant is not None:
            return self._constant.expand(len(configs), -1)  # (B, G)
        values = _signs(configs, self._sign_masks) * self._weights  # (B, T)
        elements = values.new_zeros((len(configs), len(self.flips)))  # (B, G)
        return elements.index_add_(1, self._pattern, values)

    @property
    def diagonal_rounding(self) -> float:
        """2^-52 of the sum of all absolute coefficients of Z strings and the identity."""
        return 2**-52 * (float(self._diagonal_weights.abs().sum()) + abs(self._identity))

    @property
    def constant_off_diagonal(self) -> Tensor | None:
        return self._constant

    @property
    def infinite_temperature_energy(self) -> float:
        """The coefficient of the identity."""
        return self._identity

    def _element_ranges(self) -> Tensor:
        """(G, 2) float64: bounds of each pattern's elements, the smallest and the largest where
        that is exact, 0 where they are rounding; -inf and inf where elements are complex."""
        ranges = torch.zeros((len(self.flips), 2), dtype=torch.float64)
        order = torch.argsort(self._pattern, stable=True)  # (T,)
        sizes = torch.bincount(self._pattern, minlength=len(self.flips)).tolist()
        for g, mine in enumerate(order.split(sizes)):
            ranges[g] = _element_range(self._sign_masks[:, mine], self._weights[mine])
        return ranges

    @cached_property
    def conserves_magnetisation(self) -> bool:
        """Exact, from the strings of the commutator with M = sum_i sz_i: all of them cancel.

        [X, Z] = -2i Y and [Y, Z] = 2i X, so [P, M] / 2i is the sum over the X and Y of P of P with
        that letter exchanged, -1 for each X -> Y and +1 for each Y -> X. Sums below 1e-12 of the
        largest coefficient count as rounding.
        """
        commutator: dict[Key, float] = {}
        for key, coefficient in self._terms.items():
            for place, (site, letter) in enumerate(key):
                if letter == "Z":
                    continue
                other, sign = ("Y", -1.0) if letter == "X" else ("X", 1.0)
                string = (*key[:place], (site, other), *key[place + 1 :])
                commutator[string] = commutator.get(string, 0.0) + sign * coefficient
        scale = max(map(abs, self._terms.values()), default=0.0)
        return all(abs(coefficient) <= 1e-12 * scale for coefficient in commutator.values())

    def pauli_terms(self) -> list[PauliTerm]:
        return [(coefficient, dict(key)) for key, coefficient in self._terms.items()]

    def describe(self) -> str:
        return f"PauliSum({self.n_sites} sites, {len(self._terms)} strings)"


Key = tuple[tuple[int, str], ...]


def _signs(configs: Tensor, masks: Tensor) -> Tensor:
    """(B, T) float64, (-1)^{s . z} for configs (B, n) bool and masks (n, T) float32.

    The counts are exact in float32 (and in TF32: the products are 0 or 1).
    """
    counts = configs.to(torch.float32) @ masks  # (B, T)
    return 1 - 2 * counts.remainder(2).to(torch.float64)


def _element_range(masks: Tensor, weights: Tensor) -> Tensor:
    """(2,) the smallest and largest of sum_t weights_t (-1)^{s . masks_t} over s, or bounds.

    masks (N, t), weights (t,) of one flip pattern; bounds where more than 16 sites decide.
    """
    if weights.is_complex():
        if weights.imag.any():
            return torch.tensor([-torch.inf, torch.inf], dtype=torch.float64)
        weights = weights.real
    support = masks.any(dim=1)  # (N,)
    size = int(support.sum())
    if size > MAX_ENUMERATED:
        plain = ~masks.any(dim=0)  # (t,)
        middle, reach = weights[plain].sum(), weights[~plain].abs().sum()
        ends = torch.stack([middle - reach, middle + reach])
    else:
        patterns = (torch.arange(2**size)[:, None] >> torch.arange(size)) & 1 != 0  # (2^size, size)
        ends = torch.stack((_signs(patterns, masks[support]) @ weights).aminmax())
    return torch.where(ends.abs() <= 1e-12 * weights.abs().sum(), 0.0, ends)


def _masks(n_sites: int, strings: list[Key], letters: str) -> Tensor:
    """(T, N) bool: where each string has one of the letters."""
    masks = torch.zeros((len(strings), n_sites), dtype=torch.bool)
    marked = [(t, i) for t, key in enumerate(strings) for i, p in key if p in letters]
    if marked:
        rows, sites = torch.tensor(marked).T
        masks[rows, sites] = True
    return masks


def _collected(n_sites: int, terms: Iterable[tuple[complex, PauliString]]) -> dict[Key, float]:
    """Real coefficient of each distinct string, without those that cancel."""
    total: dict[Key, float] = {}
    for coefficient, string in terms:
        key = _parsed(n_sites, string)
        total[key] = total.get(key, 0.0) + _real(coefficient, string)
    return {key: coefficient for key, coefficient in total.items() if coefficient != 0.0}


def _real(coefficient: complex, string: PauliString) -> float:
    try:
        number = complex(coefficient)
    except (TypeError, ValueError):
        number = complex(math.nan)
    if number.imag != 0 or not math.isfinite(number.real):
        raise ValueError(
            f"coefficient of {_shown(string)} is {coefficient!r}; it must be real and finite "
            "(H is Hermitian)"
        )
    return number.real


def _parsed(n_sites: int, string: PauliString) -> Key:
    """((site, letter), ...) in the order of the sites, without identities."""
    if isinstance(string, Mapping):
        pairs = list(string.items())
    elif re.search(r"\d", string):
        pairs = _sparse_pairs(string)
    elif string.strip():
        pairs = list(enumerate(string.strip()))
        if len(pairs) != n_sites:
            raise ValueError(
                f"string {_shown(string)} has {len(pairs)} letters for {n_sites} sites"
            )
    else:
        pairs = []
    for (site, _), (other, _) in itertools.pairwise(sorted(pairs, key=lambda pair: pair[0])):
        if site == other:
            raise ValueError(f"string {_shown(string)} names site {site} twice")
    for site, letter in pairs:
        if letter not in ("I", "X", "Y", "Z"):
            raise ValueError(
                f"string {_shown(string)} has {shortened(letter, 20)}; letters are I, X, Y, Z"
            )
        if not 0 <= site < n_sites:
            raise ValueError(
                f"string {_shown(string)} names site {site}; sites are 0..{n_sites - 1}"
            )
    return tuple(sorted((site, letter) for site, letter in pairs if letter != "I"))


def _sparse_pairs(string: str) -> list[tuple[int, str]]:
    pairs = []
    for word in string.split():
        match = re.fullmatch(r"([A-Za-z])([0-9]{1,9})", word)
        if match is None:
            raise ValueError(
                f"string {_shown(string)} has {shortened(word, 20)}; "
                "write letter and site, like X0 Z3"
            )
        pairs.append((int(match[2]), match[1]))
    return pairs


def _shown(string: PauliString) -> str:
    """In quotes, shortened."""
    return shortened(string if isinstance(string, str) else str(dict(string)))


def _extent(string: str) -> int:
    """Sites a string needs: its length if dense, its largest site + 1 if sparse."""
    if re.search(r"\d", string):
        return 1 + max(site for site, _ in _sparse_pairs(string))
    return len(string.strip())


def _read_terms(path: str | Path) -> list[tuple[complex, str]]:
    """The coefficient and string of each line; the string may be missing (the identity)."""
    terms = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        words = line.split("#")[0].split(maxsplit=1)
        if words:
            terms.append((_coefficient(number, words[0]), "".join(words[1:])))
    if not terms:
        raise ValueError("holds no term; write `coefficient string` lines")
    return terms


def _coefficient(line: int, word: str) -> complex:
    try:
        return complex(word if "_" not in word else "")
    except ValueError:
        raise ValueError(
            f"line {line} starts with {shortened(word)}; it must be a number with a decimal point, "
            "a space and a string, like -1.0 Z0 Z1"
        ) from None
