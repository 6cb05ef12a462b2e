"""From samples and local energies to a parameter update.

The one interface every optimizer implements; the loop adds what it returns. A kind is registered
under the name of its class statement,

    class Mine(Optimizer, kind="mine"):

and its keys are the parameters of its constructor, each with a line in Args. What else it depends
on, the Hamiltonian and the length of the run, comes with `prepare`. State is a flat dict of tensors
and numbers, so that a checkpoint restores it exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from nqs.errors import shown
from nqs.vmc.columns import Column
from nqs.vmc.ranks import ALONE, Ranks
from nqs.wavefunctions.wavefunction import Samples, Wavefunction

ScheduleKind = Literal["constant", "cosine", "linear", "exponential"]


class Optimizer(ABC):
    """Maps (samples with weights, local energies) to an update of the flat parameter vector.

    Attributes:
        kinds: the registered classes by name.
        columns: what `diagnostics` holds.
        diagnostics: figures of the last update.
    """

    kinds: ClassVar[dict[str, type[Optimizer]]] = {}
    columns: ClassVar[tuple[Column, ...]] = (
        Column("gradient_norm", "couplings", "norm of the energy's gradient"),
        Column("learning_rate", "1", "learning rate of the step"),
    )
    diagnostics: dict[str, float]

    def __init_subclass__(cls, *, kind: str | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if kind is not None:
            Optimizer.kinds[kind] = cls

    def prepare(
        self,
        hamiltonian: Hamiltonian,
        *,
        n_steps: int,
        is_complex: bool = False,
        warm_start: bool = False,
    ) -> Self:
        """Settles, before the first update, what the keys leave to the run; by default nothing.

        n_steps: of the whole run, which schedules span; is_complex: whether psi is; warm_start:
        whether the state begins near the ground state. Returns itself. Raises ValueError for keys
        that do not go with these.
        """
        return self

    def check(self, wavefunction: Wavefunction) -> None:
        """Raises ValueError for a wavefunction whose parameters it cannot update."""
        return

    @abstractmethod
    def update(
        self,
        wavefunction: Wavefunction,
        samples: Samples,
        local_energies: Tensor,
        ranks: Ranks = ALONE,
    ) -> Tensor:
        """The increment of the parameters, (P,) in the order of wavefunction.parameters().

        Samples and local energies are those of all ranks, on each of them.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything the next update depends on: tensors, numbers and None."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned."""


def check_range(key: str, value: float, low: float, high: float, *, or_zero: bool = False) -> None:
    """Raises ValueError unless low <= value <= high (or value is 0, if that is allowed)."""
    if not (low <= value <= high or (or_zero and value == 0)):
        also = ", or 0" if or_zero else ""
        raise ValueError(f"{key}={shown(value)}: must be a number >= {low:g} and <= {high:g}{also}")
