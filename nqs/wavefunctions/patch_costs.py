"""What patches of one size or another cost, and which of them `model.patch=auto` takes.

The flips decide the cost of a step. All N single-site flips of a configuration make a transformer
read again the patches after the one that is flipped,

    tokens = sum_k p_k (T - 1 - k)       p_k sites in patch k;  N (T - 1) / 2 for equal ones,

and each token costs its way through the layers and its conditional, a softmax over K = 2^P states
(`SequenceModel.token_cost`). Larger patches mean fewer tokens, but each further site doubles the
softmax, so that there is a best size: about 6 sites at D = 32. The number of distinct
configurations is taken to be the same for all.

Letters: N sites, T patches, P sites in the largest patch, D width.
"""

from __future__ import annotations

from collections.abc import Callable

from nqs.wavefunctions.patches import Geometry, Patches, auto_spec

TokenCost = Callable[[int], float]
"""Multiplications, or as long, of reading a token and writing logits of K states."""
LARGE_SHAPES = ((2, 2), (3, 2))
"""Cells of the patches from which large lattices take the cheapest; 4x2 learns more slowly
(docs/decisions.md)."""
LARGE_SITES = 100
"""Sites from which on the cheapest patch is taken. On smaller lattices a step is cheap, and small
patches are the most accurate for as many steps."""


def flip_tokens(patches: Patches) -> int:
    """Tokens that all single-site flips of one configuration read again."""
    last = patches.n_patches - 1
    return sum(size * (last - k) for k, size in enumerate(patches.sizes.tolist()))


def flip_cost(patches: Patches, token_cost: TokenCost) -> float:
    """Multiplications, or as long, of all single-site flips of one configuration."""
    return flip_tokens(patches) * token_cost(patches.n_states)


def cheapest_spec(lattice: Geometry, token_cost: TokenCost) -> str:
    """The patches of `model.patch=auto` for a model of known cost, as `Patches.from_spec` takes
    them.

    On grids of one-site cells with at least LARGE_SITES sites, two-dimensional ones, the cheapest
    of LARGE_SHAPES; about four sites (`auto_spec`) everywhere else.
    """
    shape = lattice.shape
    if shape is None or lattice.n_basis > 1 or lattice.n_sites < LARGE_SITES or min(shape) < 4:
        return auto_spec(lattice)
    specs = [f"{x}x{y}" for x, y in LARGE_SHAPES if x <= shape[0] and y <= shape[1]]

    return min(specs, key=lambda spec: flip_cost(Patches.from_spec(lattice, spec), token_cost))
