"""What tables of crystals lose on the way to tokens and back: counts, by reason.

    python -m benchmarks.crystal_round_trip TABLE... [--max-atoms 80] [--limit ROWS]

Every crystal is read, brought to its canonical cell, written by each tokeniser, read from its
tokens and written again. It comes back if the elements agree, every coordinate to half a bin, and
the second tokens are the first. A tokeniser that writes the crystal whatever its cell returns it in
another one: then no atom may be moved by more than the rounding when the two are superposed, hand
and all, and spglib must find the same space group; crystals that rounding gives a higher one, and
those whose second tokens differ (another of two cells that are about equally reduced), are counted
by themselves.
"""

from __future__ import annotations

import math
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.arguments import Parser, whole_number
from benchmarks.superposition import displacement
from nqs.crystal.datasets.data import encode
from nqs.crystal.datasets.tables import read_table
from nqs.crystal.structures.structure import CrystalError, Structure
from nqs.crystal.structures.symmetry import canonical, space_group
from nqs.crystal.structures.wyckoff_positions import space_group_of
from nqs.crystal.tokens import TOKENISERS, make_tokeniser
from nqs.crystal.tokens.tokeniser import Conditions, Tokeniser

RETURNED = "came back"
IN_OTHER_WORDS = "came back, with other tokens the second time"
MORE_SYMMETRIC = "came back, rounded to a higher space group"
MOST_MOVED = 0.4
"""Angstrom: a rounding of the first atom and one of another, along three axes of about 12 ..."""
MOST_OF_VECTOR = 0.025
"""... or, of a longer vector of the primitive cell, two roundings to 1/240 of one three times as
long (rhombohedral cells in hexagonal axes)."""


def reason_kind(reason: str) -> str:
    """A reason without what is particular to one crystal: numbers and formulas."""
    kind = re.sub(r"\b(?:[A-Z][a-z]?\d+)+[A-Z]?[a-z]?\b|\b(?:[A-Z][a-z]?\d*){2,}\b", "X", reason)
    return re.sub(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", "#", kind)


def round_trip(tokeniser: Tokeniser, structure: Structure, conditions: Conditions) -> str:
    """RETURNED, or the kind of reason why it did not."""
    try:
        tokens = tokeniser.encode(structure, conditions)
    except CrystalError as error:
        return f"refused: {reason_kind(str(error))}"
    back, conditions_back = tokeniser.decode(tokens)
    if tokeniser.canonical:
        return superposed(tokeniser, structure, back, tokens, conditions_back)
    if not np.array_equal(back.numbers, structure.numbers):
        return "LOST: other elements"
    offsets = back.positions - structure.positions
    offsets -= np.round(offsets)
    if np.abs(offsets).max() > 0.5 / tokeniser.n_bins + 1e-9:
        return "LOST: coordinates off by more than half a bin"
    again = tokeniser.encode(back, conditions_back)
    return RETURNED if again == tokens else "LOST: other tokens the second time"


def superposed(
    tokeniser: Tokeniser,
    structure: Structure,
    back: Structure,
    tokens: Sequence[int],
    conditions: Conditions,
) -> str:
    """The same where the cell is another one."""
    moved = displacement(structure, back)
    if moved > max(MOST_MOVED, MOST_OF_VECTOR * structure.lengths.max()):
        return f"LOST: {'another crystal' if moved == math.inf else 'atoms moved too far'}"
    before, after = space_group(structure), space_group(back)
    if n_operations(after) > n_operations(before):
        return MORE_SYMMETRIC
    if after != before:
        return "LOST: spglib finds another space group"
    try:
        again = tokeniser.encode(back, conditions)
    except CrystalError as error:
        return f"LOST: refused the second time: {reason_kind(str(error))}"
    return RETURNED if again == list(tokens) else IN_OTHER_WORDS


def n_operations(number: int) -> int:
    """Of the space group, in a primitive cell."""
    group = space_group_of(number)
    return len(group.rotations) // len(group.centring)


def report(path: str, tokenisers: Sequence[Tokeniser], limit: int | None) -> None:
    """Print the counts of one table."""
    start = time.perf_counter()
    table = read_table(path, limit)
    read = time.perf_counter() - start
    print(f"\n{Path(path).parent.name}/{Path(path).name}: ", end="")
    print(f"{len(table.records)} crystals in {read:.1f} s, {len(table.refusals)} rows refused")
    print_counts(Counter(reason_kind(refusal.reason) for refusal in table.refusals))
    start, crystals, failed = time.perf_counter(), [], Counter[str]()
    for record in table.records:
        try:
            crystals.append((canonical(record.structure), record.conditions))
        except CrystalError as error:
            failed[reason_kind(str(error))] += 1
    reduced = time.perf_counter() - start
    most = max(structure.n_atoms for structure, _ in crystals)
    print(f"  canonical cells: {len(crystals)} in {reduced:.1f} s, at most {most} atoms")
    print_counts(failed)
    for tokeniser in tokenisers:
        start, counts = time.perf_counter(), Counter[str]()
        for structure, known in crystals:
            counts[round_trip(tokeniser, structure, spoken(tokeniser, structure, known))] += 1
        print(f"  {tokeniser.name}: {counts.pop(RETURNED, 0)} came back", end="")
        print(f" in {time.perf_counter() - start:.1f} s, {mean_length(tokeniser, crystals)}")
        print_counts(counts)


def mean_length(
    tokeniser: Tokeniser, crystals: Sequence[tuple[Structure, Conditions]], most: int = 1000
) -> str:
    """Tokens of a crystal without conditions, bos and eos included, of the first so many."""
    lengths = [len(body.body) for body in encode(tokeniser, crystals[:most])[0]]
    if not lengths:
        return "no tokens"
    return f"{statistics.mean(lengths):.1f} tokens (median {statistics.median(lengths):g})"


def spoken(tokeniser: Tokeniser, structure: Structure, known: Conditions) -> Conditions:
    """What is known of a crystal, in its canonical cell, as far as the tokeniser has words."""
    energies = tokeniser.name != "cif"
    return Conditions(
        structure.composition,
        known.space_group,
        known.formation_energy if energies else None,
        known.energy_above_hull if energies else None,
    )


def print_counts(counts: Counter[str]) -> None:
    for reason, count in counts.most_common():
        print(f"    {count:6d}  {reason}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(description="Crystals to tokens and back: counts by reason.")
    parser.add_argument("tables", nargs="+", metavar="TABLE", help=".csv, .csv.gz, .cif, folder")
    parser.add_argument(
        "--tokeniser", action="append", choices=list(TOKENISERS.kinds), help="default: all"
    )
    parser.add_argument("--max-atoms", type=whole_number, default=80, help="atoms in a cell")
    parser.add_argument("--limit", type=whole_number, help="rows of each table; default: all")
    options = parser.parse_args(arguments)
    names = options.tokeniser or list(TOKENISERS.kinds)
    try:
        tokenisers = [make_tokeniser(name, options.max_atoms) for name in names]
        for path in options.tables:
            report(path, tokenisers, options.limit)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
