"""Memory that a run will take, estimated from its sizes before any of it is allocated.

What does not fit the machine is refused in a line that names the key to make smaller; without it
the system ends the process, often after minutes, and without a word. Estimates are sums of the
largest arrays, within a factor of three of what processes were measured to take (tests); what runs
is not refused.

Letters as everywhere: N sites, G flips, T patches, K patch states, D width, L layers, P parameters,
U distinct configurations, R rows (U, twice that for complex psi).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

from nqs.ground_states.config import Config, ModelConfig
from nqs.runfolder.memory import refuse_if_larger, room

PROGRAM: Final = 0.35e9
"""Bytes of Python, torch and the other modules."""
STRING: Final = 620.0
"""Bytes of a Pauli string on two sites as Python objects."""
EVALUATION_ROWS: Final = 16_384
"""Draws of an evaluation at a time, as in nqs.vmc.evaluation."""
LAUNCH_ROWS: Final = 32_768
"""Rows of a launch at most, as in nqs.vmc."""
PASS_ROWS: Final = 256
"""Rows of a pass with gradients, as in nqs.vmc.optimizers.gradient."""
SHARED_PAIRS: Final = 2**24
"""Pairs of positions that a core holds for all configurations at hand, as in nqs.wavefunctions."""
CONSTANT_STATE: Final = ("rnn", "linear_attention", "ssm", "rnn2d")
"""Models whose flips are walked, all open branches at once, each with a state of its own."""


@dataclass(frozen=True)
class Sizes:
    """What the estimates are made of.

    Attributes:
        n_sites: N.
        n_flips: G.
        n_patches: T, of an lptf those of all sub-patches.
        n_states: K.
        n_configs: configurations there are, 2^N or those of the sector.
    """

    n_sites: int
    n_flips: int
    n_patches: int
    n_states: int
    n_configs: int


def check_sites(n_sites: int, key: str) -> None:
    """Raises InputError for a lattice whose pairs do not fit: distances, interactions, bonds."""
    refuse_if_larger(f"{n_sites} sites", {key: PROGRAM + pairs(n_sites)}, room())


def check_network(model: ModelConfig, sizes: Sizes, itemsize: int) -> None:
    """Raises InputError for a network that does not fit, before it is made."""
    n_parameters = count_parameters(model, sizes)
    terms = {width(model): PROGRAM + holding(n_parameters, itemsize)}
    refuse_if_larger(f"{n_parameters:.3g} parameters", terms, room())


def check_run(
    config: Config, sizes: Sizes, n_parameters: int, device: torch.device, n_processes: int
) -> None:
    """Raises InputError for a run that does not fit. n_processes: those on this machine."""
    there = room(device, n_processes)
    for what, terms in estimates(config, sizes, n_parameters).items():
        refuse_if_larger(what, terms, there)


def estimates(config: Config, sizes: Sizes, n_parameters: int) -> dict[str, dict[str, float]]:
    """Bytes of the process at the peak of a step and of the final evaluation, by the key to make
    smaller."""
    itemsize = 8 if config.dtype == "float64" else 4
    train, model = config.train, config.model
    base = {
        "lattice": PROGRAM + pairs(sizes.n_sites) + strings(config, sizes.n_sites),
        width(model): holding(n_parameters, itemsize),
    }
    n_distinct = min(train.n_samples, sizes.n_configs)
    work = max(
        measuring(model, sizes, n_distinct, itemsize),
        solving(config, sizes, n_distinct, n_parameters, itemsize),
    )
    work += listing(train.n_samples * train.flip_fraction, n_distinct, sizes)
    n_evaluated = min(EVALUATION_ROWS, train.eval_samples, sizes.n_configs)
    evaluation = measuring(model, sizes, n_evaluated, itemsize)
    return {
        "a step": base | {f"train.n_samples={train.n_samples}": work},
        "the evaluation": base | {f"train.eval_samples={train.eval_samples}": evaluation},
    }


def width(model: ModelConfig) -> str:
    """The key that makes a network smaller."""
    return f"model.d_model={model.d_model}"


def pairs(n_sites: int) -> float:
    """Distances with their components, interactions and what makes them, (N, N) float64 each."""
    return 6 * 8.0 * n_sites**2


def strings(config: Config, n_sites: int) -> float:
    """The Pauli strings of the starting product state, of Rydberg atoms one for each pair."""
    every_pair = config.hamiltonian.name == "rydberg" and config.hamiltonian.cutoff is None
    return STRING * n_sites**2 / 2 if every_pair else 0.0


def holding(n_parameters: int, itemsize: int) -> float:
    """Parameters, gradient, the optimizer's two vectors, an update, and a checkpoint of it all."""
    return 8.0 * n_parameters * itemsize


