"""Complex psi: phases beside the amplitudes' conditionals, in the same pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from covering import pairwise
from systems import (
    FEW_SYSTEMS,
    MODELS,
    SYSTEMS,
    build_core,
    every_case,
    every_system,
    numbers,
    random_bits,
)
from torch import Tensor
from torch.testing import assert_close

from hamiltonians import J1J2
from hamiltonians.exact import basis, ground_state
from hamiltonians.lattices.lattice import Square
from hamiltonians.lattices.symmetry_group import SymmetryGroup
from nqs.core.transformer import Transformer
from nqs.vmc.energies.local_energy import local_energies
from nqs.vmc.evaluation import evaluate
from nqs.vmc.optimise import optimise
from nqs.vmc.optimizers.gradient import energy_gradient, flat_gradient
from nqs.vmc.optimizers.layer_jacobians import LayerJacobians
from nqs.vmc.optimizers.natural_gradient import NaturalGradient, momentum_share
from nqs.vmc.optimizers.time_step import time_step
from nqs.vmc.product_state import complex_product_state
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.patches import Patches
from nqs.wavefunctions.symmetrised import Symmetrised

EXACT = {"rtol": 0.0, "atol": 1e-12}
SHIFT, MOMENTUM = 1e-3, 0.8
PLAIN: dict[str, Any] = {
    **{"max_norm": None, "implicit": False, "leverage": 1.0, "adaptive": False},
    **{"schedule": "constant", "final_shift_fraction": 1.0},
}
"""SPRING with constant steps, unbounded and with E_loc as it is."""


def build(
    model: str, patches: Patches, n_up: int | None = None, *, phase: bool = True, noise: float = 0.3
) -> Autoregressive:
    """Every parameter random (noise > 0)."""
    generator = torch.Generator().manual_seed(0)
    core = build_core(model, patches, generator, phase=phase)
    psi = Autoregressive(core, patches, n_up=n_up, phase=phase).double()
    with torch.no_grad():
        for parameter in psi.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += noise * drawn
    return psi


def build_system(model: str, system: str, n_up: int | None = None) -> Autoregressive:
    return build(model, Patches.from_spec(*SYSTEMS[system]), n_up)


def amplitudes_alone(psi: Autoregressive) -> Autoregressive:
    """The positive wavefunction of the same |psi|: the halves of head and bias without phases."""
    n_states = psi.patches.n_states
    model = "ptf" if isinstance(psi.core, Transformer) else "gru"
    modulus = build(model, psi.patches, psi.n_up, phase=False)
    state = psi.state_dict()
    for name, value in modulus.state_dict().items():
        state[name] = state[name][..., :n_states] if "bias.table" in name else state[name]
        if name == "sector" or name.startswith("core.head"):
            state[name] = (
                state[name][..., :n_states] if name == "sector" else state[name][:n_states]
            )
        assert state[name].shape == value.shape
    modulus.load_state_dict(state)
    return modulus


@torch.no_grad()
def brute_force(psi: Autoregressive, configs: Tensor, flips: Tensor) -> Tensor:
    flipped = configs[:, None] ^ flips  # (B, G, N)
    return psi.log_psi(flipped.flatten(0, 1)).view(len(configs), len(flips))


@pytest.mark.parametrize(
    ("model", "system", "n_up"), pairwise(["ptf", "gru"], list(SYSTEMS), [None, 3])
)
@torch.no_grad()
def test_modulus_is_that_of_the_positive_wavefunction(
    model: str, system: str, n_up: int | None
) -> None:
    """Normalised, with phases all over the circle; every site matters to them."""
    psi = build_system(model, system, n_up)
    configs = basis(psi.n_sites)
    log_psi = psi.log_psi(configs)
    assert log_psi.dtype == torch.complex128
    assert_close(log_psi.exp().abs().square().sum(), torch.ones(()).double(), **EXACT)
    assert_close(log_psi.real, amplitudes_alone(psi).log_psi(configs), **EXACT)
    assert log_psi.imag.isfinite().all()
    inside = configs[log_psi.real > -torch.inf]
    inside = inside[:: 1 + len(inside) // 40]
    for flip in torch.eye(psi.n_sites - 1, psi.n_sites).bool():
        flip = flip | flip.roll(1)  # two neighbours, that a sector may exchange
        moved = psi.log_psi(inside ^ flip)
        changes = (moved.imag - psi.log_psi(inside).imag)[moved.real > -torch.inf]
        assert changes.abs().max() > 0.01


@every_case
@torch.no_grad()
def test_phase_is_a_sum_over_patches(model: str, system: str) -> None:
    """The term of patch t does not change with later patches; the sum is the phase of psi."""
    psi = build_system(model, system)
    tokens = psi.patches.encode(random_bits(8, psi.n_sites))

    def terms(tokens: Tensor) -> Tensor:
        logits, log_norms, _ = psi.conditionals(psi.inputs(tokens))
        return psi.chosen(logits, log_norms, tokens)  # (B, T)

    original = terms(tokens)
    assert_close(original.sum(1), psi.log_psi(psi.patches.decode(tokens)), **EXACT)
    for t in range(psi.patches.n_patches):
        changed = tokens.clone()
        changed[:, t] ^= 1
        assert_close(terms(changed)[:, :t], original[:, :t], **EXACT)
        assert (terms(changed)[:, t] - original[:, t]).imag.abs().max() > 1e-3


@pytest.mark.parametrize("n_up", [None, 3])
@pytest.mark.parametrize(
    ("model", "system"),
    [
        *((model, system) for model in ("ptf", "gru") for system in FEW_SYSTEMS),
        *((model, "square-2x3") for model in MODELS),
    ],
)
def test_flips(model: str, system: str, n_up: int | None) -> None:
    psi = build_system(model, system, n_up)
    configs = random_bits(4, psi.n_sites)
    configs[:2] = False
    configs[:2, :3] = True  # 3 up
    pairs = torch.combinations(torch.arange(psi.n_sites))[::3]
    flips = torch.zeros(len(pairs), psi.n_sites, dtype=torch.bool).scatter_(1, pairs, True)
    flips = torch.cat([flips, torch.eye(psi.n_sites).bool()])
    expected = brute_force(psi, configs, flips)
    found = psi.log_psi_flipped(configs, flips)
    assert found.dtype == torch.complex128
    assert_close(found, expected, **EXACT)
    assert not found.imag.isnan().any()
    assert n_up is None or (found.exp() == 0).any()
    needed = random_bits(4 * len(flips), 1).view(4, -1)
    for max_rows in (5, 32_768):
        part = psi.log_psi_flipped(configs, flips, needed, max_rows=max_rows)
        assert_close(part[needed], found[needed], **EXACT)
        assert (part[~needed].real == -torch.inf).all()


@pytest.mark.parametrize("unique", [False, True])
@pytest.mark.parametrize("n_up", [None, 3])
@pytest.mark.parametrize("model", ["ptf", "gru"])
def test_samples(
    model: str, n_up: int | None, unique: bool, generator, assert_distribution
) -> None:
    """The law is |psi|^2; draws are those of the positive wavefunction, one by one."""
    psi = build_system(model, "chain-3", n_up)
    samples = psi.sample(4_000, generator, unique=unique)
    counts = torch.zeros(2**7, dtype=torch.int64)
    counts.index_add_(0, numbers(samples.configs), samples.counts)
    assert_distribution(counts, psi.log_psi(basis(7)).detach().exp().abs().square())
    assert_close(samples.log_psi, psi.log_psi(samples.configs).detach(), **EXACT)
    seeds = [torch.Generator().manual_seed(5) for _ in range(2)]
    twin = amplitudes_alone(psi).sample(100, seeds[0], unique=unique)
    assert torch.equal(psi.sample(100, seeds[1], unique=unique).configs, twin.configs)


@pytest.mark.parametrize("model", ["ptf", "gru"])
def test_minsr_is_the_dense_solve(model: str) -> None:
    """Jacobian [Re; Im] row by row, and SPRING's direction over two steps, in a sector."""
    psi = build(model, Patches.from_spec(Square(2, 3), "2x2"), 3)
    hamiltonian, old = J1J2(Square(2, 3), J2=0.5, marshall=False), None
    optimizer = NaturalGradient(0.1, diagonal_shift=SHIFT, momentum=MOMENTUM, **PLAIN)
    for seed in range(2):
        samples = psi.sample(60, torch.Generator().manual_seed(seed), unique=True)
        e_loc = local_energies(psi, hamiltonian, samples)
        rows = []
        for part in ("real", "imag"):
            for config in samples.configs:
                psi.zero_grad()
                getattr(psi.log_psi(config[None]), part).sum().backward()
                rows.append(flat_gradient(psi))
        jacobian = torch.stack(rows)  # (2 U, P)
        found = torch.empty_like(jacobian)
        for columns, panel in LayerJacobians(psi, samples.configs).panels(90):
            found[:, columns] = panel
        assert_close(found, jacobian, **EXACT)
        weights = samples.weights
        real, imag = (j - weights @ j for j in jacobian.split(len(weights)))
        o = torch.cat([weights.sqrt()[:, None] * j for j in (real, imag)])
        centred = e_loc - weights.to(e_loc.dtype) @ e_loc
        e = torch.cat([weights.sqrt() * x for x in (centred.real, centred.imag)])
        share = MOMENTUM * momentum_share(0.1 * centred, weights, SHIFT, psi.n_sites)
        kept = torch.zeros(o.shape[1], dtype=torch.float64) if old is None else share * old
        metric = o.T @ o + SHIFT * torch.eye(o.shape[1], dtype=torch.float64)
        old = torch.linalg.solve(metric, o.T @ (e - o @ kept)) + kept
        update = optimizer.update(psi, samples, e_loc)
        assert_close(update, -0.1 * old, rtol=0, atol=1e-10 * float(old.norm()))


