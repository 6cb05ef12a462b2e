"""H psi - E psi, with the configurations that the state itself never visits.

    Var(H) = sum_s |<s|H - E|psi>|^2

runs over all configurations. Draws of p = |psi|^2 give it as <|E_loc - E|^2>, and miss whatever
lies where psi is (nearly) zero: a state that has collapsed onto a few configurations shows no
variance at all, though H leads out of it. What H leads to is one flip away, so rows are taken
besides from flips of the draws,

    p~(s) = (1/G) sum_g [p(s xor f_g) if g acts on s, else p(s)],      q = p + r p~,

and every row of either kind counts with 1 / q (the balance heuristic of Veach & Guibas, 1995).
That estimator has no tail: |<s|H|psi>|^2 <= sum_g |H_g|^2 sum_g p(s xor f_g), so a row's share is
at most (G / r) sum_g |H_g|^2, whatever psi is.

The same rows give the energy itself, E = sum_s p(s) E_loc(s): with p / q instead of p, rare
configurations that cost much are met by the flips, and seldom weigh much.

The same residual says how far the energy may lie above the ground state's. To second order in what
psi lacks (Epstein & Nesbet; Rayleigh & Schroedinger), E - E_0 is

    excess = sum_s |<s|H - E|psi>|^2 / (w + D(s)),    D(s) = max(0, H_ss - H_s's')

with s' the neighbour of s with the largest amplitude, if that is larger than that of s: to put a
little weight on s costs what the diagonal says, and at least w = max_g |H_g|, half the width of a
flip: the gap, which it stands for, is not known, and often lies between. Unlike Var(H) / w it does
not count what a strong repulsion rightly keeps empty.

Everything is scaled by the largest amplitude of a row: psi(s) = 0 and ratios beyond the range of
floating point are ordinary values here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from nqs.vmc.optimizers.time_step import largest_elements
from nqs.vmc.random_flips import apply_flips, movers
from nqs.vmc.ranks import ALONE, Ranks
from nqs.wavefunctions.wavefunction import Samples, Wavefunction

LEAST_ROWS = 2_048
"""Rows beyond the draws that are always evaluated, where there are so many."""
SHARE_OF_ROWS = 0.25
"""And more than these as a share of the draws' own rows."""
FAR_BELOW = 1e3
"""A row with p~ / p above counts as one that the state does not visit."""


@dataclass(frozen=True)
class Rows:
    """Configurations with all that H and psi say about them.

    Attributes:
        configs: (U, N) bool.
        elements: (U, G) <s|H|s xor f_g>.
        log_flipped: (U, G) ln psi(s xor f_g), -inf where that is 0 or the element is.
        log_psi: (U,) ln psi(s), -inf where that is 0.
    """

    configs: Tensor
    elements: Tensor
    log_flipped: Tensor
    log_psi: Tensor


def evaluated_rows(
    wavefunction: Wavefunction, hamiltonian: Hamiltonian, configs: Tensor, max_rows: int
) -> Rows:
    """The Rows of configs (U, N)."""
    elements = hamiltonian.off_diagonal(configs)
    acting = None if elements.stride(0) == 0 else elements != 0
    log_flipped = wavefunction.log_psi_flipped(
        configs, hamiltonian.flips, acting, max_rows=max_rows
    )
    return Rows(configs, elements, log_flipped, wavefunction.log_psi(configs))


@dataclass(frozen=True)
class Residuals:
    """Of each row, (U,) float64.

    Attributes:
        real, imaginary: squared parts of <s|H - E|psi> / sqrt(q(s)), relative to the phase of psi.
        share: p(s) Re(E_loc(s) - E) / q(s).
        excess: the row's share of the second-order estimate, times 1 / q(s).
        outside: whether psi is far below its neighbours there.
    """

    real: Tensor
    imaginary: Tensor
    share: Tensor
    excess: Tensor
    outside: Tensor


