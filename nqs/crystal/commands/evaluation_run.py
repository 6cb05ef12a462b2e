"""nqs crystal evaluate: a folder of samples against the crystals they should be like, or a run.

Samples that were asked for the compositions of known crystals (`like`) are matched with these;
others are judged as a set (validity, novelty, distributions). A run's model is judged by its
perplexity and by how much it minds where a crystal stands in its cell (model.translations).
The table is printed, and written into the folder as evaluation.json and evaluation.csv; the rows
that its totals are sums of as verdicts.csv (a line a sample) and references.csv (a line a reference
and way of guessing it), see nqs.crystal.commands.verdict_tables. evaluation.json comes last and has
the digests of these two, so that rows and totals of different evaluations are told apart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nqs.conf.sections import from_mapping
from nqs.crystal.commands.config import Config
from nqs.crystal.commands.generation_run import crystals_of, remarks_on
from nqs.crystal.commands.run_folder import Trained, read_config, read_trained
from nqs.crystal.commands.samples_folder import (
    DRAWS,
    REFERENCES,
    TABLE,
    VERDICTS,
    FoundSamples,
    read_samples,
)
from nqs.crystal.commands.task_config import EvaluateConfig, GenerateConfig
from nqs.crystal.commands.verdict_tables import Names, references_table, verdicts_table
from nqs.crystal.datasets import cache, inputs
from nqs.crystal.datasets.data import Encoded, encode
from nqs.crystal.datasets.loading import add_prompts, encoded_part
from nqs.crystal.datasets.splits import NAMES, records, remarks, split
from nqs.crystal.datasets.tables import Record
from nqs.crystal.metrics.coverage import CUTOFFS
from nqs.crystal.metrics.evaluation import evaluate_matches, evaluate_samples
from nqs.crystal.metrics.report import Report, quantity
from nqs.crystal.model.descriptions import summed
from nqs.crystal.model.training import quality, quality_after_templates
from nqs.crystal.model.translations import translations
from nqs.crystal.structures.structure import Structure
from nqs.crystal.tokens.tokeniser import Conditions
from nqs.errors import InputError, require, shown
from nqs.runfolder import folder
from nqs.runfolder.atomic import write_text


@dataclass(frozen=True)
class ModelMetrics:
    """Of a model on crystals it has not learnt; NaN where not computed."""

    n_crystals: float = quantity("crystals", 0)
    perplexity: float = quantity("perplexity a token")
    nats: float = quantity("- ln p a crystal (nats)")
    n_shown: float = quantity("crystals with a template", 0)
    nats_shown: float = quantity("  - ln p of one after its template (nats)")
    n_translated: float = quantity("crystals translated", 0)
    increase: float = quantity("increase in perplexity under translations", 4)
    n_summed: float = quantity("crystals summed over their descriptions", 0, default=math.nan)
    n_descriptions: float = quantity("  descriptions of one", 1, default=math.nan)
    nats_written: float = quantity("  - ln p of the one that is written (nats)", default=math.nan)
    nats_summed: float = quantity("  - ln p of all (nats)", default=math.nan)


def run(path: Path, config: EvaluateConfig) -> int:
    """Judges the samples or the run in folder `path`; returns the exit code.

    Raises InputError for a folder that is neither, and for crystals that cannot be read.
    """
    tables: dict[str, str] = {}
    if (path / TABLE).exists():
        report, tables = judged_samples(path, config)
    else:
        report = judged_model(path, config)
    print(report.table())
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in tables.items()}
    content = json.dumps(report.content() | {"rows": digests}, indent=2) + "\n"
    with folder.writing(path):
        for name, text in tables.items():
            write_text(path / name, text)
        write_text(path / "evaluation.csv", report.csv())
        write_text(path / "evaluation.json", content)
        for name in {VERDICTS, REFERENCES} - {*tables}:  # of an earlier evaluation of another kind
            (path / name).unlink(missing_ok=True)
    return 0


def judged_samples(path: Path, config: EvaluateConfig) -> tuple[Report, dict[str, str]]:
    """The report on a folder of samples, and the tables of its rows by their names."""
    asked = folder.saved_mapping(path)
    source = Path(str(asked.pop("run", "")))
    for name in ("step", *DRAWS):
        asked.pop(name, None)
    trained_on = with_workers(read_config(source), config.workers)
    found = read_samples(path)
    inputs.check(source, trained_on.data)
    known = split("train", trained_on.data, trained_on.seed)
    train = [record.structure for record in known]
    request = from_mapping(GenerateConfig, asked)
    if request.like is not None and config.against is None:
        references = crystals_of(request, trained_on)
        check_requests(path, found, references)
        guesses: list[list[Structure | None]] = [[] for _ in references]
        for sample in found.samples:
            guesses[sample.request].append(sample.structure)
        report = evaluate_matches(
            guesses,
            [record.structure for record in references],
            train,
            n=config.n,
            baselines=config.baselines,
            kept=found.kept,
            oxidation_states=config.oxidation_states,
            at_most=config.at_most,
            workers=config.workers,
            seed=config.seed,
        )
        report = remarked(report, *found.remarks, *remarks_on(request, trained_on))
        order = sorted(range(len(found.samples)), key=lambda i: found.samples[i].request)
        return report, row_tables(report, found, order, known, references)
    others = compared_with(config, trained_on)
    report = evaluate_samples(
        found.structures,
        [record.structure for record in others],
        train,
        cutoffs=None if config.coverage is None else CUTOFFS[config.coverage],
        oxidation_states=config.oxidation_states,
        at_most=config.at_most,
        baselines=config.baselines,
        kept=found.kept,
        file=cache.file_of(trained_on.data.train, "fingerprints"),
        workers=config.workers,
        seed=config.seed,
    )
    report = remarked(report, *found.remarks, *said_of(config, trained_on))
    return report, row_tables(report, found, range(len(found.samples)), known, others)


def row_tables(
    report: Report,
    found: FoundSamples,
    order: Sequence[int],
    train: Sequence[Record],
    references: Sequence[Record],
) -> dict[str, str]:
    """The rows of a report as tables; `order`: which sample each of its verdicts is on."""
    names = Names([found.samples[i].file for i in order], train, references)
    requests = [found.samples[i].request for i in order]
    tables = {VERDICTS: verdicts_table(report.rows["verdicts"], requests, names)}
    if "references" in report.rows:
        tables[REFERENCES] = references_table(report.rows["references"], names)
    return tables


def remarked(report: Report, *lines: str) -> Report:
    """The report with more remarks."""
    return dataclasses.replace(report, remarks=(*report.remarks, *lines))


def said_of(config: EvaluateConfig, run: Config) -> list[str]:
    """What is worth saying of the tables that samples are compared with."""
    paths = [run.data.train, run.data.validation]
    if config.against is not None and config.against not in NAMES:
        paths = [config.against]
    return [line for path in paths if path is not None for line in remarks(path, run.data)]


def with_workers(run: Config, workers: int) -> Config:
    """The run's configuration, its tables read by so many processes."""
    return dataclasses.replace(run, data=dataclasses.replace(run.data, workers=workers))


