"""The imaginary time step that a Hamiltonian allows.

A natural-gradient step follows psi <- psi - dt (H - E) psi within what the network can represent.
States at an energy W above E change by 1 - dt W: beyond dt = 2 / W they grow, and the trust region
only slows that down. So dt belongs to the Hamiltonian and goes with 1 / (unit of energy).
(docs/decisions.md, Time steps.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian

LONGEST = 0.2
N_CONFIGURATIONS = 64


@torch.no_grad()
def time_step(hamiltonian: Hamiltonian) -> float:
    """dt = 0.2 N / sum_g w_g, at most 0.2; w_g = 2 max_s |<s|H|s xor f_g>|, the width of term g.

    Per site, as what a step changes is local. 0.2 for Rydberg atoms at Omega = 1, 0.1 / h in a
    transverse field h, and in a Heisenberg model, where w_g = 4 J, 0.05 on a ring and 0.025 on a
    square torus. Diagonal terms do not count: the states that they lift are not occupied.
    The largest elements are sought among random configurations, the same for every seed.
    """
    width = 2 * float(largest_elements(hamiltonian).sum()) / hamiltonian.n_sites
    return LONGEST / max(1.0, width)


def largest_elements(hamiltonian: Hamiltonian) -> Tensor:
    """(G,) largest |<s|H|s xor f_g>| among N_CONFIGURATIONS random s."""
    device = hamiltonian.flips.device
    generator = torch.Generator().manual_seed(0)
    shape = (N_CONFIGURATIONS, hamiltonian.n_sites)
    configs = (torch.rand(shape, generator=generator) < 0.5).to(device)
    return hamiltonian.off_diagonal(configs).abs().amax(0)
