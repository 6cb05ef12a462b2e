"""ln psi of flipped configurations: prefix sharing against brute force, and what it may cost."""

from __future__ import annotations

import pytest
import torch
from covering import pairwise
from hypothesis import given
from hypothesis import strategies as st
from simulated_accelerator import Accelerator
from systems import MODELS, SYSTEMS, build, build_system, every_case, every_model, random_bits
from torch import Tensor, nn
from torch.testing import assert_close

from hamiltonians.lattices.lattice import Chain, Square
from nqs.core.attention import RepeatedSoftmax
from nqs.core.transformer import Transformer
from nqs.wavefunctions import flips as flips_module
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.flips import in_chunks

EXACT = {"rtol": 0.0, "atol": 1e-12}


@torch.no_grad()
def brute_force(psi: Autoregressive, configs: Tensor, flips: Tensor) -> Tensor:
    """(B, G), every flipped configuration from the start."""
    flipped = configs[:, None] ^ flips  # (B, G, N)
    return psi.log_psi(flipped.flatten(0, 1)).view(len(configs), len(flips))


def flip_patterns(n_sites: int, seed: int = 1) -> Tensor:
    """Single flips, random patterns of many sites, and all sites at once; in random order."""
    many = random_bits(10, n_sites, seed)
    many = many[many.any(1)]
    patterns = torch.cat([torch.eye(n_sites).bool(), many, torch.ones(1, n_sites).bool()])
    order = torch.randperm(len(patterns), generator=torch.Generator().manual_seed(seed))
    return patterns[order]


