"""The one interface of every wavefunction: ln psi, exact samples, ln psi after flips."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hamiltonians.lattices.symmetry_group import SymmetryGroup, distinct


@dataclass(frozen=True, repr=False)
class Samples:
    """Distinct or independent configurations drawn from |psi|^2.

    Attributes:
        configs: (U, N) bool, sites in the lattice's order.
        counts: (U,) int64, how often each row was drawn; they sum to the number of samples.
            Independent sampling returns every draw as its own row (all counts 1; rows may repeat),
            unique sampling each distinct configuration once.
        log_psi: (U,) ln psi of each row, without gradient.
        importance: (U,) float64, |psi|^2 over the density the draws came from, if that is another;
            None means 1.
    """

    configs: Tensor
    counts: Tensor
    log_psi: Tensor
    importance: Tensor | None = None

    def __repr__(self) -> str:
        n_rows, n_sites = self.configs.shape
        weighted = "" if self.importance is None else ", with importance weights"
        return f"Samples({self.n_samples} draws in {n_rows} rows of {n_sites} sites{weighted})"

    @property
    def n_samples(self) -> int:
        """Number of draws, sum of the counts."""
        return int(self.counts.sum())

    @property
    def weights(self) -> Tensor:
        """(U,) float64 summing to 1: estimators are sums of weights times values.

        counts / n_samples, or counts times importance, normalised.
        """
        weights = self.counts.to(torch.float64)
        if self.importance is not None:
            weights = weights * self.importance
        return weights / weights.sum()


def merged(configs: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Each distinct row of configs (B, N) once, (U, N), with the sum of its counts (U,)."""
    configs, place = distinct(configs)
    return configs, counts.new_zeros(len(configs)).index_add_(0, place, counts)


class Wavefunction(nn.Module, ABC):
    """psi(s) over configurations of n_sites two-level systems, normalised: sum_s |psi|^2 = 1."""

    n_sites: int
    n_up: int | None = None
    """Number of 1 bits of every configuration with psi != 0 by construction; None: any number."""

    def __repr__(self) -> str:
        n_parameters = sum(parameter.numel() for parameter in self.parameters())
        sector = "" if self.n_up is None else f", {self.n_up} up"
        return (
            f"{type(self).__name__}({self._kind()}{self.n_sites} sites{sector}, "
            f"{n_parameters} parameters)"
        )

    def _kind(self) -> str:
        """What `repr` says first, with a comma behind it."""
        return ""

    @abstractmethod
    def log_psi(self, configs: Tensor) -> Tensor:
        """ln psi(s) for configs (B, N) bool -> (B,), differentiable."""

    @abstractmethod
    def sample(
        self, n_samples: int, generator: torch.Generator, *, unique: bool = False
    ) -> Samples:
        """n_samples exact, independent draws from |psi|^2 (no Markov chain).

        unique=True walks the tree of prefixes and splits each prefix's count multinomially among
        its children: statistically identical, each distinct configuration listed once with its
        count, at the cost of the distinct ones. Raises ValueError for n_samples < 1.
        """

    @abstractmethod
    def log_psi_flipped(
        self,
        configs: Tensor,
        flips: Tensor,
        needed: Tensor | None = None,
        *,
        max_rows: int = 32_768,
    ) -> Tensor:
        """ln psi(s xor flips_g) for configs (B, N) bool, flips (G, N) bool -> (B, G), no gradient.

        Prefix sharing: only the conditionals after the first flipped patch are recomputed.
        Where needed (B, G) bool is False nothing is computed and the entry is -inf.
        No launch has more than max_rows rows; on out-of-memory the chunk is halved.
        """

    def has_compiled_flips(self) -> bool:
        """Whether compiled code computes `log_psi_flipped` in the parameters' precision."""
        return False

    def flip_pass(self) -> str:
        """What computes `log_psi_flipped`, for the record: torch, or compiled code and by what."""
        return "torch"

    @property
    def symmetry(self) -> SymmetryGroup:
        """Symmetries of |psi|^2 by construction; here none but the identity.

        `optimise` asks for a Hamiltonian that has them.
        """
        return SymmetryGroup.identity(self.n_sites)

    def representatives(self, configs: Tensor) -> Tensor:
        """One configuration for all that the symmetries connect to it; (B, N) -> (B, N).

        ln psi, local energies of a Hamiltonian with these symmetries and derivatives by parameters
        are the same for all of them. Without symmetries: configs itself.
        """
        return configs
