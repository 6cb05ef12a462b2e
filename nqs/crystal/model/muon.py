"""Muon for matrices, AdamW for all else, as one optimizer.

A matrix W (n, m) with gradient G moves along its momentum M with all singular values made about 1,

    M <- mu M + (1 - mu) G,    N = mu M + (1 - mu) G,
    W <- (1 - lr lambda) W - lr sqrt(max(1, n / m)) O(N),
    O(U S V^T) = U S' V^T,  S' in 0.7 .. 1.2,

O by STEPS steps of Newton and Schulz (K. Jordan, kellerjordan.github.io/posts/muon; Liu et al.,
arXiv:2502.16982). `torch.optim.Muon` does the same in bfloat16, which a CPU without such units
multiplies several times slower than the float32 used here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, final

import torch
from torch import Tensor

ORTHOGONAL: Final = "orthogonal"
"""Key of the groups of parameters that are matrices to be moved by Muon; absent: AdamW."""
MOMENTUM: Final = 0.95
STEPS: Final = 5
COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial a x + b x^3 + c x^5, steepest at 0 (Jordan)."""


@final
class MuonAdamW(torch.optim.AdamW):
    """Parameters in groups; those of groups with "orthogonal": True are matrices for Muon.

    The other arguments are AdamW's."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; gradients of matrices are None after it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if not group.get(ORTHOGONAL, False):
                continue
            for matrix in group["params"]:
                if (gradient := matrix.grad) is not None:
                    self._move(matrix, gradient, group["lr"], group["weight_decay"])
                    matrix.grad = None
        super().step()
        return loss

    def _move(self, matrix: Tensor, gradient: Tensor, rate: float, decay: float) -> None:
        state = self.state[matrix]
        if not state:
            state["step"] = torch.zeros(())  # which AdamW asks of every state that it loads
            state["momentum"] = torch.zeros_like(matrix)
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        towards = orthogonalised(gradient.lerp(momentum, MOMENTUM))
        n_rows, n_columns = matrix.shape
        matrix.mul_(1 - rate * decay)
        matrix.add_(towards, alpha=-rate * max(1.0, n_rows / n_columns) ** 0.5)


def orthogonalised(matrix: Tensor) -> Tensor:
    """The matrix (n, m) with its singular values in about 0.7 .. 1.2, those far below the largest
    nearer to 0."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
