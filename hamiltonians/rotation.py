"""Which sites to rotate so that no off-diagonal element is positive.

U = prod_{i in A} sz_i gives the flip pattern f the sign (-1)^{|f and A|} (hamiltonian.py). Patterns
that have to change sign ask for an odd overlap with A, all others for an even one: linear equations
over the field of two elements, one per pattern, solved exactly by elimination. The others include
patterns whose elements have no single sign: they are left as they are, so U H U has every
permutation symmetry that H has. On two sublattices with antiferromagnetic bonds between them A is
one of the sublattices, Marshall's rule.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def rotation_for(flips: Tensor, turned: Tensor) -> Tensor | None:
    """(N,) bool: sites A with |f and A| odd exactly for the turned flips; None: there are none.

    flips (G, N) bool, turned (G,) bool. Of several solutions the one in which sites of low number
    stay: site 0 is never rotated if it need not be.
    """
    n_sites = flips.shape[1]
    pivots: dict[int, int] = {}  # equations by their highest site; bit 0 is the right-hand side
    for equation in _equations(flips, turned):
        while equation > 1 and (site := equation.bit_length() - 2) in pivots:
            equation ^= pivots[site]
        if equation == 1:
            return None
        if equation:
            pivots[site] = equation
    chosen = 1  # bit i + 1 is site i; bit 0 multiplies the right-hand side
    for site in sorted(pivots):
        if (pivots[site] & chosen).bit_count() % 2:
            chosen |= 1 << (site + 1)
    return torch.tensor([bool(chosen >> (site + 1) & 1) for site in range(n_sites)])


def _equations(flips: Tensor, turned: Tensor) -> list[int]:
    """Each equation as a number: bit i + 1 for site i, bit 0 for the right-hand side."""
    table = torch.cat([turned[:, None], flips], dim=1).cpu().numpy()  # (G, N + 1)
    packed = np.packbits(table, axis=1, bitorder="little")  # (G, bytes)
    return [int.from_bytes(row.tobytes(), "little") for row in packed]
