"""Neighbouring couplings from one trained state, without training again.

psi is the ground state (nearly) of H; what does it say about H' at other couplings, with

    e(s) = E'_loc(s) - E',    E' = <psi|H'|psi>,    |psi_a> = (1 + a (H' - E')) |psi> ?

1. E' itself: an upper bound of the ground-state energy of H'. All couplings share the same draws,
   so differences of energies are far more precise than the energies. H linear in a coupling:
   (E' - E) / (change of the coupling) = <dH/dcoupling>, which is dE_0/dcoupling at the trained
   point (Hellmann-Feynman).
2. |psi_a>, the best state in the span of psi and H' psi (one Lanczos step), is psi with importance
   weights:

       |psi_a(s) / psi(s)|^2 = w(s) = |1 + a e(s)|^2
       E_a = E' + <(1 + a e)* (e + a g)> / <w>,    g(s) = ((H' - E') e psi)(s) / psi(s)

   Diagonal observables of psi_a are means with weights w and cost nothing more. E_a is an upper
   bound too, below E' by about the variance; g needs local energies of all connected
   configurations, so it comes from a smaller number of draws. `a` is found from one set of draws
   and E_a measured on another, so that the minimum is not biased downwards by noise.

Effective sample size: (sum w)^2 / sum w^2 draws. Where it is a small part of the draws the weights
rest on a few of them: psi knows too little of the ground state at these couplings.

(Lanczos step on a variational state: Sorella, arXiv:cond-mat/0009149; Hu, Becca, Parola & Sorella,
arXiv:1304.2630.)

Letters: U configurations, G flips, L couplings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Lattice
from nqs.vmc.energies.local_energy import local_energy, terms
from nqs.vmc.observables import Diagonal, Observable, Request, applicable
from nqs.vmc.statistics import Estimate
from nqs.wavefunctions.wavefunction import Samples, Wavefunction

CHUNK: Final = 8_192
"""Configurations whose connected ones are looked up at a time."""
LOWEST_SHARE: Final = 0.5
"""Effective samples per draw below which an estimate is not to be relied on."""


@dataclass(frozen=True)
class Neighbour:
    """What a state says about one other set of couplings; energies are totals.

    Attributes:
        energy: E' and its standard error.
        difference: E' - E of the trained couplings, from the same draws.
        variance: <|e|^2>.
        improved: E_a.
        step: a.
        effective_samples: (sum w)^2 / sum w^2 over the draws of `observables`.
        n_samples: these draws.
        observables: of psi_a.
    """

    energy: Estimate
    difference: Estimate
    variance: float
    improved: Estimate
    step: float
    effective_samples: float
    n_samples: int
    observables: dict[str, Estimate]

    @property
    def reliable(self) -> bool:
        """Whether enough of the draws carry the weights."""
        return self.effective_samples >= LOWEST_SHARE * self.n_samples


@torch.no_grad()
def neighbouring_couplings(
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    others: Sequence[Hamiltonian],
    n_samples: int,
    n_lanczos: int,
    generator: torch.Generator,
    *,
    lattice: Lattice | None = None,
    also: tuple[type[Observable], ...] = (),
) -> list[Neighbour]:
    """Estimates at the couplings of `others` for a state trained at those of `hamiltonian`.

    n_samples draws for E' and the observables, n_lanczos for each of `a` and E_a - E'. lattice:
    where the sites are, by default those of the Hamiltonian. Observables are the densities and all
    that are diagonal, of the program and of `also`.
    Raises ValueError for fewer than 2 draws, or Hamiltonians that flip other sites.
    """
    if min(n_samples, n_lanczos) < 2:
        raise ValueError("at least 2 samples are needed for an error bar")
    everyone = [hamiltonian, *others]
    drawn, fitted, measured = (
        wavefunction.sample(n, generator, unique=True) for n in (n_samples, n_lanczos, n_lanczos)
    )
    energies = shared_local_energies(wavefunction, everyone, drawn)  # (1 + L, U)
    means = (energies.real @ drawn.weights).tolist()
    fits = connected_moments(wavefunction, everyone, fitted, means)
    tests = connected_moments(wavefunction, everyone, measured, means)
    diagonal: dict[str, Tensor] = {}
    request = Request(hamiltonian, lattice or hamiltonian.lattice, also=also)
    for observable in applicable(request):
        if isinstance(observable, Diagonal):
            diagonal |= observable.values(drawn.configs)
    found = []
    for i, other in enumerate(others, start=1):
        assert other.n_sites == hamiltonian.n_sites
        deviations = energies[i] - means[i]
        step = best_step(*fits[i], fitted)
        gain = lanczos_gain(step, *tests[i], measured)
        energy = weighted_mean(energies[i].real, None, drawn)
        improved = Estimate(
            energy.value + gain.value, (energy.error.square() + gain.error.square()).sqrt()
        )
        weights = (1 + step * deviations).abs().square()
        observables = {"density": drawn.configs.to(torch.float64)} | diagonal
        found.append(
            Neighbour(
                energy=energy,
                difference=weighted_mean((energies[i] - energies[0]).real, None, drawn),
                variance=float(drawn.weights @ deviations.abs().square()),
                improved=improved,
                step=step,
                effective_samples=effective_sample_size(weights, drawn),
                n_samples=drawn.n_samples,
                observables={
                    name: weighted_mean(values, weights, drawn)
                    for name, values in observables.items()
                },
            )
        )
    return found


@torch.no_grad()
def shared_local_energies(
    wavefunction: Wavefunction, hamiltonians: Sequence[Hamiltonian], samples: Samples
) -> Tensor:
    """E_loc (L, U) of several Hamiltonians with the same flips: ln psi is evaluated once."""
    parts = []
    for begin in range(0, len(samples.configs), CHUNK):
        some = slice(begin, begin + CHUNK)
        configs, log_psi = samples.configs[some], samples.log_psi[some]
        elements, log_ratios = shared_connections(wavefunction, hamiltonians, configs, log_psi)
        rows = [
            local_energy(hamiltonian, configs, element, log_ratios)
            for hamiltonian, element in zip(hamiltonians, elements, strict=True)
        ]
        parts.append(torch.stack(rows))
    return torch.cat(parts, dim=1)


def shared_connections(
    wavefunction: Wavefunction,
    hamiltonians: Sequence[Hamiltonian],
    configs: Tensor,
    log_psi: Tensor,
) -> tuple[list[Tensor], Tensor]:
    """<s|H|s xor f_g> of each Hamiltonian, and ln psi(s xor f_g) / psi(s): (U, G) each."""
    flips = hamiltonians[0].flips
    if not all(torch.equal(flips, hamiltonian.flips) for hamiltonian in hamiltonians):
        raise ValueError("couplings that add or take away whole terms cannot be compared")
    elements = [hamiltonian.off_diagonal(configs) for hamiltonian in hamiltonians]
    needed = torch.stack([element != 0 for element in elements]).any(0)
    return elements, wavefunction.log_psi_flipped(configs, flips, needed) - log_psi[:, None]


@torch.no_grad()
def connected_moments(
    wavefunction: Wavefunction,
    hamiltonians: Sequence[Hamiltonian],
    samples: Samples,
    means: Sequence[float],
) -> list[tuple[Tensor, Tensor]]:
    """e and g (U,) of each Hamiltonian (formulas at the head of this file)."""
    configs, log_psi = samples.configs, samples.log_psi
    elements, log_ratios = shared_connections(wavefunction, hamiltonians, configs, log_psi)
    flips = hamiltonians[0].flips
    reached = log_ratios.real > -torch.inf  # (U, G)
    row, term = reached.nonzero(as_tuple=True)
    beyond = configs[row] ^ flips[term]
    beyond, place = torch.unique(beyond, dim=0, return_inverse=True)
    ones = torch.ones(len(beyond), dtype=torch.int64, device=configs.device)
    log_beyond = torch.cat([wavefunction.log_psi(part) for part in beyond.split(CHUNK)])
    energies = shared_local_energies(
        wavefunction, hamiltonians, Samples(beyond, ones, log_beyond)
    )  # (L, connected)
    found = []
    for i, (hamiltonian, element) in enumerate(zip(hamiltonians, elements, strict=True)):
        here = local_energy(hamiltonian, configs, element, log_ratios) - means[i]
        there = torch.zeros_like(log_ratios)
        there[row, term] = energies[i][place].to(there.dtype) - means[i]
        flow = torch.where(element == 0, 0.0, terms(element, log_ratios) * there)
        found.append((here, (hamiltonian.diagonal(configs) - means[i]) * here + flow.sum(1)))
    return found


def best_step(e: Tensor, g: Tensor, samples: Samples) -> float:
    """The `a` of lowest energy, from the moments m_k = <(H' - E')^k>.

    E_a - E' = (m1 + 2 a m2 + a^2 m3) / (1 + 2 a m1 + a^2 m2), its smaller stationary value.
    """
    weights = samples.weights
    m1 = float(weights @ e.real)
    m2 = float(weights @ e.abs().square())
    m3 = float(weights @ (e.conj() * g).real)
    if m2 - m1**2 <= 1e-14 * (1 + m1**2):
        return 0.0  # an eigenstate
    # derivative = 0: square a^2 + linear a + constant = 0
    square, linear, constant = m1 * m3 - m2**2, m3 - m1 * m2, m2 - m1**2
    root = max(linear**2 - 4 * square * constant, 0.0) ** 0.5
    larger = -(linear + (root if linear >= 0 else -root)) / 2  # no cancellation
    steps = [constant / larger] if larger else []
    if square:
        steps.append(larger / square)

    def energy(a: float) -> float:
        return (m1 + 2 * a * m2 + a**2 * m3) / (1 + 2 * a * m1 + a**2 * m2)

    return min(steps, key=energy, default=0.0)


def lanczos_gain(step: float, e: Tensor, g: Tensor, samples: Samples) -> Estimate:
    """E_a - E' (negative) and its standard error; E' from the same draws, so that noise cancels."""
    weights = samples.weights
    norms = (1 + step * e).abs().square()
    values = ((1 + step * e).conj() * (e + step * g)).real
    norm = weights @ norms
    energy = (weights @ values) / norm
    mean = weights @ e.real
    residuals = (values - energy * norms) / norm - (e.real - mean)
    return Estimate(energy - mean, _standard_error(residuals, samples))


def weighted_mean(values: Tensor, weights: Tensor | None, samples: Samples) -> Estimate:
    """<w x> / <w> for values (U, ...) and weights (U,), None is 1, and its standard error.

    The error of a ratio of means: that of the residuals w (x - <x>_w) / <w>.
    """
    values = values.to(torch.float64)
    share = torch.ones_like(samples.weights) if weights is None else weights
    norm = samples.weights @ share
    mean = torch.tensordot(samples.weights * share, values, dims=1) / norm
    scale = (share / norm).view(-1, *[1] * (values.dim() - 1))
    return Estimate(mean, _standard_error(scale * (values - mean), samples))


def _standard_error(residuals: Tensor, samples: Samples) -> Tensor:
    """sqrt(<r^2> / (n - 1)) of residuals (U, ...) with mean 0."""
    squares = torch.tensordot(samples.weights, residuals.square(), dims=1)
    return (squares / max(samples.n_samples - 1, 1)).sqrt()


def effective_sample_size(weights: Tensor, samples: Samples) -> float:
    """(sum w)^2 / sum w^2 over all draws."""
    counts = samples.counts.to(torch.float64)
    weights = weights.to(torch.float64)
    return float((counts @ weights).square() / (counts @ weights.square()))
