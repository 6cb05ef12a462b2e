"""Draws of a step shared by where the variance is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from nqs.vmc.draw_shares import DrawShares

GENERATOR = torch.Generator().manual_seed(3)


def couplings(n_rows: int = 8, n: int = 2) -> Tensor:
    return 2 * torch.rand(n_rows, n, generator=GENERATOR, dtype=torch.float64) - 1


def standard_deviation(x: Tensor) -> Tensor:
    """A smooth one, four times as large at one end of the first coupling as at the other."""
    return (0.7 * x[:, 0] - 0.3 * x[:, 1].square()).exp()


def taught(shares: DrawShares, n_steps: int = 30) -> DrawShares:
    """After steps whose variances fall, and are known to 20 %."""
    for step in range(n_steps):
        x = couplings()
        noise = 1 + 0.2 * torch.randn(len(x), generator=GENERATOR, dtype=torch.float64)
        shares.see(x, standard_deviation(x).square() * noise.clamp(min=0.2) * 0.9**step)
    return shares


def test_equal_until_something_was_measured() -> None:
    assert DrawShares(range(2)).of(couplings(), 1003) == [125, 126, 125, 126, 125, 125, 126, 125]


def test_in_proportion_to_the_standard_deviation() -> None:
    """Within 10 % (found: 1.4 %), where equal shares are wrong by up to a factor 1.9 and those in
    proportion to the variance by 56 %."""
    x, shares = couplings(), taught(DrawShares(range(2)))
    found = shares.of(x, 100_000)
    wanted = standard_deviation(x)
    wanted = 100_000 * wanted / wanted.sum()
    assert sum(found) == 100_000
    assert_close(torch.tensor(found).double(), wanted, rtol=0.1, atol=0)
    assert float((12_500 / wanted).log().abs().max()) > 0.5


def test_bounds() -> None:
    """At least two each, and no more than four times as many as on the average before that."""
    shares, x = DrawShares([0]), torch.tensor([[-1.0], [0.0], [1.0]]).double()
    for _ in range(50):
        shares.see(x, torch.tensor([1e-30, 1.0, 1e30]).double())
    found = shares.of(x, 30)
    assert sum(found) == 30 and min(found) >= 2
    with pytest.raises(ValueError, match="two for each of 3"):
        shares.of(x, 5)


def test_disorder_says_nothing() -> None:
    x = couplings(4, 3)
    shares = DrawShares([])
    shares.see(x, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert shares.of(x, 40) == [10, 10, 10, 10]
    mixed = DrawShares([2])  # of a number for all sites after two of disorder
    for _ in range(20):
        mixed.see(x, (2 * x[:, 2]).exp())
    assert torch.tensor(mixed.of(x, 4000)).argsort().tolist() == x[:, 2].argsort().tolist()


def test_what_is_no_number_is_left_out() -> None:
    shares = taught(DrawShares(range(2)))
    before = shares.state_dict()
    shares.see(couplings(3), torch.tensor([torch.nan, 0.0, torch.inf]))
    after = shares.state_dict()
    assert_close(after["metric"], 0.9 * before["metric"])


def test_goes_on_as_it_was_saved() -> None:
    shares, x = taught(DrawShares(range(2))), couplings()
    again = DrawShares(range(2))
    again.load_state_dict(shares.state_dict())
    assert again.of(x, 999) == shares.of(x, 999)
    with pytest.raises(ValueError, match="other couplings"):
        DrawShares(range(3)).load_state_dict(shares.state_dict())
