"""Natural gradient (stochastic reconfiguration) in sample space, with momentum: minSR and SPRING.

With w_s the weights of the samples (counts / n) and weighted means,

    O_s = sqrt(w_s) (d ln psi_s / d theta - mean),      e_s = sqrt(w_s) (E_loc,s - E)
    delta = O^T (O O^T + lambda)^-1 e                    (Chen & Heyl, arXiv:2302.01941, eq. 3;
                                                          Rende et al., arXiv:2310.05715)
    theta <- theta - learning_rate * delta

which equals (O^T O + lambda)^-1 O^T e, imaginary-time evolution with step learning_rate, at the
cost of an N_s x N_s instead of a P x P system. SPRING (Goldshlager et al., arXiv:2401.10190)
subtracts what the last direction already explains:

    delta = O^T (O O^T + lambda)^-1 (e - mu O delta_old) + mu delta_old

(NetKet's SR step is twice as long at equal learning rate.)
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from nqs.vmc.gradient import flat_gradient
from nqs.vmc.layer_jacobians import LayerJacobians
from nqs.vmc.optimizers import Optimizer
from nqs.vmc.schedules import Schedule
from nqs.wavefunctions.wavefunction import Samples, Wavefunction

PANEL_COLUMNS = 4_096
"""Columns of the Jacobian contracted at a time: few products, yet the rows of a panel in cache."""


@final
class NaturalGradient(Optimizer):
    """minSR with SPRING momentum for real ln psi.

    Args:
        learning_rate: imaginary-time step, > 0.
        diagonal_shift: lambda, > 0, added to the quantum metric.
        momentum: mu in [0, 1); 0 is plain minSR.
        max_norm: trust region: the step is shortened so that sqrt(delta^T S delta) of the applied
            update, the standard deviation of the change of ln psi, is at most this; None is off.
        schedule, shift_schedule: factors on learning_rate and diagonal_shift per step.
        memory_gb: bound on the Jacobian columns held at a time.
    """

    def __init__(
        self,
        learning_rate: float = 0.05,
        *,
        diagonal_shift: float = 1e-3,
        momentum: float = 0.9,
        max_norm: float | None = None,
        schedule: Schedule | None = None,
        shift_schedule: Schedule | None = None,
        memory_gb: float = 1.0,
    ) -> None:
        if not learning_rate > 0:
            raise ValueError(f"learning_rate={learning_rate} must be positive")
        if not diagonal_shift > 0:
            raise ValueError(f"diagonal_shift={diagonal_shift} must be positive")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} must be in [0, 1)")
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm={max_norm} must be positive or null")
        if not memory_gb > 0:
            raise ValueError(f"memory_gb={memory_gb} must be positive")
        self.learning_rate, self.diagonal_shift, self.momentum = (
            learning_rate,
            diagonal_shift,
            momentum,
        )
        self.max_norm, self.memory_gb = max_norm, memory_gb
        self.schedule = schedule or Schedule()
        self.shift_schedule = shift_schedule or Schedule()
        self.step = 0
        self.direction: Tensor | None = None  # delta of the last step, (P,)
        self.diagnostics = {}

    def update(
        self, wavefunction: Wavefunction, samples: Samples, local_energies: Tensor
    ) -> Tensor:
        weights = samples.weights
        roots = weights.sqrt()  # (U,)
        residual = roots * (local_energies - weights @ local_energies)  # e, (U,)
        jacobians = LayerJacobians(wavefunction, samples.configs)
        gram, explained = self._contract(jacobians, weights)
        shift = self.diagonal_shift * self.shift_schedule(self.step)
        alpha = solve_shifted(gram, residual - self.momentum * explained, shift)
        delta = pull_back(wavefunction, samples, roots * alpha)
        if self.direction is not None:
            delta = delta + self.momentum * self.direction
        change = gram @ alpha + self.momentum * explained  # O delta, (U,)
        rate = self.learning_rate * self.schedule(self.step)
        rate *= self._shortening(rate * float(change.norm()))
        self.step += 1
        self.direction = delta
        force = float(pull_back_norm(gram, residual))
        self.diagnostics = {"gradient_norm": 2 * force, "learning_rate": rate}
        return -rate * delta

    def _contract(self, jacobians: LayerJacobians, weights: Tensor) -> tuple[Tensor, Tensor]:
        """O O^T (U, U) and O delta_old (U,), float64, one block of columns at a time."""
        n_rows = len(weights)
        gram = torch.zeros(n_rows, n_rows, dtype=torch.float64, device=weights.device)
        explained = torch.zeros(n_rows, dtype=torch.float64, device=weights.device)
        widest = max(1, min(PANEL_COLUMNS, int(self.memory_gb * 2**30 / (8 * n_rows))))
        for columns, panel in jacobians.panels(widest):
            shares = weights.to(panel.dtype)
            panel -= shares @ panel  # centre before contracting
            panel *= shares.sqrt()[:, None]
            add_gram(gram, panel)
            if self.direction is not None:
                explained += panel @ self.direction[columns].to(panel.dtype)
        return gram.tril() + gram.tril(-1).T, explained

    def _shortening(self, length: float) -> float:
        return 1.0 if self.max_norm is None or length <= self.max_norm else self.max_norm / length

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "direction": self.direction}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.direction = state["step"], state["direction"]


def add_gram(gram: Tensor, rows: Tensor, n_blocks: int = 3) -> None:
    """gram += rows rows^T on and below the block diagonal: 2/3 of the products for 3 blocks."""
    begin = 0
    for part in rows.chunk(n_blocks):
        end = begin + len(part)
        gram[begin:end, :end] += part @ rows[:end].T
        begin = end


def solve_shifted(gram: Tensor, right: Tensor, shift: float) -> Tensor:
    """(gram + shift)^-1 right by Cholesky in float64; by eigenvalues where rounding defeats it."""
    shifted = gram + shift * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    if not int(failed):
        return torch.cholesky_solve(right[:, None], factor).squeeze(1)
    values, vectors = torch.linalg.eigh(gram)
    return vectors @ ((vectors.T @ right) / (values.clamp(min=0) + shift))


def pull_back(
    wavefunction: Wavefunction, samples: Samples, factors: Tensor, *, chunk: int = 4_096
) -> Tensor:
    """O^T a for factors = sqrt(w) a (U,): one backward pass -> (P,) in parameter order."""
    centred = factors - samples.weights * factors.sum()
    wavefunction.zero_grad(set_to_none=True)
    for rows in torch.arange(len(factors), device=factors.device).split(chunk):
        log_psi = wavefunction.log_psi(samples.configs[rows])
        (centred[rows] @ log_psi.to(torch.float64)).backward()
    return flat_gradient(wavefunction)


def pull_back_norm(gram: Tensor, residual: Tensor) -> Tensor:
    """|O^T e| = sqrt(e^T O O^T e), half the norm of the energy gradient."""
    return (residual @ (gram @ residual)).clamp(min=0).sqrt()
