"""What memory there is, and the refusal of what does not fit, before any of it is allocated.

Without it the system ends the process, often after minutes, and without a word.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from nqs.errors import InputError

GROUPED: Final = Path("/sys/fs/cgroup")


def available() -> float:
    """Bytes that this machine has, or that the process' control group may take of it."""
    limits = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limits.append(float((GROUPED / name).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return min(limits)


def room(device: torch.device | None = None, n_processes: int = 1) -> float:
    """Bytes for a process: what a GPU has free, or its share of the machine's (None: the CPU)."""
    if device is not None and device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    return available() / n_processes


def refuse_if_larger(what: str, terms: Mapping[str, float], room: float) -> None:
    """Raises InputError for more bytes than there are.

    terms: {the key to make smaller: bytes}; the largest is named.
    """
    amount, key = sum(terms.values()), max(terms, key=lambda key: terms[key])
    if amount > room:
        raise InputError(
            f"{key}: {what} would take about {amount / 1e9:.3g} GB of memory, there are "
            f"{room / 1e9:.3g} GB for this process; make it smaller"
        )
