"""Whether the energy of a run can be relied on, and why not: what its own numbers give away.

An energy is good if nothing here speaks against it being the ground state's to one part in 1000,
TOLERANCE. Each doubt is a sentence that begins with its kind:

    exact             exact diagonalisation says otherwise
    collapsed         H leads from the configurations that hold everything to others that hold
                      nothing
    variance          the second-order estimate of what the state lacks (nqs.vmc.residual) is large
    support           no term of H leads anywhere: nothing tells this configuration from lower ones
    rose              the optimisation has been lower, or started lower, beyond the noise
    product state     a product state lies lower: the run is stuck where it started
    signs             the wavefunction cannot have the signs or the symmetry that the ground state
                      may have
    equivalent sites  densities differ where symmetries of the Hamiltonian make them equal: the
                      state is one of several patterns, or not converged

A scan adds `neighbour`: a state of a neighbouring point has the lower energy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hamiltonians.equivalent_sites import equivalent_sites
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Lattice
from nqs.vmc.residual import scale_of_flips

TOLERANCE = 1e-3
"""Relative error of an energy that counts as good."""
UNEQUAL = 0.02
"""Difference of the densities of equivalent sites that counts, in atoms."""
SIGNIFICANT = 6.0
"""In standard errors; of the largest of many differences."""
RISEN = 5.0
"""In standard errors: chance 3e-7 for each of the few independent windows of a run."""
BEYOND_START = 3.0
"""In standard errors, of one number against another."""


@dataclass(frozen=True)
class Findings:
    """What a finished run knows of itself; energies in the Hamiltonian's units.

    Attributes:
        energy, energy_error, variance, variance_outside, excess, largest_share: as in Evaluation.
        density: (N,) <n_i> and its standard error, None where it was not measured.
        history: (steps,) energies and standard errors of the optimisation.
        start: energy and standard error of the state it started from, where that was another run's.
        product: energy and standard error of a product state found without the run.
        exact_energy: by exact diagonalisation, None where that was not done.
        warning: what the wavefunction cannot be, where the ground state may be that.
    """

    energy: float
    energy_error: float
    variance: float
    variance_outside: float
    excess: float
    largest_share: float
    density: tuple[Tensor, Tensor] | None = None
    history: tuple[Sequence[float], Sequence[float]] = ((), ())
    start: tuple[float, float] | None = None
    product: tuple[float, float] | None = None
    exact_energy: float | None = None
    warning: str | None = None


def doubts(found: Findings, hamiltonian: Hamiltonian, lattice: Lattice | None = None) -> list[str]:
    """The reasons not to rely on the energy, none if it is good. lattice: where the sites are, by
    default the Hamiltonian's."""
    flip = scale_of_flips(hamiltonian)
    known = found.exact_energy is not None
    reasons = [
        _exact(found, flip),
        None if known else _lacking(found, flip, len(hamiltonian.flips)),
        None if known or found.warning is None else f"signs: {found.warning}",
        _risen(found, flip),
        _above(found.start, "rose: {} above the state it started from, {}", found, flip),
        _above(found.product, "product state: {} above a product state, {}", found, flip),
        None if found.density is None else _unequal(*found.density, hamiltonian, lattice),
    ]
    return [reason for reason in reasons if reason is not None]


def _scale(energy: float, flip: float) -> float:
    """What relative errors refer to: |E|, or that of a flip where the energy nearly vanishes."""
    return max(abs(energy), flip, 1e-300)


def _exact(found: Findings, flip: float) -> str | None:
    if found.exact_energy is None:
        return None
    difference = found.energy - found.exact_energy
    sigmas = difference / found.energy_error if found.energy_error > 0 else math.inf
    relative = difference / _scale(found.exact_energy, flip)
    if relative > TOLERANCE:
        return f"exact: {100 * relative:.3g} % above the exact energy {found.exact_energy:.8g}"
    if relative < -1e-9 and (relative < -TOLERANCE or sigmas < -RISEN):
        return (
            f"exact: {-difference:.2g} ({-sigmas:.1f} standard errors) below the exact energy, "
            "which no state can be"
        )
    return None


