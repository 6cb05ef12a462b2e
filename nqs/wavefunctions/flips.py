"""ln psi of flipped configurations by prefix sharing: the cost that decides a VMC step.

For a flip whose first touched patch is k: conditionals before k are those of the unflipped
configuration, the one at k is another entry of the same softmax row (free), only positions > k are
run again, on the unflipped prefix's state. That is N (T - 1) / 2 token evaluations a configuration
for all N single-site flips, the minimum for a dense autoregressive network; the last patch is free.

Models whose state grows (attention) run suffix by suffix, all flips of one first patch together on
one shared prefix. Models of constant state (recurrent) walk the sequence once with all branches
that are open, T launches instead of T^2 / 2 small steps.

Flipped configurations are not looked up among each other and the samples: on trained Rydberg
arrays, 512 draws, 42 % of them were known on 4x4 (where the suffixes save as much), none in 32 768
on 8x8 and none in 131 072 on 16x16.

Letters: B configurations, G flips, T patches, K patch states, R rows of a launch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nqs.core.sequence import SequenceState

if TYPE_CHECKING:
    from nqs.wavefunctions.autoregressive import Autoregressive

LAUNCH_TOKENS = {"cpu": 4_096, "cuda": 1_048_576}
"""Tokens of one launch: on CPU so that a layer's activations stay in cache, on GPU to fill it."""

LAUNCH_ROWS = {"cpu": 1_024, "cuda": 1_048_576}
"""The same for one step of a walk; larger groups of branches step one after the other."""

SHARED_PAIRS = 2**24
"""Pairs of positions, over all configurations at hand, that a core may hold for the branches."""


