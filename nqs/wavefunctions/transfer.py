"""Parameters of a trained wavefunction on a lattice of another size (transfer in size).

Most parameters do not know the number of tokens. Those that do are carried over place by place:

    table'_t = table_m(t)                     positions, biases of the patches
    a'_h(t, u) = a_h(m(t), u0)                pair weights of factored attention

m(t) is the patch of the source that lies like t does, of the same sites: counted from the nearer
end of each direction near the edges, in the middle elsewhere. u0 lies from m(t) as u does from t;
where the source has no such patch the weight is 0. So no place looks farther than m(t) did, and
what it reads has the weights that go with its own row of the tables: weights that other places
have for further displacements make the state worse (docs/decisions.md, Growing arrays). Between
lattices of one size all of this is the identity.

(Retraining on ever larger lattices: Roth, arXiv:2003.06228, for recurrent networks, which have no
places to carry over.)

Letters: T patches of the source, T' of the target; h heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from nqs.core.factored import PairWeights
from nqs.core.large_patched import LargePatched
from nqs.core.positions import AddedTable, Positions
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.patches import Geometry, Patches

Layout = tuple[tuple[int, int], ...]


class Cells(Geometry, Protocol):
    """What a transfer needs to know of a lattice besides its sites."""

    @property
    def periodic(self) -> tuple[bool, ...]:
        """One bool a direction."""


@dataclass(frozen=True)
class Grid:
    """Patches at the places of a grid.

    Attributes:
        places: row and column of each patch.
        layouts: where the sites of each patch lie, from its corner.
        shape: rows, columns.
        periodic: rows, columns.
    """

    places: list[tuple[int, int]]
    layouts: list[Layout]
    shape: tuple[int, int]
    periodic: tuple[bool, bool]


@dataclass(frozen=True)
class Correspondence:
    """Which tokens of the source stand for those of the target.

    Attributes:
        places: (T',) int64, m(t).
        pairs: (T' (T' + 1) / 2,) int64, number of (m(t), u0) among the source's pairs, -1 for none.
    """

    places: Tensor
    pairs: Tensor


@torch.no_grad()
def transfer(
    source: Autoregressive, target: Autoregressive, from_lattice: Cells, to_lattice: Cells
) -> None:
    """Gives `target` the parameters of `source` (formula at the head of this file).

    The table of a fixed magnetisation, which counts sites, is carried over between equal patches
    alone; elsewhere the target keeps its own.
    Raises ValueError for wavefunctions that differ in more than the number of patches, lattices of
    another kind, and patches without a counterpart of the same form in the source.
    """
    inner = isinstance(source.core, LargePatched)
    if inner != isinstance(target.core, LargePatched) or source.phase != target.phase:
        raise ValueError("the two wavefunctions are of different kinds")
    if (source.n_up is None) != (target.n_up is None):
        raise ValueError("the magnetisation is fixed in one of the two wavefunctions only")
    lattices = (from_lattice, to_lattice)
    tokens = correspondence(token_groups(source), token_groups(target), *lattices)
    if inner:
        large = correspondence(large_groups(source), large_groups(target), *lattices)
    theirs, ours = dict(source.named_modules()), dict(target.named_modules())
    if theirs.keys() != ours.keys():
        raise ValueError("the two wavefunctions are of different kinds")
    for name, module in ours.items():
        match = tokens
        if name.startswith("core.large.") and inner:
            match = large
        if name.startswith("core.sub.") and inner:
            _copy(theirs[name], module, name)
        elif isinstance(module, PairWeights):
            _copy_pairs(theirs[name], module, match)
        elif isinstance(module, Positions) or module is target.bias:
            _copy_rows(theirs[name], module, match)
        else:
            _copy(theirs[name], module, name)
    if target.n_up is not None and token_groups(source) == token_groups(target):
        if source.n_up != target.n_up:
            raise ValueError(f"n_up={source.n_up} and {target.n_up} on the same sites")
        target.sector.copy_(source.sector)


def token_groups(wavefunction: Autoregressive) -> list[list[int]]:
    """The sites of each patch, in order."""
    return groups_of(wavefunction.patches)


def large_groups(wavefunction: Autoregressive) -> list[list[int]]:
    """The sites of each large patch, sub-patch after sub-patch."""
    assert isinstance(wavefunction.core, LargePatched)
    return large_groups_of(token_groups(wavefunction), wavefunction.core.lengths)


def groups_of(patches: Patches) -> list[list[int]]:
    """The sites of each patch, in order."""
    rows = zip(patches.sites.tolist(), patches.sizes.tolist(), strict=True)
    return [sites[:size] for sites, size in rows]


def large_groups_of(tokens: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[list[int]]:
    """The sites of each large patch, of `lengths` sub-patches each, one after the other."""
    groups, begin = [], 0
    for length in lengths:
        groups.append([site for sub in tokens[begin : begin + length] for site in sub])
        begin += length
    return groups


def correspondence(
    source: Sequence[Sequence[int]],
    target: Sequence[Sequence[int]],
    from_lattice: Cells,
    to_lattice: Cells,
) -> Correspondence:
    """Between groups of sites of two lattices. Raises ValueError where there is none."""
    places = counterparts(source, target, from_lattice, to_lattice)
    if same_groups(source, target):
        n = len(target)
        return Correspondence(torch.arange(n), torch.arange(n * (n + 1) // 2))
    before, after = as_grid(source, from_lattice), as_grid(target, to_lattice)
    assert before is not None and after is not None
    return Correspondence(torch.tensor(places), torch.tensor(_pairs(before, after, places)))


def same_groups(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> bool:
    """Whether two lists of groups hold the same sites in the same order."""
    return [list(group) for group in one] == [list(group) for group in other]


def counterparts(
    source: Sequence[Sequence[int]],
    target: Sequence[Sequence[int]],
    from_lattice: Cells,
    to_lattice: Cells,
) -> list[int]:
    """m(t) of each group t of the target. Raises ValueError where there is none."""
    if same_groups(source, target):
        return list(range(len(target)))
    before, after = as_grid(source, from_lattice), as_grid(target, to_lattice)
    if before is None or after is None:
        raise ValueError(
            "patches that are no grid (free positions, listed sites, runs that do not divide a "
            "row) can only be carried over to the same sites"
        )
    if (before.periodic, from_lattice.n_basis) != (after.periodic, to_lattice.n_basis):
        raise ValueError("the lattices must have the same cells and periodic directions")
    return _counterparts(before, after)


def as_grid(groups: Sequence[Sequence[int]], lattice: Cells) -> Grid | None:
    """Groups of sites as places of a grid; None if they are not."""
    if lattice.shape is None:
        return None
    row_length = lattice.shape[1] * lattice.n_basis
    corners, layouts = [], []
    for group in groups:
        cells = [divmod(site, row_length) for site in group]
        x0, y0 = min(x for x, _ in cells), min(y for _, y in cells)
        corners.append((x0, y0))
        layouts.append(tuple((x - x0, y - y0) for x, y in cells))
    rows, columns = (
        {c: i for i, c in enumerate(sorted(set(axis)))} for axis in zip(*corners, strict=True)
    )
    if len(set(corners)) < len(groups) or len(rows) * len(columns) != len(groups):
        return None
    places = [(rows[x], columns[y]) for x, y in corners]
    periodic = (bool(lattice.periodic[0]), bool(lattice.periodic[1]))
    return Grid(places, layouts, (len(rows), len(columns)), periodic)


def _counterparts(before: Grid, after: Grid) -> list[int]:
    """m(t): of the source's patches with the same sites the one nearest to where t should lie."""
    counterparts = []
    for place, layout in zip(after.places, after.layouts, strict=True):
        ideal = [
            like(i, n_after, n_before)
            for i, n_after, n_before in zip(place, after.shape, before.shape, strict=True)
        ]
        alike = [t for t, other in enumerate(before.layouts) if other == layout]
        if not alike:
            raise ValueError(
                f"a patch of {len(layout)} sites has no counterpart of the same form in the source;"
                " use the same patches, and lattices that leave the same remainder at the edges"
            )
        counterparts.append(min(alike, key=lambda t: (_apart(before.places[t], ideal), -t)))
    return counterparts


