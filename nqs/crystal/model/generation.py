"""Drawing crystals: token by token, many at once, never outside the grammar.

A row starts at bos; at each step the model reads the last token of every row that has not ended
(keys and values, or the recurrent memory, of all before it are kept), what the grammar rules out
gets probability zero, and one token a row is drawn. Rows that have ended are dropped from the
state. Cost: one token evaluation a token, where a loop without a cache needs half the length
squared.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nqs.core.decoding import draw_tokens, restrict
from nqs.core.sequence import SequenceModel
from nqs.crystal.structures.periodic_distances import shortest_distance
from nqs.crystal.structures.structure import CrystalError, Structure
from nqs.crystal.tokens.tokeniser import Conditions, Grammar, Tokeniser

ENDED_SHARE = 1 / 8
"""Rows are dropped from the state when this share of them has ended: a copy of the state costs
about as much as a step's attention."""
IDLE_ROUNDS = 200
"""Rounds of draws in a row of which nothing is kept before it is given up: where 5 % would be
kept, a chance of 4e-5."""


@dataclass(frozen=True)
class Request:
    """What crystals are asked for.

    Attributes:
        n: how many, >= 1.
        conditions: what they must be; None leaves all open.
        partial: a cell and atoms that they must have.
    """

    n: int = 1
    conditions: Conditions | None = None
    partial: Structure | None = None


@dataclass(frozen=True)
class Filters:
    """How draws are sharpened, see nqs.core.decoding.restrict; the defaults sample the model."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None


@dataclass(frozen=True)
class Sample:
    """A crystal that was drawn.

    Attributes:
        request: which of the requests it answers, from 0.
        n_rejected: draws in its place before it that were thrown away (see `generate`).
        log_likelihood: ln of the chance that it is drawn, given its request, without filters: ln p
            summed over its tokens, each renormalised over what the grammar allows there.
    """

    request: int
    tokens: tuple[int, ...]
    structure: Structure
    log_likelihood: float
    n_rejected: int = 0


class JointGrammar(Grammar):
    """Several grammars side by side: the rows of the first, then those of the second, ..."""

    def __init__(self, parts: Sequence[tuple[Grammar, int]]) -> None:
        self._parts = [grammar for grammar, _ in parts]
        self._sizes = [n_rows for _, n_rows in parts]
        self.max_length = max(grammar.max_length for grammar in self._parts)

    def allowed(self) -> Tensor:
        return torch.cat([grammar.allowed() for grammar in self._parts])

    def advance(self, tokens: Tensor) -> None:
        for grammar, part in zip(self._parts, tokens.split(self._sizes), strict=True):
            grammar.advance(part)


@torch.no_grad()
def decode(
    model: SequenceModel,
    tokeniser: Tokeniser,
    grammar: Grammar,
    n_rows: int,
    filters: Filters,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Tokens (R, L) from bos to eos, padded, and log-likelihoods (R,) float64 as in Sample."""
    device = model.head.weight.device
    state = model.start(n_rows, min(grammar.max_length, model.max_length))
    rows = torch.arange(n_rows, device=device)  # which row each row of the state is
    last = torch.full((n_rows,), tokeniser.bos, device=device)
    tokens = [last]
    log_likelihoods = torch.zeros(n_rows, dtype=torch.float64, device=device)
    while len(rows):
        logits, state = model(last[rows, None], state)
        allowed = grammar.allowed()[rows]
        drawn = draw_tokens(restrict(logits[:, -1], allowed, **vars(filters)), generator)
        plain = restrict(logits[:, -1], allowed)
        log_likelihoods[rows] += plain.gather(1, drawn[:, None]).squeeze(1)
        last = torch.full_like(last, tokeniser.pad)
        last[rows] = drawn
        grammar.advance(last)
        tokens.append(last)
        going = (drawn != tokeniser.eos) & (drawn != tokeniser.pad)
        n_going = int(going.sum())  # CPU-GPU sync
        if n_going == 0:
            break
        if n_going <= (1 - ENDED_SHARE) * len(rows):
            state, rows = state.select(going.nonzero().squeeze(1)), rows[going]
    return torch.stack(tokens, dim=1), log_likelihoods


