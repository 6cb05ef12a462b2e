"""Where the crystals of a generation come from: the model, templates, or both.

Templates are the run's training crystals with their elements exchanged for those that are asked for
(nqs.crystal.datasets.templates). A model that was trained with templates is shown one before each
draw, in turn those that it would have been shown in training.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import final

from nqs.crystal.commands.run_folder import Trained
from nqs.crystal.commands.task_config import GenerateConfig
from nqs.crystal.datasets.data import template_prompt
from nqs.crystal.datasets.loading import known_bodies
from nqs.crystal.datasets.tables import Record
from nqs.crystal.datasets.templates import Exchange, Templates, exchanged
from nqs.crystal.model.generation import Request, Sample, apart
from nqs.crystal.model.ranking import Proposal, ranked
from nqs.crystal.model.structure_types import Written, type_log_likelihoods
from nqs.crystal.structures.structure import CrystalError, Structure
from nqs.crystal.tokens.tokeniser import Conditions, Tokeniser
from nqs.errors import InputError, require

TEMPLATES = 20
"""Templates that vote on what comes first."""
SPARE, TURNS = 2, 20
"""Templates that are looked at, at most, for each that is asked for: some have atoms too close, or,
where one is asked for, another space group."""


@final
class TemplateSource:
    """Templates for requests.

    Args:
        train: the run's training crystals.
        leave_out: of each request, the training crystal that it was made of, if it was.
        proposals: the key's value, for messages.

    Raises InputError for a request without a formula, with a partial structure or an energy.
    """

    def __init__(
        self,
        trained: Trained,
        train: Sequence[Record],
        requests: Sequence[Request],
        leave_out: Sequence[int | None],
        proposals: str = "template",
    ) -> None:
        self._trained, self._tokeniser = trained, trained.tokeniser
        most = trained.config.data.max_atoms
        fitting = [i for i, record in enumerate(train) if record.structure.n_atoms <= most]
        self._train = [train[i] for i in fitting]
        place = {i: k for k, i in enumerate(fitting)}
        self._templates = Templates([record.structure for record in self._train])
        self._omitted = [None if i is None else place.get(i) for i in leave_out]
        self._conditions: list[Conditions] = []
        self._groups = [request.space_group for request in requests]
        for request in requests:
            known = request.conditions or Conditions()
            formula = known.composition
            for name in ("formation_energy", "energy_above_hull"):
                value = getattr(known, name)
                rule = "templates have no energies; leave it out, or draw with proposals=model"
                require(value is None, name, value, rule)
            whole = formula is not None and request.partial is None
            rule = "templates are of a whole formula: give formula=SrTiO3 or like=TABLE, no partial"
            require(whole, "proposals", proposals, rule)
            self._conditions.append(known)
        data = trained.config.data
        self._known = known_bodies(data.train, data, trained.tokeniser)
        self._bodies = functools.lru_cache(maxsize=None)(self._body)

    def exchanges(self, n: int) -> list[list[Exchange]]:
        """The n nearest of each request, fewer where there are not so many."""
        wanted = [known.composition or {} for known in self._conditions]
        return self._templates.nearest(wanted, n, self._omitted)

    def prompts(self, n: int) -> list[tuple[tuple[int, ...], ...]]:
        """What shows the n nearest of each request to the model."""
        return [
            tuple(filter(None, map(self._prompt, exchanges))) for exchanges in self.exchanges(n)
        ]

    def proposals(self, n: int, min_distance: float | None) -> list[list[Proposal]]:
        """The n nearest of each request, but for those with atoms closer than min_distance and
        those of another space group than is asked for."""
        found = []
        many = any(group is not None for group in self._groups)
        for request, exchanges in enumerate(self.exchanges(n * (TURNS if many else SPARE))):
            row: list[Proposal] = []
            for exchange in exchanges:
                if len(row) == n:
                    break
                record = self._train[exchange.index]
                structure = exchanged(record.structure, exchange)
                if min_distance is not None and not apart(structure, min_distance):
                    continue
                tokens, kind = self._written(exchange, structure, self._conditions[request])
                group = self._groups[request]
                if group is None or (isinstance(kind, tuple) and kind[0] == group):
                    source = f"template {record.name}"
                    sample = Sample(request, len(row), (), structure, math.nan, source=source)
                    row.append(Proposal(sample, tokens, kind, exchange.distance))
            found.append(row)
        return found

    def _body(self, index: int) -> tuple[int, ...]:
        """The training crystal as tokens; () where it cannot be written."""
        known = self._known.get(id(self._train[index]))
        if known is not None:
            return () if isinstance(known, str) else known
        try:
            return tuple(self._tokeniser.encode(self._train[index].structure))
        except CrystalError:
            return ()

    def _prompt(self, exchange: Exchange) -> tuple[int, ...]:
        """() where it cannot be written."""
        body = self._bodies(exchange.index)
        try:
            return template_prompt(self._tokeniser, body, exchange) if body else ()
        except CrystalError:
            return ()

    def _written(
        self, exchange: Exchange, structure: Structure, conditions: Conditions
    ) -> tuple[tuple[int, ...], Hashable]:
        """The template's tokens, with the conditions, and its type; () and a type of its own where
        it cannot be written."""
        body = self._bodies(exchange.index)
        try:
            plain = self._tokeniser.exchanged(body, exchange.elements, exchange.scale)
            kind = self._tokeniser.structure_type(plain)
            return tuple(self._tokeniser.conditioned(plain, structure, conditions)), kind
        except CrystalError:
            return (), f"{exchange.index} {exchange.before}"


def chosen(
    config: GenerateConfig,
    trained: Trained,
    requests: Sequence[Request],
    drawn: Iterable[Sample],
    templates: Sequence[Sequence[Proposal]] | None,
) -> list[Sample]:
    """What is kept of draws and templates, request by request. Raises InputError for nothing."""
    by_request: list[list[Sample]] = [[] for _ in requests]
    for sample in drawn:
        by_request[sample.request].append(sample)
    for samples in by_request:
        samples.sort(key=lambda sample: sample.draw)
    if config.proposals == "template":
        assert templates is not None
        kept = [one.sample for row in templates for one in row[: config.n]]
    elif config.proposals == "both" or config.candidates is not None:
        kept = best(trained, requests, by_request, templates, config.n)
    else:
        kept = [sample for samples in by_request for sample in samples]
    if not kept:
        raise InputError(
            "proposals=template: no training crystal has the numbers of atoms and the space group "
            f"that are asked for and atoms min_distance={config.min_distance or 0:g} Angstrom "
            "apart; use model or both"
        )
    return kept


def best(
    trained: Trained,
    requests: Sequence[Request],
    drawn: Sequence[Sequence[Sample]],
    templates: Sequence[Sequence[Proposal]] | None,
    n: int,
) -> list[Sample]:
    """The first n of each request, of draws and templates."""
    tokeniser = trained.tokeniser
    proposals: list[list[Proposal]] = []
    for index, samples in enumerate(drawn):
        row = [] if templates is None else [*templates[index]]
        row += [Proposal(s, s.tokens, tokeniser.structure_type(s.tokens)) for s in samples]
        proposals.append(row)
    written = [written_types(tokeniser, row) for row in proposals]
    exact = any(written)
    likelihoods = type_log_likelihoods(trained.model, tokeniser, requests, written)
    return [
        sample
        for row, found in zip(proposals, likelihoods, strict=True)
        for sample in ranked(row, found if exact else None, n)
    ]


def written_types(
    tokeniser: Tokeniser, proposals: Sequence[Proposal]
) -> dict[Hashable, set[tuple[Written, int]]]:
    """For each type the ways in which it is written, as `type_log_likelihoods` takes them; without
    those that tokens do not say."""
    found: dict[Hashable, set[tuple[Written, int]]] = defaultdict(set)
    for one in proposals:
        span = tokeniser.type_tokens(one.tokens) if one.tokens else None
        if span is not None:
            found[one.kind].add((one.tokens[: span[1]], span[0]))
    return dict(found)
