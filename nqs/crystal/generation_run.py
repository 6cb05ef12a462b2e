"""nqs crystal generate: crystals from a trained run, as CIF files and a table.

    <out>/config.yaml     what was asked for, and of which run
    <out>/samples.csv     one line a crystal: file, request, formula, space group, ln p, ...
    <out>/cif/000001.cif  ...

The folder appears whole or not at all, and is never overwritten. Equal requests, settings and seeds
give equal files on one machine.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nqs.crystal.cif import cif_text, read_cif
from nqs.crystal.elements import SYMBOLS
from nqs.crystal.generation import Filters, Request, Sample, generate
from nqs.crystal.splits import NAMES, records, split
from nqs.crystal.structure import CrystalError, Structure, formula_of
from nqs.crystal.symmetry import space_group
from nqs.crystal.tokeniser import Conditions
from nqs.crystal.training_run import Trained, read_trained
from nqs.runs import directory
from nqs.runs.atomic import write_text
from nqs.runs.machine import build_generator
from nqs.runs.schema import InputError, require, require_choice, to_mapping

COLUMNS: Final = (
    *("file", "request", "asked_formula", "formula", "space_group", "n_atoms", "volume"),
    *("log_likelihood", "n_tokens"),
)
GROUP_TOLERANCE: Final = 0.1
"""Angstrom by which symmetry may be off: coordinates are rounded to about 0.03."""


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """What to draw, and how."""

    n: int = 100
    """Crystals for each request, >= 1."""
    formula: str | None = None
    """Composition of the whole cell, met exactly, e.g. Sr1Ti1O3."""
    space_group: int | None = None
    """Number that is asked for, 1..230 (a model trained with this condition)."""
    formation_energy: float | None = None
    """eV per atom that is asked for (a model trained with this condition)."""
    energy_above_hull: float | None = None
    """eV per atom that is asked for, >= 0 (a model trained with this condition)."""
    partial: str | None = None
    """CIF file of a cell and atoms that every crystal starts with."""
    like: str | None = None
    """One request for each crystal of a table, for its composition: a table's path, or train,
    validation or test for the run's own."""
    limit: int | None = None
    """Only the first so many crystals of `like`, >= 1."""
    temperature: float = 1.0
    """Divides logits, > 0: below 1 likely crystals become likelier."""
    top_k: int | None = None
    """Only the k likeliest tokens are drawn, >= 1."""
    top_p: float | None = None
    """Only the likeliest tokens that make up this chance are drawn, in (0, 1]."""
    batch_size: int = 256
    """Crystals drawn side by side, >= 1."""
    seed: int = 0
    """Seed of the draws, >= 0."""
    device: str = "auto"
    """Where to compute: auto (a GPU if there is one), cpu or cuda."""
    out: str | None = None
    """Folder of the crystals; null makes a numbered one in the run's folder. Never overwritten."""

    def __post_init__(self) -> None:
        for key in ("n", "limit", "top_k", "batch_size"):
            value = getattr(self, key)
            require(value is None or value >= 1, key, value, "must be a whole number >= 1")
        require(self.temperature > 0, "temperature", self.temperature, "must be a number > 0")
        inside = self.top_p is None or 0 < self.top_p <= 1
        require(inside, "top_p", self.top_p, "must be > 0 and <= 1")
        require(0 <= self.seed < 2**63, "seed", self.seed, "must be >= 0 and < 2^63")
        require_choice("device", self.device, ("auto", "cpu", "cuda"))
        both = self.like is not None and (self.formula or self.partial)
        require(not both, "like", self.like, "asks for compositions; leave formula and partial out")
        rule = "means something with like=TABLE alone"
        require(self.limit is None or self.like is not None, "limit", self.limit, rule)

    @property
    def filters(self) -> Filters:
        """How draws are sharpened."""
        return Filters(self.temperature, self.top_k, self.top_p)


def run(path: Path, config: GenerateConfig, command: Sequence[str]) -> int:
    """Draws what is asked for from the run in folder `path`; returns the exit code.

    Raises InputError for a run or a request that cannot be used.
    """
    trained = read_trained(path, config.device)
    requests = requested(config, trained)
    given = config.out or numbered(path)
    directory.refuse_existing(Path(given))
    samples = list(drawn(trained, requests, config))

    def fill(folder: Path) -> None:
        description = to_mapping(config) | {"run": str(path), "step": trained.step}
        write_text(folder / "config.yaml", yaml.safe_dump(description, sort_keys=False))
        write_samples(folder, samples, requests)

    try:
        directory.make(given, "", fill)
    except InputError as error:
        raise InputError(str(error).replace("run.dir=", "out=")) from None
    print(f"{len(samples)} crystals in {given}")
    return 0


