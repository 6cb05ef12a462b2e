"""The centred Jacobian O of ln psi on weighted samples, as a linear map.

    O_s = sqrt(w_s) (d ln psi_s / d theta - mean),      mean = sum_s w_s d ln psi_s / d theta

with w_s the weights of the samples (they sum to 1). Complex ln psi of real parameters: O is
[Re O; Im O], R = 2 U rows, so that O^T O is the real part of the quantum metric O^dagger O.

O itself, R x P numbers, is formed a panel of columns at a time. Panels that fit into half of the
memory allowed are held for products with O^T, which otherwise take a backward pass.

Several processes: each forms the rows of O of its share of the samples and gets, panel by panel,
all rows of its share of the columns, whose contribution to O O^T, O v and O^T a it adds; of O^T O
each adds its rows' part. What is returned is the sum, on every rank.

Letters: U samples, R rows (U, or 2 U for complex ln psi), P parameters, C columns of a panel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from nqs.vmc.optimizers.gradient import flat_gradient, flat_parameters, inner_product, real_parts
from nqs.vmc.optimizers.layer_jacobians import (
    LayerJacobians,
    RowBytes,
    bytes_per_row,
    whole_jacobian,
)
from nqs.vmc.ranks import ALONE, Ranks
from nqs.vmc.statistics import joined_mean
from nqs.wavefunctions.wavefunction import Samples, Wavefunction

PANEL_COLUMNS = 4_096
"""Columns of the Jacobian contracted at a time: few products, yet the rows of a panel in cache."""


@dataclass
class Workspace:
    """What the Jacobians of one wavefunction's steps share.

    Attributes:
        max_bytes: bound on what is held of a Jacobian: columns, layers' inputs and gradients, the
            graph of a backward pass. (Products, R x R or P x P, come on top.)
        row_bytes: what one configuration costs, once it was measured.
        memory: of the panels of the last Jacobian; fresh pages cost 10 % of a step.
    """

    max_bytes: float = 2.0**30
    row_bytes: RowBytes | None = None
    memory: Tensor | None = None

    def cost_of_row(self, wavefunction: Wavefunction, configs: Tensor) -> RowBytes:
        """row_bytes."""
        if self.row_bytes is None:
            self.row_bytes = bytes_per_row(wavefunction, configs)
        return self.row_bytes

    def panel_memory(self, like: Tensor, size: int) -> Tensor | None:
        """Memory of at least `size` numbers, the last step's where that is enough; None for 0."""
        old = self.memory
        if not size:
            self.memory = None
        elif old is None or (old.dtype, old.device) != (like.dtype, like.device) or len(old) < size:
            self.memory = None  # freed first
            self.memory = like.detach().new_empty(size)
        return self.memory


