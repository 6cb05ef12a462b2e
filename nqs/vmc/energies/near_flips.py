"""Local energies from near patches, corrected without bias by a few exact flips.

With cheap approximate ratios r~_g (nqs.wavefunctions.nearby) of all G flips and exact ones r_g of
a uniformly random subset M of m flips, drawn for each configuration,

    E(s, M) = H_ss + sum_g H_g r~_g + (G / m) sum_{g in M} H_g (r_g - r~_g)

has the mean E_loc(s) over M, whatever r~ is: a control variate. It adds the variance

    (G^2 / m) (1 - m / G) Var_g[H_g (r_g - r~_g)]

of sampling without replacement, which is estimated from the subset itself.

Draws around |psi|^2 (proposal.py) need p(s xor f_g) / p(s) of every flip for their weights,
and an approximate density would bias every average. But the subset can be part of what is drawn. A
draw that is moved takes its flip from its own subset, so that

    q(s | M) = (1 - eps) p(s) + eps / m sum_{g in M} [p(s xor f_g) if g acts on s, else p(s)]

holds for each M, itself uniform. Weighted by p(s) / q(s | M), for which the exact ratios in M are
enough, s and M are distributed as p(s) and independent of each other: averages of E(s, M) and of
anything else are those of p(s), with no approximation in the weights, which stay <= 1 / (1 - eps).
What is lost: a flip to a far larger amplitude lowers the weight only where it is in M.

The update is nonlinear in E(s, M) where the optimizer damps it (`optimizer.implicit`), and there
noise is a bias of second order. Rows with one configuration and different M count as different.

Letters: U rows, G flips, m of them exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from nqs.vmc.energies.estimates import Estimates
from nqs.vmc.energies.proposal import LEAST_IMPORTANCE, at_least, importance
from nqs.vmc.ranks import ALONE, Ranks
from nqs.vmc.residual import Rows, residuals
from nqs.wavefunctions.wavefunction import Samples, Wavefunction

EXACT_FRACTION = 0.125
"""On trained 12x12 and 16x16 Rydberg arrays the exact flips then cost what the near patches do, and
the variance grows by 8 and 28 %."""


@dataclass(frozen=True)
class LocalFlips:
    """How far ratios look, and how many are exact.

    Attributes:
        radius: > 0, in units of the smallest distance of two patches.
        exact_fraction: m / G, in (0, 1].
    """

    radius: float
    exact_fraction: float

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise ValueError(f"radius={self.radius} must be > 0")
        if not 0 < self.exact_fraction <= 1:
            raise ValueError(f"exact_fraction={self.exact_fraction} must be > 0 and <= 1")

    def n_exact(self, n_flips: int) -> int:
        """m, at least 2 so that the added variance is known."""
        return min(n_flips, max(2, math.ceil(self.exact_fraction * n_flips)))


@torch.no_grad()
def draw_locally(
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    n_samples: int,
    fraction: float,
    local: LocalFlips,
    generator: torch.Generator,
    *,
    max_rows: int = 32_768,
    ranks: Ranks = ALONE,
) -> Estimates:
    """n_samples draws of q(s | M) and their E(s, M); see this file and `draw_around`.

    fraction: eps in [0, 1); 0 samples |psi|^2 itself. Each rank works on its share of the draws,
    all return all of them. Raises ValueError for a fraction outside, TypeError for a wavefunction
    without ratios of near patches.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"flip_fraction={fraction} must be in [0, 1)")
    own = wavefunction.sample(ranks.shares(n_samples)[ranks.rank], generator, unique=True)
    own, subsets = _moved(wavefunction, hamiltonian, own, fraction, local, generator)
    e_loc, noise, weights, outside = _estimates(
        wavefunction, hamiltonian, own, subsets, fraction, local.radius, max_rows
    )
    columns = (own.configs, own.counts, own.log_psi, weights, e_loc, noise)
    configs, counts, log_psi, weights, e_loc, noise = map(ranks.gathered, columns)
    kept = (weights > LEAST_IMPORTANCE).nonzero().squeeze(1)
    outside = ranks.sum(outside) / (weights[kept] @ counts[kept].to(weights))
    rows, counts = at_least(ranks.size, counts[kept])
    rows = kept[rows]
    samples = Samples(configs[rows], counts, log_psi[rows], weights[rows] if fraction else None)
    return Estimates(samples, e_loc[rows], noise[rows], float(outside))


