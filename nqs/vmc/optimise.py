"""Variational Monte Carlo on one screen: sample, local energies, update, record."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.invariance import check_invariance
from nqs.vmc.energies.estimates import Estimates
from nqs.vmc.energies.near_flips import LocalFlips, draw_locally
from nqs.vmc.energies.precision import ProductsChoice
from nqs.vmc.energies.proposal import draw_around
from nqs.vmc.optimizers.gradient import add_to_parameters
from nqs.vmc.optimizers.optimizer import Optimizer
from nqs.vmc.ranks import ALONE, Ranks
from nqs.vmc.statistics import sample_statistics
from nqs.wavefunctions.wavefunction import Wavefunction


@dataclass(frozen=True)
class StepRecord:
    """What one step measured, before its update; energies in the Hamiltonian's units.

    step counts from 1; n_unique is the number of rows that were evaluated; added_variance is what
    local flips add to the variance of E_loc (mean over the samples, 0 without them); seconds is
    wall time.
    flip_bits: significant bits of the operands of the flips' products; flip_bias, flip_rms_share:
    what they do to the energy, as last measured (see nqs.vmc.energies.precision.ProductsChoice).
    """

    step: int
    energy: float
    energy_error: float
    variance: float
    v_score: float
    n_unique: int
    gradient_norm: float
    learning_rate: float
    added_variance: float
    flip_bits: float
    flip_bias: float
    flip_rms_share: float
    seconds: float


def optimise(
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    optimizer: Optimizer,
    *,
    first_step: int = 0,
    n_steps: int,
    n_samples: int,
    generator: torch.Generator,
    flip_fraction: float = 0.5,
    local_flips: LocalFlips | None = None,
    max_rows: int = 32_768,
    ranks: Ranks = ALONE,
    products: ProductsChoice | None = None,
    after_step: Callable[[StepRecord], bool] = lambda record: False,
) -> None:
    """Minimise <H> over the parameters of `wavefunction`, in place.

    Steps first_step + 1 .. n_steps; `after_step` sees each record once the update is applied and
    stops the loop by returning True. All randomness comes from `generator`. flip_fraction: share
    of the draws that explore a random flip (see energies.proposal); 0 samples |psi|^2 itself.
    local_flips: estimate local energies by near patches and a few exact flips (see
    nqs.vmc.energies.near_flips); None computes all flips exactly.
    ranks: the processes that share the samples and the work of each step. All begin with the same
    parameters, each has a generator of its own, and `after_step` answers alike on all of them.
    products: of the flip pass, full by default; its choice is updated on the way. Not with
    local_flips, which are in full precision: ValueError.
    Raises FloatingPointError, before touching the parameters, if the energy or the update is not
    finite, and ValueError if the Hamiltonian lacks a symmetry that the wavefunction has by
    construction.
    """
    check_invariance(hamiltonian, wavefunction.symmetry)
    products = ProductsChoice() if products is None else products
    if local_flips is not None and products.asked != "full":
        raise ValueError(f"products={products.asked!r} do not go with local flips")
    for step in range(first_step + 1, n_steps + 1):
        began = time.perf_counter()
        if products.measured_at(step):
            products.update(wavefunction, hamiltonian, n_samples, flip_fraction, generator, ranks)
        drawn = draw(
            wavefunction,
            hamiltonian,
            n_samples,
            flip_fraction,
            local_flips,
            generator,
            max_rows=max_rows,
            ranks=ranks,
            products=products.kind,
        )
        samples, noise = drawn.samples, drawn.noise
        energy = sample_statistics(
            drawn.e_loc,
            samples,
            hamiltonian.n_sites,
            hamiltonian.infinite_temperature_energy,
            noise,
            drawn.outside,
        )
        update = ranks.broadcast(optimizer.update(wavefunction, samples, drawn.e_loc, ranks))
        if not bool(update.isfinite().all()):
            raise FloatingPointError(f"the update of step {step} is not finite")
        add_to_parameters(wavefunction, update)
        record = StepRecord(
            step=step,
            energy=energy.energy,
            energy_error=energy.energy_error,
            variance=energy.variance,
            v_score=energy.v_score,
            n_unique=len(samples.counts),
            gradient_norm=optimizer.diagnostics["gradient_norm"],
            learning_rate=optimizer.diagnostics["learning_rate"],
            added_variance=0.0 if noise is None else float(samples.weights @ noise),
            **products.record(wavefunction),
            seconds=time.perf_counter() - began,
        )
        if after_step(record):
            break


def draw(
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    n_samples: int,
    flip_fraction: float,
    local_flips: LocalFlips | None,
    generator: torch.Generator,
    *,
    max_rows: int,
    ranks: Ranks,
    products: str,
) -> Estimates:
    """Samples and their local energies, with the noise in these if flips are local."""
    plain = (wavefunction, hamiltonian, n_samples, flip_fraction)
    if local_flips is None:
        return draw_around(*plain, generator, max_rows=max_rows, ranks=ranks, products=products)
    return draw_locally(*plain, local_flips, generator, max_rows=max_rows, ranks=ranks)
