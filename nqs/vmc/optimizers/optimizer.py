"""From samples and local energies to a parameter update.

The one interface every optimizer implements; the loop adds what it returns. State is a flat dict of
tensors and numbers, so that a checkpoint restores it exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from nqs.vmc.columns import Column
from nqs.vmc.optimizers.gradient import energy_gradient
from nqs.vmc.optimizers.schedules import Schedule
from nqs.vmc.ranks import ALONE, Ranks
from nqs.wavefunctions.wavefunction import Samples, Wavefunction


class Optimizer(ABC):
    """Maps (samples with weights, local energies) to an update of the flat parameter vector.

    Attributes:
        columns: what `diagnostics` holds.
        diagnostics: figures of the last update.
    """

    columns: ClassVar[tuple[Column, ...]] = (
        Column("gradient_norm", "couplings", "norm of the energy's gradient"),
        Column("learning_rate", "1", "learning rate of the step"),
    )
    diagnostics: dict[str, float]

    @abstractmethod
    def update(
        self,
        wavefunction: Wavefunction,
        samples: Samples,
        local_energies: Tensor,
        ranks: Ranks = ALONE,
    ) -> Tensor:
        """The increment of the parameters, (P,) in the order of wavefunction.parameters().

        Samples and local energies are those of all ranks, on each of them.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything the next update depends on: tensors, numbers and None."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned."""


@final
class Adam(Optimizer):
    """Adam (Kingma & Ba, arXiv:1412.6980) on the energy gradient, with schedule and clipping.

    Args:
        learning_rate: step of the first iteration (after any warm-up), > 0.
        beta1, beta2: decay of the first and second moments, in [0, 1).
        eps: added to the root of the second moment.
        clip_norm: gradients longer than this are shortened to it; None leaves them.
        schedule: factor on the learning rate per step; constant by default.
    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        clip_norm: float | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if not learning_rate > 0:
            raise ValueError(f"learning_rate={learning_rate} must be positive")
        if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
            raise ValueError(f"beta1={beta1} and beta2={beta2} must be in [0, 1)")
        if not eps > 0:
            raise ValueError(f"eps={eps} must be positive")
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm={clip_norm} must be positive or null")
        self.learning_rate, self.beta1, self.beta2 = learning_rate, beta1, beta2
        self.eps, self.clip_norm = eps, clip_norm
        self.schedule = schedule or Schedule()
        self.step = 0
        self.first: Tensor | None = None
        self.second: Tensor | None = None
        self.diagnostics = {}

    def update(
        self,
        wavefunction: Wavefunction,
        samples: Samples,
        local_energies: Tensor,
        ranks: Ranks = ALONE,
    ) -> Tensor:
        gradient = energy_gradient(wavefunction, samples, local_energies, ranks=ranks)
        norm = float(gradient.norm())
        if self.clip_norm is not None and norm > self.clip_norm:
            gradient *= self.clip_norm / norm
        rate = self.learning_rate * self.schedule(self.step)
        self.diagnostics = {"gradient_norm": norm, "learning_rate": rate}
        return -rate * self._direction(gradient)

    def _direction(self, gradient: Tensor) -> Tensor:
        """Bias-corrected first moment over the root of the second, (P,)."""
        if self.first is None or self.second is None:
            self.first, self.second = torch.zeros_like(gradient), torch.zeros_like(gradient)
        self.step += 1
        self.first = torch.lerp(gradient, self.first, self.beta1)
        self.second = torch.lerp(gradient.square(), self.second, self.beta2)
        first = self.first / (1 - self.beta1**self.step)
        second = self.second / (1 - self.beta2**self.step)
        return first / (second.sqrt() + self.eps)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "first": self.first, "second": self.second}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.first, self.second = state["step"], state["first"], state["second"]
