"""ln p of sequences and of their branches through a Transformer with factored attention, compiled.

The host side of branches.cpp: cuts sequences into tasks for threads. Results do not depend on the
number of threads, bit for bit.

Letters: B sequences, G branches of each, T positions.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import torch
from torch import Tensor

from nqs.core.native.network import OutputTables, PackedNetwork, address, compiled

if TYPE_CHECKING:
    from nqs.core.transformer import Transformer

TASK_ROWS: Final = 64
"""Sequences of a task at most: what is kept of them stays in the second-level cache."""
ALIGNMENT: Final = 16
"""Tasks hold a multiple of so many sequences if they are larger: vectors of neighbours."""


@dataclass(frozen=True)
class Branches:
    """Branches of every sequence, in groups by the first token they alter.

    Attributes:
        changes: (G, T) int32, xored to the tokens.
        first: (groups,) int64, ascending.
        ends: (groups,) int64, where each group ends in `order`.
        order: (G,) int64, the branches group by group.
        slots: positions that read an altered token, at most, of one group.
    """

    changes: Tensor
    first: Tensor
    ends: Tensor
    order: Tensor
    slots: int

    @classmethod
    def of(cls, changes: Tensor, groups: Sequence[tuple[int, Tensor]]) -> Branches:
        """groups: (first altered token, branches (F,)), ascending; changes (G, T)."""
        read = changes[:, :-1] != 0
        slots = max((int(read[own].any(0).sum()) for _, own in groups), default=0)
        own = [branches for _, branches in groups]
        return cls(
            changes.to(torch.int32).contiguous(),
            torch.tensor([first for first, _ in groups], dtype=torch.int64),
            torch.tensor([len(branches) for branches in own], dtype=torch.int64).cumsum(0),
            torch.cat(own) if own else torch.zeros(0, dtype=torch.int64),
            slots,
        )


class _Work(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_sequences", "n_branches", "n_groups", "slots")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("tokens", "changes", "first", "ends", "order", "needed", "result", "own"),
                "scratch",
            )
        ),
    ]


@final
class BranchScorer:
    """ln p of branches, with a model's weights as they are when `score` is called.

    The model must have no `obstacle`.
    """

    def __init__(self, model: Transformer) -> None:
        self._model = model
        there = compiled(model.head.weight.dtype)
        handle = there.handle
        assert handle is not None, there.description
        self._handle = handle
        handle.branch_scratch.restype = ctypes.c_int64

    def score(
        self,
        tables: OutputTables,
        tokens: Tensor,
        needed: Tensor | None,
        branches: Branches,
        result: Tensor,
    ) -> None:
        """1/2 ln p (and phases) of branches of tokens (B, T) into result (B, G), contiguous.

        The sequences start with token V - 1. result: float64, or complex128 with phases; entries
        where needed (B, G) is False stay as they are.
        """
        self._run(tables, tokens, needed, branches, branched=result)

    def read(self, tables: OutputTables, tokens: Tensor, result: Tensor) -> None:
        """1/2 ln p (and phases) of tokens (B, T) themselves into result (B,), as `score` does."""
        none = Branches.of(torch.zeros(0, tokens.shape[1], dtype=torch.int64), [])
        self._run(tables, tokens, None, none, own=result)

    def _run(
        self,
        tables: OutputTables,
        tokens: Tensor,
        needed: Tensor | None,
        branches: Branches,
        *,
        branched: Tensor | None = None,
        own: Tensor | None = None,
    ) -> None:
        packed = PackedNetwork(self._model, tables, self._handle)
        tokens = tokens.to(torch.int32).contiguous()
        mask = None if needed is None else needed.to(torch.uint8).contiguous()
        n_threads = max(1, torch.get_num_threads())
        n_rows = task_rows(len(tokens), n_threads)

        def run(begin: int) -> None:
            end = min(begin + n_rows, len(tokens))
            parts = (None if x is None else address(x[begin:]) for x in (mask, branched, own))
            work = _Work(
                *(end - begin, len(branches.order), len(branches.first), branches.slots),
                address(tokens[begin:]),
                *map(address, (branches.changes, branches.first, branches.ends, branches.order)),
                *parts,
                None,
            )
            both = ctypes.byref(packed.structure), ctypes.byref(work)
            scratch = torch.empty(self._handle.branch_scratch(*both), dtype=torch.uint8)
            work.scratch = address(scratch)
            self._handle.branch_scores(*both)

        begins = range(0, len(tokens), n_rows)
        if n_threads == 1 or len(begins) <= 1:
            for begin in begins:
                run(begin)
            return
        with ThreadPoolExecutor(min(n_threads, len(begins))) as pool:
            for _ in pool.map(run, begins):
                pass


def task_rows(n_sequences: int, n_threads: int) -> int:
    """Sequences of a task: at most TASK_ROWS, the same number of tasks for each thread."""
    rounds = math.ceil(n_sequences / (n_threads * TASK_ROWS))
    n_rows = max(1, math.ceil(n_sequences / max(1, rounds * n_threads)))
    return math.ceil(n_rows / ALIGNMENT) * ALIGNMENT if n_rows > ALIGNMENT else n_rows
