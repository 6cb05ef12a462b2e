"""How local flips are: what near patches leave out, and what exact flips of a few cost and mend.

    python -m benchmarks.flip_locality [--sides 8,12,16] [--steps 20] [--runs RUN,RUN]
        [--radius 1.5] [--samples 256] [--repeats 3] [--seed 0] [--out flip_locality]

Default runs on L x L Rydberg arrays, V = 7, delta = Omega = 1, after --steps steps, or the newest
checkpoints of the folders --runs. For 1/4, 1/8 and 1/16 of the flips exact (see
nqs.vmc.energies.near_flips), on draws of |psi|^2:

    tokens        share of the exact pass's positions that the near patches need
    rms           of the near patches' error of E_loc alone, in standard deviations of E_loc
    bias, z       the mean of that error per site, and in its standard errors
    z corrected   the same with the exact flips: a standard normal number
    z weights     of the energy if also the weights of moved draws were approximate (eps = 0.5)
    damping       systematic part of what the noise does to the implicit step's energies, in their
                  standard deviations
    added         variance that the choice of exact flips adds, over the variance of E_loc
    gain          seconds of the exact pass over those of near patches and exact flips, divided
                  by 1 + added; passes alternate, medians of --repeats

Writes flip_locality.csv into --out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nqs.cli.train import load_config

# isort: split
import torch
from torch import Tensor

from benchmarks.arguments import Parser, made, positive, sample_number, seed, whole_number
from benchmarks.tables import Rows, aligned
from hamiltonians.hamiltonian import Hamiltonian
from nqs.ground_states.build import (
    build,
    build_hamiltonian,
    build_lattice,
    start_from_product_state,
)
from nqs.ground_states.ground_state_run import advance
from nqs.ground_states.run_folder import read_config
from nqs.ground_states.start import network, read_wavefunction
from nqs.vmc.energies import Blurred, NearFlips
from nqs.vmc.energies.local_energy import terms
from nqs.vmc.energies.near_flips import combined, random_subsets
from nqs.vmc.energies.proposal import importance
from nqs.vmc.optimizers.natural_gradient import implicit_energies
from nqs.vmc.optimizers.time_step import time_step
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.nearby import near_groups, nearby_log_ratios
from nqs.wavefunctions.wavefunction import Samples

SHARES = (4, 8, 16)
"""Flips for each exact one."""
REDRAWS = 64
"""Choices of the exact flips that the damping's bias is averaged over, twice."""
MOVED = 0.5


@dataclass(frozen=True)
class State:
    """A wavefunction to be measured; step: of its optimisation."""

    name: str
    psi: Autoregressive
    hamiltonian: Hamiltonian
    step: int


@dataclass(frozen=True)
class Row:
    """One state at one share of exact flips; see the top of this file."""

    state: str
    step: int
    n_sites: int
    n_patches: int
    rows: int
    radius: float
    exact_flips: int
    n_flips: int
    variance: float
    tokens: float
    rms: float
    bias_per_site: float
    bias_z: float
    corrected_z: float
    weights_bias_per_site: float
    weights_z: float
    damping: float
    added: float
    exact_seconds: float
    near_seconds: float
    subset_seconds: float
    gain: float


@dataclass(frozen=True)
class Terms:
    """H_g r_g and H_g r~_g (U, G) of distinct samples with weights (U,), and their E_loc (U,)."""

    weights: Tensor
    exact: Tensor
    near: Tensor
    e_loc: Tensor

    @property
    def variance(self) -> float:
        return float(self.weights @ (self.e_loc - self.weights @ self.e_loc).square())


def trained(side: int, n_steps: int, number: int) -> State:
    """The default run on a side x side array after n_steps steps."""
    words = [f"lattice.Lx={side}", f"lattice.Ly={side}", f"train.steps={n_steps}", f"seed={number}"]
    job = build(load_config(words))
    start_from_product_state(job)
    advance(job, 0, lambda record: False)
    return State(f"{side}x{side}", network(job.wavefunction), job.hamiltonian, n_steps)


def of_run(path: Path) -> State:
    """The newest checkpoint of a run. Raises ValueError if there is none, and for symmetrised
    states, which have no near flips."""
    config = read_config(path)
    psi, step = read_wavefunction(path, config)
    if not isinstance(psi, Autoregressive):
        raise ValueError(f"{path}: trained with symmetries; give a run without")
    hamiltonian = build_hamiltonian(config.hamiltonian, build_lattice(config.lattice))
    return State(path.name, psi, hamiltonian, step)


