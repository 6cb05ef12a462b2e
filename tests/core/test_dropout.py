"""Dropout: nothing at 0 and outside training, the right share and mean in training, and no key of a
wavefunction."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from nqs.core import Transformer
from nqs.core.perceptron import Perceptron
from nqs.crystal.model.cores import CORES
from nqs.ground_states.groups import MODEL


def model(dropout: float) -> Transformer:
    generator = torch.Generator().manual_seed(0)
    return Transformer(7, 7, 6, d_model=16, n_heads=2, dropout=dropout, generator=generator)


def test_outside_training_it_is_nothing() -> None:
    tokens = torch.randint(7, (4, 6), generator=torch.Generator().manual_seed(1))
    expected, _ = model(0.0)(tokens)
    found, _ = model(0.5).eval()(tokens)
    assert torch.equal(found, expected)
    assert model(0.0).state_dict().keys() == model(0.5).state_dict().keys()


def test_in_training_the_share_and_the_mean_are_right() -> None:
    """2^16 numbers: the share left out is within 5 errors of 0.3 (false alarm 6e-7), and what is
    left is 1 / 0.7 times as large."""
    torch.manual_seed(3)
    perceptron = Perceptron(64, 8, "gelu", 0.3)
    x = torch.randn(4, 256, 64, requires_grad=True)
    added = (perceptron(x) - x).detach()
    whole = (perceptron.eval()(x) - x).detach()
    left_out = (added.abs() < 1e-9) & (whole.abs() > 1e-6)
    assert abs(float(left_out.float().mean()) - 0.3) < 5 * (0.21 / 2**16) ** 0.5
    assert_close(added[~left_out], whole[~left_out] / 0.7, rtol=1e-3, atol=1e-5)
    other, _ = model(0.5)(torch.zeros(1, 6, dtype=torch.int64))
    again, _ = model(0.5)(torch.zeros(1, 6, dtype=torch.int64))
    assert not torch.equal(other, again)


def test_only_crystals_have_the_key() -> None:
    assert "dropout" in CORES.keys("transformer") and "dropout" not in MODEL.keys("ptf")
    with pytest.raises(ValueError, match=r"dropout=1.0 must be in \[0, 1\)"):
        model(1.0)
