"""What memory there is, and the refusal of what does not fit, before any of it is allocated.

Without it the system ends the process, often after minutes, and without a word.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode

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


class Allocations(TorchFunctionMode):
    """Calls `check` with the numbers that were asked for so far before each array is made.

    Parameters of torch's modules are arrays of torch.empty, zeros, randn ... of a size.
    """

    MAKERS: Final = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full)

    def __init__(self, check: Callable[[int], None]) -> None:
        super().__init__()
        self._check = check
        self._n_numbers = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in self.MAKERS:
            size = (kwargs or {}).get("size", args[0] if args else ())
            size = size if isinstance(size, tuple | list) else args
            self._n_numbers += math.prod(n for n in size if isinstance(n, int))
            self._check(self._n_numbers)
        return func(*args, **(kwargs or {}))
