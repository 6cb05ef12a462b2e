"""The centred Jacobian of a family's samples at several couplings, one system for all of them.

Rows are those of `nqs.vmc.optimizers.jacobian.Jacobian`, coupling after coupling, each centred on
its own mean: with weights w_s that sum to 1 at each of C couplings,

    O_cs = sqrt(w_s / C) (d ln psi(s | c) / d theta - mean_c),
    e_cs = sqrt(w_s / C) (E_loc,s - E_c)

so that O^T e is half the gradient of the mean energy of the couplings, and O^T O the mean of their
metrics. All rows are held: R P numbers. Of several processes each forms the rows of its couplings,
gets those of all, and multiplies a share of the columns; what is returned is the sum, on every
rank.

Letters: C couplings, U samples at one of them, R rows in all, P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from nqs.vmc.optimizers.gradient import real_parts
from nqs.vmc.optimizers.jacobian import Workspace, add_gram, centre, symmetric
from nqs.vmc.optimizers.layer_jacobians import whole_jacobian
from nqs.vmc.ranks import ALONE, Ranks
from nqs.wavefunctions.conditional import Conditional
from nqs.wavefunctions.wavefunction import Samples


@final
class JointJacobian:
    """O of a family on weighted samples.

    Args:
        psi: the family.
        parts: couplings (n,) and samples at each of them, those of this rank.
        n_couplings: C, those of all ranks.
        workspace: bounds what is held while rows are formed.

    Attributes:
        n_rows, n_parameters: R and P.
        draws: how often the sample of each row was drawn, (R,).
    """

    def __init__(
        self,
        psi: Conditional,
        parts: Sequence[tuple[Tensor, Samples]],
        workspace: Workspace | None = None,
        ranks: Ranks = ALONE,
        n_couplings: int | None = None,
    ) -> None:
        workspace, self._ranks = Workspace() if workspace is None else workspace, ranks
        n_couplings = len(parts) if n_couplings is None else n_couplings
        self._samples = [samples for _, samples in parts]
        self._roots = [(samples.weights / n_couplings).sqrt() for samples in self._samples]
        blocks, draws = [], []
        for (couplings, samples), roots in zip(parts, self._roots, strict=True):
            moved = psi.moved_to(couplings)
            row_bytes = workspace.cost_of_row(moved, samples.configs)
            rows = whole_jacobian(
                moved,
                samples.configs,
                roots,
                max_bytes=workspace.max_bytes / 2,
                row_bytes=row_bytes,
            )
            rows = psi.derivatives(rows, couplings)
            for part in rows.split(len(roots)):
                centre(part, roots)
            blocks.append(rows)
            draws.append(samples.counts.repeat(len(rows) // len(roots)))
        self._rows = ranks.gathered(torch.cat(blocks))
        self.draws = ranks.gathered(torch.cat(draws).to(self._roots[0]))
        self.n_rows, self.n_parameters = self._rows.shape
        self._columns = ranks.share(self.n_parameters)

    def rows(self, values: Sequence[Tensor]) -> Tensor:
        """sqrt(w / C) times values (U,) of each part of this rank as the rows of O are, (R,)."""
        of_parts = [
            torch.cat(real_parts((roots * own).to(samples.log_psi.dtype)))
            for roots, own, samples in zip(self._roots, values, self._samples, strict=True)
        ]
        return self._ranks.gathered(torch.cat(of_parts))

    def gram(self, *vectors: Tensor) -> tuple[Tensor, ...]:
        """O O^T (R, R), and O v (R,) for each of the vectors v (P,); float64."""
        gram, own = self._zeros(self.n_rows, self.n_rows), self._rows[:, self._columns]
        add_gram(gram, own)
        images = [(own @ v[self._columns].to(own.dtype)).to(gram) for v in vectors]
        gram, *images = map(self._ranks.sum, (gram, *images))
        return symmetric(gram), *images

    def pull_back(self, a: Tensor) -> Tensor:
        """O^T a for a (R,): (P,) in parameter order and precision."""
        return a.to(self._rows.dtype) @ self._rows

    def metric(self, errors: Tensor) -> tuple[Tensor, Tensor]:
        """O^T O (P, P) and O^T e (P,) for errors e (R,); float64."""
        metric = self._zeros(self.n_parameters, self.n_parameters)
        add_gram(metric, self._rows.T)
        return symmetric(metric), (errors.to(self._rows.dtype) @ self._rows).to(metric)

    def _zeros(self, *shape: int) -> Tensor:
        return self._rows.new_zeros(shape, dtype=torch.float64)