def _lacking(found: Findings, flip: float, n_flips: int) -> str | None:
    scale = _scale(found.energy, flip)
    steady = found.variance <= (1e-6 * scale) ** 2
    if not n_flips and not steady:
        return f"variance: it holds energies that differ by some {found.variance**0.5:.2g}"
    if not n_flips or (steady and found.largest_share >= 1):
        return (
            "support: no term of H leads away from the configurations that it holds, lower ones "
            "are not excluded"
        )
    if found.excess <= TOLERANCE * scale:
        return None
    too_high = f"the energy may be some {100 * found.excess / scale:.2g} % too high"
    outside = found.variance_outside / found.variance
    if outside > 0.5:
        return (
            f"collapsed: {100 * outside:.0f} % of the variance {found.variance:.3g} lies in "
            f"configurations that the state does not visit; {too_high}"
        )
    share = 100 * found.variance**0.5 / scale
    return f"variance: {found.variance:.3g}, sqrt(Var) / |E| = {share:.2g} %; {too_high}"


def _risen(found: Findings, flip: float) -> str | None:
    energies, errors = (torch.tensor(column, dtype=torch.float64) for column in found.history)
    length = max(5, len(energies) // 20)
    if len(energies) < 2 * length:
        return None
    usable = energies.isfinite() & errors.isfinite()
    energies, errors = energies.where(usable, torch.inf), errors.where(usable, torch.inf)
    means = energies.unfold(0, length, 1).mean(1)  # (windows,)
    spreads = errors.square().unfold(0, length, 1).mean(1).sqrt() / length**0.5
    rises = found.energy - means
    significant = rises > RISEN * (spreads.square() + found.energy_error**2).sqrt()
    relevant = rises > TOLERANCE * _scale(found.energy, flip)
    places = (significant & relevant).nonzero().squeeze(1)
    if not len(places):
        return None
    place = places[rises[places].argmax()]
    return (
        f"rose: steps {int(place) + 1} to {int(place) + length} had a mean energy of "
        f"{float(means[place]):.8g}, {float(rises[place]):.2g} lower; a smaller "
        "optimizer.learning_rate may help"
    )


def _above(
    bound: tuple[float, float] | None, text: str, found: Findings, flip: float
) -> str | None:
    """Whether the energy lies above a bound, (energy, standard error), beyond the noise."""
    if bound is None:
        return None
    energy, error = bound
    rise = found.energy - energy
    sigmas = rise / math.hypot(error, found.energy_error, 1e-12 * _scale(energy, flip))
    if sigmas < BEYOND_START or rise < 1e-5 * _scale(energy, flip):
        return None
    return text.format(f"{rise:.2g} ({sigmas:.1f} standard errors)", f"{energy:.8g}")


def _unequal(
    density: Tensor, error: Tensor, hamiltonian: Hamiltonian, lattice: Lattice | None
) -> str | None:
    """The two sites of one label that differ most."""
    labels = equivalent_sites(hamiltonian, lattice)
    worst, reason = 0.0, None
    for label in labels.unique():
        sites = (labels == label).nonzero().squeeze(1)
        low, high = sites[density[sites].argmin()], sites[density[sites].argmax()]
        difference = float(density[high] - density[low])
        sigmas = difference / max(float(torch.hypot(error[high], error[low])), 1e-12)
        if difference > max(UNEQUAL, worst) and sigmas > SIGNIFICANT:
            worst = difference
            reason = (
                f"equivalent sites: <n> is {float(density[low]):.3f} at site {int(low)} and "
                f"{float(density[high]):.3f} at site {int(high)} ({sigmas:.0f} standard errors); "
                "model.symmetry may help"
            )
    return reason
