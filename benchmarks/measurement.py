"""The energy of a program's state, off the clock: over the whole basis if that is small, else from
fresh samples, as many as the accuracy reached calls for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.programs import Program
from hamiltonians.exact import Product, basis
from hamiltonians.hamiltonian import Hamiltonian

ENUMERATED_SITES = 16
"""Up to here the sum over all configurations is taken, without any error bar."""
PILOT_SAMPLES = 2_048
FINEST_ERROR = 1e-5
"""Relative error bars need not be smaller: a tenth of the last target."""


@dataclass(frozen=True)
class Measurement:
    """energy and energy_error are totals; n_samples is 0 for a sum over the basis."""

    energy: float
    energy_error: float
    n_samples: int


class Measure:
    """Measures states of one system.

    Args:
        reference: its ground-state energy, by which the accuracy reached is judged.
        max_samples: the most that one measurement draws.
    """

    def __init__(self, hamiltonian: Hamiltonian, reference: float, max_samples: int) -> None:
        self.reference, self.max_samples = reference, max_samples
        self.n_sites = hamiltonian.n_sites
        self._product = Product(hamiltonian) if self.n_sites <= ENUMERATED_SITES else None

    def __call__(self, program: Program) -> Measurement:
        """The energy now; not a number if the program's state is broken."""
        if self._product is not None:
            log_psi = program.log_psi(basis(self.n_sites))
            psi = (log_psi - log_psi.max()).exp()  # (2^N,)
            return Measurement(float(psi @ self._product(psi) / (psi @ psi)), 0.0, 0)
        n_pilot = min(PILOT_SAMPLES, self.max_samples)
        energy, error = program.sampled_energy(n_pilot)
        n_samples = enough_samples(n_pilot, energy, error, self.reference, self.max_samples)
        if n_samples > n_pilot:
            energy, error = program.sampled_energy(n_samples)  # fresh: independent of the pilot
        return Measurement(energy, error, n_samples)


def enough_samples(
    n_pilot: int, energy: float, error: float, reference: float, max_samples: int
) -> int:
    """Samples for an error bar of a fifth of the distance from the reference, but not below 1e-5
    of it, judged by a pilot's energy and error; between n_pilot and max_samples."""
    wanted = max(FINEST_ERROR * abs(reference), abs(energy - reference) / 5)
    if not math.isfinite(error / wanted):
        return n_pilot
    n_samples = math.ceil(n_pilot * (error / wanted) ** 2)
    return min(max(n_samples, n_pilot), max_samples)
