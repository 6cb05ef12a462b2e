"""Blurred sampling: some draws take a random flip, towards amplitudes that are too small."""

from __future__ import annotations

from typing import Annotated, Literal, final

from nqs.vmc.energies.all_flips import AllFlips
from nqs.vmc.energies.energies import require_range


@final
class Blurred(AllFlips, kind="blurred"):
    """Draws of the density q of nqs.vmc.energies.proposal, weighted by |psi|^2 / q; all flips.

    Args:
        flip_fraction: share of the draws that take one random flip (importance sampling), 0 (none)
            or 0.001 .. 0.99.
        flip_precision: matrix products of the flip pass, which takes no gradient: full (as dtype),
            bfloat16, tf32 (GPUs), or auto: bfloat16 or tf32 while their error on live samples stays
            small and the flips are not compiled, else full. The final evaluation is always full.
    """

    def __init__(
        self,
        *,
        flip_fraction: Annotated[float, "0 or 0.001 .. 0.99"] = 0.5,
        flip_precision: Literal["full", "bfloat16", "tf32", "auto"] = "full",
    ) -> None:
        require_range("flip_fraction", flip_fraction, 1e-3, 0.99, or_zero=True)
        super().__init__(flip_fraction, flip_precision)
