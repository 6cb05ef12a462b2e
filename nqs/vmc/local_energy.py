"""Local energies E_loc(s) = sum_s' <s|H|s'> psi(s') / psi(s), for every model and Hamiltonian."""

from __future__ import annotations

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from nqs.wavefunctions.wavefunction import Samples, Wavefunction


@torch.no_grad()
def local_energies(
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    samples: Samples,
    *,
    max_rows: int = 32_768,
) -> Tensor:
    """Re E_loc of each row -> (U,) float64.

    For real psi the imaginary part of a Hermitian H averages to zero and is dropped.
    Terms whose matrix element vanishes are never evaluated, and stay out of the sum even where
    the ratio of amplitudes is infinite.
    """
    configs = samples.configs
    elements = hamiltonian.off_diagonal(configs)  # (U, G)
    acting = None if elements.stride(0) == 0 else elements != 0  # stride 0: a constant of the terms
    log_flipped = wavefunction.log_psi_flipped(
        configs, hamiltonian.flips, acting, max_rows=max_rows
    )  # (U, G)
    ratios = (log_flipped - samples.log_psi[:, None]).exp()
    terms = torch.where(elements == 0, 0.0, elements.real * ratios)
    return hamiltonian.diagonal(configs) + terms.sum(1)
