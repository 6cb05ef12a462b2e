"""Symmetrised states of a fixed number of 1 bits, with and without phases: every law at once."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hamiltonians.exact import basis
from hamiltonians.lattices.lattice import Chain, Kagome, Lattice, Positions, Square
from hamiltonians.lattices.symmetry_group import SymmetryGroup
from nqs.wavefunctions.symmetrised import Symmetrised
from tests.vmc.states import numbers
from tests.wavefunctions.systems import Spec, build

EXACT = {"rtol": 0.0, "atol": 1e-10}
CROSS = Positions([[0, 0], [1.5, 0], [-1.5, 0], [0, 1], [0, -1], [0, 2]])  # one mirror line


@dataclass(frozen=True)
class Case:
    lattice: Lattice
    patch: Spec
    group: SymmetryGroup
    n_up: int | None
    phase: bool


RING, RECTANGLE, TORUS = Chain(6, True), Square(2, 4), Square(2, 3, True)
FLIP = SymmetryGroup.spin_flip(6)
CASES = {
    "ring": Case(RING, "4", RING.space_group() * FLIP, 3, False),  # patches of 4 and 2
    "ring-phase": Case(RING, "4", RING.space_group() * FLIP, 3, True),
    "ring-all-phase": Case(RING, "4", RING.space_group(), None, True),
    "rectangle": Case(RECTANGLE, "2x3", RECTANGLE.point_group(), 3, False),
    "rectangle-phase": Case(
        RECTANGLE, "2x2", RECTANGLE.point_group() * SymmetryGroup.spin_flip(8), 4, True
    ),
    "torus-phase": Case(TORUS, "2x2", TORUS.translations(), 2, True),
    "kagome": Case(Kagome(3, 1), "2x1", Kagome(3, 1).point_group(), 4, False),
    "kagome-phase": Case(Kagome(3, 1), "1x1", Kagome(3, 1).point_group(), None, True),
    "positions-phase": Case(CROSS, "2", CROSS.point_group(), 2, True),
    "flip-phase": Case(Chain(6), "4", FLIP, 3, True),
}
every_case = pytest.mark.parametrize("name", CASES)
every_model = pytest.mark.parametrize("model", ["factored", "gru"])


def symmetrised(model: str, name: str) -> Symmetrised:
    case = CASES[name]
    base = build(model, case.lattice, case.patch, n_up=case.n_up, phase=case.phase)
    return Symmetrised(base, case.group)


def in_sector(name: str, configs: Tensor) -> Tensor:
    n_up = CASES[name].n_up
    return torch.ones(len(configs)).bool() if n_up is None else configs.sum(1) == n_up


def by_definition(psi: Symmetrised, configs: Tensor) -> tuple[Tensor, Tensor]:
    """|psi_sym|^2 and psi of the smallest image, (B,) each, one group element after another."""
    weights = torch.zeros(len(configs), dtype=torch.float64)
    least = configs
    for row, inverted in psi.symmetry:
        image = configs[:, row] ^ inverted
        weights += psi.base.log_psi(image).exp().abs().square() / psi.n_images
        least = torch.where((numbers(image) < numbers(least))[:, None], image, least)
    return weights, psi.base.log_psi(least).exp()


def patterns(n_sites: int) -> Tensor:
    """Exchanges of two sites, some single sites and larger patterns: into and out of a sector."""
    pairs = torch.combinations(torch.arange(n_sites))[::2]
    flips = torch.zeros(len(pairs), n_sites, dtype=torch.bool).scatter_(1, pairs, True)
    many = torch.rand(3, n_sites, generator=torch.Generator().manual_seed(1)) < 0.5
    many[:, 0] = True
    return torch.cat([flips, torch.eye(n_sites).bool()[::2], many]).unique(dim=0)


@every_model
@every_case
@torch.no_grad()
def test_normalised_average_of_the_sector(model: str, name: str) -> None:
    """Sum 1, nothing outside, the definition, and psi(g s) = psi(s)."""
    psi = symmetrised(model, name)
    configs = basis(psi.n_sites)
    log_psi = psi.log_psi(configs)
    assert log_psi.is_complex() == CASES[name].phase and not log_psi.isnan().any()
    inside = in_sector(name, configs)
    p = (2 * log_psi.real).exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-10)
    assert (p[inside] > 0).all() and (p[~inside] == 0).all()
    weights, least = by_definition(psi, configs)
    assert_close(p, weights, **EXACT)
    if CASES[name].phase:
        found, expected = log_psi.imag[inside], least.angle()[inside]
        ones = torch.ones(len(found), dtype=torch.float64)
        assert_close(torch.polar(ones, found), torch.polar(ones, expected), **EXACT)
        assert found.std() > 0.01  # phases that differ
    for row, inverted in psi.symmetry.generating_set():
        image = psi.log_psi(configs[:, row] ^ inverted)
        assert_close(image.exp(), log_psi.exp(), rtol=0, atol=1e-9)


@every_model
@every_case
@torch.no_grad()
def test_flips_are_brute_force(model: str, name: str) -> None:
    """From inside and outside of the sector; masked and in chunks too."""
    psi = symmetrised(model, name)
    configs, flips = basis(psi.n_sites), patterns(psi.n_sites)
    inside = in_sector(name, configs)
    configs = torch.cat([configs[inside][:: 1 + int(inside.sum()) // 6], configs[~inside][:2]])
    expected = psi.log_psi((configs[:, None] ^ flips).flatten(0, 1)).view(len(configs), -1)
    found = psi.log_psi_flipped(configs, flips)
    assert_close(found.real, expected.real, **EXACT)
    assert_close(found.exp(), expected.exp(), **EXACT)
    if CASES[name].n_up is not None:
        assert (found.real == -torch.inf).any() and (found.real > -torch.inf).any()
    needed = torch.rand(found.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    for max_rows in (40, 32_768):
        part = psi.log_psi_flipped(configs, flips, needed, max_rows=max_rows)
        assert_close(part[needed], found[needed], **EXACT)
        assert (part[~needed].real == -torch.inf).all()


@pytest.mark.parametrize("unique", [False, True])
@every_case
def test_samples(name: str, unique: bool, generator, assert_distribution) -> None:
    """Chi-square at the false-alarm rate of conftest.py; nothing outside is ever drawn."""
    psi = symmetrised("gru", name)
    samples = psi.sample(6_000, generator, unique=unique)
    assert in_sector(name, samples.configs).all() and samples.n_samples == 6_000
    counts = torch.zeros(2**psi.n_sites, dtype=torch.int64)
    counts.index_add_(0, numbers(samples.configs), samples.counts)
    with torch.no_grad():
        assert_distribution(counts, (2 * psi.log_psi(basis(psi.n_sites)).real).exp())
        assert_close(samples.log_psi.exp(), psi.log_psi(samples.configs).exp(), **EXACT)
