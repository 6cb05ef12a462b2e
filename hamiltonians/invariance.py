"""Whether a Hamiltonian has a symmetry, asked of the form the wavefunction sees (U H U, rotated).

A permutation s -> s[:, row] carries the Pauli string with letters on sites i to the one with the
same letters on sites row[i]; inverting all bits (conjugation by X on every site) turns the sign of
each Y and Z. H is invariant if and only if every string has the coefficient of its image: that is
decided string by string, for every configuration at once. A generating set decides for a group.

A Hamiltonian that does not say its strings is asked for matrix elements instead, between all
configurations where they are few, else on random ones and those with all, no or one bit set. A
difference that random configurations show one time in four escapes 256 of them with chance 1e-32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.symmetry_group import SymmetryGroup
from hamiltonians.probing import probing_configurations

Strings = dict[tuple[tuple[int, str], ...], float]
SymmetryTest = Callable[[Tensor, bool], bool]
"""(permutation (N,), whether all bits are inverted besides) -> whether H has this symmetry."""

ROUNDING = 1e-9
"""Relative difference of two numbers that counts as rounding."""

PROBES = 8
"""Random configurations of the quick test of an inversion."""
COARSE = 1e-6
"""Relative difference of their energies that no rounding makes."""

SUM_ROUNDING = 1e-13
"""The same of sums that may have cancelled, in units of the largest number."""


def check_invariance(hamiltonian: Hamiltonian, group: SymmetryGroup) -> None:
    """Raises ValueError, one line, naming what an element of the group connects and what differs.

    Exact up to ROUNDING; lattice sites whose positions are only nearly symmetric do not pass.
    """
    generating_set = group.generating_set()
    if not generating_set:
        return
    has = symmetry_test(hamiltonian)
    for permutation, inverted in generating_set:
        if not has(permutation, inverted):
            name = "the spin flip" if inverted else "these permutations of the sites"
            raise ValueError(
                f"the Hamiltonian is not invariant under {name}"
                + _difference(hamiltonian, permutation, inverted)
            )


def symmetry_test(hamiltonian: Hamiltonian) -> SymmetryTest:
    """What tells of any permutation, with or without inversion, whether H is invariant."""
    hamiltonian = hamiltonian.to("cpu")
    others: list[SymmetryTest] = []  # built when the couplings do not tell

    def has(permutation: Tensor, inverted: bool) -> bool:
        permutation = permutation.cpu()
        if inverted and not _may_be_inverted(hamiltonian, permutation):
            return False  # spares the strings of all pairs
        verdict = None if inverted else hamiltonian.has_symmetry(permutation)
        if verdict is not None:
            return verdict
        if not others:
            try:
                others.append(_StringTest(_strings(hamiltonian), hamiltonian.n_sites))
            except NotImplementedError:
                others.append(_ElementTest(hamiltonian))
        return others[0](permutation, inverted)

    return has


def takes_into(hamiltonian: Hamiltonian, other: Hamiltonian, permutation: Tensor) -> bool:
    """Whether a permutation (N,) of the sites takes one Hamiltonian into another: <g s|H'|g s'> =
    <s|H|s'> with (g s)_i = s_permutation[i], by matrix elements as at the head of this file."""
    return _ElementTest(hamiltonian.to("cpu"), other.to("cpu"))(permutation.cpu(), False)


def _may_be_inverted(hamiltonian: Hamiltonian, permutation: Tensor) -> bool:
    """Whether the diagonal of random configurations is that of their images with all bits inverted,
    far beyond rounding: necessary, and quickly asked."""
    generator = torch.Generator().manual_seed(0)
    configs = torch.rand(PROBES, hamiltonian.n_sites, generator=generator) < 0.5  # (B, N)
    values = hamiltonian.diagonal(configs)
    images = hamiltonian.diagonal(configs[:, permutation] ^ True)
    return bool(((values - images).abs() <= COARSE * values.abs().max()).all())


