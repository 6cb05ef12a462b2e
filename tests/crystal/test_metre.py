"""Match rate, RMSE, METRe and cRMSE against their definitions, pair by pair without short cuts.

The definitions are those of Martirossyan et al., arXiv:2509.12178, and of the authors' code (OMatG,
`match_rmsds` and `metre_rmsds`; run by hand on this example it gives the same digits). The oracle
below has pymatgen compare every structure as it is with every other, and SMACT's own screening
judge compositions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_allclose
from prototypes import caesium_chloride, cubic, perovskite, rock_salt, rock_salt_primitive, shaken

from nqs.crystal.metrics.evaluation import evaluate_matches
from nqs.crystal.metrics.matching import to_pymatgen
from nqs.crystal.structures.structure import Structure

for library in ("pymatgen", "smact", "spglib"):
    pytest.importorskip(library)

STOL = 0.5
NOT_NEUTRAL = cubic(4.0, [11, 17, 17], [[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]])
REFERENCES = [
    rock_salt(),
    caesium_chloride(),  # its polymorph
    NOT_NEUTRAL,
    perovskite(3.9, 38, 22),
    perovskite(3.9, 22, 38),  # the other order of the sites
    rock_salt(6.3, 19),
    caesium_chloride(0.55, 3, 9),  # no valid crystal, but of the form of one
]


def guesses(seed: int) -> list[list[Structure | None]]:
    """Three for each reference: shaken, of another polymorph, too close, none, missing."""
    sizes = np.random.default_rng(seed).uniform(0.005, 0.05, (len(REFERENCES), 3))
    near = [
        [shaken(s, size, seed + k) for k, size in enumerate(row)]
        for s, row in zip(REFERENCES, sizes, strict=True)
    ]
    crowded = cubic(2.2, [11, 17, 17], [[0, 0, 0], [0.5, 0, 0], [0, 0.2, 0]])
    return [
        [None, near[1][0], near[1][1]],  # of the polymorph alone
        [rock_salt_primitive(6.0), near[1][2]],
        [crowded, near[2][0], None],
        [near[4][0], near[3][1], near[4][2]],
        [near[3][0], None, near[3][2]],
        [],
        [shaken(caesium_chloride(2.9, 3, 9), 0.03, seed)],
    ]


def is_valid(structure: Structure) -> bool:
    """CDVAE's: no two atoms (but an atom's own images) closer than 0.5 Angstrom, SMACT."""
    from smact.screening import smact_validity

    whole = to_pymatgen(structure)
    distances = whole.distance_matrix + 10 * np.eye(len(whole))
    return distances.min() >= 0.5 and bool(
        smact_validity(whole.composition, oxidation_states_set="smact14")
    )


def by_definition(
    rows: list[list[Structure | None]],
    n: int,
    counts: Callable[[Structure, Structure], bool],
    *,
    everyone: bool,
) -> tuple[float, float, float]:
    """(rate, RMSE, cRMSE) of the references, each with its nearest guess among those that count."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(ltol=0.3, stol=STOL, angle_tol=10)
    least = []
    for i, reference in enumerate(REFERENCES):
        best = math.inf
        for j, row in enumerate(rows):
            for guess in row[:n]:
                if guess is None or not (everyone or i == j) or not counts(guess, reference):
                    continue
                found = matcher.get_rms_dist(to_pymatgen(guess), to_pymatgen(reference))
                best = min(best, math.inf if found is None else found[0])
        least.append(best)
    matched = [d for d in least if d < math.inf]
    return (
        len(matched) / len(least),
        sum(matched) / len(matched) if matched else math.nan,
        sum(min(d, STOL) for d in least) / len(least),
    )


def test_by_definition() -> None:
    rows = guesses(2)
    report = evaluate_matches(rows, REFERENCES, n=(1, 2, 3))

    def all_count(guess: Structure, reference: Structure) -> bool:
        return True

    def valid_count(guess: Structure, reference: Structure) -> bool:
        return is_valid(guess) and is_valid(reference)

    n_valid = sum(is_valid(reference) for reference in REFERENCES)
    assert n_valid == len(REFERENCES) - 2
    for n in (1, 2, 3):
        ours = report.columns[f"guesses, n={n}"]
        own = by_definition(rows, n, all_count, everyone=False)
        assert_allclose((ours.match_rate, ours.rmse, ours.own_crmse), own, rtol=1e-6)
        metre = by_definition(rows, n, all_count, everyone=True)
        assert_allclose((ours.metre, ours.metre_rmse, ours.crmse), metre, rtol=1e-6)
        valid = by_definition(rows, n, valid_count, everyone=False)
        assert_allclose((ours.valid_match_rate, ours.valid_rmse), valid[:2], rtol=1e-6)
        valid_metre = by_definition(rows, n, valid_count, everyone=True)
        assert_allclose((ours.valid_metre, ours.valid_crmse), valid_metre[::2], rtol=1e-6)
        assert ours.n_valid == n_valid
        of_valid = valid[0] * len(REFERENCES) / n_valid
        assert_allclose(ours.rate_of_valid, of_valid, rtol=1e-6)


def test_the_example_tells_the_definitions_apart() -> None:
    """None of these numbers could be taken for its neighbours without the test above failing."""
    ours = evaluate_matches(guesses(1), REFERENCES, n=(3,)).columns["guesses, n=3"]
    assert ours.valid_match_rate < ours.match_rate < ours.metre
    assert ours.valid_match_rate < ours.valid_metre < ours.metre
    errors = [ours.rmse, ours.own_crmse, ours.metre_rmse, ours.crmse, ours.valid_crmse]
    assert len({round(error, 9) for error in errors}) == 5
    assert ours.rate_of_valid > ours.valid_match_rate
