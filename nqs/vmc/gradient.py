"""Energy gradient by the log-derivative trick, and parameters as one flat vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from nqs.wavefunctions.wavefunction import Samples, Wavefunction


def energy_gradient(
    wavefunction: Wavefunction, samples: Samples, local_energies: Tensor, *, chunk: int = 4_096
) -> Tensor:
    """dE/dtheta = 2 <(E_loc - E) d ln psi / dtheta> for real psi -> (P,) in parameter order.

    The weighted mean energy of all samples is the baseline: it leaves the mean unchanged
    (<d ln psi> = 0) and makes the estimator's variance vanish at an eigenstate. Samples pass
    through the network `chunk` rows at a time.
    """
    weights = samples.weights
    energy = weights @ local_energies
    factors = 2.0 * weights * (local_energies - energy)  # (U,)
    wavefunction.zero_grad(set_to_none=True)
    for rows in torch.arange(len(factors), device=factors.device).split(chunk):
        surrogate = factors[rows] @ wavefunction.log_psi(samples.configs[rows]).to(torch.float64)
        surrogate.backward()
    return flat_gradient(wavefunction)


def flat_gradient(module: nn.Module) -> Tensor:
    """All gradients of a module in one vector (P,); zeros where there is none."""
    return torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1)
            for p in module.parameters()
        ]
    )


@torch.no_grad()
def add_to_parameters(module: nn.Module, update: Tensor) -> None:
    """theta <- theta + update, with update (P,) in the order of module.parameters()."""
    begin = 0
    for parameter in module.parameters():
        end = begin + parameter.numel()
        parameter.add_(update[begin:end].view_as(parameter).to(parameter.dtype))
        begin = end


def flat_parameters(module: nn.Module) -> Tensor:
    """All parameters of a module in one vector (P,), detached."""
    return parameters_to_vector(module.parameters()).detach()
