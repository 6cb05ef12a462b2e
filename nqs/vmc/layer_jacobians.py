"""Per-sample derivatives of ln psi, layer by layer, from one ordinary backward pass.

A backward pass of sum_s ln psi_s leaves, at every layer, the gradient with respect to that layer's
output; with the layer's input it gives the derivative of each sample's own ln psi, because samples
do not mix:

    linear      y = W x + b           J_W = sum_t g_t x_t^T,   J_b = sum_t g_t
    embedding   y = E[token]          J_E[v] = sum_{t: token_t = v} g_t
    norm        y = gamma x^ + beta   J_gamma = sum_t g_t x^_t, J_beta = sum_t g_t
    added table y = x + table[t]      J_table[t] = g_t

(t runs over positions and, in recurrent cells, over the steps at which the layer is called.)
Fused attention stays, no vmap; the full (samples x parameters) matrix is never held, only one
parameter's columns at a time.

Letters: B samples, T positions, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nqs.core.positions import AddedTable
from nqs.wavefunctions.wavefunction import Wavefunction

SUPPORTED = (nn.Linear, nn.Embedding, nn.LayerNorm, AddedTable)


@dataclass
class _Calls:
    """What one layer saw, a list entry per call: inputs (B, T, in), gradients (B, T, out)."""

    inputs: list[Tensor] = field(default_factory=list)
    gradients: dict[int, Tensor] = field(default_factory=dict)

    def join(self) -> tuple[Tensor, Tensor]:
        """Inputs and gradients, all calls' positions along dim 1; (B, in) is (B, 1, in)."""
        gradients = [self.gradients[i] for i in range(len(self.inputs))]
        if gradients[0].dim() == 2:
            return torch.stack(self.inputs, dim=1), torch.stack(gradients, dim=1)
        return torch.cat(self.inputs, dim=1), torch.cat(gradients, dim=1)


class LayerJacobians:
    """Layer inputs and output gradients of sum_s ln psi(s) for a batch of configurations.

    Args:
        wavefunction: every parameter must belong to a supported layer; ValueError names the first
            that does not.
        configs: (B, N) bool.
        chunk: rows per backward pass, which bounds the memory of the graph.
    """

    def __init__(self, wavefunction: Wavefunction, configs: Tensor, *, chunk: int = 1_024) -> None:
        self._layers = supported_layers(wavefunction)
        self.n_parameters = sum(p.numel() for p in wavefunction.parameters())
        parts: list[dict[str, tuple[Tensor, Tensor]]] = []
        for rows in configs.split(chunk):
            parts.append(_recorded(wavefunction, self._layers, rows))
        self._seen = {
            name: tuple(
                torch.cat(tensors) for tensors in zip(*(p[name] for p in parts), strict=True)
            )
            for name in self._layers
        }
        offsets, begin = {}, 0
        for name, parameter in wavefunction.named_parameters():
            offsets[name] = begin
            begin += parameter.numel()
        self._offsets = offsets

    def panels(self, max_columns: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(columns (C,), J[:, columns] (B, C)) with C <= max_columns where a single row allows it.

        Narrow blocks are put together: few wide products cost less than many narrow ones.
        """
        columns: list[Tensor] = []
        parts: list[Tensor] = []
        width = 0
        for begin, block in self.blocks(max_columns):
            if 4 * block.shape[1] >= max_columns:
                yield torch.arange(begin, begin + block.shape[1], device=block.device), block
                continue
            if parts and width + block.shape[1] > max_columns:
                yield torch.cat(columns), torch.cat(parts, dim=1)
                columns, parts, width = [], [], 0
            end = begin + block.shape[1]
            columns.append(torch.arange(begin, end, device=block.device))
            parts.append(block)
            width += block.shape[1]
        if parts:
            yield torch.cat(columns), torch.cat(parts, dim=1)

    def blocks(self, max_columns: int) -> Iterator[tuple[int, Tensor]]:
        """(first column, J (B, C)) with C <= max_columns where a row of a matrix allows it.

        Columns follow the flat parameter vector; together the blocks cover each column once.
        """
        for name, layer in self._layers.items():
            inputs, gradients = self._seen[name]
            prefix = f"{name}." if name else ""
            for parameter, jacobian in _jacobians(layer, inputs, gradients, max_columns):
                offset, block = jacobian
                yield self._offsets[prefix + parameter] + offset, block


def supported_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Name -> layer for every layer that owns parameters; ValueError if one is not supported."""
    layers: dict[str, nn.Module] = {}
    for name, layer in module.named_modules():
        if not any(True for _ in layer.parameters(recurse=False)):
            continue
        if not isinstance(layer, SUPPORTED):
            known = ", ".join(kind.__name__ for kind in SUPPORTED)
            raise ValueError(
                f"the natural gradient does not know the layer {type(layer).__name__} ({name}); "
                f"it knows {known}: build from these or take optimizer=adam"
            )
        layers[name] = layer
    return layers


def _recorded(
    wavefunction: Wavefunction, layers: dict[str, nn.Module], configs: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    calls = {name: _Calls() for name in layers}
    handles = [
        layer.register_forward_hook(_recorder(calls[name])) for name, layer in layers.items()
    ]
    try:
        with torch.enable_grad():
            total = wavefunction.log_psi(configs).sum()
    finally:
        for handle in handles:
            handle.remove()
    outputs = [parameter for parameter in wavefunction.parameters()]
    torch.autograd.grad(total, outputs, allow_unused=True)
    return {name: seen.join() for name, seen in calls.items()}


def _recorder(calls: _Calls) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        index = len(calls.inputs)
        calls.inputs.append(inputs[0].detach())
        output.register_hook(lambda gradient: calls.gradients.__setitem__(index, gradient))

    return record


def _jacobians(
    layer: nn.Module, inputs: Tensor, gradients: Tensor, max_columns: int
) -> Iterator[tuple[str, tuple[int, Tensor]]]:
    """(parameter name, (offset in it, J block (B, C)))."""
    if isinstance(layer, nn.Linear):
        rows = max(1, max_columns // layer.in_features)
        for begin in range(0, layer.out_features, rows):
            part = gradients[:, :, begin : begin + rows]
            block = torch.bmm(part.transpose(1, 2), inputs).flatten(1)  # (B, out, in)
            yield "weight", (begin * layer.in_features, block)
        if layer.bias is not None:
            yield "bias", (0, gradients.sum(1))
    elif isinstance(layer, nn.Embedding):
        rows = max(1, max_columns // layer.embedding_dim)
        for begin in range(0, layer.num_embeddings, rows):
            tokens = torch.arange(
                begin, min(begin + rows, layer.num_embeddings), device=inputs.device
            )
            chosen = (inputs[:, :, None] == tokens).to(gradients.dtype)  # (B, T, V)
            block = torch.einsum("btv,btd->bvd", chosen, gradients).flatten(1)
            yield "weight", (begin * layer.embedding_dim, block)
    elif isinstance(layer, nn.LayerNorm):
        normalised = F.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
        yield "weight", (0, (gradients * normalised).sum(1))
        yield "bias", (0, gradients.sum(1))
    elif isinstance(layer, AddedTable):
        yield "table", (0, gradients.flatten(1))
