"""Local energies from near patches, corrected without bias by a few exact flips.

With cheap approximate ratios r~_g (nqs.wavefunctions.nearby) of all G flips and exact ones r_g of
a uniformly random subset M of m flips, drawn for each configuration,

    E(s, M) = H_ss + sum_g H_g r~_g + (G / m) sum_{g in M} H_g (r_g - r~_g)

has the mean E_loc(s) over M, whatever r~ is: a control variate. It adds the variance

    (G^2 / m) (1 - m / G) Var_g[H_g (r_g - r~_g)]

of sampling without replacement, which is estimated from the subset itself.

Blurred draws (nqs.vmc.energies.proposal) need p(s xor f_g) / p(s) of every flip for their weights,
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

import dataclasses
import math
from typing import Annotated, Final, final

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from nqs.vmc.columns import Column
from nqs.vmc.energies.energies import Energies, require_range
from nqs.vmc.energies.estimates import Estimates
from nqs.vmc.energies.local_energy import terms
from nqs.vmc.energies.proposal import after_flip, importance, variance_outside, with_importance
from nqs.vmc.random_flips import movers
from nqs.vmc.ranks import ALONE, Ranks
from nqs.wavefunctions.nearby import nearby_log_ratios
from nqs.wavefunctions.wavefunction import Samples, Wavefunction

ADDED_VARIANCE: Final = Column(
    "added_variance", "couplings^2", "what local flips add to the variance of E_loc"
)


@final
class NearFlips(Energies, kind="near_flips"):
    """Draws of q(s | M) and their E(s, M); see this file.

    Args:
        flip_radius: compute local energies from the patches up to here from a flip, in patch
            spacings, 0.1 .. 1000, corrected without bias by exact flips; needs model=ptf without
            symmetries.
        exact_fraction: m / G, share of the flips that are exact, 0.001 .. 1.
        flip_fraction: eps, share of the draws that take one random flip (importance sampling),
            0 (none) or 0.001 .. 0.99.
    """

    columns = (ADDED_VARIANCE,)

    def __init__(
        self,
        *,
        flip_radius: Annotated[float, "0.1 .. 1000"] = 1.5,
        exact_fraction: Annotated[float, "0.001 .. 1"] = 0.125,
        flip_fraction: Annotated[float, "0 or 0.001 .. 0.99"] = 0.5,
    ) -> None:
        require_range("flip_radius", flip_radius, 0.1, 1e3)
        require_range("exact_fraction", exact_fraction, 1e-3, 1)
        require_range("flip_fraction", flip_fraction, 1e-3, 0.99, or_zero=True)
        self.flip_radius, self.exact_fraction = flip_radius, exact_fraction
        self.flip_fraction = flip_fraction

    def check(self, wavefunction: Wavefunction) -> None:
        """Raises ValueError for a state whose ratios do not come from near patches."""
        nowhere = torch.zeros(1, wavefunction.n_sites, dtype=torch.bool)
        somewhere = nowhere.clone()
        somewhere[0, 0] = True
        device = next(wavefunction.parameters()).device
        try:
            nearby_log_ratios(
                wavefunction, nowhere.to(device), somewhere.to(device), self.flip_radius
            )
        except TypeError as error:
            raise ValueError(
                f"flip_radius={self.flip_radius:g}: {error}; needs model=ptf "
                "model.symmetry=none model.spin_flip=false"
            ) from None

    def n_exact(self, n_flips: int) -> int:
        """m, at least 2 so that the added variance is known."""
        return min(n_flips, max(2, math.ceil(self.exact_fraction * n_flips)))

    @torch.no_grad()
    def draw(
        self,
        wavefunction: Wavefunction,
        hamiltonian: Hamiltonian,
        n_samples: int,
        generator: torch.Generator,
        *,
        ranks: Ranks = ALONE,
    ) -> Estimates:
        """Each rank draws and evaluates its share. TypeError for a wavefunction without ratios of
        near patches."""
        own = wavefunction.sample(ranks.shares(n_samples)[ranks.rank], generator, unique=True)
        if not len(hamiltonian.flips):
            e_loc = hamiltonian.diagonal(own.configs)
            all_of_it = (own.configs, own.counts, own.log_psi, e_loc)
            configs, counts, log_psi, e_loc = map(ranks.gathered, all_of_it)
            return Estimates(Samples(configs, counts, log_psi), e_loc, torch.zeros_like(e_loc))
        own, subsets = self._moved(hamiltonian, wavefunction, own, generator)
        elements, near, exact = self._log_ratios(wavefunction, hamiltonian, own, subsets)
        in_subset = elements.gather(1, subsets)
        e_off, noise = combined(terms(elements, near), terms(in_subset, exact), subsets)
        e_loc = hamiltonian.diagonal(own.configs) + e_off
        weights = importance(in_subset, exact, self.flip_fraction)

        def unweighted() -> Tensor:  # q(s) is the mean of q(s | M) over M, exact where it is known
            mixed = near.scatter(1, subsets, exact)
            return variance_outside(hamiltonian, own, elements, mixed, weights, self.flip_fraction)

        columns = (own.configs, own.counts, own.log_psi, weights, e_loc, noise)
        configs, counts, log_psi, all_weights, e_loc, noise = map(ranks.gathered, columns)
        estimates = Estimates(Samples(configs, counts, log_psi), e_loc, noise)
        result = with_importance(estimates, all_weights, unweighted, ranks)
        if self.flip_fraction:
            return result
        plain = dataclasses.replace(result.samples, importance=None)
        return dataclasses.replace(result, samples=plain)

    def _moved(
        self,
        hamiltonian: Hamiltonian,
        wavefunction: Wavefunction,
        samples: Samples,
        generator: torch.Generator,
    ) -> tuple[Samples, Tensor]:
        """The draws after some of them have moved, each with its subset (U, m) of the flips."""
        counts, flips = samples.counts, hamiltonian.flips
        n_moved, rows = movers(counts, self.flip_fraction, generator)
        stay = (counts > n_moved).nonzero().squeeze(1)
        n_rows, n_exact = len(stay) + len(rows), self.n_exact(len(flips))
        subsets = random_subsets(n_rows, len(flips), n_exact, generator, counts.device)
        choice = subsets[len(stay) :, 0]  # uniform among the flips, and one of its row's subset
        new = after_flip(hamiltonian, samples.configs[rows], choice)
        log_new = wavefunction.log_psi(new) if len(new) else samples.log_psi[rows]
        return Samples(
            torch.cat([samples.configs[stay], new]),
            torch.cat([(counts - n_moved)[stay], torch.ones_like(rows)]),
            torch.cat([samples.log_psi[stay], log_new]),
        ), subsets

    def _log_ratios(
        self,
        wavefunction: Wavefunction,
        hamiltonian: Hamiltonian,
        samples: Samples,
        subsets: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Elements (U, G), ln r~_g (U, G) and the exact ln r_g of the subsets, (U, m)."""
        configs, flips = samples.configs, hamiltonian.flips
        elements = hamiltonian.off_diagonal(configs)  # (U, G)
        chosen = torch.zeros(elements.shape, dtype=torch.bool, device=configs.device)
        chosen.scatter_(1, subsets, True)
        log_flipped = wavefunction.log_psi_flipped(
            configs, flips, chosen & (elements != 0), max_rows=self.max_rows
        )
        exact = (log_flipped - samples.log_psi[:, None]).gather(1, subsets)  # (U, m)
        near = nearby_log_ratios(
            wavefunction, configs, flips, self.flip_radius, max_rows=self.max_rows
        )
        return elements, near, exact

    def record(self, estimates: Estimates) -> dict[str, float]:
        """Mean over the samples of the variance that the choice of subsets adds."""
        assert estimates.noise is not None
        return {ADDED_VARIANCE.name: float(estimates.samples.weights @ estimates.noise)}


def random_subsets(
    n_rows: int, n_flips: int, n_exact: int, generator: torch.Generator, device: torch.device
) -> Tensor:
    """(n_rows, n_exact) int64: distinct flips in random order, uniform and independent by row."""
    keys = torch.rand(n_rows, n_flips, generator=generator, device=device)
    return keys.argsort(1)[:, :n_exact]


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