def _moved(
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    samples: Samples,
    fraction: float,
    local: LocalFlips,
    generator: torch.Generator,
) -> tuple[Samples, Tensor]:
    """The draws after some of them have moved, each with its subset (U, m) of the flips."""
    counts, flips = samples.counts, hamiltonian.flips
    chance = torch.full(counts.shape, fraction, dtype=torch.float64, device=counts.device)
    moved = torch.binomial(counts.to(torch.float64), chance, generator=generator).to(torch.int64)
    stay = (counts > moved).nonzero().squeeze(1)
    rows = torch.arange(len(moved), device=moved.device).repeat_interleave(moved)
    n_exact = local.n_exact(len(flips))
    subsets = random_subsets(len(stay) + len(rows), len(flips), n_exact, generator, counts.device)
    choice = subsets[len(stay) :, 0]  # uniform among the flips, and one of its row's subset
    old = samples.configs[rows]
    acts = hamiltonian.off_diagonal(old).gather(1, choice[:, None]) != 0  # (R, 1)
    new = old ^ (flips[choice] & acts)
    log_new = wavefunction.log_psi(new) if len(new) else samples.log_psi[rows]
    return Samples(
        torch.cat([samples.configs[stay], new]),
        torch.cat([(counts - moved)[stay], torch.ones_like(rows)]),
        torch.cat([samples.log_psi[stay], log_new]),
    ), subsets


def random_subsets(
    n_rows: int, n_flips: int, n_exact: int, generator: torch.Generator, device: torch.device
) -> Tensor:
    """(n_rows, n_exact) int64: distinct flips in random order, uniform and independent by row."""
    keys = torch.rand(n_rows, n_flips, generator=generator, device=device)
    return keys.argsort(1)[:, :n_exact]


def _estimates(
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    samples: Samples,
    subsets: Tensor,
    fraction: float,
    radius: float,
    max_rows: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """E(s, M), its noise and p(s) / q(s | M), (U,) each, for samples with subsets (U, m); and the
    sum of counts times |<s|H|psi>|^2 / q(s) over the rows of no weight, a number, where q(s) is the
    mean of q(s | M) over M and amplitudes of flips outside M are those of near patches."""
    configs, flips = samples.configs, hamiltonian.flips
    elements = hamiltonian.off_diagonal(configs)  # (U, G)
    chosen = torch.zeros(elements.shape, dtype=torch.bool, device=configs.device)
    chosen.scatter_(1, subsets, True)
    log_flipped = wavefunction.log_psi_flipped(
        configs, flips, chosen & (elements != 0), max_rows=max_rows
    )
    exact = (log_flipped - samples.log_psi[:, None]).gather(1, subsets)  # (U, m)
    near = wavefunction.log_ratios_nearby(configs, flips, radius, max_rows=max_rows)
    in_subset = elements.gather(1, subsets)
    e_off, noise = combined(terms(elements, near), terms(in_subset, exact), subsets)
    weights = importance(in_subset, exact, fraction)
    out = (~(weights > LEAST_IMPORTANCE)).nonzero().squeeze(1)
    mixed = near[out].scatter(1, subsets[out], exact[out])  # exact where they are known
    rows = Rows(
        configs[out],
        elements[out],
        mixed + samples.log_psi[out, None],
        samples.log_psi[out],
    )
    found = residuals(hamiltonian, rows, 0.0, 1.0, 1 - fraction, fraction)
    outside = samples.counts[out].to(torch.float64) @ (found.real + found.imaginary)
    return hamiltonian.diagonal(configs) + e_off, noise, weights, outside


def terms(elements: Tensor, log_ratios: Tensor) -> Tensor:
    """H_g r_g, 0 where H_g is; the real part for real psi."""
    if not log_ratios.is_complex():
        elements = elements.real
    return torch.where(elements == 0, 0.0, elements * log_ratios.exp())


def combined(approximate: Tensor, exact: Tensor, subsets: Tensor) -> tuple[Tensor, Tensor]:
    """The off-diagonal sum without bias, and the variance that the choice of subset gives it.

    approximate (U, G): H_g r~_g of all flips; exact (U, m): H_g r_g of those of subsets (U, m).
    Both results (U,). The variance is itself unbiased; it is 0 for m = G.
    """
    n_flips, n_exact = approximate.shape[1], exact.shape[1]
    residual = exact - approximate.gather(1, subsets)  # (U, m)
    e_off = approximate.sum(1) + n_flips * residual.mean(1)
    if n_exact == n_flips:
        return e_off, torch.zeros(len(e_off), dtype=torch.float64, device=e_off.device)
    scale = n_flips**2 / n_exact * (1 - n_exact / n_flips)
    return e_off, scale * residual.var(1)