def all_terms(state: State, samples: Samples, radius: float) -> Terms:
    """Of all flips, exact and near."""
    psi, hamiltonian = state.psi, state.hamiltonian
    elements = hamiltonian.off_diagonal(samples.configs)
    log_flipped = psi.log_psi_flipped(samples.configs, hamiltonian.flips)
    exact = terms(elements, log_flipped - samples.log_psi[:, None])
    near = terms(elements, nearby_log_ratios(psi, samples.configs, hamiltonian.flips, radius))
    e_loc = hamiltonian.diagonal(samples.configs) + exact.sum(1)
    return Terms(samples.weights, exact, near, e_loc)


def token_share(state: State, radius: float) -> float:
    """Positions computed for near patches over those of all later patches."""
    changes = state.psi.patches.encode(state.hamiltonian.flips)
    groups = list(near_groups(changes, state.psi.patches.centres, radius))
    last = changes.shape[1] - 1
    near = sum(len(group) * len(places) for _, group, places in groups)
    return near / sum(len(group) * (last - first) for first, group, _ in groups)


def mean_and_z(weights: Tensor, errors: Tensor, counts: Tensor) -> tuple[float, float]:
    """Weighted mean of errors (U,) and the same in standard errors of the draws."""
    mean = weights @ errors
    each = weights / counts
    error = (weights @ (each * (errors - mean).square())).sqrt()
    return float(mean), float(mean / error)


def weights_bias(
    state: State, n_samples: int, radius: float, generator: torch.Generator
) -> tuple[float, float]:
    """Shift of the energy by approximate weights of moved draws, and in its standard errors."""
    psi, hamiltonian = state.psi, state.hamiltonian
    drawn = Blurred(flip_fraction=MOVED).draw(psi, hamiltonian, n_samples, generator)
    samples, e_loc = drawn.samples, drawn.e_loc
    assert samples.importance is not None
    near = nearby_log_ratios(psi, samples.configs, hamiltonian.flips, radius)
    elements = hamiltonian.off_diagonal(samples.configs)
    share = samples.counts.double() / samples.n_samples
    approximate = importance(elements, near, MOVED)
    approximate = approximate / (share @ approximate)
    exact = samples.importance / (share @ samples.importance)
    shifts = approximate * (e_loc - share @ (approximate * e_loc))
    shifts = shifts - exact * (e_loc - share @ (exact * e_loc))  # influences: mean 0
    shift = float(share @ ((approximate - exact) * e_loc))
    error = float((share @ shifts.square() / samples.n_samples).sqrt())
    return shift, shift / error


def damping_bias(state: State, found: Terms, n_exact: int, generator: torch.Generator) -> float:
    """Root mean square, over samples, of mean_M f(E(s, M)) - f(E_loc), f the implicit step's.

    From the product of two independent averages over REDRAWS subsets, so that what is left of the
    noise does not count; in standard deviations of f(E_loc).
    """
    dt, mean = time_step(state.hamiltonian), found.weights @ found.e_loc
    diagonal = found.e_loc - found.exact.sum(1) - mean
    plain = implicit_energies(found.e_loc - mean, dt)
    halves = []
    for _ in range(2):
        total = torch.zeros_like(plain)
        for _ in range(REDRAWS):
            subsets = random_subsets(*found.exact.shape, n_exact, generator, plain.device)
            e_off, _ = combined(found.near, found.exact.gather(1, subsets), subsets)
            total += implicit_energies(diagonal + e_off, dt) - plain
        halves.append(total / REDRAWS)
    square = float(found.weights @ (halves[0] * halves[1]))
    spread = float(found.weights @ (plain - found.weights @ plain).square())
    return max(0.0, square / spread) ** 0.5


