"""Drawing crystals: token by token, many at once, never outside the grammar.

A row starts at bos; at each step the model reads the last token of every row that has not ended
(keys and values, or the recurrent memory, of all before it are kept), what the grammar rules out
gets probability zero, and one token a row is drawn. Rows that have ended are dropped from the
state. Cost: one token evaluation a token, where a loop without a cache needs half the length
squared.

With guidance s each row is read twice, with its conditions c and without, and drawn from

    p_s(token) ~ p(token) (p(token | c) / p(token))^s

(classifier-free guidance: Ho & Salimans, arXiv:2207.12598; of language models: Sanchez et al.,
arXiv:2306.17806): s = 1 is p(token | c), above 1 conditions count for more.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
        apart: Angstrom by which the grammar keeps atoms apart where it can, for tokenisers that do.
        group: the space group that the grammar holds to where it is no condition, for tokenisers
            that write it.
        prompts: what is shown before them, draw g the prompt g modulo their number.
    """

    n: int = 1
    conditions: Conditions | None = None
    partial: Structure | None = None
    apart: float | None = None
    group: int | None = None
    prompts: tuple[tuple[int, ...], ...] = ()

    @property
    def space_group(self) -> int | None:
        """The one that is asked for, as a condition or of the grammar alone."""
        known = None if self.conditions is None else self.conditions.space_group
        return self.group if known is None else known

    def prompt(self, draw: int) -> tuple[int, ...]:
        """What is shown before a draw."""
        return self.prompts[draw % len(self.prompts)] if self.prompts else ()


