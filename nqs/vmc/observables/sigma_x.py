"""<sigma^x_i> of every site, from the ratios r = psi(s with bit i flipped) / psi(s) of draws of
|psi|^2: the mean of

    2 Re r / (1 + |r|^2)

which lies in [-1, 1]. It is the mean of Re r over the pair of s and s flipped, each with its share
of the pair's probability; Re r itself has the same mean, but a tail where psi(s) is small, which
makes error bars of few draws too small.

psi belongs to the rotated Hamiltonian (`Hamiltonian.rotated`): the signs are turned back here.

Hamiltonians with a transverse field (Rydberg atoms, Ising) need these ratios for the local energy
already; only those they do not provide are computed here.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from nqs.vmc.observables.observable import (
    Connections,
    Observable,
    Picture,
    Quantity,
    Request,
)
from nqs.vmc.ranks import Ranks
from nqs.vmc.residual import places_of
from nqs.vmc.statistics import Estimate, RunningMoments
from nqs.wavefunctions.wavefunction import Samples, Wavefunction


@final
class SigmaX(Observable, kind="sigma_x"):
    """Running mean of the N ratios. Where the number of 1 bits is fixed it is 0, without work."""

    quantities = (
        Quantity(
            "sigma_x",
            "1",
            "<sigma^x_i>, (N,)",
            Picture("sites", r"$\langle\sigma^x_i\rangle$"),
        ),
    )

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        hamiltonian = request.hamiltonian
        self.single_flips = single_flips(hamiltonian)  # (N,)
        self.signs = hamiltonian.x_signs.to(hamiltonian.flips.device)  # (N,)
        self.moments = RunningMoments()

    @classmethod
    def applies(cls, request: Request) -> bool:
        """Where it is asked for, or comes with the energy and is not refused."""
        if request.thorough is not None or request.wavefunction is None:
            return request.thorough is not False
        return comes_with_the_energy(request.wavefunction, request.hamiltonian)

    def add(self, samples: Samples, connections: Connections) -> None:
        wavefunction = self.request.wavefunction
        assert wavefunction is not None
        if wavefunction.n_up is not None:
            zeros = torch.zeros(samples.configs.shape, device=samples.configs.device)
            self.moments.add(zeros, samples.counts)
            return
        ratios = bounded(self._log_ratios(wavefunction, samples, *connections))
        self.moments.add(self.signs * ratios, samples.counts)

    def _log_ratios(
        self, wavefunction: Wavefunction, samples: Samples, elements: Tensor, log_ratios: Tensor
    ) -> Tensor:
        """ln psi(s xor e_i) / psi(s), (U, N)."""
        places = self.single_flips.clamp(min=0)
        if not len(elements.T):  # nothing flips: no column to take
            elements = log_ratios = samples.log_psi.new_zeros(len(samples.configs), 1)
        known = (elements[:, places] != 0) & (self.single_flips >= 0)  # (U, N)
        ratios = log_ratios[:, places]
        if bool(known.all()):
            return ratios
        singles = torch.eye(len(places), dtype=torch.bool, device=samples.configs.device)
        missing = wavefunction.log_psi_flipped(
            samples.configs, singles, ~known, max_rows=self.request.max_rows
        )
        return torch.where(known, ratios, missing - samples.log_psi[:, None])

    def join(self, ranks: Ranks) -> None:
        self.moments.join(ranks)

    def estimates(self) -> dict[str, Estimate]:
        """sigma_x (N,)."""
        return {"sigma_x": self.moments.estimate()}

    def expectation(self, configs: Tensor, amplitudes: Tensor) -> dict[str, Tensor]:
        """sum_s Re psi(s)* psi(s with bit i flipped), with the signs of rotated sites."""
        values = []
        for i in range(configs.shape[1]):
            flipped = configs.clone()
            flipped[:, i] ^= True
            place = places_of(flipped, configs)  # (M,), -1 where psi is 0
            partner = torch.where(place < 0, 0.0, amplitudes[place.clamp(min=0)])
            values.append((amplitudes.conj() * partner).real.sum())
        return {"sigma_x": self.signs * torch.stack(values).to(torch.float64)}


def bounded(log_ratios: Tensor) -> Tensor:
    """2 Re r / (1 + |r|^2) = cos(arg r) / cosh(ln |r|) of ln r, any shape; float64."""
    values = 1 / log_ratios.real.to(torch.float64).cosh()
    return values * log_ratios.imag.cos() if log_ratios.is_complex() else values


def single_flips(hamiltonian: Hamiltonian) -> Tensor:
    """(N,) int64: which flip of the Hamiltonian is that of site i alone, -1 if none."""
    flips = hamiltonian.flips
    columns = torch.full((hamiltonian.n_sites,), -1, device=flips.device)
    alone = (flips.sum(1) == 1).nonzero().squeeze(1)
    columns[flips[alone].to(torch.int8).argmax(1)] = alone
    return columns


def comes_with_the_energy(wavefunction: Wavefunction, hamiltonian: Hamiltonian) -> bool:
    """Whether the local energies hold all ratios anyway, or all of them vanish."""
    if wavefunction.n_up is not None:
        return True
    constant = hamiltonian.constant_off_diagonal is not None
    return constant and bool((single_flips(hamiltonian) >= 0).all())
