"""nqs crystal generate: crystals from a trained run, as CIF files and a table.

    <out>/config.yaml     what was asked for, and of which run
    <out>/samples.csv     one line a crystal: file, request, formula, space group, ln p, ...,
                          and the verdict on it (nqs.crystal.commands.verdict_tables)
    <out>/cif/000001.cif  ...
    <out>/SHA256SUMS      of these

The folder appears whole or not at all, and is never overwritten. Equal requests, settings and seeds
give equal files on one machine.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nqs.conf.sections import to_mapping
from nqs.crystal.commands.config import Config
from nqs.crystal.commands.proposals import TEMPLATES, TemplateSource, chosen
from nqs.crystal.commands.run_folder import Trained, read_trained
from nqs.crystal.commands.samples_folder import DRAWS, MOST_SAMPLES, TABLE, write_checksums
from nqs.crystal.commands.task_config import GenerateConfig
from nqs.crystal.commands.verdict_tables import VERDICT, Names, encodable, verdict_cells
from nqs.crystal.datasets import inputs
from nqs.crystal.datasets.splits import NAMES, records, remarks, split
from nqs.crystal.datasets.tables import Record
from nqs.crystal.metrics.matching import Matcher
from nqs.crystal.metrics.validity import compositionally_valid
from nqs.crystal.metrics.verdicts import Judge, Verdict, totals
from nqs.crystal.model import memory
from nqs.crystal.model.generation import Filters, Request, Sample, generate
from nqs.crystal.structures.cif import cif_text, read_cif
from nqs.crystal.structures.elements import SYMBOLS
from nqs.crystal.structures.structure import formula_of
from nqs.crystal.tokens.tokeniser import Conditions
from nqs.errors import InputError, one_line, printable, require
from nqs.runfolder.atomic import write_text
from nqs.runfolder.folder import make
from nqs.runfolder.machine import build_generator

ASKED: Final = ("space_group", "formation_energy", "energy_above_hull")
"""What can be asked for besides a formula."""
COLUMNS: Final = (
    *("file", "request", "source", "asked_formula", "asked_space_group"),
    *("asked_formation_energy", "asked_energy_above_hull", "formula", "space_group", "n_atoms"),
    *("volume", "density", "log_likelihood", "n_tokens", "n_rejected"),
    *VERDICT,
)


def run(path: Path, config: GenerateConfig) -> int:
    """Draws what is asked for from the run in folder `path`; returns the exit code.

    Raises InputError for a run or a request that cannot be used.
    """
    trained = read_trained(path, config.device)
    if not trained.judged:
        print(f"note: {path} has not been judged yet: these are its last parameters, not its best")
    if config.like in NAMES or config.proposals != "model":
        inputs.check(path, trained.config.data)
    requests = requested(config, trained)
    n_draws = config.n_draws
    rule = f"{len(requests)} requests of {n_draws} crystals each; at most {MOST_SAMPLES} in all"
    require(len(requests) * max(n_draws, config.n) <= MOST_SAMPLES, "n", config.n, rule)
    n_rows = min(config.batch_size, max(1, len(requests) * n_draws))
    memory.check_generation(trained.model, n_rows, trained.tokeniser.max_length)
    given = config.out or numbered(path)
    taken = Path(given).exists() and (not Path(given).is_dir() or any(Path(given).iterdir()))
    require(not taken, "out", given, "exists and is not an empty folder; choose another one")
    judge = Judge(Matcher(), at_most=config.at_most, seed=config.seed)
    compositionally_valid({1: 1})  # without SMACT it ends here, before anything is drawn
    train = None
    if config.proposals != "model":
        train = split("train", trained.config.data, trained.config.seed)
    elif config.at_most:
        train = known_crystals(path, trained.config)
    tally = Tally()
    samples = proposed(trained, requests, config, train, tally)
    if not config.at_most:
        train = None
    references = None if config.like is None else crystals_of(config, trained.config)
    verdicts = verdicts_on(samples, judge, train, references)
    names = Names([f"cif/{n:06d}.cif" for n in range(1, len(samples) + 1)], train, references)

    def fill(folder: Path) -> None:
        description = to_mapping(config) | {"run": str(path.resolve()), "step": trained.step}
        description |= dict(zip(DRAWS, (tally.n_apart, tally.n_rejected), strict=True))
        write_text(folder / "config.yaml", yaml.safe_dump(description, sort_keys=False))
        write_samples(folder, samples, requests, verdicts, names)
        write_checksums(folder)

    try:
        make(given, "", fill)
    except InputError as error:
        raise InputError(str(error).replace("run.dir=", "out=")) from None
    print(
        f"{len(samples)} crystals in {given}{origins(samples, config)}{thrown_away(tally, config)}"
    )
    print(judged_in_words(verdicts))
    return 0


def judged_in_words(verdicts: Sequence[Verdict]) -> str:
    """How many are valid, and how many of those that were compared are unique and novel."""
    found = totals(verdicts)
    words = f"{100 * found['valid']:.1f} % are valid"
    if found["n_compared"]:
        words += f"; of {found['n_compared']:.0f} compared {100 * found['unique']:.1f} % are unique"
        if not math.isnan(found["novel"]):
            words += f", {100 * found['novel']:.1f} % novel"
    return words


def origins(samples: Sequence[Sample], config: GenerateConfig) -> str:
    """How many of those that are kept are templates, and how many are the model's."""
    if config.proposals != "both":
        return ""
    n_drawn = sum(bool(sample.tokens) for sample in samples)
    return f" ({len(samples) - n_drawn} templates, {n_drawn} draws)"


