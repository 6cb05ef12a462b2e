"""Second Renyi entropy S_2(A) = -ln Tr rho_A^2 of a subsystem A, by the swap estimator.

For two independent draws s = (a, b), s' = (a', b') of |psi|^2, a the bits in A,

    Tr rho_A^2 = < psi(a' b) psi(a b') / (psi(a b) psi(a' b')) >

(Hastings et al., Phys. Rev. Lett. 104, 157201 (2010)), for complex psi as well: the mean is real.
Natural logarithm. Error bar by the delta method, error of the mean over the mean; S_2 from few
pairs is too large by half the square of it. The ratio is small for most pairs and large for few: at
large S_2 (well above 5) the error bar itself needs more than 1e5 draws. A mean that is not
positive, which only complex psi can give, has no logarithm: NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from hamiltonians.lattices.lattice import Lattice
from nqs.vmc.observables.observable import Connections, Observable, Quantity, Request
from nqs.vmc.ranks import Ranks
from nqs.vmc.statistics import Estimate, RunningMoments
from nqs.wavefunctions.wavefunction import Samples


@final
class RenyiEntropy(Observable, kind="renyi2"):
    """S_2 of one or more subsystems from the pairs of a stream of draws, each draw in one pair."""

    quantities = (
        Quantity("renyi2", "nats", "second Renyi entropy -ln Tr rho_A^2 of the subsystems A"),
    )

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        assert request.subsystems is not None
        self.subsystems = request.subsystems
        self.moments = RunningMoments()

    @classmethod
    def applies(cls, request: Request) -> bool:
        """Where subsystems are given."""
        return request.subsystems is not None

    def add(self, samples: Samples, connections: Connections) -> None:
        """See Observable.add; of an odd number of draws one is left out."""
        first, second, counts = random_pairs(samples.counts, self.request.generator)
        if len(counts):
            ratios = [
                self._ratios(samples, first, second, inside.to(samples.configs.device))
                for inside in self.subsystems
            ]
            self.moments.add(torch.stack(ratios, dim=1), counts)

    def _ratios(self, samples: Samples, first: Tensor, second: Tensor, inside: Tensor) -> Tensor:
        """Real part of the swap ratio of pairs of rows (R,), for A = inside (N,) -> (R,)."""
        wavefunction = self.request.wavefunction
        assert wavefunction is not None
        one, other = samples.configs[first], samples.configs[second]
        swapped = torch.cat([torch.where(inside, other, one), torch.where(inside, one, other)])
        distinct, place = torch.unique(swapped, dim=0, return_inverse=True)
        parts = [wavefunction.log_psi(part) for part in distinct.split(self.request.max_rows)]
        log_psi = torch.cat(parts)[place]
        log_ratio = log_psi.view(2, -1) - samples.log_psi[torch.stack([first, second])]
        modulus = log_ratio.real.sum(0).exp()
        if not log_ratio.is_complex():
            return modulus
        return modulus * log_ratio.imag.sum(0).cos()  # a complex sum with -inf would be NaN

    def join(self, ranks: Ranks) -> None:
        self.moments.join(ranks)

    def estimates(self) -> dict[str, Estimate]:
        """renyi2 (S,)."""
        purity = self.moments.estimate()
        return {"renyi2": Estimate(-purity.value.log(), purity.error / purity.value)}

    def expectation(self, configs: Tensor, amplitudes: Tensor) -> dict[str, Tensor]:
        """-ln sum of the fourth powers of the Schmidt values of psi (states of A, of the rest)."""
        entropies = []
        for inside in self.subsystems:
            rows, columns = (
                torch.unique(configs[:, part], dim=0, return_inverse=True)[1]
                for part in (inside, ~inside)
            )
            matrix = amplitudes.new_zeros(int(rows.max()) + 1, int(columns.max()) + 1)
            matrix[rows, columns] = amplitudes
            entropies.append(-torch.linalg.svdvals(matrix).to(torch.float64).pow(4).sum().log())
        return {"renyi2": torch.stack(entropies)}

    def coordinates(self) -> dict[str, Tensor]:
        """The subsystems."""
        return {"renyi2": self.subsystems}

    @classmethod
    def entries(
        cls, name: str, value: Tensor, error: Tensor, coordinates: Tensor | None
    ) -> list[tuple[str, float, float]]:
        """One for each subsystem."""
        assert coordinates is not None
        texts = [f"Renyi entropy S2, {int(inside.sum())} sites" for inside in coordinates]
        return list(zip(texts, value.tolist(), error.tolist(), strict=True))


def random_pairs(counts: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (R,) and (R,) of distinct pairs with their counts (R,), all draws paired at random.

    counts (U,): how often each row was drawn. In random order the draws are independent, so the
    first half of them paired with the second half gives independent pairs.
    """
    rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    order = torch.randperm(len(rows), generator=generator, device=rows.device)
    half = len(rows) // 2
    first, second = rows[order[: 2 * half]].view(2, half)
    n_rows = len(counts)
    pairs, n_pairs = torch.unique(first * n_rows + second, return_counts=True)
    return pairs // n_rows, pairs % n_rows, n_pairs


def subsystem(sites: Sequence[int], n_sites: int) -> Tensor:
    """(N,) bool, True on the given sites. ValueError unless they are some of the sites, not all."""
    if not 0 < len(sites) < n_sites:
        raise ValueError(f"has {len(sites)} sites; 1 to {n_sites - 1} of {n_sites} are allowed")
    for site in sites:
        if not 0 <= site < n_sites:
            raise ValueError(f"has site {site}; sites are 0 to {n_sites - 1}")
    if len(set(sites)) < len(sites):
        raise ValueError("names a site twice")
    inside = torch.zeros(n_sites, dtype=torch.bool)
    inside[list(sites)] = True
    return inside


def half(lattice: Lattice) -> Tensor:
    """(N,) bool: half of the lattice, the cells x < Lx // 2, or the N // 2 sites of smallest x.

    The latter at arbitrary positions; where there is one x, the first half of the sites.
    """
    n_sites = lattice.n_sites
    inside = torch.zeros(n_sites, dtype=torch.bool)
    if lattice.shape is None:
        order = lattice.positions[:, 0].argsort(stable=True)
        inside[order[: n_sites // 2]] = True
        return inside
    n_columns = lattice.shape[0]
    n_inside = n_sites // n_columns * (n_columns // 2) if n_columns > 1 else n_sites // 2
    inside[:n_inside] = True
    return inside