def residuals(
    hamiltonian: Hamiltonian,
    rows: Rows,
    energy: float,
    scale: float,
    plain: float = 1.0,
    moved: float = 0.0,
) -> Residuals:
    """The residuals of rows drawn from q = plain p + moved p~; scale: w of this file."""
    acts = rows.elements != 0  # (U, G)
    logs = torch.cat(
        [rows.log_psi[:, None], torch.where(acts, rows.log_flipped, -torch.inf)], dim=1
    )  # (U, 1 + G)
    largest, place = logs.real.max(1)
    if logs.is_complex():  # phases relative to psi(s)
        phase = torch.where(rows.log_psi.real > -torch.inf, rows.log_psi.imag, 0.0)
        logs = logs - torch.complex(torch.zeros_like(phase), phase)[:, None]
    amplitudes = (logs - largest[:, None]).exp()  # (U, 1 + G), the largest of modulus 1
    psi, neighbours = amplitudes[:, 0], amplitudes[:, 1:]
    diagonal = hamiltonian.diagonal(rows.configs)  # (U,)
    terms = torch.where(acts, rows.elements * neighbours, 0.0)  # (U, G)
    vector = (diagonal - energy) * psi + terms.sum(1)  # <s|H - E|psi>
    p = psi.abs().square()
    around = p
    if acts.shape[1]:
        around = torch.where(acts, neighbours.abs().square(), p[:, None]).mean(1)
    density = plain * p + moved * around
    share = vector.real * psi.real / density
    vector = vector / density.sqrt()
    raised = diagonal - _diagonal_at(hamiltonian, rows.configs, place, diagonal)
    squares = torch.view_as_real(vector.to(torch.complex128)).square()  # (U, 2)
    excess = squares.sum(1) / (scale + raised.clamp(min=0))
    return Residuals(squares[:, 0], squares[:, 1], share, excess, around > FAR_BELOW * p)


def _diagonal_at(
    hamiltonian: Hamiltonian, configs: Tensor, place: Tensor, diagonal: Tensor
) -> Tensor:
    """(U,) the diagonal of configs (U, N) after flip place - 1, as they are at place 0."""
    if not len(hamiltonian.flips):
        return diagonal
    flips = hamiltonian.flips[(place - 1).clamp(min=0)] & (place > 0)[:, None]  # (U, N)
    return hamiltonian.diagonal(configs ^ flips)


def scale_of_flips(hamiltonian: Hamiltonian) -> float:
    """w = max_g |<s|H|s xor f_g>|, 0 where nothing flips."""
    elements = largest_elements(hamiltonian)
    return float(elements.max()) if len(elements) else 0.0


@dataclass(frozen=True)
class Proposals:
    """Flips of draws; the number of those that lead to s has the mean n r p~(s).

    Attributes:
        rows: (R,) the row of the samples that each starts from.
        configs: (R, N) where it leads.
        weights: (R,) how often.
        ratio: r.
        all_flips: whether these are all flips of all rows, in this order, with counts / G each;
            else each draw has taken one flip with chance r.
    """

    rows: Tensor
    configs: Tensor
    weights: Tensor
    ratio: float
    all_flips: bool


def proposals(
    samples: Samples, elements: Tensor, flips: Tensor, most: int, generator: torch.Generator
) -> Proposals:
    """All flips of all rows where these are at most `most`, else about as many random ones.

    elements (U, G): those of the samples, G > 0.
    """
    n_rows, n_flips = elements.shape
    counts = samples.counts.to(torch.float64)
    all_flips = n_rows * n_flips <= most
    if all_flips:
        ratio = 1.0
        rows = torch.arange(n_rows, device=counts.device).repeat_interleave(n_flips)
        choice = torch.arange(n_flips, device=counts.device).repeat(n_rows)
        weights = (counts / n_flips)[rows]
    else:
        ratio = min(1.0, most / samples.n_samples)
        rows = movers(samples.counts, ratio, generator)[1]
        choice = torch.randint(n_flips, rows.shape, generator=generator, device=rows.device)
        weights = counts.new_ones(len(rows))
    acts = elements[rows, choice] != 0  # (R,)
    configs = apply_flips(samples.configs[rows], flips[choice], acts)
    return Proposals(rows, configs, weights, ratio, all_flips)


