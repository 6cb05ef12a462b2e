"""The two evaluations end to end: ceilings, baselines, closed forms, and what is printed."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from prototypes import caesium_chloride, cubic, perovskite, rock_salt, shaken

from nqs.crystal.metrics.coverage import CUTOFFS
from nqs.crystal.metrics.evaluation import SITE_ORDER_REMARK, evaluate_matches, evaluate_samples
from nqs.crystal.metrics.report import Report
from nqs.crystal.structures.structure import Structure
from nqs.errors import InputError

for library in ("pymatgen", "smact", "spglib"):
    pytest.importorskip(library)

SALT, CAESIUM = rock_salt(), caesium_chloride()
POTASSIUM = rock_salt(6.29, 19)
OVERLAPPING = cubic(4.0, [11, 17], [[0, 0, 0], [0.01, 0, 0]])
NOT_NEUTRAL = cubic(4.0, [11, 17, 17], [[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]])


def perovskites(seed: int, n: int) -> list[Structure]:
    rng = np.random.default_rng(seed)
    kinds = [(38, 22), (56, 22), (20, 40), (56, 40), (38, 14), (57, 13)]
    chosen = [kinds[i] for i in rng.integers(0, len(kinds), n)]
    return [shaken(perovskite(rng.uniform(3.8, 4.2), a, b), 0.01, seed) for a, b in chosen]


def test_samples_by_hand() -> None:
    samples = [None, OVERLAPPING, NOT_NEUTRAL, SALT, SALT, POTASSIUM]
    report = evaluate_samples(samples, [SALT, CAESIUM], [SALT])
    ours = report.columns["samples"]
    assert_allclose((ours.structural, ours.compositional, ours.valid), (4 / 6, 4 / 6, 3 / 6))
    assert ours.n_compared == 3
    assert_allclose((ours.unique, ours.novel, ours.unique_and_novel), (2 / 3, 1 / 3, 1 / 3))
    assert math.isnan(ours.recall)
    test = report.columns["test set"]
    assert (test.valid, test.density_distance, test.unique) == (1, 0, 1)
    assert test.novel == 0.5  # the caesium chloride form
    assert report.columns["training set"].novel == 0


def test_coverage_of_the_test_set_by_itself_is_complete() -> None:
    test = [SALT, CAESIUM, perovskite(3.9, 38, 22)]
    report = evaluate_samples([SALT, None], test, cutoffs=CUTOFFS["mp_20"])
    ceiling, ours = report.columns["test set"], report.columns["samples"]
    assert (ceiling.recall, ceiling.precision) == (1, 1)
    assert ours.precision == 0.5  # what is no crystal counts
    assert 0 < ours.recall < 1
    assert ceiling.structure_diversity > 0 and math.isnan(ours.structure_diversity)
    assert "training set" not in report.columns


def test_nothing_valid() -> None:
    report = evaluate_samples([None, OVERLAPPING], [SALT], [SALT], baselines=False)
    ours = report.columns["samples"]
    assert (ours.valid, ours.n_compared) == (0, 0)
    assert math.isnan(ours.unique) and math.isnan(ours.density_distance)
    assert "Traceback" not in report.table()


def test_at_most_draws_alike_each_time() -> None:
    samples = [rock_salt(5.0 + 0.1 * i, 3 + 8 * (i % 3)) for i in range(9)]
    once, again = (
        evaluate_samples(samples, [SALT], [SALT], at_most=4, baselines=False) for _ in range(2)
    )
    assert once.columns == again.columns
    assert once.columns["samples"].n_compared == 4


def test_matches_by_hand() -> None:
    """One hit of known displacement, one in the second guess, one never, polymorphs exchanged."""
    near = cubic(3.5, [11, 17], [[0, 0, 0], [0.55, 0.5, 0.5]])
    off = 0.025 * 2 ** (1 / 3)
    references = [CAESIUM, POTASSIUM, SALT]
    report = evaluate_matches([[near], [None, POTASSIUM], [CAESIUM]], references, n=(1, 2))
    one, two = report.columns["guesses, n=1"], report.columns["guesses, n=2"]
    assert_allclose((one.match_rate, one.rmse), (1 / 3, off))
    assert_allclose((two.match_rate, two.rmse), (2 / 3, off / 2), atol=1e-9)
    assert_allclose(one.match_rate_error, math.sqrt(2) / 3 / math.sqrt(3))
    assert_allclose((one.metre, one.crmse), (1 / 3, (0 + 0.5 + 0.5) / 3), atol=1e-9)
    assert_allclose((two.metre, two.crmse), (2 / 3, 0.5 / 3), atol=1e-9)
    assert (one.n_guesses, two.n_guesses) == (2, 3)
    assert two.valid_match_rate == two.match_rate


def test_valid_only() -> None:
    """A crystal that SMACT refuses can match, but not in the valid column."""
    report = evaluate_matches([[NOT_NEUTRAL]], [NOT_NEUTRAL], n=(1,))
    found = report.columns["guesses, n=1"]
    assert (found.match_rate, found.valid_match_rate) == (1, 0)
    assert math.isnan(found.valid_rmse) and found.rmse < 1e-6


def test_baselines_stand_beside_the_guesses() -> None:
    train, test = perovskites(1, 8), perovskites(2, 5)
    report = evaluate_matches([[s] for s in test], test, train, n=(1, 3))
    assert list(report.columns) == [
        "guesses, n=1",
        "nearest template, n=1",
        "nearest template, n=3",
        "constant cell, n=1",
        "constant cell, n=2",
        "hedged cell, n=1",
    ]
    assert report.columns["guesses, n=1"].match_rate == 1
    assert report.columns["guesses, n=1"].rmse < 1e-6
    assert 0 < report.columns["constant cell, n=2"].rmse < 0.1
    hedge = report.columns["hedged cell, n=1"]
    assert hedge.match_rate == 1 and hedge.rmse > 0.25
    assert report.remarks == (SITE_ORDER_REMARK,)


def test_table_json_and_csv_say_the_same() -> None:
    report = evaluate_matches([[CAESIUM], [None]], [CAESIUM, SALT], n=(1,))
    table = report.table()
    assert "match rate" in table and "50.00 %" in table and "RMSE" in table
    content = json.loads(report.json())
    column = content["columns"]["guesses, n=1"]
    assert column["match_rate"] == 0.5 and content["settings"]["stol"] == 0.5
    lines = {row["quantity"]: row for row in csv.DictReader(report.csv().splitlines())}
    assert float(lines["match_rate"]["guesses, n=1"]) == 0.5
    assert float(lines["crmse"]["guesses, n=1"]) == column["crmse"]


def test_nan_is_shown_as_nothing() -> None:
    report = evaluate_matches([[None]], [SALT], n=(1,))
    assert json.loads(report.json())["columns"]["guesses, n=1"]["rmse"] is None
    assert "nan" not in report.table() + report.csv()
    assert isinstance(report, Report)


def test_wrong_input() -> None:
    with pytest.raises(InputError, match="samples=0: at least one"):
        evaluate_samples([], [SALT])
    with pytest.raises(InputError, match="at least one crystal"):
        evaluate_samples([SALT], [])
    with pytest.raises(InputError, match=r"n=\[0\]: numbers of guesses"):
        evaluate_matches([[SALT]], [SALT], n=(0,))
    with pytest.raises(InputError, match="guesses=1: must be 2"):
        evaluate_matches([[SALT]], [SALT, SALT], n=(1,))
    with pytest.raises(InputError, match="oxidation_states=wiki"):
        evaluate_samples([SALT], [SALT], oxidation_states="wiki")