class _StringTest:
    """Compares coefficients through a number for each string that no order of its sites changes:
    the sum of random 64-bit numbers of its letters, which two of 10^6 strings share with chance
    1e-7."""

    def __init__(self, strings: Strings, n_sites: int) -> None:
        letters = [(t, i, "XYZ".index(p)) for t, key in enumerate(strings) for i, p in key]
        self.string, self.site, self.letter = np.array(letters, dtype=np.int64).reshape(-1, 3).T
        self.coefficients = np.array(list(strings.values()), dtype=np.float64)  # (T,)
        odd = np.bincount(self.string[self.letter > 0], minlength=len(strings)) % 2  # Y and Z
        self.inverted = np.where(odd == 1, -1.0, 1.0)  # (T,)
        numbers = np.random.default_rng(0)
        self.numbers = numbers.integers(0, 2**64, size=(n_sites, 3), dtype=np.uint64)
        keys = self._keys(np.arange(n_sites))
        self.order = np.argsort(keys)  # (T,)
        self.keys = keys[self.order]
        largest = np.abs(self.coefficients).max(initial=0.0)
        self.floor = SUM_ROUNDING * largest

    def _keys(self, row: NDArray[np.int64]) -> NDArray[np.uint64]:
        """(T,) the numbers of the strings' images."""
        keys = np.zeros(len(self.coefficients), dtype=np.uint64)
        np.add.at(keys, self.string, self.numbers[row[self.site], self.letter])  # modulo 2^64
        return keys

    def __call__(self, permutation: Tensor, inverted: bool) -> bool:
        """Whether every string has the coefficient of its image."""
        if not len(self.keys):
            return True
        images = self._keys(permutation.numpy())  # (T,)
        places = np.minimum(np.searchsorted(self.keys, images), len(self.keys) - 1)
        there = self.keys[places] == images
        theirs = np.where(there, self.coefficients[self.order[places]], 0.0)  # (T,)
        signs = self.inverted if inverted else 1.0
        return bool(_equal(signs * self.coefficients, theirs, self.floor).all())


class _ElementTest:
    """Compares matrix elements of U H U: <s'|H'|s' xor f'> = <s|H|s xor f> for images s', f'; H' is
    H itself, or another Hamiltonian."""

    def __init__(self, hamiltonian: Hamiltonian, other: Hamiltonian | None = None) -> None:
        self.hamiltonian = hamiltonian
        self.other = hamiltonian if other is None else other
        self.configs = probing_configurations(hamiltonian.n_sites)  # (B, N)
        self.diagonal = hamiltonian.diagonal(self.configs).numpy()  # (B,)
        self.elements = hamiltonian.off_diagonal(self.configs).numpy()  # (B, G)
        self.place = {tuple(flip): g for g, flip in enumerate(self.other.flips.tolist())}

    def __call__(self, permutation: Tensor, inverted: bool) -> bool:
        """Whether all elements are those of their images."""
        H = self.other
        images = self.configs[:, permutation] ^ inverted  # (B, N)
        diagonal = H.diagonal(images).numpy()  # (B,)
        floor = SUM_ROUNDING * np.abs(self.diagonal).max(initial=0.0)
        if not _equal(self.diagonal, diagonal, floor).all():
            return False
        elements = H.off_diagonal(images).numpy()  # (B, G)
        flips = self.hamiltonian.flips[:, permutation]
        places = [self.place.get(tuple(flip), -1) for flip in flips.tolist()]
        image = np.zeros_like(self.elements)  # (B, G) of each flip's image, 0 where it is no flip
        there = np.array(places, dtype=np.int64) >= 0
        image[:, there] = elements[:, np.array(places, dtype=np.int64)[there]]
        others = np.delete(elements, [g for g in places if g >= 0], axis=1)  # no flip's image
        floor = SUM_ROUNDING * np.abs(self.elements).max(initial=0.0)
        return bool(_equal(self.elements, image, floor).all() and (np.abs(others) <= floor).all())


def _equal(a: Any, b: Any, floor: float) -> Any:
    """Elementwise, up to rounding."""
    return np.abs(a - b) <= ROUNDING * np.maximum(np.abs(a), np.abs(b)) + floor


def _difference(hamiltonian: Hamiltonian, permutation: Tensor, inverted: bool) -> str:
    """': X0 has -1, its image X1 -2' for the first string that differs; '' without strings."""
    try:
        strings = _strings(hamiltonian)
    except NotImplementedError:
        return ""
    floor = SUM_ROUNDING * max(map(abs, strings.values()), default=0.0)
    row = permutation.tolist()
    for string, coefficient in strings.items():
        image = tuple(sorted((row[site], letter) for site, letter in string))
        odd = inverted and sum(letter in "YZ" for _, letter in string) % 2 == 1
        other = strings.get(image, 0.0)
        if not _equal(-coefficient if odd else coefficient, other, floor):
            same = "" if image == string else f", its image {_written(image)} {other:.10g}"
            sign = ", and each Y and Z changes sign" if odd else ""
            return f": {_written(string)} has {coefficient:.10g}{same}{sign}"
    return ""


def _strings(hamiltonian: Hamiltonian) -> Strings:
    """The coefficient of each string of U H U, sites ascending."""
    signs = hamiltonian.x_signs.tolist()
    strings: Strings = {}
    for coefficient, letters in hamiltonian.pauli_terms():
        for site, letter in letters.items():
            if letter != "Z" and signs[site] < 0:
                coefficient = -coefficient
        key = tuple(sorted(letters.items()))
        strings[key] = strings.get(key, 0.0) + coefficient
    return strings


def _written(string: tuple[tuple[int, str], ...]) -> str:
    """'X0 Z3', shortened where it is long."""
    words = [f"{letter}{site}" for site, letter in string]
    return " ".join(words if len(words) <= 12 else [*words[:12], "..."])
