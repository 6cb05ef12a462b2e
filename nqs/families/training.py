"""Training of one state for a family of Hamiltonians, H(c) for couplings c within ranges."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.invariance import check_invariance
from hamiltonians.lattices.lattice import Chain
from nqs.conf.values import convert
from nqs.errors import InputError, require, shown
from nqs.ground_states.api import Kind
from nqs.ground_states.build import (
    Job,
    build,
    check_conserved,
    start_from_product_state,
    symmetry_keys,
)
from nqs.ground_states.config import Config, TrainConfig
from nqs.ground_states.groups import ENERGIES, HAMILTONIAN, LATTICE, MODEL, OPTIMIZER
from nqs.runfolder.machine import build_generator
from nqs.vmc.optimise_family import FamilyRecord, optimise_family
from nqs.vmc.optimizers.natural_gradient import NaturalGradient
from nqs.vmc.optimizers.time_step import time_step
from nqs.wavefunctions.conditional import Conditional

Ranges = Mapping[str, tuple[float, float]]


@final
@dataclass(frozen=True)
class Members:
    """The Hamiltonians of a family.

    Args:
        make: couplings by name -> Hamiltonian.
        ranges: (low, high) of each coupling.
    """

    make: Callable[..., Hamiltonian]
    ranges: Ranges

    @property
    def low(self) -> Tensor:
        """(n,) float64."""
        return torch.tensor([low for low, _ in self.ranges.values()], dtype=torch.float64)

    @property
    def high(self) -> Tensor:
        """(n,) float64."""
        return torch.tensor([high for _, high in self.ranges.values()], dtype=torch.float64)

    def at(self, couplings: Tensor) -> Hamiltonian:
        """H for couplings (n,). Raises InputError where `make` refuses them, or returns something
        else."""
        named = dict(zip(self.ranges, couplings.tolist(), strict=True))
        try:
            hamiltonian = self.make(**named)
        except (TypeError, ValueError) as error:
            given = " ".join(f"{name}={value:g}" for name, value in named.items())
            raise InputError(f"hamiltonian of {given}: {error}") from error
        if not isinstance(hamiltonian, Hamiltonian):
            raise InputError(
                f"hamiltonian={shown(type(hamiltonian).__name__)}: must be a function of the "
                "couplings that returns a Hamiltonian, e.g. "
                "lambda delta: nqs.Rydberg(nqs.Square(4, 4), V=7, delta=delta)"
            )
        return hamiltonian

    def probes(self) -> list[Hamiltonian]:
        """H in the middle of the ranges, at their lower and at their upper ends.

        Raises InputError unless all have as many sites, so that one state can serve.
        """
        middle, *ends = (self.at(c) for c in ((self.low + self.high) / 2, self.low, self.high))
        for end in ends:
            if end.n_sites != middle.n_sites:
                raise InputError(
                    f"{', '.join(self.ranges)}: {end.describe()} and {middle.describe()} differ in "
                    "their number of sites; one state cannot serve both"
                )
        return [middle, *ends]


def checked_ranges(ranges: Mapping[str, Any]) -> Ranges:
    """(low, high) of each coupling as floats. Raises InputError, one line."""
    if not ranges:
        raise InputError("no coupling has a range; give at least one, e.g. delta=(0, 3)")
    checked: dict[str, tuple[float, float]] = {}
    for name, given in ranges.items():
        rule = "must be a pair of numbers (low, high) with low < high"
        require(isinstance(given, list | tuple) and len(given) == 2, name, given, rule)
        low, high = (convert(end, float, name) for end in given)
        require(low < high and abs(low) < 1e30 and abs(high) < 1e30, name, given, rule)
        checked[name] = (low, high)
    return checked


def build_job(
    members: Members, model: Kind, train: TrainConfig, optimizer: Kind, **rest: Any
) -> Job:
    """Network, optimizer and energies as a run in the middle of the ranges has them.

    Raises InputError for what does not hold at their ends, and for an optimizer that cannot take a
    family.
    """
    middle, *ends = members.probes()
    lattice = middle.lattice or Chain(middle.n_sites)
    config = Config(
        lattice=LATTICE.selection_of(lattice),
        hamiltonian=HAMILTONIAN.selection_of(middle),
        model=MODEL.chosen(model),
        optimizer=OPTIMIZER.chosen(optimizer),
        energies=ENERGIES.chosen("blurred"),
        train=train,
        **rest,
    )
    job = build(config, lattice=lattice, hamiltonian=middle)
    if not isinstance(job.optimizer, NaturalGradient):
        raise InputError(f"optimizer={shown(config.optimizer.name)}: a family takes minsr alone")
    for end in ends:
        check_conserved(config.model.n_up, end)
        try:
            check_invariance(end, job.wavefunction.symmetry)
        except ValueError as error:
            raise InputError(f"{symmetry_keys(config.model)}: {error}") from None
    if config.optimizer.get("learning_rate") == "auto":
        steps = [time_step(each) for each in (middle, *ends)]
        job.optimizer.learning_rate = min(steps)
    return job


def train(
    members: Members,
    job: Job,
    *,
    width: int,
    n_couplings: int,
    max_seconds: float | None = None,
    on_step: Callable[[FamilyRecord], None] | None = None,
) -> Conditional:
    """The state, after training with train.steps steps of n_couplings times train.n_samples draws
    from the product state of the middle; at most for max_seconds."""
    start_from_product_state(job)
    generator = build_generator(job.config.seed, "perceptron", torch.device("cpu"))
    try:
        family = Conditional(
            job.wavefunction, members.low, members.high, width=width, generator=generator
        ).to(job.device)
    except ValueError as error:
        raise InputError(str(error)) from None
    began = time.monotonic()

    def after_step(record: FamilyRecord) -> bool:
        if on_step is not None:
            on_step(record)
        return max_seconds is not None and time.monotonic() - began >= max_seconds

    assert isinstance(job.optimizer, NaturalGradient)
    optimise_family(
        family,
        lambda c: members.at(c.cpu()).to(job.device),
        job.optimizer,
        energies=job.energies,
        n_steps=job.config.train.steps,
        n_couplings=n_couplings,
        n_samples=job.config.train.n_samples,
        generator=job.generator,
        after_step=after_step,
    )
    return family
