"""Baselines without a model: which template, which exchange, which cell."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from prototypes import caesium_chloride, perovskite, rock_salt, shaken

from nqs.crystal.metrics.baselines import (
    are_perovskites,
    hedged_guesses,
    perovskite_guesses,
    template_guesses,
)
from nqs.crystal.metrics.matching import Matcher, reduced_composition
from nqs.crystal.structures.structure import Structure

pytest.importorskip("smact")

NA, CL, K, BR, SR, TI, BA, O, MG = 11, 17, 19, 35, 38, 22, 56, 8, 12


def stretched(structure: Structure, by: float = 1.1) -> Structure:
    """A mark that scaling leaves: c / a."""
    lengths = structure.lengths * [1.0, 1.0, by]
    return Structure(lengths, structure.angles, structure.numbers, structure.positions)


def stretch(structure: Structure) -> float:
    return float(structure.lengths[2] / structure.lengths[0])


def test_the_alike_template_comes_first() -> None:
    """KBr is nearer to NaCl than MgO is, and its K becomes Na."""
    train = [rock_salt(4.2, MG, O), stretched(rock_salt(6.6, K, BR)), perovskite(3.9, SR, TI)]
    (guesses,) = template_guesses(train, [rock_salt(5.64, NA, CL)], 10)
    assert [stretch(guess) for guess in guesses[:2]] == pytest.approx([1.1, 1.0])
    first = guesses[0]
    assert first.numbers.tolist() == [NA] * 4 + [CL] * 4
    assert {*map(tuple, first.positions[:4])} == {*map(tuple, train[1].positions[:4])}
    assert len(guesses) == 4  # two templates, two ways round


def test_other_counts_are_no_template() -> None:
    train = [rock_salt(), perovskite(3.9, SR, TI)]
    test = [caesium_chloride(), perovskite(4.0, BA, TI)]
    none, some = template_guesses(train, test, 3)
    assert none == []  # 1 + 1 atoms, not 4 + 4
    assert {reduced_composition(guess) for guess in some} == {reduced_composition(test[1])}
    assert some[0].numbers.tolist() == [BA, TI, O, O, O]


def test_the_exchange_is_the_best_of_all() -> None:
    """Brute force over all exchanges of the test's elements that keep the counts."""
    from nqs.crystal.structures.elements import MENDELEEV

    kinds = ((SR, TI), (K, 41), (57, 13), (20, 14))
    train = [stretched(perovskite(4.0, a, b), 1 + 0.1 * i) for i, (a, b) in enumerate(kinds)]
    test = [perovskite(4.0, BA, 40)]
    (guesses,) = template_guesses(train, test, 8)
    costs = []
    for template in train:
        for a, b in ((BA, 40), (40, BA)):
            pairs = zip(template.numbers.tolist(), [a, b, O, O, O], strict=True)
            costs.append(sum(abs(MENDELEEV[x - 1] - MENDELEEV[y - 1]) for x, y in pairs))
    assert len(guesses) == 8
    best = int(np.argmin(costs))
    assert guesses[0].numbers.tolist()[:2] == [[BA, 40], [40, BA]][best % 2]
    assert stretch(guesses[0]) == pytest.approx(stretch(train[best // 2]))


def test_many_elements_do_not_explode() -> None:
    """Twelve kinds of one atom each have 479 001 600 exchanges."""
    rng = np.random.default_rng(0)
    one = Structure(np.full(3, 9.0), np.full(3, 90.0), np.arange(20, 32), rng.random((12, 3)))
    other = Structure(one.lengths, one.angles, np.arange(37, 49), one.positions)
    (guesses,) = template_guesses([one], [other], 2)
    assert [sorted(guess.numbers.tolist()) for guess in guesses] == [list(range(37, 49))] * 2


def test_constant_cell() -> None:
    train = [perovskite(3.8, SR, TI), perovskite(4.2, BA, TI)]
    target = perovskite(4.5, BA, 40)
    (guesses,) = perovskite_guesses(train, [target])
    assert len(guesses) == 2
    matcher = Matcher()
    reference = matcher.reduced(target)
    right, swapped = (matcher.rms(matcher.reduced(guess), reference) for guess in guesses)
    assert right < 1e-6 and np.isnan(swapped)
    assert_allclose(guesses[0].lengths, 4.0)


def test_a_hedge_matches_both_orders_badly() -> None:
    """Three of five atoms are a / 4 off, along x, y, z; the best shift takes off the mean,
    (1, 1, 1) / 20: mean square (3 / 16 - 5 x 3 / 400) / 5 = 0.03 in a^2, for both orders."""
    orders = [perovskite(4.0, BA, 40), perovskite(4.0, 40, BA)]
    matcher = Matcher()
    for (guess,), order in zip(hedged_guesses(orders, orders), orders, strict=True):
        rms = matcher.rms(matcher.reduced(guess), matcher.reduced(order))
        assert_allclose(rms, np.sqrt(0.03) * 5 ** (1 / 3), rtol=1e-6)


def test_what_passes_for_perovskites() -> None:
    cells = [perovskite(3.8, SR, TI), shaken(perovskite(4.2, BA, TI), 0.01, 0)]
    assert are_perovskites(cells)
    assert not are_perovskites([*cells, rock_salt()])
    assert not are_perovskites([])
