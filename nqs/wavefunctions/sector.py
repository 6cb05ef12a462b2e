"""Fixed magnetisation: |psi|^2 on the configurations with n_up 1 bits alone, normalised there.

A prefix with u ones may go on with a patch state of o ones only if the sites left can hold the
other n_up - u - o (masks of this kind: Hibat-Allah et al., arXiv:2002.02973; Barrett, Malyshev &
Lvovsky, arXiv:2109.12606). The conditionals' logits get

    ln W_t(n_up - u - o),    W_t(m) = sum over the sites after patch t with m ones of prod_i p_i

added: -inf exactly where nothing can complete the prefix, and elsewhere the weight of all the
completions, so that logits of independent sites, sum_j ln p_j, give that product state projected
on the sector (without the weights early patches would use up the ones, or save them). One look-up
in a table of position, ones so far and patch state.

Letters: B configurations, F branches of each, R = B F rows, S own tokens of a row, T patches, K
patch states.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from nqs.core.sequence import SequenceState
from nqs.wavefunctions.patches import Patches


@dataclass
class SectorState(SequenceState):
    """The state of a core, and the number of 1 bits among the patches it has read.

    Attributes:
        inner: the core's state, B rows.
        ones: (B, C) int64, 1 bits after each of the last C tokens read; C >= 1.
    """

    inner: SequenceState
    ones: Tensor
    length: int = field(init=False)

    def __post_init__(self) -> None:
        self.length = self.inner.length

    @property
    def n_rows(self) -> int:
        return self.inner.n_rows

    def select(self, rows: Tensor) -> Self:
        return type(self)(self.inner.select(rows), self.ones[rows])

    @classmethod
    def concatenate(cls, states: list[Self]) -> Self:
        inner = type(states[0].inner).concatenate([state.inner for state in states])
        return cls(inner, torch.cat([state.ones[:, -1:] for state in states]))

    def ones_until(self, length: int) -> Tensor:
        """(B, C') the counts after tokens up to position `length`, which must be among the last."""
        return self.ones[:, : self.ones.shape[1] - (self.length - length)]


def ones_read(state: SectorState | None, read: Tensor) -> Tensor:
    """1 bits after each of the tokens read (R, S), each of which adds `read` ones -> (R, S)."""
    seen = read.cumsum(1)
    if state is None:
        return seen
    n_branches = len(read) // len(state.ones)
    return seen + state.ones[:, -1:].repeat_interleave(n_branches, dim=0)


def cleared(log_psi: Tensor) -> Tensor:
    """Complex ln psi with phase 0 where psi is 0: torch's x + y is x + (1 + 0 i) y, so that adding
    up -inf + i phi has made the phase there NaN. Real ln psi as it is."""
    if not log_psi.is_complex():
        return log_psi
    return log_psi.masked_fill(log_psi.real == -torch.inf, -torch.inf)


def log_completions(patches: Patches, probabilities: Tensor, n_up: int) -> Tensor:
    """ln W (T, n_up + 2, K) float64: what a patch state's logit gets after u = 0 .. n_up ones.

    probabilities (N,): chance of bit 1, in (0, 1). States that do not exist in a patch get -inf.
    Each row's largest entry is 0. Rows of u that no configuration of the sector reaches (the last,
    u > n_up, always) hold 0 for all states: p of a configuration outside is already 0 by then, and
    its later conditionals must be numbers, lest -inf become NaN.
    """
    one = probabilities.to("cpu", torch.float64).log()
    zero = torch.log1p(-probabilities.to("cpu", torch.float64))
    ones = patches.state_bits().sum(1).cpu()  # (K,)
    missing = n_up - torch.arange(n_up + 2)[:, None] - ones  # (n_up + 2, K), <= n_up
    allowed, sites, sizes = (x.cpu() for x in (patches.allowed(), patches.sites, patches.sizes))
    table = torch.empty(patches.n_patches, *missing.shape, dtype=torch.float64)
    weights = torch.full((n_up + 1,), -torch.inf, dtype=torch.float64)  # ln W_t(m)
    weights[0] = 0.0
    nothing = torch.full((1,), -torch.inf, dtype=torch.float64)
    for t in reversed(range(patches.n_patches)):
        logits = torch.where(missing >= 0, weights[missing.clamp(min=0)], -torch.inf)
        logits = logits.masked_fill(~allowed[t], -torch.inf)
        peak = logits.amax(1, keepdim=True)  # (n_up + 2, 1)
        reached = peak > -torch.inf
        table[t] = torch.where(reached, logits - peak.where(reached, 0.0), 0.0)
        table[t].masked_fill_(~allowed[t], -torch.inf)
        for site in sites[t, : sizes[t]].tolist():
            shifted = torch.cat([nothing, weights[:-1]])
            weights = torch.logaddexp(weights + zero[site], shifted + one[site])
    return table
