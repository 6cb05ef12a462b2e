"""Drives a user's own checkout of the public VMC_with_LPTFs repository (none of it is kept here).

It runs on the GPU where torch sees one, whatever is asked for. Its training loop has no hook for
timing, so one step is put together from its public methods in the order of its `reg_train`: sample,
log-probability with gradient, off-diagonal labels, local energy, loss, backward, Adam.
"""

from __future__ import annotations

import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.matmul import synchronise

ROWS = 1_024
"""Configurations it evaluates at once outside its steps."""


def checkout(path: str) -> Path:
    """The folder of a VMC_with_LPTFs checkout. Raises ValueError, one line, if it is none."""
    root = Path(path).resolve()
    if not (root / "tvmc" / "models" / "PTF.py").is_file():
        raise ValueError(
            f"--older-code {path}: no tvmc/models/PTF.py; give a VMC_with_LPTFs checkout"
        )
    return root


def import_classes(path: str) -> tuple[Any, dict[str, Any]]:
    """Its Rydberg class and its models by name: "ptf" and "rnn". Raises ValueError."""
    root = checkout(path)
    if str(root) not in sys.path:
        sys.path.append(str(root))  # it has a train.py too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it scripts a model at import, which torch now deprecates
        from tvmc.hamiltonians.rydberg import Rydberg
        from tvmc.models.PTF import PTF
        from tvmc.models.RNN import PRNN
    return Rydberg, {"ptf": PTF, "rnn": PRNN}


class OlderCode:
    """One model of the older code on an L x L Rydberg array.

    Args:
        path: the checkout (holds the package `tvmc`).
        model: "ptf" or "rnn".
        side: L.
        options: its own option names, e.g. Nh=128, patch="2x2", nhead=8, num_layers=2.
        n_samples: batch K (Q = 1).
        n_loops: its NLOOPS, the number of flip chunks; must divide L^2.
        learning_rate: of Adam.
        V, delta, Omega: couplings.

    Raises ValueError if `path` is no such checkout.
    """

    def __init__(
        self,
        path: str,
        model: str,
        *,
        side: int,
        n_samples: int,
        n_loops: int,
        options: dict[str, Any],
        learning_rate: float = 5e-4,
        V: float = 7.0,
        delta: float = 1.0,
        Omega: float = 1.0,
    ) -> None:
        rydberg, models = import_classes(path)
        kind = models[model]
        settings = {**kind.DEFAULTS.__dict__, "L": side * side, **options}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = torch.jit.script(kind(**settings))
        self.hamiltonian = rydberg(Lx=side, Ly=side, V=V, Omega=Omega, delta=delta)
        self.n_sites, self.n_samples, self.n_loops = side * side, n_samples, n_loops
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=learning_rate)
        self.energy_per_site = float("nan")

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def step(self) -> dict[str, float]:
        """One optimisation step; seconds of its parts."""
        device = next(self.model.parameters()).device
        marks = [_now(device)]
        with torch.no_grad():
            configs, _ = self.model.sample(self.n_samples, self.n_sites)
        marks.append(_now(device))
        with torch.no_grad():
            sums, scale = self.model.off_diag_labels_summed(configs, nloops=self.n_loops)
        marks.append(_now(device))
        log_p = self.model.logprobability(configs)
        with torch.no_grad():
            e_loc = self.hamiltonian.localenergyALT(configs, log_p, sums, scale)
        loss = (log_p * (e_loc - e_loc.mean())).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        marks.append(_now(device))
        self.energy_per_site = float(e_loc.mean()) / self.n_sites
        sampling, flips, gradient = (b - a for a, b in pairwise(marks))
        return {"sampling": sampling, "flips": flips, "gradient": gradient}

    @torch.no_grad()
    def log_probability(self, configs: Tensor) -> Tensor:
        """ln |psi|^2 of configs (B, N) bool -> (B,) float64."""
        rows = configs.to(torch.float32)[:, :, None].split(ROWS)  # (B, N, 1) as it wants them
        return torch.cat([self.model.logprobability(part) for part in rows]).to(torch.float64)

    @torch.no_grad()
    def local_energies(self, n_samples: int) -> Tensor:
        """Its own local energies of at least n_samples fresh samples -> (B,) float64."""
        parts = []
        for _ in range(-(-n_samples // ROWS)):
            configs, _ = self.model.sample(ROWS, self.n_sites)
            sums, scale = self.model.off_diag_labels_summed(configs, nloops=self.n_loops)
            log_p = self.model.logprobability(configs)
            parts.append(self.hamiltonian.localenergyALT(configs, log_p, sums, scale))
        return torch.cat(parts).to(torch.float64)


def _now(device: torch.device) -> float:
    """The clock once the device has done its work."""
    synchronise(device)
    return time.perf_counter()
