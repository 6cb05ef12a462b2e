"""Training of a crystal language model: the algorithm.

    loss = - mean over the tokens that count of  ln p(token | all before it)

minimised with AdamW (Loshchilov & Hutter, arXiv:1711.05101), in short runs with Muon
(nqs.crystal.model.muon) for the matrices of the layers, under a cosine schedule with warm-up; the
parameters that judged best on the validation crystals are kept.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nqs.core.sequence import SequenceModel
from nqs.crystal.datasets.data import Batch, Encoded, Epoch, Tasks, after, plain_batches
from nqs.crystal.model.muon import ORTHOGONAL, MuonAdamW
from nqs.crystal.model.optimizer_config import OptimizerConfig
from nqs.crystal.tokens.tokeniser import Tokeniser
from nqs.runfolder.history import SECONDS, STEP, Column
from nqs.runfolder.schedules import Schedule

LARGEST_MEAN = 700.0
"""Nats a token whose exponential still is a number."""
COLUMNS: Final = (
    STEP,
    Column("epoch", "1", "pass over the training crystals, from 1"),
    Column("loss", "nats", "- ln p a token that counts, mean over the step's batch"),
    Column("validation", "nats", "- ln p of a validation crystal, mean; NaN: not looked"),
    Column(
        "perplexity",
        "1",
        "exp of the same a token, with templates the geometric mean of without "
        "and with one; NaN: not looked",
    ),
    Column("gradient_norm", "nats", "norm of the gradient before clipping"),
    Column("learning_rate", "1", "step size of AdamW"),
    SECONDS,
)
"""What is recorded of each step."""
COUNTED: Final = ("epoch", "batches_done", "best_perplexity", "looks_without_gain")
"""Numbers of a training that its checkpoints hold."""


@dataclass(frozen=True)
class StepRecord:
    """One step. validation, perplexity: of the step's look at the validation crystals, NaN at the
    steps without one."""

    step: int
    epoch: int
    loss: float
    validation: float
    perplexity: float
    gradient_norm: float
    learning_rate: float
    seconds: float

    def row(self) -> dict[str, float]:
        """All of it by column."""
        return {column.name: float(getattr(self, column.name)) for column in COLUMNS}


@dataclass(frozen=True)
class Quality:
    """How well crystals are predicted.

    Attributes:
        nats: - ln p(crystal), mean over crystals; its exponential is the perplexity per crystal.
        perplexity: exp of the same, summed, per token.
        after_template: nats after a template of those that have one; NaN without templates.
    """

    nats: float
    perplexity: float
    after_template: float = math.nan


@dataclass
class Training:
    """All that the next step depends on.

    Attributes:
        generator: draws what the next epoch is.
        epoch, batches_done: number of the current epoch, from 1, and how far it has gone.
        epoch_state: of the generator before the current epoch was drawn.
        best: perplexity per token, nats after a template and parameters of the best look so far.
        looks_without_gain: looks at the validation crystals since the best one.
    """

    model: SequenceModel
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0
    epoch: int = 0
    batches_done: int = 0
    epoch_state: Tensor | None = None
    best_perplexity: float = math.inf
    best_after_template: float = math.nan
    best_parameters: dict[str, Tensor] = field(default_factory=dict)
    looks_without_gain: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model's parameters and the generator, as a checkpoint holds it."""
        names = (*COUNTED, "best_after_template", "epoch_state")
        state: dict[str, Any] = {name: getattr(self, name) for name in names}
        return state | {"adamw": self.optimizer.state_dict(), "best": self.best_parameters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from state_dict()."""
        for name in COUNTED:
            setattr(self, name, state[name])
        self.best_after_template = state.get("best_after_template", math.nan)  # of older runs
        self.epoch_state = state["epoch_state"].cpu()
        self.optimizer.load_state_dict(state["adamw"])
        self.best_parameters = dict(state["best"])


def train(
    training: Training,
    tokeniser: Tokeniser,
    crystals: Sequence[Encoded],
    validation: Sequence[Encoded],
    tasks: Tasks,
    config: OptimizerConfig,
    *,
    n_steps: int,
    validate_every: int,
    precision: str,
    after_step: Callable[[StepRecord], bool],
) -> None:
    """Steps up to n_steps, or until after_step says True.

    Raises FloatingPointError for a step after which the parameters are not finite.
    """
    model, optimizer = training.model, training.optimizer
    device = model.head.weight.device
    batches = following(training, tokeniser, crystals, tasks)
    schedule = build_schedule(config, n_steps)
    while training.step < n_steps:
        started = time.perf_counter()
        factor = schedule(training.step)
        for group in optimizer.param_groups:
            group["lr"] = factor * top_rate(config, group, n_steps)
        torch.manual_seed(training.step)  # of dropout: a resumed run goes on with the same masks
        with autocast(device, precision), parametrize.cached():
            loss = mean_loss(model, next(batches).to(device))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        training.step += 1
        check_finite(model, training.step)
        look = Quality(math.nan, math.nan)
        if training.step % validate_every == 0 or training.step == n_steps:
            look = judged(model, tokeniser, validation, tasks.batch_tokens, precision)
            keep_best(training, look)
        record = StepRecord(
            step=training.step,
            epoch=training.epoch,
            loss=loss.item(),
            validation=look.nats,
            perplexity=look.perplexity,
            gradient_norm=float(norm),
            learning_rate=config.learning_rate * factor,
            seconds=time.perf_counter() - started,
        )
        if after_step(record):
            return


def following(
    training: Training, tokeniser: Tokeniser, crystals: Sequence[Encoded], tasks: Tasks
) -> Iterator[Batch]:
    """The batches from where the training stands, epoch after epoch."""
    if training.epoch_state is not None:  # in the middle of an epoch: draw the same one again
        again = torch.Generator()
        again.set_state(training.epoch_state)
        epoch = Epoch(tokeniser, crystals, tasks, again)
    while True:
        if training.epoch_state is None or training.batches_done == len(epoch):
            training.epoch_state = training.generator.get_state()
            epoch = Epoch(tokeniser, crystals, tasks, training.generator)
            training.epoch, training.batches_done = training.epoch + 1, 0
        training.batches_done += 1
        yield epoch[training.batches_done - 1]


def check_finite(model: SequenceModel, step: int) -> None:
    """Raises FloatingPointError for parameters that no later step and no checkpoint may hold."""
    finite = torch.stack([parameter.isfinite().all() for parameter in model.parameters()])
    if not bool(finite.all()):  # CPU-GPU sync
        raise FloatingPointError(f"the update of step {step} is not finite")


def mean_loss(model: SequenceModel, batch: Batch) -> Tensor:
    """- ln p a token, mean over the targets that count; a scalar."""
    logits, _ = model(batch.tokens)
    return nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), batch.targets.flatten(), ignore_index=batch.pad
    )


def negative_log_likelihoods(model: SequenceModel, batch: Batch) -> Tensor:
    """- ln p of each row's targets that count, (R,) float64."""
    logits, _ = model(batch.tokens)
    losses = nn.functional.cross_entropy(
        logits.transpose(1, 2).float(), batch.targets, ignore_index=batch.pad, reduction="none"
    )
    return losses.to(torch.float64).sum(1)


@torch.no_grad()
def quality(
    model: SequenceModel,
    tokeniser: Tokeniser,
    crystals: Sequence[Encoded],
    batch_tokens: int,
    precision: str = "float32",
) -> Quality:
    """How well the model predicts crystals as they are, without conditions."""
    return _quality(model, tokeniser, [(c.body, 1) for c in crystals], batch_tokens, precision)


@torch.no_grad()
def quality_after_templates(
    model: SequenceModel,
    tokeniser: Tokeniser,
    crystals: Sequence[Encoded],
    batch_tokens: int,
    precision: str = "float32",
) -> Quality:
    """The same after the first prompt of each crystal, of those that have one (at least one)."""
    rows = [after(c.prompts[0], c.body, 1) for c in crystals if c.prompts]
    return _quality(model, tokeniser, rows, batch_tokens, precision)


def judged(
    model: SequenceModel,
    tokeniser: Tokeniser,
    crystals: Sequence[Encoded],
    batch_tokens: int,
    precision: str,
) -> Quality:
    """`quality`; with templates its perplexity is the geometric mean of those with and without."""
    model.eval()
    look = quality(model, tokeniser, crystals, batch_tokens, precision)
    if any(crystal.prompts for crystal in crystals):
        other = quality_after_templates(model, tokeniser, crystals, batch_tokens, precision)
        both = math.sqrt(look.perplexity) * math.sqrt(other.perplexity)
        look = Quality(look.nats, both, other.nats)
    model.train()
    return look


def _quality(
    model: SequenceModel,
    tokeniser: Tokeniser,
    rows: Sequence[tuple[Sequence[int], int]],
    batch_tokens: int,
    precision: str,
) -> Quality:
    """Of sequences (tokens, how many are given)."""
    device = model.head.weight.device
    total, n_tokens = 0.0, 0
    with autocast(device, precision), parametrize.cached():
        for _, batch in plain_batches(tokeniser, rows, batch_tokens):
            total += float(negative_log_likelihoods(model, batch.to(device)).sum())
            n_tokens += int((batch.targets != batch.pad).sum())
    mean = total / n_tokens
    return Quality(total / len(rows), math.exp(mean) if mean < LARGEST_MEAN else math.inf)


def keep_best(training: Training, look: Quality) -> None:
    """Remembers the parameters if they are the best so far."""
    training.looks_without_gain += 1
    if look.perplexity < training.best_perplexity:
        training.looks_without_gain = 0
        training.best_perplexity = look.perplexity
        training.best_after_template = look.after_template
        training.best_parameters = copy.deepcopy(training.model.state_dict())


def build_schedule(config: OptimizerConfig, n_steps: int) -> Schedule:
    """Factor of the learning rate: linear warm-up, then half a cosine, to its end at the last step
    of n_steps."""
    warmup = config.warmup(n_steps)
    return Schedule(
        "cosine",
        warmup_steps=warmup,
        decay_start=warmup,
        decay_steps=max(1, n_steps - 1 - warmup),
        final_fraction=config.final_fraction,
    )


def build_optimizer(model: SequenceModel, config: OptimizerConfig, n_steps: int) -> MuonAdamW:
    """Muon, in a run of n_steps that has it, for the matrices of linear layers but the head, AdamW
    for all else. Only matrices of linear layers decay, not embeddings, positions, norms or biases;
    of tables that share features (nqs.core.features) what each token has of its own."""
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    own = {id(p) for name, p in model.named_parameters() if name.endswith("weight.original")}
    last = {id(p) for p in model.head.parameters()}
    inner = linear - last if config.muon_rate(n_steps) is not None else set()
    decays, every = config.weight_decay, [*model.parameters()]
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in every if id(p) in (linear | own) - inner],
            "weight_decay": decays,
        },
        {"params": [p for p in every if id(p) not in linear | own], "weight_decay": 0.0},
    ]
    if inner:
        matrices = [p for p in every if id(p) in inner]
        groups.append({"params": matrices, "weight_decay": decays, ORTHOGONAL: True})
    betas = (config.beta1, config.beta2)
    return MuonAdamW(groups, lr=config.learning_rate, betas=betas)


def top_rate(config: OptimizerConfig, group: Mapping[str, Any], n_steps: int) -> float:
    """The step size of a group of parameters at the top of the schedule of n_steps."""
    muon = group.get(ORTHOGONAL, False)
    rate = config.muon_rate(n_steps) if muon else config.learning_rate
    assert rate is not None
    return rate


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Products in bfloat16 where asked for; sums, norms and the loss stay in float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
