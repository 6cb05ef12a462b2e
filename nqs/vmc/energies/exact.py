"""Local energies of plain draws of |psi|^2, with all flips computed."""

from __future__ import annotations

from typing import Literal, final

from nqs.vmc.energies.all_flips import AllFlips


@final
class Exact(AllFlips, kind="exact"):
    """Draws of |psi|^2 and E_loc(s) = sum_s' <s|H|s'> psi(s') / psi(s).

    Args:
        flip_precision: matrix products of the flip pass, which takes no gradient: full (as dtype),
            bfloat16, tf32 (GPUs), or auto: bfloat16 or tf32 while their error on live samples stays
            small, else full. Pays for wide networks. The final evaluation is always full.
    """

    def __init__(
        self, *, flip_precision: Literal["full", "bfloat16", "tf32", "auto"] = "full"
    ) -> None:
        super().__init__(0.0, flip_precision)
