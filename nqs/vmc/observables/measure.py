"""What is measured besides the energy: the common interface, and averages of one value per
configuration.

sigma^z = 1 - 2 n (bit 1 is the excited atom, or spin down). All are per site: values in [-1, 1].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from hamiltonians.lattices.lattice import Lattice
from nqs.vmc.observables.momenta import ordering_wavevectors
from nqs.vmc.ranks import Ranks
from nqs.vmc.statistics import Estimate, RunningMoments
from nqs.wavefunctions.wavefunction import Samples

Connections = tuple[Tensor, Tensor]
"""<s|H|s xor f_g> and ln psi(s xor f_g) / psi(s) of each draw, both (U, G)."""


class Measurement(ABC):
    """One or more observables, accumulated over a stream of draws of |psi|^2."""

    @abstractmethod
    def add(self, samples: Samples, connections: Connections) -> None:
        """Draws (U, N) with counts, and what their local energies are made of."""

    @abstractmethod
    def join(self, ranks: Ranks) -> None:
        """Takes in the draws of all ranks; each has added some of its own, none will add more."""

    @abstractmethod
    def estimates(self) -> dict[str, Estimate]:
        """Value and standard error of each observable."""

    def coordinates(self) -> dict[str, Tensor]:
        """What the entries of an observable belong to, where that is not one or two sites."""
        return {}


@final
class DiagonalAverages(Measurement):
    """Averages of `diagonal_observables` and `order_parameters`; no lattice: those without."""

    def __init__(self, lattice: Lattice | None) -> None:
        self.signs = None if lattice is None else lattice.sublattice_signs()
        self.positions = None if lattice is None else lattice.positions
        self.wavevectors = {} if lattice is None else ordering_wavevectors(lattice)
        self.moments: dict[str, RunningMoments] = {}

    def add(self, samples: Samples, connections: Connections) -> None:
        """See Measurement.add."""
        values = diagonal_observables(samples.configs, self.signs)
        if self.positions is not None:
            values |= order_parameters(samples.configs, self.positions, self.wavevectors)
        for name, value in values.items():
            self.moments.setdefault(name, RunningMoments()).add(value, samples.counts)

    def join(self, ranks: Ranks) -> None:
        """See Measurement.join."""
        for moments in self.moments.values():
            moments.join(ranks)

    def estimates(self) -> dict[str, Estimate]:
        """See Measurement.estimates; scalars."""
        return {name: moments.estimate() for name, moments in self.moments.items()}


def diagonal_observables(configs: Tensor, sublattice_signs: Tensor | None) -> dict[str, Tensor]:
    """Values for configs (U, N) bool, (U,) float64 each.

    excitation_fraction: (1/N) sum n_i; magnetisation: m = (1/N) sum sigma^z_i, with
    abs_magnetisation |m| and squared_magnetisation m^2; and where the lattice is bipartite, with
    signs (N,) of +-1, staggered_magnetisation (1/N) sum signs_i sigma^z_i, its absolute value and
    its square.
    """
    density = configs.to(torch.float64)
    spins = 1 - 2 * density
    values = {"excitation_fraction": density.mean(1)}
    values |= _moments("magnetisation", spins.mean(1))
    if sublattice_signs is not None:
        signs = sublattice_signs.to(spins)
        values |= _moments("staggered_magnetisation", (spins * signs).mean(1))
    return values


def _moments(name: str, m: Tensor) -> dict[str, Tensor]:
    return {name: m, f"abs_{name}": m.abs(), f"squared_{name}": m.square()}


def order_parameters(
    configs: Tensor, positions: Tensor, wavevectors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """|(1/N) sum_i exp(i k r_i) n_i| averaged over the star of k (m, d) of each order; (U,).

    Names are `<order>_order`, orders those of `ordering_wavevectors`. Times sqrt(N) it is the
    symmetrised Fourier transform of Ebadi et al., arXiv:2012.12281. The modulus is taken of each
    draw: the superposition of all translations of an order keeps it. Without order it falls as
    1 / sqrt(N).
    """
    density = configs.to(torch.float64) / configs.shape[1]  # (U, N)
    values = {}
    for name, star in wavevectors.items():
        phases = (positions @ star.T).to(density)  # (N, m)
        components = torch.complex(density @ phases.cos(), density @ phases.sin())  # (U, m)
        values[f"{name}_order"] = components.abs().mean(1)
    return values
