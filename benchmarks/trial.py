"""The default run on an L x L Rydberg array from the Python interface, and what a step costs.

The same objects, from the same random numbers, as `python train.py` makes (a test holds that), but
neither Hydra nor any file is needed: this also runs where only torch, numpy and scipy are.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, replace

import torch

from benchmarks.flops import Work, counted, least_flops, prefix_counts
from benchmarks.matmul import synchronise
from hamiltonians import Rydberg
from hamiltonians.lattices.lattice import Square
from nqs.core.transformer import Transformer
from nqs.runfolder.machine import build_generator
from nqs.vmc.evaluation import Evaluation, evaluate
from nqs.vmc.optimise import StepRecord, optimise
from nqs.vmc.optimizers.natural_gradient import NaturalGradient
from nqs.vmc.product_state import product_state
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.patches import Patches

DTYPES = {"float32": torch.float32, "float64": torch.float64}
COUPLINGS = {"V": 7.0, "delta": 1.0, "Omega": 1.0}
DEFAULT_STEPS = 200


@dataclass(frozen=True)
class Setting:
    """What a step is measured of: the default model but for these."""

    side: int
    samples: int = 512
    patch: str = "2x2"
    width: int = 32
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0


class Trial:
    """A run of `n_steps` steps that is taken step by step; memory_gb as `NaturalGradient` has it.

    Attributes:
        step: steps done; seconds: they took; n_rows: distinct rows of the last.

    Raises ValueError for sizes that do not fit together.
    """

    def __init__(
        self, setting: Setting, n_steps: int = DEFAULT_STEPS, memory_gb: float = 1.0
    ) -> None:
        self.setting, self.n_steps = setting, n_steps
        self.device = torch.device(setting.device)
        self.lattice = lattice = Square(setting.side, setting.side)
        patches = Patches.from_spec(lattice, setting.patch)
        core = Transformer(
            patches.n_states + 1,
            patches.n_states,
            patches.n_patches,
            d_model=setting.width,
            attention="factored",
            coordinates=patches.centres,
            generator=self._generator("parameters", torch.device("cpu")),
        )
        hamiltonian = Rydberg(lattice, **COUPLINGS)
        optimizer = NaturalGradient(memory_gb=memory_gb)
        self.optimizer = optimizer.prepare(hamiltonian, n_steps=n_steps)
        self.psi = Autoregressive(core, patches).to(DTYPES[setting.dtype]).to(self.device)
        self.hamiltonian = hamiltonian.to(self.device)
        self.generator = self._generator("samples", self.device)
        self.step, self.seconds, self.n_rows = 0, 0.0, 0

    def start(self) -> Trial:
        """Puts the wavefunction at the best product state, as a run does before its first step."""
        generator = self._generator("product_state", self.device)
        self.psi.set_product_state(product_state(self.hamiltonian, generator))
        return self

    def _generator(self, stream: str, device: torch.device) -> torch.Generator:
        return build_generator(self.setting.seed, stream, device)

    def advance(self) -> StepRecord:
        """One step, finished when it returns."""
        records: list[StepRecord] = []
        began = time.perf_counter()
        optimise(
            self.psi,
            self.hamiltonian,
            self.optimizer,
            first_step=self.step,
            n_steps=self.step + 1,
            n_samples=self.setting.samples,
            generator=self.generator,
            after_step=lambda record: not records.append(record),  # type: ignore[func-returns-value]
        )
        synchronise(self.device)
        self.seconds += time.perf_counter() - began
        self.step += 1
        self.n_rows = records[0].n_unique
        return records[0]

    def evaluation(self, n_samples: int, chunk: int = 16_384) -> Evaluation:
        """Energy of the state now, from fresh samples."""
        if not hasattr(self, "_evaluating"):
            self._evaluating = self._generator("evaluation", self.device)
        return evaluate(self.psi, self.hamiltonian, n_samples, self._evaluating, chunk=chunk)

    def prefixes(self) -> list[int]:
        """Rows of each step of unique sampling in the state now, in a draw of its own."""
        generator = self._generator("evaluation", self.device)
        samples = self.psi.sample(self.setting.samples, generator, unique=True)
        return prefix_counts(self.psi, samples.configs)

    def least(self) -> Work:
        """The least work of a step on as many rows as the last one had, in the state now."""
        return least_flops(self.psi, self.hamiltonian, self.n_rows, prefixes=self.prefixes())

    @property
    def n_parameters(self) -> int:
        """P."""
        return sum(p.numel() for p in self.psi.parameters())


@dataclass(frozen=True)
class Steps:
    """Medians over the steps that were timed, and operations of one more: run, and the least."""

    seconds: float
    n_rows: int
    n_steps: int
    run: int
    least: int


def timed(trial: Trial, n_steps: int, seconds: float) -> Steps:
    """Up to n_steps steps, at least one, until `seconds` have passed."""
    times: list[float] = []
    rows: list[int] = []
    began = time.perf_counter()
    while not times or (len(times) < n_steps and time.perf_counter() - began < seconds):
        before = trial.seconds
        trial.advance()
        rows.append(trial.n_rows)
        times.append(trial.seconds - before)
    run = counted(trial.advance)
    median_rows = int(statistics.median(rows))
    return Steps(statistics.median(times), median_rows, len(times), run, trial.least().total)


def utilisation(operations: int, seconds: float, rate: float) -> float:
    """Operations a second over the rate of a large matrix product; nan without a time."""
    return operations / seconds / rate if seconds > 0 else math.nan


def warm_up(setting: Setting) -> None:
    """Two small steps of the same architecture: libraries are loaded and threads started."""
    small = Trial(replace(setting, samples=2))
    for _ in range(2):
        small.advance()
