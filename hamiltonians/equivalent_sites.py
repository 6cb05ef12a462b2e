"""Which sites a symmetry of the Hamiltonian exchanges: all averages of one must be those of the
other in a ground state that is not degenerate.

Candidates are the symmetries of the lattice; those that leave the Hamiltonian as it is, couplings
included, generate a group, and its orbits are the answer. Two sites that are called equivalent are;
for lattices whose group is too large to try element by element, some may be called different
although a product of elements that are no symmetries themselves connects them.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.invariance import symmetry_test
from hamiltonians.lattices.lattice import Lattice
from hamiltonians.symmetries import candidates


def equivalent_sites(hamiltonian: Hamiltonian, lattice: Lattice | None = None) -> Tensor:
    """(N,) int64: sites of one label are carried into each other by symmetries of the Hamiltonian.

    lattice: where the sites are, by default the Hamiltonian's own. Labels are 0, 1, ... in the
    order of their first sites; all differ where there is no lattice.
    The symmetries are those of U H U (`Hamiltonian.rotated`): <n_i>, <sz_i> and |<sx_i>| are equal
    at sites of one label, <sx_i> up to `x_signs`. In a degenerate ground level they need not be.
    """
    labels = torch.arange(hamiltonian.n_sites)
    lattice = hamiltonian.lattice if lattice is None else lattice
    if lattice is None:
        return labels
    has = symmetry_test(hamiltonian)
    for permutation in candidates(lattice):
        if not labels.any():  # one orbit: nothing left to join
            break
        if not torch.equal(labels[permutation], labels) and has(permutation, False):
            labels = _joined(labels, permutation)
    return labels


def _joined(labels: Tensor, permutation: Tensor) -> Tensor:
    """Labels (N,) of the orbits after i and permutation[i] became one."""
    n_sites = len(labels)
    edges = (labels.numpy(), labels[permutation].numpy())
    graph = coo_array((np.ones(n_sites), edges), shape=(n_sites, n_sites))
    _, component = connected_components(graph, directed=False)  # (N,) of each label
    joined = component[labels.numpy()]
    _, first, inverse = np.unique(joined, return_index=True, return_inverse=True)
    return torch.from_numpy(np.argsort(np.argsort(first))[inverse])
