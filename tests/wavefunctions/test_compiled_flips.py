"""The compiled flip pass against its twin in torch: shapes, masks, precision, extreme values."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from compiled_shapes import EXACT, OPTIONS, SIZES, THERE, factored, needs_compiler
from covering import pairwise
from systems import SYSTEMS, build_system, random_bits
from torch import Tensor, nn
from torch.testing import assert_close

from hamiltonians.lattices.lattice import Chain, Square
from nqs.core.native import branches, build, network
from nqs.core.native.branches import task_rows
from nqs.core.native.network import gelu_terms
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.patches import Patches
from nqs.wavefunctions.symmetrised import Symmetrised


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """As many threads as before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def patterns(n_sites: int) -> Tensor:
    """Single flips, neighbours, some of many sites, and all sites."""
    one = torch.eye(n_sites).bool()
    many = random_bits(4, n_sites, 3)
    return torch.cat([one, one | one.roll(1, 1), many[many.any(1)], torch.ones_like(one[:1])])


def in_torch(psi: Autoregressive, *arguments: Tensor, **options: int) -> Tensor:
    """The twin: the pass that hooks must see."""
    hook = psi.core.register_forward_hook(lambda *_: None)
    result = psi.log_psi_flipped(*arguments, **options)
    hook.remove()
    return result


def compiled(psi: Autoregressive, *arguments: Tensor, **options: int) -> Tensor:
    assert psi.flip_pass() == f"compiled ({THERE.description})"
    return psi.log_psi_flipped(*arguments, **options)


SHAPES = pairwise(list(SYSTEMS), SIZES, [1, 2, 3], ["gelu", "relu", "silu"], OPTIONS)


@needs_compiler
@pytest.mark.parametrize(("system", "sizes", "n_layers", "activation", "options"), SHAPES)
def test_every_shape(
    system: str,
    sizes: dict[str, int],
    n_layers: int,
    activation: str,
    options: dict[str, object],
) -> None:
    """All flips of 21 configurations, and those that a mask leaves, the rest at -inf."""
    lattice, spec = SYSTEMS[system]
    psi = factored(
        Patches.from_spec(lattice, spec),
        n_layers=n_layers,
        activation=activation,
        **sizes,
        **options,
    )
    configs, flips = random_bits(21, psi.n_sites), patterns(psi.n_sites)
    expected = in_torch(psi, configs, flips)
    assert_close(compiled(psi, configs, flips), expected, **EXACT)
    needed = random_bits(21 * len(flips), 1, 5).view(21, -1)
    needed[3], needed[4] = False, True
    masked = torch.where(needed, expected, -torch.inf)
    assert_close(compiled(psi, configs, flips, needed), masked, **EXACT)


@needs_compiler
@pytest.mark.parametrize(
    ("lattice", "spec"), [(Chain(1), "1"), (Chain(3), "3"), (Chain(2), "1"), (Square(2, 2), "2x1")]
)
@pytest.mark.parametrize("n_configs", [0, 1, 2, 33])
def test_few_of_anything(lattice: object, spec: str, n_configs: int) -> None:
    """One patch or two, no configuration or one; no flip is needed."""
    psi = factored(Patches.from_spec(lattice, spec), d_model=8, n_heads=2)
    configs, flips = random_bits(n_configs, psi.n_sites), torch.eye(psi.n_sites).bool()
    assert_close(compiled(psi, configs, flips), in_torch(psi, configs, flips), **EXACT)
    never = torch.zeros(n_configs, len(flips), dtype=torch.bool)
    assert (compiled(psi, configs, flips, never) == -torch.inf).all()
    assert compiled(psi, configs, flips[:0]).shape == (n_configs, 0)


@needs_compiler
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_rounding_of_float32(noise: float, activation: str) -> None:
    """The error against float64 is hardly larger than that of torch's own float32 pass."""
    patches = Patches.from_spec(Square(6, 6), "2x2")
    psi = factored(patches, dtype=torch.float32, noise=noise, activation=activation)
    configs, flips = random_bits(40, 36), torch.eye(36).bool()
    own, twin = compiled(psi, configs, flips), in_torch(psi, configs, flips)
    truth = in_torch(psi.double(), configs, flips)
    error, usual = (own - truth).abs(), (twin - truth).abs()
    assert 0 < error.square().mean() < 1.5 * usual.square().mean()
    assert error.max() < 2 * usual.max()
    if noise == 0:  # as a network starts
        assert error.max() < 2e-6


