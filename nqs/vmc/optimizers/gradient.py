"""Energy gradient by the log-derivative trick, and parameters as one flat vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from nqs.vmc.ranks import ALONE, Ranks
from nqs.wavefunctions.wavefunction import Samples, Wavefunction

MOST_ROWS = 4_096
"""Rows of a pass at most: what a GPU is filled by."""
CACHED_WORK = 5 * 10**9
"""Parameters times sites times rows of a pass on a CPU, a measure of its activations and time."""


def energy_gradient(
    wavefunction: Wavefunction,
    samples: Samples,
    local_energies: Tensor,
    *,
    chunk: int | None = None,
    ranks: Ranks = ALONE,
) -> Tensor:
    """dE/dtheta = 2 Re <(d ln psi / dtheta)* (E_loc - E)> -> (P,) in parameter order.

    For complex psi of real parameters: 2 <Re(E_loc - E) d Re ln psi + Im(E_loc - E) d Im ln psi>.
    The weighted mean energy of all samples is the baseline: it leaves the mean unchanged
    (<d ln psi> = 0) and makes the estimator's variance vanish at an eigenstate. Samples pass
    through the network `chunk` rows at a time (None: `rows_at_once`), each rank's share of them
    there.
    """
    chunk = rows_at_once(wavefunction, samples.configs) if chunk is None else chunk
    weights = samples.weights
    factors = 2.0 * weights * centred(local_energies, weights)  # (U,)
    wavefunction.zero_grad(set_to_none=True)
    places = torch.arange(len(factors), device=factors.device)
    for rows in places[ranks.share(len(factors))].split(chunk):
        inner_product(factors[rows], wavefunction.log_psi(samples.configs[rows])).backward()
    return ranks.sum(flat_gradient(wavefunction))


def rows_at_once(wavefunction: Wavefunction, configs: Tensor) -> int:
    """Rows of a forward and backward pass.

    A CPU takes fewer of a large network: activations that fit its caches and the memory the process
    already holds, instead of fresh pages for every tensor.
    """
    if configs.device.type != "cpu":
        return MOST_ROWS
    size = sum(p.numel() for p in wavefunction.parameters()) * configs.shape[1]
    return min(MOST_ROWS, max(1, CACHED_WORK // size))


def centred(values: Tensor, weights: Tensor) -> Tensor:
    """values (U,), real or complex, minus their weighted mean."""
    return values - weights.to(values.dtype) @ values


def inner_product(factors: Tensor, log_psi: Tensor) -> Tensor:
    """Re sum_s factors_s* ln psi_s, a float64 scalar, for real or complex ln psi (B,)."""
    pairs = zip(real_parts(factors), real_parts(log_psi), strict=True)
    return torch.stack([factor @ part.to(torch.float64) for factor, part in pairs]).sum()


def real_parts(values: Tensor) -> tuple[Tensor, ...]:
    """(Re, Im) of complex values, (values,) of real ones."""
    return (values.real, values.imag) if values.is_complex() else (values,)


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
