"""Distances between atoms of a crystal, exact for any cell however skewed.

The nearest image of an atom is a closest-vector problem of the lattice. Selling's reduction gives
an obtuse superbase b0 + b1 + b2 + b3 = 0, b_i . b_j <= 0; the Voronoi-relevant vectors of the
lattice are then among the 14 sums over proper subsets of it (Conway & Sloane, Proc. R. Soc. A 436,
55 (1992)). A difference is the shortest of its class if and only if subtracting none of the 14
shortens it, and the shortest lattice vector is one of them: no number of images has to be guessed.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SUBSETS = np.array(
    [
        [float(i in chosen) for i in range(4)]
        for size in (1, 2, 3)
        for chosen in combinations(range(4), size)
    ]
)
"""(14, 4): the proper subsets of a superbase; together with each vector comes its negative."""

MAX_STEPS = 10_000
"""Reductions and descents end long before: each step shortens something. Not a setting."""

TOLERANCE = 1e-12
"""Relative to squared lengths: what counts as shorter, against cycles by rounding."""

FLAT = 1e-3
"""Least singular value of unit vectors that count as independent; reduced ones have more."""


def obtuse_superbase(cell: Floats) -> Floats:
    """(4, 3) vectors that sum to 0, with no acute pair; the first three span the lattice of the
    cell (3, 3), rows its vectors.

    Euclid-like size reduction first, logarithmic in the skewness, then Selling's steps. Raises
    ValueError for a cell that spans no lattice.
    """
    base = _size_reduced(np.array(cell, dtype=np.float64))
    base = np.vstack([base, -base.sum(axis=0)])  # (4, 3)
    scale = np.square(base).sum()
    for _ in range(MAX_STEPS):
        products = base @ base.T
        np.fill_diagonal(products, -np.inf)
        i, j = np.unravel_index(np.argmax(products), products.shape)
        if products[i, j] <= TOLERANCE * scale:
            return base
        others = [k for k in range(4) if k not in (i, j)]
        base[others] += base[i]
        base[i] *= -1
    raise ValueError(f"the cell {np.round(cell, 4).tolist()} spans no lattice")


def _size_reduced(base: Floats) -> Floats:
    """The same lattice with |b_i . b_j| <= |b_j|^2 / 2 for every pair."""
    for _ in range(MAX_STEPS):
        products = base @ base.T
        squares = np.diag(products)
        if not (np.isfinite(products).all() and squares.all()):
            break
        multiples = np.rint(products / squares)  # of b_j in b_i
        np.fill_diagonal(multiples, 0)
        gains = 2 * multiples * products - multiples**2 * squares  # |b_i|^2 lost
        i, j = np.unravel_index(np.argmax(gains), gains.shape)
        if gains[i, j] <= TOLERANCE * squares[i]:
            return base
        base[i] -= multiples[i, j] * base[j]
    raise ValueError(f"the cell {np.round(base, 4).tolist()} spans no lattice")


def relevant_vectors(cell: Floats) -> Floats:
    """(14, 3): all Voronoi-relevant lattice vectors, and perhaps some that are not."""
    return SUBSETS @ obtuse_superbase(cell)


def elongation(cell: Floats) -> float:
    """Longest of the three shortest independent lattice vectors, in V^(1/3): 1 for a cube."""
    vectors = relevant_vectors(cell)
    vectors = vectors[np.argsort(np.square(vectors).sum(axis=1), kind="stable")]
    chosen = vectors[:1]
    for vector in vectors[1:]:
        grown = np.vstack([chosen, vector])
        spread = np.linalg.svd(grown / np.linalg.norm(grown, axis=1)[:, None], compute_uv=False)
        if spread[-1] > FLAT:
            chosen = grown
        if len(chosen) == 3:
            break
    volume = abs(np.linalg.det(cell))
    return float(np.linalg.norm(chosen[-1]) / volume ** (1 / 3))


def nearest_images(differences: Floats, vectors: Floats) -> Floats:
    """Differences (P, 3) moved by lattice vectors to the shortest of their class; `vectors` are the
    lattice's relevant ones (14, 3).

    Greedy descent: from within one cell at most three steps (McKilliam, Grant & Clarkson 2014).
    """
    short = differences.copy()
    squares = np.square(vectors).sum(axis=1)  # (14,)
    margin = TOLERANCE * squares.max()
    for _ in range(MAX_STEPS):
        changes = squares - 2 * short @ vectors.T  # (P, 14): of |d|^2 when the vector is taken off
        best = changes.argmin(axis=1)
        shorter = changes[np.arange(len(short)), best] < -margin
        if not shorter.any():
            return short
        short[shorter] -= vectors[best[shorter]]
    raise AssertionError("the descent to the nearest image did not end")


def shortest_distance(cell: Floats, positions: Floats, *, self_images: bool = True) -> float:
    """Smallest distance between two atoms, in the cell's unit; inf where there is no pair.

    Args:
        cell: (3, 3), rows the cell vectors.
        positions: (A, 3) fractional.
        self_images: an atom and its own periodic images count as pairs.

    Raises ValueError for a cell that spans no lattice.
    """
    vectors = relevant_vectors(cell)
    shortest = np.sqrt(np.square(vectors).sum(axis=1).min()) if self_images else np.inf
    first, second = np.triu_indices(len(positions), k=1)
    if not len(first):
        return float(shortest)
    reduced = vectors[:3]  # three of the superbase
    differences = (positions[second] - positions[first]) @ cell @ np.linalg.inv(reduced)
    differences -= np.rint(differences)  # (A(A-1)/2, 3) fractional in the reduced cell
    pairs = nearest_images(differences @ reduced, vectors)  # (A(A-1)/2, 3)
    return float(min(shortest, np.sqrt(np.square(pairs).sum(axis=1).min())))
