"""The shift that bounds the leverage of a batch, against hat matrices written out."""

from __future__ import annotations

import pytest
import torch
from states import minsr
from test_natural_gradient import build, centred_system, draw, in_space
from torch import Tensor
from torch.testing import assert_close

from nqs.vmc.optimizers.leverage import degrees_of_freedom, least_shift

SHIFTS = [1e-6, 1e-3, 0.3, 20.0]


def features(seed: int = 0, rows: int = 12, columns: int = 30) -> Tensor:
    """O (R, P) with singular values over four decades."""
    generator = torch.Generator().manual_seed(seed)
    shape = torch.logspace(0, -4, columns, dtype=torch.float64)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64) * shape


@pytest.mark.parametrize("shift", SHIFTS)
def test_degrees_of_freedom_are_the_trace_of_the_hat_matrix(shift: float) -> None:
    o = features()
    inverse = torch.linalg.inv(o.T @ o + shift * torch.eye(30, dtype=torch.float64))
    hat = o @ inverse @ o.T
    for matrix in (o @ o.T, o.T @ o):
        values = torch.linalg.eigvalsh(matrix)
        assert degrees_of_freedom(values, shift) == pytest.approx(float(hat.trace()), rel=1e-6)


@pytest.mark.parametrize("leverage", [0.05, 0.3, 0.9])
def test_the_least_shift_has_the_leverage(leverage: float) -> None:
    values = torch.linalg.eigvalsh(features() @ features().T)
    shift = least_shift(values, 12, leverage)
    assert shift > 0
    assert degrees_of_freedom(values, shift) == pytest.approx(12 * leverage, rel=1e-9)


def test_draws_that_share_rows_are_more_than_the_rows() -> None:
    """12 rows of 100 draws settle 12 directions at most, fewer than half of the draws."""
    values = torch.linalg.eigvalsh(features() @ features().T)
    assert least_shift(values, 100, 0.5) == 0.0
    assert least_shift(torch.zeros(12), 12, 0.5) == 0.0
    assert least_shift(torch.zeros(0), 12, 0.5) == 0.0


@pytest.mark.parametrize("space", ["rows", "parameters"])
@pytest.mark.parametrize("core", ["ptf-factored", "gru-2"])
def test_the_step_is_sr_with_that_shift(
    core: str, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leverage of the batch is the one asked for, and a larger shift of the keys stays."""
    in_space(monkeypatch, space == "parameters")
    psi = build(core)
    samples, e_loc = draw(psi)
    o, e = centred_system(psi, samples, e_loc)
    n_draws = samples.n_samples
    leverage = 0.2 * len(e) / n_draws
    optimizer = minsr(0.1, diagonal_shift=1e-9, leverage=leverage)
    update = optimizer.update(psi, samples, e_loc)
    shift = optimizer.diagnostics["diagonal_shift"]
    metric = o.T @ o
    shifted = metric + shift * torch.eye(len(metric), dtype=metric.dtype)
    delta = torch.linalg.solve(shifted, o.T @ e)
    assert_close(update, -0.1 * delta, rtol=0, atol=1e-8 * float(delta.norm()))
    hat = torch.linalg.solve(shifted, metric).trace()
    assert float(hat) == pytest.approx(leverage * n_draws, rel=1e-6)
    large = minsr(0.1, diagonal_shift=7.0, leverage=leverage)
    large.update(psi, samples, e_loc)
    assert large.diagnostics["diagonal_shift"] == 7.0
