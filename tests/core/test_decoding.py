"""Draws against their probabilities: chi-square tests at the false-alarm rate of conftest.py."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from covering import pairwise
from scipy.stats import chi2, multinomial
from torch import Tensor
from torch.testing import assert_close

from nqs.core.decoding import draw_tokens, restrict, split_counts


def random_probabilities(n_outcomes: int, generator: torch.Generator) -> Tensor:
    p = torch.rand(n_outcomes, generator=generator, dtype=torch.float64) ** 2
    return p / p.sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_outcomes", [2, 5, 16])
def test_draw(n_outcomes: int, dtype: torch.dtype, generator, assert_distribution) -> None:
    p = random_probabilities(n_outcomes, generator)
    log_probs = p.log().to(dtype).expand(100_000, -1)
    assert_distribution(draw_tokens(log_probs, generator).bincount(minlength=n_outcomes), p)


def test_draw_depends_on_each_row(generator, assert_distribution) -> None:
    p = torch.stack([random_probabilities(4, generator) for _ in range(3)])
    tokens = draw_tokens(p.log().repeat(50_000, 1), generator).view(50_000, 3)
    for row in range(3):
        assert_distribution(tokens[:, row].bincount(minlength=4), p[row])
    pairs = (4 * tokens[:, 0] + tokens[:, 1]).bincount(minlength=16)  # and rows are independent
    assert_distribution(pairs, torch.outer(p[0], p[1]).flatten())


@pytest.mark.parametrize("sampler", ["draw", "split"])
def test_impossible_outcomes_are_never_drawn(sampler: str, generator, assert_distribution) -> None:
    p = torch.tensor([0.0, 0.25, 0.0, 0.0, 0.75, 0.0], dtype=torch.float64)
    if sampler == "draw":
        counts = draw_tokens(p.log().expand(100_000, -1), generator).bincount(minlength=6)
    else:
        splits = split_counts(torch.full((1_000,), 100), p.log().expand(1_000, -1), generator)
        counts = splits.sum(0)
    assert_distribution(counts, p)
    certain = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).expand(10_000, -1)
    assert (draw_tokens(certain, generator) == 1).all()
    assert_close(split_counts(torch.tensor([7]), certain[:1], generator), torch.tensor([[0, 7, 0]]))


@pytest.mark.parametrize("n_outcomes", [1, 2, 3, 5, 7, 16, 33])
def test_counts_are_conserved(n_outcomes: int, generator) -> None:
    p = torch.stack([random_probabilities(n_outcomes, generator) for _ in range(2_000)])
    counts = torch.randint(1, 10_000, (2_000,), generator=generator)
    split = split_counts(counts, p.log(), generator)
    assert split.dtype == torch.int64 and split.shape == (2_000, n_outcomes)
    assert (split >= 0).all()
    assert_close(split.sum(1), counts)


@pytest.mark.parametrize("n_outcomes", [2, 3, 5, 16, 33])
def test_split_of_one_large_count(n_outcomes: int, generator, assert_distribution) -> None:
    p = random_probabilities(n_outcomes, generator)
    split = split_counts(torch.tensor([1_000_000]), p.log()[None], generator)
    assert_distribution(split[0], p)


def test_split_is_multinomial(generator, assert_distribution) -> None:
    """The joint law of small counts, all compositions of 4 draws over 3 outcomes."""
    p = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    n_rows, n = 60_000, 4
    split = split_counts(torch.full((n_rows,), n), p.log().expand(n_rows, -1), generator)
    seen = (split[:, 0] * (n + 1) + split[:, 1]).bincount(minlength=(n + 1) ** 2)
    law = torch.zeros((n + 1) ** 2, dtype=torch.float64)
    for a, b in itertools.product(range(n + 1), repeat=2):
        if a + b <= n:
            law[a * (n + 1) + b] = multinomial.pmf([a, b, n - a - b], n, p.numpy())
    assert_distribution(seen, law)


@pytest.mark.parametrize("place", [0, 1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tails_at_huge_counts(place: int, dtype: torch.dtype, generator) -> None:
    """An outcome of chance 1e-9 in 10^12 draws, 400 times: 1000 +- sqrt(1000) each.

    sum (n - 1000)^2 / 1000 ~ chi-square of 400; two-sided false-alarm rate 1e-6.
    """
    p = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=torch.float64)
    p[place] = 0
    p *= (1 - 1e-9) / p.sum()
    p[place] = 1e-9
    log_probs = p.log().to(dtype)  # float32 rounds ln p to 1e-6: 1e-3 of the tail's error bar
    split = split_counts(torch.full((400,), 10**12), log_probs.expand(400, -1), generator)
    assert (split.sum(1) == 10**12).all()
    statistic = float((split[:, place] - 1000).double().square().sum() / 1000)
    assert 5e-7 < chi2.cdf(statistic, 400) < 1 - 5e-7
    assert abs(float(split[:, place].double().mean()) - 1000) < 5 * math.sqrt(1000 / 400)  # 6e-7


def test_draws_come_from_the_generator_alone() -> None:
    log_probs = torch.full((100, 8), 1 / 8).log()
    for sampler in (draw_tokens, lambda x, g: split_counts(torch.full((100,), 50), x, g)):
        torch.manual_seed(1)
        first = sampler(log_probs, torch.Generator().manual_seed(4))
        torch.manual_seed(2)
        assert torch.equal(sampler(log_probs, torch.Generator().manual_seed(4)), first)
        assert not torch.equal(sampler(log_probs, torch.Generator().manual_seed(5)), first)


def restricted_by_hand(
    logits: list[float],
    allowed: list[bool],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> list[float]:
    """One row in plain Python: chances of every token."""
    weights = {i: math.exp(x / temperature) for i, x in enumerate(logits) if allowed[i]}
    ranked = sorted(weights, key=lambda i: (-weights[i], i))[:top_k]
    if top_p is not None:
        total, kept, mass = sum(weights[i] for i in ranked), [], 0.0
        for i in ranked:
            if mass < top_p:
                kept.append(i)
            mass += weights[i] / total
        ranked = kept
    total = sum(weights[i] for i in ranked)
    return [weights[i] / total if i in ranked else 0.0 for i in range(len(logits))]


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    pairwise([0.5, 1.0, 2.0], [None, 1, 3, 50], [None, 1e-9, 0.5, 0.9, 1.0]),
)
def test_restrict(temperature: float, top_k: int | None, top_p: float | None, generator) -> None:
    logits = 2 * torch.randn(20, 9, generator=generator)
    allowed = torch.rand(20, 9, generator=generator) < 0.7
    allowed[:, 4] = True
    found = restrict(logits, allowed, temperature=temperature, top_k=top_k, top_p=top_p)
    assert found.dtype == torch.float64
    expected = [
        restricted_by_hand(*row, temperature, top_k, top_p)
        for row in zip(logits.tolist(), allowed.tolist(), strict=True)
    ]
    assert_close(found.exp(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-12)


def test_of_equally_likely_tokens_exactly_k_stay() -> None:
    found = restrict(torch.zeros(2, 6), torch.ones(2, 6, dtype=torch.bool), top_k=2)
    assert_close(found.exp()[0], torch.tensor([0.5, 0.5, 0, 0, 0, 0], dtype=torch.float64))
