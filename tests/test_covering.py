"""Covering arrays hold every pair, and little more."""

from __future__ import annotations

from itertools import combinations, product

from covering import pairwise
from hypothesis import given
from hypothesis import strategies as st


@given(sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5))
def test_every_pair_occurs(sizes: list[int]) -> None:
    """In at least the cases that two factors need, and in fewer than half as many again or so."""
    factors = [[f"{place}{value}" for value in range(n)] for place, n in enumerate(sizes)]
    cases = pairwise(*factors)
    for f, g in combinations(range(len(sizes)), 2):
        assert {(case[f], case[g]) for case in cases} == set(product(factors[f], factors[g]))
    assert len(set(cases)) == len(cases) and cases == pairwise(*factors)
    first, second = sorted(sizes)[-2:]
    assert first * second <= len(cases) <= 2 * first * second + 4


def test_a_product_of_many_shrinks() -> None:
    assert len(pairwise(range(15), range(3), range(3))) < 50
    assert len(pairwise(*[range(3)] * 5)) < 20 < 3**5