@dataclasses.dataclass
class Tally:
    """How many draws had atoms apart, and how many had not."""

    n_apart: int = 0
    n_rejected: int = 0


def thrown_away(tally: Tally, config: GenerateConfig) -> str:
    """How many draws were not kept, and why."""
    if config.min_distance is None or not tally.n_apart:
        return ""
    return (
        f"; {tally.n_rejected} of {tally.n_apart + tally.n_rejected} draws had atoms closer than "
        f"{config.min_distance:g} Angstrom and were thrown away"
    )


def numbered(path: Path) -> str:
    """samples-001 in the run's folder, or the next free number."""
    taken = (n for n in range(1, 100_000) if not (path / f"samples-{n:03d}").exists())
    return str(path / f"samples-{next(taken):03d}")


def requested(config: GenerateConfig, trained: Trained) -> list[Request]:
    """The requests of a configuration. Raises InputError for what the model was not trained on."""
    others = {name: getattr(config, name) for name in ASKED if getattr(config, name) is not None}
    known, group = trained.config.data.conditions, None
    whole = config.formula is not None or config.like is not None
    if "space_group" not in known and trained.tokeniser.writes_group and whole:
        group = others.pop("space_group", None)  # by the grammar: it comes after the formula
    for name, value in others.items():
        rule = f"the run was trained with the conditions {', '.join(known) or 'none'} alone"
        also = "; with a formula it can be held to a space group"
        can = name == "space_group" and trained.tokeniser.writes_group
        require(name in known, name, value, rule + (also if can else ""))
    rule = "counts for conditions that the run was trained with, and none is given"
    require(config.guidance == 1 or bool(others), "guidance", config.guidance, rule)
    if config.like is not None:
        records_asked_for = crystals_of(config, trained.config)
        for line in remarks_on(config, trained.config):
            print(line)
        return [
            Request(
                config.n,
                Conditions(composition=record.structure.composition, **others),
                group=group,
            )
            for record in records_asked_for
        ]
    composition = None if config.formula is None else read_formula(config.formula)
    partial = None if config.partial is None else read_cif(Path(config.partial))
    conditions = Conditions(composition=composition, **others)
    return [Request(config.n, conditions, partial, group=group)]


def crystals_of(config: GenerateConfig, run: Config) -> list[Record]:
    """The crystals of `like`."""
    assert config.like is not None
    if config.like in NAMES:
        found = split(config.like, run.data, run.seed)
    else:
        exists = Path(config.like).exists()
        require(exists, "like", config.like, f"no such table; give a path or {', '.join(NAMES)}")
        found = records(config.like, run.data)
    require(bool(found), "like", config.like, "holds no crystal")
    fitting = [record for record in found if record.structure.n_atoms <= run.data.max_atoms]
    return fitting[: config.limit]


def remarks_on(config: GenerateConfig, run: Config) -> list[str]:
    """What is worth saying of the table of `like`: what of it is not asked for, and why."""
    assert config.like is not None
    own = config.like in NAMES
    if own:
        is_other = config.like == "validation" and run.data.validation is not None
        path = str(run.data.validation) if is_other else run.data.train
    else:
        path = config.like
    found = split(config.like, run.data, run.seed) if own else records(path, run.data)
    larger = sum(record.structure.n_atoms > run.data.max_atoms for record in found)
    lines = remarks(path, run.data)
    if larger:
        most = f"the {run.data.max_atoms} that the model writes"
        lines.append(f"{larger} of {len(found)} crystals have more atoms than {most}: left out")
    return lines


def read_formula(text: str) -> dict[int, int]:
    """Atomic number -> number of atoms, of SrTiO3 or Sr2Ti2O6. Raises InputError for other text."""
    parts = re.findall(r"([A-Z][a-z]?)([0-9]*)", text)
    rule = "write symbols and numbers of atoms in the cell, e.g. SrTiO3 or Sr2Ti2O6"
    require("".join(a + b for a, b in parts) == text and bool(parts), "formula", text, rule)
    composition: dict[int, int] = {}
    for name, count in parts:
        require(name in SYMBOLS, "formula", text, f"{name} is no element")
        number = SYMBOLS.index(name) + 1
        composition[number] = composition.get(number, 0) + int(count or 1)
    return composition


