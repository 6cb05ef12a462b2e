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
from collections.abc import Callable

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from nqs.vmc.energies.estimates import Estimates
from nqs.vmc.random_flips import apply_flips, movers
from nqs.vmc.ranks import ALONE, Ranks
from nqs.vmc.residual import Rows, residuals
from nqs.wavefunctions.wavefunction import Samples, Wavefunction, merged

LEAST_IMPORTANCE = 1e-25
"""Rows below are left out: their squared local energies would leave the range of numbers. What they
carry of the variance is counted besides."""


@torch.no_grad()
def blurred_samples(
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    n_samples: int,
    fraction: float,
    generator: torch.Generator,
    ranks: Ranks = ALONE,
) -> Samples:
    """n_samples draws of q, without their importance; those that symmetries connect share a row.

    fraction: eps in [0, 1); 0 draws |psi|^2 itself. Where nothing flips, no draw does.
    """
    samples = wavefunction.sample(ranks.shares(n_samples)[ranks.rank], generator, unique=True)
    configs, counts = samples.configs, samples.counts
    if fraction > 0 and len(hamiltonian.flips):
        configs, counts = blur(samples, hamiltonian, fraction, generator)
    representatives = ranks.gathered(wavefunction.representatives(configs))
    if representatives is not configs:
        configs, counts = merged(representatives, ranks.gathered(counts))
        rows, counts = at_least(ranks.size, counts)
        configs = configs[rows]
    if configs is samples.configs:
        return samples
    log_psi = ranks.gathered(wavefunction.log_psi(configs[ranks.share(len(counts))]))
    return Samples(configs, counts, log_psi)


def blur(
    samples: Samples, hamiltonian: Hamiltonian, fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Distinct configurations (U', N) and counts (U',) after a random flip of some of the draws."""
    n_moved, rows = movers(samples.counts, fraction, generator)
    n_flips = len(hamiltonian.flips)
    choice = torch.randint(n_flips, rows.shape, generator=generator, device=rows.device)
    configs = torch.cat([samples.configs, after_flip(hamiltonian, samples.configs[rows], choice)])
    counts = torch.cat([samples.counts - n_moved, torch.ones_like(rows)])
    return merged(configs[counts > 0], counts[counts > 0])


def after_flip(hamiltonian: Hamiltonian, configs: Tensor, choice: Tensor) -> Tensor:
    """configs (R, N) after the Hamiltonian's flip `choice` (R,) of each, where it acts."""
    acts = hamiltonian.off_diagonal(configs).gather(1, choice[:, None]).squeeze(1) != 0  # (R,)
    return apply_flips(configs, hamiltonian.flips[choice], acts)


def importance(elements: Tensor, log_ratios: Tensor, fraction: float) -> Tensor:
    """p / q of each row (U,), from elements and ln psi(s xor f_g) / psi(s), both (U, G).

    p(s xor f_g) / p(s) = |ratio|^2: only the real part of the log ratio counts.
    """
    neighbours = torch.where(elements != 0, (2 * log_ratios.real).exp(), 1.0).mean(1)
    return 1 / (1 - fraction + fraction * neighbours)


def with_importance(
    estimates: Estimates, weights: Tensor, unweighted: Callable[[], Tensor], ranks: Ranks
) -> Estimates:
    """The rows of all ranks with their importance, without those that have none.

    weights (U,): p / q of each row. unweighted: the sum of counts times |<s|H|psi>|^2 / q(s) over
    this rank's rows of no weight, asked for where there are some; see `variance_outside`.
    """
    samples, noise = estimates.samples, estimates.noise
    rows = (weights > LEAST_IMPORTANCE).nonzero().squeeze(1)
    if len(rows) == len(weights):
        samples = dataclasses.replace(samples, importance=weights)
        return dataclasses.replace(estimates, samples=samples)
    norm = weights[rows] @ samples.counts[rows].to(weights)
    outside = float(ranks.sum(unweighted()) / norm)
    repeated, counts = at_least(ranks.size, samples.counts[rows])
    rows = rows[repeated]
    return Estimates(
        Samples(samples.configs[rows], counts, samples.log_psi[rows], weights[rows]),
        estimates.e_loc[rows],
        None if noise is None else noise[rows],
        outside,
    )


def variance_outside(
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
    parts = residuals(hamiltonian, rows, 0.0, 1.0, 1 - fraction, fraction)
    return samples.counts[out].to(torch.float64) @ (parts.real + parts.imaginary)


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
