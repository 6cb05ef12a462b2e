"""Many sequences, a token at a time, through a Transformer with factored attention, compiled.

The host side of steps.cpp. Sequences lie in slots and stay there: of the branches of one the first
goes on in its slot, and only the others copy what it has kept. Results do not depend on the number
of threads, bit for bit.

Letters: R sequences, T positions, O outputs (K logits, and K phases where there are any).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, final

import torch
from torch import Tensor

from nqs.core.native.network import STEPS, OutputTables, PackedNetwork, address, compiled
from nqs.core.sequence import SequenceState

if TYPE_CHECKING:
    from nqs.core.transformer import Transformer

PART: Final = 2**22
"""Multiplications of a thread's part at least: it takes a tenth of a millisecond to wake one."""


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_rows", "place")),
        *((name, ctypes.c_void_p) for name in ("tokens", "slots", "values", "counts", "logits")),
    ]


class _Copy(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_rows", "length")),
        *(
            (name, ctypes.c_void_p)
            for name in ("slots", "values", "counts", "new_values", "new_counts")
        ),
    ]


class _Branching(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_rows", "n_after", "length")),
        *((name, ctypes.c_void_p) for name in ("rows", "slots", "after", "values", "counts")),
    ]


@final
class Stepper:
    """Compiled code with a model's weights as they are now; the model must have no `obstacle`.

    Attributes:
        block: sequences that go through the layers together, in several tiles of `lanes`.
    """

    def __init__(self, model: Transformer, tables: OutputTables) -> None:
        there = compiled(model.head.weight.dtype, STEPS)
        handle = there.handle
        assert handle is not None, there.description
        for name in ("step_lanes", "step_tiles", "step_scratch", "step_branch"):
            getattr(handle, name).restype = ctypes.c_int64
        self._handle, self._packed = handle, PackedNetwork(model, tables, handle)
        self._network = ctypes.byref(self._packed.structure)
        self.dtype = model.head.weight.dtype
        self.length, _, self.n_outputs = tables.bias.shape
        self.lanes, self._tiles = int(handle.step_lanes()), int(handle.step_tiles())
        self.block = self._tiles * self.lanes
        self._shape = (len(model.blocks), self.length, model.d_model, self.lanes)
        hidden = model.blocks[0].perceptron.expand.out_features
        of_layers = 2 * len(model.blocks) * model.d_model * (model.d_model + hidden)
        self._work = self.block * (of_layers + self.n_outputs * model.d_model)
        self._n_threads = max(1, torch.get_num_threads())
        self._pool: ThreadPoolExecutor | None = None

    def start(self, n_rows: int) -> StepState:
        """n_rows empty sequences."""
        slots = torch.arange(n_rows, dtype=torch.int32)
        return StepState(self, slots, *self.room(n_rows), length=0)

    def room(self, n_slots: int) -> tuple[Tensor, Tensor]:
        """Values (tiles, layers, T, D, lanes), yet to be written, and counts (tiles, lanes)."""
        n_tiles = self._tiles * math.ceil(n_slots / self.block)
        values = torch.empty(n_tiles, *self._shape, dtype=self.dtype)
        return values, torch.zeros(n_tiles, self.lanes, dtype=torch.int32)

    def read(self, state: StepState, tokens: Tensor) -> Tensor:
        """Outputs (R, O) after each row reads a token (R,) at position state.length."""
        tokens = tokens.to(torch.int64).contiguous()
        outputs = torch.empty(len(tokens), self.n_outputs, dtype=self.dtype)
        numbers = (tokens, state.slots, state.values, state.counts, outputs)
        place = state.length

        def run(first: int, end: int) -> None:  # holds `numbers`, should the caller be interrupted
            step = _Step(len(tokens), place, *map(address, numbers))
            ends = (ctypes.c_int64(block * self._tiles) for block in (first, end))
            tiles = ctypes.byref(step), *ends
            n_bytes = self._handle.step_scratch(self._network, *tiles)
            scratch = torch.empty(n_bytes, dtype=torch.uint8)
            at = ctypes.c_void_p(address(scratch))
            self._handle.step_forward(self._network, *tiles, at)

        self._in_threads(run, math.ceil(len(tokens) / self.block))
        return outputs

    def _in_threads(self, run: Callable[[int, int], None], n_blocks: int) -> None:
        """run(first, end) over blocks, a part for each thread."""
        n_parts = max(1, min(self._n_threads, n_blocks * self._work // PART))
        size = max(1, math.ceil(n_blocks / n_parts))
        parts = [(first, min(first + size, n_blocks)) for first in range(0, n_blocks, size)]
        if len(parts) <= 1:
            run(0, n_blocks)
            return
        if self._pool is None:  # until this object goes
            self._pool = ThreadPoolExecutor(self._n_threads - 1)
        others = [self._pool.submit(run, *part) for part in parts[1:]]
        run(*parts[0])
        for other in others:
            other.result()

    def copied(self, state: StepState, rows: Tensor) -> StepState:
        """Rows (n,) of a state in slots of their own."""
        slots = state.slots[rows]
        values, counts = self.room(len(rows))
        numbers = (slots, state.values, state.counts, values, counts)
        copy = _Copy(len(rows), state.length, *map(address, numbers))
        self._handle.step_copy(self._network, ctypes.byref(copy))
        own = torch.arange(len(rows), dtype=torch.int32)
        return StepState(self, own, values, counts, length=state.length)

    def branched(self, state: StepState, rows: Tensor) -> StepState | None:
        """Rows (n,) of a state, which ends here; None unless they are 0 .. R - 1, each at least
        once, in this order."""
        rows = rows.to(torch.int64).contiguous()
        slots = torch.empty(len(rows), dtype=torch.int32)
        values, counts = self._grown(state, len(rows))
        numbers = (rows, state.slots, slots, values, counts)
        branching = _Branching(state.n_rows, len(rows), state.length, *map(address, numbers))
        if not self._handle.step_branch(self._network, ctypes.byref(branching)):
            return None
        return StepState(self, slots, values, counts, length=state.length)

    def _grown(self, state: StepState, n_slots: int) -> tuple[Tensor, Tensor]:
        """Room for n_slots at least, with what the state keeps."""
        n_now = state.counts.numel()
        if n_slots <= n_now:
            return state.values, state.counts
        values, counts = self.room(max(n_slots, 2 * n_now))
        n_tiles = len(state.counts)
        values[:n_tiles, :, : state.length] = state.values[:, :, : state.length]
        counts[:n_tiles] = state.counts
        return values, counts


@final
class StepState(SequenceState):
    """R sequences in slots.

    Attributes:
        slots: (R,) int32, all of 0 .. R - 1.
        values, counts: see Stepper.room.
        length: tokens read.
    """

    def __init__(
        self, stepper: Stepper, slots: Tensor, values: Tensor, counts: Tensor, *, length: int
    ) -> None:
        self._stepper = stepper
        self.slots, self.values, self.counts, self.length = slots, values, counts, length

    @property
    def n_rows(self) -> int:
        return len(self.slots)

    def read(self, tokens: Tensor) -> Tensor:
        """Outputs (R, O), biases added, after each row reads a token (R,); changes this state.

        Raises ValueError beyond the last position or for another number of rows.
        """
        if self.length == self._stepper.length:
            raise ValueError(f"position {self.length + 1} is beyond length {self.length}")
        if len(tokens) != self.n_rows:
            raise ValueError(f"{len(tokens)} tokens do not continue {self.n_rows} rows")
        outputs = self._stepper.read(self, tokens)
        self.length += 1
        return outputs

    def select(self, rows: Tensor) -> StepState:
        return self._stepper.copied(self, rows)

    def branched(self, rows: Tensor) -> StepState:
        """See SequenceState.branched; in place where every row goes on, in order."""
        after = self._stepper.branched(self, rows)
        return self.select(rows) if after is None else after
