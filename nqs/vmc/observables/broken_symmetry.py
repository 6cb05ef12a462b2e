"""How much of a state is left when it is averaged over the symmetries of its Hamiltonian.

With G the symmetries (`hamiltonians.symmetries`) and P = (1/|G|) sum_g g the projection onto the
states that all of them leave as they are,

    symmetric_weight  W = <psi|P|psi> = (1/|G|) sum_g <psi|g psi>
                        = < cos(phi) / cosh(x) >,   x + i phi = ln psi(g s) - ln psi(s)

over draws s of |psi|^2 and random elements g. (The mean of psi(g s) / psi(s) over the pair of s and
g s, each with its share of the pair's probability, as for <sigma^x>: bounded, so that few draws do;
an element and its inverse, which are as likely, share the rest.) W is the largest overlap
|<psi|phi>|^2 with any symmetric phi: no more of psi can be a ground state that has the symmetries.
A stoquastic H has such a ground state, and this is measured for those alone. W is 1/2 for one of
two patterns, (1 + <psi|g psi>) / 2 for a single symmetry; in large systems small errors multiply,
and it falls without any order.

Where the state is not symmetric, what is measured in it depends on the pattern that it has taken.
So there are besides the density and the correlations of the symmetric state with the probability

    p(s) = (1/|G|) sum_g |psi(g s)|^2

a draw of which is a draw of |psi|^2 after a random element. For psi >= 0 and a stoquastic H its
energy is not above that of psi (sums of -sqrt(p p') are convex), and its overlap with a symmetric
ground state not below (sums of sqrt(p) psi_0 are concave).
"""

from __future__ import annotations

from typing import Final, final

import torch
from torch import Tensor

from hamiltonians.lattices.symmetry_group import SymmetryGroup
from hamiltonians.symmetries import symmetries
from nqs.vmc.observables.correlations import Correlations
from nqs.vmc.observables.observable import (
    Connections,
    Observable,
    Picture,
    Quantity,
    Request,
)
from nqs.vmc.observables.sigma_x import bounded
from nqs.vmc.ranks import Ranks
from nqs.vmc.residual import places_of
from nqs.vmc.statistics import Estimate, RunningMoments
from nqs.wavefunctions.wavefunction import Samples, Wavefunction, merged

ELEMENTS: Final = 256
"""Most symmetries that are tried."""
DRAWS: Final = 16_384
"""Draws of a process after which the weight is known well enough."""
SYMMETRIC: Final = 0.99
"""Weight of a state that counts as symmetric."""
CLEAR: Final = 3.0
"""Standard errors that a weight must lie below it; of one number."""
SEED: Final = 0x53594D4D
"""What tells the random elements from the draws."""


@final
class BrokenSymmetry(Observable, kind="broken_symmetry"):
    """The weight, and the symmetric state's averages where it is clearly below SYMMETRIC."""

    quantities = (
        Quantity("symmetric_weight", "1", "<psi|P|psi>, P the mean of the symmetries of H"),
        Quantity(
            "symmetric_density",
            "1",
            "<n_i> of the state with the mean probability of all images, (N,)",
            Picture("sites", r"$\langle n_i\rangle$ of all images"),
        ),
        Quantity(
            "symmetric_connected",
            "1",
            "<n_i n_j> - <n_i> <n_j> of that state, (N, N)",
            Picture("pairs", r"connected, of all images"),
        ),
    )

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        wavefunction = request.wavefunction
        assert wavefunction is not None
        n_up, n_sites = wavefunction.n_up, wavefunction.n_sites
        spin_flip = n_up is None or 2 * n_up == n_sites
        self.group = symmetries(
            request.hamiltonian, request.lattice, limit=ELEMENTS, spin_flip=spin_flip
        )
        self.by_construction = is_invariant(wavefunction, self.group)
        self.weight = RunningMoments()
        self.correlations = Correlations(request)
        device = request.hamiltonian.flips.device
        self.generator = torch.Generator(device)
        self.generator.manual_seed(request.generator.initial_seed() ^ SEED)

    @classmethod
    def applies(cls, request: Request) -> bool:
        """Where the ground state is known to have the symmetries."""
        return request.wavefunction is not None and request.hamiltonian.is_stoquastic

    def add(self, samples: Samples, connections: Connections) -> None:
        """See Observable.add; each draw with a random element of its own."""
        if self.by_construction or len(self.group) == 1:
            self.weight.add(torch.ones_like(samples.counts), samples.counts)
            return
        n_elements, counts = len(self.group), samples.counts
        rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        elements = torch.randint(
            n_elements, rows.shape, generator=self.generator, device=rows.device
        )
        pairs, counts = torch.unique(rows * n_elements + elements, return_counts=True)
        rows, elements = pairs // n_elements, pairs % n_elements
        images = self.group.act(samples.configs[rows], elements)
        if self.weight.n < DRAWS:
            ratios = self._log_psi(images) - samples.log_psi[rows]
            self.weight.add(bounded(ratios), counts)
        self.correlations.count(*merged(images, counts))

    @torch.no_grad()
    def _log_psi(self, configs: Tensor) -> Tensor:
        """(U,), in parts."""
        wavefunction = self.request.wavefunction
        assert wavefunction is not None
        parts = configs.split(self.request.max_rows)
        return torch.cat([wavefunction.log_psi(part) for part in parts])

    def join(self, ranks: Ranks) -> None:
        self.weight.join(ranks)
        if not self.by_construction and len(self.group) > 1:
            self.correlations.join(ranks)

    def estimates(self) -> dict[str, Estimate]:
        """symmetric_weight; of a broken symmetry symmetric_density (N,) and symmetric_connected
        (N, N); none where H has no symmetry."""
        if len(self.group) == 1:
            return {}
        weight = self.weight.estimate()
        found = {"symmetric_weight": weight}
        if is_broken(float(weight.value), float(weight.error)):
            of_all = self.correlations.estimates()
            found |= {f"symmetric_{name}": of_all[name] for name in ("density", "connected")}
        return found

    def expectation(self, configs: Tensor, amplitudes: Tensor) -> dict[str, Tensor]:
        """The mean of <psi|g psi> over the elements, and averages over all images, of which
        `configs` must hold those with psi != 0."""
        if len(self.group) == 1:
            return {}
        overlap, chances = amplitudes.real.new_zeros(()), torch.zeros_like(amplitudes.real)
        for permutation, inverted in self.group:
            places = places_of(configs[:, permutation.to(configs.device)] ^ inverted, configs)
            images = torch.where(places < 0, 0.0, amplitudes[places.clamp(min=0)])  # (M,)
            overlap = overlap + (amplitudes.conj() * images).real.sum()
            chances = chances + images.abs().square()
        weight = overlap / len(self.group)
        found = {"symmetric_weight": weight.to(torch.float64)}
        if is_broken(float(weight), 0.0):
            root = (chances / len(self.group)).sqrt()
            of_all = self.correlations.expectation(configs, root)
            found |= {f"symmetric_{name}": of_all[name] for name in ("density", "connected")}
        return found


def is_broken(weight: float, error: float) -> bool:
    """Whether a state with this weight, and its standard error, is clearly not symmetric."""
    return weight + CLEAR * error < SYMMETRIC


def is_invariant(wavefunction: Wavefunction, group: SymmetryGroup) -> bool:
    """Whether psi has all of the group's symmetries by construction."""
    own = wavefunction.symmetry
    return own.is_trivial and all(element in own for element in group.generating_set())
