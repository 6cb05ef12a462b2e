"""The two evaluations of a crystal model, each beside baselines that need none.

`evaluate_samples`: crystals generated freely, against a test set (validity, uniqueness, novelty,
distributions, coverage), beside the test set and the training set evaluated as if generated: the
ceilings, which are below 100 % for some quantities and data.

`evaluate_matches`: structures guessed for given compositions, against the true ones (match rate
with its RMSE, METRe, cRMSE), beside training structures with exchanged elements and, for Perov-5,
constant cells.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nqs.crystal.metrics.baselines import (
    are_perovskites,
    hedged_guesses,
    perovskite_guesses,
    template_guesses,
)
from nqs.crystal.metrics.coverage import (
    Coverage,
    Cutoffs,
    Fingerprints,
    coverage,
    diversity,
    fingerprints,
)
from nqs.crystal.metrics.distributions import density_distance, elements_distance
from nqs.crystal.metrics.matching import Guess, Matcher, Matches, Tolerances, match_all
from nqs.crystal.metrics.reference_rows import (
    MatchMetrics,
    ReferenceRow,
    reference_rows,
    reference_totals,
)
from nqs.crystal.metrics.report import Report, quantity
from nqs.crystal.metrics.verdicts import Judge, Verdict, choice, totals
from nqs.crystal.structures.structure import Structure
from nqs.errors import require

NAN = math.nan

SITE_ORDER_REMARK = (
    "Perov-5 has both orders of the A and B sites of a composition: one guess from the composition "
    "alone cannot know which, unless it hedges and matches both, at an RMSE near 0.3."
)


@dataclass(frozen=True)
class SampleMetrics:
    """Of one set of samples; shares from 0 to 1, NaN where not computed."""

    n_samples: float = quantity("samples", 0)
    kept: float = quantity("draws kept, atoms apart", 2, percent=True)
    structural: float = quantity("structurally valid", 2, percent=True)
    compositional: float = quantity("compositionally valid", 2, percent=True)
    valid: float = quantity("valid", 2, percent=True)
    density_distance: float = quantity("W1 of density (g/cm^3)")
    elements_distance: float = quantity("W1 of number of elements")
    n_compared: float = quantity("valid samples compared", 0)
    unique: float = quantity("unique among them", 1, percent=True)
    novel: float = quantity("novel among them", 1, percent=True)
    unique_and_novel: float = quantity("unique and novel", 1, percent=True)
    rediscovered: float = quantity("match a test crystal, of them", 1, percent=True)
    n_fingerprints: float = quantity("samples in coverage", 0)
    recall: float = quantity("COV-R", 1, percent=True)
    precision: float = quantity("COV-P", 1, percent=True)
    structure_recall: float = quantity("AMSD-R")
    structure_precision: float = quantity("AMSD-P")
    composition_recall: float = quantity("AMCD-R")
    composition_precision: float = quantity("AMCD-P")
    structure_diversity: float = quantity("structural diversity")
    composition_diversity: float = quantity("compositional diversity")


@dataclass(frozen=True)
class _SampleSettings:
    """What `evaluate_samples` was asked for, shared by its columns."""

    test: Sequence[Structure]
    train: Sequence[Structure] | None
    judge: Judge
    cutoffs: Cutoffs | None
    test_fingerprints: Fingerprints | None
    file: Path | None


def evaluate_samples(
    samples: Sequence[Structure | None],
    test: Sequence[Structure],
    train: Sequence[Structure] | None = None,
    *,
    cutoffs: Cutoffs | None = None,
    oxidation_states: str = "smact14",
    self_images: bool = True,
    tolerances: Tolerances | None = None,
    at_most: int = 1_000,
    baselines: bool = True,
    kept: float = NAN,
    file: Path | None = None,
    workers: int = 1,
    seed: int = 0,
) -> Report:
    """Freely generated crystals against a test set; columns of `SampleMetrics`.

    Args:
        samples: S crystals; None is a sample that was no crystal and counts as invalid.
        test: crystals they should be distributed like.
        train: crystals the model has seen; without them there is no novelty.
        cutoffs: of coverage (`coverage.CUTOFFS` by data set); None leaves out coverage and
            diversity, which take about 0.1 s a crystal.
        oxidation_states: table of compositional validity, see `validity.OXIDATION_TABLES`.
        self_images: False as CDVAE: an atom's own images may be as close as they like.
        tolerances: of uniqueness and novelty.
        at_most: valid samples compared for uniqueness and novelty, and samples (and test crystals)
            in coverage, drawn at random from more: these cost the time. Crystals of one composition
            and size are compared in pairs, 10 ms each: fewer for sets of one element (Carbon-24).
        baselines: evaluate the test set and as many training crystals as if generated as well.
        kept: share of draws that were kept, if some were thrown away for atoms too close: the
            samples are the kept ones, so their structural validity alone would say too much.
        file: where fingerprints of test and training crystals are kept, None: nowhere.
        workers: processes for fingerprints and for what concerns a crystal alone.
        seed: of all draws.

    Raises InputError for no samples, no test crystals, unknown tables or missing libraries.
    """
    require(len(samples) > 0, "samples", len(samples), "at least one is needed")
    require(len(test) > 0, "test", len(test), "at least one crystal is needed")
    require(at_most >= 1, "at_most", at_most, "must be at least 1")
    judge = Judge(Matcher(tolerances), oxidation_states, self_images, at_most, workers, seed)
    drawn = _drawn(test, at_most, seed)
    prints = fingerprints(drawn, file=file, workers=workers) if cutoffs else None
    settings = _SampleSettings(test, train, judge, cutoffs, prints, file)
    verdicts = judge.compared(samples, judge.alone(samples), train, test)
    judged = dataclasses.replace(_sample_metrics(samples, verdicts, settings), kept=kept)
    columns = {"samples": judged}
    if baselines:
        columns["test set"] = _baseline_metrics(test, settings)
        if train:
            columns["training set"] = _baseline_metrics(_drawn(train, len(samples), seed), settings)
    return Report(
        "Generated crystals against a test set",
        columns,
        _sample_conditions(settings, len(drawn)),
        _novelty_remarks(train),
        {"verdicts": verdicts},
    )


def _sample_conditions(settings: _SampleSettings, n_prints: int) -> dict[str, float | str]:
    judge = settings.judge
    t = judge.matcher.tolerances
    conditions: dict[str, float | str] = {
        "test crystals": len(settings.test),
        "oxidation states": judge.oxidation_states,
        "self-images": "count" if judge.self_images else "ignored (CDVAE)",
        "ltol": t.ltol,
        "stol": t.stol,
        "angle_tol": t.angle_tol,
        "seed": judge.seed,
    }
    if settings.cutoffs:
        conditions["COV structure"] = settings.cutoffs.structure
        conditions["COV composition"] = settings.cutoffs.composition
        conditions["test crystals in coverage"] = n_prints
    return conditions


def _novelty_remarks(train: Sequence[Structure] | None) -> tuple[str, ...]:
    if train:
        return (f"Novel: the same as none of {len(train)} training crystals.",)
    return ("No novelty without training crystals.",)


def _baseline_metrics(crystals: Sequence[Structure], settings: _SampleSettings) -> SampleMetrics:
    """Crystals of a table judged as if they had been generated."""
    judge = settings.judge
    alone = judge.alone(crystals, groups=False)
    verdicts = judge.compared(crystals, alone, settings.train, settings.test)
    return _sample_metrics(crystals, verdicts, settings, settings.file)


def _sample_metrics(
    samples: Sequence[Structure | None],
    verdicts: Sequence[Verdict],
    settings: _SampleSettings,
    file: Path | None = None,
) -> SampleMetrics:
    valid = [s for s, v in zip(samples, verdicts, strict=True) if v.valid and s is not None]
    return SampleMetrics(
        kept=NAN,
        density_distance=density_distance(valid, settings.test),
        elements_distance=elements_distance(valid, settings.test),
        **totals(verdicts),
        **_coverage(samples, np.array([v.valid for v in verdicts]), settings, file),
    )


def _coverage(
    samples: Sequence[Structure | None],
    valid: NDArray[np.bool_],
    settings: _SampleSettings,
    file: Path | None,
) -> dict[str, float]:
    """Coverage of the test set by all samples, diversity among the valid ones."""
    if settings.cutoffs is None or settings.test_fingerprints is None:
        return dict.fromkeys(
            (
                "n_fingerprints",
                *(entry.name for entry in dataclasses.fields(Coverage)),
                "structure_diversity",
                "composition_diversity",
            ),
            NAN,
        )
    chosen = choice(len(samples), settings.judge.at_most, settings.judge.seed)
    if samples is settings.test:  # the same draw
        prints = settings.test_fingerprints
    else:
        drawn = [samples[i] for i in chosen]
        prints = fingerprints(drawn, file=file, workers=settings.judge.workers)
    found = coverage(prints, settings.test_fingerprints, settings.cutoffs)
    structures, compositions = diversity(prints.chosen(valid[chosen]))
    return {
        "n_fingerprints": len(chosen),
        **vars(found),
        "structure_diversity": structures,
        "composition_diversity": compositions,
    }


def _drawn(structures: Sequence[Structure], at_most: int, seed: int) -> list[Structure]:
    return [structures[i] for i in choice(len(structures), at_most, seed)]


def evaluate_matches(
    predictions: Sequence[Sequence[Structure | None]],
    test: Sequence[Structure],
    train: Sequence[Structure] | None = None,
    *,
    n: Sequence[int] = (1, 20),
    baselines: bool = True,
    kept: float = NAN,
    oxidation_states: str = "smact14",
    self_images: bool = False,
    tolerances: Tolerances | None = None,
    at_most: int = 1_000,
    workers: int = 1,
    seed: int = 0,
) -> Report:
    """Structures guessed for the compositions of a test set; columns of `MatchMetrics`, each the
    sum of `ReferenceRow`s; a `Verdict` for each guess.

    Rates and displacements are defined in nqs.crystal.metrics.reference_rows. "Valid only" counts
    guess and reference only if both are valid (DiffCSP), which caps MP-20 at about 91 %; the rate
    of valid references has these alone in its denominator.

    Args:
        predictions: for each reference its guesses, the first ones first. None is no crystal; it,
            and a guess that is missing, matches nothing.
        test: S references.
        train: training crystals, for novelty and the baselines; without them there is neither.
        n: numbers of guesses to report.
        baselines: judge the guesses that need no model as well.
        kept: share of draws that were kept, if close atoms were thrown away: said with the table.
        oxidation_states, self_images: of validity; the default is CDVAE's.
        tolerances: of the matcher.
        at_most: valid guesses compared for uniqueness and novelty, drawn from more.
        workers: processes.
        seed: of that draw.

    Raises InputError if predictions and test differ in length, or for n < 1.
    """
    require(len(test) > 0, "test", len(test), "at least one crystal is needed")
    sizes = sorted(set(n))
    require(bool(sizes) and sizes[0] >= 1, "n", list(n), "numbers of guesses, at least 1")
    judge = Judge(Matcher(tolerances), oxidation_states, self_images, at_most, workers, seed)
    chosen = judge.matcher.tolerances
    valid_references = np.array([v.valid for v in judge.alone(test, groups=False)])
    methods = _methods(predictions, test, train if baselines else None, sizes[-1])
    columns: dict[str, MatchMetrics] = {}
    rows: list[ReferenceRow] = []
    verdicts: list[Verdict] = []
    for name, guesses in methods.items():
        most = max((len(row) for row in guesses), default=0)
        useful = sorted({min(size, max(most, 1)) for size in sizes})
        matches = match_all(guesses, test, useful[-1], tolerances=chosen, workers=workers)
        valid = _valid_matches(guesses, valid_references, matches, judge)
        for size in useful:
            column = f"{name}, n={size}"
            found = reference_rows(column, test, valid_references, guesses, matches, valid, size)
            columns[column] = reference_totals(found, chosen.stol, matches.not_compared)
            rows += found
        if name == "guesses":
            verdicts = _guess_verdicts(predictions, train, matches, judge)
    return Report(
        "Guessed structures against the true ones",
        columns,
        _match_conditions(judge, kept),
        (SITE_ORDER_REMARK,) if "constant cell" in methods else (),
        {"verdicts": verdicts, "references": rows},
    )


def _methods(
    predictions: Sequence[Sequence[Structure | None]],
    test: Sequence[Structure],
    train: Sequence[Structure] | None,
    n: int,
) -> dict[str, Sequence[Sequence[Structure | None]]]:
    """The guesses, and those that need no model."""
    methods: dict[str, Sequence[Sequence[Structure | None]]] = {"guesses": predictions}
    if train:
        methods["nearest template"] = template_guesses(train, test, n)
        if are_perovskites([*train, *test]):
            methods["constant cell"] = perovskite_guesses(train, test)
            methods["hedged cell"] = hedged_guesses(train, test)
    return methods


def _match_conditions(judge: Judge, kept: float) -> dict[str, float | str]:
    t = judge.matcher.tolerances
    conditions: dict[str, float | str] = {
        "ltol": t.ltol,
        "stol": t.stol,
        "angle_tol": t.angle_tol,
        "oxidation states": judge.oxidation_states,
        "self-images": "count" if judge.self_images else "ignored (CDVAE)",
    }
    if not math.isnan(kept):
        conditions["draws kept, atoms apart"] = f"{100 * kept:.2f} %"
    return conditions


def _valid_matches(
    guesses: Sequence[Sequence[Structure | None]],
    valid_references: NDArray[np.bool_],
    matches: Matches,
    judge: Judge,
) -> Matches:
    """What is left if guess and reference must be valid."""

    @cache
    def is_valid(guess: Guess) -> bool:
        structure = guesses[guess[0]][guess[1]]
        return judge.alone([structure], groups=False)[0].valid

    return matches.only(lambda i, guess: bool(valid_references[i]) and is_valid(guess))


def _guess_verdicts(
    predictions: Sequence[Sequence[Structure | None]],
    train: Sequence[Structure] | None,
    matches: Matches,
    judge: Judge,
) -> list[Verdict]:
    """A row for each guess, by reference and in order; beyond those compared nothing is matched."""
    made = [(i, g) for i, row in enumerate(predictions) for g in range(len(row))]
    samples = [predictions[i][g] for i, g in made]
    verdicts = []
    for (i, g), verdict in zip(
        made, judge.compared(samples, judge.alone(samples), train), strict=True
    ):
        rmse = float(matches.own[i, g]) if g < matches.own.shape[1] else NAN
        looked = not math.isnan(rmse) if g < matches.own.shape[1] else None
        verdicts.append(dataclasses.replace(verdict, reference=i, matched=looked, rmse=rmse))
    return verdicts
