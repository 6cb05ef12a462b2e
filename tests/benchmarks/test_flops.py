"""Counted operations against torch's counter on the products that are dispatched."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from benchmarks.core_flops import Call, conditional_flops
from benchmarks.flops import (
    flip_flops,
    flops,
    least_flops,
    prefix_counts,
    sampling_flops,
    update_flops,
)
from hamiltonians import Heisenberg, Rydberg
from hamiltonians.lattices.lattice import Chain, Square
from nqs.core import linear_attention
from nqs.vmc.optimizers import Adam, Optimizer
from nqs.vmc.optimizers.natural_gradient import NaturalGradient
from nqs.wavefunctions import flips as flip_pass
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.wavefunction import Samples
from tests.wavefunctions import systems
from tests.wavefunctions.systems import build, build_system, random_bits

aten = torch.ops.aten


def fused(query: Tensor, key: Tensor, value: Tensor, *more: object, **named: object) -> int:
    """q k^T and times v, on the full square."""
    return 4 * query.numel() * key.shape[2]


def fused_backward(grad: Tensor, query: Tensor, key: Tensor, *more: object, **named: object) -> int:
    """The scores once more, two products for each of the two."""
    return 10 * query.numel() * key.shape[2]


FORMULAS: dict[object, Callable[..., int]] = {
    **{op: flop_registry[op] for op in (aten.mm, aten.addmm, aten.bmm, aten.baddbmm)},
    aten._scaled_dot_product_flash_attention_for_cpu: fused,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: fused_backward,
    aten.mv: lambda matrix, vector, out_val=None: 2 * matrix.numel(),
    aten.linalg_cholesky_ex: lambda matrix, out_val=None: len(matrix) ** 3 // 3,
    aten.cholesky_solve: lambda right, factor, out_val=None: 2 * factor.numel() * right.shape[1],
}
UNKNOWN = {
    *(aten._scaled_dot_product_attention_math, aten._scaled_dot_product_efficient_attention),
    *(aten.linear, aten.matmul, aten.einsum, aten.convolution, aten.addmv, aten.addbmm),
}
"""Products that would go uncounted: none of them may reach the dispatcher."""


class Counter(TorchDispatchMode):
    """torch's formulas (FlopCounterMode's) for the products that are dispatched.

    Without that class's search for decompositions, which takes ten times as long as the step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        assert packet not in UNKNOWN
        if packet in FORMULAS:
            self.total += FORMULAS[packet](*args, out_val=out)
        return out


def counted(work: Callable[[], object]) -> int:
    with Counter() as counter:
        work()
    return counter.total


@pytest.mark.parametrize("model", ["factored", "gru", "linear", "ssm", "rnn2d"])
def test_the_counter_is_torchs(model: str) -> None:
    """Without fused attention, for which torch has no formula on a CPU."""
    psi = build(model, Chain(6), "2", dtype=torch.float32).requires_grad_(False)

    def draw() -> Samples:
        return psi.sample(20, generator(), unique=True)

    with FlopCounterMode(display=False) as theirs:
        draw()
    assert counted(draw) == theirs.get_total_flops() > 0


def scored(psi: Autoregressive, configs: Tensor) -> int:
    """Of ln psi without gradients, as a step takes it before its flips."""
    with torch.no_grad():
        return counted(lambda: psi.log_psi(configs))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


MODELS = list(systems.MODELS)
CASES = [(model, system) for model in MODELS for system in ("square-2x2", "single")]
every_case = pytest.mark.parametrize(("model", "system"), CASES)


def small(model: str, system: str, **options: object) -> Autoregressive:
    psi = build_system(model, system, dtype=torch.float32, **options)
    return psi.requires_grad_(False)


@every_case
def test_sampling_and_log_psi(model: str, system: str) -> None:
    """Independent and unique; few rows and more than the vocabulary has tokens."""
    psi = small(model, system)
    n_patches = psi.patches.n_patches
    for n in (3, 200):

        def draw(unique: bool, n: int = n) -> Samples:
            return psi.sample(n, generator(), unique=unique)

        assert counted(lambda: draw(False)) == sampling_flops(psi, [n] * n_patches)
        prefixes = prefix_counts(psi, draw(True).configs)
        assert counted(lambda: draw(True)) == sampling_flops(psi, prefixes)
        expected = conditional_flops(psi).forward(Call(n, n_patches))
        assert scored(psi, random_bits(n, psi.n_sites)) == expected


