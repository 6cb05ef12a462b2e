"""The wavefunctions of the tests here: each core, lattices with and without a remainder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import pytest
import torch
from covering import pairwise
from torch import Tensor

from hamiltonians.exact import basis
from hamiltonians.lattices.lattice import Chain, Honeycomb, Kagome, Lattice, Positions, Square
from nqs.core.digits import DigitHead, digit_products
from nqs.core.large_patched import LargePatched
from nqs.core.linear_attention import LinearTransformer
from nqs.core.recurrent import Recurrent
from nqs.core.recurrent2d import Recurrent2D
from nqs.core.sequence import EmbeddingModel, SequenceModel
from nqs.core.state_space import StateSpace
from nqs.core.transformer import Transformer
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.patches import Patches

Spec = str | Sequence[Sequence[int]]

GROUPS = [[8, 0], [3], [1, 4, 7], [5, 2, 6]]


def scattered(n_sites: int) -> Positions:
    generator = torch.Generator().manual_seed(11)
    return Positions(3 * torch.rand(n_sites, 2, generator=generator))


SYSTEMS: dict[str, tuple[Lattice, Spec]] = {
    "chain-3": (Chain(7), "3"),  # patches of 3, 3, 1
    "square-2x2": (Square(3, 4), "2x2"),  # 4, 4, 2, 2
    "square-2x3": (Square(3, 4), "2x3"),  # 6, 2, 3, 1
    "square-3x3": (Square(3, 4), "3x3"),  # 9, 3
    "square-3x2": (Square(3, 4), "3x2"),  # divides
    "square-4": (Square(3, 4), "4"),  # divides
    "square-5": (Square(3, 4), "5"),  # 5, 5, 2
    "kagome-1x1": (Kagome(2, 2), "1x1"),  # divides, 3 sites a cell
    "kagome-2x1": (Kagome(3, 1), "2x1"),  # 6, 3
    "honeycomb-2x1": (Honeycomb(3, 2), "2x1"),  # 4, 4, 2, 2
    "positions-4": (scattered(10), "4"),  # 4, 4, 2 along a Hilbert curve
    "groups": (Square(3, 3), GROUPS),
    "single": (Chain(6), "1"),
}
SIZES = {name: Patches.from_spec(*system).sizes.tolist() for name, system in SYSTEMS.items()}
REMAINDERS = [name for name, sizes in SIZES.items() if len(set(sizes)) > 1]
MODELS = (
    *("ptf", "factored", "elman", "gru", "lstm", "linear", "ssm", "rnn2d"),
    *("lptf-ptf", "lptf-gru", "lptf-factored"),
    *("factored-digits", "gru-digits", "rnn2d-digits", "lptf-gru-digits"),
)
"""-digits: vectors and logits of patch states from products of their bits (nqs.core.digits)."""

every_system = pytest.mark.parametrize("system", SYSTEMS)
every_remainder = pytest.mark.parametrize("system", REMAINDERS)
FEW_SYSTEMS = ("chain-3", "square-2x2", "kagome-2x1", "positions-4")
CLASSES = {
    "even": [name for name in SYSTEMS if name not in REMAINDERS],
    "remainder": [name for name in REMAINDERS if name not in ("positions-4", "groups")],
    "free": ["positions-4", "groups"],
}
"""Systems by what their patches are: all of one size, smaller at the edges, sites in any order."""


def cases_with(*factors: Sequence[object]) -> list[tuple[object, ...]]:
    """(model, system, value of each factor): every model meets every class of systems, by the
    members of the class in turn, and each value of a factor every model and every class."""
    turns = {name: cycle(members) for name, members in CLASSES.items()}
    return [
        (model, next(turns[name]), *values)
        for model, name, *values in pairwise(MODELS, list(CLASSES), *factors)
    ]


CASES = cases_with()

every_case = pytest.mark.parametrize(("model", "system"), CASES)
every_model = pytest.mark.parametrize("model", MODELS)


def build_core(
    model: str, patches: Patches, generator: torch.Generator, *, phase: bool = False
) -> SequenceModel:
    n_outputs = 2 * patches.n_states if phase else patches.n_states
    sizes = (patches.n_states + 1, n_outputs, patches.n_patches)
    model, products = without_digits(model, patches)
    made: dict[str, object] = {"products": products, "generator": generator}
    if model in ("ptf", "factored"):
        size = {"d_model": 8, "n_layers": 2, "n_heads": 2, "d_ff": 12}
        kind = {"attention": "softmax" if model == "ptf" else "factored"}
        return Transformer(*sizes, **size, **kind, **made)
    if model == "linear":
        return LinearTransformer(*sizes, d_model=8, n_heads=2, d_ff=12, **made)
    if model == "ssm":
        return StateSpace(*sizes, d_model=8, d_state=3, d_ff=12, **made)
    if model == "rnn2d":
        grid = patches.grid or (1, patches.n_patches)
        return Recurrent2D(*sizes[:2], grid, d_model=5, d_embed=2, **made)
    if model.startswith("lptf-"):
        return build_large_core(model.removeprefix("lptf-"), patches, made, phase=phase)
    return Recurrent(*sizes, d_model=6, n_layers=2, cell=model, **made)


def without_digits(model: str, patches: Patches) -> tuple[str, Tensor | None]:
    """The model's name without -digits, and the products it then has."""
    if not model.endswith("-digits"):
        return model, None
    return model.removesuffix("-digits"), digit_products(patches.sites.shape[1], 0.6)


