"""The sections of a run's configuration that choose a class, each with the kinds there are.

A kind is registered by its class line, where it is imported; see `nqs.conf.kinds`.
"""

from __future__ import annotations

from typing import Final

from hamiltonians import Hamiltonian
from hamiltonians.lattices.lattice import Lattice
from nqs.conf.kinds import Group
from nqs.core import SequenceModel
from nqs.vmc.energies import Energies
from nqs.vmc.observables import Observable
from nqs.vmc.optimizers import Optimizer
from nqs.wavefunctions.ansatz import SUPPLIED, Ansatz

LATTICE: Final = Group(
    "lattice", Lattice, frozenset(), "Sites in space; lengths in lattice constants."
)
HAMILTONIAN: Final = Group(
    "hamiltonian",
    Hamiltonian,
    frozenset({"lattice", "n_sites"}),
    "Couplings, all in one unit of energy (usually Omega = 1 or J = 1).",
)
MODEL: Final = Group(
    "model", SequenceModel, SUPPLIED, "The network that psi is made of, and how.", common=Ansatz
)
OPTIMIZER: Final = Group(
    "optimizer", Optimizer, frozenset(), "Update of the parameters at each step."
)
ENERGIES: Final = Group(
    "energies", Energies, frozenset(), "Where the local energies of a step come from."
)
OBSERVABLE: Final = Group(
    "train.observables", Observable, frozenset({"request"}), "What is measured besides the energy."
)
GROUPS: Final = {group.name: group for group in (LATTICE, HAMILTONIAN, MODEL, OPTIMIZER, ENERGIES)}
