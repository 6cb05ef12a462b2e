"""ln psi of flipped configurations by prefix sharing: the cost that decides a VMC step.

For a flip whose first touched patch is k: conditionals before k are those of the unflipped
configuration, the one at k is another entry of the same softmax row (free), only positions > k are
run again, on the unflipped prefix's state. That is N (T - 1) / 2 token evaluations a configuration
for all N single-site flips, the minimum for a dense autoregressive network; the last patch is free.

Models whose state grows (attention) run suffix by suffix, all flips of one first patch together on
one shared prefix: in compiled code where the core has it (`nqs.core.native`), else here. Models of
constant state (recurrent) walk the sequence once with all branches that are open, T launches
instead of T^2 / 2 small steps.

Flipped configurations are not looked up among each other and the samples: on trained Rydberg
arrays, 512 draws, 42 % of them were known on 4x4 (where the suffixes save as much), none in 32 768
on 8x8 and none in 131 072 on 16x16.

Letters: B configurations, G flips, T patches, K patch states, R rows of a launch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nqs.core.native.branches import Branches
from nqs.core.sequence import SequenceState
from nqs.wavefunctions.patches import Patches

if TYPE_CHECKING:
    from nqs.wavefunctions.autoregressive import Autoregressive

LAUNCH_TOKENS = {"cpu": 4_096, "accelerator": 1_048_576}
"""Tokens of one launch: on CPU so that a layer's activations stay in cache, on a GPU to fill it."""

