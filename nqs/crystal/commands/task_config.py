"""The configuration of generation, evaluation and pictures: every key, its range and its default.

`nqs crystal generate`, `nqs crystal evaluate` and `nqs crystal plot` take them as KEY=VALUE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nqs.errors import require, require_choice

OXIDATION_STATES: Final = ("smact14", "icsd16", "icsd24", "pymatgen")
DATA_SETS: Final = ("perov_5", "carbon_24", "mp_20")

MOST: Final = {"n": 1_000_000, "batch_size": 65_536, "workers": 256, "structures": 200}
"""Largest values that make sense, of the keys that cost memory or processes."""
CANDIDATES: Final = 20
"""Draws for each request with proposals=both."""
STRONGEST: Final = 100.0
"""Guidance beyond it leaves one token."""
FURTHEST_APART: Final = 20.0
"""Angstrom; no crystal has its atoms further apart."""
HOTTEST, COLDEST = 1e6, 1e-6
"""Temperatures beyond them are an even draw or the likeliest token."""


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """What to draw, and how."""

    n: int = 100
    """Crystals for each request, >= 1."""
    formula: str | None = None
    """Composition of the whole cell, met exactly, e.g. Sr1Ti1O3."""
    space_group: int | None = None
    """Number that is asked for, 1..230 (a model trained with this condition, or one of
    data.tokeniser=wyckoff where a formula is given)."""
    formation_energy: float | None = None
    """eV per atom that is asked for (a model trained with this condition)."""
    energy_above_hull: float | None = None
    """eV per atom that is asked for, >= 0 (a model trained with this condition)."""
    partial: str | None = None
    """CIF file of a cell and atoms that every crystal starts with; formula says what is missing.
    The cell is rounded to the tokeniser's grid (wyckoff: volume to 1.5 %)."""
    like: str | None = None
    """One request for each crystal of a table, for its composition: a table's path, or train,
    validation or test for the run's own."""
    limit: int | None = None
    """Only the first so many crystals of `like`, >= 1."""
    proposals: str = "model"
    """Where crystals come from: model, template (the nearest training crystals, elements exchanged;
    needs formula or like) or both (see candidates)."""
    candidates: int | None = None
    """Crystals drawn for each request, >= n, of which the n most typical are kept: the likeliest of
    each structure type, the likeliest types first. null keeps the first n; both: 20, with 20
    templates, which count for more and come first of their type."""
    guidance: float = 1.0
    """How much conditions count for, >= 0: 1 as the model has learnt, above 1 more (two passes a
    token; data.tokeniser=coordinate or wyckoff)."""
    temperature: float = 1.0
    """Divides logits, > 0: below 1 likely crystals become likelier."""
    top_k: int | None = None
    """Only the k likeliest tokens are drawn, >= 1."""
    top_p: float | None = None
    """Only the likeliest tokens that make up this chance are drawn, in (0, 1]."""
    min_distance: float | None = 0.5
    """Least distance of two atoms in Angstrom, images included, in (0, 20]: crystals with closer
    ones are drawn again, and counted; null keeps them."""
    steer: bool | None = None
    """Whether the grammar keeps atoms min_distance apart where it can (data.tokeniser=wyckoff), so
    that few draws are thrown away; null: where the tokeniser can. With false draws follow exactly
    the model's chances, given that atoms are apart."""
    at_most: int = 1000
    """Crystals that are compared for the verdicts of samples.csv (unique, novel, matched), drawn
    from more, >= 0: with 0 the training table is not read."""
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
            value, most = getattr(self, key), MOST.get(key)
            rule = "must be a whole number >= 1" + (f" and <= {most}" if most else "")
            require(value is None or 1 <= value <= (most or value), key, value, rule)
        group = self.space_group
        require(group is None or 1 <= group <= 230, "space_group", group, "must be within 1..230")
        require(self.at_most >= 0, "at_most", self.at_most, "must be a whole number >= 0")
        apart = self.min_distance is None or 0 < self.min_distance <= FURTHEST_APART
        rule = f"must be a number > 0 and <= {FURTHEST_APART:g}, or null"
        require(apart, "min_distance", self.min_distance, rule)
        steered = not self.steer or self.min_distance is not None
        require(steered, "steer", "true", "keeps atoms min_distance apart, which is null")
        warm = COLDEST <= self.temperature <= HOTTEST
        rule = f"must be a number > 0, within {COLDEST:g}..{HOTTEST:g}"
        require(warm, "temperature", self.temperature, rule)
        inside = self.top_p is None or 0 < self.top_p <= 1
        require(inside, "top_p", self.top_p, "must be > 0 and <= 1")
        require(0 <= self.seed < 2**63, "seed", self.seed, "must be >= 0 and < 2^63")
        require_choice("device", self.device, ("auto", "cpu", "cuda"))
        both = self.like is not None and (self.formula or self.partial)
        require(not both, "like", self.like, "asks for compositions; leave formula and partial out")
        require_choice("proposals", self.proposals, ("model", "template", "both"))
        rule = f"must be a whole number >= n={self.n} and <= {MOST['n']}"
        many = self.candidates is None or self.n <= self.candidates <= MOST["n"]
        require(many, "candidates", self.candidates, rule)
        alone = self.candidates is None or self.proposals != "template"
        require(alone, "candidates", self.candidates, "none are drawn with proposals=template")
        guided = 0 <= self.guidance <= STRONGEST
        require(guided, "guidance", self.guidance, f"must be a number within 0..{STRONGEST:g}")
        rule = "means something with space_group, formation_energy or energy_above_hull alone"
        asked = (self.space_group, self.formation_energy, self.energy_above_hull)
        needed = self.guidance == 1 or any(value is not None for value in asked)
        require(needed, "guidance", self.guidance, rule)
        rule = "means something with like=TABLE alone"
        require(self.limit is None or self.like is not None, "limit", self.limit, rule)

    @property
    def n_draws(self) -> int:
        """Draws for each request."""
        if self.proposals == "template":
            return 0
        if self.candidates is not None:
            return self.candidates
        return max(self.n, CANDIDATES) if self.proposals == "both" else self.n


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How to judge."""

    against: str | None = None
    """Crystals to compare with: train, validation or test of the run, or a table's path; null is
    test, or validation where the run has no test crystals."""
    n: tuple[int, ...] = (1, 20)
    """Numbers of guesses a composition for which match rates are given, each >= 1."""
    at_most: int = 1000
    """Crystals compared with others (unique, novel, coverage), >= 1; drawn from more."""
    oxidation_states: str = "smact14"
    """Table of compositional validity: smact14 (what papers use), icsd16, icsd24 or pymatgen."""
    coverage: str | None = None
    """Data set whose cut-offs of coverage to use: perov_5, carbon_24 or mp_20; null leaves coverage
    and diversity out."""
    baselines: bool = True
    """Judge the test and training crystals too: the ceilings."""
    translations: int = 20
    """Crystals of which all translations are scored, >= 1 (a run)."""
    descriptions: int = 100
    """Crystals whose likelihood is summed over all their descriptions (axes, origins, names of
    orbits), those with more than 256 left out, >= 1 (a run; data.tokeniser=wyckoff)."""
    workers: int = 1
    """Processes, >= 1."""
    seed: int = 0
    """Seed of what is drawn, >= 0."""
    device: str = "auto"
    """Where to compute: auto (a GPU if there is one), cpu or cuda (a run)."""

    def __post_init__(self) -> None:
        rule = "must be whole numbers >= 1"
        require(bool(self.n) and min(self.n) >= 1, "n", self.n, rule)
        for key in ("at_most", "workers", "translations", "descriptions"):
            value, most = getattr(self, key), MOST.get(key)
            rule = "must be a whole number >= 1" + (f" and <= {most}" if most else "")
            require(1 <= value <= (most or value), key, value, rule)
        require_choice("oxidation_states", self.oxidation_states, OXIDATION_STATES)
        if self.coverage is not None:
            require_choice("coverage", self.coverage, DATA_SETS)
        require(0 <= self.seed < 2**63, "seed", self.seed, "must be >= 0 and < 2^63")
        require_choice("device", self.device, ("auto", "cpu", "cuda"))


@dataclass(frozen=True, kw_only=True)
class PlotConfig:
    """What to draw."""

    against: str | None = None
    """Crystals to stand beside: train, validation or test of the run, or a table's path; null is
    train, and validation for the pictures of a run."""
    structures: int = 24
    """Crystals of structures.png, the first ones, 1..200."""
    at_most: int = 2000
    """Crystals of each set that make up the distributions, >= 1; drawn from more."""
    workers: int = 1
    """Processes, >= 1."""
    seed: int = 0
    """Seed of what is drawn, >= 0."""

    def __post_init__(self) -> None:
        for key in ("structures", "at_most", "workers"):
            value, most = getattr(self, key), MOST.get(key)
            rule = "must be a whole number >= 1" + (f" and <= {most}" if most else "")
            require(1 <= value <= (most or value), key, value, rule)
        require(0 <= self.seed < 2**63, "seed", self.seed, "must be >= 0 and < 2^63")
