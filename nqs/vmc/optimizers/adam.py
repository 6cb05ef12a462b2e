"""Adam on the energy gradient (Kingma & Ba, arXiv:1412.6980): torch.optim.Adam, scheduled."""

from __future__ import annotations

from typing import Annotated, Any, Self, final

import torch
from torch import Tensor, nn

from hamiltonians.hamiltonian import Hamiltonian
from nqs.runfolder.schedules import Schedule
from nqs.vmc.optimizers.gradient import energy_gradient
from nqs.vmc.optimizers.optimizer import Optimizer, ScheduleKind, check_range
from nqs.vmc.ranks import ALONE, Ranks
from nqs.wavefunctions.wavefunction import Samples, Wavefunction


@final
class Adam(Optimizer, kind="adam"):
    """Adam on the energy gradient, with schedule and clipping.

    Args:
        learning_rate: step size at the top of the schedule.
        beta1: decay of the mean gradient.
        beta2: decay of the mean squared gradient.
        eps: added to the root of the mean squared gradient.
        clip_norm: longest gradient that is applied unscaled; null never clips.
        schedule: learning rate over the run: constant, cosine, linear or exponential.
        warmup_steps: steps over which the learning rate first rises from 0; fewer than the run has.
        final_fraction: learning rate at the last step as a fraction of learning_rate.
    """

    def __init__(
        self,
        learning_rate: Annotated[float, "1e-10 .. 1000"] = 3e-3,
        *,
        beta1: Annotated[float, "0 or 1e-6 .. 0.999999"] = 0.9,
        beta2: Annotated[float, "0 or 1e-6 .. 0.999999"] = 0.999,
        eps: Annotated[float, "1e-30 .. 1e30"] = 1e-8,
        clip_norm: Annotated[float, "1e-30 .. 1e30"] | None = None,
        schedule: ScheduleKind = "cosine",
        warmup_steps: Annotated[int, "0 .. 1e9"] = 0,
        final_fraction: Annotated[float, "1e-9 .. 1"] = 0.05,
    ) -> None:
        check_range("learning_rate", learning_rate, 1e-10, 1e3)
        check_range("beta1", beta1, 1e-6, 0.999999, or_zero=True)
        check_range("beta2", beta2, 1e-6, 0.999999, or_zero=True)
        check_range("eps", eps, 1e-30, 1e30)
        if clip_norm is not None:
            check_range("clip_norm", clip_norm, 1e-30, 1e30)
        check_range("warmup_steps", warmup_steps, 0, 1e9)
        check_range("final_fraction", final_fraction, 1e-9, 1)
        self.learning_rate, self.beta1, self.beta2 = learning_rate, beta1, beta2
        self.eps, self.clip_norm = eps, clip_norm
        self.schedule = Schedule(schedule, warmup_steps, final_fraction=final_fraction)
        self.step = 0
        self.first: Tensor | None = None  # mean gradient, (P,)
        self.second: Tensor | None = None  # mean squared gradient, (P,)
        self.diagnostics = {}

    def __repr__(self) -> str:
        return f"Adam({self.learning_rate}, beta1={self.beta1}, beta2={self.beta2})"

    def prepare(
        self,
        hamiltonian: Hamiltonian,
        *,
        n_steps: int,
        is_complex: bool = False,
        warm_start: bool = False,
    ) -> Self:
        """See Optimizer.prepare."""
        self.schedule = self.schedule.over(n_steps)
        return self

    def update(
        self,
        wavefunction: Wavefunction,
        samples: Samples,
        local_energies: Tensor,
        ranks: Ranks = ALONE,
    ) -> Tensor:
        rate = self.learning_rate * self.schedule(self.step)
        gradient = energy_gradient(wavefunction, samples, local_energies, ranks=ranks)
        norm = float(gradient.norm())
        if self.clip_norm is not None and norm > self.clip_norm:
            gradient *= self.clip_norm / norm
        self.diagnostics = {"gradient_norm": norm, "learning_rate": rate}
        return self._increment(gradient, rate)

    def _increment(self, gradient: Tensor, rate: float) -> Tensor:
        """What torch.optim.Adam adds to parameters (P,): to zeros, so that nothing is rounded."""
        zeros = nn.Parameter(torch.zeros_like(gradient))
        zeros.grad = gradient
        adam = torch.optim.Adam([zeros], rate, (self.beta1, self.beta2), self.eps)
        if self.first is not None:
            moments = {"exp_avg": self.first, "exp_avg_sq": self.second}
            adam.state[zeros] = {"step": torch.tensor(float(self.step)), **moments}
        adam.step()
        self.step += 1
        self.first = adam.state[zeros]["exp_avg"]
        self.second = adam.state[zeros]["exp_avg_sq"]
        return zeros.detach()

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "first": self.first, "second": self.second}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        moments = (state["first"], state["second"])
        self.first, self.second = (None if m is None else m.clone() for m in moments)
        self.step = state["step"]
