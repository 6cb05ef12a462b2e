"""Order parameters of the phases of atom arrays, Fourier components of the density."""

from __future__ import annotations

from typing import Final, final

import torch
from torch import Tensor

from nqs.vmc.observables.diagonal import Diagonal
from nqs.vmc.observables.momenta import ordering_wavevectors
from nqs.vmc.observables.observable import Quantity, Request

STARS: Final = {
    "z2": "k = pi",
    "z3": "k = 2 pi / 3",
    "z4": "k = pi / 2",
    "checkerboard": "k = (pi, pi)",
    "striated": "k = (pi, 0), (0, pi)",
    "star": "k = (pi, pi/2), (pi/2, pi)",
    "m_point": "the three M points",
    "k_point": "three equivalent K points",
}
"""The wavevectors of each order, in words."""


@final
class OrderParameters(Diagonal, kind="order_parameters"):
    """Averages of `order_parameters`, of the orders that the lattice may have."""

    quantities = tuple(
        Quantity(f"{name}_order", "1", f"<|(1/N) sum_i exp(i k r_i) n_i|>, mean over {star}")
        for name, star in STARS.items()
    )

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        assert request.lattice is not None
        self.positions = request.lattice.positions
        self.wavevectors = ordering_wavevectors(request.lattice)

    @classmethod
    def applies(cls, request: Request) -> bool:
        """Where the sites have positions."""
        return request.lattice is not None

    def values(self, configs: Tensor) -> dict[str, Tensor]:
        return order_parameters(configs, self.positions, self.wavevectors)


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
