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

from hamiltonians.lattices import parity_equations


def rotation_for(flips: Tensor, turned: Tensor) -> Tensor | None:
    """(N,) bool: sites A with |f and A| odd exactly for the turned flips; None: there are none.

    flips (G, N) bool, turned (G,) bool. Of several solutions the one in which sites of low number
    stay: site 0 is never rotated if it need not be.
    """
    rotated = parity_equations.solution(_equations(flips, turned))
    if rotated is None:
        return None
    return torch.tensor([bool(rotated >> site & 1) for site in range(flips.shape[1])])


def _equations(flips: Tensor, turned: Tensor) -> list[int]:
    """Each equation as a number: bit i + 1 for site i, bit 0 for the right-hand side."""
    table = torch.cat([turned[:, None], flips], dim=1).cpu().numpy()  # (G, N + 1)
    packed = np.packbits(table, axis=1, bitorder="little")  # (G, bytes)
    return [int.from_bytes(row.tobytes(), "little") for row in packed]