def seconds(work: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each, taken in turns."""
    taken: list[list[float]] = [[] for _ in work]
    for _ in range(repeats):
        for times, action in zip(taken, work, strict=True):
            began = time.perf_counter()
            action()
            times.append(time.perf_counter() - began)
    return [statistics.median(times) for times in taken]


@torch.no_grad()
def measured(state: State, args: argparse.Namespace) -> Iterator[Row]:
    """A row for each of SHARES."""
    generator = torch.Generator().manual_seed(args.seed)
    psi, flips, radius = state.psi, state.hamiltonian.flips, args.radius
    samples = psi.sample(args.samples, generator, unique=True)
    found = all_terms(state, samples, radius)
    errors = (found.near - found.exact).sum(1)
    bias, bias_z = mean_and_z(found.weights, errors, samples.counts)
    rms = float((found.weights @ (errors - bias).square()).sqrt()) / found.variance**0.5
    weights = weights_bias(state, args.samples, radius, generator)
    sizes = [
        NearFlips(flip_radius=radius, exact_fraction=1 / share).n_exact(len(flips))
        for share in SHARES
    ]
    chosen = [random_subsets(len(samples.counts), len(flips), m, generator, flips.device)
              for m in sizes]  # fmt: skip
    masks = [torch.zeros_like(found.exact, dtype=torch.bool).scatter_(1, s, True) for s in chosen]
    exact, near, *subset = seconds(
        [
            lambda: psi.log_psi_flipped(samples.configs, flips),
            lambda: nearby_log_ratios(psi, samples.configs, flips, radius),
            *(lambda m=mask: psi.log_psi_flipped(samples.configs, flips, m) for mask in masks),
        ],
        args.repeats,
    )
    for n_exact, subsets, taken in zip(sizes, chosen, subset, strict=True):
        e_off, noise = combined(found.near, found.exact.gather(1, subsets), subsets)
        left = e_off - found.exact.sum(1)
        added = float(found.weights @ noise) / found.variance
        yield Row(
            state=state.name,
            step=state.step,
            n_sites=state.hamiltonian.n_sites,
            n_patches=psi.patches.n_patches,
            rows=len(samples.counts),
            radius=radius,
            exact_flips=n_exact,
            n_flips=len(flips),
            variance=found.variance,
            tokens=token_share(state, radius),
            rms=rms,
            bias_per_site=bias / state.hamiltonian.n_sites,
            bias_z=bias_z,
            corrected_z=mean_and_z(found.weights, left, torch.ones_like(samples.counts))[1],
            weights_bias_per_site=weights[0] / state.hamiltonian.n_sites,
            weights_z=weights[1],
            damping=damping_bias(state, found, n_exact, generator),
            added=added,
            exact_seconds=exact,
            near_seconds=near,
            subset_seconds=taken,
            gain=exact / (near + taken) / (1 + added),
        )


def table(rows: Sequence[Row]) -> str:
    """As text."""
    head = ("state", "step", "exact", "tokens", "rms", "bias/N", "z", "z corr.", "z weights",
            "damping", "added", "exact s", "near s", "subset s", "gain")  # fmt: skip
    lines = [
        (
            row.state, str(row.step), f"{row.exact_flips}/{row.n_flips}", f"{row.tokens:.3f}",
            f"{row.rms:.2f}", f"{row.bias_per_site:.1e}", f"{row.bias_z:.1f}",
            f"{row.corrected_z:.1f}", f"{row.weights_z:.1f}", f"{row.damping:.3f}",
            f"{row.added:.2f}", f"{row.exact_seconds:.2f}", f"{row.near_seconds:.2f}",
            f"{row.subset_seconds:.2f}", f"{row.gain:.2f}",
        )
        for row in rows
    ]  # fmt: skip
    return aligned([head, *lines])


def sides(text: str) -> tuple[int, ...]:
    """Comma-separated sides >= 2."""
    values = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    if min(values) < 2:
        raise ValueError
    return values


sides.__name__ = "list of sides >= 2 such as 8,12"


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m benchmarks.flip_locality",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--sides", type=sides, default=(8, 12, 16))
    parser.add_argument("--steps", type=whole_number, default=20)
    parser.add_argument("--runs", type=lambda text: [Path(part) for part in text.split(",")])
    parser.add_argument("--radius", type=positive, default=1.5)
    parser.add_argument("--samples", type=sample_number, default=256)
    parser.add_argument("--repeats", type=whole_number, default=3)
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--out", type=Path, default=Path("flip_locality"))
    args = parser.parse_args(argv)
    try:
        made(args.out)
        found = Rows(args.out / "flip_locality.csv", Row, ("state", "radius", "exact_flips"))
        for source in args.runs or args.sides:
            by_run = isinstance(source, Path)
            state = of_run(source) if by_run else trained(source, args.steps, args.seed)
            for row in measured(state, args):
                found.add(row)
            print(table([row for row in found.rows if row.state == state.name]), flush=True)
    except (ValueError, TypeError) as error:
        parser.error(" ".join(str(error).split()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
