"""Shortest periodic distances: brute force over many images is the slow twin."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from nqs.crystal.structures.periodic_distances import (
    elongation,
    nearest_images,
    obtuse_superbase,
    relevant_vectors,
    shortest_distance,
)

Floats = NDArray[np.float64]
SEEDS = st.integers(0, 10_000)


def brute_force(cell: Floats, positions: Floats, *, self_images: bool, reach: int) -> float:
    """Least distance over all images up to +-reach cells, atoms i <= j."""
    images = np.array(list(product(range(-reach, reach + 1), repeat=3)))
    shortest = np.inf
    for i in range(len(positions)):
        for j in range(i, len(positions)):
            if i == j and not self_images:
                continue
            shifts = images[images.any(axis=1)] if i == j else images
            vectors = (positions[j] - positions[i] + shifts) @ cell
            shortest = min(shortest, np.linalg.norm(vectors, axis=1).min())
    return float(shortest)


def plump_cell(rng: np.random.Generator) -> Floats:
    """Edges of 1 and neighbours that make large angles: a few images suffice."""
    while True:
        cell = rng.normal(size=(3, 3))
        cell /= np.linalg.norm(cell, axis=1)[:, None]
        if abs(np.linalg.det(cell)) > 0.4:
            return cell * rng.uniform(0.7, 1.4, size=(3, 1))


def skewing(rng: np.random.Generator, size: int) -> NDArray[np.int64]:
    """A whole-number matrix of determinant 1: another cell of the same lattice."""
    lower = np.tril(rng.integers(-size, size + 1, (3, 3)), -1) + np.eye(3, dtype=np.int64)
    upper = np.triu(rng.integers(-size, size + 1, (3, 3)), 1) + np.eye(3, dtype=np.int64)
    return lower @ upper


@given(seed=SEEDS, n_atoms=st.integers(1, 4), self_images=st.booleans())
def test_brute_force_agrees(seed: int, n_atoms: int, self_images: bool) -> None:
    rng = np.random.default_rng(seed)
    cell, positions = plump_cell(rng), rng.random((n_atoms, 3))
    exact = brute_force(cell, positions, self_images=self_images, reach=4)
    found = shortest_distance(cell, positions, self_images=self_images)
    assert_allclose(found, exact, rtol=1e-12)


@given(seed=SEEDS, skew=st.integers(1, 60))
def test_any_cell_of_the_lattice_gives_the_same(seed: int, skew: int) -> None:
    """Skewed to aspect ratios of 10^3 and more, where no number of images up to 10 would do."""
    rng = np.random.default_rng(seed)
    cell, positions = plump_cell(rng), rng.random((4, 3))
    other = skewing(rng, skew)
    moved = positions @ np.linalg.inv(other.astype(np.float64))
    for self_images in (False, True):
        plump = shortest_distance(cell, positions, self_images=self_images)
        skewed = shortest_distance(other @ cell, moved, self_images=self_images)
        assert_allclose(skewed, plump, rtol=1e-7)


@given(seed=SEEDS)
def test_superbase_is_obtuse_and_spans_the_lattice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cell = skewing(rng, 5) @ rng.normal(size=(3, 3))
    assume(abs(np.linalg.det(cell)) > 0.05)
    base = obtuse_superbase(cell)
    scale = np.square(base).sum()
    assert_allclose(base.sum(axis=0), 0, atol=1e-9 * np.sqrt(scale))
    products = base @ base.T
    assert products[~np.eye(4, dtype=bool)].max() <= 1e-9 * scale
    change = base[:3] @ np.linalg.inv(cell)
    assert_allclose(change, np.rint(change), atol=1e-6)
    assert_allclose(abs(np.linalg.det(change)), 1, atol=1e-6)


@given(seed=SEEDS)
def test_nearest_images_cannot_be_shortened(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cell = plump_cell(rng)
    differences = rng.uniform(-3, 3, (20, 3)) @ cell
    short = nearest_images(differences, relevant_vectors(cell))
    steps = (short - differences) @ np.linalg.inv(cell)
    assert_allclose(steps, np.rint(steps), atol=1e-9)  # moved by lattice vectors
    images = np.array(list(product(range(-5, 6), repeat=3))) @ cell
    exact = np.linalg.norm(short[:, None] + images, axis=2).min(axis=1)
    assert_allclose(np.linalg.norm(short, axis=1), exact, atol=1e-12)


def test_known_answers() -> None:
    cubic = 2.0 * np.eye(3)
    one = np.zeros((1, 3))
    assert shortest_distance(cubic, one) == 2.0
    assert shortest_distance(cubic, one, self_images=False) == np.inf
    centred = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
    assert_allclose(shortest_distance(cubic, centred), np.sqrt(3))
    face_centred = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) * 1.0
    assert_allclose(shortest_distance(face_centred, one), np.sqrt(2))
    across = np.array([[0.02, 0.5, 0.5], [0.98, 0.5, 0.5]])  # through the boundary
    assert_allclose(shortest_distance(cubic, across), 0.08)


@given(seed=SEEDS, skew=st.integers(0, 30))
def test_elongation_is_of_the_lattice(seed: int, skew: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = np.sort(rng.uniform(0.5, 30, 3))
    other = skewing(rng, skew) @ np.diag(lengths)
    assert_allclose(elongation(other), lengths[2] / np.prod(lengths) ** (1 / 3), rtol=1e-6)


@pytest.mark.parametrize("cell", [np.zeros((3, 3)), np.ones((3, 3)), np.full((3, 3), np.nan)])
def test_no_lattice(cell: Floats) -> None:
    with pytest.raises(ValueError, match="spans no lattice"):
        shortest_distance(cell, np.zeros((1, 3)))