def listing(n_flipped: float, n_distinct: int, sizes: Sizes) -> float:
    """The draws that take a flip, one by one, before equal ones are counted; all distinct ones."""
    one = 8.0 * sizes.n_sites + 64
    return n_flipped * (2 * 8 * sizes.n_flips + one) + n_distinct * one


def measuring(model: ModelConfig, sizes: Sizes, n_rows: int, itemsize: int) -> float:
    """Sampling n_rows distinct configurations and their local energies."""
    parts = 2 if model.phase else 1
    images = symmetric_images(model, sizes)
    elements = 4 * 8.0 * parts * n_rows * sizes.n_flips  # ratios, elements, their products
    at_once = min(n_rows * images, LAUNCH_ROWS)
    logits = 3.0 * itemsize * parts * sizes.n_states
    sampling = at_once * (
        2 * state_numbers(model, sizes) * itemsize + 6 * 8 * parts * sizes.n_states
    )
    if model.name in CONSTANT_STATE:
        branches = min(n_rows * images * sizes.n_sites, LAUNCH_ROWS)
        flips = branches * (3 * state_numbers(model, sizes) * itemsize + logits)
    else:
        shared = max(1, min(at_once, SHARED_PAIRS // sizes.n_patches**2))
        flips = shared * (
            sizes.n_patches * ((4 + layers(model)) * model.d_model * itemsize + logits)
            + 2 * sizes.n_patches**2 * (model.n_heads or 1) * itemsize
            + state_numbers(model, sizes) * itemsize
        )
    return elements + max(sampling, flips)


def solving(
    config: Config, sizes: Sizes, n_distinct: int, n_parameters: int, itemsize: int
) -> float:
    """The gradient; of minsr the system of R samples or P parameters and the Jacobian's columns."""
    model = config.model
    numbers = layers(model) * (6 * model.d_model + 3 * feed_forward(model)) + 4 * sizes.n_states
    forward = float(min(n_distinct, PASS_ROWS)) * sizes.n_patches * numbers * itemsize
    if config.optimizer.name != "minsr":
        return forward
    assert config.optimizer.memory_gb is not None
    n_rows = n_distinct * (2 if model.phase else 1)
    system = 4 * 8.0 * min(n_rows, n_parameters) ** 2
    jacobian = 2.0 * n_rows * n_parameters * itemsize + forward
    return system + min(jacobian, config.optimizer.memory_gb * 2**30)


def layers(model: ModelConfig) -> int:
    """L."""
    return model.n_layers or 1


def feed_forward(model: ModelConfig) -> int:
    """Width of the perceptrons; 0 where there are none."""
    if model.name in ("rnn", "rnn2d"):
        return 0
    return model.d_ff or 2 * model.d_model


def symmetric_images(model: ModelConfig, sizes: Sizes) -> int:
    """Configurations evaluated for one, at most."""
    images = {"none": 1, "point_group": 8, "translations": sizes.n_sites, "all": 8 * sizes.n_sites}
    return images[model.symmetry] * (2 if model.spin_flip else 1)


def state_numbers(model: ModelConfig, sizes: Sizes) -> int:
    """Numbers that a row keeps of what it has read."""
    width, depth = model.d_model, layers(model)
    if model.name == "rnn":
        return depth * width * (2 if model.cell == "lstm" else 1)
    if model.name == "linear_attention":
        return depth * width * (width // (model.n_heads or 1) + 1)
    if model.name == "ssm":
        return depth * 2 * (model.d_state or 1)
    if model.name == "rnn2d":
        return width * math.isqrt(sizes.n_patches)
    cached = 1 if model.attention in (None, "factored") else 2  # values, or keys as well
    return depth * width * sizes.n_patches * cached


def count_parameters(model: ModelConfig, sizes: Sizes) -> int:
    """P but for biases, norms and the like."""
    width, depth = model.d_model, layers(model)
    tables = 2 * sizes.n_states * width + sizes.n_patches * width
    perceptron = 2 * width * feed_forward(model)
    if model.name == "rnn":
        gates = {"gru": 3, "lstm": 4, "elman": 1}[model.cell or "gru"]
        return tables + (2 * depth - 1) * gates * width**2
    if model.name == "rnn2d":
        return tables + 8 * width**2 * (model.d_embed or 1) + 2 * width**2
    if model.name == "ssm":
        return tables + depth * (6 * width * (model.d_state or 1) + perceptron)
    return tables + depth * (attention_parameters(model, sizes) + perceptron)


def attention_parameters(model: ModelConfig, sizes: Sizes) -> int:
    """Of one layer."""
    width = model.d_model
    if model.name == "linear_attention" or model.attention == "softmax":
        return 4 * width**2
    return 2 * width**2 + (model.n_heads or 1) * sizes.n_patches * (sizes.n_patches + 1) // 2