def test_gradient_of_the_energy() -> None:
    """Of the enumerated energy of a non-stoquastic Hamiltonian by central differences."""
    psi = build("ptf", Patches.from_spec(Square(2, 3), "2x2"), 3)
    hamiltonian = J1J2(Square(2, 3), J2=0.5, marshall=False)
    configs = basis(6)[basis(6).sum(1) == 3]

    def energy() -> float:
        """sum_s |psi(s)|^2 E_loc(s), normalised: the weights are exact."""
        with torch.no_grad():
            log_psi = psi.log_psi(configs)
        flipped = brute_force(psi, configs, hamiltonian.flips)
        elements = hamiltonian.off_diagonal(configs)
        ratios = torch.where(elements == 0, 0, (flipped - log_psi[:, None]).exp())
        e_loc = hamiltonian.diagonal(configs) + (elements * ratios).sum(1)
        return float((2 * log_psi.real).exp() @ e_loc.real)

    samples = psi.sample(10, torch.Generator().manual_seed(0))
    with torch.no_grad():
        log_psi = psi.log_psi(configs)
    samples = type(samples)(
        configs, torch.ones(len(configs)).long(), log_psi, (2 * log_psi.real).exp()
    )
    gradient = energy_gradient(psi, samples, local_energies(psi, hamiltonian, samples))
    generator = torch.Generator().manual_seed(1)
    parameters = list(psi.parameters())
    direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
    parts = direction.split([p.numel() for p in parameters])
    values = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            for p, d in zip(parameters, parts, strict=True):
                p += step * d.view_as(p)
            values.append(energy())
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(gradient @ direction), rel=1e-6)