@final
class RunningResidual:
    """Energy and |H psi - E psi|^2 from a stream of draws and of flips of them, evaluated here.

    Its random numbers are its own, seeded by `seed`. The energy E is only known at the end: sums
    are taken about the mean of the first draws, E' (the same on all ranks), and

        sum_s |<s|H - E|psi>|^2 = sum_s |<s|H - E'|psi>|^2 - (E - E')^2

    A draw s and what its flips add are one independent value, h(s) + r mean_g h(s xor f_g) or, with
    chance r, h(s) + h(s xor f_g), h = p (E_loc - E') / q: their mean is E - E', their scatter its
    error.
    """

    def __init__(
        self,
        wavefunction: Wavefunction,
        hamiltonian: Hamiltonian,
        seed: int,
        max_rows: int = 32_768,
        ranks: Ranks = ALONE,
    ) -> None:
        self.wavefunction, self.hamiltonian = wavefunction, hamiltonian
        self.max_rows, self.ranks = max_rows, ranks
        device = hamiltonian.flips.device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.scale = scale_of_flips(hamiltonian)
        self.n = 0
        self.energy: float | None = None
        self.sums = torch.zeros(6, dtype=torch.float64, device=device)

    def add(self, samples: Samples, elements: Tensor, log_ratios: Tensor, e_loc: Tensor) -> None:
        """Draws of p with what `connected` says of them and their local energies."""
        if self.energy is None:
            mean = samples.weights @ e_loc.real
            self.energy = float(self.ranks.broadcast(mean[None]))
        counts = samples.counts.to(torch.float64)
        log_flipped = log_ratios + samples.log_psi[:, None]
        own = Rows(samples.configs, elements, log_flipped, samples.log_psi)
        if not len(self.hamiltonian.flips):
            found = self._columns(own, 0.0)
            shares = found[:, 4]
            values = torch.stack([counts @ shares, counts @ shares.square()])
            self.sums += torch.cat([counts @ found[:, :4], values])
        else:
            most = max(LEAST_ROWS, int(SHARE_OF_ROWS * len(counts)))
            proposed = proposals(samples, elements, self.hamiltonian.flips, most, self.generator)
            found, places = self._evaluated(own, proposed)
            weights = torch.cat([counts, counts.new_zeros(len(found) - len(counts))])
            weights = weights.index_add(0, places, proposed.weights)
            values = _values(counts, found[:, 4], proposed, places)
            self.sums += torch.cat([weights @ found[:, :4], values])
        self.n += samples.n_samples

    def _evaluated(self, own: Rows, proposed: Proposals) -> tuple[Tensor, Tensor]:
        """Columns of the own rows and behind them of the new ones that flips lead to, each once,
        and the place of each flip's among them (R,)."""
        configs, place = torch.unique(proposed.configs, dim=0, return_inverse=True)
        row = places_of(configs, own.configs)  # -1 for new ones
        new = (row < 0).nonzero().squeeze(1)
        row[new] = len(own.configs) + torch.arange(len(new), device=row.device)
        found = [self._columns(own, proposed.ratio)]
        for part in configs[new].split(self.max_rows) if len(new) else ():
            rows = evaluated_rows(self.wavefunction, self.hamiltonian, part, self.max_rows)
            found.append(self._columns(rows, proposed.ratio))
        return torch.cat(found), row[place]

    def _columns(self, rows: Rows, ratio: float) -> Tensor:
        """(U, 5): real, imaginary, outside, excess, share."""
        assert self.energy is not None
        found = residuals(self.hamiltonian, rows, self.energy, self.scale, 1.0, ratio)
        outside = torch.where(found.outside, found.real + found.imaginary, 0.0)
        columns = (found.real, found.imaginary, outside, found.excess, found.share)
        return torch.stack(columns, dim=1)

    def join(self, ranks: Ranks) -> None:
        """Takes in the sums of all ranks; each has added some draws, none will add more."""
        self.sums = ranks.sum(self.sums)
        self.n = int(ranks.sum(torch.tensor([self.n], device=self.sums.device)))

    def spread(self) -> Spread:
        """Energy and the parts of Var(H); at least two draws."""
        assert self.energy is not None
        real, imaginary, outside, excess, share, square = (self.sums / self.n).tolist()
        real = max(0.0, real - share**2)
        if not self.scale:  # nothing flips: the energies that the state holds
            excess = real**0.5
        error = (max(0.0, square - share**2) / (self.n - 1)) ** 0.5
        outside = min(outside, real + imaginary)
        return Spread(self.energy + share, error, real + imaginary, outside, excess)


def _values(counts: Tensor, shares: Tensor, proposed: Proposals, places: Tensor) -> Tensor:
    """Sum and sum of squares over the draws of their values; shares of all rows, the first those of
    the draws (U,)."""
    own, led_to = shares[: len(counts)], shares[places]
    if proposed.all_flips:
        values = own + led_to.view(len(own), -1).mean(1)
        return torch.stack([counts @ values, counts @ values.square()])
    both = led_to * (led_to + 2 * own[proposed.rows])  # (h + h')^2 - h^2
    return torch.stack([counts @ own + led_to.sum(), counts @ own.square() + both.sum()])


@dataclass(frozen=True)
class Spread:
    """What a RunningResidual has found.

    Attributes:
        energy, error: <H> and the standard error of that mean.
        variance: Var(H).
        outside: what configurations carry of it that the state does not visit.
        excess: second-order estimate of E - E_0, an energy.
    """

    energy: float
    error: float
    variance: float
    outside: float
    excess: float


def places_of(configs: Tensor, among: Tensor) -> Tensor:
    """(R,) the row of `among` (U, N), distinct rows, that equals each of configs (R, N), or -1."""
    distinct, place = torch.unique(torch.cat([among, configs]), dim=0, return_inverse=True)
    row = torch.full((len(distinct),), -1, dtype=torch.int64, device=configs.device)
    row[place[: len(among)]] = torch.arange(len(among), device=configs.device)
    return row[place[len(among) :]]
