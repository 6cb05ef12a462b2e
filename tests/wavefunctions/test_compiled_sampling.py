"""Compiled steps and ln psi against their twins in torch, and the law of the draws."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from compiled_shapes import EXACT, OPTIONS, SIZES, factored, needs_compiler
from covering import pairwise
from systems import SYSTEMS, build_system, numbers, random_bits
from torch import Tensor
from torch.testing import assert_close

from hamiltonians.exact import basis
from hamiltonians.lattices.lattice import Chain, Square
from nqs.core.native import build, network, steps
from nqs.core.native.build import SWITCH
from nqs.core.native.steps import StepState
from nqs.core.sequence import SequenceState
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.patches import Patches
from nqs.wavefunctions.wavefunction import Samples

SMALL = {"d_model": 8, "n_heads": 2}
SHAPES = pairwise(list(SYSTEMS), SIZES, [1, 2, 3], ["gelu", "relu", "silu"], OPTIONS)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """As many threads as before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)


def compiled_start(psi: Autoregressive, n_rows: int) -> StepState:
    state = psi.core.compiled_start(psi.output_tables(), n_rows)
    assert state is not None
    return state


def conditionals(psi: Autoregressive, tokens: Tensor, state: SequenceState) -> Tensor:
    """ln p, and phases where there are any, (R, O), in torch; `state` is continued."""
    logits, log_norms, after = psi.conditionals(tokens[:, None], state)
    vars(state).update(vars(after))
    k = psi.patches.n_states
    log_probs = logits[:, 0, :k] - log_norms
    return torch.cat([log_probs, logits[:, 0, k:]], dim=1)


def normalised(psi: Autoregressive, outputs: Tensor) -> Tensor:
    k = psi.patches.n_states
    return torch.cat([outputs[:, :k].log_softmax(1), outputs[:, k:]], dim=1)


def drawn_in_torch(
    psi: Autoregressive, monkeypatch: pytest.MonkeyPatch, n_samples: int, seed: int, **options: int
) -> Samples:
    with monkeypatch.context() as patched:
        patched.setenv(SWITCH, "0")
        return psi.sample(n_samples, torch.Generator().manual_seed(seed), **options)


@needs_compiler
@pytest.mark.parametrize(("system", "sizes", "n_layers", "activation", "options"), SHAPES)
@torch.no_grad()
def test_every_shape(
    system: str,
    sizes: dict[str, int],
    n_layers: int,
    activation: str,
    options: dict[str, object],
) -> None:
    """ln p of all states along a tree of random branches, at every position; ln psi."""
    lattice, spec = SYSTEMS[system]
    patches = Patches.from_spec(lattice, spec)
    psi = factored(patches, n_layers=n_layers, activation=activation, **sizes, **options)
    generator = torch.Generator().manual_seed(8)
    tokens, twin, own = torch.full((1,), patches.n_states), psi.start(1), compiled_start(psi, 1)
    for _ in range(patches.n_patches):
        found = normalised(psi, own.read(tokens))
        assert_close(found, conditionals(psi, tokens, twin), **EXACT)
        branches = torch.randint(1, 5, (len(tokens),), generator=generator)
        rows = torch.arange(len(tokens)).repeat_interleave(branches)[:75]
        twin, own = twin.select(rows), own.branched(rows)
        tokens = torch.randint(patches.n_states, (len(rows),), generator=generator)
    configs = random_bits(21, psi.n_sites)
    found = psi.log_psi(configs)
    hook = psi.core.register_forward_hook(lambda *_: None)
    assert_close(found, psi.log_psi(configs), **EXACT)
    hook.remove()


DRAWS = pairwise(list(SYSTEMS), OPTIONS, [True, False], [32_768, 7], [1, 300])


