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
from nqs.crystal.metrics.matching import Matcher, Matches, Tolerances, match_all, novel, unique
from nqs.crystal.metrics.report import Report, quantity
from nqs.crystal.metrics.validity import validity
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
    oxidation_states: str
    self_images: bool
    cutoffs: Cutoffs | None
    test_fingerprints: Fingerprints | None
    at_most: int
    matcher: Matcher
    workers: int
    seed: int


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
        workers: processes for fingerprints.
        seed: of all draws.

    Raises InputError for no samples, no test crystals, unknown tables or missing libraries.
    """
    require(len(samples) > 0, "samples", len(samples), "at least one is needed")
    require(len(test) > 0, "test", len(test), "at least one crystal is needed")
    require(at_most >= 1, "at_most", at_most, "must be at least 1")
    drawn = _drawn(test, at_most, seed)
    prints = fingerprints(drawn, workers=workers) if cutoffs else None
    matcher = Matcher(tolerances)
    settings = _SampleSettings(
        test, train, oxidation_states, self_images, cutoffs, prints, at_most, matcher, workers, seed
    )
    judged = dataclasses.replace(_sample_metrics(samples, settings), kept=kept)
    columns = {"samples": judged}
    if baselines:
        columns["test set"] = _sample_metrics(test, settings)
        if train:
            seen = _drawn(train, len(samples), seed)
            columns["training set"] = _sample_metrics(seen, settings)
    return Report(
        "Generated crystals against a test set",
        columns,
        _sample_conditions(settings, len(drawn)),
        _novelty_remarks(train),
    )


def _sample_conditions(settings: _SampleSettings, n_prints: int) -> dict[str, float | str]:
    t = settings.matcher.tolerances
    conditions: dict[str, float | str] = {
        "test crystals": len(settings.test),
        "oxidation states": settings.oxidation_states,
        "self-images": "count" if settings.self_images else "ignored (CDVAE)",
        "ltol": t.ltol,
        "stol": t.stol,
        "angle_tol": t.angle_tol,
        "seed": settings.seed,
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


def _sample_metrics(
    samples: Sequence[Structure | None], settings: _SampleSettings
) -> SampleMetrics:
    verdict = validity(
        samples, oxidation_states=settings.oxidation_states, self_images=settings.self_images
    )
    both = verdict.both
    valid = [s for s, good in zip(samples, both, strict=True) if good and s is not None]
    return SampleMetrics(
        n_samples=len(samples),
        kept=NAN,
        structural=float(verdict.structural.mean()),
        compositional=float(verdict.compositional.mean()),
        valid=float(both.mean()),
        density_distance=density_distance(valid, settings.test),
        elements_distance=elements_distance(valid, settings.test),
        **_comparisons(valid, settings),
        **_coverage(samples, both, settings),
    )


def _comparisons(valid: Sequence[Structure], settings: _SampleSettings) -> dict[str, float]:
    """Uniqueness and novelty among valid samples."""
    if not valid:
        return {"n_compared": 0, "unique": NAN, "novel": NAN, "unique_and_novel": NAN}
    crystals = [settings.matcher.reduced(s) for s in _drawn(valid, settings.at_most, settings.seed)]
    first = unique(crystals, settings.matcher)
    new = (
        novel(crystals, settings.train, settings.matcher)
        if settings.train
        else np.full(len(first), NAN)
    )
    return {
        "n_compared": len(crystals),
        "unique": float(first.mean()),
        "novel": float(new.mean()),
        "unique_and_novel": float((first * new).mean()),
    }


def _coverage(
    samples: Sequence[Structure | None], valid: NDArray[np.bool_], settings: _SampleSettings
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
    chosen = _choice(len(samples), settings.at_most, settings.seed)
    if samples is settings.test:  # the same draw
        prints = settings.test_fingerprints
    else:
        prints = fingerprints([samples[i] for i in chosen], workers=settings.workers)
    found = coverage(prints, settings.test_fingerprints, settings.cutoffs)
    structures, compositions = diversity(prints.chosen(valid[chosen]))
    return {
        "n_fingerprints": len(chosen),
        **vars(found),
        "structure_diversity": structures,
        "composition_diversity": compositions,
    }


def _choice(n: int, at_most: int, seed: int) -> NDArray[np.int64]:
    """Indices of all n, or of a random at_most of them, ascending."""
    if n <= at_most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, at_most, replace=False))


def _drawn(structures: Sequence[Structure], at_most: int, seed: int) -> list[Structure]:
    return [structures[i] for i in _choice(len(structures), at_most, seed)]


@dataclass(frozen=True)
class MatchMetrics:
    """Of n guesses for each of S reference crystals; NaN where nothing matched."""

    n_references: float = quantity("references", 0)
    match_rate: float = quantity("match rate", 2, percent=True)
    match_rate_error: float = quantity("  its standard error", 2, percent=True)
    rmse: float = quantity("RMSE of those matched", 4)
    valid_match_rate: float = quantity("match rate, valid only", 2, percent=True)
    valid_rmse: float = quantity("  its RMSE", 4)
    metre: float = quantity("METRe", 2, percent=True)
    metre_rmse: float = quantity("  its RMSE", 4)
    crmse: float = quantity("cRMSE", 4)
    n_guesses: float = quantity("guesses", 0)
    not_compared: float = quantity("crystals too long to compare", 0)


def evaluate_matches(
    predictions: Sequence[Sequence[Structure | None]],
    test: Sequence[Structure],
    train: Sequence[Structure] | None = None,
    *,
    n: Sequence[int] = (1, 20),
    kept: float = NAN,
    oxidation_states: str = "smact14",
    self_images: bool = False,
    tolerances: Tolerances | None = None,
    workers: int = 1,
) -> Report:
    """Structures guessed for the compositions of a test set; columns of `MatchMetrics`.

    Match rate: share of references i of which one of the first n guesses made for i matches; RMSE:
    the mean over these of the least root mean square displacement, in (V / A)^(1/3). "Valid only"
    counts guess and reference only if both are valid (DiffCSP), which caps MP-20 at about 91 %.

    METRe (Martirossyan et al., arXiv:2509.12178): share of references matched by any guess of their
    composition, whichever reference it was made for: polymorphs need not come in the right order.
    cRMSE: the mean of the least displacement over all references, with stol where nothing matches;
    it cannot be improved by matching only what is easy.

    Args:
        predictions: for each reference its guesses, the first ones first. None is no crystal; it,
            and a guess that is missing, matches nothing.
        test: S references.
        train: training crystals, for the baselines; without them there are none.
        n: numbers of guesses to report.
        kept: share of draws that were kept, if close atoms were thrown away: said with the table.
        oxidation_states, self_images: of validity; the default is CDVAE's.
        tolerances: of the matcher.
        workers: processes.

    Raises InputError if predictions and test differ in length, or for n < 1.
    """
    require(len(test) > 0, "test", len(test), "at least one crystal is needed")
    sizes = sorted(set(n))
    require(bool(sizes) and sizes[0] >= 1, "n", list(n), "numbers of guesses, at least 1")
    chosen = tolerances or Tolerances()
    methods: dict[str, Sequence[Sequence[Structure | None]]] = {"guesses": predictions}
    remarks: tuple[str, ...] = ()
    if train:
        methods["nearest template"] = template_guesses(train, test, sizes[-1])
        if are_perovskites([*train, *test]):
            methods["constant cell"] = perovskite_guesses(train, test)
            methods["hedged cell"] = hedged_guesses(train, test)
            remarks = (SITE_ORDER_REMARK,)
    columns = {}
    for name, guesses in methods.items():
        most = max((len(row) for row in guesses), default=0)
        useful = sorted({min(size, max(most, 1)) for size in sizes})
        matches = match_all(guesses, test, useful[-1], tolerances=chosen, workers=workers)
        valid = _valid_matches(guesses, test, matches, oxidation_states, self_images)
        for size in useful:
            n_guesses = sum(guess is not None for row in guesses for guess in row[:size])
            columns[f"{name}, n={size}"] = _match_metrics(matches, valid, size, n_guesses)
    conditions: dict[str, float | str] = {
        "ltol": chosen.ltol,
        "stol": chosen.stol,
        "angle_tol": chosen.angle_tol,
        "oxidation states": oxidation_states,
        "self-images": "count" if self_images else "ignored (CDVAE)",
    }
    if not math.isnan(kept):
        conditions["draws kept, atoms apart"] = f"{100 * kept:.2f} %"
    title = "Guessed structures against the true ones"
    return Report(title, columns, conditions, remarks)


def _valid_matches(
    guesses: Sequence[Sequence[Structure | None]],
    test: Sequence[Structure],
    matches: Matches,
    oxidation_states: str,
    self_images: bool,
) -> NDArray[np.float64]:
    """(S, n): `matches.own` where guess and reference are valid, NaN elsewhere."""
    own = np.full_like(matches.own, np.nan)
    for i, g in np.argwhere(~np.isnan(matches.own)):
        pair = [guesses[i][g], test[i]]
        verdict = validity(pair, oxidation_states=oxidation_states, self_images=self_images)
        if verdict.both.all():
            own[i, g] = matches.own[i, g]
    return own


def _match_metrics(
    matches: Matches, valid: NDArray[np.float64], size: int, n_guesses: int
) -> MatchMetrics:
    """Metrics of the first `size` guesses."""
    own = np.fmin.reduce(matches.own[:, :size], axis=1)  # (S,) NaN: no match
    own_valid = np.fmin.reduce(valid[:, :size], axis=1)
    nearest = matches.nearest[:, size - 1]
    rate, rmse = _rate_and_mean(own)
    valid_rate, valid_rmse = _rate_and_mean(own_valid)
    metre, metre_rmse = _rate_and_mean(nearest)
    missing = np.where(np.isnan(nearest), matches.tolerances.stol, nearest)
    return MatchMetrics(
        n_references=len(own),
        match_rate=rate,
        match_rate_error=math.sqrt(rate * (1 - rate) / len(own)),
        rmse=rmse,
        valid_match_rate=valid_rate,
        valid_rmse=valid_rmse,
        metre=metre,
        metre_rmse=metre_rmse,
        crmse=float(missing.mean()),
        n_guesses=n_guesses,
        not_compared=matches.not_compared,
    )


def _rate_and_mean(rms: NDArray[np.float64]) -> tuple[float, float]:
    """Share of numbers that are not NaN, and their mean (NaN if there is none)."""
    matched = ~np.isnan(rms)
    return float(matched.mean()), float(rms[matched].mean()) if matched.any() else math.nan