def like(index: int, n_after: int, n_before: int) -> int:
    """The place among n_before that lies as `index` does among n_after.

    The first half of the shorter row is kept at the start, the other half at the end; what is
    between repeats the place in the middle, the later one of two: of two places in a row the first
    has nothing before it, and its conditional knows no past.
    """
    if n_after < n_before:
        return index if index < (n_after + 1) // 2 else index + n_before - n_after
    return min(index, max(n_before // 2, index - (n_after - n_before)))


def _apart(place: Sequence[int], other: Sequence[int]) -> int:
    return sum((a - b) ** 2 for a, b in zip(place, other, strict=True))


def _pairs(before: Grid, after: Grid, places: list[int]) -> list[int]:
    """Number of the source's pair (m(t), u0) for each pair (t, u) of the target, u <= t, -1 for
    none.

    Position u reads the token of patch u - 1, and position 0 the start token.
    """
    rows = {m: _row(before, m) for m in set(places)}
    numbers = []
    for t, m in enumerate(places):
        numbers.append(m * (m + 1) // 2)
        for u in range(1, t + 1):
            (apart, *_) = displacements(after, t, u - 1)
            numbers.append(rows[m].get((apart, after.layouts[u - 1]), -1))
    return numbers


def _row(grid: Grid, t: int) -> dict[tuple[tuple[int, int], Layout], int]:
    """Numbers of the pairs (t, u), by the displacement of patch u - 1 from t and by its form."""
    row = {}
    for u in range(1, t + 1):
        for apart in displacements(grid, t, u - 1):
            row[apart, grid.layouts[u - 1]] = t * (t + 1) // 2 + u
    return row


def displacements(grid: Grid, t: int, u: int) -> list[tuple[int, int]]:
    """From patch u to t, the shortest way round periodic directions; both ways where they tie."""
    ways = []
    for k in range(2):
        step, n = grid.places[t][k] - grid.places[u][k], grid.shape[k]
        if not grid.periodic[k] or 2 * abs(step) < n:
            ways.append([step])
        elif 2 * abs(step) == n:
            ways.append([step, -step])
        else:
            ways.append([step - n if step > 0 else step + n])
    return [(x, y) for x in ways[0] for y in ways[1]]


def _copy(source: nn.Module, target: nn.Module, name: str) -> None:
    """A module's own parameters, of equal shapes."""
    theirs = dict(source.named_parameters(recurse=False))
    for key, ours in target.named_parameters(recurse=False):
        if key not in theirs or theirs[key].shape != ours.shape:
            raise ValueError(f"the parameters {name}.{key} of the two differ in shape")
        ours.copy_(theirs[key])


def _copy_rows(source: nn.Module, target: nn.Module, match: Correspondence) -> None:
    """Rows of a learned table."""
    assert isinstance(source, AddedTable) and isinstance(target, AddedTable)
    if isinstance(target.table, nn.Parameter):
        if source.table.shape[1:] != target.table.shape[1:]:
            raise ValueError("the tables of positions or biases of the two differ in width")
        target.table.copy_(source.table[match.places.to(source.table.device)])


def _copy_pairs(source: nn.Module, target: PairWeights, match: Correspondence) -> None:
    """Pair weights."""
    assert isinstance(source, PairWeights)
    if source.n_heads != target.n_heads:
        raise ValueError(
            f"attention heads: {source.n_heads} in one and {target.n_heads} in the other"
        )
    pairs = match.pairs.to(source.own.device)
    if torch.equal(pairs, torch.arange(source.own.shape[1], device=pairs.device)):
        target.load_state_dict(source.state_dict())  # the same places: to the last bit
        return
    target.set(source.weights[:, pairs.clamp(min=0)] * (pairs >= 0))
