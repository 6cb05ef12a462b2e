"""The simulated accelerator: numbers of the CPU, errors of a GPU, and counts that can be wrong."""

from __future__ import annotations

import copy

import pytest
import torch
from simulated_accelerator import Accelerator, SimulatedTensor
from torch import nn
from torch.testing import assert_close


def test_numbers_and_gradients_are_those_of_the_cpu(accelerator: Accelerator) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3)).double()
    tokens = torch.randint(5, (6, 2))
    expected = network(tokens).square().sum()
    expected.backward()
    moved = copy.deepcopy(network).to(accelerator.device)
    moved.zero_grad()
    found = moved(tokens.to(accelerator.device)).square().sum()
    found.backward()
    assert isinstance(found, SimulatedTensor) and found.device == accelerator.device
    assert_close(found.detach().cpu(), expected.detach())
    for own, other in zip(moved.parameters(), network.parameters(), strict=True):
        assert own.grad is not None and own.grad.device == accelerator.device
        assert_close(own.grad.cpu(), other.grad)


def test_devices_do_not_mix(accelerator: Accelerator) -> None:
    here, there = torch.ones(3, device=accelerator.device), torch.arange(3)
    assert (here + torch.tensor(1.0)).tolist() == [2.0] * 3  # a number, as on CUDA
    for work in (
        lambda: here + there,
        lambda: torch.cat([here, there]),
        lambda: here[there],
        lambda: here.index_add_(0, there, here),
        lambda: torch.where(there > 0, here, here),
    ):
        with pytest.raises(RuntimeError, match=r"on sim:0 and, of shape \(3,\), on the CPU"):
            work()
    with pytest.raises((TypeError, RuntimeError)):
        here.numpy()


def test_waits_are_counted(accelerator: Accelerator) -> None:
    x = torch.arange(4.0, device=accelerator.device)
    rows = torch.tensor([0, 1], device=accelerator.device)
    for work in (
        lambda: float(x.sum()),
        lambda: bool((x > 0).all()),
        x.tolist,
        x.cpu,
        lambda: x.nonzero(),
        lambda: x[x > 1],
        lambda: torch.unique(x),
        lambda: rows.repeat_interleave(rows),
        lambda: torch.zeros(4).copy_(x),
    ):
        accelerator.reset()
        work()
        assert accelerator.waits.total() == 1
    accelerator.reset()
    x[rows] = (x[rows] * 2 + 1).exp()
    x.masked_fill(x > 1, 0.0).view(2, 2).sum(1)
    rows.repeat_interleave(3)
    torch.rand(3, generator=torch.Generator(x.device), device=x.device)
    torch.ones(3).to(x.device)
    assert not accelerator.waits


def test_launches_are_counted(accelerator: Accelerator) -> None:
    x = torch.zeros(6, device=accelerator.device)
    accelerator.reset()
    view = x.view(2, 3)[:, 1:].transpose(0, 1)
    torch.empty_like(x)
    assert not accelerator.launches
    view.add_(1)
    assert accelerator.launches == {"add_": 1}
    assert x.tolist() == [0, 1, 1, 0, 1, 1]


def test_a_wait_names_its_line(accelerator: Accelerator) -> None:
    from nqs.vmc.statistics import RunningMoments

    values = torch.arange(3.0, device=accelerator.device)
    RunningMoments().add(values, torch.ones_like(values))
    ((operation, line),) = accelerator.waits
    assert operation == "_local_scalar_dense"
    assert line.startswith("nqs/vmc/statistics.py:") and "float(counts.sum())" in line
