"""Per-sample derivatives of ln psi, layer by layer, from ordinary backward passes.

A backward pass of sum_s ln psi_s leaves, at every layer, the gradient with respect to that layer's
output; with the layer's input it gives the derivative of each sample's own ln psi, because samples
do not mix, by the rule of the layer's kind (`layer_rules`): a sum over positions, those of the
sequence and, in recurrent cells, the steps at which the layer is called. Where a layer sees each
sample in several rows, B M rows with a sample's next to each other (images of it, its large
patches), these count as further positions.

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
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks

from nqs.vmc.optimizers.gradient import real_parts
from nqs.vmc.optimizers.layer_rules import RULES, LayerRule, Seen, Span, layer_rule, rule_of
from nqs.wavefunctions.wavefunction import Wavefunction

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
    """A span of a layer's parameter, at a column of J."""

    layer: str
    span: Span
    column: int

    @property
    def width(self) -> int:
        """Columns of J."""
        return self.span.width


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
        wavefunction: every parameter must belong to a layer with a rule; ValueError names the first
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
        self._layers, self._rules = layers_with_rules(wavefunction)
        self._groups = [list(self._layers)]
        self._chunk = chunk
        self._records: dict[str, list[_Record]] = {}  # of the current group, one per chunk
        if max_bytes is not None:
            row_bytes = row_bytes or bytes_per_row(wavefunction, configs)
            self._chunk = min(chunk, row_bytes.chunk(max_bytes / 2))
            n_samples = planned or len(configs)
            sizes = {name: n_samples * row_bytes.layers[name] for name in self._layers}
            self._groups = _groups(sizes, max_bytes / 2)

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
            for pieces in _pack(self._pieces(group, max_columns), max_columns):
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
                size = parameter.numel()
                if size == 0:  # weights that no pair shares, of a single patch
                    continue
                row = size // len(parameter) if parameter.dim() else 1
                step = size if self._rules[layer].whole else row * max(1, max_columns // row)
                for first in range(0, size, step):
                    width = min(step, size - first)
                    yield _Piece(layer, Span(name, first, width), column + first)

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
                        seen = Seen(record.inputs, gradients, record.length)
                        layer = self._layers[piece.layer]
                        self._rules[piece.layer].write(layer, seen, piece.span, block)
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
            chunk = _backward_records(self._wavefunction, layers, self._configs[rows], factors)
            for name, record in chunk.items():
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
    whole: Tensor | None = None  # (R / B, B, P)
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
            if whole is None:
                n_parameters = sum(p.numel() for p in wavefunction.parameters())
                whole = panel.new_empty(len(parts), n_samples, n_parameters)
            whole[:, int(rows[0]) : int(rows[-1]) + 1].index_copy_(2, columns, parts)
    assert whole is not None
    return whole.flatten(0, 1)


def layers_with_rules(module: nn.Module) -> tuple[dict[str, nn.Module], dict[str, LayerRule]]:
    """Every layer that owns parameters, and its rule, by its name.

    Raises ValueError for a layer without a rule.
    """
    layers: dict[str, nn.Module] = {}
    rules: dict[str, LayerRule] = {}
    for name, layer in module.named_modules():
        if not any(True for _ in layer.parameters(recurse=False)):
            continue
        kind, rule = type(layer).__name__, rule_of(layer)
        if rule is None:
            known = ", ".join(each.__name__ for each in RULES)
            raise ValueError(
                f"the natural gradient has no rule for the layer {kind} ({name}): register one "
                f"with @layer_rule({kind}) of {layer_rule.__module__}, build from {known}, or take "
                "optimizer=adam"
            )
        layers[name], rules[name] = layer, rule
    return layers, rules


def bytes_per_row(wavefunction: Wavefunction, configs: Tensor) -> RowBytes:
    """Measured by a forward pass of the first configuration: what autograd saves, what layers see.

    Depends on the architecture and the precision only.
    """
    constants = [*wavefunction.parameters(), *wavefunction.buffers()]
    known = {tensor.untyped_storage()._cdata for tensor in constants}
    saved: dict[int, int] = {}
    storages = []  # or storages freed during the pass would lend their identity to others

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            saved[storage._cdata] = storage.nbytes()
            storages.append(storage)
        return tensor

    layers, _ = layers_with_rules(wavefunction)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        log_psi, calls = _watch(wavefunction, layers, configs[:1])
    n_parts = len(real_parts(log_psi))
    records = {
        name: sum(x.nbytes for x in seen.inputs) + n_parts * sum(seen.widths)
        for name, seen in calls.items()
    }
    return RowBytes(sum(saved.values()), records)


def _groups(sizes: dict[str, int], max_bytes: float) -> list[list[str]]:
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


def _pack(pieces: Iterable[_Piece], max_columns: int) -> Iterator[list[_Piece]]:
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


def _watch(
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


def _backward_records(
    wavefunction: Wavefunction,
    layers: dict[str, nn.Module],
    configs: Tensor,
    factors: Tensor | None,
) -> dict[str, _Record]:
    """Inputs and gradients of the layers for one chunk, one backward pass per real part of ln psi.

    Gradients are asked for at the layers' outputs only: those of the parameters, a third of an
    ordinary backward pass, are never computed.
    """
    log_psi, calls = _watch(wavefunction, layers, configs)
    edges = [edge for seen in calls.values() for edge in seen.edges]
    parts = real_parts(log_psi)
    gradients: dict[str, list[tuple[Tensor | None, ...]]] = {name: [] for name in calls}
    for place, part in enumerate(parts):
        total = part.sum() if factors is None else factors.to(part.dtype) @ part
        last = place == len(parts) - 1
        of_edges: tuple[Tensor | None, ...] = ()
        if edges:  # none if no layer of the group was needed
            of_edges = torch.autograd.grad(total, edges, retain_graph=not last, allow_unused=True)
        begin = 0
        for name, seen in calls.items():
            end = begin + len(seen.edges)
            gradients[name].append(of_edges[begin:end])
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
