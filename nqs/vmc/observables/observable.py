"""The one interface of everything that is measured besides the energy.

An observable is one class in one file, registered by its class statement,

    class Mine(Diagonal, kind="mine"):

which names its quantities: that is all it takes to be in run.h5, in summaries and scans, in
`nqs evaluate` and in the picture of a run. Averages of one value per configuration derive from
`nqs.vmc.observables.diagonal.Diagonal` and have nothing but these values to say.

sigma^z = 1 - 2 n (bit 1 is the excited atom, or spin down).

Letters: U rows of a batch, N sites, G flips, M configurations of an enumerated basis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Lattice
from nqs.vmc.columns import Column
from nqs.vmc.ranks import ALONE, Ranks
from nqs.vmc.statistics import Estimate
from nqs.wavefunctions.wavefunction import Samples, Wavefunction

Connections = tuple[Tensor, Tensor]
"""<s|H|s xor f_g> and ln psi(s xor f_g) / psi(s) of each draw, both (U, G)."""


class Picture(NamedTuple):
    """How a quantity is drawn.

    Attributes:
        over: what its entries belong to: sites (N,); pairs of sites (N, N), drawn from the central
            site; bonds (B,), whose ends (B, 2) are its coordinates; or momenta (...), whose wave
            vectors (..., d) are.
        label: of its axis, in TeX between dollars; of momenta the symbol alone, without (k).
    """

    over: Literal["sites", "pairs", "bonds", "momenta"]
    label: str


class Quantity(NamedTuple):
    """A value that an observable has, with what files say of it and its picture, if it has one."""

    name: str
    unit: str
    description: str
    picture: Picture | None = None

    @property
    def column(self) -> Column:
        """Name, unit and description."""
        return Column(self.name, self.unit, self.description)


@dataclass(frozen=True)
class Request:
    """What is to be measured, in which state.

    Attributes:
        hamiltonian: that of the state; its device is that of the draws.
        lattice: where the sites are; None: unknown.
        wavefunction: the state; None where only `expectation` is asked for.
        thorough: whether to measure what needs more evaluations of psi than the energy; None:
            only what comes with the energy, False: not even that.
        subsystems: (S, N) bool, those whose entropies are asked for; None: none.
        generator: source of an observable's own random numbers.
        max_rows: configurations evaluated at a time.
        ranks: who else adds draws, at least once each.
        also: classes of the run's own, measured besides those of the program.
    """

    hamiltonian: Hamiltonian
    lattice: Lattice | None
    wavefunction: Wavefunction | None = None
    thorough: bool | None = None
    subsystems: Tensor | None = None
    generator: torch.Generator = field(default_factory=torch.Generator)
    max_rows: int = 32_768
    ranks: Ranks = ALONE
    also: tuple[type[Observable], ...] = ()


class Observable(ABC):
    """One or more quantities, accumulated over a stream of draws of |psi|^2.

    Attributes:
        kinds: the registered classes by name.
        quantities: all that it may measure; which of them there are may depend on the lattice.
    """

    kinds: ClassVar[dict[str, type[Observable]]] = {}
    quantities: ClassVar[tuple[Quantity, ...]]

    def __init_subclass__(cls, *, kind: str | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if kind is not None:
            Observable.kinds[kind] = cls

    def __init__(self, request: Request) -> None:
        self.request = request

    @classmethod
    def applies(cls, request: Request) -> bool:
        """Whether it is to be measured; always, unless a class says otherwise."""
        return True

    @abstractmethod
    def add(self, samples: Samples, connections: Connections) -> None:
        """Draws (U, N) with counts, and what their local energies are made of."""

    @abstractmethod
    def join(self, ranks: Ranks) -> None:
        """Takes in the draws of all ranks; each has added some of its own, none will add more."""

    @abstractmethod
    def estimates(self) -> dict[str, Estimate]:
        """Value and standard error of each quantity."""

    @abstractmethod
    def expectation(self, configs: Tensor, amplitudes: Tensor) -> dict[str, Tensor]:
        """The exact value of each quantity in the state with amplitudes (M,), norm 1, on distinct
        configs (M, N); it is 0 on all others."""

    def coordinates(self) -> dict[str, Tensor]:
        """What the entries of a quantity belong to, where that is not one or two sites."""
        return {}

    @classmethod
    def entries(
        cls, name: str, value: Tensor, error: Tensor, coordinates: Tensor | None
    ) -> list[tuple[str, float, float]]:
        """What `nqs evaluate` prints of a quantity: (text, value, error), of numbers alone."""
        return [] if value.ndim else [(name.replace("_", " "), float(value), float(error))]


def applicable(request: Request) -> list[Observable]:
    """All observables, registered or the run's own, that apply."""
    kinds = (*Observable.kinds.values(), *request.also)
    return [kind(request) for kind in kinds if kind.applies(request)]


def owner(
    name: str, also: tuple[type[Observable], ...] = ()
) -> tuple[type[Observable], Quantity] | None:
    """The class, registered or one of `also`, that measures a quantity, and that; None for an
    unknown name."""
    for kind in (*Observable.kinds.values(), *also):
        for quantity in kind.quantities:
            if quantity.name == name:
                return kind, quantity
    return None


def expectations(request: Request, configs: Tensor, amplitudes: Tensor) -> dict[str, Tensor]:
    """Exact values of all quantities that apply, for instance of exact diagonalisation's state.

    amplitudes (M,), norm 1, on configs (M, N); where sites are rotated, those of U H U.
    """
    values: dict[str, Tensor] = {}
    for observable in applicable(request):
        values |= observable.expectation(configs, amplitudes)
    return values
