"""A fixed number of 1 bits: normalised on its configurations, zero elsewhere, never NaN."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from systems import (
    SYSTEMS,
    all_probabilities,
    build_core,
    every_system,
    numbers,
    random_bits,
)
from torch import Tensor
from torch.testing import assert_close

from hamiltonians import J1J2, XXZ
from hamiltonians.exact import basis, ground_state
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Chain, Lattice, Square
from hamiltonians.pauli import PauliSum
from nqs.vmc.energies import Blurred
from nqs.vmc.evaluation import evaluate
from nqs.vmc.optimise import optimise
from nqs.vmc.optimizers.natural_gradient import NaturalGradient
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.patches import Patches

EXACT = {"rtol": 0.0, "atol": 1e-12}
both_strategies = pytest.mark.parametrize("model", ["ptf", "gru"])


def build(
    model: str,
    lattice: Lattice,
    spec: str | Sequence[Sequence[int]],
    n_up: int,
    *,
    dtype: torch.dtype = torch.float64,
) -> Autoregressive:
    """Every parameter random."""
    generator = torch.Generator().manual_seed(0)
    patches = Patches.from_spec(lattice, spec)
    psi = Autoregressive(build_core(model, patches, generator), patches, n_up=n_up).to(dtype)
    with torch.no_grad():
        for parameter in psi.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.3 * noise
    return psi


def build_system(model: str, system: str, n_up: int | None = None) -> Autoregressive:
    lattice, spec = SYSTEMS[system]
    return build(model, lattice, spec, lattice.n_sites // 3 + 1 if n_up is None else n_up)


def in_sector(psi: Autoregressive, configs: Tensor) -> Tensor:
    return configs.sum(-1) == psi.n_up


def exchange_flips(n_sites: int) -> Tensor:
    """All pairs, and some larger patterns that keep the number of 1 bits for some configs only."""
    pairs = torch.combinations(torch.arange(n_sites))
    flips = torch.zeros(len(pairs), n_sites, dtype=torch.bool).scatter_(1, pairs, True)
    many = random_bits(5, n_sites, seed=1)
    return torch.cat([flips[:: 1 + len(flips) // 16], many[many.any(1)], torch.eye(n_sites).bool()])


@torch.no_grad()
def brute_force(psi: Autoregressive, configs: Tensor, flips: Tensor) -> Tensor:
    flipped = configs[:, None] ^ flips  # (B, G, N)
    return psi.log_psi(flipped.flatten(0, 1)).view(len(configs), len(flips))


@every_system
@both_strategies
def test_normalised_on_the_sector_and_zero_outside(model: str, system: str) -> None:
    psi = build_system(model, system)
    inside = in_sector(psi, basis(psi.n_sites))
    p = all_probabilities(psi)
    assert_close(p.sum(), torch.ones(()).double(), **EXACT)
    assert (p[inside] > 0).all() and (p[~inside] == 0).all()
    assert p.max() > 1.2 * p[inside].mean()  # not uniform


@pytest.mark.parametrize("n_up", range(8))
@both_strategies
def test_every_sector(model: str, n_up: int) -> None:
    """Empty and full ones too, in which one configuration is all there is."""
    psi = build(model, Chain(7), "3", n_up)
    p = all_probabilities(psi)
    assert_close(p.sum(), torch.ones(()).double(), **EXACT)
    assert int((p > 0).sum()) == math.comb(7, n_up)
    drawn = psi.sample(50, torch.Generator().manual_seed(0), unique=True)
    assert in_sector(psi, drawn.configs).all() and drawn.log_psi.isfinite().all()


@every_system
@both_strategies
@torch.no_grad()
def test_conditionals(model: str, system: str) -> None:
    """Slow twin: p(patch | earlier patches) by summing |psi|^2 over everything else."""
    psi = build_system(model, system)
    configs = basis(psi.n_sites)
    p, tokens = all_probabilities(psi), psi.patches.encode(configs)
    shown = configs[in_sector(psi, configs)][::40]
    logits, log_norms, _ = psi.conditionals(psi.inputs(psi.patches.encode(shown)))
    found = (logits - log_norms[:, :, None]).exp()  # (B, T, K)
    for row, token in enumerate(psi.patches.encode(shown)):
        for t in range(psi.patches.n_patches):
            before = (tokens[:, :t] == token[:t]).all(1)
            joint = torch.zeros(psi.patches.n_states, dtype=torch.float64)
            joint.index_add_(0, tokens[before, t], p[before])
            assert_close(found[row, t], joint / joint.sum(), rtol=1e-10, atol=1e-12)


@both_strategies
@torch.no_grad()
def test_later_patches_leave_earlier_conditionals_untouched(model: str) -> None:
    psi = build_system(model, "square-2x2")
    tokens = psi.patches.encode(random_bits(8, psi.n_sites))
    logits, _, _ = psi.conditionals(psi.inputs(tokens))
    for t in range(psi.patches.n_patches):
        changed = tokens.clone()
        changed[:, t] ^= 1
        others, _, _ = psi.conditionals(psi.inputs(changed))
        assert_close(others[:, : t + 1], logits[:, : t + 1], **EXACT)


@every_system
@both_strategies
def test_flips(model: str, system: str) -> None:
    """Against brute force: from inside and outside of the sector, into it and out of it."""
    psi = build_system(model, system)
    configs = basis(psi.n_sites)
    inside = in_sector(psi, configs)
    configs = torch.cat([configs[inside][::150], configs[~inside][::600]])
    flips = exchange_flips(psi.n_sites)
    expected = brute_force(psi, configs, flips)
    left = ~in_sector(psi, configs[:, None] ^ flips)
    assert left.any() and not left.all() and (expected[left] == -torch.inf).all()
    assert_close(psi.log_psi_flipped(configs, flips), expected, **EXACT)
    needed = random_bits(len(configs) * len(flips), 1).view(len(configs), -1)
    masked = torch.where(needed, expected, -torch.inf)
    for max_rows in (7, 32_768):
        found = psi.log_psi_flipped(configs, flips, needed, max_rows=max_rows)
        assert_close(found, masked, **EXACT)
    assert_close(psi.log_psi_flipped(configs, flips, max_rows=7), expected, **EXACT)


@pytest.mark.parametrize("unique", [False, True])
@pytest.mark.parametrize("system", ["chain-3", "square-2x3", "kagome-2x1", "groups"])
@both_strategies
def test_samples(model: str, system: str, unique: bool, generator, assert_distribution) -> None:
    """Chi-square at the false-alarm rate of conftest.py; nothing outside is ever drawn."""
    psi = build_system(model, system)
    samples = psi.sample(6_000, generator, unique=unique, max_rows=64 if unique else 6_000)
    counts = torch.zeros(2**psi.n_sites, dtype=torch.int64)
    counts.index_add_(0, numbers(samples.configs), samples.counts)
    assert in_sector(psi, samples.configs).all()
    assert_distribution(counts, all_probabilities(psi))
    assert_close(samples.log_psi, psi.log_psi(samples.configs).detach(), **EXACT)


@every_system
def test_product_state_projected_on_the_sector(system: str) -> None:
    """|psi|^2 = prod_i p_i^{n_i} (1 - p_i)^{1 - n_i} / norm in the sector; at first it is even."""
    psi = build_system("gru", system)
    inside = in_sector(psi, basis(psi.n_sites))
    generator = torch.Generator().manual_seed(1)
    chances = 0.02 + 0.96 * torch.rand(psi.n_sites, generator=generator, dtype=torch.float64)
    psi.set_product_state(chances, spread=0.0)
    product = torch.where(basis(psi.n_sites), chances, 1 - chances).prod(1) * inside
    assert_close(all_probabilities(psi), product / product.sum(), rtol=1e-10, atol=0)
    saved = {name: value.clone() for name, value in psi.state_dict().items()}
    psi.set_product_state(torch.full((psi.n_sites,), 0.5), spread=0.0)
    assert_close(all_probabilities(psi), inside / inside.sum().double(), rtol=1e-10, atol=0)
    other = build_system("gru", system)
    other.load_state_dict(saved)  # the table of completions belongs to the state
    assert_close(all_probabilities(other), product / product.sum(), rtol=1e-10, atol=0)


def test_gradients_are_numbers() -> None:
    """Also of a configuration outside, whose ln psi is -inf; inside by central differences."""
    psi = build("ptf", Square(2, 3), "2x2", 3)
    configs = basis(6)
    inside = in_sector(psi, configs)
    weights = torch.linspace(-1, 1, 64, dtype=torch.float64)

    def value() -> Tensor:
        return weights[inside] @ psi.log_psi(configs[inside])

    parameters = list(psi.parameters())
    gradient = torch.autograd.grad(value(), parameters)
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
    values = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            for p, d in zip(parameters, direction, strict=True):
                p += step * d
            values.append(float(value()))
    expected = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(expected, rel=1e-6)
    outside = psi.log_psi(configs[~inside])
    assert (outside == -torch.inf).all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(outside.sum(), parameters))


@both_strategies
@torch.no_grad()
def test_float32(model: str) -> None:
    double, single = build_system(model, "square-2x2"), build_system(model, "square-2x2").float()
    configs = basis(12)[in_sector(double, basis(12))]
    assert_close(single.log_psi(configs), double.log_psi(configs), rtol=0, atol=2e-5)
    assert abs(float(all_probabilities(single).sum()) - 1) < 1e-5


@pytest.mark.parametrize(
    "hamiltonian",
    [
        XXZ(Chain(7), Delta=0.6, h=0.3, marshall=True),
        J1J2(Square(2, 3), J2=0.4, marshall=False),
        # XX and YY that cancel up to rounding only: a flip that hardly acts leaves the sector
        PauliSum(
            5,
            [
                (c, {i: s, i + 1: s})
                for i in range(4)
                for s, cs in (("X", (0.1, 0.2)), ("Y", (0.3,)))
                for c in cs
            ],
        ),
    ],
    ids=["xxz", "j1j2", "rounding"],
)
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_draws_around_stay_in_the_sector(
    hamiltonian: Hamiltonian, fraction: float, generator: torch.Generator
) -> None:
    psi = build("ptf", Chain(hamiltonian.n_sites), "3", 2)
    drawn = Blurred(flip_fraction=fraction).draw(psi, hamiltonian, 500, generator)
    samples, e_loc = drawn.samples, drawn.e_loc
    assert in_sector(psi, samples.configs).all() and len(samples.configs) > 5
    assert e_loc.isfinite().all() and samples.weights.isfinite().all()


@both_strategies
def test_the_loop_finds_the_sectors_ground_state(model: str) -> None:
    """Below the other sectors' energies it never gets; 2e-3 from the exact one at the end."""
    hamiltonian = XXZ(Chain(8, True), Delta=0.7, h=0.3, marshall="auto")
    exact = ground_state(hamiltonian, n_up=3).energy
    assert ground_state(hamiltonian).energy < exact - 0.5
    psi = build(model, Chain(8), "3", 3)
    psi.set_product_state(torch.full((8,), 0.5))
    generator = torch.Generator().manual_seed(0)
    optimizer = NaturalGradient(0.1).prepare(hamiltonian, n_steps=60)
    optimise(psi, hamiltonian, optimizer, n_steps=60, n_samples=256, generator=generator)
    found = evaluate(psi, hamiltonian, 4_000, generator)
    assert found.energy == pytest.approx(exact, rel=2e-3)
    assert found.energy > exact - 5 * found.energy_error


@pytest.mark.parametrize("n_up", [-1, 8])
def test_impossible_sectors(n_up: int) -> None:
    patches = Patches.from_spec(Chain(7), "3")
    core = build_core("gru", patches, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=rf"n_up={n_up} must be in 0\.\.7, the number of sites"):
        Autoregressive(core, patches, n_up=n_up)
