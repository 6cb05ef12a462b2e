"""Where the crystals of a generation come from: the model, templates, or both.

Templates are the run's training crystals with their elements exchanged for those that are asked for
(nqs.crystal.datasets.templates). A model that was trained with templates is shown one before each
draw, in turn those that it would have been shown in training.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import final

from nqs.crystal.commands.run_folder import Trained
from nqs.crystal.commands.task_config import GenerateConfig
from nqs.crystal.datasets.data import template_prompt
from nqs.crystal.datasets.loading import known_bodies
from nqs.crystal.datasets.tables import Record
from nqs.crystal.datasets.templates import Exchange, Templates, exchanged
from nqs.crystal.model.generation import Request, Sample, apart
from nqs.crystal.model.ranking import ranked
from nqs.crystal.structures.structure import CrystalError
from nqs.crystal.tokens.tokeniser import Conditions
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

    Raises InputError for a request without a formula, with a partial structure or an energy.
    """

    def __init__(
        self,
        trained: Trained,
        train: Sequence[Record],
        requests: Sequence[Request],
        leave_out: Sequence[int | None],
    ) -> None:
        self._trained, self._tokeniser = trained, trained.tokeniser
        most = trained.config.data.max_atoms
        fitting = [i for i, record in enumerate(train) if record.structure.n_atoms <= most]
        self._train = [train[i] for i in fitting]
        place = {i: k for k, i in enumerate(fitting)}
        self._templates = Templates([record.structure for record in self._train])
        self._omitted = [None if i is None else place.get(i) for i in leave_out]
        self._compositions, self._groups = [], []
        for request in requests:
            known = request.conditions or Conditions()
            formula = known.composition
            for name in ("formation_energy", "energy_above_hull"):
                value = getattr(known, name)
                rule = "templates have no energies; leave it out, or draw with proposals=model"
                require(value is None, name, value, rule)
            whole = formula is not None and request.partial is None
            rule = "templates are of a whole formula: give formula=SrTiO3 or like=TABLE, no partial"
            require(whole, "proposals", "template", rule)
            self._compositions.append(formula or {})
            self._groups.append(known.space_group)
        data = trained.config.data
        self._known = known_bodies(data.train, data, trained.tokeniser)
        self._bodies = functools.lru_cache(maxsize=None)(self._body)

    def exchanges(self, n: int) -> list[list[Exchange]]:
        """The n nearest of each request, fewer where there are not so many."""
        return self._templates.nearest(self._compositions, n, self._omitted)

    def prompts(self, n: int) -> list[tuple[tuple[int, ...], ...]]:
        """What shows the n nearest of each request to the model."""
        return [
            tuple(filter(None, map(self._prompt, exchanges))) for exchanges in self.exchanges(n)
        ]

    def samples(
        self, n: int, min_distance: float | None
    ) -> list[list[tuple[Sample, Hashable, float]]]:
        """The n nearest of each request as crystals with their types and distances, but for those
        with atoms closer than min_distance and those of another space group than is asked for."""
        found = []
        many = any(group is not None for group in self._groups)
        for request, exchanges in enumerate(self.exchanges(n * (TURNS if many else SPARE))):
            row: list[tuple[Sample, Hashable, float]] = []
            for exchange in exchanges:
                if len(row) == n:
                    break
                record = self._train[exchange.index]
                structure = exchanged(record.structure, exchange)
                if min_distance is not None and not apart(structure, min_distance):
                    continue
                kind, group = self._type(exchange), self._groups[request]
                if group is None or (isinstance(kind, tuple) and kind[0] == group):
                    source = f"template {record.name}"
                    sample = Sample(request, len(row), (), structure, math.nan, source=source)
                    row.append((sample, kind, exchange.distance))
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

    def _type(self, exchange: Exchange) -> Hashable:
        """That of the template's tokens; its own where it cannot be written."""
        body = self._bodies(exchange.index)
        try:
            tokens = self._tokeniser.exchanged(body, exchange.elements, exchange.scale)
            return self._tokeniser.structure_type(tokens)
        except CrystalError:
            return f"{exchange.index} {exchange.before}"


def chosen(
    config: GenerateConfig,
    trained: Trained,
    n_requests: int,
    drawn: Iterable[Sample],
    templates: Sequence[Sequence[tuple[Sample, Hashable, float]]] | None,
) -> list[Sample]:
    """What is kept of draws and templates, request by request. Raises InputError for nothing."""
    by_request: list[list[Sample]] = [[] for _ in range(n_requests)]
    for sample in drawn:
        by_request[sample.request].append(sample)
    kept: list[Sample] = []
    for index, samples in enumerate(by_request):
        samples.sort(key=lambda sample: sample.draw)
        others = [] if templates is None else templates[index]
        if config.proposals == "template":
            kept += [sample for sample, *_ in others[: config.n]]
        elif config.proposals == "both" or config.candidates is not None:
            typed = [
                (sample, trained.tokeniser.structure_type(sample.tokens)) for sample in samples
            ]
            kept += ranked(typed, others, config.n)
        else:
            kept += samples
    if not kept:
        raise InputError(
            "proposals=template: no training crystal has the numbers of atoms and the space group "
            "that are asked for; use model or both"
        )
    return kept
