"""ln psi(s xor f) / psi(s) from the patches near the flip alone: approximate, and linear in T.

A flip changes the conditionals of all later patches, but those of far ones hardly. Here only
patches within `radius` of a flipped one (later in the sequence) are predicted again, and with them
the positions that read the altered tokens; in every layer the others stand as they were in s:

    ln psi(s^f) / psi(s)  ~  sum over the first flipped patch and the near later ones t of
                             ln psi_t(s^f | near positions revised) - ln psi_t(s)

It is exact for an infinite radius. For one flip a patch the cost is that of a constant number of
positions, instead of (T - 1) / 2 on average. The error is not small beside what natural gradients
need: use it as a control variate (nqs.vmc.energies.near_flips).

Letters: B configurations, G flips, T patches, F flips of a group, R = B F rows, S positions that
are computed again.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nqs.core.sequence import Reading
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.flips import LAUNCH_TOKENS, in_chunks, launch_size
from nqs.wavefunctions.sector import cleared
from nqs.wavefunctions.wavefunction import Wavefunction

TIE = 1e-6
"""Distances this much above the radius still count: rounding must not tell equal ones apart."""


@torch.no_grad()
def nearby_log_ratios(
    psi: Wavefunction, configs: Tensor, flips: Tensor, radius: float, *, max_rows: int = 32_768
) -> Tensor:
    """ln psi(s xor flips_g) - ln psi(s) as far as it is decided near the flip, approximate and
    cheap; configs (B, N), flips (G, N) bool -> (B, G) float64 or complex128.

    radius > 0 in units of the smallest distance of two patches; infinite is exact. At most max_rows
    rows a launch. Raises TypeError for states whose network cannot revise single positions.
    """
    if not isinstance(psi, Autoregressive):
        raise TypeError(f"{type(psi).__name__} has no ratios of near patches")
    if not radius > 0:
        raise ValueError(f"radius={radius} must be > 0, in units of the smallest patch distance")
    plan = psi.flip_plan(flips)
    changes = plan.changes  # (G, T): tokens flip by xor
    if radius not in plan.near:
        plan.near[radius] = list(near_groups(changes, psi.patches.centres, radius))
    groups = plan.near[radius]
    shape = (len(configs), len(flips))
    result = torch.empty(shape, dtype=psi.log_psi_dtype, device=configs.device)
    n_rows = max(len(group) for _, group, _ in groups)
    n_tokens = max(max(1, len(places)) * len(group) for _, group, places in groups)
    tokens_at_once = launch_size(LAUNCH_TOKENS, configs.device)
    launch = min(max_rows // n_rows, tokens_at_once // n_tokens)

    def score(begin: int, end: int) -> None:
        tokens = psi.patches.encode(configs[begin:end])
        reading = psi.core.whole(psi.inputs(tokens))
        _score(psi, reading, tokens, changes, groups, result[begin:end])

    in_chunks(score, len(configs), max(1, launch))
    return cleared(result)


def near_groups(
    changes: Tensor, centres: Tensor, radius: float
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(first touched patch, flips (F,), positions to compute again (S,)) per set of touched ones.

    changes (G, T): what is xored to each token. Position t reads patch t - 1 and predicts patch t.
    """
    n_patches = changes.shape[1]
    distances = torch.linalg.vector_norm(centres[:, None] - centres, dim=-1)  # (T, T)
    if n_patches > 1:
        distances = distances / distances[distances > 0].min()
    near = (distances <= radius + TIE).to(changes.device)  # (T, T)
    sets, members = torch.unique(changes != 0, dim=0, return_inverse=True)
    for number, touched in enumerate(sets):
        first = int(touched.to(torch.int8).argmax())
        places = near[touched].any(0)
        places[1:] |= touched[:-1]
        places[: first + 1] = False
        yield first, (members == number).nonzero().squeeze(1), places.nonzero().squeeze(1)


def _score(
    psi: Autoregressive,
    reading: Reading,
    tokens: Tensor,
    changes: Tensor,
    groups: list[tuple[int, Tensor, Tensor]],
    result: Tensor,
) -> None:
    """Fill result (B, G) for tokens (B, T), all flips of a group in one launch."""
    every = torch.arange(tokens.shape[1], device=tokens.device)
    logits, log_norms = psi.normalised(reading.logits, psi.inputs(tokens), every)
    old = psi.chosen(logits, log_norms, tokens).to(psi.log_psi_dtype)  # (B, T)
    for first, group, places in groups:
        altered = tokens[:, None] ^ changes[group]  # (B, F, T)
        here = slice(first, first + 1)
        rows = torch.arange(len(tokens), device=tokens.device).repeat_interleave(len(group))
        at_first = psi.chosen(
            logits[rows, here], log_norms[rows, here], altered[:, :, here].flatten(0, 1)
        )  # (R, 1)
        change = at_first.view(len(tokens), -1).to(psi.log_psi_dtype) - old[:, here]  # (B, F)
        if len(places):
            altered = altered.flatten(0, 1)  # (R, T)
            inputs = psi.inputs(altered)
            revised = reading.revised(inputs[:, places], places)
            again = psi.normalised(revised, inputs, places)
            new = psi.chosen(*again, altered[:, places]).sum(1, dtype=psi.log_psi_dtype)
            change = change + (new.view_as(change) - old[:, places].sum(1, keepdim=True))
        result[:, group] = change
