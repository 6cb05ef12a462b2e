"""Samples against the enumerated |psi|^2: chi-square at the false-alarm rate of conftest.py."""

from __future__ import annotations

import pytest
import torch
from covering import pairwise
from systems import (
    all_probabilities,
    build,
    build_system,
    cases_with,
    every_model,
    numbers,
)
from torch.testing import assert_close

from hamiltonians.lattices.lattice import Chain, Square

N_SAMPLES = 8_000


@pytest.mark.parametrize(("model", "system", "unique"), cases_with([False, True]))
def test_distribution(
    model: str, system: str, unique: bool, generator, assert_distribution
) -> None:
    psi = build_system(model, system)
    samples = psi.sample(N_SAMPLES, generator, unique=unique)
    assert samples.configs.dtype == torch.bool and samples.configs.shape[1] == psi.n_sites
    assert samples.counts.dtype == torch.int64 and samples.n_samples == N_SAMPLES
    assert_close(samples.weights.sum(), torch.ones(()).double())
    places = numbers(samples.configs)
    counts = torch.zeros(2**psi.n_sites, dtype=torch.int64).index_add_(0, places, samples.counts)
    assert_distribution(counts, all_probabilities(psi))
    with torch.no_grad():
        assert_close(samples.log_psi, psi.log_psi(samples.configs), rtol=0, atol=1e-12)
    if unique:
        assert len(places.unique()) == len(places)
        assert (samples.counts > 0).all()
    else:
        assert (samples.counts == 1).all()


@pytest.mark.parametrize(
    ("model", "unique", "options"),
    [
        ("factored", True, {}),
        ("ptf", False, {"n_up": 5}),
        ("gru", True, {}),
        ("lptf-gru", True, {}),
    ],
)
def test_on_every_device(
    model: str,
    unique: bool,
    options: dict[str, object],
    device: torch.device,
    assert_distribution,
) -> None:
    psi = build_system(model, "square-2x2", **options)
    expected = all_probabilities(psi)
    psi = psi.to(device)
    samples = psi.sample(N_SAMPLES, torch.Generator(device).manual_seed(20241), unique=unique)
    assert samples.configs.device == samples.log_psi.device == psi.closed.device
    with torch.no_grad():
        log_psi = psi.log_psi(samples.configs)
    assert_close(samples.log_psi.real.cpu(), log_psi.real.cpu(), rtol=0, atol=1e-12)
    places = numbers(samples.configs.cpu())
    counts = torch.zeros(2**psi.n_sites, dtype=torch.int64)
    assert_distribution(counts.index_add_(0, places, samples.counts.cpu()), expected)


@pytest.mark.parametrize(
    ("model", "max_rows", "unique"), pairwise(["ptf", "gru"], [1, 3, 64], [False, True])
)
def test_few_rows_at_a_time(
    model: str, max_rows: int, unique: bool, generator, assert_distribution
) -> None:
    """A frontier cut in pieces, or rows drawn in chunks, follow the same law."""
    psi = build(model, Chain(6), "2")  # 3 patches: a frontier is cut where states differ
    most = []
    psi.core.register_forward_hook(lambda module, inputs, output: most.append(len(inputs[0])))
    n = N_SAMPLES if unique or max_rows > 3 else 400
    samples = psi.sample(n, generator, unique=unique, max_rows=max_rows)
    assert max(most) <= max_rows
    places = numbers(samples.configs)
    counts = torch.zeros(64, dtype=torch.int64).index_add_(0, places, samples.counts)
    assert samples.n_samples == n
    assert_distribution(counts, all_probabilities(psi))
    assert_close(samples.log_psi, psi.log_psi(samples.configs).detach(), rtol=0, atol=1e-12)
    assert not unique or len(places.unique()) == len(places)


def test_draws_are_independent(generator, assert_distribution) -> None:
    """The joint law of successive rows is the product."""
    psi = build("gru", Chain(3), "2")
    places = numbers(psi.sample(2 * N_SAMPLES, generator).configs).view(-1, 2)
    p = all_probabilities(psi)
    assert_distribution(
        (8 * places[:, 0] + places[:, 1]).bincount(minlength=64), torch.outer(p, p).flatten()
    )


@pytest.mark.parametrize("model", ["factored", "gru", "lptf-gru", "gru-digits"])
def test_counts_scatter_as_a_multinomial(model: str, generator) -> None:
    """Unique sampling repeated 400 times: variance of each count n p (1 - p), not less, not more.

    z = (sample variance / expected - 1) / sqrt(2 / 399) for 8 configurations; |z| < 6 has a
    false-alarm rate below 1e-6 (counts are near normal: n p > 50).
    """
    psi = build(model, Chain(3), "2")
    n, repeats = 50_000, 400
    counts = torch.zeros(repeats, 8, dtype=torch.float64)
    for row in counts:
        samples = psi.sample(n, generator, unique=True)
        row[numbers(samples.configs)] = samples.counts.double()
    p = all_probabilities(psi)
    assert (n * p).min() > 50
    z = (counts.var(0) / (n * p * (1 - p)) - 1) / (2 / (repeats - 1)) ** 0.5
    assert z.abs().max() < 6


def test_a_million_samples_of_a_peaked_state_cost_its_configurations() -> None:
    psi = build("ptf", Chain(12), "4", dtype=torch.float32)
    psi.set_product_state(torch.full((12,), 1e-3), spread=0.0)
    rows = []
    psi.core.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    samples = psi.sample(1_000_000, torch.Generator().manual_seed(0), unique=True)
    assert samples.n_samples == 1_000_000
    assert len(samples.counts) < 150 and sum(rows) < 100
    vacuum = int(samples.counts[~samples.configs.any(1)])
    expected = 1e6 * 0.999**12
    assert abs(vacuum - expected) < 5 * (expected * (1 - 0.999**12)) ** 0.5  # 6e-7


@pytest.mark.parametrize("unique", [False, True])
@every_model
def test_only_the_generator_decides(model: str, unique: bool) -> None:
    psi = build(model, Square(2, 3), "2x2")
    torch.manual_seed(1)
    first = psi.sample(100, torch.Generator().manual_seed(7), unique=unique)
    torch.manual_seed(2)
    second = psi.sample(100, torch.Generator().manual_seed(7), unique=unique)
    assert torch.equal(first.configs, second.configs) and torch.equal(first.counts, second.counts)
    assert torch.equal(first.log_psi, second.log_psi)
    other = psi.sample(100, torch.Generator().manual_seed(8), unique=unique)
    assert first.configs.shape != other.configs.shape or not torch.equal(
        first.configs, other.configs
    )
    assert not first.log_psi.requires_grad


@pytest.mark.parametrize("n_samples", [0, -3])
@pytest.mark.parametrize("unique", [False, True])
def test_too_few_samples(n_samples: int, unique: bool, generator: torch.Generator) -> None:
    psi = build("gru", Chain(4), "2")
    with pytest.raises(ValueError, match=f"n_samples={n_samples} must be at least 1"):
        psi.sample(n_samples, generator, unique=unique)