def test_sizes_that_do_not_fit() -> None:
    patches = Patches.from_spec(Square(2, 2), "2x1")
    core = build_core("ptf", patches, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="reads 5 tokens and writes 4; these patches need 5 and 8"):
        Autoregressive(core, patches, phase=True)


@pytest.mark.parametrize("n_up", [None, 3])
@every_system
@torch.no_grad()
def test_complex_product_state(system: str, n_up: int | None) -> None:
    """psi = prod_i sqrt(p_i) e^{i alpha_i s_i}, projected on the sector; alpha = 0 by default."""
    psi = build_system("gru", system, n_up)
    n_sites, configs = psi.n_sites, basis(psi.n_sites)
    generator = torch.Generator().manual_seed(1)
    chances = 0.1 + 0.8 * torch.rand(n_sites, generator=generator, dtype=torch.float64)
    alpha = 3 * torch.randn(n_sites, generator=generator, dtype=torch.float64)
    inside = configs.sum(1) == n_up if n_up is not None else torch.ones(len(configs)).bool()
    product = torch.where(configs, chances, 1 - chances).prod(1) * inside
    modulus = (product / product.sum()).sqrt()
    psi.set_product_state(chances, spread=0.0, phases=alpha)
    expected = torch.polar(modulus, configs.double() @ alpha)
    assert_close(psi.log_psi(configs).exp(), expected, rtol=1e-9, atol=1e-12)
    psi.set_product_state(chances, spread=0.0)
    assert_close(psi.log_psi(configs).exp(), modulus + 0j, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match=f"phases need phase=True and {n_sites} numbers"):
        psi.set_product_state(chances, phases=alpha[1:])


