"""The older code's entry in the race: its patched transformer on a Rydberg array."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.older_code import OlderCode, import_classes
from benchmarks.peer_settings import OlderSettings, settings
from benchmarks.problems import Problem
from benchmarks.programs import Program


class Older(Program):
    """PTF with Adam, settings in peers.yaml.

    Args:
        path: a checkout of VMC_with_LPTFs, imported when the program is made, off the clock.

    Raises ValueError if `path` is no such checkout.
    """

    def __init__(self, problem: Problem, seed: int, path: str) -> None:
        import_classes(path)
        self.problem, self.seed, self.path = problem, seed, path
        self.settings = settings(OlderSettings, "older", problem.name)
        self.samples_per_step = self.settings.samples

    def start(self) -> None:
        torch.manual_seed(self.seed)
        s = self.settings
        self.code = OlderCode(
            self.path,
            "ptf",
            side=self.problem.shape[0],
            n_samples=s.samples,
            n_loops=s.loops,
            options={"Nh": s.width, "patch": s.patch, "nhead": s.heads},
            learning_rate=s.learning_rate,
            **self.problem.couplings,
        )
        self.n_parameters = self.code.n_parameters

    def step(self) -> None:
        self.code.step()
        self.steps += 1

    def log_psi(self, configs: Tensor) -> Tensor:
        return self.code.log_probability(configs) / 2

    def sampled_energy(self, n_samples: int) -> tuple[float, float]:
        energies = self.code.local_energies(n_samples)
        return float(energies.mean()), float(energies.std() / len(energies) ** 0.5)