@dataclass(frozen=True)
class Filters:
    """How draws are sharpened, see nqs.core.decoding.restrict, and what conditions count for; the
    defaults sample the model."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: float = 1.0

    @property
    def of_tokens(self) -> dict[str, Any]:
        """Those of `restrict`."""
        return {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}


@dataclass(frozen=True)
class Sample:
    """A crystal that was drawn.

    Attributes:
        request, draw: which of the requests it answers, and which of its draws it is, from 0.
        n_rejected: draws in its place before it that were thrown away (see `generate`).
        log_likelihood: ln of the chance that it is drawn, given its request, without filters: ln p
            summed over its tokens, each renormalised over what the grammar allows there; NaN of
            what was not drawn.
        source: "model", or the template that it is.
    """

    request: int
    draw: int
    tokens: tuple[int, ...]
    structure: Structure
    log_likelihood: float
    n_rejected: int = 0
    source: str = "model"


Place = tuple[int, int]
"""(request, draw)."""


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
    *,
    prompts: Tensor | None = None,
    n_conditions: int = 0,
) -> tuple[Tensor, Tensor]:
    """Tokens (R, L) from bos to eos, padded, and log-likelihoods (R,) float64 as in Sample.

    Args:
        prompts: (R, P), read after bos and not returned.
        n_conditions: tokens of the conditions, the first of each row, that guidance leaves out.
    """
    device = model.head.weight.device
    rows = torch.arange(n_rows, device=device)  # which row each row of the states is
    last = torch.full((n_rows,), tokeniser.bos, device=device)
    start = last[:, None] if prompts is None else torch.cat([last[:, None], prompts.to(device)], 1)
    n_readers = 2 if filters.guidance != 1 and n_conditions else 1
    readers = [_Reader(model, start, grammar.max_length) for _ in range(n_readers)]
    tokens = [last]
    log_likelihoods = torch.zeros(n_rows, dtype=torch.float64, device=device)
    while len(rows):
        allowed = grammar.allowed()[rows]
        columns = allowed.any(0).nonzero().squeeze(1)  # few of all tokens; CPU-GPU sync
        allowed = allowed[:, columns]
        logits = readers[0].logits[:, columns]
        plain = restrict(logits, allowed)
        if n_readers > 1 and len(tokens) > n_conditions:
            free = restrict(readers[1].logits[:, columns], allowed)
            logits = torch.where(allowed, free + filters.guidance * (plain - free), 0.0)
        if filters == Filters():
            chosen = draw_tokens(plain, generator)
        else:
            chosen = draw_tokens(restrict(logits, allowed, **filters.of_tokens), generator)
        log_likelihoods[rows] += plain.gather(1, chosen[:, None]).squeeze(1)
        drawn = columns[chosen]
        last = torch.full_like(last, tokeniser.pad)
        last[rows] = drawn
        grammar.advance(last)
        tokens.append(last)
        going = (drawn != tokeniser.eos) & (drawn != tokeniser.pad)
        n_going = int(going.sum())  # CPU-GPU sync
        if n_going == 0:
            break
        if n_going <= (1 - ENDED_SHARE) * len(rows):
            for reader in readers:
                reader.keep(going)
            rows = rows[going]
        for reader in readers[: 1 if len(tokens) <= n_conditions + 1 else None]:
            reader.read(last[rows])
    return torch.stack(tokens, dim=1), log_likelihoods


class _Reader:
    """A model, what it has read of R rows, and its logits (R, K) of the next token.

    Args:
        start: (R, S) what is read first.
        capacity: most tokens that follow.
    """

    def __init__(self, model: SequenceModel, start: Tensor, capacity: int) -> None:
        self._model = model
        n_rows, n_given = start.shape
        state = model.start(n_rows, min(capacity + n_given, model.max_length))
        logits, self._state = model(start, state)
        self.logits = logits[:, -1]

    def read(self, tokens: Tensor) -> None:
        """The next token (R,) of each row."""
        logits, self._state = self._model(tokens[:, None], self._state)
        self.logits = logits[:, -1]

    def keep(self, chosen: Tensor) -> None:
        """Only the rows that are chosen (R,) bool."""
        self._state = self._state.select(chosen.nonzero().squeeze(1))


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
    """All crystals that are asked for, batch by batch: in the order of the requests and draws where
    no prompts are shown, those with prompts of equal length together where there are.

    Args:
        min_distance: Angstrom; crystals with two atoms closer than that, images included, are
            thrown away and drawn again. What is kept follows exactly p(crystal | atoms apart), and
            the share of draws that is kept is 1 / (1 + mean n_rejected).

    Raises CrystalError for conditions that nothing meets, that need more tokens than the model has
    positions, or whose draws never have their atoms that far apart.
    """
    for index, request in enumerate(requests):
        if min_distance and request.partial and not apart(request.partial, min_distance):
            raise CrystalError(
                f"request {index}: atoms of the partial structure are closer than min_distance="
                f"{min_distance:g} Angstrom"
            )
    for places in batched(requests, batch_size):
        kept: dict[Place, Sample] = {}
        n_rounds = n_idle = 0
        while len(kept) < len(places):
            again = [place for place in places if place not in kept]
            drawn = draw_crystals(model, tokeniser, requests, again, filters, generator)
            n_idle += 1
            for place, found in zip(again, drawn, strict=True):
                if min_distance is None or apart(found.structure, min_distance):
                    kept[place] = dataclasses.replace(found, n_rejected=n_rounds)
                    n_idle = 0
            n_rounds += 1
            if n_idle == IDLE_ROUNDS:
                raise CrystalError(
                    f"{IDLE_ROUNDS} draws of {drawn[0].structure.formula} in a row had atoms "
                    f"closer than min_distance={min_distance:g} Angstrom; ask for less, or null"
                )
        yield [kept[place] for place in places]


def draw_crystals(
    model: SequenceModel,
    tokeniser: Tokeniser,
    requests: Sequence[Request],
    places: Sequence[Place],
    filters: Filters,
    generator: torch.Generator,
) -> list[Sample]:
    """One crystal for each of the places, side by side: those of a request one after the other, all
    with prompts of one length and equally many tokens of conditions."""
    device = model.head.weight.device
    parts = []
    for index, group in itertools.groupby(places, key=lambda place: place[0]):
        request, n_rows = requests[index], len(list(group))
        held = {"apart": request.apart, "group": request.group}
        steer = {name: value for name, value in held.items() if value is not None}
        grammar = tokeniser.grammar(
            n_rows, request.conditions, partial=request.partial, device=device, **steer
        )
        parts.append((grammar, n_rows))
    joint = parts[0][0] if len(parts) == 1 else JointGrammar(parts)
    prompts = torch.tensor([requests[index].prompt(draw) for index, draw in places])
    longest = joint.max_length + prompts.shape[1]
    if longest > model.max_length:
        raise CrystalError(
            f"crystals of up to {longest} tokens are asked for, the model reads {model.max_length}"
        )
    conditions = requests[places[0][0]].conditions
    tokens, log_likelihoods = decode(
        model,
        tokeniser,
        joint,
        len(places),
        filters,
        generator,
        prompts=prompts if prompts.shape[1] else None,
        n_conditions=0 if filters.guidance == 1 else tokeniser.n_condition_tokens(conditions),
    )
    return [
        sample(tokeniser, place, row, log_likelihood)
        for place, row, log_likelihood in zip(
            places, tokens.tolist(), log_likelihoods.tolist(), strict=True
        )
    ]


def apart(structure: Structure, distance: float) -> bool:
    """Whether no two atoms, images included, are closer than that."""
    return shortest_distance(structure.matrix, structure.positions) >= distance


def sample(tokeniser: Tokeniser, place: Place, row: Sequence[int], log_likelihood: float) -> Sample:
    """A row of decoded tokens as a crystal."""
    tokens = tuple(row[: row.index(tokeniser.eos) + 1])
    structure, _ = tokeniser.decode(tokens)
    return Sample(*place, tokens, structure, log_likelihood)


def batched(requests: Sequence[Request], batch_size: int) -> Iterator[list[Place]]:
    """All draws in batches of at most batch_size, each with prompts of one length: in order, but
    for those with shorter prompts, which come first."""
    places = [(index, draw) for index, request in enumerate(requests) for draw in range(request.n)]

    def length(place: Place) -> int:
        return len(requests[place[0]].prompt(place[1]))

    for _, alike in itertools.groupby(sorted(places, key=length), key=length):
        together = list(alike)
        for start in range(0, len(together), batch_size):
            yield together[start : start + batch_size]
