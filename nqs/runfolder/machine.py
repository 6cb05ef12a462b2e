"""What a run computes on, and where its random numbers come from."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from nqs.errors import InputError

STREAMS: Final = (
    "parameters",
    "samples",
    "evaluation",
    "product_state",
    "batches",
    "split",
    "start",
    "perceptron",
    "couplings",
    "checks",
    "product_states",
)


def build_device(name: str) -> torch.device:
    """auto is a GPU if torch sees one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda: torch sees no GPU here; use device=cpu or device=auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def build_generator(seed: int, stream: str, device: torch.device, rank: int = 0) -> torch.Generator:
    """An independent source of random numbers for each purpose and process, from the one seed."""
    key = (rank,) if rank else ()
    return torch.Generator(device).manual_seed(derived_seed(seed, stream, key))


def derived_seed(seed: int, stream: str, key: tuple[int, ...]) -> int:
    """A seed of its own for each purpose and key; manual_seed takes 63 bits."""
    sequence = np.random.SeedSequence((seed, STREAMS.index(stream)), spawn_key=key)
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1
