"""nqs crystal plot: pictures of a folder of samples, beside the data, or of the data of a run.

    distributions.png   densities, numbers of elements, elements and space groups
    structures.png      the first crystals, drawn by ase, with what is known of each
    matches.png         share of references that are matched within a displacement (of samples that
                        were made for known crystals and have been evaluated)

Only samples that are crystals and valid count in the distributions, as in the evaluation's W1.
Equal folders and settings give equal files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from nqs.crystal.commands.contact_sheet import contact_sheet
from nqs.crystal.commands.distribution_picture import distributions
from nqs.crystal.commands.evaluation_run import compared_with, with_workers
from nqs.crystal.commands.match_curve import match_curve, number
from nqs.crystal.commands.run_folder import read_config
from nqs.crystal.commands.samples_folder import (
    REFERENCES,
    TABLE,
    VERDICTS,
    read_lines,
    read_samples,
)
from nqs.crystal.commands.task_config import EvaluateConfig, PlotConfig
from nqs.crystal.datasets import inputs
from nqs.crystal.metrics.matching import Matcher
from nqs.crystal.metrics.verdicts import Judge, choice
from nqs.crystal.structures.structure import Structure
from nqs.errors import one_line, shown
from nqs.runfolder import digests, folder
from nqs.runfolder.picture import as_title, save
from nqs.runfolder.text_file import read_text

EVALUATION = "evaluation.json"


def run(path: Path, config: PlotConfig) -> int:
    """Draws the pictures of the samples or the run in folder `path`; returns the exit code.

    Raises InputError for a folder that is neither, and for crystals that cannot be read.
    """
    drawn = of_samples(path, config) if (path / TABLE).exists() else of_run(path, config)
    for name, figure in drawn.items():
        with folder.writing(path):
            save(path / name, figure)
        print(path / name)
    return 0


def of_samples(path: Path, config: PlotConfig) -> dict[str, Figure]:
    """The pictures of a folder of samples by their files' names."""
    source = Path(str(folder.saved_mapping(path).get("run", "")))
    trained_on = with_workers(read_config(source), config.workers)
    found = read_samples(path)
    inputs.check(source, trained_on.data)
    name = config.against or "train"
    others = compared_with(EvaluateConfig(against=name), trained_on)
    judge = Judge(Matcher(), workers=config.workers, seed=config.seed)
    valid = [
        sample.structure
        for sample, verdict in zip(
            found.samples, judge.alone(found.structures, groups=False), strict=True
        )
        if verdict.valid and sample.structure is not None
    ]
    title = as_title(path.resolve().name)
    pictures = {}
    columns = {
        "valid samples": drawn(valid, config),
        shown(name): drawn([record.structure for record in others], config),
    }
    if valid:
        pictures["distributions.png"] = distributions(columns, title, config.workers)
    shapes = [sample for sample in found.samples if sample.structure is not None]
    pictures["structures.png"] = contact_sheet(
        [sample.structure for sample in shapes[: config.structures] if sample.structure],
        captions(path, [sample.file for sample in shapes[: config.structures]]),
        title,
    )
    references = evaluated(path, REFERENCES)
    if references is not None:
        pictures["matches.png"] = match_curve(references, title)
    return pictures


def of_run(path: Path, config: PlotConfig) -> dict[str, Figure]:
    """The pictures of the crystals that a run learns, beside those that judge it."""
    trained_on = with_workers(read_config(path), config.workers)
    inputs.check(path, trained_on.data)
    name = config.against or "validation"
    train = compared_with(EvaluateConfig(against="train"), trained_on)
    others = compared_with(EvaluateConfig(against=name), trained_on)
    title = as_title(path.resolve().name)
    columns = {
        "train": drawn([record.structure for record in train], config),
        shown(name): drawn([record.structure for record in others], config),
    }
    first = train[: config.structures]
    judge = Judge(Matcher(), workers=config.workers)
    verdicts = judge.alone([record.structure for record in first])
    words = [
        caption(verdict.formula, str(verdict.space_group or ""), as_title(record.name))
        for record, verdict in zip(first, verdicts, strict=True)
    ]
    return {
        "distributions.png": distributions(columns, title, config.workers),
        "structures.png": contact_sheet([record.structure for record in first], words, title),
    }


def drawn(structures: Sequence[Structure], config: PlotConfig) -> list[Structure]:
    """All, or a random config.at_most of them."""
    return [structures[i] for i in choice(len(structures), config.at_most, config.seed)]


def captions(path: Path, files: Sequence[str]) -> list[str]:
    """What is known of each of these samples: from the evaluation of the folder, or else from
    samples.csv."""
    rows = evaluated(path, VERDICTS)
    lines = read_lines(path / TABLE) if rows is None else rows
    known = {line["file"]: line for line in lines}
    return [
        caption(line.get("formula", ""), line.get("space_group", ""), verdict_in_words(line))
        for line in (known.get(file, {}) for file in files)
    ]


def caption(formula: str, space_group: str, words: str) -> str:
    """Two short lines."""
    group = f" ({shown(space_group)})" if space_group else ""
    return f"{shown(formula)}{group}\n{words}"


def verdict_in_words(line: Mapping[str, str]) -> str:
    """The verdict of a line of samples.csv or verdicts.csv, in a few words."""
    if line.get("valid") == "0":
        return f"invalid: {shown(line.get('reason', ''))[:28]}"
    words = []
    if line.get("unique") == "0":
        words.append("not unique")
    elif line.get("novel") == "0":
        words.append(f"known: {shown(line.get('nearest', ''))[:20]}")
    elif line.get("novel") == "1":
        words.append("new")
    if line.get("matched") == "1":
        words.append(f"matched {number(line.get('rmse', '')):.3f}")
    elif line.get("matched") == "0" and line.get("reference"):
        words.append("not matched")
    return ", ".join(words)


def evaluated(path: Path, name: str) -> list[dict[str, str]] | None:
    """The rows `name` of the folder's evaluation; None where it has none. Says so, and gives none,
    if they are not those whose totals evaluation.json has."""
    if not (path / name).exists() or not (path / EVALUATION).exists():
        return None
    try:
        content = json.loads(read_text(path / EVALUATION))
        expected = content["rows"][name]
    except (ValueError, KeyError, TypeError, RecursionError):
        expected = None
    if expected != digests.file_digest(path / name):
        print(one_line(f"note: {path / name}: not of this {EVALUATION}; evaluate the folder again"))
        return None
    needed = {"column", "rmse"} if name == REFERENCES else {"file", "request"}
    return read_lines(path / name, needed)
