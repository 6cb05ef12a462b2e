"""Counted operations against torch's counter, the least work against what single tokens cost."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import counted, least_flops, prefix_counts, token_flops
from hamiltonians import Rydberg
from hamiltonians.lattices.lattice import Chain, Square
from nqs.core.native.build import SWITCH
from nqs.core.transformer import Transformer
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.wavefunction import Samples
from tests.wavefunctions.systems import build, random_bits


def draw(psi: Autoregressive, n: int, *, unique: bool = True) -> Samples:
    return psi.sample(n, torch.Generator().manual_seed(3), unique=unique)


@pytest.mark.parametrize("model", ["factored", "gru", "rnn2d"])
def test_the_counter_is_torchs(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without fused attention, for which torch has no formula on a CPU, and compiled code."""
    monkeypatch.setenv(SWITCH, "0")
    psi = build(model, Chain(6), "2", dtype=torch.float32).requires_grad_(False)
    with FlopCounterMode(display=False) as theirs:
        draw(psi, 20)
    assert counted(lambda: draw(psi, 20)) == theirs.get_total_flops() > 0


def test_products_by_hand() -> None:
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert counted(lambda: a @ b) == 2 * 3 * 5 * 7
    assert counted(lambda: a @ b[:, 0]) == 2 * 3 * 5
    assert counted(lambda: a.exp().sum()) == 0
    q = torch.ones(2, 1, 4, 8)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert counted(lambda: attention(q, q, q, is_causal=True)) == 2 * 2 * (2 * 4 * 4 * 8)
    spd = torch.eye(6)
    solve = 6**3 // 3 + 2 * 6 * 6
    factor = torch.linalg.cholesky_ex
    assert counted(lambda: torch.cholesky_solve(spd[:, :1], factor(spd)[0])) == solve


@pytest.mark.parametrize("model", ["factored", "ptf"])
def test_least_is_what_single_tokens_cost(model: str) -> None:
    """A token at a time, nothing shared, is a walk of one configuration: the core's sampling."""
    psi = build(model, Square(3, 4), "2x2", dtype=torch.float32).requires_grad_(False)
    assert isinstance(psi.core, Transformer)
    hamiltonian = Rydberg(Square(3, 4), V=7.0, delta=1.0)
    walked = counted(lambda: draw(psi, 1, unique=False))
    least = least_flops(psi, hamiltonian, 1)
    assert walked == least.sampling == sum(token_flops(psi.core, t) for t in range(4))
    many = draw(psi, 200)
    prefixes = prefix_counts(psi, many.configs)
    assert prefixes[0] == 1 and len(prefixes) == 4 and prefixes == sorted(prefixes)
    shared = least_flops(psi, hamiltonian, len(many.counts), prefixes=prefixes)
    assert shared.sampling < len(many.counts) * least.sampling
    assert shared.flips == len(many.counts) * least.flips


def test_what_is_run_is_close_to_the_least() -> None:
    """Sharing saves some, launches and squares add some."""
    psi = build("factored", Square(8, 8), "2x2", dtype=torch.float32)
    hamiltonian = Rydberg(Square(8, 8), V=7.0, delta=1.0)
    least = least_flops(psi, hamiltonian, 64)
    n_tokens = 64 * 64 * 15 // 2  # N (T - 1) / 2 a configuration
    assert isinstance(psi.core, Transformer)
    assert token_flops(psi.core, 0) < least.flips / n_tokens < token_flops(psi.core, 16)
    configs = random_bits(64, 64)
    run = counted(lambda: psi.log_psi_flipped(configs, hamiltonian.flips))
    assert 0.4 < run / least.flips < 1.1


def test_an_unknown_core_is_named() -> None:
    psi = build("gru", Chain(4), "2")
    with pytest.raises(TypeError, match="least work of Recurrent is not known"):
        least_flops(psi, Rydberg(Chain(4), V=1.0, delta=1.0), 3)
