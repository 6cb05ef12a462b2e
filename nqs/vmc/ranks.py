"""The processes that share one job, and the few things that they tell each other.

Each process, a rank, draws its share of the samples from its own generator. Then every rank learns
all distinct configurations, which are small, and what follows is dealt: rank r evaluates ln psi,
local energies and derivatives of its share of the rows and tells the others the result. Samples,
weights, energies, baseline and errors are therefore global on every rank, rows that several ranks
drew are evaluated once, and the work stays even however peaked |psi|^2 is.

All ranks make the same calls in the same order. `OneProcess` does nothing, so that an algorithm is
written once. Sums are the same bits on every rank (each number is added up in one place).

Letters: W ranks, U rows of all of them, u those of one, C columns.
"""

from __future__ import annotations

import contextlib
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Final, final

import torch
import torch.distributed as dist
from torch import Tensor


class RankLost(Exception):
    """Another process of the job has ended, or does not answer: no step can be completed."""


class Ranks(ABC):
    """Attributes: rank, this process' number in 0 .. size - 1; size, how many there are."""

    rank: int
    size: int

    def shares(self, n: int) -> list[int]:
        """How many of n rows each rank has: as equal as can be, the larger ones first."""
        return [n // self.size + (rank < n % self.size) for rank in range(self.size)]

    def share(self, n: int) -> slice:
        """The rows of this rank among n."""
        shares = self.shares(n)
        begin = sum(shares[: self.rank])
        return slice(begin, begin + shares[self.rank])

    @abstractmethod
    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks of tensors of one shape."""

    @abstractmethod
    def broadcast(self, values: Tensor) -> Tensor:
        """The tensor of rank 0; shape and dtype are the same on all ranks."""

    @abstractmethod
    def gathered(self, rows: Tensor) -> Tensor:
        """The rows (u, ...) of all ranks one after another, (U, ...); u may differ."""

    @abstractmethod
    def exchanged(self, panel: Tensor, n_rows: int) -> Tensor:
        """All rows of this rank's columns for this rank's rows of all columns.

        panel (m u, C), m blocks (real and imaginary parts) of u rows, `share(n_rows)` each ->
        (m n_rows, c) with the columns `share(C)`.
        """

    @abstractmethod
    def shared(self, content: Any, device: torch.device | None = None) -> Any:
        """Rank 0's content, made of dicts, lists, tensors, numbers and text; tensors on device."""

    @abstractmethod
    def collected(self, content: Any) -> list[Any]:
        """The content of each rank, made as for `shared`, in their order."""


@final
class OneProcess(Ranks):
    """Nobody to tell: everything comes back as it is."""

    rank = 0
    size = 1

    def sum(self, values: Tensor) -> Tensor:
        return values

    def broadcast(self, values: Tensor) -> Tensor:
        return values

    def gathered(self, rows: Tensor) -> Tensor:
        return rows

    def exchanged(self, panel: Tensor, n_rows: int) -> Tensor:
        return panel

    def shared(self, content: Any, device: torch.device | None = None) -> Any:
        return content

    def collected(self, content: Any) -> list[Any]:
        return [content]


ALONE: Final = OneProcess()


@final
class ProcessGroup(Ranks):
    """torch.distributed's default group, which must be there. Calls raise RankLost."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def sum(self, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        with _answering():
            dist.all_reduce(total)
        return total

    def broadcast(self, values: Tensor) -> Tensor:
        first = values.clone(memory_format=torch.contiguous_format)
        with _answering():
            dist.broadcast(first, 0)
        return first

    def gathered(self, rows: Tensor) -> Tensor:
        """As bytes, which every backend carries, padded to the longest share."""
        length = torch.tensor([len(rows)], device=rows.device)
        with _answering():
            lengths = [torch.empty_like(length) for _ in range(self.size)]
            dist.all_gather(lengths, length)
            counts = [int(n) for n in lengths]
            row = rows.new_empty(1, *rows.shape[1:])
            own = row.new_empty(max(counts), row.nbytes, dtype=torch.uint8)
            content = rows.contiguous().view(-1).view(torch.uint8)
            own[: len(rows)] = content.view(len(rows), row.nbytes)
            found = [torch.empty_like(own) for _ in range(self.size)]
            dist.all_gather(found, own)
        joined = torch.cat([part[:n] for part, n in zip(found, counts, strict=True)])
        return joined.view(-1).view(rows.dtype).view(-1, *rows.shape[1:])

    def exchanged(self, panel: Tensor, n_rows: int) -> Tensor:
        rows, widths = self.shares(n_rows), self.shares(panel.shape[1])
        n_own, width = rows[self.rank], widths[self.rank]
        blocks = panel.view(-1, n_own, panel.shape[1])  # (m, u, C)
        found = panel.new_empty(len(blocks), n_rows, width)
        for block, own in zip(blocks, found, strict=True):
            sent = torch.cat([part.reshape(-1) for part in block.split(widths, dim=1)])
            with _answering():
                dist.all_to_all_single(
                    own.view(-1), sent, [n * width for n in rows], [n_own * w for w in widths]
                )
        return found.flatten(0, 1)

    def shared(self, content: Any, device: torch.device | None = None) -> Any:
        if self.rank == 0:
            self.gathered(_packed(content))
            return content
        return _unpacked(self.gathered(torch.empty(0, dtype=torch.uint8)), device)

    def collected(self, content: Any) -> list[Any]:
        packed = _packed(content)
        lengths = self.gathered(torch.tensor([len(packed)])).tolist()
        return [_unpacked(part, None) for part in self.gathered(packed).split(lengths)]


def _packed(content: Any) -> Tensor:
    """content as bytes (n,) uint8."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _unpacked(packed: Tensor, device: torch.device | None) -> Any:
    """The content of bytes (n,) uint8, tensors on device; opening it runs no code."""
    buffer = io.BytesIO(packed.numpy().tobytes())
    return torch.load(buffer, map_location=device or "cpu", weights_only=True)


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """torch.distributed reports a dead process, and one that is late, as RuntimeErrors."""
    try:
        yield
    except RuntimeError as error:
        reason = re.sub(r"^\[\S*\] ", "", str(error)).split(". ")[0]  # without torch's file names
        raise RankLost(" ".join(reason.split())) from error
