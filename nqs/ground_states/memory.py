"""Memory that a run will take, estimated from its sizes before any of it is allocated.

What does not fit the machine is refused in a line that names the key to make smaller; without it
the system ends the process, often after minutes, and without a word. Estimates are sums of the
largest arrays, within a factor of three of what processes were measured to take (tests); what runs
is not refused.

Letters as everywhere: N sites, G flips, T patches, K patch states, D width, L layers, P parameters,
U distinct configurations, R rows (U, twice that for complex psi).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from nqs.conf.kinds import Selection
from nqs.core.sequence import state_numbers
from nqs.ground_states.automatic_symmetry import most_images
from nqs.ground_states.config import Config
from nqs.runfolder.memory import Allocations, refuse_if_larger, room
from nqs.wavefunctions.autoregressive import Autoregressive

PROGRAM: Final = 0.35e9
"""Bytes of Python, torch and the other modules."""
STRING: Final = 620.0
"""Bytes of a Pauli string on two sites as Python objects."""
COPIES: Final = 8
"""Of the parameters: themselves, gradient, the optimizer's two vectors, an update, and a checkpoint
of it all."""
EVALUATION_ROWS: Final = 16_384
"""Draws of an evaluation at a time, as in nqs.vmc.evaluation."""
LAUNCH_ROWS: Final = 32_768
"""Rows of a launch at most, as in nqs.vmc."""
PASS_ROWS: Final = 256
"""Rows of a pass with gradients, as in nqs.vmc.optimizers.gradient."""
SHARED_PAIRS: Final = 2**24
"""Pairs of positions that a core holds for all configurations at hand, as in nqs.wavefunctions."""


@dataclass(frozen=True)
class Sizes:
    """What the estimates are made of.

    Attributes:
        n_sites: N.
        n_flips: G.
        n_patches: T, of large patches those of all sub-patches.
        n_states: K.
        n_configs: configurations there are, 2^N or those of the sector.
        n_parameters: P.
        state_numbers: numbers that a row keeps of what it has read.
        walked: whether flips are walked, all open branches at once, each with a state of its own.
    """

    n_sites: int
    n_flips: int
    n_patches: int
    n_states: int
    n_configs: int
    n_parameters: int
    state_numbers: int
    walked: bool


def sizes_of(wavefunction: Autoregressive, n_flips: int) -> Sizes:
    """Of a network that is there, on the CPU; n_flips of the Hamiltonian."""
    patches, n_sites = wavefunction.patches, wavefunction.n_sites
    n_up = wavefunction.n_up
    return Sizes(
        n_sites,
        n_flips,
        patches.n_patches,
        patches.n_states,
        2**n_sites if n_up is None else math.comb(n_sites, n_up),
        sum(parameter.numel() for parameter in wavefunction.parameters()),
        state_numbers(wavefunction.core, patches.n_patches),
        wavefunction.core.constant_state,
    )


def check_sites(n_sites: int, key: str) -> None:
    """Raises InputError for a lattice whose pairs do not fit: distances, interactions, bonds."""
    refuse_if_larger(f"{n_sites} sites", {key: PROGRAM + pairs(n_sites)}, room())


@contextlib.contextmanager
def guarded_network(model: Selection, itemsize: int) -> Iterator[None]:
    """Within, while a network is made: InputError as soon as it would not fit, before memory is
    taken for the part that is too much. itemsize: bytes of a number of the finished network."""

    def check(n_numbers: int) -> None:
        needed = PROGRAM + COPIES * float(itemsize) * n_numbers
        refuse_if_larger(f"{n_numbers:.3g} parameters and more", {width(model): needed}, room())

    with Allocations(check):
        yield


def check_run(config: Config, sizes: Sizes, device: torch.device, n_processes: int) -> None:
    """Raises InputError for a run that does not fit. n_processes: those on this machine."""
    there = room(device, n_processes)
    for what, terms in estimates(config, sizes).items():
        refuse_if_larger(what, terms, there)


def estimates(config: Config, sizes: Sizes) -> dict[str, dict[str, float]]:
    """Bytes of the process at the peak of a step and of the final evaluation, by the key to make
    smaller."""
    itemsize = 8 if config.dtype == "float64" else 4
    train, model = config.train, config.model
    base = {
        "lattice": PROGRAM + pairs(sizes.n_sites) + strings(config.hamiltonian, sizes.n_sites),
        width(model): COPIES * float(itemsize) * sizes.n_parameters,
    }
    n_distinct = min(train.n_samples, sizes.n_configs)
    work = max(
        measuring(model, sizes, n_distinct, itemsize),
        solving(config, sizes, n_distinct, itemsize),
    )
    n_flipped = train.n_samples * config.energies.get("flip_fraction", 0.0)
    work += listing(n_flipped, n_distinct, sizes)
    n_evaluated = min(EVALUATION_ROWS, train.eval_samples, sizes.n_configs)
    evaluation = measuring(model, sizes, n_evaluated, itemsize)
    return {
        "a step": base | {f"train.n_samples={train.n_samples}": work},
        "the evaluation": base | {f"train.eval_samples={train.eval_samples}": evaluation},
    }


def width(model: Selection) -> str:
    """The key that makes a network smaller."""
    d_model = model.get("d_model")
    return f"model={model.name}" if d_model is None else f"model.d_model={d_model}"


def pairs(n_sites: int) -> float:
    """Distances with their components, interactions and what makes them, (N, N) float64 each."""
    return 6 * 8.0 * n_sites**2


def strings(hamiltonian: Selection, n_sites: int) -> float:
    """The Pauli strings of the starting product state: one for each pair where a Hamiltonian knows
    a cut-off and has none."""
    every_pair = hamiltonian.get("cutoff", 0.0) is None
    return STRING * n_sites**2 / 2 if every_pair else 0.0


def listing(n_flipped: float, n_distinct: int, sizes: Sizes) -> float:
    """The draws that take a flip, one by one, before equal ones are counted; all distinct ones."""
    one = 8.0 * sizes.n_sites + 64
    return n_flipped * (2 * 8 * sizes.n_flips + one) + n_distinct * one


def measuring(model: Selection, sizes: Sizes, n_rows: int, itemsize: int) -> float:
    """Sampling n_rows distinct configurations and their local energies."""
    parts = 2 if model.phase else 1
    images = symmetric_images(model, sizes)
    elements = 4 * 8.0 * parts * n_rows * sizes.n_flips  # ratios, elements, their products
    at_once = min(n_rows * images, LAUNCH_ROWS)
    logits = 3.0 * itemsize * parts * sizes.n_states
    state = sizes.state_numbers * itemsize
    sampling = at_once * (2 * state + 6 * 8 * parts * sizes.n_states)
    if sizes.walked:
        branches = min(n_rows * images * sizes.n_sites, LAUNCH_ROWS)
        return elements + max(sampling, branches * (3 * state + logits))
    shared = max(1, min(at_once, SHARED_PAIRS // sizes.n_patches**2))
    flips = shared * (
        sizes.n_patches * ((4 + layers(model)) * vector(model) * itemsize + logits)
        + 2 * sizes.n_patches**2 * model.get("n_heads", 1) * itemsize
        + state
    )
    return elements + max(sampling, flips)


def solving(config: Config, sizes: Sizes, n_distinct: int, itemsize: int) -> float:
    """The gradient; with a budget for the Jacobian's columns, as minsr has it, the system of R
    samples or P parameters and these columns."""
    model, budget = config.model, config.optimizer.get("memory_gb")
    numbers = layers(model) * (6 * vector(model) + 3 * feed_forward(model)) + 4 * sizes.n_states
    forward = float(min(n_distinct, PASS_ROWS)) * sizes.n_patches * numbers * itemsize
    if budget is None:
        return forward
    n_rows = n_distinct * (2 if model.phase else 1)
    system = 4 * 8.0 * min(n_rows, sizes.n_parameters) ** 2
    jacobian = 2.0 * n_rows * sizes.n_parameters * itemsize + forward
    return system + min(jacobian, budget * 2**30)


def layers(model: Selection) -> int:
    """L."""
    return model.get("n_layers", 1)


def vector(model: Selection) -> int:
    """D; of a network of one's own that calls its width otherwise, a guess."""
    return model.get("d_model", 64)


def feed_forward(model: Selection) -> int:
    """Width of the perceptrons; 0 where there are none."""
    return model.get("d_ff", 0) or (2 * vector(model) if "d_ff" in model.values else 0)


def symmetric_images(model: Selection, sizes: Sizes) -> int:
    """Configurations evaluated for one, at most."""
    images = {
        "auto": most_images(sizes.n_configs),
        "none": 1,
        "point_group": 8,
        "translations": sizes.n_sites,
        "all": 8 * sizes.n_sites,
    }
    return images[model.symmetry] * (2 if model.spin_flip else 1)
