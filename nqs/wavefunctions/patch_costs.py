"""What patches of one size or another cost, and which of them `model.patch=auto` takes.

The flips decide the cost of a step. All N single-site flips of a configuration make a transformer
read again the patches after the one that is flipped,

    tokens = sum_k p_k (T - 1 - k)       p_k sites in patch k;  N (T - 1) / 2 for equal ones,

and each token costs its way through the layers and its conditional, a softmax over K = 2^P states:

    cost = L (2 D^2 + 2 D M + c D) + K (D + s)

multiplications, M the width of the perceptrons; c and s stand for what is no product: norms,
activations and mixing, and exponentials. Larger patches mean fewer tokens, but each further site
doubles the last term, so that there is a best size: about 6 sites at D = 32. The number of distinct
configurations is taken to be the same for all.

Letters: N sites, T patches, P sites in the largest patch, D width, L layers.
"""

from __future__ import annotations

from nqs.wavefunctions.patches import Geometry, Patches, auto_spec

POINTWISE = 400
"""c, measured at D = 32 on a CPU with AVX-512: 2.4 ms of 3.5 ms for 4096 tokens of two layers."""
EXPONENTIAL = 90
"""s, from seconds a step of 12x12 atoms with 2x2, 3x2 and 4x2 patches: 1 : 0.73 : 0.87."""
LARGE_SHAPES = ((2, 2), (3, 2))
"""Cells of the patches from which large lattices take the cheapest. (12x12 Rydberg atoms, 512
samples, three runs side by side, 480 s each: 3x2 came to -0.38479(16) per site in 52 steps, 2x2 to
-0.38386(20) in 38; 4x2 to -0.38169(22) in 44, behind at equal steps too.)"""
LARGE_SITES = 100
"""Sites from which on the cheapest patch is taken. On smaller lattices a step is cheap, and small
patches are the most accurate for as many steps."""


def flip_tokens(patches: Patches) -> int:
    """Tokens that all single-site flips of one configuration read again."""
    last = patches.n_patches - 1
    return sum(size * (last - k) for k, size in enumerate(patches.sizes.tolist()))


def flip_cost(patches: Patches, *, d_model: int, n_layers: int, d_ff: int | None = None) -> float:
    """Multiplications, or as long, of all single-site flips of one configuration."""
    d_ff = 2 * d_model if d_ff is None else d_ff
    body = n_layers * d_model * (2 * d_model + 2 * d_ff + POINTWISE)
    return flip_tokens(patches) * (body + patches.n_states * (d_model + EXPONENTIAL))


def cheapest_spec(
    lattice: Geometry, *, d_model: int, n_layers: int, d_ff: int | None = None
) -> str:
    """The patches of `model.patch=auto` for a transformer, as `Patches.from_spec` takes them.

    On grids of one-site cells with at least LARGE_SITES sites, two-dimensional ones, the cheapest
    of LARGE_SHAPES; about four sites (`auto_spec`) everywhere else.
    """
    shape = lattice.shape
    if shape is None or lattice.n_basis > 1 or lattice.n_sites < LARGE_SITES or min(shape) < 4:
        return auto_spec(lattice)
    specs = [f"{x}x{y}" for x, y in LARGE_SHAPES if x <= shape[0] and y <= shape[1]]

    def cost(spec: str) -> float:
        patches = Patches.from_spec(lattice, spec)
        return flip_cost(patches, d_model=d_model, n_layers=n_layers, d_ff=d_ff)

    return min(specs, key=cost)