def flipped_log_psi(
    psi: Autoregressive, configs: Tensor, flips: Tensor, needed: Tensor | None, *, max_rows: int
) -> Tensor:
    """ln psi(s xor flips_g) for configs (B, N), flips (G, N) -> (B, G), psi.log_psi_dtype.

    Entries where needed (B, G) is False are -inf and cost nothing. At most max_rows rows a launch;
    rows are halved when memory runs out.
    """
    changes = psi.patches.encode(flips)  # (G, T): tokens flip by xor
    if not bool(changes.any(1).all()):
        raise ValueError("flips must each touch at least one site")
    if needed is not None and bool(needed.all()):
        needed = None
    walked = psi.core.constant_state
    result = torch.full(
        (len(configs), len(flips)), -torch.inf, dtype=psi.log_psi_dtype, device=configs.device
    )
    n_flips = max(1, min(max_rows, len(flips)) if walked else len(flips))  # a walk opens them all

    def score(begin: int, end: int) -> None:
        tokens = psi.patches.encode(configs[begin:end])
        for first in range(0, len(flips), n_flips):
            part = (slice(begin, end), slice(first, first + n_flips))
            acting = None if needed is None else needed[part]
            if walked:
                _walk(psi, tokens, changes[part[1]], acting, result[part])
            else:
                _suffixes(psi, tokens, changes[part[1]], acting, result[part], max_rows)

    shared = max(1, min(max_rows, SHARED_PAIRS // changes.shape[1] ** 2))
    in_chunks(score, len(configs), max(1, max_rows // n_flips) if walked else shared)
    return result


def in_chunks(work: Callable[[int, int], None], n_rows: int, chunk: int) -> None:
    """work(begin, end) over 0 .. n_rows in chunks, halved each time memory runs out."""
    begin = 0
    while begin < n_rows:
        end = min(begin + chunk, n_rows)
        try:
            work(begin, end)
        except torch.OutOfMemoryError:
            if end - begin == 1:
                raise
            torch.cuda.empty_cache()
            chunk = (end - begin) // 2
            continue
        begin = end


def _suffixes(
    psi: Autoregressive,
    tokens: Tensor,
    changes: Tensor,
    needed: Tensor | None,
    result: Tensor,
    max_rows: int,
) -> None:
    """Fill result (B, G): a group of flips per first touched patch, on shared prefixes."""
    logits, log_norms, state = psi.conditionals(psi.inputs(tokens))
    # (B, T): ln psi of the patches before each
    before = _exclusive_cumsum(psi.chosen(logits, log_norms, tokens).to(psi.log_psi_dtype))
    for k, alone, group in first_patches(changes):
        rows, cols = _pairs(len(tokens), group, None if needed is None else needed[:, group])
        altered = tokens[rows, k:] ^ changes[cols, k:]  # (R, T - k)
        total = before[rows, k] + psi.chosen(logits[rows, k], log_norms[rows, k], altered[:, 0])
        if k < tokens.shape[1] - 1:
            prefix = psi.prefix(state, k + 1, repeats=alone)
            total += _score_suffixes(
                psi, prefix, rows, altered, len(group), needed is None, max_rows
            )
        result[rows, cols] = total


def first_patches(changes: Tensor) -> Iterator[tuple[int, bool, Tensor]]:
    """(first touched patch k, whether later ones are touched too: no = True, flips (F,)).

    A flip of one patch alone leaves all later inputs but the next as they are, which the core may
    use; worth it only if there are such inputs.
    """
    n_patches = changes.shape[1]
    touched = changes != 0
    first = touched.to(torch.int8).argmax(1)  # (G,)
    alone = (touched.sum(1) == 1) & (first < n_patches - 2)
    for k in first.unique().tolist():
        for kind in (True, False):
            group = ((first == k) & (alone == kind)).nonzero().squeeze(1)
            if len(group):
                yield k, kind, group


def _pairs(n_configs: int, group: Tensor, needed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows (R,) and flips (R,) to score, configuration by configuration."""
    if needed is None:
        every = torch.arange(n_configs, device=group.device)
        return every.repeat_interleave(len(group)), group.repeat(n_configs)
    rows, cols = needed.nonzero(as_tuple=True)
    return rows, group[cols]


def _score_suffixes(
    psi: Autoregressive,
    prefix: SequenceState,
    rows: Tensor,
    altered: Tensor,
    n_branches: int,
    dense: bool,
    max_rows: int,
) -> Tensor:
    """ln psi of the patches after the first altered one, summed; altered (R, S + 1) -> (R,).

    Dense groups (every flip of every configuration) share each prefix by broadcast; otherwise
    prefixes are copied row by row, some percent of the work saved by leaving zero terms out.
    """
    n_own = altered.shape[1] - 1
    total = torch.empty(len(rows), dtype=psi.log_psi_dtype, device=rows.device)
    launch = min(max_rows, max(1, LAUNCH_TOKENS[rows.device.type] // n_own))

    def score(begin: int, end: int) -> None:
        if dense:
            begin, end = begin * n_branches, end * n_branches
            parents = rows[begin:end:n_branches]
        else:
            parents = rows[begin:end]
        logits, log_norms, _ = psi.conditionals(altered[begin:end, :-1], prefix.select(parents))
        chosen = psi.chosen(logits, log_norms, altered[begin:end, 1:])
        total[begin:end] = chosen.sum(1, dtype=psi.log_psi_dtype)

    if dense and n_branches <= launch:
        in_chunks(score, len(rows) // n_branches, launch // n_branches)
    else:
        dense = False
        in_chunks(score, len(rows), launch)
    return total


def _exclusive_cumsum(x: Tensor) -> Tensor:
    """Sums of the entries before each one along dim 1 (an entry may be -inf)."""
    return torch.nn.functional.pad(x, (1, 0))[:, :-1].cumsum(1)


@dataclass
class _Branches:
    """Open branches of a walk: row, flip, ln psi so far of each (R,), and state before `read`."""

    rows: Tensor
    cols: Tensor
    total: Tensor
    state: SequenceState


def _walk(
    psi: Autoregressive, tokens: Tensor, changes: Tensor, needed: Tensor | None, result: Tensor
) -> None:
    """Fill result (B, G): all branches open at position t take one step together.

    Branches just opened step apart from the others: they still share their configuration's state.
    """
    n_patches = tokens.shape[1]
    inputs = psi.inputs(tokens)
    state = psi.start(len(tokens))
    first = (changes != 0).to(torch.int8).argmax(1)  # (G,)
    before = torch.zeros(len(tokens), dtype=psi.log_psi_dtype, device=tokens.device)
    open_branches: list[_Branches] = []
    for t in range(n_patches):
        for branches in open_branches:
            _step(psi, branches, tokens, changes, t)
        open_branches = _merged(open_branches, LAUNCH_ROWS[tokens.device.type])
        logits, log_norms, state = psi.conditionals(inputs[:, t : t + 1], state)
        group = (first == t).nonzero().squeeze(1)
        rows, cols = _pairs(len(tokens), group, None if needed is None else needed[:, group])
        if len(rows):
            write = tokens[rows, t] ^ changes[cols, t]
            opened = before[rows] + psi.chosen(logits[rows, 0], log_norms[rows, 0], write)
            shared = state if needed is None else state.select(rows)
            open_branches.append(_Branches(rows, cols, opened, shared))
        before = before + psi.chosen(logits, log_norms, tokens[:, t : t + 1]).squeeze(1)
    for branches in open_branches:
        result[branches.rows, branches.cols] = branches.total


def _step(
    psi: Autoregressive, branches: _Branches, tokens: Tensor, changes: Tensor, t: int
) -> None:
    """Read the altered patch t - 1 and add ln psi of the altered patch t, in place."""
    read, write = ((tokens[:, i][branches.rows] ^ changes[:, i][branches.cols]) for i in (t - 1, t))
    logits, log_norms, branches.state = psi.conditionals(read[:, None], branches.state)
    branches.total += psi.chosen(logits, log_norms, write[:, None]).squeeze(1)


def _merged(branches: list[_Branches], max_rows: int) -> list[_Branches]:
    """Neighbouring groups joined up to max_rows, once each row has a state of its own."""
    merged: list[_Branches] = []
    for group in branches:
        if merged and len(merged[-1].rows) + len(group.rows) <= max_rows:
            last = merged.pop()
            state = type(group.state).concatenate([last.state, group.state])
            rows, cols = torch.cat([last.rows, group.rows]), torch.cat([last.cols, group.cols])
            group = _Branches(rows, cols, torch.cat([last.total, group.total]), state)
        merged.append(group)
    return merged
