"""ln p of branches of sequences through a Transformer with factored attention, compiled.

The host side of branches.cpp: packs weights once a pass, cuts sequences into tasks for threads.
Results do not depend on the number of threads, bit for bit.

Letters: B sequences, G branches of each, T positions, D width, H heads, F perceptron width,
K states, O outputs (K, or 2 K with phases), V input tokens, U rows of the output bias.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import torch
from numpy.polynomial import chebyshev
from torch import Tensor, nn

from nqs.core.factored import FactoredAttention
from nqs.core.native.build import Library, library
from nqs.core.perceptron import ACTIVATIONS as MODULES

if TYPE_CHECKING:
    from nqs.core.transformer import Transformer, TransformerBlock

SOURCE: Final = Path(__file__).with_name("branches.cpp")
DEFINES: Final[dict[torch.dtype, tuple[str, ...]]] = {
    torch.float32: (),
    torch.float64: ("DOUBLE",),
}
ACTIVATIONS: Final = tuple(MODULES[name] for name in ("gelu", "relu", "silu"))
"""By their numbers in the source."""
CLAMPS: Final = {torch.float32: 5.25, torch.float64: 8.3}
"""From where on the Gaussian integral is 0 or 1 to rounding."""
TASK_ROWS: Final = 64
"""Sequences of a task at most: what is kept of them stays in the second-level cache."""
ALIGNMENT: Final = 16
"""Tasks hold a multiple of so many sequences if they are larger: vectors of neighbours."""
MOST_OUTPUTS: Final = 2**16
"""The source multiplies 60 sums of as many exponentials, in float64."""


@dataclass(frozen=True)
class OutputTables:
    """What follows the head.

    Attributes:
        bias: (T, U, O), added to the outputs, by position and count; -inf closes a state.
        counts: (V,) int64, what a token that is read adds to the count; counts of U - 1 and more
            take the last row.
        n_states: K; outputs beyond are phases.
    """

    bias: Tensor
    counts: Tensor
    n_states: int


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


class _Layer(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in (
            *("pairs", "values", "shift", "project", "expand", "expand_shift", "contract"),
        )
    ]


class _Network(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                *("length", "width", "heads", "hidden", "states", "outputs", "tokens", "layers"),
                *("bias_rows", "activation"),
            )
        ),
        ("epsilon", ctypes.c_double),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("layer", "embedding", "positions", "first", "head", "phases", "bias", "counts"),
                "gelu",
            )
        ),
    ]


class _Work(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_sequences", "n_branches", "n_groups", "slots")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("tokens", "changes", "first", "ends", "order", "needed", "result", "scratch"),
            )
        ),
    ]


def compiled(dtype: torch.dtype) -> Library:
    """The library for float32 or float64, compiled now if it never was."""
    return library(SOURCE, DEFINES[dtype])


def obstacle(model: Transformer) -> str | None:
    """Why torch must score the branches of a model here and now; None: compiled code can."""
    weight = model.head.weight
    if not all(isinstance(block.attention, FactoredAttention) for block in model.blocks):
        return "softmax attention"
    if weight.device.type != "cpu":
        return f"runs on {weight.device.type}"
    if weight.dtype not in DEFINES:
        return f"parameters of {weight.dtype}"
    if model.n_outputs >= MOST_OUTPUTS:
        return f"{model.n_outputs} outputs"
    if torch.is_grad_enabled():
        return "gradients"
    if torch.is_autocast_enabled("cpu"):
        return "rounded products"
    if model._forward_hooks or model._forward_pre_hooks:
        return "hooks, which would see nothing"
    there = compiled(weight.dtype)
    return there.description if there.handle is None else None


@final
class BranchScorer:
    """ln p of branches, with a model's weights as they are when `score` is called.

    The model must have no `obstacle`.
    """

    def __init__(self, model: Transformer) -> None:
        self._model, self._dtype = model, model.head.weight.dtype
        there = compiled(self._dtype)
        handle = there.handle
        assert handle is not None, there.description
        self._handle = handle
        handle.branch_scratch.restype = ctypes.c_int64
        handle.branch_outputs.restype = handle.branch_gelu_terms.restype = ctypes.c_int64
        self._side = int(handle.branch_outputs())
        self._held: list[Tensor] = []  # what the structures point to

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
        self._held.clear()
        network = self._network(tables)
        tokens = tokens.to(torch.int32).contiguous()
        mask = None if needed is None else needed.to(torch.uint8).contiguous()
        n_threads = max(1, torch.get_num_threads())
        n_rows = task_rows(len(tokens), n_threads)

        def run(begin: int) -> None:
            end = min(begin + n_rows, len(tokens))
            work = _Work(
                *(end - begin, len(branches.order), len(branches.first), branches.slots),
                _address(tokens[begin:]),
                *map(_address, (branches.changes, branches.first, branches.ends, branches.order)),
                None if mask is None else _address(mask[begin:]),
                _address(result[begin:]),
                None,
            )
            both = ctypes.byref(network), ctypes.byref(work)
            scratch = torch.empty(self._handle.branch_scratch(*both), dtype=torch.uint8)
            work.scratch = _address(scratch)
            self._handle.branch_scores(*both)

        begins = range(0, len(tokens), n_rows)
        if n_threads == 1 or len(begins) == 1:
            for begin in begins:
                run(begin)
            return
        with ThreadPoolExecutor(min(n_threads, len(begins))) as pool:
            for _ in pool.map(run, begins):
                pass

    def _network(self, tables: OutputTables) -> _Network:
        model = self._model
        n_positions, n_rows, n_outputs = tables.bias.shape
        first = model.blocks[0]
        vectors = model._vectors(n_positions, 0)  # (V, T, D)
        norm = model.norm
        weight, bias = head_weights(model)
        layers = (_Layer * len(model.blocks))(
            *(self._layer(block, n_positions) for block in model.blocks)
        )
        self._layers = layers
        head, shift = normed(weight, norm)
        activation = ACTIVATIONS.index(type(first.perceptron.activation))
        return _Network(
            *(n_positions, model.d_model, model.n_heads, first.perceptron.expand.out_features),
            *(tables.n_states, n_outputs, model.vocab_size, len(model.blocks)),
            *(n_rows, activation, norm.eps),
            ctypes.addressof(layers),
            self._hold(model.embedding.weight),
            self._hold(model.positions.table[:n_positions]),
            self._hold(first.read(vectors).transpose(0, 1)),  # (T, V, D)
            self._hold(torch.cat([self._packed(part) for part in head.split(tables.n_states)])),
            self._hold(head[tables.n_states :]),
            self._hold(tables.bias + (bias + shift).to(self._dtype)),
            self._hold(tables.counts, torch.int64),
            self._hold(gelu_terms(int(self._handle.branch_gelu_terms()), CLAMPS[self._dtype])),
        )

    def _layer(self, block: TransformerBlock, n_positions: int) -> _Layer:
        attention, perceptron = block.attention, block.perceptron
        assert isinstance(attention, FactoredAttention)
        values, shift = normed(attention.values.weight, block.norm_attention)
        expand, expand_shift = normed(perceptron.expand.weight, perceptron.norm)
        pairs = attention.pairs.dense(0, n_positions)  # (H, T, T)
        return _Layer(
            self._hold(pairs.transpose(1, 2)),
            self._hold(self._packed(values)),
            self._hold(self._padded(shift)),
            self._hold(self._packed(attention.project.weight)),
            self._hold(self._packed(expand)),
            self._hold(self._padded(expand_shift)),
            self._hold(self._packed(perceptron.contract.weight)),
        )

    def _padded(self, rows: Tensor) -> Tensor:
        """(n, ...) with zeros up to a multiple of what the source computes at a time."""
        missing = -len(rows) % self._side
        return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])

    def _packed(self, weight: Tensor) -> Tensor:
        """(n_out, n_in) -> (n_out / side, n_in, side)."""
        return self._padded(weight).unflatten(0, (-1, self._side)).transpose(1, 2)

    def _hold(self, tensor: Tensor, dtype: torch.dtype | None = None) -> int:
        """The address of a contiguous copy in the pass's precision, kept alive."""
        tensor = tensor.detach().to(dtype or self._dtype).contiguous()
        self._held.append(tensor)
        return tensor.data_ptr()