@needs_compiler
@pytest.mark.parametrize(("system", "options", "unique", "max_rows", "n_samples"), DRAWS)
def test_same_draws(
    system: str,
    options: dict[str, object],
    unique: bool,
    max_rows: int,
    n_samples: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As torch's, from the same generator, whole frontiers and such that are cut."""
    lattice, spec = SYSTEMS[system]
    psi = factored(Patches.from_spec(lattice, spec), **SIZES[0], **options)
    kind = {"unique": unique, "max_rows": max_rows}
    expected = drawn_in_torch(psi, monkeypatch, n_samples, 5, **kind)
    found = psi.sample(n_samples, torch.Generator().manual_seed(5), **kind)
    assert torch.equal(found.configs, expected.configs)
    assert torch.equal(found.counts, expected.counts)
    assert_close(found.log_psi, expected.log_psi, **EXACT)


@needs_compiler
@pytest.mark.parametrize(
    ("dtype", "unique", "options"),
    [
        (torch.float32, True, {}),
        (torch.float32, False, {"n_up": 4}),
        (torch.float64, True, {"phase": True, "n_up": 3}),
    ],
)
def test_distribution(
    dtype: torch.dtype,
    unique: bool,
    options: dict[str, object],
    generator: torch.Generator,
    assert_distribution,
) -> None:
    """Chi-square at the false-alarm rate of conftest.py; probabilities by torch."""
    patches = Patches.from_spec(*SYSTEMS["honeycomb-2x1"])
    psi = factored(patches, dtype=dtype, **SMALL, **options)
    samples = psi.sample(8_000, generator, unique=unique)
    places = numbers(samples.configs)
    counts = torch.zeros(2**psi.n_sites, dtype=torch.int64).index_add_(0, places, samples.counts)
    log_psi = factored(patches, **SMALL, **options).log_psi(basis(psi.n_sites))
    assert log_psi.requires_grad  # so by torch
    assert_distribution(counts, (2 * log_psi.real).exp().detach())


@needs_compiler
@pytest.mark.parametrize(("lattice", "spec"), [(Chain(1), "1"), (Chain(3), "3"), (Chain(2), "1")])
@pytest.mark.parametrize("n_samples", [1, 2, 1_000_000])
def test_few_of_anything(
    lattice: Chain, spec: str, n_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One patch or two, one draw, and many draws of few configurations."""
    psi = factored(Patches.from_spec(lattice, spec), **SMALL)
    expected = drawn_in_torch(psi, monkeypatch, n_samples, 2, unique=True)
    found = psi.sample(n_samples, torch.Generator().manual_seed(2), unique=True)
    assert torch.equal(found.configs, expected.configs)
    assert torch.equal(found.counts, expected.counts)
    torch.set_num_threads(2)
    with torch.no_grad():
        assert psi.log_psi(found.configs[:0]).shape == (0,)
        assert_close(psi.log_psi(found.configs[:1]), expected.log_psi[:1], **EXACT)


@needs_compiler
@torch.no_grad()
def test_rounding_of_float32() -> None:
    """The error of ln psi of draws against float64 is hardly larger than that of torch."""
    psi = factored(Patches.from_spec(Square(6, 6), "2x2"), dtype=torch.float32)
    samples = psi.sample(300, torch.Generator().manual_seed(3), unique=True)
    own = psi.log_psi(samples.configs)
    hook = psi.core.register_forward_hook(lambda *_: None)
    twin = psi.log_psi(samples.configs)
    truth = psi.double().log_psi(samples.configs)
    hook.remove()
    usual = (twin - truth).abs()
    for error in ((samples.log_psi - truth).abs(), (own - truth).abs()):
        assert 0 < error.square().mean() < 1.5 * usual.square().mean()
        assert error.max() < 2 * usual.max()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_threads_and_neighbours_change_no_bit(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows at once, by any number of threads, and some of them by themselves."""
    patches = Patches.from_spec(Square(4, 4), "2x2")
    psi = factored(patches, dtype=dtype, n_up=7, **SMALL)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(patches.n_states, (patches.n_patches, 203), generator=generator)
    tokens[0] = patches.n_states

    def outputs(rows: Tensor) -> Tensor:
        state = compiled_start(psi, len(rows))
        return torch.stack([state.read(own[rows]) for own in tokens])

    configs = random_bits(203, 16)
    torch.set_num_threads(1)
    expected, log_psi = outputs(torch.arange(203)), psi.log_psi(configs)
    monkeypatch.setattr(steps, "PART", 1)
    for n_threads in (2, 3, 5):
        torch.set_num_threads(n_threads)
        assert torch.equal(outputs(torch.arange(203)), expected)
        assert torch.equal(psi.log_psi(configs), log_psi)
        for rows in (torch.tensor([7]), torch.arange(202, 0, -5)):
            assert torch.equal(outputs(rows), expected[:, rows])
            assert torch.equal(psi.log_psi(configs[rows]), log_psi[rows])


@needs_compiler
@torch.no_grad()
def test_any_rows_go_on() -> None:
    """Each row by itself, some twice, some not at all, in any order; copies stay apart."""
    patches = Patches.from_spec(Square(4, 4), "2x2")
    psi = factored(patches, n_up=7, **SMALL)
    start = torch.full((40,), patches.n_states)
    first, second = torch.arange(40) % 13, torch.arange(40) % 11
    rows = {
        "all": torch.arange(40),
        "more": torch.arange(40).repeat_interleave(torch.arange(40) % 3 + 1),
        "fewer": torch.arange(3, 39),
        "last": torch.tensor([39]),
        "reversed": torch.arange(39, -1, -1),
        "none": torch.arange(0),
    }
    for name, chosen in rows.items():
        twin, own = psi.start(40), compiled_start(psi, 40)
        for tokens in (start, first):
            own.read(tokens)
            conditionals(psi, tokens, twin)
        twin = twin.select(chosen)
        copied, branched = own.select(chosen), own.select(torch.arange(40)).branched(chosen)
        own.read(second)  # must not matter
        for tokens in (second[chosen], first[chosen]):
            expected = conditionals(psi, tokens, twin) if len(chosen) else None
            for state in (copied, branched):
                found = normalised(psi, state.read(tokens))
                assert found.shape == (len(chosen), patches.n_states), name
                assert expected is None or torch.allclose(found, expected, **EXACT), name


@needs_compiler
@torch.no_grad()
def test_no_more_than_there_is_room_for() -> None:
    psi = factored(Patches.from_spec(Chain(6), "2"), **SMALL)
    state = compiled_start(psi, 2)
    with pytest.raises(ValueError, match="3 tokens do not continue 2 rows"):
        state.read(torch.zeros(3, dtype=torch.int64))
    for _ in range(3):
        state.read(torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="position 4 is beyond length 3"):
        state.read(torch.zeros(2, dtype=torch.int64))


@needs_compiler
def test_weights_as_they_are_now(monkeypatch: pytest.MonkeyPatch) -> None:
    psi = factored(Patches.from_spec(Square(3, 4), "2x2"), **SMALL)
    for seed in range(3):
        expected = drawn_in_torch(psi, monkeypatch, 50, seed, unique=True)
        found = psi.sample(50, torch.Generator().manual_seed(seed), unique=True)
        assert torch.equal(found.configs, expected.configs)
        assert_close(found.log_psi, expected.log_psi, **EXACT)
        with torch.no_grad():
            for parameter in psi.parameters():
                parameter += 0.1 * torch.randn_like(parameter)


@needs_compiler
def test_gradients_of_ln_psi_are_torchs() -> None:
    psi = factored(Patches.from_spec(Square(3, 4), "2x2"), **SMALL)
    configs = random_bits(9, 12)
    assert psi.log_psi(configs).requires_grad
    with torch.no_grad():
        assert_close(psi.log_psi(configs), psi.log_psi(configs.clone()), **EXACT)


def test_what_goes_the_way_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """And gives the same draws, bit for bit, with no compiler as without its use."""
    psi = factored(Patches.from_spec(Square(3, 4), "2x2"), **SMALL)
    expected = drawn_in_torch(psi, monkeypatch, 60, 4, unique=True)
    hook = psi.core.register_forward_hook(lambda *_: None)
    hooked = psi.sample(60, torch.Generator().manual_seed(4), unique=True)
    hook.remove()

    def starts(model: Autoregressive) -> bool:
        return model.core.compiled_start(model.output_tables(), 1) is not None

    assert not starts(psi)  # gradients
    with torch.no_grad(), monkeypatch.context() as patched:
        assert not starts(build_system("ptf", "square-2x2"))
        assert not starts(build_system("gru", "square-2x2"))
        assert not starts(build_system("lptf-factored", "square-2x2"))
        patched.setattr(network, "library", lambda *_: build.Library(None, "no compiler found"))
        assert not starts(psi)
        without = psi.sample(60, torch.Generator().manual_seed(4), unique=True)
    for samples in (hooked, without):
        assert torch.equal(samples.configs, expected.configs)
        assert torch.equal(samples.log_psi, expected.log_psi)


@needs_compiler
def test_numbers_that_are_none_stay_so() -> None:
    """A network that has left the numbers has no ln psi, rather than a wrong one."""
    for poisoned, own in itertools.product(("embedding", "head"), (True, False)):
        psi = factored(Patches.from_spec(Square(3, 4), "2x2"), **SMALL)
        with torch.no_grad():
            psi.core.get_submodule(poisoned).weight.fill_(torch.nan)
            if own:
                assert psi.log_psi(random_bits(5, 12)).isnan().all()
            else:
                outputs = compiled_start(psi, 2).read(torch.tensor([16, 16]))
                assert outputs.isnan().all()
