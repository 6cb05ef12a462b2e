"""The perceptron of every block: blocks of rows, and ReLU on the bits of bfloat16 numbers."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from nqs.core import perceptron
from nqs.core.perceptron import ACTIVATIONS, Perceptron, ReLU


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_blocks_of_rows_are_all_rows_at_once(
    activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without gradients, in blocks of 3 and fewer rows, against one product of all."""
    layer = Perceptron(8, 16, activation).double()
    x = torch.randn(5, 7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = layer(x).detach()
    monkeypatch.setattr(perceptron, "CACHED_ACTIVATIONS", 3 * 16)
    with torch.no_grad():
        assert_close(layer(x), expected, rtol=1e-14, atol=1e-14)
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(layer.float()(x.float()).double(), expected, rtol=0.03, atol=0.03)


def test_relu_of_every_bfloat16_number() -> None:
    """All 65 536 bit patterns but NaN, in place without gradients: torch's own to the bit, but
    -0, which becomes 0 in both."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    numbers = every[~every.isnan()]
    expected = torch.relu(numbers)
    with torch.no_grad():
        found = ReLU()(numbers)
    assert found.data_ptr() == numbers.data_ptr()
    assert torch.equal(found, expected) and not (found.view(torch.int16) < 0).any()


def test_relu_with_gradients_leaves_its_input() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.tensor([-1.0, 2.0], dtype=dtype, requires_grad=True)
        ReLU()(x * 1).sum().backward()
        assert x.tolist() == [-1.0, 2.0] and x.grad.tolist() == [0.0, 1.0]
