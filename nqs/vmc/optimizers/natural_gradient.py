"""Natural gradient (stochastic reconfiguration) in sample space, with momentum: minSR and SPRING.

With w_s the weights of the samples (counts / n) and weighted means,

    O_s = sqrt(w_s) (d ln psi_s / d theta - mean),      e_s = sqrt(w_s) (E_loc,s - E)
    delta = O^T (O O^T + lambda)^-1 e                    (Chen & Heyl, arXiv:2302.01941, eq. 3;
                                                          Rende et al., arXiv:2310.05715)
    theta <- theta - learning_rate * delta

which equals (O^T O + lambda)^-1 O^T e, imaginary-time evolution with step learning_rate, at the
cost of an R x R instead of a P x P system (R rows of O, P parameters); where P < R the P x P form
is the smaller one and taken. SPRING (Goldshlager et al., arXiv:2401.10190) subtracts what the last
direction, as far as it was gone, already explains:

    delta = O^T (O O^T + lambda)^-1 (e - mu O delta_old) + mu delta_old
          = (O^T O + lambda)^-1 O^T (e - mu O delta_old) + mu delta_old

Complex ln psi of real parameters: O is [Re O; Im O] and e is [Re e; Im e], R = 2 U rows, so that
O^T O is the real part of the quantum metric O^dagger O.

Several processes: each forms the rows of O of its share of the samples and gets, panel by panel,
all rows of its share of the columns, whose contribution to O O^T, O delta_old and O^T a it adds;
in the P x P form each adds its rows' part of O^T O. The system is small and solved everywhere.

(NetKet's SR step is twice as long at equal learning rate.)

Letters: U samples, R rows (U, or 2 U for complex ln psi), P parameters, C columns of a panel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from nqs.vmc.optimizers.gradient import (
    centred,
    flat_gradient,
    flat_parameters,
    inner_product,
    real_parts,
)
from nqs.vmc.optimizers.layer_jacobians import (
    LayerJacobians,
    RowBytes,
    bytes_per_row,
    whole_jacobian,
)
from nqs.vmc.optimizers.optimizer import Optimizer
from nqs.vmc.optimizers.schedules import Schedule
from nqs.vmc.ranks import ALONE, Ranks
from nqs.vmc.statistics import joined_mean
from nqs.wavefunctions.wavefunction import Samples, Wavefunction

LARGEST_GAIN = 10.0
"""Most that ln psi of a configuration is asked to gain in a step."""

LINEAR = 0.1
"""Time step times spread of the local energies per root of the number of sites, as the metric sees
it, up to which the last direction is trusted whole; see `kept_share`."""

PANEL_COLUMNS = 4_096
"""Columns of the Jacobian contracted at a time: few products, yet the rows of a panel in cache."""


@dataclass(frozen=True)
class _Direction:
    """delta (P,), |O delta| (the change of ln psi per unit step) and |O^T e|."""

    delta: Tensor
    length: Tensor
    force: Tensor


@final
class NaturalGradient(Optimizer):
    """minSR with SPRING momentum, for real or complex ln psi of real parameters.

    Args:
        learning_rate: imaginary-time step, > 0.
        diagonal_shift: lambda, > 0, added to the quantum metric.
        momentum: mu in [0, 1), at most; 0 is plain minSR. See `kept_share`.
        max_norm: trust region: the step is shortened so that sqrt(delta^T S delta) of the applied
            update, the standard deviation of the change of ln psi, is at most this; None is off.
        implicit: take energies above the mean as `implicit_energies` does: no configuration is
            emptied in a leap, however large its energy. The force that is reported is of these.
        schedule, shift_schedule: factors on learning_rate and diagonal_shift per step.
        memory_gb: bound on what is held of the Jacobian: columns, layers' inputs and gradients, the
            graph of a backward pass. (The system itself, R x R or P x P, comes on top.) A Jacobian
            that fits in half of it is kept, which saves the backward pass of O^T a.
    """

    def __init__(
        self,
        learning_rate: float = 0.05,
        *,
        diagonal_shift: float = 1e-3,
        momentum: float = 0.9,
        max_norm: float | None = None,
        implicit: bool = False,
        schedule: Schedule | None = None,
        shift_schedule: Schedule | None = None,
        memory_gb: float = 1.0,
    ) -> None:
        if not learning_rate > 0:
            raise ValueError(f"learning_rate={learning_rate} must be positive")
        if not diagonal_shift > 0:
            raise ValueError(f"diagonal_shift={diagonal_shift} must be positive")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} must be in [0, 1)")
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm={max_norm} must be positive or null")
        if not memory_gb > 0:
            raise ValueError(f"memory_gb={memory_gb} must be positive")
        self.learning_rate, self.diagonal_shift, self.momentum = (
            learning_rate,
            diagonal_shift,
            momentum,
        )
        self.max_norm, self.memory_gb, self.implicit = max_norm, memory_gb, implicit
        self.schedule = schedule or Schedule()
        self.shift_schedule = shift_schedule or Schedule()
        self.step = 0
        self.direction: Tensor | None = None  # delta of the last step as far as it was gone, (P,)
        self.kept = momentum  # mu of the present step
        self._row_bytes: RowBytes | None = None  # measured once
        self._memory: Tensor | None = None  # of a kept Jacobian; fresh pages cost 10 % of a step
        self.diagnostics = {}

    def update(
        self,
        wavefunction: Wavefunction,
        samples: Samples,
        local_energies: Tensor,
        ranks: Ranks = ALONE,
    ) -> Tensor:
        shift = self.diagonal_shift * self.shift_schedule(self.step)
        rate = self.learning_rate * self.schedule(self.step)
        excess = centred(local_energies, samples.weights)  # (U,)
        self.kept = self.momentum * kept_share(
            self.learning_rate * excess, samples.weights, shift, wavefunction.n_sites
        )
        if self.implicit:
            excess = centred(implicit_energies(excess, rate), samples.weights)
        direction = self._direction(wavefunction, samples, excess, shift, ranks)
        shortening = self._shortening(rate * float(direction.length))
        rate *= shortening
        self.step += 1
        self.direction = shortening * direction.delta
        self.diagnostics = {"gradient_norm": 2 * float(direction.force), "learning_rate": rate}
        return -rate * direction.delta

    def _direction(
        self,
        wavefunction: Wavefunction,
        samples: Samples,
        excess: Tensor,
        shift: float,
        ranks: Ranks,
    ) -> _Direction:
        """SPRING's delta in the smaller of the two spaces; excess (U,) has mean 0."""
        errors = samples.weights.sqrt() * excess  # (U,)
        residual = torch.cat(real_parts(errors.to(samples.log_psi.dtype)))  # e, (R,)
        n_parameters = sum(p.numel() for p in wavefunction.parameters())
        if fewer_parameters(n_parameters, len(residual)):
            return self._in_parameter_space(wavefunction, samples, residual, shift, ranks)
        return self._in_sample_space(wavefunction, samples, residual, shift, ranks)

    def _in_sample_space(
        self,
        wavefunction: Wavefunction,
        samples: Samples,
        residual: Tensor,
        shift: float,
        ranks: Ranks,
    ) -> _Direction:
        """delta = O^T a + mu delta_old with (O O^T + lambda) a = e - mu O delta_old."""
        n_rows = len(residual)
        size = sum(p.nbytes for p in wavefunction.parameters())
        whole = n_rows * size // ranks.size  # bytes of this rank's columns of O
        keep = whole <= self.max_bytes / 2
        gram = residual.new_zeros(n_rows, n_rows)
        explained = residual.new_zeros(n_rows)  # O delta_old
        kept = []
        kept_bytes = whole if keep else 0
        for columns, panel in self._panels(wavefunction, samples, n_rows, kept_bytes, ranks):
            add_gram(gram, panel)
            if self.direction is not None:
                explained += panel @ self.direction[columns].to(panel.dtype)
            if keep:
                kept.append((columns, panel))
        gram, explained = ranks.sum(gram), ranks.sum(explained)
        gram = gram.tril() + gram.tril(-1).T
        alpha = solve_shifted(gram, residual - self.kept * explained, shift)
        alpha = ranks.broadcast(alpha)  # processors of other kinds may round otherwise
        if keep:
            delta = torch.zeros_like(flat_parameters(wavefunction))
            for columns, panel in kept:
                delta[columns] = alpha.to(panel.dtype) @ panel
            delta = ranks.sum(delta)
        else:
            roots = samples.weights.sqrt().repeat(n_rows // len(samples.counts))
            chunk = self._measured(wavefunction, samples).chunk(self.max_bytes / 2)
            delta = pull_back(wavefunction, samples, roots * alpha, chunk=chunk, ranks=ranks)
        if self.direction is not None:
            delta = delta + self.kept * self.direction
        change = gram @ alpha + self.kept * explained  # O delta, (R,)
        return _Direction(delta, change.norm(), pull_back_norm(gram, residual))

    def _panels(
        self,
        wavefunction: Wavefunction,
        samples: Samples,
        n_rows: int,
        kept_bytes: int,
        ranks: Ranks,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(columns (C,), O[:, columns] (R, C)), each column once and on one rank; kept_bytes: what
        all panels take that will be kept, 0 if none is.

        Whole rows are formed, chunk by chunk, only if O is kept anyway and the record of all layers
        is what does not fit.
        """
        roots = samples.weights.sqrt()
        own = ranks.share(len(roots))
        alone = ranks.size == 1  # else three panels are held: formed, on their way, arrived
        free = self.max_bytes - kept_bytes
        parameter = next(wavefunction.parameters())
        itemsize = parameter.itemsize
        panel_bytes = itemsize * n_rows * (1 if alone else 3)
        widest = max(1, min(PANEL_COLUMNS, int(free / 4 / panel_bytes)))
        row_bytes = self._measured(wavefunction, samples)
        panels: Iterable[tuple[Tensor, Tensor]]
        if alone and kept_bytes and len(roots) * row_bytes.record > 3 / 8 * free:
            whole = whole_jacobian(
                wavefunction, samples.configs, roots, max_bytes=3 / 4 * free, row_bytes=row_bytes
            )
            places = torch.arange(whole.shape[1], device=whole.device)
            panels = zip(places.split(widest), whole.split(widest, dim=1), strict=True)
        else:
            panels = LayerJacobians(
                wavefunction,
                samples.configs[own],
                factors=roots[own],
                max_bytes=3 / 4 * free,
                row_bytes=row_bytes,
                planned=max(ranks.shares(len(roots))),
            ).panels(
                widest * ranks.size,
                self._reused(parameter, kept_bytes // itemsize) if alone else None,
            )
        for columns, panel in panels:
            columns = columns[ranks.share(len(columns))]
            panel = ranks.exchanged(panel, len(roots))
            for part in panel.split(len(roots)):
                centre(part, roots)
            yield columns, panel

    def _reused(self, like: Tensor, size: int) -> Tensor | None:
        """Memory of at least `size` numbers, the last step's where that is enough; None for 0."""
        old = self._memory
        if not size:
            self._memory = None
        elif old is None or (old.dtype, old.device) != (like.dtype, like.device) or len(old) < size:
            self._memory = None  # freed first
            self._memory = like.detach().new_empty(size)
        return self._memory

    def _in_parameter_space(
        self,
        wavefunction: Wavefunction,
        samples: Samples,
        residual: Tensor,
        shift: float,
        ranks: Ranks,
    ) -> _Direction:
        """(O^T O + lambda) (delta - mu delta_old) = O^T (e - mu O delta_old)."""
        metric, force = self._metric(wavefunction, samples, residual, ranks)
        old = torch.zeros_like(force)
        if self.direction is not None:
            old = self.kept * self.direction.to(force.dtype)
        delta = ranks.broadcast(solve_shifted(metric, force - metric @ old, shift) + old)
        length = (delta @ (metric @ delta)).clamp(min=0).sqrt()
        dtype = next(wavefunction.parameters()).dtype
        return _Direction(delta.to(dtype), length, force.norm())

    def _metric(
        self, wavefunction: Wavefunction, samples: Samples, residual: Tensor, ranks: Ranks
    ) -> tuple[Tensor, Tensor]:
        """O^T O (P, P) and O^T e (P,), float64, one chunk of samples after another.

        Each chunk is centred on its own mean and the chunks, then the ranks, are joined as in
        RunningMoments, so nothing cancels. With errors that sum to zero O^T e needs no common mean.
        """
        roots = samples.weights.sqrt()  # (U,)
        errors = residual.view(-1, len(roots))  # (1 or 2, U)
        n_parameters = sum(p.numel() for p in wavefunction.parameters())
        row = sum(p.nbytes for p in wavefunction.parameters()) * len(errors)
        metric = residual.new_zeros(n_parameters, n_parameters)
        force = residual.new_zeros(n_parameters)
        means = residual.new_zeros(len(errors), n_parameters)
        weight = 0.0  # of the samples so far
        places = torch.arange(len(roots), device=roots.device)[ranks.share(len(roots))]
        for rows in places.split(max(1, int(self.max_bytes / 2 / row))):
            jacobian = whole_jacobian(
                wavefunction,
                samples.configs[rows],
                roots[rows],
                max_bytes=self.max_bytes / 2,
                row_bytes=self._measured(wavefunction, samples),
            )
            own = float(roots[rows].square().sum())
            for mean, part, error in zip(
                means, jacobian.split(len(rows)), errors[:, rows], strict=True
            ):
                own_mean = centre(part, roots[rows]).to(mean.dtype)  # (P,)
                add_gram(metric, part.T)
                force += error.to(part.dtype) @ part + (roots[rows] @ error) * own_mean
                away = own_mean - mean
                if weight:
                    metric.addr_(away, away, alpha=weight * own / (weight + own))
                mean += away * (own / (weight + own))
            weight += own
        weights = ranks.gathered(residual.new_tensor([weight]))  # (W,)
        for away in means - joined_mean(weights, ranks.gathered(means[None])):
            metric.addr_(away, away, alpha=weight)
        metric = ranks.sum(metric)
        return metric.tril() + metric.tril(-1).T, ranks.sum(force)

    def _measured(self, wavefunction: Wavefunction, samples: Samples) -> RowBytes:
        if self._row_bytes is None:
            self._row_bytes = bytes_per_row(wavefunction, samples.configs)
        return self._row_bytes

    @property
    def max_bytes(self) -> float:
        """memory_gb in bytes."""
        return self.memory_gb * 2**30

    def _shortening(self, length: float) -> float:
        return 1.0 if self.max_norm is None or length <= self.max_norm else self.max_norm / length

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "direction": self.direction}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.direction = state["step"], state["direction"]


def fewer_parameters(n_parameters: int, n_rows: int) -> bool:
    """Whether the P x P system is the smaller one."""
    return n_parameters < n_rows


def kept_share(steps: Tensor, weights: Tensor, shift: float, n_sites: int) -> float:
    """Share of the momentum that a step may use: min(1, LINEAR / sigma), with

        sigma^2 = (1 / N) sum_s w_s |dt x_s|^2 w_s / (w_s + lambda),    steps (U,) = dt x,

    the spread of the local energies x = E_loc - E in units of 1 / dt, as far as the shifted metric
    responds to it. Where dt x is not small ln psi does not change in proportion to it, and the last
    direction says nothing about the next: momentum then carries configurations that a strong
    repulsion suppresses far past the balance with their neighbours, until no gradient brings them
    back. (docs/decisions.md, Strong repulsion.)
    """
    seen = weights.square() / (weights + shift)
    sigma = float((seen @ steps.abs().square() / n_sites).sqrt())
    return min(1.0, LINEAR / sigma) if sigma > 0 else 1.0


def implicit_energies(excess: Tensor, time_step: float) -> Tensor:
    """x -> ln(1 + dt x) / dt where x = Re(E_loc - E) > 0, x >= -LARGEST_GAIN / dt; (U,).

    A step of plain imaginary time changes ln psi by -dt x; at dt x > 1 that leaps past the balance
    with the neighbours, momentum carries it on, and once |psi|^2 is far below the diagonal shift
    no gradient brings the configuration back: the run converges, with small variance, to the ground
    state of what is left. The implicit step psi <- psi / (1 + dt x) decays as slowly as it must;
    for small dt x they are the same. (4x4 Rydberg atoms, Rb = 1.5, delta = 0, 200 steps: relative
    error 9e-4 without, 6e-5 with it; a chain of 13 with V = 191: 0.37 and 6e-4.)

    Below the mean a plain step is right, psi <- (1 - dt x) psi; only where a draw comes upon a
    configuration that was empty, at x of -10^4 and more, it would carry all others along. (The
    chain of 13, 400 steps: the relative error, 6e-4, jumped to 0.5 at step 254 and was 1.5e-3 at
    the end; with the bound it stays at 6e-4.)
    """
    above = excess.real.clamp(min=0)
    below = excess.real.clamp(min=-LARGEST_GAIN / time_step, max=0)
    damped = torch.log1p(time_step * above) / time_step + below
    return torch.complex(damped, excess.imag) if excess.is_complex() else damped


def centre(scaled: Tensor, roots: Tensor) -> Tensor:
    """sqrt(w) J (U, C) -> sqrt(w) (J - mean), in place; the weighted mean (C,) of J is returned.

    roots = sqrt(w) (U,), weights of any sum. Two passes over the rows, one of them read-only.
    """
    roots = roots.to(scaled.dtype)
    mean = (roots @ scaled) / roots.square().sum()
    scaled.addcmul_(roots[:, None], mean, value=-1)
    return mean


def add_gram(gram: Tensor, rows: Tensor, n_blocks: int = 4) -> None:
    """gram += rows rows^T on and below the block diagonal: 5/8 of the products for 4 blocks."""
    begin = 0
    for part in rows.chunk(n_blocks):
        end = begin + len(part)
        gram[begin:end, :end] += part @ rows[:end].T
        begin = end


def solve_shifted(gram: Tensor, right: Tensor, shift: float) -> Tensor:
    """(gram + shift)^-1 right by Cholesky in float64; by eigenvalues where rounding defeats it."""
    shifted = gram + shift * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    if not int(failed):
        return torch.cholesky_solve(right[:, None], factor).squeeze(1)
    values, vectors = torch.linalg.eigh(gram)
    return vectors @ ((vectors.T @ right) / (values.clamp(min=0) + shift))


def pull_back(
    wavefunction: Wavefunction,
    samples: Samples,
    factors: Tensor,
    *,
    chunk: int = 1_024,
    ranks: Ranks = ALONE,
) -> Tensor:
    """O^T a for factors = sqrt(w) a (R,): one backward pass -> (P,) in parameter order."""
    weights = samples.weights
    parts = factors.view(-1, len(weights))  # (1 or 2, U)
    parts = parts - weights * parts.sum(1, keepdim=True)
    combined = torch.complex(parts[0], parts[1]) if len(parts) == 2 else parts[0]
    wavefunction.zero_grad(set_to_none=True)
    places = torch.arange(len(weights), device=weights.device)[ranks.share(len(weights))]
    for rows in places.split(chunk):
        inner_product(combined[rows], wavefunction.log_psi(samples.configs[rows])).backward()
    return ranks.sum(flat_gradient(wavefunction))


def pull_back_norm(gram: Tensor, residual: Tensor) -> Tensor:
    """|O^T e| = sqrt(e^T O O^T e), half the norm of the energy gradient."""
    return (residual @ (gram @ residual)).clamp(min=0).sqrt()