def drawn(
    trained: Trained, requests: Sequence[Request], config: GenerateConfig, tally: Tally
) -> Iterator[Sample]:
    """The samples, with a bar on a terminal."""
    filters = Filters(config.temperature, config.top_k, config.top_p, config.guidance)
    generator = build_generator(config.seed, "samples", trained.device)
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("crystals"),
        TimeRemainingColumn(),
    )
    console = Console()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=sum(request.n for request in requests))
        for batch in generate(
            trained.model,
            trained.tokeniser,
            requests,
            filters=filters,
            batch_size=config.batch_size,
            generator=generator,
            min_distance=config.min_distance,
        ):
            tally.n_apart += len(batch)
            tally.n_rejected += sum(sample.n_rejected for sample in batch)
            yield from batch
            bar.advance(task, len(batch))


def proposed(
    trained: Trained,
    requests: Sequence[Request],
    config: GenerateConfig,
    train: Sequence[Record] | None,
    tally: Tally,
) -> list[Sample]:
    """The samples that are kept, in the order of the requests; the tally counts all draws."""
    templates = None
    if config.proposals != "model":
        assert train is not None
        own = leave_out(config, trained.config, train, len(requests))
        source = TemplateSource(trained, train, requests, own, config.proposals)
        templates = source.proposals(max(config.n, TEMPLATES), config.min_distance)
        shown = trained.config.data.templates if config.proposals == "both" else 0
        prompts = source.prompts(shown) if shown else [()] * len(requests)
        requests = [
            dataclasses.replace(request, prompts=found)
            for request, found in zip(requests, prompts, strict=True)
        ]
    able = trained.tokeniser.keeps_apart or not config.steer
    require(able, "steer", "true", "needs a run with data.tokeniser=wyckoff")
    steer = trained.tokeniser.keeps_apart if config.steer is None else config.steer
    apart = config.min_distance if steer else None
    to_draw = [dataclasses.replace(one, n=config.n_draws, apart=apart) for one in requests]
    samples = drawn(trained, to_draw, config, tally) if config.n_draws else ()
    return chosen(config, trained, to_draw, samples, templates)


def leave_out(
    config: GenerateConfig, run: Config, train: Sequence[Record], n_requests: int
) -> list[int | None]:
    """Of each request the training crystal that it stands for, which is no template for itself."""
    if config.like != "train":
        return [None] * n_requests
    places = {id(record): i for i, record in enumerate(train)}
    return [places.get(id(record)) for record in crystals_of(config, run)]


def known_crystals(path: Path, run: Config) -> list[Record] | None:
    """The training crystals of the run in folder `path`; None, with a line that says why, where
    they are not to be had any more: generation does without."""
    try:
        inputs.check(path, run.data)
        return split("train", run.data, run.seed)
    except InputError as error:
        print(one_line(f"note: samples.csv says nothing of novelty: {error}"))
        return None


def verdicts_on(
    samples: Sequence[Sample],
    judge: Judge,
    train: Sequence[Record] | None,
    references: Sequence[Record] | None,
) -> list[Verdict]:
    """A verdict on each sample."""
    crystals = [sample.structure for sample in samples]
    known = None if train is None else [record.structure for record in train]
    verdicts = judge.compared(crystals, judge.alone(crystals), known)
    if references is None:
        return verdicts
    made_for = [sample.request for sample in samples]
    return judge.matched(crystals, verdicts, [r.structure for r in references], made_for)


def write_samples(
    folder: Path,
    samples: Sequence[Sample],
    requests: Sequence[Request],
    verdicts: Sequence[Verdict],
    names: Names,
) -> None:
    """The CIF files and samples.csv. Raises OSError."""
    (folder / "cif").mkdir()
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for number, (sample, verdict) in enumerate(zip(samples, verdicts, strict=True), start=1):
        name = names.files[number - 1]
        (folder / name).write_text(cif_text(sample.structure, f"sample_{number}"))
        said = entry(name, sample, requests[sample.request])
        writer.writerow(said | verdict_cells(verdict, names))
    write_text(folder / TABLE, encodable(text.getvalue()))


def entry(name: str, sample: Sample, request: Request) -> dict[str, Any]:
    """One line of samples.csv; what was not asked for is empty. Volume of the cell in Angstrom^3,
    density in g/cm^3."""
    structure, asked = sample.structure, request.conditions or Conditions()
    return {
        "file": name,
        "request": sample.request,
        "source": printable(sample.source),
        "asked_formula": formula_of(dict(asked.formula)),
        **{f"asked_{name}": _given(getattr(asked, name)) for name in ASKED},
        "asked_space_group": _given(request.space_group),
        "formula": structure.formula,
        "n_atoms": structure.n_atoms,
        "volume": f"{structure.volume:.3f}",
        "density": f"{structure.density:.3f}",
        "log_likelihood": "" if not sample.tokens else f"{sample.log_likelihood:.4f}",
        "n_tokens": len(sample.tokens),
        "n_rejected": sample.n_rejected,
    }


def _given(value: float | None) -> Any:
    return "" if value is None else value