@final
class Jacobian:
    """O of a wavefunction on weighted samples.

    Args:
        wavefunction: of layers that have rules (see `layer_rules`).
        samples: those of all ranks.
        workspace: bounds what is held; a Jacobian is void once the next one uses it.

    Attributes:
        n_rows, n_parameters: R and P.
        draws: how often the sample of each row was drawn, (R,).
    """

    def __init__(
        self,
        wavefunction: Wavefunction,
        samples: Samples,
        workspace: Workspace | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self._wavefunction, self._samples, self._ranks = wavefunction, samples, ranks
        self._workspace = Workspace() if workspace is None else workspace
        self._roots = samples.weights.sqrt()  # (U,)
        self._panels: list[tuple[Tensor, Tensor]] | None = None  # columns (C,), O[:, columns]
        self.n_rows = len(self._roots) * (2 if samples.log_psi.is_complex() else 1)
        self.draws = samples.counts.repeat(self.n_rows // len(self._roots)).to(self._roots)
        self.n_parameters = sum(p.numel() for p in wavefunction.parameters())

    def rows(self, values: Tensor) -> Tensor:
        """sqrt(w) times values (U,) as the rows of O are: [Re; Im] for complex ln psi, (R,)."""
        return torch.cat(real_parts((self._roots * values).to(self._samples.log_psi.dtype)))

    def gram(self, *vectors: Tensor) -> tuple[Tensor, ...]:
        """O O^T (R, R), and O v (R,) for each of the vectors v (P,), in one pass over O; float64.

        Panels that fit are held for `pull_back`.
        """
        n_bytes = self.n_rows * _nbytes(self._wavefunction) // self._ranks.size  # of our columns
        holds = n_bytes <= self._workspace.max_bytes / 2
        gram = self._zeros(self.n_rows, self.n_rows)
        images = [self._zeros(self.n_rows) for _ in vectors]
        panels = []
        for columns, panel in self._centred_panels(n_bytes if holds else 0):
            add_gram(gram, panel)
            for image, vector in zip(images, vectors, strict=True):
                image += panel @ vector[columns].to(panel.dtype)
            if holds:
                panels.append((columns, panel))
        self._panels = panels if holds else None
        gram, *images = map(self._ranks.sum, (gram, *images))
        return symmetric(gram), *images

    def pull_back(self, a: Tensor) -> Tensor:
        """O^T a for a (R,): (P,) in parameter order and precision."""
        if self._panels is None:
            return self._backward_product(a)
        result = torch.zeros_like(flat_parameters(self._wavefunction))
        for columns, panel in self._panels:
            result[columns] = a.to(panel.dtype) @ panel
        return self._ranks.sum(result)

    def metric(self, errors: Tensor) -> tuple[Tensor, Tensor]:
        """O^T O (P, P) and O^T e (P,) for errors e (R,) whose sqrt(w) e sum to 0; float64.

        One chunk of samples after another, centred on its own mean; the chunks, then the ranks,
        are joined as in RunningMoments, so nothing cancels. (Then O^T e needs no common mean.)
        """
        roots = self._roots
        parts = errors.view(-1, len(roots))  # (1 or 2, U)
        metric = self._zeros(self.n_parameters, self.n_parameters)
        force = self._zeros(self.n_parameters)
        means = self._zeros(len(parts), self.n_parameters)
        weight = 0.0  # of the samples so far
        row = _nbytes(self._wavefunction) * len(parts)
        for rows in self._places().split(max(1, int(self._workspace.max_bytes / 2 / row))):
            jacobian = self._whole(rows, self._workspace.max_bytes / 2)
            own = float(roots[rows].square().sum())
            for mean, block, error in zip(
                means, jacobian.split(len(rows)), parts[:, rows], strict=True
            ):
                own_mean = centre(block, roots[rows]).to(mean.dtype)  # (P,)
                add_gram(metric, block.T)
                force += error.to(block.dtype) @ block + (roots[rows] @ error) * own_mean
                away = own_mean - mean
                if weight:
                    metric.addr_(away, away, alpha=weight * own / (weight + own))
                mean += away * (own / (weight + own))
            weight += own
        weights = self._ranks.gathered(errors.new_tensor([weight]))  # (W,)
        for away in means - joined_mean(weights, self._ranks.gathered(means[None])):
            metric.addr_(away, away, alpha=weight)
        return symmetric(self._ranks.sum(metric)), self._ranks.sum(force)

    def _centred_panels(self, held_bytes: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(columns (C,), O[:, columns] (R, C)), each column once and on one rank.

        held_bytes: what all panels take, if they will be held; 0 if none is.
        """
        roots, ranks = self._roots, self._ranks
        alone = ranks.size == 1  # else three panels are held: formed, on their way, arrived
        free = self._workspace.max_bytes - held_bytes
        parameter = next(self._wavefunction.parameters())
        panel_bytes = parameter.itemsize * self.n_rows * (1 if alone else 3)
        widest = max(1, min(PANEL_COLUMNS, int(free / 4 / panel_bytes)))
        record = len(roots) * self._row_bytes().record
        panels: Iterable[tuple[Tensor, Tensor]]
        if alone and held_bytes and record > 3 / 8 * free:
            # of O, which is held anyway, whole rows: the record of all layers does not fit
            whole = self._whole(self._places(), 3 / 4 * free)
            columns = torch.arange(whole.shape[1], device=whole.device)
            panels = zip(columns.split(widest), whole.split(widest, dim=1), strict=True)
        else:
            n_numbers = held_bytes // parameter.itemsize
            memory = self._workspace.panel_memory(parameter, n_numbers) if alone else None
            panels = self._by_layer(3 / 4 * free).panels(widest * ranks.size, memory)
        for columns, panel in panels:
            columns = columns[ranks.share(len(columns))]
            panel = ranks.exchanged(panel, len(roots))
            for part in panel.split(len(roots)):
                centre(part, roots)
            yield columns, panel

    def _by_layer(self, max_bytes: float) -> LayerJacobians:
        """sqrt(w) times the rows of this rank, not centred."""
        own = self._ranks.share(len(self._roots))
        return LayerJacobians(
            self._wavefunction,
            self._samples.configs[own],
            factors=self._roots[own],
            max_bytes=max_bytes,
            row_bytes=self._row_bytes(),
            planned=max(self._ranks.shares(len(self._roots))),
        )

    def _whole(self, rows: Tensor, max_bytes: float) -> Tensor:
        """sqrt(w) times all columns of some rows, not centred, (1 or 2 times len(rows), P)."""
        configs, roots = self._samples.configs[rows], self._roots[rows]
        return whole_jacobian(
            self._wavefunction, configs, roots, max_bytes=max_bytes, row_bytes=self._row_bytes()
        )

    def _backward_product(self, a: Tensor) -> Tensor:
        """O^T a by a backward pass of sum_s sqrt(w_s) a_s ln psi_s, a centred."""
        weights = self._samples.weights
        parts = (self._roots.repeat(len(a) // len(weights)) * a).view(-1, len(weights))
        parts = parts - weights * parts.sum(1, keepdim=True)  # (1 or 2, U)
        factors = torch.complex(parts[0], parts[1]) if len(parts) == 2 else parts[0]
        wavefunction = self._wavefunction
        wavefunction.zero_grad(set_to_none=True)
        for rows in self._places().split(self._row_bytes().chunk(self._workspace.max_bytes / 2)):
            log_psi = wavefunction.log_psi(self._samples.configs[rows])
            inner_product(factors[rows], log_psi).backward()
        return self._ranks.sum(flat_gradient(wavefunction))

    def _places(self) -> Tensor:
        """Indices of this rank's share of the samples."""
        n_samples = len(self._roots)
        places = torch.arange(n_samples, device=self._roots.device)
        return places[self._ranks.share(n_samples)]

    def _row_bytes(self) -> RowBytes:
        return self._workspace.cost_of_row(self._wavefunction, self._samples.configs)

    def _zeros(self, *shape: int) -> Tensor:
        """In the precision of the samples' ln psi."""
        return self._samples.log_psi.real.new_zeros(shape)


def _nbytes(wavefunction: Wavefunction) -> int:
    """Bytes of a row of O."""
    return sum(p.nbytes for p in wavefunction.parameters())


def centre(scaled: Tensor, roots: Tensor) -> Tensor:
    """sqrt(w) J (U, C) -> sqrt(w) (J - mean), in place; the weighted mean (C,) of J is returned.

    roots = sqrt(w) (U,), weights of any sum. Two passes over the rows, one of them read-only.
    """
    roots = roots.to(scaled.dtype)
    mean = (roots @ scaled) / roots.square().sum()
    scaled.addcmul_(roots[:, None], mean, value=-1)
    return mean


def add_gram(gram: Tensor, rows: Tensor, n_blocks: int = 4) -> None:
    """gram += rows rows^T on and below the block diagonal: 5/8 of the products for 4 blocks."""
    begin = 0
    for part in rows.chunk(n_blocks):
        end = begin + len(part)
        gram[begin:end, :end] += part @ rows[:end].T
        begin = end


def symmetric(lower: Tensor) -> Tensor:
    """The symmetric matrix that has this part on and below its diagonal."""
    return lower.tril() + lower.tril(-1).T
