"""Per-sample derivatives of ln psi, layer by layer, from ordinary backward passes.

A backward pass of sum_s ln psi_s leaves, at every layer, the gradient with respect to that layer's
output; with the layer's input it gives the derivative of each sample's own ln psi, because samples
do not mix:

    linear      y = W x + b           J_W = sum_t g_t x_t^T,   J_b = sum_t g_t
    embedding   y = E[token]          J_E[v] = sum_{t: token_t = v} g_t
    norm        y = gamma x^ + beta   J_gamma = sum_t g_t x^_t, J_beta = sum_t g_t
    added table y = x + table[t]      J_table[t] = g_t
    pairs       y_i = sum_j a(i, j) x_j           J_a(i, j) = g_i . x_j, on each head's channels

(t runs over positions and, in recurrent cells, over the steps at which the layer is called. Where a
layer sees each sample in several rows, B M rows with a sample's next to each other (images of it,
its large patches), it runs over those too: they count as further positions, and the sums add them.)
Complex ln psi of real parameters takes one pass for Re ln psi and one for Im ln psi; its rows are
those of Re, then those of Im. Fused attention stays, no vmap; only one panel of columns is formed
at a time. Where the inputs and gradients of all layers would not fit in memory, the passes are
repeated for one group of layers after another.

Letters: B samples, M rows of each in a layer (1 as a rule), R rows (B, or 2 B for complex ln psi),
T positions, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks

from nqs.core.factored import PairWeights
from nqs.core.positions import AddedTable
from nqs.vmc.optimizers.gradient import real_parts
from nqs.wavefunctions.wavefunction import Wavefunction

SUPPORTED = (nn.Linear, nn.Embedding, nn.LayerNorm, AddedTable, PairWeights)
LONGEST_CHUNK = 1_024
"""Samples of one backward pass, at most."""
WHOLE_COLUMNS = 4_096
"""Columns formed at a time on the way to a whole Jacobian."""


@dataclass(frozen=True)
class RowBytes:
    """What one configuration costs in bytes: the graph of a pass, the record of each layer."""

    graph: int
    layers: dict[str, int]

    @property
    def record(self) -> int:
        """Inputs and output gradients of all layers."""
        return sum(self.layers.values())

    def chunk(self, max_bytes: float) -> int:
        """Samples of a pass whose graph stays below max_bytes, at least one.

        Gradients on their way back take at most as much again as what the graph saved.
        """
        return max(1, min(LONGEST_CHUNK, int(max_bytes / max(1, 2 * self.graph))))


@dataclass(frozen=True)
class _Piece:
    """Some rows of one parameter: its elements first .. first + width - 1, columns of J."""

    layer: str
    parameter: str
    first: int
    width: int
    column: int


@dataclass
class _Calls:
    """What one layer saw, a list entry per call.

    inputs (B M, T, in), tokens (B M, T), or as many numbers in other shapes; edges of the outputs
    in the graph; per real part of ln psi the gradients (B M, T, out), None where the layer does not
    feed that part.
    """

    inputs: list[Tensor] = field(default_factory=list)
    edges: list[GradientEdge] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)  # bytes of an output

    def join(self, n_rows: int, gradients: list[tuple[Tensor | None, ...]]) -> _Record:
        """All calls' positions along dim 1, from the gradients of each part's calls; B = n_rows."""
        if not self.inputs:  # e.g. the embedding of a sub-sampler that draws one token a patch
            return _Record(torch.empty(n_rows, 0), [None for _ in gradients], 1)
        first = self.inputs[0]
        if len(first) % n_rows:
            raise ValueError(f"a layer saw {len(first)} rows for {n_rows} samples")
        width = first.shape[-1:] if first.is_floating_point() else ()
        own = [x.reshape(n_rows, -1, *width) for x in self.inputs]
        lengths = [x.shape[1] for x in own]
        return _Record(
            own[0] if len(own) == 1 else torch.cat(own, dim=1),
            [_joined_gradients(part, n_rows, lengths) for part in gradients],
            first.shape[-2] if first.dim() > 1 else 1,
        )


@dataclass(frozen=True)
class _Record:
    """inputs (B, M T, in) or tokens (B, M T); gradients (B, M T, out) of each part of ln psi.

    length: T, the positions of one call.
    """

    inputs: Tensor
    gradients: list[Tensor | None]
    length: int

    @property
    def nbytes(self) -> int:
        return self.inputs.nbytes + sum(g.nbytes for g in self.gradients if g is not None)


class LayerJacobians:
    """J = d ln psi(s) / d theta for a batch of configurations, a panel of columns at a time.

    Args:
        wavefunction: every parameter must belong to a supported layer; ValueError names the first
            that does not.
        configs: (B, N) bool.
        factors: (B,) float64, multiply the rows of J; None is 1.
        max_bytes: bound on inputs and gradients held at a time (half of it) and on the graph of a
            backward pass (the other half), as far as one layer and one sample go; None is no bound.
        row_bytes: what `bytes_per_row` measured, if that is known.
        chunk: samples per backward pass, at most.
        planned: samples that layers are grouped for, those in configs by default: where ranks with
            unequal shares must form the same panels, the largest share.
    """

    def __init__(
        self,
        wavefunction: Wavefunction,
        configs: Tensor,
        *,
        factors: Tensor | None = None,
        max_bytes: float | None = None,
        row_bytes: RowBytes | None = None,
        chunk: int = LONGEST_CHUNK,
        planned: int | None = None,
    ) -> None:
        self._wavefunction, self._configs, self._factors = wavefunction, configs, factors
        self._layers = supported_layers(wavefunction)
        self._groups = [list(self._layers)]
        self._chunk = chunk
        self._records: dict[str, list[_Record]] = {}  # of the current group, one per chunk
        if max_bytes is not None:
            row_bytes = row_bytes or bytes_per_row(wavefunction, configs)
            self._chunk = min(chunk, row_bytes.chunk(max_bytes / 2))
            n_samples = planned or len(configs)
            sizes = {name: n_samples * row_bytes.layers[name] for name in self._layers}
            self._groups = _grouped(sizes, max_bytes / 2)

    @property
    def n_passes(self) -> int:
        """Passes over all samples, one for each group of layers."""
        return len(self._groups)

    @property
    def nbytes(self) -> int:
        """Bytes of inputs and gradients held now."""
        return sum(record.nbytes for records in self._records.values() for record in records)

    def panels(
        self, max_columns: int, memory: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(columns (C,), J[:, columns] (R, C)) with C <= max_columns where a single row allows it.

        Columns count along the flat parameter vector; together the panels cover each once.
        Narrow blocks share a panel: few wide products cost less than many narrow ones. Panels are
        laid one after another into `memory` (at least R P,), if given; otherwise each is new.
        """
        for group in self._groups:
            self._record(group)
            for pieces in _packed(self._pieces(group, max_columns), max_columns):
                panel = self._panel(pieces, memory)
                if memory is not None:
                    memory = memory[panel.numel() :]
                spans = [torch.arange(p.column, p.column + p.width) for p in pieces]
                yield torch.cat(spans).to(panel.device), panel
        self._records = {}

    def blocks(self, max_columns: int) -> Iterator[tuple[int, Tensor]]:
        """(first column, J (R, C)) of one parameter each, with C <= max_columns as in `panels`."""
        for group in self._groups:
            self._record(group)
            for piece in self._pieces(group, max_columns):
                yield piece.column, self._panel([piece])
        self._records = {}

    def _pieces(self, group: Iterable[str], max_columns: int) -> Iterator[_Piece]:
        offsets, begin = {}, 0
        for name, parameter in self._wavefunction.named_parameters():
            offsets[name] = begin
            begin += parameter.numel()
        for layer in group:
            for name, parameter in self._layers[layer].named_parameters(recurse=False):
                column = offsets[f"{layer}.{name}" if layer else name]
                row = parameter[0].numel()
                step = row * max(1, max_columns // row)
                if isinstance(self._layers[layer], AddedTable):
                    step = parameter.numel()
                for first in range(0, parameter.numel(), step):
                    width = min(step, parameter.numel() - first)
                    yield _Piece(layer, name, first, width, column + first)

    def _panel(self, pieces: list[_Piece], memory: Tensor | None = None) -> Tensor:
        """J (R, C) of some pieces, one after another."""
        n_rows, n_columns = len(self._configs), sum(piece.width for piece in pieces)
        first = self._records[pieces[0].layer][0]
        n_parts = len(first.gradients)
        if memory is None:
            parameter = next(self._wavefunction.parameters())
            memory = parameter.new_empty(n_parts * n_rows * n_columns)
        panel = memory[: n_parts * n_rows * n_columns].view(n_parts, n_rows, n_columns).detach()
        begin = 0
        for piece in pieces:
            row = 0
            for record in self._records[piece.layer]:
                end = row + len(record.inputs)
                for part, gradients in zip(panel, record.gradients, strict=True):
                    block = part[row:end, begin : begin + piece.width]
                    if gradients is None:
                        block.zero_()
                    else:
                        layer = self._layers[piece.layer]
                        _write_jacobian(block, layer, piece, record, gradients)
                row = end
            begin += piece.width
        return panel.flatten(0, 1)

    def _record(self, group: list[str]) -> None:
        """Inputs and gradients of the layers of a group for all samples."""
        if list(self._records) == group:
            return
        self._records = {}  # freed before the next group is recorded
        records: dict[str, list[_Record]] = {name: [] for name in group}
        layers = {name: self._layers[name] for name in group}
        for rows in torch.arange(len(self._configs), device=self._configs.device).split(
            self._chunk
        ):
            factors = None if self._factors is None else self._factors[rows]
            found = _recorded(self._wavefunction, layers, self._configs[rows], factors)
            for name, record in found.items():
                records[name].append(record)
        self._records = records


def whole_jacobian(
    wavefunction: Wavefunction,
    configs: Tensor,
    factors: Tensor,
    *,
    max_bytes: float,
    row_bytes: RowBytes,
) -> Tensor:
    """factors times J (R, P), all columns; max_bytes bounds what is held besides.

    Passes take as many samples at a time as need no repetition for groups of layers.
    """
    n_samples = len(configs)
    found: Tensor | None = None  # (R / B, B, P)
    places = torch.arange(n_samples, device=configs.device)
    for rows in places.split(max(1, int(max_bytes / 2 / row_bytes.record))):
        jacobians = LayerJacobians(
            wavefunction,
            configs[rows],
            factors=factors[rows],
            max_bytes=max_bytes,
            row_bytes=row_bytes,
        )
        for columns, panel in jacobians.panels(WHOLE_COLUMNS):
            parts = panel.view(-1, len(rows), len(columns))
            if found is None:
                n_parameters = sum(p.numel() for p in wavefunction.parameters())
                found = panel.new_empty(len(parts), n_samples, n_parameters)
            found[:, int(rows[0]) : int(rows[-1]) + 1].index_copy_(2, columns, parts)
    assert found is not None
    return found.flatten(0, 1)


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


def bytes_per_row(wavefunction: Wavefunction, configs: Tensor) -> RowBytes:
    """Measured by a forward pass of the first configuration: what autograd saves, what layers see.

    Depends on the architecture and the precision only.
    """
    constants = [*wavefunction.parameters(), *wavefunction.buffers()]
    known = {tensor.untyped_storage()._cdata for tensor in constants}
    saved: dict[int, int] = {}
    kept = []  # or storages freed during the pass would lend their identity to others

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            saved[storage._cdata] = storage.nbytes()
            kept.append(storage)
        return tensor

    layers = supported_layers(wavefunction)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        log_psi, calls = _watched(wavefunction, layers, configs[:1])
    n_parts = len(real_parts(log_psi))
    records = {
        name: sum(x.nbytes for x in seen.inputs) + n_parts * sum(seen.widths)
        for name, seen in calls.items()
    }
    return RowBytes(sum(saved.values()), records)


def _grouped(sizes: dict[str, int], max_bytes: float) -> list[list[str]]:
    """Neighbouring layers whose sizes together stay below max_bytes, or one layer alone."""
    groups: list[list[str]] = []
    total = 0.0
    for name, size in sizes.items():
        if not groups or total + size > max_bytes:
            groups.append([])
            total = 0.0
        groups[-1].append(name)
        total += size
    return groups


def _packed(pieces: Iterable[_Piece], max_columns: int) -> Iterator[list[_Piece]]:
    """Pieces of at most max_columns together; wide ones alone, as they are formed in place then."""
    packed: list[_Piece] = []
    width = 0
    for piece in pieces:
        if 4 * piece.width >= max_columns:
            yield [piece]
            continue
        if packed and width + piece.width > max_columns:
            yield packed
            packed, width = [], 0
        packed.append(piece)
        width += piece.width
    if packed:
        yield packed


def _watched(
    wavefunction: Wavefunction, layers: dict[str, nn.Module], configs: Tensor
) -> tuple[Tensor, dict[str, _Calls]]:
    """ln psi (B,) with its graph, and what each layer saw on the way."""
    calls = {name: _Calls() for name in layers}
    handles = [
        layer.register_forward_hook(_recorder(calls[name])) for name, layer in layers.items()
    ]
    try:
        with torch.enable_grad():
            return wavefunction.log_psi(configs), calls
    finally:
        for handle in handles:
            handle.remove()


def _recorded(
    wavefunction: Wavefunction,
    layers: dict[str, nn.Module],
    configs: Tensor,
    factors: Tensor | None,
) -> dict[str, _Record]:
    """Inputs and gradients of the layers for one chunk, one backward pass per real part of ln psi.

    Gradients are asked for at the layers' outputs only: those of the parameters, a third of an
    ordinary backward pass, are never computed.
    """
    log_psi, calls = _watched(wavefunction, layers, configs)
    edges = [edge for seen in calls.values() for edge in seen.edges]
    parts = real_parts(log_psi)
    gradients: dict[str, list[tuple[Tensor | None, ...]]] = {name: [] for name in calls}
    for place, part in enumerate(parts):
        total = part.sum() if factors is None else factors.to(part.dtype) @ part
        last = place == len(parts) - 1
        found: tuple[Tensor | None, ...] = ()
        if edges:  # none if no layer of the group was needed
            found = torch.autograd.grad(total, edges, retain_graph=not last, allow_unused=True)
        begin = 0
        for name, seen in calls.items():
            end = begin + len(seen.edges)
            gradients[name].append(found[begin:end])
            begin = end
    return {name: seen.join(len(configs), gradients[name]) for name, seen in calls.items()}


def _recorder(calls: _Calls) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.inputs.append(inputs[0].detach())
        calls.edges.append(get_gradient_edge(output))
        calls.widths.append(output.nbytes)

    return record


def _joined_gradients(
    calls: tuple[Tensor | None, ...], n_rows: int, lengths: list[int]
) -> Tensor | None:
    """(B, T, out) of all calls; zeros for a call that feeds nothing, None if none feeds anything.

    (The first step of a recurrent layer may be such a call.)
    """
    known = next((gradient for gradient in calls if gradient is not None), None)
    if known is None:
        return None
    own = [
        g.reshape(n_rows, n, -1) if g is not None else known.new_zeros(n_rows, n, known.shape[-1])
        for g, n in zip(calls, lengths, strict=True)
    ]
    return own[0] if len(own) == 1 else torch.cat(own, dim=1)


def _write_jacobian(
    block: Tensor, layer: nn.Module, piece: _Piece, record: _Record, gradients: Tensor
) -> None:
    """J of one piece for the samples of one chunk, into block (B, C)."""
    inputs = record.inputs
    if isinstance(layer, AddedTable):
        seen = gradients.unflatten(1, (-1, record.length)).sum(1).flatten(1)
        block[:, : seen.shape[1]] = seen  # positions beyond the sequence are not read
        block[:, seen.shape[1] :] = 0
    elif isinstance(layer, nn.Linear) and piece.parameter == "weight":
        begin, end = piece.first // layer.in_features, piece.first + piece.width
        part = gradients[:, :, begin : end // layer.in_features].transpose(1, 2)
        if block.is_contiguous():  # a panel of its own: written once, at half the time for short T
            torch.bmm(part, inputs, out=block.view(len(block), -1, layer.in_features))
        else:
            block[:] = torch.bmm(part, inputs).flatten(1)  # (B, out in)
    elif isinstance(layer, nn.Embedding):
        width = layer.embedding_dim
        begin, end = piece.first // width, (piece.first + piece.width) // width
        tokens = torch.arange(begin, end, device=inputs.device)
        chosen = (inputs[:, :, None] == tokens).to(gradients.dtype)  # (B, T, V)
        block[:] = torch.bmm(chosen.transpose(1, 2), gradients).flatten(1)
    elif isinstance(layer, PairWeights):
        row = layer.weights.shape[1]
        heads = slice(piece.first // row, (piece.first + piece.width) // row)
        block[:] = layer.jacobian(inputs, gradients, heads, record.length)
    else:
        if isinstance(layer, nn.LayerNorm) and piece.parameter == "weight":
            gradients = gradients * F.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
        end = piece.first + piece.width
        torch.sum(gradients[:, :, piece.first : end], dim=1, out=block)
