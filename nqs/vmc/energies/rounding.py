"""Cheaper matrix products in the flip pass, which takes no gradient and spends its time on them.

Operands are rounded to bfloat16 (8 significant bits), or to TF32 (11) on a GPU, and summed in
float32. The residual stream, norms, logits, log-norms and ln psi keep the parameters' precision: a
copy of the whole network in bfloat16 ran 1.2 times faster at 3.4 times the error of local energies
(8x8, D = 128, softmax attention).

Rounding turns psi into psi (1 + eta). If ln psi of the sample itself comes from the same products,

    E' = <psi| H (1 + eta) psi> - <psi| eta H psi> + O(eta^2) = E + O(eta^2)

since H is Hermitian: the first order of the bias cancels. With ln psi(s) in full precision it is
<psi| H eta psi>. That holds as far as eta is a function of s, as for the rounding of parameters;
the rounding of activations depends on the order of sums too, and that part is noise of E_loc.
`nqs.vmc.energies.flip_precision` measures both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import torch

from nqs.wavefunctions.wavefunction import Wavefunction

PRECISIONS: Final = ("full", "tf32", "bfloat16")
"""full: operands as the parameters are."""

BITS: Final = {"full": 24, "tf32": 11, "bfloat16": 8}
"""Significant bits of an operand; "full" of float32 parameters."""


def cheaper(wavefunction: Wavefunction) -> tuple[str, ...]:
    """Products with which the flips of a state take less time than with float32 ones, the fastest
    first; none where these are compiled, for rounded ones are torch's (docs/decisions.md, The
    compiled flip pass).
    """
    if next(wavefunction.parameters()).is_cuda:
        return ("bfloat16", "tf32")
    if wavefunction.has_compiled_flips() or not torch.cpu._is_avx512_bf16_supported():
        return ()
    return ("bfloat16",)


@contextlib.contextmanager
def rounded_products(precision: str, device: torch.device) -> Iterator[None]:
    """Matrix products in this precision within the block; "full" changes nothing.

    Parameters are rounded once a block. Raises ValueError for an unknown kind, and for TF32
    elsewhere than on a GPU.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"products in {precision!r} are unknown; allowed: {', '.join(PRECISIONS)}")
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"products in 'tf32' exist on GPUs only, not on {device.type}")
    if precision == "full":
        yield
    elif precision == "bfloat16":
        with torch.autocast(device.type, torch.bfloat16):
            yield
    else:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
