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

A batch of n draws says something about at most n directions; lambda is at least what leaves half of
them open (`leverage`). The step follows what the next batch says of the last one: with x = O delta,
delta the last direction and O of the new batch,

    t = sum_s e_s x_s / sqrt(sum_s e_s^2 x_s^2 / counts_s)

is the slope of -E along delta where that step ended, which is unbiased, in units of its standard
error. Below 0 the step went too far: noise carried it past the lowest energy on its way. So

    ln f <- min(0, ln f + 0.2 clip(t + 1, -1, 1)),      step = f learning_rate

from f = 1, or, where parameters are trained already, from the root of the ratio by which the
leverage raises the shift: what few draws say of many directions is to be followed in small steps,
and nothing is left to collapse (`adaptive`; a gradient of the energy with respect to the learning
rate, as in Baydin et al., arXiv:1703.04782, in units of its noise; steps for which t is 0 on the
average lower the energy most at once, and stop too early). Where the energy rises nevertheless, by
more than its noise (`EnergyWatch`), the state goes back to where it was lowest.

O, its memory and what several processes do of it are `Jacobian`'s. The system is small and solved
on every rank.

(NetKet's SR step is twice as long at equal learning rate.)

Letters: U samples, R rows (U, or 2 U for complex ln psi), P parameters.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, final

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from nqs.runfolder.schedules import Schedule
from nqs.vmc.columns import Column
from nqs.vmc.optimizers.energy_watch import EnergyWatch
from nqs.vmc.optimizers.gradient import centred, flat_parameters
from nqs.vmc.optimizers.jacobian import Jacobian, Workspace
from nqs.vmc.optimizers.joint_jacobian import JointJacobian
from nqs.vmc.optimizers.layer_jacobians import layers_with_rules
from nqs.vmc.optimizers.leverage import least_shift
from nqs.vmc.optimizers.optimizer import Optimizer, ScheduleKind, check_range
from nqs.vmc.optimizers.time_step import time_step
from nqs.vmc.ranks import ALONE, Ranks
from nqs.vmc.statistics import mean_and_error
from nqs.wavefunctions.conditional import Conditional
from nqs.wavefunctions.wavefunction import Samples, Wavefunction

LARGEST_GAIN = 1.0
"""Most that ln psi of a configuration is asked to gain in a step."""

LINEAR = 0.1
"""Time step times spread of the local energies per root of the number of sites, as the metric sees
it, up to which the last direction is trusted whole; see `momentum_share`."""

WARM_RATE = 2.0
"""Factor on the automatic time step of a run that starts near its ground state: nothing is left to
collapse, and few steps are to go far. (docs/decisions.md, Time steps.)"""
GAIN = 0.2
"""Change of the logarithm of the step where the last one was certainly too long or too short."""
MEASURED_EVERY = 5
"""Steps between measurements of the spectrum, which takes ten times as long as the solution."""
TOO_FAR = 1.0
"""Standard errors by which the slope may be negative where a step ends."""
SHORTER = 0.5
"""Factor on the step when the energy has risen."""
LEAST_STEP = 1e-9
"""Of the automatic time step; float32 rounds changes of 6e-8 away."""
LEAST_SHIFT = 1e-12
"""Of the metric; less is lost in the rounding of its solution."""


@dataclass(frozen=True)
class _Direction:
    """delta (P,), |O delta| (the change of ln psi per unit step), |O^T e|, t, and the lambda that
    keeps the leverage."""

    delta: Tensor
    length: Tensor
    force: Tensor
    slope: Tensor
    least_shift: float


@dataclass(frozen=True)
class _Shift:
    """lambda of a step: `keys`, or more to keep the leverage.

    known: what keeps the leverage, None where it is to be measured.
    """

    keys: float
    leverage: float
    known: float | None

    def least(self, matrix: Tensor, draws: Tensor) -> float:
        """What keeps the leverage, for O O^T or O^T O of a batch with so many draws in each row
        (R,)."""
        if self.known is not None:
            return self.known
        values = torch.linalg.eigvalsh(matrix)
        values = torch.cat([values, draws.sum().to(values)[None]]).cpu()  # CPU-GPU sync
        return least_shift(values[:-1], float(values[-1]), self.leverage)


@final
class NaturalGradient(Optimizer, kind="minsr"):
    """minSR with SPRING momentum, for real or complex ln psi of real parameters.

    Args:
        learning_rate: imaginary time of a step at the top of the schedule, in 1 over the couplings'
            unit, at least 1e-9 of auto, which is what the terms that flip spins allow, 0.2 over
            their spectral width per site, <= 0.2, and twice that in a run that starts from another
            (train.start_from, train.grow); steps are shorter where max_norm or adaptive says so.
        diagonal_shift: lambda, added to the quantum metric, at the first step and at least; less is
            lost in its rounding.
        leverage: lambda is larger where else a batch of n draws would settle more than leverage n
            directions of the parameters, and so fit its own noise; 1 is no such bound.
        momentum: mu, the share of the last direction that is kept, at most; 0 is plain minSR; less
            where steps are long, as at first under strong repulsion. auto is 0.9, or 0 for complex
            psi, where momentum empties configurations before their sign is found.
        max_norm: trust region: the largest standard deviation of the change of ln psi in one step,
            sqrt(delta^T S delta) of the applied update; null is none.
        implicit: damp large local energies above the mean as an implicit time step does, so that
            strong repulsion empties no configuration for good. The force that is reported is of
            the damped ones.
        memory_gb: GB for what is held of the Jacobian: columns, layers' inputs and gradients, the
            graph of a backward pass. (The system itself, R x R or P x P, comes on top.) A Jacobian
            that fits in half of it is kept, which saves the backward pass of O^T a.
        schedule: learning rate over the run: constant, cosine, linear or exponential.
        warmup_steps: steps over which the learning rate first rises from 0; fewer than the run has.
        final_fraction: learning rate at the last step as a fraction of learning_rate.
        adaptive: learning_rate is the longest step: shorten it where the last step went too far,
            lengthen it again where it did not, and go back to the lowest energy where that of ten
            steps has risen by more than its noise.
        final_shift_fraction: diagonal_shift at the last step as a fraction of that at the first;
            it falls geometrically, and no lower than to 1e-12.
    """

    columns = (
        *Optimizer.columns,
        Column("diagonal_shift", "1", "lambda of the step, 0 of a step back"),
        Column("steps_back", "1", "times so far that the energy rose and the step went back"),
    )

    def __init__(
        self,
        learning_rate: Annotated[float, "1e-30 .. 1e6"] | Literal["auto"] = "auto",
        *,
        diagonal_shift: Annotated[float, "1e-12 .. 1e6"] = 5e-3,
        leverage: Annotated[float, "1e-3 .. 1"] = 0.5,
        momentum: Annotated[float, "0 or 1e-6 .. 0.9999"] | Literal["auto"] = "auto",
        max_norm: Annotated[float, "1e-6 .. 1e6"] | None = 0.25,
        implicit: bool = True,
        memory_gb: Annotated[float, "1e-3 .. 1e5"] = 1.0,
        schedule: ScheduleKind = "cosine",
        warmup_steps: Annotated[int, "0 .. 1e9"] = 0,
        final_fraction: Annotated[float, "1e-9 .. 1"] = 0.05,
        final_shift_fraction: Annotated[float, "1e-9 .. 1"] = 0.05,
        adaptive: bool = True,
    ) -> None:
        if learning_rate != "auto":
            check_range("learning_rate", learning_rate, 1e-30, 1e6)
        if momentum != "auto":
            check_range("momentum", momentum, 1e-6, 0.9999, or_zero=True)
        check_range("diagonal_shift", diagonal_shift, LEAST_SHIFT, 1e6)
        check_range("leverage", leverage, 1e-3, 1)
        if max_norm is not None:
            check_range("max_norm", max_norm, 1e-6, 1e6)
        check_range("memory_gb", memory_gb, 1e-3, 1e5)
        check_range("warmup_steps", warmup_steps, 0, 1e9)
        check_range("final_fraction", final_fraction, 1e-9, 1)
        check_range("final_shift_fraction", final_shift_fraction, 1e-9, 1)
        self.check_keys(diagonal_shift=diagonal_shift, final_shift_fraction=final_shift_fraction)
        self.learning_rate, self.momentum = learning_rate, momentum
        self.diagonal_shift, self.leverage = diagonal_shift, leverage
        self.max_norm, self.implicit, self.adaptive = max_norm, implicit, adaptive
        self.schedule = Schedule(schedule, warmup_steps, final_fraction=final_fraction)
        falls = final_shift_fraction != 1
        self.shift_schedule = Schedule(
            "exponential" if falls else "constant", final_fraction=final_shift_fraction
        )
        self.step = 0
        self.direction: Tensor | None = None  # delta of the last step as far as it was gone, (P,)
        self.watch = EnergyWatch()
        self.best: Tensor | None = None  # parameters where the watched energy was lowest, (P,)
        self.n_back = 0
        self.factor = 1.0  # f
        self._starts_warm = False
        self.least_shift = 0.0  # what keeps the leverage, as last measured
        self.workspace = Workspace(memory_gb * 2**30)
        self.diagnostics = {}

    def __repr__(self) -> str:
        step, shift, mu = self.learning_rate, self.diagonal_shift, self.momentum
        return f"NaturalGradient({step}, diagonal_shift={shift}, momentum={mu})"

    @staticmethod
    def check_keys(*, diagonal_shift: float, final_shift_fraction: float, **rest: Any) -> None:
        """Raises ValueError for a shift that falls too low."""
        if diagonal_shift * final_shift_fraction < LEAST_SHIFT:
            raise ValueError(
                f"final_shift_fraction={final_shift_fraction:g}: times "
                f"diagonal_shift={diagonal_shift:g} must be >= {LEAST_SHIFT:g}"
            )

    def prepare(
        self,
        hamiltonian: Hamiltonian,
        *,
        n_steps: int,
        is_complex: bool = False,
        warm_start: bool = False,
    ) -> Self:
        """See Optimizer.prepare."""
        automatic = time_step(hamiltonian)
        if self.learning_rate == "auto":
            self.learning_rate = automatic * (WARM_RATE if warm_start else 1.0)
        self._starts_warm = warm_start
        if self.learning_rate < LEAST_STEP * automatic:
            raise ValueError(
                f"learning_rate={self.learning_rate:g}: changes nothing; auto is {automatic:.3g} "
                f"here, give at least {LEAST_STEP * automatic:.3g}"
            )
        if self.momentum == "auto":
            self.momentum = 0.0 if is_complex else 0.9
        self.schedule = self.schedule.over(n_steps)
        self.shift_schedule = self.shift_schedule.over(n_steps)
        return self

    def check(self, wavefunction: Wavefunction) -> None:
        """Every layer needs a rule; see `layer_rules`."""
        layers_with_rules(wavefunction)

    def update(
        self,
        wavefunction: Wavefunction,
        samples: Samples,
        local_energies: Tensor,
        ranks: Ranks = ALONE,
    ) -> Tensor:
        if self.learning_rate == "auto" or self.momentum == "auto":
            raise ValueError("learning_rate or momentum is auto: call `prepare` before `update`")
        back = self._back(wavefunction, samples, local_energies, ranks)
        if back is not None:
            return back
        rate, weights = self._rate(), samples.weights
        excess = centred(local_energies, weights)  # (U,)
        trust = self._trust(excess, weights, wavefunction.n_sites)
        if self.implicit:
            samples = with_target_weights(samples, excess, rate)
            excess = centred(implicit_energies(excess, rate), samples.weights)
        jacobian = Jacobian(wavefunction, samples, self.workspace, ranks)
        errors = jacobian.rows(excess)  # e, (R,)
        return self._step(jacobian, errors, trust, flat_parameters(wavefunction), ranks)

    def update_family(
        self,
        family: Conditional,
        parts: Sequence[tuple[Tensor, Samples, Tensor]],
        ranks: Ranks = ALONE,
        n_couplings: int | None = None,
    ) -> Tensor:
        """The increment of a family's parameters, (P,), from couplings (n,), samples and local
        energies at some of its couplings, of n_couplings of all ranks: one system for all. Its
        energy is not watched, as that of other couplings is another."""
        if self.learning_rate == "auto" or self.momentum == "auto":
            raise ValueError("learning_rate or momentum is auto: call `prepare` before `update`")
        rate, n_all = self._rate(), n_couplings or len(parts)
        excesses = [centred(e_loc, samples.weights) for _, samples, e_loc in parts]
        weights = torch.cat([samples.weights / n_all for _, samples, _ in parts])
        spread = (ranks.gathered(torch.cat(excesses)), ranks.gathered(weights))
        trust = self._trust(*spread, family.n_sites)
        kept = [samples for _, samples, _ in parts]
        if self.implicit:
            pairs = zip(kept, excesses, strict=True)
            kept = [with_target_weights(samples, excess, rate) for samples, excess in pairs]
            pairs = zip(kept, excesses, strict=True)
            excesses = [
                centred(implicit_energies(excess, rate), samples.weights)
                for samples, excess in pairs
            ]
        at = list(zip((c for c, _, _ in parts), kept, strict=True))
        jacobian = JointJacobian(family, at, self.workspace, ranks, n_all)
        errors = jacobian.rows(excesses)
        return self._step(jacobian, errors, trust, flat_parameters(family), ranks)

    def _rate(self) -> float:
        """Time step that is asked for."""
        assert self.learning_rate != "auto"
        return self.learning_rate * self.schedule(self.step) * self.factor

    def _trust(self, excess: Tensor, weights: Tensor, n_sites: int) -> float:
        """`momentum_share` at this step."""
        assert self.learning_rate != "auto"
        shift = self.diagonal_shift * self.shift_schedule(self.step)
        return momentum_share(self.learning_rate * excess, weights, shift, n_sites)

    def _step(
        self,
        jacobian: Jacobian | JointJacobian,
        errors: Tensor,
        trust: float,
        parameters: Tensor,
        ranks: Ranks,
    ) -> Tensor:
        """Solves for the direction of errors e (R,), and goes along it as far as it is trusted."""
        assert self.momentum != "auto"
        shift = self.diagonal_shift * self.shift_schedule(self.step)
        rate = self._rate()
        old = torch.zeros_like(parameters) if self.direction is None else self.direction
        fewer = fewer_parameters(jacobian.n_parameters, jacobian.n_rows)
        solve = in_parameter_space if fewer else in_sample_space
        bound = _Shift(shift, self.leverage, self._known_shift())
        direction = solve(jacobian, errors, bound, self.momentum * trust, old, ranks)
        measured = (direction.length, direction.force, direction.slope)
        length, force, slope = torch.stack(measured).tolist()  # CPU-GPU sync
        self.least_shift = direction.least_shift
        if self.adaptive and self._starts_warm and self.step == 0 and direction.least_shift > shift:
            self.factor = (shift / direction.least_shift) ** 0.5
            rate *= self.factor
        shortening = self._shortening(rate * length)
        rate *= shortening
        self.step += 1
        if self.adaptive and self.direction is not None:
            gain = GAIN * min(1.0, max(-1.0, slope + TOO_FAR))
            self.factor = min(1.0, self.factor * math.exp(gain))
        self.direction = shortening * direction.delta
        self.diagnostics = {
            "gradient_norm": 2 * force,
            "learning_rate": rate,
            "diagonal_shift": max(shift, direction.least_shift),
            "steps_back": self.n_back,
        }
        return -rate * direction.delta

    def _back(
        self, wavefunction: Wavefunction, samples: Samples, local_energies: Tensor, ranks: Ranks
    ) -> Tensor | None:
        """The way back to the lowest energy where it has risen since, else None."""
        if not self.adaptive:
            return None
        self.watch.add(*mean_and_error(local_energies.real, samples))
        if self.watch.is_lowest():
            self.best = flat_parameters(wavefunction).clone()
        rises = ranks.shared([self.watch.rises()])[0]  # one answer, however processors round
        if not rises or self.best is None:
            return None
        way = self.best - flat_parameters(wavefunction)
        self.watch.forget()
        self.direction = self.best = None
        self.step += 1
        self.n_back += 1
        self.factor *= SHORTER
        self.diagnostics = {  # no gradient was taken
            **{"gradient_norm": 0.0, "learning_rate": 0.0, "diagonal_shift": 0.0},
            "steps_back": self.n_back,
        }
        return way

    def _known_shift(self) -> float | None:
        """What keeps the leverage, as it was measured some steps ago; None when it is time to."""
        if self.leverage == 1:
            return 0.0
        return self.least_shift if self.step % MEASURED_EVERY else None

    def _shortening(self, length: float) -> float:
        return 1.0 if self.max_norm is None or length <= self.max_norm else self.max_norm / length

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "direction": self.direction,
            "best": self.best,
            "n_back": self.n_back,
            "factor": self.factor,
            "least_shift": self.least_shift,
            "recent": self.watch.recent,
            "lowest": self.watch.lowest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.direction = state["step"], state["direction"]
        self.best, self.n_back, self.factor = state["best"], state["n_back"], state["factor"]
        self.least_shift = state["least_shift"]
        self.watch.recent, self.watch.lowest = state["recent"].cpu(), state["lowest"].cpu()


def in_sample_space(
    jacobian: Jacobian | JointJacobian,
    errors: Tensor,
    bound: _Shift,
    mu: float,
    old: Tensor,
    ranks: Ranks,
) -> _Direction:
    """delta = O^T a + mu delta_old with (O O^T + lambda) a = e - mu O delta_old."""
    gram, explained = jacobian.gram(old)
    least = bound.least(gram, jacobian.draws)
    a = solve_shifted(gram, errors - mu * explained, max(bound.keys, least))
    a = ranks.broadcast(a)  # processors of other kinds may round otherwise
    delta = jacobian.pull_back(a) + mu * old
    change = gram @ a + mu * explained  # O delta, (R,)
    force = (errors @ (gram @ errors)).clamp(min=0).sqrt()  # |O^T e| = sqrt(e^T O O^T e)
    noise = (errors.square() @ (explained.square() / jacobian.draws)).sqrt()
    return _Direction(delta, change.norm(), force, in_units_of(errors @ explained, noise), least)


def in_parameter_space(
    jacobian: Jacobian | JointJacobian,
    errors: Tensor,
    bound: _Shift,
    mu: float,
    old: Tensor,
    ranks: Ranks,
) -> _Direction:
    """(O^T O + lambda) (delta - mu delta_old) = O^T (e - mu O delta_old)."""
    metric, force = jacobian.metric(errors)
    carried = mu * old.to(force.dtype)
    least = bound.least(metric, jacobian.draws)
    delta = solve_shifted(metric, force - metric @ carried, max(bound.keys, least)) + carried
    delta = ranks.broadcast(delta)
    length = (delta @ (metric @ delta)).clamp(min=0).sqrt()
    past = old.to(force.dtype)
    squares = (errors @ errors) * (past @ (metric @ past)).clamp(min=0)
    noise = (squares / jacobian.draws.sum()).sqrt()  # as if e and O delta_old were independent
    slope = in_units_of(force @ past, noise)
    return _Direction(delta.to(old.dtype), length, force.norm(), slope, least)


def in_units_of(slope: Tensor, noise: Tensor) -> Tensor:
    """t of a slope with this standard error; 0 where neither is known, without a last direction."""
    return torch.where(noise > 0, slope / noise, torch.zeros_like(slope))


def fewer_parameters(n_parameters: int, n_rows: int) -> bool:
    """Whether the P x P system is the smaller one."""
    return n_parameters < n_rows


def momentum_share(steps: Tensor, weights: Tensor, shift: float, n_sites: int) -> float:
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
    """What a plain step, ln psi <- ln psi - dt x, is given instead of x = E_loc - E, (U,):

        ln(1 + dt x) / dt                        where Re x > 0,
        max(x, -LARGEST_GAIN / dt)               else.

    At dt x > 1 a plain step leaps past the balance with the neighbours, momentum carries it on, and
    once |psi|^2 is far below the diagonal shift no gradient brings the configuration back: the run
    converges, with small variance, to the ground state of what is left. The implicit step
    psi <- psi / (1 + dt x) decays as slowly as it must; for small dt x they are the same. A draw of
    a configuration that was empty has an x of -10^4 and more: it would carry all others along, and
    momentum multiplies what it gains. (docs/decisions.md, Time steps and Strong repulsion.)
    """
    above = excess.real.clamp(min=0)
    below = excess.real.clamp(min=-LARGEST_GAIN / time_step, max=0)
    damped = torch.log1p(time_step * above) / time_step + below
    return torch.complex(damped, excess.imag) if excess.is_complex() else damped


def with_target_weights(samples: Samples, excess: Tensor, time_step: float) -> Samples:
    """The samples with weights w (dt x)^2 where x = Re(E_loc - E) < -1 / dt.

    There the step asks for an amplitude psi_T = (1 - dt x) psi that is a multiple of the one that
    is there, and |psi|^2 says nothing of how much that matters: the weight of a configuration that
    has become empty vanishes with psi, so that no gradient would ever bring it back, though psi_T,
    dt times its neighbours' amplitudes, is far from 0. So such a row counts as |psi_T|^2 does.
    (docs/decisions.md, Strong repulsion.)
    """
    gain = (-time_step * excess.real).clamp(min=1.0)
    if not bool((gain > 1).any()):  # CPU-GPU sync
        return samples
    importance = gain.square() if samples.importance is None else samples.importance * gain.square()
    return dataclasses.replace(samples, importance=importance)


def solve_shifted(gram: Tensor, right: Tensor, shift: float) -> Tensor:
    """(gram + shift)^-1 right by Cholesky in float64; by eigenvalues where rounding defeats it."""
    shifted = gram + shift * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    if not int(failed):
        return torch.cholesky_solve(right[:, None], factor).squeeze(1)
    values, vectors = torch.linalg.eigh(gram)
    return vectors @ ((vectors.T @ right) / (values.clamp(min=0) + shift))
