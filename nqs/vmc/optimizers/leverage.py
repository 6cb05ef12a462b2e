"""How much of a batch is fitted, and the shift that leaves enough of it to average over noise.

minSR fits the local energies of a batch by ridge regression on the rows of O. Its fitted values are
H e with the hat matrix H = T (T + lambda)^-1, T = O O^T; the trace

    tr H = sum_k sigma_k / (sigma_k + lambda)            (sigma_k: eigenvalues of T, or of O^T O)

is the number of directions that the batch settles (effective degrees of freedom: Hastie, Tibshirani
& Friedman, The Elements of Statistical Learning, section 3.4.1), and tr H / n the mean leverage of
its n draws. At a leverage of 1 every draw is reproduced, its noise included: the step is the fit of
one batch's noise, whatever the state. The noise that steps of imaginary time dt feed into the state
raises the energy to about

    dt Var(E_loc) tr H / (4 n)

where it balances the descent, so that a bound on the leverage bounds it on arrays of all sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor

BISECTIONS = 60
"""Halvings of the interval of ln lambda, whose ends are some e^40 apart."""


def degrees_of_freedom(eigenvalues: Tensor, shift: float) -> float:
    """tr H, for eigenvalues (R,) of O O^T or (P,) of O^T O; rounded ones below 0 count as 0."""
    values = eigenvalues.clamp(min=0)
    return float((values / (values + shift)).nan_to_num(0.0).sum())


def least_shift(eigenvalues: Tensor, n_draws: float, leverage: float) -> float:
    """The least lambda >= 0 with tr H <= leverage n_draws; 0 where any lambda has that.

    eigenvalues as in `degrees_of_freedom`; leverage > 0.
    """
    values = eigenvalues.to(torch.float64).clamp(min=0)
    allowed = leverage * n_draws
    largest = float(values.max()) if len(values) else 0.0
    low = largest * torch.finfo(torch.float64).eps
    if largest == 0 or degrees_of_freedom(values, low) <= allowed:
        return 0.0
    high = float(values.sum()) / allowed  # since sigma / (sigma + lambda) < sigma / lambda
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        if degrees_of_freedom(values, middle) > allowed:
            low = middle
        else:
            high = middle
    return high
