"""The lowest eigenstate where the diagonal is far wider than the flips, to full accuracy.

Lanczos' recursion rounds like eps ||H|| and needs ~ sqrt(||H|| / gap) steps: with repulsions of
10^5 flips or more neither its digits nor its end can be relied on. Here H = D + K, D diagonal and
K the flips, is never treated as a whole. An eigenstate has psi(s) = -(K psi)(s) / (D(s) - E), so
amplitudes where D is large are of the order |K| / D, and D psi is as harmless as K psi: vectors
that keep this form have residuals and Rayleigh quotients with errors of the order eps |K|, however
large D is. Two steps keep it:

    Davidson      the space spanned so far gains t = r / (D - min D + shift), r = H x - theta x;
                  the Ritz problem in it, whose entries differ by many orders of magnitude, is
                  solved as the inverse of M - sigma through Cholesky's factors, which is accurate
                  entry by entry
    relaxation    x(s) -= r(s) / (D(s) - theta) where D(s) - theta > 100 |K|: a step of the
                  equation above, which converges like 1/100 per step and does what the Ritz value
                  no longer sees, since it changes it by less than its own rounding

When the space is full it begins anew from the Ritz vector and the one before it: with three vectors
the locally optimal conjugate gradients of LOBPCG. Davidson, J. Comput. Phys. 17, 87 (1975);
Stathopoulos and Saad, ETNA 7, 163 (1998), for keeping the vector before; Demmel and Veselic, SIAM
J. Matrix Anal. Appl. 13, 1204 (1992), for the accuracy of Cholesky's factors of graded matrices.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from hamiltonians.exact.lanczos import LinearMap, orthogonalise

SPACE: Final = 3
"""Vectors of the full space: the Ritz vector, the one before it, the correction. More save few
steps (docs/decisions.md)."""

VECTORS: Final = 2 * SPACE + 3
"""Memory besides the states, in vectors: the space, its images, the diagonal, temporaries."""

MAX_STEPS: Final = 4_000
"""Products until the best state so far has to do."""

PATIENCE: Final = 300
"""Steps without a residual below 0.9 of the best one until rounding is taken for the reason."""

SLAVED: Final = 100.0
"""Amplitudes follow the others where D - theta is larger than this many |K|."""

CHUNK: Final = 2**16
"""Amplitudes handled at a time."""

EPS: Final = float(np.finfo(np.float64).eps)


def davidson(
    product: LinearMap,
    first: Tensor,
    lower: Tensor,
    tol: float,
    result: Tensor,
    *,
    flip_scale: float,
) -> None:
    """The lowest state orthogonal to `lower` (k, D) into `result` (D,), begun from `first` (D,).

    Ends when |H x - theta x| <= tol |K|, or at what rounding allows: the caller looks at the
    residual. flip_scale: |K|, the largest sum of the absolute flip elements of a configuration.
    `first` is used up.
    """
    diagonal = product.diagonal
    space = _Space(product, lower, flip_scale, first)
    best, best_step, last_relaxed = math.inf, 0, math.inf
    for step in range(MAX_STEPS):
        theta, weights = space.ritz()
        r = space.residual(theta, weights)  # (D,)
        size = float(r.norm())
        if size < 0.9 * best:
            best, best_step = size, step
        rounding = 4 * EPS * max(abs(theta), abs(space.lowest))
        if size <= max(tol * flip_scale, rounding) or step - best_step > PATIENCE:
            break
        slaved = diagonal - theta > SLAVED * flip_scale  # (D,)
        slaved_size = float(r[slaved].norm())
        if slaved_size > 0.5 * size and slaved_size < 0.5 * last_relaxed:
            last_relaxed = slaved_size
            steps = torch.where(slaved, r / (diagonal - theta), 0.0)
            space.begin(space.ritz_vector(weights).sub_(steps))
        elif not space.extend(theta, weights):
            break
    result.copy_(space.ritz_vector(weights))
    orthogonalise(result, lower)
    result /= result.norm()


class _Space:
    """n <= SPACE orthonormal vectors, their images under H and the Ritz matrix between them."""

    def __init__(self, product: LinearMap, lower: Tensor, flip_scale: float, first: Tensor) -> None:
        self.product, self.lower, self.flip_scale = product, lower, flip_scale
        self.lowest = float(product.diagonal.min())
        self.vectors = first.new_empty((SPACE, len(first)))  # (SPACE, D)
        self.images = torch.empty_like(self.vectors)  # (SPACE, D)
        self.matrix = torch.zeros((SPACE, SPACE), dtype=first.dtype)  # on the CPU
        start = first / (product.diagonal - self.lowest + flip_scale)  # (D,)
        before = float(start.norm())
        orthogonalise(start, lower)
        self.begin(start if float(start.norm()) > 1e-6 * before else first)

    def begin(self, vector: Tensor) -> None:
        """The space of one vector (D,)."""
        orthogonalise(vector, self.lower)
        self.vectors[0] = vector / vector.norm()
        self.n = 0
        self.before: Tensor | None = None  # weights (n,) of the Ritz vector one step ago
        self._take_in()

    def _take_in(self) -> None:
        """The vector in place n becomes part of the space."""
        n = self.n
        self.images[n].zero_()
        self.product.add(self.vectors[n], self.images[n])
        column = (self.vectors[: n + 1].conj() @ self.images[n]).cpu()  # (n + 1,)
        self.matrix[: n + 1, n] = column
        self.matrix[n, : n + 1] = column.conj()
        self.matrix[n, n] = column[n].real
        self.n = n + 1

    def ritz(self) -> tuple[float, Tensor]:
        """The lowest Ritz value and its weights (n,), norm 1; makes room for a vector.

        From the largest 1 / (theta - sigma) of w = (theta - sigma)^-1 (M - sigma) w. sigma is below
        all levels by Gershgorin's theorem, with room for rounding.
        """
        identity = np.eye(self.n)
        sigma = self.lowest - 2 * self.flip_scale - 1e-10 * abs(self.lowest)
        shifted = self.matrix[: self.n, : self.n].numpy() - sigma * identity
        inverse, columns = scipy.linalg.eigh(
            identity, shifted, subset_by_index=[self.n - 1, self.n - 1]
        )  # (1,), (n, 1)
        weights = torch.from_numpy(columns[:, 0] / np.linalg.norm(columns[:, 0]))
        if self.n == len(self.vectors):
            weights = self._restart(weights)
        return sigma + 1 / float(inverse[0]), weights

    def _restart(self, weights: Tensor) -> Tensor:
        """The space of the Ritz vector and what the one before adds to it; the weights in it."""
        rows = [weights]
        if self.before is not None:
            other = torch.zeros_like(weights)
            other[: len(self.before)] = self.before
            for _ in range(2):
                other -= torch.vdot(weights, other) * weights
            if float(other.norm()) > 4 * EPS:
                rows.append(other / other.norm())
        mixing = torch.stack(rows)  # (1 or 2, n)
        self.n, n = len(mixing), self.n
        for table in (self.vectors, self.images):
            there = mixing.to(table.device)
            for columns in table.split(CHUNK, dim=1):
                columns[: self.n] = there @ columns[:n]
        small = mixing.conj() @ self.matrix[:n, :n] @ mixing.T
        self.matrix[: self.n, : self.n] = (small + small.mH) / 2
        weights = torch.zeros(self.n, dtype=weights.dtype)
        weights[0] = 1.0
        return weights

    def ritz_vector(self, weights: Tensor) -> Tensor:
        """x (D,)."""
        return self.vectors[: self.n].T @ weights.to(self.vectors.device)

    def residual(self, theta: float, weights: Tensor) -> Tensor:
        """r = H x - theta x (D,), orthogonal to the lower states: a view of the next free place."""
        r, weights = self.vectors[self.n], weights.to(self.vectors.device)
        torch.mv(self.images[: self.n].T, weights, out=r)
        r.addmv_(self.vectors[: self.n].T, weights, alpha=-theta)
        orthogonalise(r, self.lower)
        return r

    def extend(self, theta: float, weights: Tensor) -> bool:
        """Takes the preconditioned residual in; False where it adds nothing to the space."""
        shift = max(self.lowest - theta, 0.1 * self.flip_scale)
        t = self.vectors[self.n].div_(self.product.diagonal - self.lowest + shift)
        before = float(t.norm())
        for _ in range(2):
            orthogonalise(t, self.lower)
            orthogonalise(t, self.vectors[: self.n])
        after = float(t.norm())
        if not after > 1e-13 * before:
            return False
        t /= after
        self.before = weights
        self._take_in()
        return True
