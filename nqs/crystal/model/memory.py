"""Memory that training and generation will take, estimated before most of it is allocated.

What does not fit the machine is refused, with the key to make smaller (nqs.runfolder.memory). Sums
of the largest arrays, rather too small than too large: what runs is not refused. Letters: D width,
L layers, F feed-forward width, V tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from nqs.conf.kinds import Selection
from nqs.core.sequence import SequenceModel, state_numbers
from nqs.crystal.model.cores import build_core, width_of
from nqs.runfolder.memory import Allocations, refuse_if_larger, room

NUMBER: Final = 4
"""Bytes of a float32."""
COPIES: Final = 6
"""Parameters, gradient, two moments, the best parameters, a checkpoint in the making."""


def guarded_core(
    model: Selection,
    n_tokens: int,
    max_length: int,
    generator: torch.Generator,
    features: Tensor | None = None,
    separators: Sequence[int] = (),
    *,
    batch_tokens: int,
    device: torch.device,
) -> SequenceModel:
    """`build_core`, and room for training it with batches of so many tokens.

    Raises InputError as soon as it would not fit, before memory is taken for what is too much.
    """
    width = "model.d_model" if "d_model" in model.values else "model.core"
    named = f"{width}={model.get('d_model', model.name)}"
    numbers = model.get("n_layers", 1) * (4 * model.get("d_model", 0) + width_of(model, "d_ff"))
    batch = {"data.batch_tokens": NUMBER * float(batch_tokens) * (numbers + 2 * n_tokens)}

    def check(n_numbers: int) -> None:
        terms = {named: COPIES * NUMBER * float(n_numbers)} | batch
        refuse_if_larger(f"{n_numbers:.3g} parameters and a batch", terms, room(device))

    check(0)
    with Allocations(check):
        return build_core(model, n_tokens, max_length, generator, features, separators)


def check_generation(model: SequenceModel, n_rows: int, max_length: int) -> None:
    """Raises InputError for more crystals side by side than fit: what each has read, and its
    allowed tokens."""
    numbers = state_numbers(model, max_length) + 4 * model.vocab_size + max_length
    terms = {f"batch_size={n_rows}": NUMBER * float(n_rows) * numbers}
    device = model.head.weight.device
    refuse_if_larger(f"{n_rows} crystals side by side", terms, room(device))