@needs_compiler
def test_weights_as_they_are_now() -> None:
    """Nothing of an earlier pass is kept, flips and their content included."""
    psi = factored(Patches.from_spec(Square(3, 4), "2x2"), d_model=8, n_heads=2)
    configs, flips = random_bits(9, 12), torch.eye(12).bool()
    for _ in range(3):
        assert_close(compiled(psi, configs, flips), in_torch(psi, configs, flips), **EXACT)
        with torch.no_grad():
            for parameter in psi.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        flips[0, 7] = ~flips[0, 7]
        assert_close(compiled(psi, configs, flips), in_torch(psi, configs, flips), **EXACT)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_and_tasks_change_no_bit(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does what shares a vector: some of the flips, some of the configurations."""
    psi = factored(Patches.from_spec(Square(4, 4), "2x2"), dtype=dtype, d_model=8, n_heads=2)
    configs, flips = random_bits(75, 16), patterns(16)
    torch.set_num_threads(1)
    expected = psi.log_psi_flipped(configs, flips)
    for n_threads, n_rows in itertools.product((1, 2, 5), (3, 16, 64)):
        torch.set_num_threads(n_threads)
        monkeypatch.setattr(branches, "TASK_ROWS", n_rows)
        assert torch.equal(psi.log_psi_flipped(configs, flips), expected)
        assert torch.equal(psi.log_psi_flipped(configs, flips, max_rows=7), expected)
    needed = random_bits(75 * len(flips), 1, 5).view(75, -1)
    some = psi.log_psi_flipped(configs[5:], flips, needed[5:])
    assert torch.equal(some[needed[5:]], expected[5:][needed[5:]])


def test_tasks_hold_every_sequence() -> None:
    """As many tasks for each thread; whole vectors of neighbours once there are enough."""
    for n_sequences, n_threads in itertools.product(range(1, 700, 13), (1, 2, 3, 16)):
        n_rows = task_rows(n_sequences, n_threads)
        assert 1 <= n_rows <= branches.TASK_ROWS
        assert n_rows <= branches.ALIGNMENT or n_rows % branches.ALIGNMENT == 0
    assert task_rows(512, 2) == 64 and task_rows(10, 2) == 5 and task_rows(100, 2) == 64


@needs_compiler
@pytest.mark.parametrize("n_up", [None, 6])
def test_closed_and_extreme_states(n_up: int | None) -> None:
    """64 states a patch, whole blocks of them closed; logits of thousands; psi of 0."""
    psi = factored(
        Patches.from_spec(Square(6, 3), "2x3"), n_up=n_up, d_model=8, n_heads=2, n_layers=1
    )
    psi.has_closed = True
    configs, flips = random_bits(20, 18), patterns(18)
    with torch.no_grad():
        for table in (psi.closed,) if n_up is None else psi.sector.unbind(1):
            if table[1, 40:].isfinite().any():  # some state must stay
                table[1, :40] = -torch.inf
        psi.bias.table[1] -= 1e3
        psi.bias.table[1, 60:] -= 4e3
        psi.bias.table[2, 1:] += 2e3
    expected = in_torch(psi, configs, flips)
    found = compiled(psi, configs, flips)
    assert (expected == -torch.inf).any() and expected.isfinite().any()
    assert not found.isnan().any()
    assert_close(found, expected, rtol=1e-13, atol=1e-10)


@needs_compiler
def test_long_sequences() -> None:
    """The product of 500 sums of 16 exponentials is beyond a float64."""
    sites = [list(range(begin, begin + 4)) for begin in range(0, 2_000, 4)]
    psi = factored(Patches(sites), noise=0.02, d_model=4, n_heads=1, n_layers=1)
    with torch.no_grad():
        psi.core.head.weight.mul_(0.01)
    configs, flips = random_bits(2, 2_000), torch.eye(2_000).bool()[[3, 1_990]]
    expected = in_torch(psi, configs, flips)
    assert (expected < -600).all()
    assert_close(compiled(psi, configs, flips), expected, rtol=1e-13, atol=0)


@needs_compiler
@pytest.mark.parametrize("poisoned", ["embedding", "head", "blocks.1.perceptron.contract"])
def test_numbers_that_are_none_stay_so(poisoned: str) -> None:
    """A network that has left the numbers has no ln psi, rather than a wrong one."""
    psi = factored(Patches.from_spec(Square(3, 4), "2x2"), d_model=8, n_heads=2)
    with torch.no_grad():
        psi.core.get_submodule(poisoned).weight.fill_(torch.nan)
    found = compiled(psi, random_bits(5, 12), torch.eye(12).bool())
    assert found.isnan().all()


@needs_compiler
def test_large_activations() -> None:
    """Far beyond where the Gaussian integral ends."""
    psi = factored(Patches.from_spec(Square(3, 4), "2x2"), d_model=8, n_heads=2)
    configs, flips = random_bits(9, 12), torch.eye(12).bool()
    with torch.no_grad():
        for block in psi.core.blocks:
            block.perceptron.expand.weight.mul_(300)
    expected = in_torch(psi, configs, flips)
    assert_close(compiled(psi, configs, flips), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("n_terms", "clamp", "error"), [(15, 5.25, 2e-7), (38, 8.3, 5e-15)])
def test_gelu(n_terms: int, clamp: float, error: float) -> None:
    """x Phi(x) as the source evaluates it, in float64, against torch; relative to |x| above 1."""
    *powers, end = gelu_terms(n_terms, clamp).tolist()
    assert end == clamp and len(powers) == n_terms
    x = torch.linspace(-20, 20, 40_001, dtype=torch.float64)
    inside = x.clamp(-clamp, clamp)
    s, q = 2 * (inside / clamp) ** 2 - 1, torch.zeros_like(x)
    for term in powers:
        q = q * s + term
    found = x.clamp(min=-clamp) * (0.5 + inside * q)
    expected = nn.functional.gelu(x)
    assert ((found - expected).abs() <= error * x.abs().clamp(min=1)).all()
    # rounding is not amplified: the powers' coefficients add up to q(0)
    assert abs(sum(map(abs, powers)) / (2 * torch.pi) ** -0.5 - 1) < (1e-4 if n_terms < 20 else 0.5)


def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "library", lambda *_: build.Library(None, "no compiler found"))


def test_without_a_compiler_all_is_as_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, switched off or not to be had; and it says so."""
    psi = factored(Patches.from_spec(Square(3, 4), "2x2"), d_model=8, n_heads=2)
    configs, flips = random_bits(9, 12), patterns(12)
    expected = in_torch(psi, configs, flips)
    with monkeypatch.context() as patched:
        patched.setenv("NQS_COMPILE", "0")
        assert psi.flip_pass() == "torch (NQS_COMPILE=0)"
        assert torch.equal(psi.log_psi_flipped(configs, flips), expected)
    no_compiler(monkeypatch)
    assert psi.flip_pass() == "torch (no compiler found)"
    assert torch.equal(psi.log_psi_flipped(configs, flips), expected)
    with pytest.raises(AssertionError):
        psi.core.branch_scorer()


def test_what_goes_the_way_of_torch() -> None:
    """One reason each; kept by symmetrised wavefunctions."""
    patches = Patches.from_spec(Square(3, 4), "2x2")
    psi = factored(patches, d_model=8, n_heads=2)
    assert psi.core.branch_obstacle() == "gradients"
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            assert psi.core.branch_obstacle() == "rounded products"
        hook = psi.core.register_forward_pre_hook(lambda *_: None)
        assert psi.flip_pass() == "torch (hooks, which would see nothing)"
        hook.remove()
        assert psi.bfloat16().flip_pass() == "torch (parameters of torch.bfloat16)"
        soft = build_system("ptf", "square-2x2")
        assert soft.flip_pass() == "torch (softmax attention)"
        group = Square(3, 4).point_group()
        assert Symmetrised(soft, group).flip_pass() == soft.flip_pass()
        other = build_system("gru", "square-2x2")
        assert other.flip_pass() == "torch (Recurrent has no compiled pass)"
        with pytest.raises(TypeError, match="no compiled pass"):
            other.core.branch_scorer()


def test_other_devices_go_the_way_of_torch(device: torch.device) -> None:
    psi = factored(Patches.from_spec(Square(3, 4), "2x2"), d_model=8, n_heads=2).to(device)
    if device.type != "cpu":
        assert psi.flip_pass().startswith("torch (runs on ")


@needs_compiler
def test_what_runs_is_known_where_gradients_are_taken() -> None:
    """As they are between the steps of a run; the flips themselves take none."""
    psi = factored(Patches.from_spec(Chain(6), "2"), d_model=8, n_heads=2)
    assert torch.is_grad_enabled()
    assert psi.has_compiled_flips() and psi.flip_pass().startswith("compiled (")
    psi.core.register_forward_hook(lambda *_: None)
    assert not psi.has_compiled_flips() and psi.flip_pass().startswith("torch (")
