"""Autoregressive neural quantum states: exactly sampled, optimised by variational Monte Carlo.

    import nqs

    hamiltonian = nqs.Rydberg(nqs.Square(4, 4), V=7, delta=1)
    result = nqs.ground_state(hamiltonian, model="ptf", steps=200, seed=0)
    print(result)                       # energy, error, exact energy, verdict
    result.save("runs/first")           # a run's folder: nqs show, evaluate, plot, train run.resume
    state = nqs.load("runs/first")      # log_psi, sample, expect, evaluate

Names are loaded when they are used: `import nqs` takes no time.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hamiltonians import J1J2 as J1J2
    from hamiltonians import XXZ as XXZ
    from hamiltonians import Chain as Chain
    from hamiltonians import Hamiltonian as Hamiltonian
    from hamiltonians import Heisenberg as Heisenberg
    from hamiltonians import Honeycomb as Honeycomb
    from hamiltonians import Kagome as Kagome
    from hamiltonians import PauliSum as PauliSum
    from hamiltonians import Positions as Positions
    from hamiltonians import Rydberg as Rydberg
    from hamiltonians import Square as Square
    from hamiltonians import TransverseFieldIsing as TransverseFieldIsing
    from hamiltonians import Triangular as Triangular
    from nqs.core.sequence import SequenceModel as SequenceModel
    from nqs.errors import InputError as InputError
    from nqs.families.family import Family as Family
    from nqs.families.family import family as family
    from nqs.families.family import load_family as load_family
    from nqs.ground_states.api import Result as Result
    from nqs.ground_states.api import exact as exact
    from nqs.ground_states.api import ground_state as ground_state
    from nqs.ground_states.api import load as load
    from nqs.vmc.observables import Observable as Observable

_HOMES = {
    "hamiltonians": (
        *("Hamiltonian", "Rydberg", "TransverseFieldIsing", "XXZ", "Heisenberg", "J1J2"),
        "PauliSum",
        *("Chain", "Square", "Triangular", "Honeycomb", "Kagome", "Positions"),
    ),
    "nqs.ground_states.api": ("ground_state", "load", "exact", "Result"),
    "nqs.families.family": ("family", "load_family", "Family"),
    "nqs.core.sequence": ("SequenceModel",),
    "nqs.vmc.observables": ("Observable",),
    "nqs.errors": ("InputError",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return version("nqs")
        except PackageNotFoundError:  # a checkout that is not installed
            return "unknown"
    if name not in _HOME:
        raise AttributeError(f"module 'nqs' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