@pytest.mark.parametrize("model", ["ptf", "gru"])
def test_signs_are_found(model: str) -> None:
    """Frustrated magnet, no sign rule given: what a positive psi cannot reach, to 1 %."""
    hamiltonian = J1J2(Square(2, 4), J2=0.5, marshall=False)
    exact = ground_state(hamiltonian, n_up=4).energy
    psi = build(model, Patches.from_spec(Square(2, 4), "2x2"), 4, noise=0.0)
    generator = torch.Generator().manual_seed(0)
    chances, phases = complex_product_state(hamiltonian, generator, n_steps=150, n_samples=256)
    psi.set_product_state(chances, phases=phases)
    optimizer = NaturalGradient(
        0.05, diagonal_shift=1e-2, momentum=0.9, **PLAIN | {"max_norm": 0.3}
    )
    optimise(psi, hamiltonian, optimizer, n_steps=60, n_samples=256, generator=generator)
    found = evaluate(psi, hamiltonian, 4_000, generator)
    assert found.energy == pytest.approx(exact, rel=1e-2)
    assert found.energy > exact - 5 * found.energy_error
    # every off-diagonal element is positive, so a positive psi stays above the diagonal
    diagonal = hamiltonian.diagonal(basis(8)[basis(8).sum(1) == 4]).min()
    assert found.energy < float(diagonal) - 1


def test_signs_are_found_with_symmetries() -> None:
    """A torus without a sign rule, as orbits; momentum 0.9 stops at 1.3e-2, two of them empty."""
    lattice = Square(2, 4, periodic=True)
    hamiltonian = J1J2(lattice, J2=0.5, marshall=False)
    exact = ground_state(hamiltonian, n_up=4).energy
    base = build("ptf", Patches.from_spec(lattice, "2x2"), 4, noise=0.0)
    psi = Symmetrised(base, lattice.space_group() * SymmetryGroup.spin_flip(8))
    generator = torch.Generator().manual_seed(1)
    chances, phases = complex_product_state(hamiltonian, generator, n_steps=150, n_samples=256)
    psi.set_product_state(chances, phases=phases)
    optimizer = NaturalGradient(
        time_step(hamiltonian), diagonal_shift=1e-3, momentum=0.0, **PLAIN | {"max_norm": 0.25}
    )
    optimise(psi, hamiltonian, optimizer, n_steps=70, n_samples=1_024, generator=generator)
    assert evaluate(psi, hamiltonian, 4_000, generator).energy == pytest.approx(exact, rel=1e-3)