def check_requests(path: Path, found: FoundSamples, references: Sequence[Record]) -> None:
    """Raises InputError unless the samples were asked for the compositions of the references."""
    for sample in found.samples:
        known = sample.request < len(references)
        if not known or sample.asked_formula != references[sample.request].structure.formula:
            raise InputError(
                f"{path}: request {sample.request} asked for "
                f"{shown(sample.asked_formula) or 'nothing'}, which the table of `like` does not "
                f"have at its place; it has changed since: restore it or generate again"
            )


def compared_with(config: EvaluateConfig, run: Config) -> list[Record]:
    """The crystals to compare with. Raises InputError if there are none."""
    names = ("test", "validation") if run.data.validation is None else ("validation",)
    if config.against is not None:
        names = (config.against,)
    for name in names:
        if name not in NAMES:
            exists = Path(name).exists()
            require(exists, "against", name, f"no such table; give a path or {', '.join(NAMES)}")
        found = split(name, run.data, run.seed) if name in NAMES else records(name, run.data)
        if found:
            return found
    raise InputError(f"against={shown(names[-1])}: holds no crystal; give another table")


def after_templates(trained: Trained, crystals: list[Encoded]) -> tuple[float, float]:
    """How many of the crystals have a template among the training crystals, and - ln p of these
    after it, mean; NaN for a model without templates."""
    data = trained.config.data
    if not data.templates:
        return math.nan, math.nan
    train, _ = encoded_part("train", data, trained.config.seed, trained.tokeniser)
    parts = {"train": train, "others": crystals}
    add_prompts(parts, dataclasses.replace(data, templates=1), trained.tokeniser, ("others",))
    shown = [crystal for crystal in parts["others"] if crystal.prompts]
    if not shown:
        return 0, math.nan
    found = quality_after_templates(trained.model, trained.tokeniser, shown, data.batch_tokens)
    return len(shown), found.nats


def judged_model(path: Path, config: EvaluateConfig) -> Report:
    """The report on the model of the run in folder `path`."""
    trained = read_trained(path, config.device)
    data = trained.config.data
    if config.against in (None, *NAMES) or data.templates:
        inputs.check(path, trained.config.data)
    others = compared_with(config, with_workers(trained.config, config.workers))
    nothing = [(record.structure, Conditions()) for record in others]
    crystals, refused = encode(trained.tokeniser, nothing)
    require(bool(crystals), "against", config.against, "holds no crystal that can be written")
    found = quality(trained.model, trained.tokeniser, crystals, data.batch_tokens)
    n_shown, nats_shown = after_templates(trained, crystals)
    told = crystals[: config.descriptions]
    sums = summed(trained.model, trained.tokeniser, [crystal.body for crystal in told])
    chosen = crystals[: config.translations]
    increases = [translations(trained.model, trained.tokeniser, c.body).increase for c in chosen]
    metrics = ModelMetrics(
        n_crystals=len(crystals),
        perplexity=found.perplexity,
        nats=found.nats,
        n_shown=n_shown,
        nats_shown=nats_shown,
        n_translated=len(chosen),
        increase=sum(increases) / len(increases),
    )
    if sums is not None and trained.tokeniser.canonical:
        metrics = dataclasses.replace(
            metrics,
            n_summed=sums.n_crystals,
            n_descriptions=sums.n_descriptions,
            nats_written=sums.nats,
            nats_summed=sums.nats_summed,
        )
    settings: dict[str, float | str] = {
        "tokeniser": data.tokeniser,
        "translations": f"all {trained.tokeniser.n_bins} along each axis",
        "crystals left out": len(refused),
    }
    title = "Model on crystals it has not learnt"
    lines = said_of(config, trained.config)
    return Report(title, {"model": metrics}, settings, tuple(lines))
