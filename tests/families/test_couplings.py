"""How couplings are written and drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import kstest

from nqs.errors import InputError
from nqs.ground_states.couplings import BEYOND, Coupling, Law, drawn

FALSE_ALARM = 1e-6
"""Chance that a right sampler fails one of the Kolmogorov-Smirnov tests, by choice of seed."""


@pytest.mark.parametrize(
    ("given", "text", "ends"),
    [
        ("interval(0,3)", "interval(0,3)", (0, 3)),
        (" interval( -1.5 , 1e1 ) ", "interval(-1.5,10)", (-1.5, 10)),
        ("uniform(-1,1)", "uniform(-1,1)", (-1, 1)),
        ("normal(2,0.5)", "normal(2,0.5)", (1, 3)),
        ([3, 1, 2.5], "[1,2.5,3]", (1, 3)),
        ("[0, 1]", "[0,1]", (0, 1)),
    ],
)
def test_written_and_read(given: Any, text: str, ends: tuple[float, float]) -> None:
    law = Law.parsed("key", given)
    assert str(law) == text and law.ends == ends
    assert Law.parsed("key", str(law)) == law


@pytest.mark.parametrize(
    "given",
    [
        *("interval(1,0)", "interval(1,1)", "interval(0)", "interval(0,1,2)", "interval(a,b)"),
        *("interval(0,inf)", "interval(nan,1)", "interval(0,1", "interval[0,1]", "gamma(0,1)"),
        *("normal(0,0)", "normal(0,-1)", "uniform(2,1)", "3", "", "[1]", "[]", "[1,1]", "[a,1]"),
        *([True, 2], [[1, 2]], [None, 1], 3, None, True, "(0,1)", "interval(0,1e31)"),
    ],
)
def test_what_is_no_range(given: Any) -> None:
    with pytest.raises(InputError, match=r"^key=") as caught:
        Law.parsed("key", given)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 400


def test_distributions() -> None:
    """One draw at a time is independent: Kolmogorov-Smirnov of 2000."""
    laws = [Law("uniform", (-2.0, 3.0)), Law("normal", (1.0, 0.3))]
    couplings = [Coupling("a", laws[0], 2), Coupling("b", laws[1], 2)]
    generator = torch.Generator().manual_seed(3)
    found = torch.cat([drawn(couplings, 1, generator) for _ in range(2000)]).numpy()
    for column in (0, 1):
        assert kstest(found[:, column], "uniform", (-2, 5)).pvalue > FALSE_ALARM
        assert kstest(found[:, 2 + column], "norm", (1, 0.3)).pvalue > FALSE_ALARM
    assert kstest(found[:, 0], "uniform", (-2, 4)).pvalue < FALSE_ALARM  # it can say no
    columns = torch.from_numpy(found.T.copy()).corrcoef()
    assert bool((columns - torch.eye(4)).abs().max() < 5 / 2000**0.5)


def test_stratified_draws_of_every_law() -> None:
    """Of C draws one lies in each of C parts of equal chance; a list comes evenly."""
    generator = torch.Generator().manual_seed(5)
    normal = drawn([Coupling("a", Law("normal", (0.0, 1.0)))], 8, generator)[:, 0]
    parts = torch.special.ndtr(normal).mul(8).long()
    assert sorted(parts.tolist()) == list(range(8))
    listed = drawn([Coupling("a", Law("list", (1.0, 2.0, 5.0)))], 9, generator)[:, 0]
    assert sorted(listed.tolist()) == [1, 1, 1, 2, 2, 2, 5, 5, 5]
    interval = torch.cat(
        [drawn([Coupling("a", Law("interval", (0.0, 1.0)))], 10, generator) for _ in range(300)]
    )
    at_ends = float((interval == 0).double().mean() + (interval == 1).double().mean())
    expected = 2 * BEYOND / (1 + 2 * BEYOND)
    assert abs(at_ends - expected) < 5 * (expected / 3000) ** 0.5


def test_what_a_law_holds() -> None:
    assert Law("interval", (0.0, 1.0)).holds(1.0) and not Law("interval", (0.0, 1.0)).holds(1.01)
    assert Law("list", (0.0, 1.0)).holds(0.5)
    assert Law("normal", (0.0, 1.0)).holds(4.9) and not Law("normal", (0.0, 1.0)).holds(-5.1)