def build_large_core(
    sub: str, patches: Patches, made: dict[str, object], *, phase: bool = False
) -> LargePatched:
    """Pairs of successive patches as large ones, the last alone if their number is odd.

    sub: "ptf", a cell, or "factored": a GRU below factored attention.
    """
    n_states, n_patches = patches.n_states, patches.n_patches
    lengths = [min(2, n_patches - t) for t in range(0, n_patches, 2)]
    sizes = (n_states, 2 * n_states if phase else n_states, max(lengths))
    size = {"d_model": 8, "n_layers": 2, "n_heads": 2, "d_ff": 12}
    cell = "gru" if sub == "factored" else sub
    inner: EmbeddingModel = (
        Transformer(*sizes, d_model=6, n_layers=1, n_heads=2, attention="softmax", **made)
        if sub == "ptf"
        else Recurrent(*sizes, d_model=5, cell=cell, **made)
    )
    sizes = (max(lengths) * n_states + 1, inner.embedding.embedding_dim, len(lengths))
    kind = "factored" if sub == "factored" else "softmax"
    outer = Transformer(*sizes, **size, attention=kind, writes_tokens=False, **made)
    return LargePatched(outer, inner, lengths)


def build(
    model: str,
    lattice: Lattice,
    spec: Spec,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    n_up: int | None = None,
    phase: bool = False,
) -> Autoregressive:
    """A wavefunction whose every parameter is random: its conditionals are far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    patches = Patches.from_spec(lattice, spec)
    if model == "rnn2d" and patches.grid is not None:
        patches = Patches.from_spec(lattice, spec, path="zigzag")
    core = build_core(model, patches, generator, phase=phase)
    psi = Autoregressive(core, patches, n_up=n_up, phase=phase).to(dtype)
    with torch.no_grad():
        for parameter in psi.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.3 * noise
        if isinstance(core.head, DigitHead):  # its logits add up many products
            core.head.weight.mul_(0.15)
            psi.bias.table.mul_(0.15)
    return psi


def build_system(model: str, system: str, **options: object) -> Autoregressive:
    return build(model, *SYSTEMS[system], **options)


def all_probabilities(psi: Autoregressive) -> Tensor:
    """(2^N,) |psi|^2 over the basis in the order of hamiltonians.exact."""
    with torch.no_grad():
        return (2 * psi.log_psi(basis(psi.n_sites))).exp()


def numbers(configs: Tensor) -> Tensor:
    """configs (B, N) -> (B,) the place of each in the basis; site 0 is the most significant bit."""
    places = torch.arange(configs.shape[1] - 1, -1, -1)
    return (configs.to(torch.int64) << places).sum(1)


def random_bits(n_rows: int, n_sites: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, (n_rows, n_sites), generator=generator).bool()
