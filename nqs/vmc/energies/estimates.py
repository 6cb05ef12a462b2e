"""What a step learns from its samples: local energies, their noise, and what has no weight."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nqs.wavefunctions.wavefunction import Samples


@dataclass(frozen=True)
class Estimates:
    """Samples with their local energies.

    Attributes:
        samples: rows with counts and importance.
        e_loc: (U,) local energy of each row, as nqs.vmc.energies.local_energy.
        noise: (U,) float64, variance of each row's energy where that is itself an unbiased estimate
            (nqs.vmc.energies.near_flips), else None.
        outside: part of Var(H) in rows that were drawn beside the samples and left out, because psi
            vanishes there next to its neighbours (nqs.vmc.residual).
    """

    samples: Samples
    e_loc: Tensor
    noise: Tensor | None = None
    outside: float = 0.0
