"""Importance sampling towards the configurations whose amplitude is too small.

Where psi(s) is far below its neighbours, E_loc(s) = sum_g <s|H|s xor f_g> psi(s xor f_g) / psi(s)
is huge, but samples of p = |psi|^2 hardly ever see s, so nothing lifts it. On a 4x4 Rydberg array
such configurations, 1 % of the ground state's weight, carried nearly all of the energy error and
of the variance after natural-gradient steps on plain samples. So a fraction eps of the draws takes
one random flip of the Hamiltonian, if it acts there:

    q(s) = (1 - eps) p(s) + eps / G [ sum_{g acts on s} p(s xor f_g) + (number that does not) p(s) ]

and every row is weighted by p / q <= 1 / (1 - eps). The ratios p(s xor f_g) / p(s) are those of the
local energy, so the weights cost nothing; the estimators are those of self-normalised importance
sampling; and, unlike tempering, the effective number of samples does not decay with the system's
size. (Blurred sampling: Wan, Wiersema & Zhang, arXiv:2603.18148; on sampling elsewhere than
|psi|^2 see also Misery et al., arXiv:2507.05352.)
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from nqs.vmc.energies.estimates import Estimates
from nqs.vmc.energies.local_energy import connected, summed
from nqs.vmc.ranks import ALONE, Ranks
from nqs.vmc.residual import Rows, residuals
from nqs.wavefunctions.wavefunction import Samples, Wavefunction, merged

LEAST_IMPORTANCE = 1e-25
"""Rows below are left out: their squared local energies would leave the range of numbers. What they
carry of the variance is counted besides."""


@torch.no_grad()
def draw_around(
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    n_samples: int,
    fraction: float,
    generator: torch.Generator,
    *,
    max_rows: int = 32_768,
    ranks: Ranks = ALONE,
    products: str = "full",
) -> Estimates:
    """n_samples draws of q, listed once each with counts and importance, and their E_loc (U,).

    Draws that symmetries of both psi and the Hamiltonian connect share one row: they have the same
    ln psi, local energy, importance and derivatives, so every average of these is unchanged.
    fraction: eps in [0, 1); 0 samples |psi|^2 itself. Raises ValueError outside. products: of
    the flip pass, see nqs.vmc.energies.rounding. Where nothing flips, no draw does.
    Each rank draws its share and evaluates its share of the distinct rows; all return all of them.
    """
    samples = drawn_around(wavefunction, hamiltonian, n_samples, fraction, generator, ranks)
    own = ranks.share(len(samples.counts))
    part = Samples(samples.configs[own], samples.counts[own], samples.log_psi[own])
    elements, log_ratios = connected(wavefunction, hamiltonian, part, max_rows, products=products)
    e_loc = ranks.gathered(summed(hamiltonian, part.configs, elements, log_ratios))
    if fraction == 0 or not len(hamiltonian.flips):
        return Estimates(samples, e_loc)
    own_weights = importance(elements, log_ratios, fraction)
    weights = ranks.gathered(own_weights)
    samples = dataclasses.replace(samples, importance=weights)
    kept = (weights > LEAST_IMPORTANCE).nonzero().squeeze(1)
    if len(kept) == len(weights):
        return Estimates(samples, e_loc)
    left_out = _left_out(hamiltonian, part, elements, log_ratios, own_weights, fraction)
    outside = float(ranks.sum(left_out) / (weights[kept] @ samples.counts[kept].to(weights)))
    rows, counts = at_least(ranks.size, samples.counts[kept])
    rows = kept[rows]
    weighted = Samples(samples.configs[rows], counts, samples.log_psi[rows], weights[rows])
    return Estimates(weighted, e_loc[rows], outside=outside)


def _left_out(
    hamiltonian: Hamiltonian,
    samples: Samples,
    elements: Tensor,
    log_ratios: Tensor,
    weights: Tensor,
    fraction: float,
) -> Tensor:
    """sum of counts times |<s|H|psi>|^2 / q(s) over the rows of no weight, a number."""
    out = (~(weights > LEAST_IMPORTANCE)).nonzero().squeeze(1)
    rows = Rows(
        samples.configs[out],
        elements[out],
        log_ratios[out] + samples.log_psi[out, None],
        samples.log_psi[out],
    )
    found = residuals(hamiltonian, rows, 0.0, 1.0, 1 - fraction, fraction)
    return samples.counts[out].to(torch.float64) @ (found.real + found.imaginary)


@torch.no_grad()
def drawn_around(
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    n_samples: int,
    fraction: float,
    generator: torch.Generator,
    ranks: Ranks = ALONE,
) -> Samples:
    """The draws of `draw_around`, without their importance."""
    if not 0 <= fraction < 1:
        raise ValueError(f"flip_fraction={fraction} must be in [0, 1)")
    samples = wavefunction.sample(ranks.shares(n_samples)[ranks.rank], generator, unique=True)
    configs, counts = samples.configs, samples.counts
    if fraction > 0 and len(hamiltonian.flips):
        configs, counts = flip_some(samples, hamiltonian, fraction, generator)
    representatives = ranks.gathered(wavefunction.representatives(configs))
    if representatives is not configs:
        configs, counts = merged(representatives, ranks.gathered(counts))
        rows, counts = at_least(ranks.size, counts)
        configs = configs[rows]
    if configs is samples.configs:
        return samples
    log_psi = ranks.gathered(wavefunction.log_psi(configs[ranks.share(len(counts))]))
    return Samples(configs, counts, log_psi)


def at_least(n_rows: int, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (U',) and counts (U',), U' >= n_rows: so that no rank is without a row.

    Where counts (U,) are fewer the commonest row is listed twice with half of its draws each, which
    leaves every estimator as it is. FloatingPointError where there are fewer draws than n_rows, or
    none at all.
    """
    if not len(counts):
        raise FloatingPointError("the weights of all samples are zero or not finite")
    rows = torch.arange(len(counts), device=counts.device)
    while len(rows) < n_rows:
        most = int(counts.max())
        if most < 2:
            raise FloatingPointError(
                f"{len(rows)} draws have a weight that is not zero, fewer than the {n_rows} "
                "processes; draw more samples or start fewer processes"
            )
        place = int((counts == most).nonzero()[0])  # the first of them, on every rank
        rows = torch.cat([rows, rows[place, None]])
        counts = torch.cat([counts, counts.new_tensor([most // 2])])
        counts[place] -= most // 2
    return rows, counts


def flip_some(
    samples: Samples, hamiltonian: Hamiltonian, fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Distinct configurations (U', N) and counts (U',) after a random flip of some of the draws."""
    counts, flips = samples.counts, hamiltonian.flips
    chance = torch.full(counts.shape, fraction, dtype=torch.float64, device=counts.device)
    moved = torch.binomial(counts.to(torch.float64), chance, generator=generator).to(torch.int64)
    rows = torch.arange(len(moved), device=moved.device).repeat_interleave(moved)
    choice = torch.randint(len(flips), rows.shape, generator=generator, device=rows.device)
    old = samples.configs[rows]
    acts = hamiltonian.off_diagonal(old).gather(1, choice[:, None]) != 0  # (R, 1)
    configs = torch.cat([samples.configs, old ^ (flips[choice] & acts)])
    counts = torch.cat([counts - moved, torch.ones_like(rows)])
    return merged(configs[counts > 0], counts[counts > 0])


def importance(elements: Tensor, log_ratios: Tensor, fraction: float) -> Tensor:
    """p / q of each row (U,), from elements and ln psi(s xor f_g) / psi(s), both (U, G).

    p(s xor f_g) / p(s) = |ratio|^2: only the real part of the log ratio counts.
    """
    neighbours = torch.where(elements != 0, (2 * log_ratios.real).exp(), 1.0).mean(1)
    return 1 / (1 - fraction + fraction * neighbours)
