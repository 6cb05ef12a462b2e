"""Local energies E_loc(s) = sum_s' <s|H|s'> psi(s') / psi(s), for every model and Hamiltonian."""

from __future__ import annotations

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from nqs.vmc.energies.rounding import rounded_products
from nqs.wavefunctions.wavefunction import Samples, Wavefunction


@torch.no_grad()
def local_energies(
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    samples: Samples,
    *,
    max_rows: int = 32_768,
    precision: str = "full",
) -> Tensor:
    """E_loc of each row -> (U,): complex128 for complex psi, Re E_loc in float64 for real psi.

    For real psi the imaginary part of a Hermitian H averages to zero and is dropped; for complex
    psi it averages to zero as well, but the gradient needs it row by row.
    Terms whose matrix element vanishes are never evaluated, and stay out of the sum even where
    the ratio of amplitudes is infinite. precision: of the
    matrix products, see nqs.vmc.energies.rounding.
    """
    elements, log_ratios = connected(
        wavefunction, hamiltonian, samples, max_rows, precision=precision
    )
    return local_energy(hamiltonian, samples.configs, elements, log_ratios)


def connected(
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    samples: Samples,
    max_rows: int,
    *,
    precision: str = "full",
) -> tuple[Tensor, Tensor]:
    """<s|H|s xor f_g> and ln psi(s xor f_g) / psi(s), both (U, G).

    Both amplitudes of a ratio come from the same products: then the rounding of cheaper ones
    biases the energy to second order only.
    """
    elements = hamiltonian.off_diagonal(samples.configs)
    acting = None if elements.stride(0) == 0 else elements != 0  # stride 0: a constant of the terms
    with rounded_products(precision, samples.configs.device):
        log_flipped = wavefunction.log_psi_flipped(
            samples.configs, hamiltonian.flips, acting, max_rows=max_rows
        )
        log_psi = samples.log_psi
        if precision != "full":  # 2 / N of the flips' work
            log_psi = wavefunction.log_psi(samples.configs)
    return elements, log_flipped - log_psi[:, None]


def local_energy(
    hamiltonian: Hamiltonian, configs: Tensor, elements: Tensor, log_ratios: Tensor
) -> Tensor:
    """E_loc (U,) from the elements and log ratios (U, G) of `connected`; Re E_loc for real psi."""
    return hamiltonian.diagonal(configs) + terms(elements, log_ratios).sum(1)


def terms(elements: Tensor, log_ratios: Tensor) -> Tensor:
    """H_g psi_g / psi (any shape), 0 where H_g is; the real part for real psi."""
    if not log_ratios.is_complex():
        elements = elements.real
    return torch.where(elements == 0, 0.0, elements * log_ratios.exp())


def magnitudes(elements: Tensor, log_ratios: Tensor) -> Tensor:
    """sum_g |H_g psi_g / psi| (U,): times the rounding of a ratio, that of E_loc at most."""
    sizes = elements.abs() * log_ratios.real.exp()
    return torch.where(elements == 0, 0.0, sizes).sum(1)
