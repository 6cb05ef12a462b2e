"""Wavefunctions that compiled code evaluates, in many shapes."""

from __future__ import annotations

import pytest
import torch

from nqs.core.digits import digit_products
from nqs.core.native import network
from nqs.core.transformer import Transformer
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.patches import Patches

EXACT = {"rtol": 0.0, "atol": 1e-12}

THERE = network.compiled(torch.float64)
needs_compiler = pytest.mark.skipif(THERE.handle is None, reason=THERE.description)

SIZES = [
    {"d_model": 8, "n_heads": 2, "d_ff": 12},
    {"d_model": 5, "n_heads": 1, "d_ff": 7},
    {"d_model": 12, "n_heads": 2, "d_ff": 19},
    {"d_model": 20, "n_heads": 4, "d_ff": 40},
    {"d_model": 9, "n_heads": 3, "d_ff": 16},
]
OPTIONS = [{}, {"n_up": 4}, {"phase": True}, {"phase": True, "n_up": 3}, {"digits": True}]


def factored(
    patches: Patches,
    *,
    n_up: int | None = None,
    phase: bool = False,
    digits: bool = False,
    noise: float = 0.3,
    dtype: torch.dtype = torch.float64,
    **sizes: object,
) -> Autoregressive:
    """Factored attention with random parameters everywhere."""
    generator = torch.Generator().manual_seed(4)
    n_outputs = 2 * patches.n_states if phase else patches.n_states
    core = Transformer(
        *(patches.n_states + 1, n_outputs, patches.n_patches),
        products=digit_products(patches.sites.shape[1], 0.6) if digits else None,
        generator=generator,
        **sizes,
    )
    psi = Autoregressive(core, patches, n_up=n_up, phase=phase).to(torch.float64)
    with torch.no_grad():
        for parameter in psi.parameters():
            parameter += noise * torch.randn(
                parameter.shape, generator=generator, dtype=torch.float64
            )
        if digits:  # logits add up many products
            core.head.weight.mul_(0.15)
            psi.bias.table.mul_(0.15)
    return psi.to(dtype)
