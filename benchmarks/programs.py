"""What the race sees of a program, and our own entries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from nqs.ground_states.build import Job, build, start_from_product_state
from nqs.ground_states.config import Config
from nqs.ground_states.ground_state_run import advance
from nqs.runfolder.machine import build_generator
from nqs.vmc.evaluation import Evaluation, evaluate


class System(Protocol):
    """What can be run: a Problem of the race, an Instance of the comparison with exact energies."""

    def config(self, *more: str) -> Config:
        """train.py's configuration, with further key=value arguments."""


class Program(ABC):
    """One optimisation that can be stopped between steps.

    The clock runs during `start` and `step` only. Creating a program may import, not compute.

    Attributes:
        steps: steps done.
        samples_per_step: configurations drawn at each.
        n_parameters: of the wavefunction, once started.
    """

    steps: int = 0
    samples_per_step: int = 0
    n_parameters: int = 0

    @abstractmethod
    def start(self) -> None:
        """Everything a run does before its first step."""

    @abstractmethod
    def step(self) -> None:
        """One optimisation step, finished when it returns."""

    @property
    def finished(self) -> bool:
        """Whether the run has ended by its own plan."""
        return False

    @abstractmethod
    def log_psi(self, configs: Tensor) -> Tensor:
        """ln psi of real psi > 0 up to a constant, configs (B, N) bool -> (B,) float64."""

    @abstractmethod
    def sampled_energy(self, n_samples: int) -> tuple[float, float]:
        """Total energy and its standard error from about n_samples fresh samples."""


class Ours(Program):
    """Exactly what `python train.py` does for this system, given the same arguments.

    Args:
        changes: further key=value arguments, e.g. optimizer=adam.

    Raises InputError for arguments train.py would refuse.
    """

    def __init__(self, system: System, seed: int, changes: tuple[str, ...] = ()) -> None:
        self.config = system.config(f"seed={seed}", *changes)
        self.samples_per_step = self.config.train.n_samples
        self._job: Job | None = None
        self._evaluation: torch.Generator | None = None

    @property
    def job(self) -> Job:
        """The run's objects. Only after `start`."""
        assert self._job is not None
        return self._job

    @property
    def evaluation_generator(self) -> torch.Generator:
        """Source of the samples of measurements. Only after `start`."""
        assert self._evaluation is not None
        return self._evaluation

    def start(self) -> None:
        self._job = build(self.config)
        start_from_product_state(self.job)
        self.n_parameters = self.job.n_parameters
        self._evaluation = build_generator(self.config.seed, "evaluation", self.job.device)

    def step(self) -> None:
        advance(self.job, self.steps, lambda record: True)
        self.steps += 1

    @property
    def finished(self) -> bool:
        return self.steps >= self.config.train.steps

    @torch.no_grad()
    def log_psi(self, configs: Tensor) -> Tensor:
        parts = configs.to(self.job.device).split(8_192)
        log_psi = torch.cat([self.job.wavefunction.log_psi(part) for part in parts])
        return log_psi.cpu().to(torch.float64)

    def sampled_energy(self, n_samples: int) -> tuple[float, float]:
        result = self.evaluation(n_samples)
        return result.energy, result.energy_error

    def evaluation(self, n_samples: int) -> Evaluation:
        """Energy, variance and the rest from n_samples fresh samples."""
        generator = self.evaluation_generator
        return evaluate(self.job.wavefunction, self.job.hamiltonian, n_samples, generator)