def generate(
    model: SequenceModel,
    tokeniser: Tokeniser,
    requests: Sequence[Request],
    *,
    filters: Filters,
    batch_size: int,
    generator: torch.Generator,
    min_distance: float | None = None,
) -> Iterator[list[Sample]]:
    """All crystals that are asked for, in the order of the requests, batch by batch.

    Args:
        min_distance: Angstrom; crystals with two atoms closer than that, images included, are
            thrown away and drawn again. What is kept follows exactly p(crystal | atoms apart), and
            the share of draws that is kept is 1 / (1 + mean n_rejected).

    Raises CrystalError for conditions that nothing meets, that need more tokens than the model has
    positions, or whose draws never have their atoms that far apart.
    """
    for index, request in enumerate(requests):
        if min_distance and request.partial and not _apart(request.partial, min_distance):
            raise CrystalError(
                f"request {index}: atoms of the partial structure are closer than min_distance="
                f"{min_distance:g} Angstrom"
            )
    for batch in batched(requests, batch_size):
        owners = [index for index, size in batch for _ in range(size)]
        kept: dict[int, Sample] = {}
        n_rounds = n_idle = 0
        while len(kept) < len(owners):
            places = [place for place in range(len(owners)) if place not in kept]
            again = [owners[place] for place in places]
            drawn = draw_crystals(model, tokeniser, requests, again, filters, generator)
            n_idle += 1
            for place, found in zip(places, drawn, strict=True):
                if min_distance is None or _apart(found.structure, min_distance):
                    kept[place] = dataclasses.replace(found, n_rejected=n_rounds)
                    n_idle = 0
            n_rounds += 1
            if n_idle == IDLE_ROUNDS:
                raise CrystalError(
                    f"{IDLE_ROUNDS} draws of {drawn[0].structure.formula} in a row had atoms "
                    f"closer than min_distance={min_distance:g} Angstrom; ask for less, or null"
                )
        yield [kept[place] for place in range(len(owners))]


def draw_crystals(
    model: SequenceModel,
    tokeniser: Tokeniser,
    requests: Sequence[Request],
    owners: Sequence[int],
    filters: Filters,
    generator: torch.Generator,
) -> list[Sample]:
    """One crystal for each of the requests that `owners` names, ascending, side by side."""
    device = model.head.weight.device
    parts = []
    for index, group in itertools.groupby(owners):
        request, n_rows = requests[index], len(list(group))
        grammar = tokeniser.grammar(
            n_rows, request.conditions, partial=request.partial, device=device
        )
        parts.append((grammar, n_rows))
    joint = parts[0][0] if len(parts) == 1 else JointGrammar(parts)
    if joint.max_length > model.max_length:
        raise CrystalError(
            f"crystals of up to {joint.max_length} tokens are asked for, the model reads "
            f"{model.max_length}"
        )
    tokens, log_likelihoods = decode(model, tokeniser, joint, len(owners), filters, generator)
    return [
        sample(tokeniser, owner, row, log_likelihood)
        for owner, row, log_likelihood in zip(
            owners, tokens.tolist(), log_likelihoods.tolist(), strict=True
        )
    ]


def _apart(structure: Structure, distance: float) -> bool:
    """Whether no two atoms, images included, are closer than that."""
    return shortest_distance(structure.matrix, structure.positions) >= distance


def sample(tokeniser: Tokeniser, request: int, row: Sequence[int], log_likelihood: float) -> Sample:
    """A row of decoded tokens as a crystal."""
    tokens = tuple(row[: row.index(tokeniser.eos) + 1])
    structure, _ = tokeniser.decode(tokens)
    return Sample(request, tokens, structure, log_likelihood)


def batched(requests: Sequence[Request], batch_size: int) -> Iterator[list[tuple[int, int]]]:
    """Batches of (request, how many rows for it), batch_size rows each but for the last."""
    batch: list[tuple[int, int]] = []
    room = batch_size
    for index, request in enumerate(requests):
        left = request.n
        while left:
            taken = min(left, room)
            batch.append((index, taken))
            left, room = left - taken, room - taken
            if room == 0:
                yield batch
                batch, room = [], batch_size
    if batch:
        yield batch
