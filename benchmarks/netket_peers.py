"""NetKet's entries: an RBM with Metropolis sampling and SR, and an autoregressive model with Adam.

The Rydberg array is NetKet's PauliStrings (by our bridge): on 8x8 its 2 081 diagonal strings cost
5 ms of a step of 0.8 s (1024 samples, one thread), so an operator made to measure would gain
nothing. The Ising models are NetKet's own Ising. NetKet is imported when a program is made, off the
clock; compilation is on it.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from abc import abstractmethod
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peer_settings import ARSettings, RBMSettings, settings
from benchmarks.problems import Problem
from benchmarks.programs import Program
from hamiltonians.bridges.netket import to_netket

EVALUATION_CHAINS = 256
EVALUATION_LENGTH = 8
"""Samples of each chain in one batch of an evaluation."""
BURN_IN_SWEEPS = 100
ROWS = 8_192
"""Configurations a network sees at once in evaluations, which bounds memory."""


class NetKet(Program):
    """One NetKet optimisation; what differs is the model, the sampler and the driver."""

    def __init__(self, problem: Problem, seed: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside NetKet and JAX at import
            import jax
            import netket
        self.nk: ModuleType = netket
        self.jax: ModuleType = jax
        jax.clear_caches()  # each run compiles, as the first one does
        self.problem, self.seed = problem, seed
        self._evaluation: Any = None

    @abstractmethod
    def model(self) -> Any:
        """The network."""

    @abstractmethod
    def sampler(self, n_chains: int | None = None) -> Any:
        """The sampler, by default with the settings' chains."""

    @abstractmethod
    def driver(self) -> Any:
        """What `run`s the optimisation of self.state."""

    def state_options(self) -> dict[str, Any]:
        """Further arguments of the variational state."""
        return {}

    def start(self) -> None:
        self._operator = self.operator()
        self.state = self.nk.vqs.MCState(
            self.sampler(),
            self.model(),
            n_samples=self.samples_per_step,
            seed=self.seed,
            sampler_seed=self.seed + 1,
            **self.state_options(),
        )
        with contextlib.redirect_stdout(io.StringIO()):  # it announces its choices
            self._driver = self.driver()
        self.n_parameters = int(self.state.n_parameters)

    def step(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._driver.run(1, out=None, show_progress=False)
        self.jax.block_until_ready(self.state.parameters)
        self.steps += 1

    def log_psi(self, configs: Tensor) -> Tensor:
        spins = 1 - 2 * configs.numpy().astype(np.int8)  # bit 0 is sigma^z = +1
        parts = [spins[i : i + ROWS] for i in range(0, len(spins), ROWS)]
        values = [np.asarray(self.state.log_value(part)).real for part in parts]
        return torch.from_numpy(np.concatenate(values).astype(np.float64))

    def sampled_energy(self, n_samples: int) -> tuple[float, float]:
        """From fresh chains of its own; the spread of the chains' means gives the error, which
        holds whatever the autocorrelation inside a chain."""
        state = self._evaluation_state()
        state.variables = self.state.variables
        state.sample(n_discard_per_chain=BURN_IN_SWEEPS)
        batches = max(1, -(-n_samples // state.n_samples))
        means = np.zeros(EVALUATION_CHAINS)
        for _ in range(batches):
            state.sample()
            local = state.local_estimators(self._operator).data  # (chains, length)
            means += np.asarray(local).real.reshape(EVALUATION_CHAINS, -1).mean(axis=1) / batches
        return float(means.mean()), float(means.std(ddof=1) / EVALUATION_CHAINS**0.5)

    def _evaluation_state(self) -> Any:
        if self._evaluation is None:
            self._evaluation = self.nk.vqs.MCState(
                self.sampler(EVALUATION_CHAINS),
                self.state.model,
                n_samples=EVALUATION_CHAINS * EVALUATION_LENGTH,
                variables=self.state.variables,
                sampler_seed=self.seed + 2,
                chunk_size=ROWS,
            )
        return self._evaluation

    def operator(self) -> Any:
        """The system; sets self.hilbert."""
        if self.problem.system == "rydberg":
            operator = to_netket(self.problem.hamiltonian())
            self.hilbert = operator.hilbert
            return operator
        self.hilbert = self.nk.hilbert.Spin(s=1 / 2, N=self.problem.n_sites)
        graph = self.nk.graph.Grid(list(self.problem.shape), pbc=self.problem.periodic)
        couplings = self.problem.couplings
        return self.nk.operator.Ising(self.hilbert, graph, h=couplings["h"], J=-couplings["J"])


class NetKetRBM(NetKet):
    """netket.models.RBM, MetropolisLocal, VMC_SR."""

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self.settings = settings(RBMSettings, "netket-rbm", problem.name)
        self.samples_per_step = self.settings.samples

    def model(self) -> Any:
        return self.nk.models.RBM(alpha=self.settings.alpha, param_dtype=float)

    def sampler(self, n_chains: int | None = None) -> Any:
        chains = n_chains or self.settings.chains
        return self.nk.sampler.MetropolisLocal(self.hilbert, n_chains=chains)

    def state_options(self) -> dict[str, Any]:
        return {"n_discard_per_chain": self.settings.discard}

    def driver(self) -> Any:
        return self.nk.driver.VMC_SR(
            self._operator,
            self.nk.optimizer.Sgd(learning_rate=self.rate),
            diag_shift=self.shift,
            momentum=self.settings.momentum,
            use_ntk=self.settings.sample_space,
            mode="real",
            variational_state=self.state,
        )

    def shift(self, step: Any) -> Any:
        """Diagonal shift of a step."""
        s = self.settings
        return self._geometric(step, s.shift_steps, s.diagonal_shift, s.final_diagonal_shift)

    def rate(self, step: Any) -> Any:
        """Learning rate of a step."""
        s = self.settings
        return self._geometric(step, s.learning_rate_steps, s.learning_rate, s.final_learning_rate)

    def _geometric(self, step: Any, n_steps: int, first: float, final: float) -> Any:
        """From the first to the final value within n_steps, then constant."""
        progress = self.jax.numpy.minimum(step / n_steps, 1.0)
        return first * (final / first) ** progress


class NetKetAR(NetKet):
    """netket.models.FastARNNConv2D or 1D, ARDirectSampler, VMC with Adam."""

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self.settings = settings(ARSettings, "netket-ar", problem.name)
        self.samples_per_step = self.settings.samples

    def model(self) -> Any:
        s, plane = self.settings, len(self.problem.shape) == 2
        kind = self.nk.models.FastARNNConv2D if plane else self.nk.models.FastARNNConv1D
        kernel = (s.kernel, s.kernel) if plane else s.kernel
        return kind(self.hilbert, layers=s.layers, features=s.features, kernel_size=kernel)

    def sampler(self, n_chains: int | None = None) -> Any:
        return self.nk.sampler.ARDirectSampler(self.hilbert)

    def driver(self) -> Any:
        optimizer = self.nk.optimizer.Adam(learning_rate=self.settings.learning_rate)
        return self.nk.driver.VMC(self._operator, optimizer, variational_state=self.state)
