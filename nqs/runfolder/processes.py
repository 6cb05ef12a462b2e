"""What a run needs of the processes that work on it together; a job of several brings its own."""

from __future__ import annotations

from typing import Any, Final, Protocol

import torch
from torch import Tensor


class Processes(Protocol):
    """Attributes: rank, this process' number in 0 .. size - 1; size, how many there are.

    All make the same calls in the same order.
    """

    rank: int
    size: int

    def gathered(self, rows: Tensor) -> Tensor:
        """The rows (u, ...) of all processes one after another."""

    def shared(self, content: Any, device: torch.device | None = None) -> Any:
        """The content of process 0; tensors on device."""


class OneProcess:
    """Nobody to tell: everything comes back as it is."""

    rank = 0
    size = 1

    def gathered(self, rows: Tensor) -> Tensor:
        return rows

    def shared(self, content: Any, device: torch.device | None = None) -> Any:
        return content


ALONE: Final = OneProcess()
