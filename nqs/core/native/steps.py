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
from typing import TYPE_CHECKING, Self, final

import torch
from torch import Tensor

from nqs.core.native.network import STEPS, OutputTables, PackedNetwork, address, compiled
from nqs.core.sequence import SequenceState

if TYPE_CHECKING:
    from nqs.core.transformer import Transformer


class _Step(ctypes.Structure):
    _fields_ = [
        ("n_rows", ctypes.c_int64),
        ("place", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("tokens", "slots", "values", "counts", "logits")),
    ]


class _Copy(ctypes.Structure):
    _fields_ = [
        ("n_slots", ctypes.c_int64),
        ("length", ctypes.c_int64),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("sources", "targets", "source", "target", "source_counts", "target_counts"),
            )
        ),
    ]


@final
class Stepper:
    """Compiled code with a model's weights as they are now; the model must have no `obstacle`.

    Attributes:
        lanes: sequences that lie side by side, a tile.
    """

    def __init__(self, model: Transformer, tables: OutputTables) -> None:
        there = compiled(model.head.weight.dtype, STEPS)
        handle = there.handle
        assert handle is not None, there.description
        for name in ("step_lanes", "step_tiles", "step_scratch"):
            getattr(handle, name).restype = ctypes.c_int64
        self._handle, self._packed = handle, PackedNetwork(model, tables, handle)
        self._network = ctypes.byref(self._packed.structure)
        self.dtype = model.head.weight.dtype
        self.length, _, self.n_outputs = tables.bias.shape
        self.lanes, self._together = int(handle.step_lanes()), int(handle.step_tiles())
        self._shape = (len(model.blocks), self.length, model.d_model, self.lanes)
        self._n_threads = max(1, torch.get_num_threads())
        self._pool: ThreadPoolExecutor | None = None

    def start(self, n_rows: int) -> StepState:
        """n_rows empty sequences."""
        slots = torch.arange(n_rows, dtype=torch.int32)
        return StepState(self, slots, *self.room(n_rows), length=0)

    def room(self, n_slots: int) -> tuple[Tensor, Tensor]:
        """Values (tiles, layers, T, D, lanes), yet to be written, and counts (tiles, lanes)."""
        n_tiles = math.ceil(n_slots / self.lanes)
        values = torch.empty(n_tiles, *self._shape, dtype=self.dtype)
        return values, torch.zeros(n_tiles, self.lanes, dtype=torch.int32)

    def read(self, state: StepState, tokens: Tensor) -> Tensor:
        """Outputs (R, O) after each row reads a token (R,) at position state.length."""
        tokens = tokens.to(torch.int64).contiguous()
        outputs = torch.empty(len(tokens), self.n_outputs, dtype=self.dtype)
        numbers = (tokens, state.slots, state.values, state.counts, outputs)
        step = _Step(len(tokens), state.length, *map(address, numbers))

        def run(first: int, end: int) -> None:
            tiles = ctypes.byref(step), ctypes.c_int64(first), ctypes.c_int64(end)
            n_bytes = self._handle.step_scratch(self._network, *tiles)
            scratch = torch.empty(n_bytes, dtype=torch.uint8)
            at = ctypes.c_void_p(address(scratch))
            self._handle.step_forward(self._network, *tiles, at)

        self._in_threads(run, math.ceil(len(tokens) / self.lanes))
        return outputs

    def _in_threads(self, run: Callable[[int, int], None], n_tiles: int) -> None:
        """run(first, end) over tiles, a part for each thread, but no part of one tile alone."""
        if n_tiles == 0:
            return
        n_parts = max(1, min(self._n_threads, n_tiles // 2))
        size = math.ceil(n_tiles / n_parts)
        if size > self._together:
            size = math.ceil(size / self._together) * self._together
        parts = [(first, min(first + size, n_tiles)) for first in range(0, n_tiles, size)]
        if len(parts) == 1:
            run(*parts[0])
            return
        if self._pool is None:  # until this object goes
            self._pool = ThreadPoolExecutor(self._n_threads - 1)
        others = [self._pool.submit(run, *part) for part in parts[1:]]
        run(*parts[0])
        for other in others:
            other.result()

    def copy(
        self, state: StepState, sources: Tensor, target: tuple[Tensor, Tensor], targets: Tensor
    ) -> None:
        """What is kept in slots `sources` (n,) of a state into slots `targets` (n,) of `target`."""
        sources, targets = (x.to(torch.int32).contiguous() for x in (sources, targets))
        numbers = (sources, targets, state.values, target[0], state.counts, target[1])
        copy = _Copy(len(sources), state.length, *map(address, numbers))
        self._handle.step_copy(self._network, ctypes.byref(copy))


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

    def select(self, rows: Tensor) -> Self:
        room = self._stepper.room(len(rows))
        slots = torch.arange(len(rows), dtype=torch.int32)
        self._stepper.copy(self, self.slots[rows], room, slots)
        return type(self)(self._stepper, slots, *room, length=self.length)

    def branched(self, rows: Tensor) -> Self:
        """See SequenceState.branched; in place if every row goes on."""
        n_rows, n_after = self.n_rows, len(rows)
        steps = rows.diff(prepend=rows.new_tensor([-1]))
        ascending = bool(((steps == 0) | (steps == 1)).all())
        if not (ascending and n_after > 0 and int(rows[-1]) == n_rows - 1):
            return self.select(rows)
        slots, new = self.slots[rows], steps == 0
        sources = slots[new]
        slots[new] = torch.arange(n_rows, n_after, dtype=torch.int32)
        values, counts = self._grown(n_after)
        self._stepper.copy(self, sources, (values, counts), slots[new])
        return type(self)(self._stepper, slots, values, counts, length=self.length)

    def _grown(self, n_slots: int) -> tuple[Tensor, Tensor]:
        """Room for n_slots at least, with what there is."""
        if n_slots <= self.counts.numel():
            return self.values, self.counts
        values, counts = self._stepper.room(max(n_slots, 2 * self.counts.numel()))
        n_tiles = len(self.counts)
        values[:n_tiles, :, : self.length] = self.values[:, :, : self.length]
        counts[:n_tiles] = self.counts
        return values, counts