def task_rows(n_sequences: int, n_threads: int) -> int:
    """Sequences of a task: at most TASK_ROWS, the same number of tasks for each thread."""
    rounds = math.ceil(n_sequences / (n_threads * TASK_ROWS))
    n_rows = max(1, math.ceil(n_sequences / max(1, rounds * n_threads)))
    return math.ceil(n_rows / ALIGNMENT) * ALIGNMENT if n_rows > ALIGNMENT else n_rows


def normed(weight: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """W (n, D) of a normalised input, with the norm's scale and shift in it: (n, D) and (n,)."""
    wide = weight.to(torch.float64)
    return wide * norm.weight, wide @ norm.bias.to(torch.float64)


def head_weights(model: Transformer) -> tuple[Tensor, Tensor]:
    """The head as a table, (O, D) and (O,)."""
    head = model.head
    if isinstance(head, nn.Linear):
        return head.weight, head.bias
    return head.expand(head.weight.T).T, head.expand(head.bias)


@functools.cache
def gelu_terms(n_terms: int, clamp: float) -> Tensor:
    """Coefficients of q, Phi(x) = 1/2 + x q(s), s = 2 x^2 / clamp^2 - 1, then the clamp.

    (n_terms + 1,) float64, from the highest power. Interpolated at Chebyshev's points; their sizes
    add up to q at 0, so that powers of s lose nothing to rounding.
    """

    def q(s: Any) -> Any:
        x = (torch.as_tensor(s, dtype=torch.float64).add(1).div(2).clamp(min=1e-20)).sqrt() * clamp
        return (torch.special.erf(x / math.sqrt(2)) / (2 * x)).numpy()

    powers = chebyshev.cheb2poly(chebyshev.chebinterpolate(q, n_terms - 1))
    return torch.tensor([*powers[::-1], clamp], dtype=torch.float64)


def _address(tensor: Tensor) -> int:
    return tensor.data_ptr()
