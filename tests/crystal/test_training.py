"""The loss against a hand computation, the schedule, the best parameters, resumed training."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from nqs.crystal.datasets.data import Encoded, Tasks, collate, encode
from nqs.crystal.datasets.examples import examples
from nqs.crystal.model.cores import CORES, build_core, core_choice
from nqs.crystal.model.optimizer_config import OptimizerConfig
from nqs.crystal.model.training import (
    StepRecord,
    Training,
    build_optimizer,
    build_schedule,
    keep_best,
    mean_loss,
    negative_log_likelihoods,
    quality,
    train,
)
from nqs.crystal.tokens.coordinate import CoordinateTokeniser

TOKENISER = CoordinateTokeniser(8)
TASKS = Tasks(batch_tokens=600)


def encoded(step: int) -> list[Encoded]:
    pairs = [(record.structure, record.conditions) for record in examples()[::step]]
    return encode(TOKENISER, pairs, ("composition",))[0]


def core(name: str = "transformer", seed: int = 0) -> torch.nn.Module:
    heads = {"n_heads": 2} if "n_heads" in CORES.keys(name) else {}
    config = core_choice(name, d_model=16, n_layers=2, **heads)
    init = torch.Generator().manual_seed(seed)
    return build_core(config, len(TOKENISER.vocabulary), TOKENISER.max_length, init)


def training(seed: int = 0) -> Training:
    model = core(seed=seed)
    optimizer = build_optimizer(model, OptimizerConfig(), 8)
    return Training(model, optimizer, torch.Generator().manual_seed(seed + 1))


def run(state: Training, n_steps: int, stop_at: int | None = None) -> list[StepRecord]:
    records: list[StepRecord] = []

    def after_step(record: StepRecord) -> bool:
        records.append(record)
        return record.step == stop_at

    train(
        state,
        TOKENISER,
        encoded(3),
        encoded(29),
        TASKS,
        OptimizerConfig(learning_rate=1e-2, warmup_steps=3),
        n_steps=n_steps,
        validate_every=5,
        precision="float32",
        after_step=after_step,
    )
    return records


@torch.no_grad()
@pytest.mark.parametrize("name", ["transformer", "linear_attention", "ssm", "gru", "lstm"])
def test_loss_is_the_mean_over_what_counts(name: str) -> None:
    """Row by row, each alone and unpadded, token by token."""
    model, crystals = core(name), encoded(40)
    rows = [(crystal.body, 1 + i % 3) for i, crystal in enumerate(crystals)]
    assert len({len(tokens) for tokens, _ in rows}) > 1, "without padding this proves little"
    sums, count = [], 0
    for tokens, given in rows:
        logits, _ = model(torch.tensor([tokens[:-1]]))
        log_probs = logits[0].log_softmax(-1)
        losses = [-float(log_probs[i - 1, tokens[i]]) for i in range(given, len(tokens))]
        sums.append(sum(losses))
        count += len(losses)
    batch = collate(TOKENISER, rows)
    assert_close(float(mean_loss(model, batch)), sum(sums) / count, rtol=1e-5, atol=1e-5)
    found = negative_log_likelihoods(model, batch).tolist()
    assert_close(found, sums, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_quality_is_that_of_whole_crystals() -> None:
    model, crystals = core(), encoded(40)
    alone = [
        float(negative_log_likelihoods(model, collate(TOKENISER, [(c.body, 1)]))) for c in crystals
    ]
    n_tokens = sum(len(crystal.body) - 1 for crystal in crystals)
    found = quality(model, TOKENISER, crystals, 100)
    assert found.nats == pytest.approx(sum(alone) / len(alone), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(sum(alone) / n_tokens), rel=1e-5)


def test_the_warm_up_fits_the_run() -> None:
    assert [OptimizerConfig().warmup(n) for n in (1, 9, 100, 500, 10**6)] == [0, 0, 10, 50, 50]
    assert OptimizerConfig(warmup_steps=7).warmup(3) == 7  # refused where the run is configured


def test_muon_is_for_short_runs() -> None:
    rates = [OptimizerConfig().muon_rate(n) for n in (1, 1000, 1001, 10**6)]
    assert rates == [0.02, 0.02, None, None]
    assert OptimizerConfig(muon=0.1).muon_rate(10**6) == 0.1
    assert OptimizerConfig(muon=None).muon_rate(1) is None


def test_schedule() -> None:
    config = OptimizerConfig(warmup_steps=4, final_fraction=0.1)
    factors = [build_schedule(config, 104)(step) for step in range(104)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[53] == pytest.approx(0.55, abs=0.02) and factors[-1] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(factors[4:]))


def test_only_matrices_decay() -> None:
    model = core()
    config = OptimizerConfig(weight_decay=0.3, muon=None)
    decaying, others = build_optimizer(model, config, 8).param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert all(p.ndim == 2 for p in decaying["params"])
    ids = {id(p) for p in others["params"]}
    assert {id(model.embedding.weight), id(model.positions.table), id(model.head.bias)} <= ids
    assert len(decaying["params"]) + len(others["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["transformer", "gru", "linear_attention"])
def test_muon_moves_the_matrices_between_embedding_and_head(name: str) -> None:
    model = core(name)
    groups = build_optimizer(model, OptimizerConfig(weight_decay=0.3), 8).param_groups
    everything = [id(p) for group in groups for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in model.parameters())
    *_, muon = groups
    assert muon["weight_decay"] == 0.3 and len(muon["params"]) >= 2
    ids = {id(p) for p in muon["params"]}
    linear = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert ids == {id(weight) for weight in linear} - {id(model.head.weight)}


def test_training_learns_and_keeps_the_best() -> None:
    state = training()
    records = run(state, 60)
    looked = [r.perplexity for r in records if math.isfinite(r.perplexity)]
    assert len(looked) == 12 and looked[-1] < looked[0] / 5
    assert state.best_perplexity == min(looked)
    kept = copy.deepcopy(state.best_parameters)
    model = core(seed=7)
    model.load_state_dict(kept)
    found = quality(model, TOKENISER, encoded(29), TASKS.batch_tokens)
    assert found.perplexity == pytest.approx(min(looked), rel=1e-6)


def test_a_worse_look_is_not_kept() -> None:
    state = training()
    best = quality(state.model, TOKENISER, encoded(29), 600)
    keep_best(state, best)
    before = copy.deepcopy(state.best_parameters)
    with torch.no_grad():
        state.model.head.weight.mul_(3)
    worse = quality(state.model, TOKENISER, encoded(29), 600)
    assert worse.perplexity > best.perplexity
    keep_best(state, worse)
    assert state.looks_without_gain == 1 and state.best_perplexity == best.perplexity
    for name, value in before.items():
        assert torch.equal(state.best_parameters[name], value)


@pytest.mark.parametrize("stop", [1, 7, 16])
def test_resumed_is_uninterrupted(stop: int) -> None:
    """In the middle of an epoch and in a later one, bit for bit."""
    whole, first = training(), training()
    records = run(whole, 20)
    assert records[-1].epoch >= 2
    run(first, 20, stop_at=stop)
    second = training(seed=5)  # everything that is not restored would differ
    second.model.load_state_dict(copy.deepcopy(first.model.state_dict()))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.generator.set_state(first.generator.get_state())
    second.step = first.step
    rest = run(second, 20)
    assert [r.loss for r in rest] == [r.loss for r in records[stop:]]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value)
