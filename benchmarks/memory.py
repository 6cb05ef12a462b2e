"""The largest memory a process has held, on its machine or on a GPU."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")


def peak_bytes(device: torch.device | None = None) -> int:
    """Of a GPU what torch has allocated there, else the resident memory of this process.

    Not getrusage where /proc tells: its maximum survives exec, so a child would report its parent.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if STATUS.exists():
        lines = [line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
        if lines:
            return int(lines[0].split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
