"""Fingerprints against matminer's numbers, coverage against loops and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from prototypes import caesium_chloride, perovskite, rock_salt, rock_salt_primitive

from nqs.crystal.metrics import coverage as module
from nqs.crystal.metrics.coverage import (
    CUTOFFS,
    DEVIATIONS,
    MEANS,
    Cutoffs,
    Fingerprints,
    coverage,
    diversity,
    fingerprints,
)
from nqs.crystal.metrics.fingerprints import (
    COMPOSITION_SIZE,
    PROPERTIES,
    STRUCTURE_SIZE,
    composition_fingerprint,
    structure_fingerprint,
)
from nqs.crystal.structures.structure import Structure

pytest.importorskip("pymatgen")
pytest.importorskip("smact")
pytest.importorskip("spglib")

TRICLINIC = Structure(
    np.array([3.2, 4.1, 5.3]),
    np.array([75.0, 95.0, 110.0]),
    np.array([22, 8, 8, 20]),
    np.array([[0, 0, 0], [0.5, 0.1, 0.3], [0.1, 0.6, 0.2], [0.55, 0.45, 0.7]]),
)

MATMINER = """
0.2628 0.2628 0.1271 0.0434 0.0391 0.0279 0.0127 0.0020 0.0723 0.0276
0.0161 0.0316 0.2055 0.1006 0.0669 0.0922 0.1288 0.1285 0.0579 0.0211
0.0239 0.0292 0.0840 0.0294 0.0308 0.0409 0.0521 0.0208 0.0222 0.0802
0.0012 0.0304 0.0050 0.0018 0.0012 0.0010 0.0029 0.0006 0.0008 0.0010
0.0409 0.0094 0.0092 0.0118 0.0083 0.0083 0.0016 0.0014 0.0022 0
0.0006 0.0003 0 0 0 0 0 0 0 0 0
"""
"""Site average for TRICLINIC: matminer 0.10.1, CrystalNNFingerprint.from_preset("ops")."""

MATMINER_FE2O3 = {
    "Number": [8, 26, 18, 15.2, 8.64, 8],
    "MendeleevNumber": [55, 87, 32, 74.2, 15.36, 87],
    "MeltingT": [54.8, 1811, 1756.2, 757.28, 842.976, 54.8],
    "Electronegativity": [1.83, 3.44, 1.61, 2.796, 0.7728, 3.44],
    "NdUnfilled": [0, 4, 4, 1.6, 1.92, 0],
    "GSmagmom": [0, 2.1107, 2.1107, 0.8443, 1.0131, 0],
    "SpaceGroupNumber": [12, 229, 217, 98.8, 104.16, 12],
}
"""Likewise, ElementProperty.from_preset("magpie") for Fe2O3."""


def test_matminer_agrees_on_structures() -> None:
    ours = structure_fingerprint(TRICLINIC)
    assert ours is not None and ours.shape == (STRUCTURE_SIZE,) == (61,)
    assert_allclose(ours, np.array(MATMINER.split(), dtype=float), atol=6e-5)


def test_matminer_agrees_on_compositions() -> None:
    ours = composition_fingerprint({26: 2, 8: 3})
    assert ours is not None and ours.shape == (COMPOSITION_SIZE,) == (132,)
    table = dict(zip(PROPERTIES, ours.reshape(22, 6), strict=True))
    for name, values in MATMINER_FE2O3.items():
        assert_allclose(table[name], values, rtol=1e-4, err_msg=name)
    doubled = composition_fingerprint({8: 6, 26: 4})
    assert doubled is not None
    assert_allclose(doubled, ours)


@pytest.mark.parametrize("crystal", [rock_salt(), perovskite(3.9, 38, 22), TRICLINIC])
def test_orbits_stand_for_all_sites(crystal: Structure) -> None:
    fast = structure_fingerprint(crystal)
    slow = structure_fingerprint(crystal, symmetry=False)
    assert fast is not None and slow is not None
    assert_allclose(fast, slow, atol=1e-3)


def test_a_fingerprint_belongs_to_the_crystal_not_the_cell() -> None:
    whole, primitive = (
        structure_fingerprint(rock_salt()),
        structure_fingerprint(rock_salt_primitive()),
    )
    assert whole is not None and primitive is not None
    assert_allclose(whole, primitive, atol=1e-6)


def test_rock_salt_is_octahedral() -> None:
    """All weight on coordination 6, its octahedral order parameter 1."""
    print_ = structure_fingerprint(rock_salt())
    assert print_ is not None
    position = (1 + 1) + (1 + 5) + (1 + 3) + (1 + 5) + (1 + 3)
    assert_allclose(print_[position], 1, atol=1e-6)
    assert_allclose(print_[position + 2], 1, atol=1e-3)  # planar, octahedral, pyramidal


def test_without_fingerprints() -> None:
    assert composition_fingerprint({103: 1, 8: 1}) is None
    prints = fingerprints([None, rock_salt(cation=103), rock_salt()])
    assert prints.complete.tolist() == [False, False, True]


def test_a_set_covers_itself() -> None:
    prints = fingerprints([rock_salt(), caesium_chloride(), perovskite(3.9, 38, 22)])
    found = coverage(prints, prints, CUTOFFS["perov_5"])
    assert (found.recall, found.precision) == (1, 1)
    assert found.structure_recall == found.composition_precision == 0
    part = coverage(prints.chosen(np.array([0])), prints, CUTOFFS["perov_5"])
    assert part.precision == 1 and part.recall < 1


def random_prints(rng: np.random.Generator, n: int) -> Fingerprints:
    """Near integer points, some missing."""
    structures = rng.integers(0, 3, (n, 4)) + rng.normal(scale=0.05, size=(n, 4))
    compositions = rng.integers(0, 2, (n, 3)) * 10.0
    structures[rng.random(n) < 0.2] = np.nan
    return Fingerprints(structures, compositions)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), m=st.integers(1, 12))
def test_loops_agree(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    made, test = random_prints(rng, n), random_prints(rng, m)
    cut = Cutoffs(1.2, 5.0)
    rows = [i for i in range(n) if made.complete[i]]
    columns = [j for j in range(m) if test.complete[j]]
    found = coverage(made, test, cut)
    if not rows or not columns:
        assert found.recall == found.precision == 0 and math.isnan(found.structure_recall)
        return
    s = np.array(
        [[math.dist(made.structures[i], test.structures[j]) for j in columns] for i in rows]
    )
    c = np.array(
        [[math.dist(made.compositions[i], test.compositions[j]) for j in columns] for i in rows]
    )
    recall = np.mean((s.min(axis=0) <= 1.2) & (c.min(axis=0) <= 5.0))
    precision = np.sum((s.min(axis=1) <= 1.2) & (c.min(axis=1) <= 5.0)) / n
    assert_allclose((found.recall, found.precision), (recall, precision))
    assert_allclose(found.structure_recall, s.min(axis=0).mean())
    assert_allclose(found.structure_precision, s.min(axis=1).mean())
    assert_allclose(found.composition_recall, c.min(axis=0).mean())
    assert_allclose(found.composition_precision, c.min(axis=1).mean())


def test_chunks_do_not_change_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    made, test = random_prints(rng, 23), random_prints(rng, 17)
    whole = coverage(made, test, Cutoffs(1.0, 5.0))
    monkeypatch.setattr(module, "ROWS", 4)
    assert coverage(made, test, Cutoffs(1.0, 5.0)) == whole


def test_diversity_by_hand() -> None:
    prints = Fingerprints(np.array([[0.0, 0], [3, 4], [0, 0]]), np.array([[1.0], [1], [4]]))
    assert_allclose(diversity(prints), (10 / 3, 2))
    assert np.isnan(diversity(prints.chosen(np.array([0])))).all()


def test_scale() -> None:
    """CDVAE's constants: the mean atomic numbers of its data, positive deviations."""
    assert MEANS.shape == DEVIATIONS.shape == (132,)
    assert_allclose(MEANS[:6], [21.194, 58.202, 37.008, 36.527, 13.351, 29.469])
    assert_allclose(DEVIATIONS[-6:], [80.061, 21.346, 80.165, 52.585, 35.408, 85.980], rtol=2e-5)
    assert (DEVIATIONS > 0).all()
