"""The diagonal recurrence: scan = loop, bounded modes, and long sequences that neither over- nor
underflow."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from nqs.core.state_space import FASTEST, SLOWEST, Diagonal, scan


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def build(n_modes: int = 4, seed: int = 0) -> Diagonal:
    diagonal = Diagonal(n_modes).double()
    diagonal.initialise(torch.Generator().manual_seed(seed))
    return diagonal


def written_out(diagonal: Diagonal, drive: Tensor, memory: Tensor) -> Tensor:
    """The formula of the file in complex arithmetic, one step after the other."""
    nu, theta = diagonal.table.table[0].chunk(2)
    a = torch.exp(torch.complex(-nu.exp(), theta))
    u, h = (torch.complex(*x.chunk(2, dim=-1)) for x in (drive, memory))
    steps = []
    for t in range(drive.shape[1]):
        h = a * h + (1 - a.abs().square()).sqrt() * u[:, t]
        steps.append(torch.cat([h.real, h.imag], dim=1))
    return torch.stack(steps, dim=1)


@given(length=st.integers(1, 20), n_branches=st.integers(1, 3), seed=st.integers(0, 9))
def test_parallel_is_recurrent(length: int, n_branches: int, seed: int) -> None:
    """From any memory, shared by branches; also without gradients, in one piece or step by step."""
    diagonal, memory = build(seed=seed), random(2, 8, seed=seed)
    drive = random(2 * n_branches, length, 8, seed=seed + 100)
    expected = written_out(diagonal, drive, memory.repeat_interleave(n_branches, dim=0))
    assert_close(diagonal(drive, memory), expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        assert_close(diagonal(drive, memory), expected, rtol=0, atol=1e-12)
        for t in range(length):
            memory = diagonal(drive[:, t : t + 1], memory)[:, 0]
            assert_close(memory, expected[:, t], rtol=0, atol=1e-12)


def test_gradients_are_the_loops() -> None:
    diagonal, drive, memory = build(), random(3, 11, 8), random(3, 8, seed=1)
    weights = random(3, 11, 8, seed=2)
    found = []
    for form in (diagonal(drive, memory), written_out(diagonal, drive, memory)):
        diagonal.zero_grad()
        (weights * form).sum().backward()
        found.append(diagonal.table.table.grad.clone())
    assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


def test_modes_at_the_start() -> None:
    """|a| within its range and spread over it; unit drives keep unit variance."""
    diagonal = build(2_000)
    nu, theta = diagonal.table.table.detach()[0].chunk(2)
    radius = torch.exp(-nu.exp())
    assert FASTEST <= radius.min() < 0.33 and 0.98 < radius.max() <= SLOWEST
    assert 0 <= theta.min() < 0.02 and 3.12 < theta.max() < 3.1416
    h = diagonal(random(1, 600, 4_000), torch.zeros(1, 4_000).double())
    assert float(h[:, 500:].detach().var()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("nu", [-100.0, -20.0, 3.0, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_decay_over_or_underflows(nu: float, dtype: torch.dtype) -> None:
    """Over 3000 steps, at |a| from 0 to 1 - rounding, values and gradients are finite."""
    diagonal = Diagonal(2).to(dtype)
    with torch.no_grad():
        diagonal.table.table[:, :2] = nu
    drive = random(1, 3_000, 4).to(dtype).requires_grad_()
    h = diagonal(drive, torch.ones(1, 4, dtype=dtype))
    assert h.abs().max() < 100
    h.sum().backward()
    assert drive.grad is not None and drive.grad.isfinite().all()
    assert diagonal.table.table.grad.isfinite().all()


def test_scan_of_powers() -> None:
    """A unit impulse returns 1, a, a^2, ..."""
    a = torch.polar(torch.tensor(0.9).double(), torch.tensor(1.0).double())
    impulse = torch.zeros(1, 13, 1).double()
    impulse[0, 0] = 1
    decay = (a.real.view(1, 1, 1), a.imag.view(1, 1, 1))
    re, im = scan((impulse, torch.zeros_like(impulse)), decay)
    assert_close(torch.complex(re, im)[0, :, 0], a ** torch.arange(13), rtol=0, atol=1e-14)
