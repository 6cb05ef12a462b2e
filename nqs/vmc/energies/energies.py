"""The one interface of everything that turns a state into samples with local energies.

The loop draws, the optimizer sees weighted samples and their E_loc, the record gets the columns:
none of them knows which kind it is. A kind is registered under the name of its class statement,

    class Mine(Energies, kind="mine"):

and its keys are the keyword-only parameters of its constructor, each with a line in Args.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from hamiltonians.hamiltonian import Hamiltonian
from nqs.errors import require
from nqs.vmc.columns import Column
from nqs.vmc.energies.estimates import Estimates
from nqs.vmc.ranks import ALONE, Ranks
from nqs.wavefunctions.wavefunction import Wavefunction


class Energies(ABC):
    """Draws of a state and their local energies.

    Attributes:
        kinds: the registered classes by name.
        columns: what `record` says of a step beside the energy, nothing by default.
        max_rows: configurations evaluated at a time.
    """

    kinds: ClassVar[dict[str, type[Energies]]] = {}
    columns: tuple[Column, ...] = ()
    max_rows: int = 32_768

    def __init_subclass__(cls, *, kind: str | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if kind is not None:
            Energies.kinds[kind] = cls

    @abstractmethod
    def draw(
        self,
        wavefunction: Wavefunction,
        hamiltonian: Hamiltonian,
        n_samples: int,
        generator: torch.Generator,
        *,
        ranks: Ranks = ALONE,
    ) -> Estimates:
        """n_samples draws, listed with counts and importance, and their local energies.

        Weighted by counts and importance, averages of E_loc and of anything else are those of
        |psi|^2. Each rank works on its share, with a generator of its own; all return all of them.
        Raises FloatingPointError where no draw has a weight.
        """

    def check(self, wavefunction: Wavefunction) -> None:
        """Raises ValueError, "key=value: ...", for a wavefunction that lacks what this needs."""
        return

    def before_step(
        self,
        step: int,
        wavefunction: Wavefunction,
        hamiltonian: Hamiltonian,
        n_samples: int,
        generator: torch.Generator,
        *,
        ranks: Ranks = ALONE,
    ) -> None:
        """What is measured on the way, before a step (from 1) of n_samples draws; nothing here."""
        return

    def record(self, estimates: Estimates) -> dict[str, float]:
        """The values of `columns` for a step with these estimates."""
        return {}

    def restore(self, last: Mapping[str, float]) -> None:
        """Goes on after a step with this record, which may be of another kind."""
        return

    def __repr__(self) -> str:
        keys = inspect.signature(type(self)).parameters
        return f"{type(self).__name__}({', '.join(f'{k}={getattr(self, k)!r}' for k in keys)})"


def require_range(
    key: str, value: float, low: float, high: float, *, or_zero: bool = False
) -> None:
    """Raises ValueError unless low <= value <= high (or value is 0, if that is allowed)."""
    inside = low <= value <= high or (or_zero and value == 0)
    rule = f"must be a number >= {low:g} and <= {high:g}{', or 0' if or_zero else ''}"
    require(inside, key, value, rule)
