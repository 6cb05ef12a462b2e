"""Whether a Hamiltonian has a symmetry: string by string, for every configuration at once.

A permutation s -> s[:, row] carries the Pauli string with letters on sites i to the one with the
same letters on sites row[i]; inverting all bits (conjugation by X on every site) turns the sign of
each Y and Z. H is invariant if and only if every string has the coefficient of its image. For a
group its generators suffice.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian

Strings = dict[tuple[tuple[int, str], ...], float]

ROUNDING = 1e-9
"""Difference of two coefficients, in units of the largest one, that counts as rounding."""


def check_invariance(hamiltonian: Hamiltonian, symmetries: Iterable[tuple[Tensor, bool]]) -> None:
    """Raises ValueError naming two coefficients that a symmetry connects and that differ.

    symmetries: permutations (N,) of the sites and whether all bits are inverted besides.
    Exact up to ROUNDING; lattice sites whose positions are only nearly symmetric do not pass.
    """
    symmetries = list(symmetries)
    if not symmetries:
        return
    strings = _strings(hamiltonian)
    tolerance = ROUNDING * max(map(abs, strings.values()), default=0.0)
    for permutation, inverted in symmetries:
        row = permutation.tolist()
        for string, coefficient in strings.items():
            image = tuple(sorted((row[site], letter) for site, letter in string))
            odd = inverted and sum(letter in "YZ" for _, letter in string) % 2 == 1
            other = strings.get(image, 0.0)
            if abs((-coefficient if odd else coefficient) - other) > tolerance:
                name = "the spin flip" if inverted else "these permutations of the sites"
                same = "" if image == string else f", its image {_written(image)} {other:.10g}"
                raise ValueError(
                    f"the Hamiltonian is not invariant under {name}: "
                    f"{_written(string)} has {coefficient:.10g}{same}"
                    + (", and each Y and Z changes sign" if odd else "")
                )


def _strings(hamiltonian: Hamiltonian) -> Strings:
    """The coefficient of each string, sites ascending."""
    strings: Strings = {}
    for coefficient, letters in hamiltonian.pauli_terms():
        key = tuple(sorted(letters.items()))
        strings[key] = strings.get(key, 0.0) + coefficient
    return strings


def _written(string: tuple[tuple[int, str], ...]) -> str:
    return " ".join(f"{letter}{site}" for site, letter in string)
