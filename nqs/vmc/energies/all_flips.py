"""What plain and blurred draws share: every flip is computed, in products of a chosen precision."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from nqs.vmc.columns import Column
from nqs.vmc.energies.energies import Energies
from nqs.vmc.energies.estimates import Estimates
from nqs.vmc.energies.flip_precision import FlipPrecision
from nqs.vmc.energies.local_energy import connected, local_energy
from nqs.vmc.energies.proposal import blurred_samples, importance, variance_outside, with_importance
from nqs.vmc.ranks import ALONE, Ranks
from nqs.wavefunctions.wavefunction import Samples, Wavefunction


class AllFlips(Energies):
    """Draws of which flip_fraction take a random flip, and their exact local energies.

    Draws that symmetries of both psi and the Hamiltonian connect share one row: they have the same
    ln psi, local energy, importance and derivatives, so every average of these is unchanged.
    """

    def __init__(self, flip_fraction: float, flip_precision: str) -> None:
        self.flip_fraction, self.flip_precision = flip_fraction, flip_precision
        self.precision = FlipPrecision(flip_precision)

    @property
    def columns(self) -> tuple[Column, ...]:  # type: ignore[override]
        """Those of the products, if they may be rounded."""
        return self.precision.columns

    def check(self, wavefunction: Wavefunction) -> None:
        self.precision.check(wavefunction)

    def before_step(
        self,
        step: int,
        wavefunction: Wavefunction,
        hamiltonian: Hamiltonian,
        n_samples: int,
        generator: torch.Generator,
        *,
        ranks: Ranks = ALONE,
    ) -> None:
        if self.precision.measured_at(step):
            self.precision.update(
                wavefunction, hamiltonian, n_samples, self.flip_fraction, generator, ranks
            )

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
        """Each rank draws its share and evaluates its share of the distinct rows."""
        samples = blurred_samples(
            wavefunction, hamiltonian, n_samples, self.flip_fraction, generator, ranks
        )
        own = ranks.share(len(samples.counts))
        part = Samples(samples.configs[own], samples.counts[own], samples.log_psi[own])
        elements, log_ratios = connected(
            wavefunction, hamiltonian, part, self.max_rows, precision=self.precision.kind
        )
        e_loc = ranks.gathered(local_energy(hamiltonian, part.configs, elements, log_ratios))
        if self.flip_fraction == 0 or not len(hamiltonian.flips):
            return Estimates(samples, e_loc)
        weights = importance(elements, log_ratios, self.flip_fraction)

        def unweighted() -> Tensor:
            fraction = self.flip_fraction
            return variance_outside(hamiltonian, part, elements, log_ratios, weights, fraction)

        estimates = Estimates(samples, e_loc)
        return with_importance(estimates, ranks.gathered(weights), unweighted, ranks)

    def record(self, estimates: Estimates) -> dict[str, float]:
        return self.precision.record()

    def restore(self, last: Mapping[str, float]) -> None:
        self.precision.restore(last)