def numbered(path: Path) -> str:
    """samples-001 in the run's folder, or the next free number."""
    taken = (n for n in range(1, 100_000) if not (path / f"samples-{n:03d}").exists())
    return str(path / f"samples-{next(taken):03d}")


def requested(config: GenerateConfig, trained: Trained) -> list[Request]:
    """The requests of a configuration. Raises InputError for what the model was not trained on."""
    others = {
        name: getattr(config, name)
        for name in ("space_group", "formation_energy", "energy_above_hull")
        if getattr(config, name) is not None
    }
    for name, value in others.items():
        known = trained.config.data.conditions
        rule = f"the run was trained with the conditions {', '.join(known) or 'none'} alone"
        require(name in known, name, value, rule)
    if config.like is not None:
        return [
            Request(config.n, Conditions(composition=structure.composition, **others))
            for structure in compositions_of(config, trained)
        ]
    composition = None if config.formula is None else read_formula(config.formula)
    partial = None if config.partial is None else read_cif(Path(config.partial))
    conditions = Conditions(composition=composition, **others)
    return [Request(config.n, conditions, partial)]


def compositions_of(config: GenerateConfig, trained: Trained) -> list[Structure]:
    """The crystals of `like`."""
    assert config.like is not None
    run = trained.config
    if config.like in NAMES:
        found = split(config.like, run)
    else:
        exists = Path(config.like).exists()
        require(exists, "like", config.like, f"no such table; give a path or {', '.join(NAMES)}")
        found = records(config.like, run.data)
    require(bool(found), "like", config.like, "holds no crystal")
    fitting = [r.structure for r in found if r.structure.n_atoms <= run.data.max_atoms]
    return fitting[: config.limit]


def read_formula(text: str) -> dict[int, int]:
    """Atomic number -> number of atoms, of SrTiO3 or Sr2Ti2O6. Raises InputError for other text."""
    parts = re.findall(r"([A-Z][a-z]?)(\d*)", text)
    rule = "write symbols and numbers of atoms in the cell, e.g. SrTiO3 or Sr2Ti2O6"
    require("".join(a + b for a, b in parts) == text and bool(parts), "formula", text, rule)
    composition: dict[int, int] = {}
    for name, count in parts:
        require(name in SYMBOLS, "formula", text, f"{name} is no element")
        number = SYMBOLS.index(name) + 1
        composition[number] = composition.get(number, 0) + int(count or 1)
    return composition


def drawn(
    trained: Trained, requests: Sequence[Request], config: GenerateConfig
) -> Iterator[Sample]:
    """The samples, with a bar on a terminal."""
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
            filters=config.filters,
            batch_size=config.batch_size,
            generator=generator,
        ):
            yield from batch
            bar.advance(task, len(batch))


def write_samples(folder: Path, samples: Sequence[Sample], requests: Sequence[Request]) -> None:
    """The CIF files and samples.csv. Raises OSError."""
    (folder / "cif").mkdir()
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for number, sample in enumerate(samples, start=1):
        name = f"cif/{number:06d}.cif"
        (folder / name).write_text(cif_text(sample.structure, f"sample_{number}"))
        writer.writerow(entry(name, sample, requests[sample.request]))
    write_text(folder / "samples.csv", text.getvalue())


def entry(name: str, sample: Sample, request: Request) -> Mapping[str, Any]:
    """One line of samples.csv; asked_formula is empty where none was asked for."""
    structure, asked = sample.structure, request.conditions or Conditions()
    return {
        "file": name,
        "request": sample.request,
        "asked_formula": formula_of(dict(asked.formula)),
        "formula": structure.formula,
        "space_group": group_or_nothing(structure),
        "n_atoms": structure.n_atoms,
        "volume": f"{structure.volume:.3f}",
        "log_likelihood": f"{sample.log_likelihood:.4f}",
        "n_tokens": len(sample.tokens),
    }


def group_or_nothing(structure: Structure) -> int | str:
    """spglib's space group, empty where it finds none (atoms on one another)."""
    try:
        return space_group(structure, GROUP_TOLERANCE)
    except CrystalError:
        return ""
