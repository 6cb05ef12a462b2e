"""A Transformer with factored attention as compiled code reads it.

The host side of network.h and layers.h: packs the weights as they are now, and says where the
compiled code cannot be had.

Letters: T positions, D width, H heads, F perceptron width, K states, O outputs (K, or 2 K with
phases), V input tokens, U rows of the output bias.
"""

from __future__ import annotations

import ctypes
import functools
import math
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

BRANCHES: Final = Path(__file__).with_name("branches.cpp")
STEPS: Final = Path(__file__).with_name("steps.cpp")
DEFINES: Final[dict[torch.dtype, tuple[str, ...]]] = {
    torch.float32: (),
    torch.float64: ("DOUBLE",),
}
ACTIVATIONS: Final = tuple(MODULES[name] for name in ("gelu", "relu", "silu"))
"""By their numbers in the source."""
CLAMPS: Final = {torch.float32: 5.25, torch.float64: 8.3}
"""From where on the Gaussian integral is 0 or 1 to rounding."""
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


def compiled(dtype: torch.dtype, source: Path = BRANCHES) -> Library:
    """The library of a source for float32 or float64, compiled now if it never was."""
    return library(source, DEFINES[dtype])


def obstacle(model: Transformer, source: Path = BRANCHES) -> str | None:
    """Why torch must evaluate a model here and now; None: compiled code can."""
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
    there = compiled(weight.dtype, source)
    return there.description if there.handle is None else None


class _Layer(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in (
            *("pairs", "values", "shift", "project", "expand", "expand_shift", "contract"),
        )
    ]


class Network(ctypes.Structure):
    """See network.h."""

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


@final
class PackedNetwork:
    """A model's weights as they are now, with the tables that follow its head.

    Attributes:
        structure: what compiled functions are given; valid as long as this object lives.
    """

    def __init__(self, model: Transformer, tables: OutputTables, handle: ctypes.CDLL) -> None:
        self._model, self._dtype = model, model.head.weight.dtype
        for name in ("network_outputs", "network_gelu_terms"):
            getattr(handle, name).restype = ctypes.c_int64
        self._side = int(handle.network_outputs())
        self._held: list[Tensor] = []  # what the structures point to
        n_positions = len(tables.bias)
        self._layers = (_Layer * len(model.blocks))(
            *(self._layer(block, n_positions) for block in model.blocks)
        )
        self.structure = self._network(tables, int(handle.network_gelu_terms()))

    def _network(self, tables: OutputTables, n_terms: int) -> Network:
        model = self._model
        n_positions, n_rows, n_outputs = tables.bias.shape
        first = model.blocks[0]
        vectors = model._vectors(n_positions, 0)  # (V, T, D)
        norm = model.norm
        weight, bias = head_weights(model)
        head, shift = normed(weight, norm)
        activation = ACTIVATIONS.index(type(first.perceptron.activation))
        return Network(
            *(n_positions, model.d_model, model.n_heads, first.perceptron.expand.out_features),
            *(tables.n_states, n_outputs, model.vocab_size, len(model.blocks)),
            *(n_rows, activation, norm.eps),
            ctypes.addressof(self._layers),
            self._hold(model.embedding.weight),
            self._hold(model.positions.table[:n_positions]),
            self._hold(first.read(vectors).transpose(0, 1)),  # (T, V, D)
            self._hold(torch.cat([self._packed(part) for part in head.split(tables.n_states)])),
            self._hold(head[tables.n_states :]),
            self._hold(tables.bias + (bias + shift).to(self._dtype)),
            self._hold(tables.counts, torch.int64),
            self._hold(gelu_terms(n_terms, CLAMPS[self._dtype])),
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
        if not missing:
            return rows
        return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])

    def _packed(self, weight: Tensor) -> Tensor:
        """(n_out, n_in) -> (n_out / side, n_in, side)."""
        return self._padded(weight).unflatten(0, (-1, self._side)).transpose(1, 2)

    def _hold(self, tensor: Tensor, dtype: torch.dtype | None = None) -> int:
        """The address of a contiguous copy in the pass's precision, kept alive."""
        tensor = tensor.detach().to(dtype or self._dtype).contiguous()
        self._held.append(tensor)
        return tensor.data_ptr()


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


def address(tensor: Tensor) -> int:
    """Of its first number."""
    return tensor.data_ptr()
