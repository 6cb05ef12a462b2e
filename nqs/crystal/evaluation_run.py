"""nqs crystal evaluate: a folder of samples against the crystals they should be like, or a run.

Samples that were asked for the compositions of known crystals (`like`) are matched with these;
others are judged as a set (validity, novelty, distributions). A run's model is judged by its
perplexity and by how much it minds where a crystal stands in its cell (nqs.crystal.translations).
The table is printed, and written as evaluation.json and evaluation.csv into the folder.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from nqs.crystal.cif import read_cif
from nqs.crystal.config import Config
from nqs.crystal.coverage import CUTOFFS
from nqs.crystal.data import encode
from nqs.crystal.evaluation import evaluate_matches, evaluate_samples
from nqs.crystal.generation_run import compositions_of
from nqs.crystal.report import Report, quantity
from nqs.crystal.splits import NAMES, records, split
from nqs.crystal.structure import CrystalError, Structure
from nqs.crystal.task_config import EvaluateConfig, GenerateConfig
from nqs.crystal.tokeniser import Conditions
from nqs.crystal.training import quality
from nqs.crystal.training_run import Trained, read_config, read_trained
from nqs.crystal.translations import translations
from nqs.runs import directory
from nqs.runs.atomic import write_text
from nqs.runs.schema import InputError, from_mapping, require


@dataclass(frozen=True)
class ModelMetrics:
    """Of a model on crystals it has not learnt."""

    n_crystals: float = quantity("crystals", 0)
    perplexity: float = quantity("perplexity a token")
    nats: float = quantity("- ln p a crystal (nats)")
    n_translated: float = quantity("crystals translated", 0)
    increase: float = quantity("increase in perplexity under translations", 4)


def run(path: Path, config: EvaluateConfig) -> int:
    """Judges the samples or the run in folder `path`; returns the exit code.

    Raises InputError for a folder that is neither, and for crystals that cannot be read.
    """
    if (path / "samples.csv").exists():
        report = judged_samples(path, config)
    else:
        report = judged_model(read_trained(path, config.device), config)
    print(report.table())
    with directory.writing(path):
        write_text(path / "evaluation.json", report.json())
        write_text(path / "evaluation.csv", report.csv())
    return 0


def judged_samples(path: Path, config: EvaluateConfig) -> Report:
    """The report on a folder of samples."""
    asked = directory.saved_mapping(path)
    source = Path(str(asked.pop("run", "")))
    asked.pop("step", None)
    trained_on = with_workers(read_config(source), config.workers)
    samples, kept = read_samples(path)
    train = [record.structure for record in split("train", trained_on)]
    baseline = train if config.baselines else None
    request = from_mapping(GenerateConfig, asked)
    if request.like is not None and config.against is None:
        references = compositions_of(request, trained_on)
        guesses: list[list[Structure | None]] = [[] for _ in references]
        for index, structure in samples:
            guesses[index].append(structure)
        return evaluate_matches(
            guesses,
            references,
            baseline,
            n=config.n,
            kept=kept,
            oxidation_states=config.oxidation_states,
            workers=config.workers,
        )
    return evaluate_samples(
        [structure for _, structure in samples],
        compared_with(config, trained_on),
        train,
        cutoffs=None if config.coverage is None else CUTOFFS[config.coverage],
        oxidation_states=config.oxidation_states,
        at_most=config.at_most,
        baselines=config.baselines,
        kept=kept,
        workers=config.workers,
        seed=config.seed,
    )


def with_workers(run: Config, workers: int) -> Config:
    """The run's configuration, its tables read by so many processes."""
    return dataclasses.replace(run, data=dataclasses.replace(run.data, workers=workers))


def read_samples(path: Path) -> tuple[list[tuple[int, Structure | None]], float]:
    """(request, crystal) of each line of samples.csv, None for a file that holds no crystal; and
    the share of draws that was kept, NaN where all were."""
    with (path / "samples.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    if not lines or not {"file", "request"} <= lines[0].keys():
        raise InputError(f"{path / 'samples.csv'}: not a table of nqs crystal generate")
    found: list[tuple[int, Structure | None]] = []
    for line in lines:
        try:
            structure = read_cif(path / line["file"])
        except CrystalError:
            structure = None
        found.append((int(line["request"]), structure))
    n_rejected = sum(int(line.get("n_rejected") or 0) for line in lines)
    return found, len(lines) / (len(lines) + n_rejected) if n_rejected else math.nan


def compared_with(config: EvaluateConfig, run: Config) -> list[Structure]:
    """The crystals to compare with."""
    name = config.against or ("test" if run.data.validation is None else "validation")
    if name in NAMES:
        return [record.structure for record in split(name, run)]
    exists = Path(name).exists()
    require(exists, "against", name, f"no such table; give a path or {', '.join(NAMES)}")
    return [record.structure for record in records(name, run.data)]


def judged_model(trained: Trained, config: EvaluateConfig) -> Report:
    """The report on a run's model."""
    data = trained.config.data
    structures = compared_with(config, with_workers(trained.config, config.workers))
    nothing = [(structure, Conditions()) for structure in structures]
    crystals, refused = encode(trained.tokeniser, nothing)
    require(bool(crystals), "against", config.against, "holds no crystal that can be written")
    found = quality(trained.model, trained.tokeniser, crystals, data.batch_tokens)
    chosen = crystals[: config.translations]
    increases = [translations(trained.model, trained.tokeniser, c.body).increase for c in chosen]
    metrics = ModelMetrics(
        len(crystals),
        found.perplexity,
        found.nats,
        len(chosen),
        sum(increases) / len(increases),
    )
    settings: dict[str, float | str] = {
        "tokeniser": data.tokeniser,
        "translations": f"all {trained.tokeniser.n_bins} along each axis",
        "crystals left out": len(refused),
    }
    return Report("Model on crystals it has not learnt", {"model": metrics}, settings)
