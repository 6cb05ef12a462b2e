"""Floating-point operations of matrix products: those that are run, and the least there could be.

    counted(work)       of the products that `work` dispatches, by torch's formulas
    least_flops(...)    of a step of a dense autoregressive transformer, in closed form

Operations are 2 a multiply-add; element-by-element work (norms, activations, softmax) is left out,
as everywhere in the literature: the yardstick is the rate of a matrix product.

The least work is the numerator of a model-FLOP utilisation, MFU = least / seconds / rate of a large
matrix product: every conditional that differs is computed once, nothing is looked up. A token costs

    2 (weights of all linear maps) + layers * pair * (tokens before it + 1)

with pair = 4 D for softmax attention (q k^T, and times v) and 2 D for factored. N single-site flips
take N (T - 1) / 2 tokens a configuration; derivatives a forward and a backward pass and one product
a weight; O O^T is symmetric. Where branches share their first layer, or tokens of a table their
projection, less than this is run.

Letters: U rows, P parameters, T patches, D width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from hamiltonians.hamiltonian import Hamiltonian
from nqs.core.factored import FactoredAttention
from nqs.core.native.build import SWITCH
from nqs.core.transformer import Transformer
from nqs.wavefunctions.autoregressive import Autoregressive

aten = torch.ops.aten


def _fused(query: Tensor, key: Tensor, *more: Any, **named: Any) -> int:
    """q k^T and times v, on the full square, as torch counts it on other devices."""
    return 4 * query.numel() * key.shape[2]


def _fused_backward(grad: Tensor, query: Tensor, key: Tensor, *more: Any, **named: Any) -> int:
    """The scores once more, two products for each of the two."""
    return 10 * query.numel() * key.shape[2]


FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: _fused,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _fused_backward,
    aten.mv: lambda matrix, vector, out_val=None: 2 * matrix.numel(),
    aten.linalg_cholesky_ex: lambda matrix, out_val=None: len(matrix) ** 3 // 3,
    aten.cholesky_solve: lambda right, factor, out_val=None: 2 * factor.numel() * right.shape[1],
}
"""torch's own, and what a step needs beyond them."""


class _Counter(TorchDispatchMode):
    """FlopCounterMode without its search for decompositions, ten times as long as the step."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = FORMULAS.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, out_val=out)
        return out


def counted(work: Callable[[], object]) -> int:
    """Operations of the products that work() dispatches; compiled passes run as their torch twins,
    whose products are the same but for the first layer's attention."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "0"
    try:
        with _Counter() as counter:
            work()
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before
    return counter.total


@dataclass(frozen=True)
class Work:
    """Operations of the parts of a step.

    Attributes:
        sampling: the walk through the tree of prefixes.
        flips: ln psi after all flips of the rows.
        jacobian: passes that the derivatives of ln psi come from, and the derivatives.
        gram: O O^T.
        solve: Cholesky and triangular solves.
    """

    sampling: int
    flips: int
    jacobian: int
    gram: int
    solve: int

    @property
    def total(self) -> int:
        """Of the step."""
        return sum(vars(self).values())


def token_flops(core: Transformer, before: int) -> int:
    """The least for one more token after `before` others."""
    linear = sum(m.weight.numel() for m in core.modules() if isinstance(m, nn.Linear))
    factored = isinstance(core.blocks[0].attention, FactoredAttention)
    pair = (2 if factored else 4) * core.d_model
    return 2 * linear + len(core.blocks) * pair * (before + 1)


def least_flops(
    psi: Autoregressive,
    hamiltonian: Hamiltonian,
    n_rows: int,
    *,
    prefixes: Sequence[int] | None = None,
) -> Work:
    """The least that a step of the natural gradient on n_rows rows needs (head of this file).

    prefixes: rows of each sampling step, of `prefix_counts`; None: n_rows each. Raises TypeError
    for other cores than transformers with a table of tokens.
    """
    if not (isinstance(psi.core, Transformer) and isinstance(psi.core.head, nn.Linear)):
        raise TypeError(f"the least work of {type(psi.core).__name__} is not known here")
    n_patches = psi.patches.n_patches
    token = [token_flops(psi.core, t) for t in range(n_patches)]
    rows = [n_rows] * n_patches if prefixes is None else prefixes
    first = (psi.patches.encode(hamiltonian.flips) != 0).to(torch.int8).argmax(1)  # (G,)
    n_parameters = sum(p.numel() for p in psi.parameters())
    size, inner = sorted((n_rows, n_parameters))
    return Work(
        sampling=sum(r * cost for r, cost in zip(rows, token, strict=True)),
        flips=n_rows * sum(sum(token[k + 1 :]) for k in first.tolist()),
        jacobian=3 * n_rows * sum(token),
        gram=size * (size + 1) * inner,
        solve=size**3 // 3 + 2 * size**2,
    )


def prefix_counts(psi: Autoregressive, configs: Tensor) -> list[int]:
    """Distinct prefixes of 0 .. T - 1 patches: the rows of unique sampling that ends in configs."""
    tokens = psi.patches.encode(configs)  # (U, T)
    return [1, *(len(torch.unique(tokens[:, :t], dim=0)) for t in range(1, tokens.shape[1]))]
