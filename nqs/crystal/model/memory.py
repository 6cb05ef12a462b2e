"""Memory that training and generation will take, estimated before any of it is allocated.

What does not fit the machine is refused, with the key to make smaller (see ground_states). Sums of
the largest arrays, rather too small than too large: what runs is not refused. Letters: D width, L
layers, F feed-forward width, V tokens, S longest sequence, P parameters.
"""

from __future__ import annotations

from typing import Final

import torch

from nqs.crystal.commands.config import ModelConfig
from nqs.runfolder.memory import refuse_if_larger, room

NUMBER: Final = 4
"""Bytes of a float32."""
COPIES: Final = 6
"""Parameters, gradient, two moments, the best parameters, a checkpoint in the making."""


def check_training(
    model: ModelConfig, n_tokens: int, max_length: int, batch_tokens: int, device: torch.device
) -> None:
    """Raises InputError for a model and batches that do not fit. batch_tokens: of the largest."""
    n_parameters = count_parameters(model, n_tokens, max_length)
    numbers = model.n_layers * (4 * model.d_model + feed_forward(model)) + 2 * n_tokens
    terms = {
        f"model.d_model={model.d_model}": COPIES * NUMBER * float(n_parameters),
        "data.batch_tokens": NUMBER * float(batch_tokens) * numbers,
    }
    refuse_if_larger(f"{n_parameters:.3g} parameters and a batch", terms, room(device))


def check_generation(
    model: ModelConfig, n_rows: int, max_length: int, n_tokens: int, device: torch.device
) -> None:
    """Raises InputError for more crystals side by side than fit: keys and values of transformers,
    and each row's allowed tokens."""
    cached = 2 * max_length * model.n_layers * model.d_model if model.core == "transformer" else 0
    terms = {f"batch_size={n_rows}": NUMBER * float(n_rows) * (cached + 4 * n_tokens + max_length)}
    refuse_if_larger(f"{n_rows} crystals side by side", terms, room(device))


def count_parameters(model: ModelConfig, n_tokens: int, max_length: int) -> int:
    """P but for biases, norms and the like."""
    width, depth = model.d_model, model.n_layers
    tables = 2 * n_tokens * width
    if model.core in ("gru", "lstm"):
        return tables + 2 * depth * (3 if model.core == "gru" else 4) * width**2
    tables += max_length * width
    if model.core == "ssm":
        mixing = 4 * width * (width if model.d_state is None else model.d_state)
    else:
        mixing = 4 * width**2
    return tables + depth * (mixing + 2 * width * feed_forward(model))


def feed_forward(model: ModelConfig) -> int:
    """F; 0 where there is none."""
    if model.core in ("gru", "lstm"):
        return 0
    return 4 * model.d_model if model.d_ff is None else model.d_ff