LAUNCH_ROWS = {"cpu": 1_024, "accelerator": 1_048_576}
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
    plan = psi.flip_plan(flips)
    if needed is not None and bool(needed.all()):
        needed = None
    result = torch.full(
        (len(configs), len(flips)), -torch.inf, dtype=psi.log_psi_dtype, device=configs.device
    )

    def part(begin: int, end: int) -> tuple[Tensor, Tensor | None]:
        tokens = psi.patches.encode(configs[begin:end])
        return tokens, None if needed is None else needed[begin:end]

    def score_compiled(begin: int, end: int) -> None:
        scorer.score(tables, *part(begin, end), plan.branches, result[begin:end])

    def score_suffixes(begin: int, end: int) -> None:
        _suffixes(psi, *part(begin, end), plan, result[begin:end], max_rows)

    def walk(begin: int, end: int) -> None:
        tokens, acting = part(begin, end)
        for columns, some in parts:
            needed_there = None if acting is None else acting[:, columns]
            _walk(psi, tokens, needed_there, some, result[begin:end, columns])

    if psi.core.constant_state:
        n_flips = max(1, min(max_rows, len(flips)))  # a walk opens them all
        parts = list(plan.parts(n_flips))
        in_chunks(walk, len(configs), max(1, max_rows // n_flips))
        return result
    shared = max(1, min(max_rows, SHARED_PAIRS // plan.changes.shape[1] ** 2))
    if psi.core.branch_obstacle() is None:
        scorer, tables = psi.core.branch_scorer(), psi.output_tables()
        in_chunks(score_compiled, len(configs), shared)
    else:
        in_chunks(score_suffixes, len(configs), shared)
    return result


def launch_size(sizes: dict[str, int], device: torch.device) -> int:
    """The entry of LAUNCH_TOKENS or LAUNCH_ROWS for a device."""
    return sizes["cpu" if device.type == "cpu" else "accelerator"]


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


@dataclass(frozen=True)
class FlipGroup:
    """Flips (F,), ascending, that first touch patch `first`; alone: and no other patch.

    A flip of one patch alone leaves all later inputs but the next as they are, which the core may
    use. False where there are no such inputs.
    """

    first: int
    alone: bool
    flips: Tensor


@dataclass(frozen=True)
class FlipPlan:
    """All that a pass must know of its flips on the host, so that it never waits for the device.

    Attributes:
        flips: (G, N) bool, as they were planned; version: torch's count of writes into them.
        changes: (G, T) what is xored to each token.
        groups: by first patch, those `alone` before the others.
        near: by radius, see nqs.wavefunctions.nearby.
    """

    flips: Tensor
    version: int
    changes: Tensor
    groups: list[FlipGroup]
    near: dict[float, list[tuple[int, Tensor, Tensor]]] = field(default_factory=dict)

    @classmethod
    def of(cls, patches: Patches, flips: Tensor, *, walked: bool) -> FlipPlan:
        """walked: for cores of constant state, which have no use for `alone`.

        Raises ValueError for a flip that touches no site.
        """
        changes = patches.encode(flips)
        touched = (changes != 0).cpu()
        if not bool(touched.any(1).all()):
            raise ValueError("flips must each touch at least one site")
        first = touched.to(torch.int8).argmax(1)  # (G,)
        alone = (touched.sum(1) == 1) & (first < changes.shape[1] - 2) & (not walked)
        groups = [
            FlipGroup(patch, kind, columns.to(flips.device))
            for patch in first.unique().tolist()
            for kind in (True, False)
            if len(columns := ((first == patch) & (alone == kind)).nonzero().squeeze(1))
        ]
        return cls(flips, flips._version, changes, groups)

    @cached_property
    def branches(self) -> Branches:
        """The same for a compiled scorer."""
        return Branches.of(self.changes, [(group.first, group.flips) for group in self.groups])

    def is_of(self, flips: Tensor) -> bool:
        """Whether it is the plan of this tensor, as it is now."""
        return flips is self.flips and flips._version == self.version

    def parts(self, n_flips: int) -> Iterator[tuple[slice, FlipPlan]]:
        """Columns of at most n_flips flips and their plans."""
        if len(self.flips) <= n_flips:
            yield slice(0, len(self.flips)), self
            return
        for begin in range(0, len(self.flips), n_flips):
            columns = slice(begin, begin + n_flips)
            yield columns, self._part(columns)

    def _part(self, columns: slice) -> FlipPlan:
        groups = []
        for group in self.groups:
            own = group.flips[(group.flips >= columns.start) & (group.flips < columns.stop)]
            if len(own):
                groups.append(FlipGroup(group.first, group.alone, own - columns.start))
        return FlipPlan(self.flips[columns], self.version, self.changes[columns], groups)

    def pairs(self, n_configs: int, needed: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Configurations (R,) and flips (R,) to score of each group, configuration by
        configuration: all of n_configs, or those that are needed (B, G)."""
        if needed is None:
            every = torch.arange(n_configs, device=self.flips.device)
            for group in self.groups:
                n_flips = len(group.flips)
                yield every.repeat_interleave(n_flips), group.flips.repeat(n_configs)
            return
        order = torch.cat([group.flips for group in self.groups])
        sizes = [len(group.flips) for group in self.groups]
        by_group = needed[:, order]  # (B, G)
        flat = torch.cat([part.reshape(-1) for part in by_group.split(sizes, dim=1)])
        n_each = by_group.sum(0).tolist()  # CPU-GPU sync, as is nonzero: two for all groups
        places = flat.nonzero().squeeze(1)  # group by group, each row by row
        begin = offset = 0
        for group, size in zip(self.groups, sizes, strict=True):
            n_pairs = sum(n_each[begin : begin + size])
            own = places[offset : offset + n_pairs] - begin * n_configs
            yield own // size, group.flips[own % size]
            begin, offset = begin + size, offset + n_pairs


def _suffixes(
    psi: Autoregressive,
    tokens: Tensor,
    needed: Tensor | None,
    plan: FlipPlan,
    result: Tensor,
    max_rows: int,
) -> None:
    """Fill result (B, G): a group of flips per first touched patch, on shared prefixes."""
    logits, log_norms, state = psi.conditionals(psi.inputs(tokens))
    # (B, T): ln psi of the patches before each
    before = _exclusive_cumsum(psi.chosen(logits, log_norms, tokens).to(psi.log_psi_dtype))
    pairs = plan.pairs(len(tokens), needed)
    for group, (rows, cols) in zip(plan.groups, pairs, strict=True):
        k = group.first
        altered = tokens[rows, k:] ^ plan.changes[cols, k:]  # (R, T - k)
        total = before[rows, k] + psi.chosen(logits[rows, k], log_norms[rows, k], altered[:, 0])
        if k < tokens.shape[1] - 1:
            prefix = psi.prefix(state, k + 1, repeats=group.alone)
            total += _score_suffixes(
                psi, prefix, rows, altered, len(group.flips), needed is None, max_rows
            )
        result[rows, cols] = total


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
    launch = min(max_rows, max(1, launch_size(LAUNCH_TOKENS, rows.device) // n_own))

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
    psi: Autoregressive, tokens: Tensor, needed: Tensor | None, plan: FlipPlan, result: Tensor
) -> None:
    """Fill result (B, G): all branches open at position t take one step together.

    Branches just opened step apart from the others: they still share their configuration's state.
    """
    inputs = psi.inputs(tokens)
    state = psi.start(len(tokens))
    before = torch.zeros(len(tokens), dtype=psi.log_psi_dtype, device=tokens.device)
    most = launch_size(LAUNCH_ROWS, tokens.device)
    pairs = plan.pairs(len(tokens), needed)
    opening = {group.first: pair for group, pair in zip(plan.groups, pairs, strict=True)}
    open_branches: list[_Branches] = []
    for t in range(tokens.shape[1]):
        for branches in open_branches:
            _step(psi, branches, tokens, plan.changes, t)
        open_branches = _merged(open_branches, most)
        logits, log_norms, state = psi.conditionals(inputs[:, t : t + 1], state)
        if t in opening and len(opening[t][0]):
            rows, cols = opening.pop(t)
            write = tokens[rows, t] ^ plan.changes[cols, t]
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