@pytest.mark.parametrize(
    ("model", "system", "launch"),
    [(*case, 4096) for case in CASES]
    + [(model, "chain-3", 12) for model in ("ptf", "factored", "lptf-factored")],
)
def test_flips(model: str, system: str, launch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All single flips; some of two sites, of which some are needed; launches whole and cut."""
    monkeypatch.setitem(flip_pass.LAUNCH_TOKENS, "cpu", launch)
    psi = small(model, system)
    n_sites = psi.n_sites
    flips = torch.eye(n_sites, dtype=torch.bool)
    both = torch.cat([flips, flips[:-2] | flips[2:]])
    configs = random_bits(5, n_sites)
    some = torch.rand(5, len(both), generator=generator()) < 0.7
    for patterns, needed, max_rows in (
        (flips, None, 32_768),
        (both, some, 32_768),
        (both, None, 7),
    ):
        found = counted(
            lambda: psi.log_psi_flipped(configs, patterns, needed, max_rows=max_rows)  # noqa: B023
        )
        assert found == flip_flops(psi, patterns, 5, needed, max_rows=max_rows)


def drawn_samples(psi: Autoregressive, n: int) -> Samples:
    configs = random_bits(n, psi.n_sites)
    return Samples(configs, torch.ones(n, dtype=torch.int64), psi.log_psi(configs).detach())


def update(psi: Autoregressive, samples: Samples, optimizer: Optimizer) -> Callable[[], object]:
    dtype = samples.log_psi.dtype
    e_loc = torch.randn(len(samples.counts), dtype=dtype, generator=generator())
    optimizer.update(psi, samples, e_loc)  # the second step has the momentum of the first
    return lambda: optimizer.update(psi, samples, e_loc)


def constant(memory_gb: float = 1.0) -> NaturalGradient:
    """Steps of a fixed size; memory_gb may be smaller than the key allows."""
    optimizer = NaturalGradient(0.05, momentum=0.9, schedule="constant", final_shift_fraction=1.0)
    optimizer.workspace.max_bytes = memory_gb * 2**30
    return optimizer


OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "adam": lambda: Adam(schedule="constant"),
    "kept": constant,
}


@every_case
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_updates(model: str, system: str, optimizer: str) -> None:
    """Adam; a natural gradient that keeps its Jacobian."""
    psi = build_system(model, system, dtype=torch.float32)
    samples, chosen = drawn_samples(psi, 9), OPTIMIZERS[optimizer]()
    expected = sum(update_flops(psi, 9, chosen))
    assert counted(update(psi, samples, chosen)) == expected


@pytest.mark.parametrize("model", ["factored", "gru", "lptf-gru"])
def test_updates_in_little_memory(model: str) -> None:
    """A Jacobian that is not kept takes one more pass; passes of later groups end early."""
    psi = build_system(model, "kagome-2x1", dtype=torch.float32)
    whole = 9 * sum(p.nbytes for p in psi.parameters())
    pulled, grouped = (constant(x * whole / 2**30) for x in (1.9, 0.3))
    assert counted(update(psi, drawn_samples(psi, 9), pulled)) == sum(update_flops(psi, 9, pulled))
    least = sum(update_flops(psi, 9, pulled))
    found = counted(update(psi, drawn_samples(psi, 9), grouped))
    assert least < found <= sum(update_flops(psi, 9, grouped))


@pytest.mark.parametrize("optimizer", ["adam", "kept"])
@pytest.mark.parametrize("model", ["factored", "gru", "lptf-gru"])
def test_updates_of_complex_states(model: str, optimizer: str) -> None:
    psi = build(model, Chain(8), "2", dtype=torch.float32, phase=True)
    chosen = OPTIMIZERS[optimizer]()
    expected = sum(update_flops(psi, 7, chosen))
    assert counted(update(psi, drawn_samples(psi, 7), chosen)) == expected


def test_in_parameter_space() -> None:
    psi = build("gru", Chain(3), "1", dtype=torch.float32)
    n = sum(p.numel() for p in psi.parameters()) + 1
    chosen = constant()
    assert counted(update(psi, drawn_samples(psi, n), chosen)) == sum(update_flops(psi, n, chosen))


def test_longer_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linear attention over several chunks, the last a single position or more."""
    monkeypatch.setattr(linear_attention, "CHUNK", 3)
    monkeypatch.setattr(linear_attention.linear_attention, "__kwdefaults__", {"chunk": 3})
    for n_sites in (7, 8):
        psi = build("linear", Chain(n_sites), "1", dtype=torch.float32)
        for optimizer in ("adam", "kept"):
            chosen = OPTIMIZERS[optimizer]()
            expected = sum(update_flops(psi, 5, chosen))
            assert counted(update(psi, drawn_samples(psi, 5), chosen)) == expected
        psi.requires_grad_(False)
        configs = random_bits(5, n_sites)
        expected = conditional_flops(psi).forward(Call(5, n_sites))
        assert scored(psi, configs) == expected


@pytest.mark.parametrize("model", MODELS)
def test_a_whole_step(model: str) -> None:
    """`flops` is the sum of what the parts of a step dispatch, on two Hamiltonians."""
    for hamiltonian in (Rydberg(Square(4, 3), V=7.0, delta=1.0), Heisenberg(Chain(12))):
        lattice = hamiltonian.lattice
        assert lattice is not None
        psi = build(model, lattice, "2", dtype=torch.float32)
        optimizer = constant()
        samples = psi.sample(30, generator(), unique=True)
        prefixes = prefix_counts(psi, samples.configs)
        stepped = update(psi, samples, optimizer)
        work = flops(psi, hamiltonian, samples, optimizer=optimizer, prefixes=prefixes)
        assert counted(stepped) == work.jacobian + work.gram + work.solve
        psi.requires_grad_(False)
        drawn = counted(lambda: psi.sample(30, generator(), unique=True))  # noqa: B023
        assert drawn == work.sampling
        before = scored(psi, samples.configs)
        needed = hamiltonian.off_diagonal(samples.configs) != 0
        flipped = counted(
            lambda: psi.log_psi_flipped(samples.configs, hamiltonian.flips, needed)  # noqa: B023
        )
        assert before + flipped == work.flips
        assert work.total == drawn + before + flipped + work.jacobian + work.gram + work.solve


@pytest.mark.parametrize("model", [name for name in MODELS if not name.endswith("-digits")])
def test_least_is_what_single_tokens_cost(model: str) -> None:
    """A token at a time, nothing shared, is a walk of one configuration: the core's own sampling.

    Of the sub-sampler's start at a large patch and of looked-up projections too. Not of digits:
    their tables, made at every step, are not counted as least.
    """
    psi = small(model, "square-2x2")
    one = conditional_flops(psi)
    walked = counted(lambda: psi.sample(1, generator()))
    assert walked == sum(one.token(t) for t in range(psi.patches.n_patches))


def test_least_flips_are_half_of_all_tokens() -> None:
    """N (T - 1) / 2 tokens a configuration, where every token costs the same."""
    hamiltonian = Rydberg(Square(6, 4), V=7.0, delta=1.0)
    psi = build("gru", Square(6, 4), "2x2")
    least = least_flops(psi, hamiltonian, 10)
    assert least.flips == 10 * 24 * 5 // 2 * conditional_flops(psi).token(0)
    half = least_flops(psi, hamiltonian, 10, terms=12.0)
    assert half.flips == least.flips // 2 and half.sampling == least.sampling


def test_utilisation_of_the_default_model_is_possible() -> None:
    """What is run is close to the least: sharing saves some, launches and squares add some."""
    lattice = Square(8, 8)
    hamiltonian = Rydberg(lattice, V=7.0, delta=1.0)
    psi = build("factored", lattice, "2x2", dtype=torch.float32)
    run, least = flops(psi, hamiltonian, 512), least_flops(psi, hamiltonian, 512)
    assert 0.4 < run.flips / least.flips < 1.1
    assert 0.9 < run.gram / least.gram < 1.4
    assert run.solve >= least.solve


def test_an_unknown_core_is_named() -> None:
    psi = build("gru", Chain(4), "2")
    psi.core = torch.nn.Identity()  # type: ignore[assignment]
    with pytest.raises(TypeError, match="Identity has no count of operations; known are Transf"):
        flops(psi, Rydberg(Chain(4), V=1.0, delta=1.0), 3)