class Launches:
    """Rows and tokens of every call of a core, seen through a forward hook."""

    def __init__(self, psi: Autoregressive) -> None:
        self.shapes: list[tuple[int, int]] = []
        psi.core.register_forward_hook(self._record)

    def _record(self, module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        self.shapes.append(tuple(inputs[0].shape))

    @property
    def most_rows(self) -> int:
        return max(rows for rows, _ in self.shapes)

    @property
    def tokens(self) -> int:
        return sum(rows * length for rows, length in self.shapes)


@every_case
def test_brute_force(model: str, system: str) -> None:
    psi = build_system(model, system)
    configs, flips = random_bits(5, psi.n_sites), flip_patterns(psi.n_sites)
    expected = brute_force(psi, configs, flips)
    result = psi.log_psi_flipped(configs, flips)
    assert result.dtype == torch.float64 and result.shape == expected.shape
    assert_close(result, expected, **EXACT)

    needed = random_bits(5 * len(flips), 1).view(5, len(flips))
    needed[0], needed[1] = False, True
    masked = torch.where(needed, expected, -torch.inf)
    assert_close(psi.log_psi_flipped(configs, flips, needed), masked, **EXACT)


DEVICE_CASES = [
    ("factored", {}),
    ("ptf", {"n_up": 5}),
    ("gru", {"phase": True}),
    ("linear", {}),
    ("lptf-gru", {}),
]


@pytest.mark.parametrize(("model", "options"), DEVICE_CASES)
def test_on_every_device(model: str, options: dict[str, object], device: torch.device) -> None:
    """All flips, and those that are needed; near patches with an infinite radius."""
    psi = build_system(model, "square-2x2", **options)
    configs, flips = random_bits(5, psi.n_sites), flip_patterns(psi.n_sites)
    needed = random_bits(5 * len(flips), 1).view(5, len(flips))
    expected = brute_force(psi, configs, flips)
    psi, moved = psi.to(device), [x.to(device) for x in (configs, flips, needed)]
    assert_close(psi.log_psi_flipped(*moved[:2]).cpu(), expected, **EXACT)
    masked = torch.where(needed, expected, -torch.inf)
    assert_close(psi.log_psi_flipped(*moved).cpu(), masked, **EXACT)


@pytest.mark.parametrize("model", ["factored", "gru", "linear", "rnn2d"])
def test_a_planned_pass_waits_for_no_device(model: str, accelerator: Accelerator) -> None:
    """Flips are planned once; a mask is asked for its size and its pairs, whatever T is."""
    psi = build_system(model, "single").to(accelerator.device)
    bits = (random_bits(5, 6), torch.eye(6).bool(), random_bits(5 * 6, 1).view(5, 6))
    configs, flips, needed = (x.to(accelerator.device) for x in bits)
    psi.log_psi_flipped(configs, flips)
    accelerator.reset()
    psi.log_psi_flipped(configs, flips)
    assert not accelerator.waits
    psi.log_psi_flipped(configs, flips, needed)
    assert accelerator.waits.total() == 3
    psi.log_psi_flipped(configs, flips.clone())
    assert accelerator.waits.total() > 3


def test_flips_are_planned_anew_when_they_change() -> None:
    """Other flips, other content of the same tensor, another model."""
    psi, other = (build_system(model, "single") for model in ("factored", "gru"))
    configs, flips = random_bits(4, 6), torch.eye(6).bool()
    for _ in range(2):
        assert_close(psi.log_psi_flipped(configs, flips), brute_force(psi, configs, flips))
        assert psi.flip_plan(flips) is psi.flip_plan(flips)
        flips[0, 3] = True
        assert_close(psi.log_psi_flipped(configs, flips), brute_force(psi, configs, flips))
        assert_close(other.log_psi_flipped(configs, flips), brute_force(other, configs, flips))
        flips = torch.eye(6).bool()[:4]


@pytest.mark.parametrize(
    ("model", "system", "max_rows"),
    pairwise(MODELS, ["chain-3", "square-2x2", "groups"], [1, 3, 40]),
)
def test_chunked(model: str, system: str, max_rows: int) -> None:
    psi = build_system(model, system)
    configs, flips = random_bits(4, psi.n_sites), flip_patterns(psi.n_sites)
    expected = brute_force(psi, configs, flips)
    needed = random_bits(4 * len(flips), 1).view(4, len(flips))
    for part in (None, needed):
        result = psi.log_psi_flipped(configs, flips, part, max_rows=max_rows)
        masked = expected if part is None else torch.where(part, expected, -torch.inf)
        assert_close(result, masked, **EXACT)


@pytest.mark.parametrize("stretch", [1.0, 40.0])
@pytest.mark.parametrize("system", ["square-2x2", "square-3x2", "kagome-1x1"])
def test_shared_first_layer(system: str, stretch: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flips of one patch take the first layer's softmax from the unflipped configuration, unless
    its scores are too large (stretched) to be used without their peak."""
    psi = build_system("ptf", system)
    assert isinstance(psi.core, Transformer)
    with torch.no_grad():
        psi.core.blocks[0].attention.qkv.weight.mul_(stretch)
    mixed: list[int] = []
    mix = RepeatedSoftmax.mix

    def counted(self: RepeatedSoftmax, keys: Tensor, values: Tensor) -> Tensor:
        mixed.append(len(keys))
        return mix(self, keys, values)

    monkeypatch.setattr(RepeatedSoftmax, "mix", counted)
    configs, flips = random_bits(6, psi.n_sites), torch.eye(psi.n_sites).bool()
    expected = brute_force(psi, configs, flips)
    assert_close(psi.log_psi_flipped(configs, flips), expected, **EXACT)
    later = (psi.patches.encode(flips) != 0).to(torch.int8).argmax(1) < psi.patches.n_patches - 2
    assert sum(mixed) == (6 * int(later.sum()) if stretch == 1 else 0)


@pytest.mark.parametrize("launch", [1, 5, 17])
def test_small_launches(launch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(flips_module.LAUNCH_TOKENS, "cpu", launch)
    psi = build_system("ptf", "square-2x2")
    configs, flips = random_bits(6, psi.n_sites), flip_patterns(psi.n_sites)
    expected = brute_force(psi, configs, flips)
    launches = Launches(psi)
    assert_close(psi.log_psi_flipped(configs, flips), expected, **EXACT)
    suffixes = launches.shapes[1:]  # the first is the unflipped configurations
    assert len(suffixes) > 6
    assert all(rows == 1 or rows * length <= launch for rows, length in suffixes)


@pytest.mark.parametrize(
    ("model", "max_rows"),
    [
        ("ptf", 4),
        ("ptf", 40),
        ("elman", 40),
        ("gru", 40),
        ("lstm", 40),
        ("gru", 4),
    ],
)
def test_no_launch_has_more_than_max_rows(model: str, max_rows: int) -> None:
    psi = build_system(model, "square-2x2")
    launches = Launches(psi)
    psi.log_psi_flipped(random_bits(50, 12), torch.eye(12).bool(), max_rows=max_rows)
    assert launches.most_rows <= max_rows


@every_model
@pytest.mark.parametrize("system", ["square-3x2", "square-4", "kagome-1x1", "single"])
def test_the_cost_is_the_minimum(model: str, system: str) -> None:
    """N (T - 1) / 2 token evaluations a configuration beyond the T of the configuration itself."""
    psi = build_system(model, system)
    n_configs, n_sites, n_patches = 6, psi.n_sites, psi.patches.n_patches
    launches = Launches(psi)
    psi.log_psi_flipped(random_bits(n_configs, n_sites), torch.eye(n_sites).bool())
    beyond = launches.tokens - n_configs * n_patches
    assert beyond == n_configs * n_sites * (n_patches - 1) // 2


@every_model
def test_what_is_not_needed_costs_nothing(model: str) -> None:
    psi = build_system(model, "square-2x2")  # T = 4
    needed = torch.zeros(6, 12, dtype=torch.bool)
    for row, patch in ((2, 0), (3, 1), (3, 3)):
        needed[row, psi.patches.sites[patch, 0]] = True
    launches = Launches(psi)
    psi.log_psi_flipped(random_bits(6, 12), torch.eye(12).bool(), needed)
    assert launches.tokens == 6 * 4 + 3 + 2 + 0


@every_model
@given(data=st.data())
def test_random_groups_and_flips(model: str, data: st.DataObject) -> None:
    """Any partition of up to 7 sites, any set of patterns, any mask, any chunk."""
    n_sites = data.draw(st.integers(1, 7))
    order = data.draw(st.permutations(range(n_sites)))
    cuts = sorted(data.draw(st.sets(st.integers(1, n_sites - 1)))) if n_sites > 1 else []
    groups = [list(order[a:b]) for a, b in zip([0, *cuts], [*cuts, n_sites], strict=True)]
    psi = build(model, Chain(n_sites), groups, seed=data.draw(st.integers(0, 5)))
    masks = data.draw(st.lists(st.integers(1, 2**n_sites - 1), min_size=1, max_size=6, unique=True))
    flips = torch.tensor([[bool(mask >> i & 1) for i in range(n_sites)] for mask in masks])
    configs = random_bits(4, n_sites, seed=data.draw(st.integers(0, 5)))
    needed = random_bits(4 * len(flips), 1, seed=data.draw(st.integers(0, 50))).view(4, -1)
    expected = torch.where(needed, brute_force(psi, configs, flips), -torch.inf)
    max_rows = data.draw(st.sampled_from([1, 2, 5, 1_000]))
    assert_close(psi.log_psi_flipped(configs, flips, needed, max_rows=max_rows), expected, **EXACT)


@every_model
def test_no_flips_no_configs_and_empty_flips(model: str) -> None:
    psi = build(model, Square(2, 2), "2x1")
    nothing = torch.zeros(0, 4, dtype=torch.bool)
    assert psi.log_psi_flipped(random_bits(3, 4), nothing).shape == (3, 0)
    assert psi.log_psi_flipped(nothing, torch.eye(4).bool()).shape == (0, 4)
    never = torch.zeros(3, 4, dtype=torch.bool)
    result = psi.log_psi_flipped(random_bits(3, 4), torch.eye(4).bool(), never)
    assert (result == -torch.inf).all() and result.shape == (3, 4)
    with pytest.raises(ValueError, match="at least one site"):
        psi.log_psi_flipped(random_bits(3, 4), torch.zeros(1, 4, dtype=torch.bool))


@given(n_rows=st.integers(0, 50), chunk=st.integers(1, 60), limit=st.integers(1, 60))
def test_chunks_are_halved_when_memory_runs_out(n_rows: int, chunk: int, limit: int) -> None:
    """Every row is done once, in order, though work on more than `limit` rows fails."""
    done: list[int] = []
    failures = []

    def work(begin: int, end: int) -> None:
        if end - begin > limit:
            failures.append(end - begin)
            raise torch.OutOfMemoryError("no room")
        done.extend(range(begin, end))

    in_chunks(work, n_rows, chunk)
    assert done == list(range(n_rows))
    assert len(failures) <= 6  # once halved it stays small
    assert bool(failures) == (min(chunk, n_rows) > limit)


def test_memory_that_suffices_for_no_row_is_an_error() -> None:
    def work(begin: int, end: int) -> None:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        in_chunks(work, 5, 4)


@every_model
def test_flips_survive_running_out_of_memory(model: str) -> None:
    """A core that fails above 9 rows: the result is that of one that never fails."""
    psi = build(model, *SYSTEMS["chain-3"])
    configs, flips = random_bits(8, 7), torch.eye(7).bool()
    expected = brute_force(psi, configs, flips)
    failures = []

    def fail(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].shape[0] > 9:
            failures.append(inputs[0].shape)
            raise torch.OutOfMemoryError("no room")

    psi.core.register_forward_pre_hook(fail)
    assert_close(psi.log_psi_flipped(configs, flips), expected, **EXACT)
    assert failures
