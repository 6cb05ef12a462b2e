"""Whether two crystals are one: pymatgen's StructureMatcher, prepared once a crystal and bounded.

Two crystals match if some mapping of their primitive cells, scaled to one volume, keeps lengths
within a fraction ltol, angles within angle_tol degrees and atoms within stol (V / A)^(1/3). The
tolerances of the field (CDVAE, DiffCSP, CrystaLLM) are loose: 0.3, 10 degrees, 0.5. Hence two rules
here: the root mean square displacement, in units of (V / A)^(1/3), stands beside every match rate,
and what is cheap to see (composition, atoms in the primitive cell) is looked at first.

StructureMatcher lists all lattice points within the longest cell vector, so a needle costs it
minutes and gigabytes. A crystal whose reduced cell, as given or primitive, is longer than LONGEST
V^(1/3) is not compared and matches nothing; evaluations count how many there were.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from nqs.crystal.parallel import mapped
from nqs.crystal.structures.periodic_distances import elongation
from nqs.crystal.structures.structure import Structure
from nqs.errors import InputError, require

Floats = NDArray[np.float64]
Key = tuple[tuple[int, int], ...]
"""A reduced composition: (atomic number, count), sorted."""

LONGEST = 12.0
"""Longest vector of a reduced cell that is compared, in V^(1/3); a second a pair at worst."""


@dataclass(frozen=True)
class Tolerances:
    """Of StructureMatcher: fraction of lengths, fraction of (V / A)^(1/3), degrees."""

    ltol: float = 0.3
    stol: float = 0.5
    angle_tol: float = 10.0

    def __post_init__(self) -> None:
        for name in ("ltol", "stol", "angle_tol"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "must be > 0")


@dataclass(frozen=True)
class Reduced:
    """A crystal as it is compared.

    Attributes:
        key: its reduced composition.
        n_atoms: in the primitive cell.
        cell: the primitive cell, Niggli reduced, as pymatgen's Structure.
    """

    key: Key
    n_atoms: int
    cell: Any


@final
class Matcher:
    """StructureMatcher on crystals that were reduced once. Raises InputError without pymatgen."""

    def __init__(self, tolerances: Tolerances | None = None) -> None:
        self.tolerances = tolerances or Tolerances()
        t = self.tolerances
        self._matcher = _pymatgen().StructureMatcher(
            ltol=t.ltol, stol=t.stol, angle_tol=t.angle_tol, primitive_cell=False
        )

    def reduced(self, structure: Structure) -> Reduced | None:
        """The crystal as it is compared, or None if its cell is too long for that (LONGEST)."""
        try:
            if elongation(structure.matrix) > LONGEST:
                return None
            whole = to_pymatgen(structure)
            cell = whole.get_reduced_structure("niggli").get_primitive_structure()
        except (ValueError, np.linalg.LinAlgError):  # no reduced cell was found
            return None
        if elongation(cell.lattice.matrix) > LONGEST:
            return None
        return Reduced(reduced_composition(structure), len(cell), cell)

    def rms(self, first: Reduced | None, second: Reduced | None) -> float:
        """Root mean square displacement in (V / A)^(1/3), the least of all mappings; NaN without a
        match."""
        if not _comparable(first, second):
            return math.nan
        assert first is not None and second is not None
        found = self._matcher.get_rms_dist(first.cell, second.cell)
        return math.nan if found is None else float(found[0])

    def same(self, first: Reduced | None, second: Reduced | None) -> bool:
        """Whether some mapping keeps every atom within the tolerances (StructureMatcher.fit): the
        largest displacement counts, which is stricter than having an `rms`."""
        if not _comparable(first, second):
            return False
        assert first is not None and second is not None
        return bool(self._matcher.fit(first.cell, second.cell, skip_structure_reduction=True))


def _comparable(first: Reduced | None, second: Reduced | None) -> bool:
    if first is None or second is None:
        return False
    return first.key == second.key and first.n_atoms == second.n_atoms


def reduced_composition(structure: Structure) -> Key:
    """What a crystal is made of, whatever its cell: NaCl and Na4Cl4 alike."""
    counts = structure.composition
    divisor = math.gcd(*counts.values())
    return tuple(sorted((number, n // divisor) for number, n in counts.items()))


def to_pymatgen(structure: Structure) -> Any:
    """The same crystal as a pymatgen Structure."""
    pymatgen = _pymatgen()
    return pymatgen.Structure(
        pymatgen.Lattice(structure.matrix), structure.numbers.tolist(), structure.positions
    )


@dataclass(frozen=True)
class _Pymatgen:
    Structure: Any
    Lattice: Any
    StructureMatcher: Any


def _pymatgen() -> _Pymatgen:
    try:
        from pymatgen.analysis.structure_matcher import StructureMatcher
        from pymatgen.core import Lattice, Structure
    except ImportError:
        raise InputError("matching crystals needs pymatgen: pip install 'nqs[crystal]'") from None
    return _Pymatgen(Structure, Lattice, StructureMatcher)


Guess = tuple[int, int]
"""(reference it was made for, which guess)."""


@dataclass(frozen=True)
class Matches:
    """What was found between S references and the first n guesses made for each.

    Attributes:
        pairs: (reference, guess) -> rms of every pair that matches.
        own: (S, n) rms of reference i and guess g made for it, NaN without a match.
        nearest: (S, n) least rms of reference i and the first g + 1 guesses made for any reference,
            NaN without a match.
        not_compared: references and guesses whose cells were too long.
        tolerances: of the matcher.
    """

    pairs: Mapping[tuple[int, Guess], float]
    own: Floats
    nearest: Floats
    not_compared: int
    tolerances: Tolerances

    @staticmethod
    def of(
        pairs: Mapping[tuple[int, Guess], float],
        shape: tuple[int, int],
        not_compared: int,
        tolerances: Tolerances,
    ) -> Matches:
        """The tables (S, n) of these pairs."""
        own, nearest = np.full(shape, np.nan), np.full(shape, np.inf)
        for (reference, (made_for, g)), rms in pairs.items():
            nearest[reference, g:] = np.minimum(nearest[reference, g:], rms)
            if made_for == reference:
                own[reference, g] = rms
        nearest[np.isinf(nearest)] = np.nan
        return Matches(pairs, own, nearest, not_compared, tolerances)

    def only(self, counts: Callable[[int, Guess], bool]) -> Matches:
        """What is left if only the pairs (reference, guess) that count may match."""
        pairs = {pair: rms for pair, rms in self.pairs.items() if counts(*pair)}
        return Matches.of(pairs, self.own.shape, self.not_compared, self.tolerances)


@dataclass(frozen=True)
class _Task:
    """References of one composition, and every guess that has it."""

    references: Mapping[int, Structure]
    guesses: Mapping[Guess, Structure]
    tolerances: Tolerances


def match_all(
    guesses: Sequence[Sequence[Structure | None]],
    references: Sequence[Structure],
    n: int,
    *,
    tolerances: Tolerances | None = None,
    workers: int = 1,
) -> Matches:
    """Each reference against the first n guesses made for it and for all others of its composition.

    Args:
        guesses: S lists; None is a guess that is no crystal, and one that is missing counts alike.
        references: S crystals.
        workers: processes; the result does not depend on it.

    Raises InputError if the numbers of lists and references differ.
    """
    require(len(guesses) == len(references), "guesses", len(guesses), f"must be {len(references)}")
    require(n >= 1, "n", n, "must be at least 1")
    chosen = tolerances or Tolerances()
    tasks = list(_tasks(guesses, references, n, chosen))
    pairs: dict[tuple[int, Guess], float] = {}
    not_compared = 0
    for found, skipped in mapped(_matched, tasks, workers):
        not_compared += skipped
        pairs |= found
    return Matches.of(pairs, (len(references), n), not_compared, chosen)


def _tasks(
    guesses: Sequence[Sequence[Structure | None]],
    references: Sequence[Structure],
    n: int,
    tolerances: Tolerances,
) -> Iterator[_Task]:
    wanted: dict[Key, dict[int, Structure]] = defaultdict(dict)
    for i, reference in enumerate(references):
        wanted[reduced_composition(reference)][i] = reference
    made: dict[Key, dict[Guess, Structure]] = defaultdict(dict)
    for i, row in enumerate(guesses):
        for g, guess in enumerate(row[:n]):
            if guess is not None:
                made[reduced_composition(guess)][i, g] = guess
    for key, group in wanted.items():
        yield _Task(group, made[key], tolerances)


def _matched(task: _Task) -> tuple[dict[tuple[int, Guess], float], int]:
    """rms of every pair that matches, and how many crystals could not be compared."""
    matcher = Matcher(task.tolerances)
    references = {i: matcher.reduced(s) for i, s in task.references.items()}
    guesses = {guess: matcher.reduced(s) for guess, s in task.guesses.items()}
    skipped = [*references.values(), *guesses.values()].count(None)
    found = {}
    for i, reference in references.items():
        for guess, candidate in guesses.items():
            rms = matcher.rms(candidate, reference)
            if not math.isnan(rms):
                found[i, guess] = rms
    return found, skipped


def first_alike(crystals: Sequence[Reduced | None], matcher: Matcher) -> NDArray[np.int64]:
    """(S,): the first crystal that is the same as crystal i; i itself where none before it is.

    Compared with the first of each kind only; a crystal too long to be compared is its own kind.
    """
    kinds: dict[Key, list[int]] = defaultdict(list)
    first = np.arange(len(crystals))
    for i, crystal in enumerate(crystals):
        if crystal is None:
            continue
        known = (k for k in kinds[crystal.key] if matcher.same(crystal, crystals[k]))
        first[i] = next(known, i)
        if first[i] == i:
            kinds[crystal.key].append(i)
    return first
