"""Large patches of a lattice, each cut into the sub-patches that are read and written as tokens.

`Patches.from_spec` says what "AxB", "n" and lists of sites mean; here the large patches are such
groups of any size, and the sub-patches are the same within each. Where sizes do not divide, patches
at the edges are smaller and hold fewer sub-patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nqs.wavefunctions.patches import Geometry, Patches, auto_spec, patch_shape, site_groups

Spec = str | int | Sequence[Sequence[int]]


@dataclass(frozen=True)
class LargePatches:
    """T large patches over M sub-patches.

    Attributes:
        patches: the M sub-patches, those of the first large patch first.
        lengths: number of sub-patches in each large patch.
        centres: (T, d) float64, mean position of each large patch.
    """

    patches: Patches
    lengths: tuple[int, ...]
    centres: Tensor


def large_patches(lattice: Geometry, spec: Spec, sub_spec: Spec) -> LargePatches:
    """Large patches and sub-patches of a lattice, each from "AxB", "n", "auto" or groups of sites.

    Sub-patches "AxB" are A x B cells counted from the large patch's corner (A B neighbours along
    the path on free positions), "n" are n consecutive sites in the large patch's order. "auto" is
    `Patches.from_spec`'s for the sub-patches and 2 x 2 of these for the large ones (four in a row
    where patches are runs), or 1 x 2 where that would leave fewer than four large patches.

    Raises ValueError for any other spec, patches larger than the lattice, sub-patches larger than
    every large patch or, as lists, across two of them, and sub-patches of more than 12 sites.
    """
    sub_spec = auto_spec(lattice) if sub_spec == "auto" else sub_spec
    spec = auto_large(lattice, sub_spec) if spec == "auto" else spec
    large = site_groups(lattice, spec)
    if isinstance(sub_spec, (str, int)):
        nested = _cut(lattice, large, *patch_shape(sub_spec, "sub_patch"))
        if nested is None:
            raise ValueError(f"sub_patch={sub_spec!r} is larger than patch={spec!r}")
    else:
        nested = _sorted_into(large, site_groups(lattice, sub_spec))
    patches = Patches([sub for groups in nested for sub in groups], lattice.positions)
    centres = torch.stack([lattice.positions[group].mean(0) for group in large])
    return LargePatches(patches, tuple(map(len, nested)), centres)


def _cut(
    lattice: Geometry, large: list[list[int]], along_x: int, along_y: int | None
) -> list[list[list[int]]] | None:
    """The sub-patches of each large patch; None if sub-patches exceed every large patch."""
    if not along_y or lattice.shape is None:
        length = along_x * (along_y or 1)
        if length > max(map(len, large)):
            return None
        return [[g[i : i + length] for i in range(0, len(g), length)] for g in large]
    nested, widest, longest = [], 0, 0
    for group in large:
        cells = [divmod(site // lattice.n_basis, lattice.shape[1]) for site in group]
        x0, y0 = min(x for x, _ in cells), min(y for _, y in cells)
        tiles: dict[tuple[int, int], list[int]] = {}
        for site, (x, y) in zip(group, cells, strict=True):
            tiles.setdefault(((x - x0) // along_x, (y - y0) // along_y), []).append(site)
            widest, longest = max(widest, x - x0 + 1), max(longest, y - y0 + 1)
        nested.append([tiles[place] for place in sorted(tiles)])
    return nested if along_x <= widest and along_y <= longest else None


def _sorted_into(large: list[list[int]], subs: list[list[int]]) -> list[list[list[int]]]:
    """Sub-patches listed by the user, to the large patch that holds each. Raises ValueError."""
    home = {site: t for t, group in enumerate(large) for site in group}
    nested: list[list[list[int]]] = [[] for _ in large]
    for sub in subs:
        homes = {home[site] for site in sub}
        if len(homes) > 1:
            raise ValueError(f"sub_patch: the sites {sub} lie in {len(homes)} large patches")
        nested[homes.pop()].append(sub)
    return nested


def auto_large(lattice: Geometry, sub_spec: Spec) -> str:
    """2 x 2 sub-patches (four along a path) if four large patches remain, otherwise two of them."""
    if not isinstance(sub_spec, (str, int)):
        raise ValueError("patch=auto needs sub_patch=AxB, n or auto")
    along_x, along_y = patch_shape(sub_spec, "sub_patch")
    if along_y and lattice.shape is not None:
        n_x, n_y = lattice.shape
        n_large = math.ceil(n_x / (2 * along_x)) * math.ceil(n_y / (2 * along_y))
        factor = 2 if n_large >= 4 else 1
        return f"{min(factor * along_x, n_x)}x{min(2 * along_y, n_y)}"
    length = along_x * (along_y or 1)
    factor = 4 if lattice.n_sites > 12 * length else 2
    return str(min(factor * length, lattice.n_sites))
