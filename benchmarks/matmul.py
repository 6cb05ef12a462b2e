"""The machine's matrix-product rate, the yardstick of every speed table."""

from __future__ import annotations

import time

import torch


def synchronise(device: torch.device) -> None:
    """Wait for queued work, so that a host clock measures it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(
    dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", *, n_repeats: int = 12
) -> float:
    """FLOP/s of a large square product (2048 on CPU, 8192 on GPU), best of several."""
    device = torch.device(device)
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(n_repeats):
        synchronise(device)
        began = time.perf_counter()
        torch.mm(a, b)
        synchronise(device)
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)
