"""Templates: brute force over all known crystals and exchanges, volumes, what is left out, and what
shows them to a model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.testing import assert_allclose
from prototypes import caesium_chloride, perovskite, rock_salt

from nqs.crystal.datasets.data import longest_sequence, template_prompt
from nqs.crystal.datasets.examples import examples
from nqs.crystal.datasets.templates import Templates, exchanged
from nqs.crystal.structures.elements import MENDELEEV, formula_order
from nqs.crystal.structures.structure import Structure
from nqs.crystal.tokens import TOKENISERS, make_tokeniser

KNOWN = [record.structure for record in examples()[::5]]
WANTED: list[dict[int, int]] = [
    {11: 1, 17: 1}, {38: 1, 22: 1, 8: 3}, {30: 2, 16: 2}, {20: 1, 9: 2}, {3: 7, 8: 1},
]  # fmt: skip


def brute_force(
    known: list[Structure], wanted: Mapping[int, int], left_out: int | None
) -> list[float]:
    """The distances of all templates, ascending: every assignment of the wanted elements to the
    atoms of one element each that keeps the counts."""
    found = []
    for index, structure in enumerate(known):
        counts = structure.composition
        if index == left_out or sorted(counts.values()) != sorted(wanted.values()):
            continue
        for order in itertools.permutations(wanted):
            pairs = list(zip(counts, order, strict=True))
            if all(counts[old] == wanted[new] for old, new in pairs):
                found.append(
                    sum(counts[a] * abs(MENDELEEV[a - 1] - MENDELEEV[b - 1]) for a, b in pairs)
                )
    return sorted(found)


@pytest.mark.parametrize("n", [1, 4, 10_000])
def test_against_brute_force(n: int) -> None:
    templates = Templates(KNOWN)
    for wanted, row in zip(WANTED, templates.nearest(WANTED, n), strict=True):
        distances = brute_force(KNOWN, wanted, None)[:n]
        assert [exchange.distance for exchange in row] == distances
        for exchange in row:
            structure = exchanged(KNOWN[exchange.index], exchange)
            assert structure.composition == wanted
            moved = sum(
                abs(MENDELEEV[a - 1] - MENDELEEV[b - 1]) * KNOWN[exchange.index].composition[a]
                for a, b in exchange.elements.items()
            )
            assert moved == exchange.distance
            order = sorted(wanted, key=formula_order)
            assert [exchange.elements[z] for z in exchange.before] == order
    assert templates.nearest([{3: 7, 8: 1}], 3) == [[]]


def test_a_crystal_is_no_template_for_itself() -> None:
    own = [structure.composition for structure in KNOWN]
    with_itself = Templates(KNOWN).nearest(own, 1)
    assert all(row[0].distance == 0 for row in with_itself)
    for index, row in enumerate(Templates(KNOWN).nearest(own, 10_000, range(len(KNOWN)))):
        assert index not in {exchange.index for exchange in row}
        distances = brute_force(KNOWN, own[index], index)
        assert [exchange.distance for exchange in row] == distances


def test_equally_near_ones_come_in_the_order_of_the_known_ones() -> None:
    known = [rock_salt(4.2, 12, 8), rock_salt(4.3, 12, 8), rock_salt(4.1, 12, 8)]
    (row,) = Templates(known).nearest([{12: 4, 8: 4}], 3)
    assert [exchange.index for exchange in row] == [0, 1, 2]


def test_volumes_are_those_of_the_elements() -> None:
    """Cells whose volumes are sums over atoms: the exchanged one has the sum of its own; an element
    that does not occur is as large as the mean."""
    size = {11: 20.0, 19: 35.0, 17: 25.0, 35: 30.0}
    known = [
        caesium_chloride(float(np.cbrt(size[a] + size[b])), a, b)
        for a, b in ((11, 17), (19, 17), (11, 35), (11, 11))
    ]
    templates = Templates(known)
    assert_allclose(templates.volumes[[z - 1 for z in size]], list(size.values()), rtol=1e-6)
    assert templates.volumes[2] == pytest.approx(np.mean(list(size.values())))
    (row,) = templates.nearest([{19: 1, 35: 1}], 1)
    assert exchanged(known[row[0].index], row[0]).volume == pytest.approx(65.0)


@pytest.mark.parametrize("name", TOKENISERS.kinds)
def test_a_prompt_says_what_the_template_was_and_is(name: str) -> None:
    """Old elements, the exchanged crystal, eos; no longer than there is room for."""
    tokeniser = make_tokeniser(name, 8)
    known = perovskite(3.9, 38, 22) if name != "wyckoff" else KNOWN[-1]
    assert known.n_atoms == 5
    (row,) = Templates([known]).nearest([{19: 1, 12: 1, 9: 3}], 1)
    prompt = template_prompt(tokeniser, tokeniser.encode(known), row[0])
    before = [token for z in row[0].before for token in tokeniser.element_tokens(z)]
    assert list(prompt[: len(before)]) == before and prompt[-1] == tokeniser.eos
    assert prompt[len(before)] == tokeniser.eos
    structure, _ = tokeniser.decode([tokeniser.bos, *prompt[len(before) + 1 :]])
    assert structure.composition == {19: 1, 12: 1, 9: 3}
    assert structure.volume == pytest.approx(exchanged(known, row[0]).volume, rel=0.05)
    assert len(prompt) + tokeniser.max_length <= longest_sequence(tokeniser, 1)
    assert longest_sequence(tokeniser, 0) == tokeniser.max_length
