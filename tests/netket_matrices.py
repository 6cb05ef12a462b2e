"""Matrices of NetKet's operators, by what they connect: to_dense compiles a hundred functions for
each shape."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np


def dense(operator: Any) -> np.ndarray:
    """(2^N, 2^N), first site and first local state most significant, as operator.to_dense()."""
    first, second = operator.hilbert.local_states
    n = operator.hilbert.size
    states = np.array(list(itertools.product([first, second], repeat=n)))
    connected, elements = (np.asarray(part) for part in operator.get_conn_padded(states))
    columns = (connected == second) @ (2 ** np.arange(n)[::-1])
    matrix = np.zeros((2**n, 2**n), elements.dtype)
    np.add.at(matrix, (np.arange(2**n)[:, None], columns), elements)
    return matrix
