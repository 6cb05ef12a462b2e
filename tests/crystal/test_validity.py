"""Structural and compositional validity: hand-made cases, pymatgen and SMACT itself as oracles."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nqs.crystal.metrics.validity import (
    OXIDATION_TABLES,
    compositionally_valid,
    structurally_valid,
    validity,
)
from nqs.crystal.structures.elements import symbol
from nqs.crystal.structures.structure import Structure
from nqs.errors import InputError

pytest.importorskip("smact")

NA, CL, FE, O, AL, NI, HE, PM = 11, 17, 26, 8, 13, 28, 2, 61


def cubic(a: float, numbers: list[int], positions: list[list[float]]) -> Structure:
    return Structure(np.full(3, a), np.full(3, 90.0), np.array(numbers), np.array(positions))


ROCK_SALT = cubic(2.8, [NA, CL], [[0, 0, 0], [0.5, 0.5, 0.5]])  # the caesium chloride cell


def test_self_images_count_unless_switched_off() -> None:
    tight = cubic(0.45, [FE], [[0, 0, 0]])
    assert tight.volume < 0.1 and not structurally_valid(tight, self_images=False)
    needle = Structure(
        np.array([0.45, 3.0, 3.0]), np.full(3, 90.0), np.array([FE]), np.zeros((1, 3))
    )
    assert not structurally_valid(needle)
    assert structurally_valid(needle, self_images=False)  # CDVAE's definition


@pytest.mark.parametrize(("gap", "good"), [(0.499, False), (0.501, True)])
def test_distance_between_two_atoms(gap: float, good: bool) -> None:
    for x in (gap / 4.0, 1 - gap / 4.0):  # inside the cell, and through its boundary
        pair = cubic(4.0, [NA, CL], [[0, 0, 0], [x, 0, 0]])
        for self_images in (False, True):
            assert structurally_valid(pair, self_images=self_images) is good


def test_smallest_volume() -> None:
    flat = Structure(
        np.array([0.6, 0.6, 0.6]), np.array([25.0, 25.0, 40.0]), np.array([FE]), np.zeros((1, 3))
    )
    assert flat.volume < 0.1
    assert not structurally_valid(flat, self_images=False)


@given(seed=st.integers(0, 10_000))
def test_pymatgen_measures_the_same(seed: int) -> None:
    """CDVAE's verdict is pymatgen's distance matrix against 0.5 Angstrom."""
    pymatgen = pytest.importorskip("pymatgen.core")
    rng = np.random.default_rng(seed)
    lengths, angles = rng.uniform(1.0, 2.5, 3), rng.uniform(60, 110, 3)
    positions = rng.random((3, 3))
    ours = Structure(lengths, angles, np.array([NA, CL, O]), positions)
    lattice = pymatgen.Lattice.from_parameters(*lengths, *angles)
    distances = lattice.get_all_distances(positions, positions)
    smallest = distances[np.triu_indices(3, k=1)].min()
    assert structurally_valid(ours, self_images=False) is bool(smallest >= 0.5)


@pytest.mark.parametrize(
    ("composition", "good"),
    [
        ({NA: 1, CL: 1}, True),
        ({NA: 4, CL: 4}, True),  # reduced first
        ({NA: 1, CL: 2}, False),
        ({FE: 2, O: 3}, True),
        ({FE: 3, O: 4}, False),  # magnetite has two kinds of iron: SMACT gives an element one state
        ({AL: 1, NI: 3}, True),  # an alloy
        ({HE: 1}, True),  # a single element
        ({HE: 1, O: 1}, False),  # no oxidation state
        ({PM: 2, O: 3}, True),  # no electronegativity: not held against it
        ({PM: 1, O: 7}, False),  # but not neutral
        ({110: 1, O: 1}, False),  # unknown to SMACT
    ],
)
def test_known_compositions(composition: dict[int, int], good: bool) -> None:
    assert compositionally_valid(composition) is good


def test_cations_must_be_less_electronegative() -> None:
    """OF2 is neutral as O(+2) F(-1); FO2 only with a cation of fluorine, the wrong way round."""
    assert compositionally_valid({8: 1, 9: 2})
    assert not compositionally_valid({8: 2, 9: 1})


KNOWN = st.integers(1, 100).filter(lambda number: number not in (2, 10, 18, 61, 86))
"""Elements with an electronegativity: SMACT refuses the others, CDVAE does not."""


@given(
    composition=st.dictionaries(KNOWN, st.integers(1, 5), min_size=1, max_size=4),
    table=st.sampled_from(sorted(OXIDATION_TABLES)),
)
def test_smact_agrees(composition: dict[int, int], table: str) -> None:
    """SMACT's own screening, which enumerates all states, is the slow twin."""
    from smact.screening import smact_validity

    formula = "".join(f"{symbol(number)}{count}" for number, count in composition.items())
    name = {"pymatgen": "pymatgen_sp"}.get(table, table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact = smact_validity(formula, oxidation_states_set=name)
    assert compositionally_valid(composition, table) is exact


def test_many_elements_take_no_time() -> None:
    """40 elements with about 4 states each: enumeration would try 4^40 of them."""
    start = time.perf_counter()
    compositionally_valid({number: 1 + number % 7 for number in range(19, 59) if number != 36})
    assert time.perf_counter() - start < 5


def test_what_is_no_crystal_is_invalid_twice() -> None:
    verdict = validity([None, ROCK_SALT, cubic(4.0, [NA, CL], [[0, 0, 0], [0.01, 0, 0]])])
    assert verdict.structural.tolist() == [False, True, False]
    assert verdict.compositional.tolist() == [False, True, True]
    assert verdict.both.tolist() == [False, True, False]
    assert verdict.oxidation_states == "smact14"


def test_unknown_table() -> None:
    with pytest.raises(InputError, match=r"oxidation_states=smact15.*did you mean smact14"):
        compositionally_valid({NA: 1, CL: 1}, "smact15")
