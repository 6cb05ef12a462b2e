"""Atoms kept apart by the grammar: against the shortest distance of each crystal built in full."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from prototypes import caesium_chloride
from test_grammar import walk

from nqs.crystal.structures.periodic_distances import shortest_distance
from nqs.crystal.structures.structure import cell_matrix
from nqs.crystal.tokens.kept_apart import KeptApart
from nqs.crystal.tokens.tokeniser import Conditions
from nqs.crystal.tokens.wyckoff import WyckoffTokeniser
from nqs.crystal.tokens.wyckoff_description import (
    Description,
    Orbit,
    cell_of,
    structure_of,
    table_of,
)

TOKENISER = WyckoffTokeniser(24)
RANK, OTHER = (0.98, 3), (3.44, 8)
CELLS = {2: ((405, 410), (80, 85, 75)), 36: ((405, 410), ()), 136: ((395,), ()),
         160: ((420,), ()), 166: ((430,), ()), 194: ((420,), ()), 216: ((), ())}  # fmt: skip


@pytest.mark.parametrize("group", CELLS)
def test_against_whole_crystals(group: int) -> None:
    """Every site with freedom, an orbit beside another that stands: each value of its last
    coordinate is allowed if and only if no two atoms of the crystal are closer, images included."""
    table, rng = table_of(group), np.random.default_rng(group)
    ratios, angles = CELLS[group]
    sites = [k for k, d in enumerate(table.dimensions) if d and table.multiplicities[k] <= 12]
    n_both = 0
    for site in sites[:4]:
        fixed = Orbit(RANK, 0, tuple(rng.integers(5, 50, table.dimensions[0]).tolist()))
        prefix = tuple(rng.integers(5, 50, table.dimensions[site] - 1).tolist())
        planned = Description(group, 90, ratios, angles, (fixed, Orbit(OTHER, site, ())))
        if not table.is_generic(0, fixed.free):
            continue
        distance = 1.3
        alone = structure_of(Description(group, 90, ratios, angles, (fixed,)))
        if shortest_distance(alone.matrix, alone.positions) < distance:
            continue
        standing = KeptApart(table, cell_matrix(*cell_of(planned)), distance)
        standing.add(fixed.position, fixed.free)
        found = standing.allowed(site, prefix)
        allowed = table.allowed(site, prefix)
        for value in np.flatnonzero(allowed)[::7].tolist():
            moved = Orbit(OTHER, site, (*prefix, value))
            if not table.is_generic(site, moved.free):
                continue
            crystal = structure_of(Description(group, 90, ratios, angles, (fixed, moved)))
            apart = shortest_distance(crystal.matrix, crystal.positions) >= distance
            assert found[value] == apart, (site, prefix, value)
        n_both += 0 < found[allowed].sum() < allowed.sum()
    assert n_both


def test_draws_are_apart() -> None:
    """Of 200 uniform draws of a composition in the group 1 many have atoms closer than 1 Angstrom;
    kept apart hardly one of those with room has: flat cells leave no choice."""
    conditions = Conditions({3: 4, 8: 8}, 1)
    close = {}
    for apart in (None, 1.0):
        generator = torch.Generator().manual_seed(0)
        grammar = TOKENISER.grammar(200, conditions, apart=apart)
        rows = walk(TOKENISER, grammar, 200, generator).tolist()
        crystals = [TOKENISER.decode(row)[0] for row in rows]
        assert all(crystal.composition == {3: 4, 8: 8} for crystal in crystals)
        roomy = [c for c in crystals if c.volume / c.n_atoms > 20 and c.lengths.min() > 2.5]
        assert len(roomy) > 30
        close[apart] = np.mean([shortest_distance(c.matrix, c.positions) < 1 for c in roomy])
    assert close[None] > 0.1 and close[1.0] < 0.03, close


def test_given_atoms_stand() -> None:
    """What is added to a partial crystal without symmetry keeps away from it, too."""
    partial = caesium_chloride(6.0)
    conditions = Conditions({11: 1, 17: 1, 8: 3}, 1)
    for row in walk(
        TOKENISER,
        TOKENISER.grammar(60, conditions, partial=partial, apart=1.0),
        60,
        torch.Generator().manual_seed(1),
    ).tolist():
        crystal, _ = TOKENISER.decode(row)
        assert shortest_distance(crystal.matrix, crystal.positions) >= 1.0
