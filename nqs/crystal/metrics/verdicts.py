"""What is found of each crystal by itself; the totals of an evaluation are sums of these rows.

Uniqueness and novelty are looked at among the valid crystals alone, and among `at_most` of them,
drawn at random, where there are more: comparing costs the time. Rows that were not looked at say
so by None, which is not False.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from nqs.crystal.metrics.matching import Matcher, first_alike
from nqs.crystal.metrics.nearest import nearest
from nqs.crystal.metrics.validity import validity
from nqs.crystal.parallel import mapped
from nqs.crystal.structures.structure import CrystalError, Structure
from nqs.crystal.structures.symmetry import space_group

NAN = math.nan

GROUP_TOLERANCE = 0.1
"""Angstrom by which symmetry may be off: coordinates of samples are rounded to about 0.03."""


@dataclass(frozen=True)
class Verdict:
    """Of one crystal; None and NaN: not looked at, or nothing there.

    Attributes:
        formula: of the cell, "" for no crystal.
        space_group: spglib's within GROUP_TOLERANCE, None where it finds none.
        structural, compositional: whether valid, see nqs.crystal.metrics.validity.
        reason: what is wrong, "" for a valid crystal.
        same_as: the first of the samples that is the same, itself if it is unique.
        novel: whether it is the same as no training crystal.
        nearest: the training crystal nearest to it.
        element_distance, displacement: how far that is, see nqs.crystal.metrics.nearest.
        volume_ratio: its volume an atom over that of the nearest: displacements know no scale.
        matched: whether it matches a reference: the one it was made for, or any of the test set.
        reference: that one, or the one it was made for.
        rmse: root mean square displacement from it in (V / A)^(1/3).
    """

    formula: str
    space_group: int | None
    structural: bool
    compositional: bool
    reason: str
    same_as: int | None = None
    unique: bool | None = None
    novel: bool | None = None
    nearest: int | None = None
    element_distance: float = NAN
    displacement: float = NAN
    volume_ratio: float = NAN
    matched: bool | None = None
    reference: int | None = None
    rmse: float = NAN

    @property
    def valid(self) -> bool:
        return self.structural and self.compositional


@dataclass(frozen=True)
class Judge:
    """How verdicts are reached.

    Attributes:
        matcher: tells crystals apart.
        oxidation_states, self_images: of validity.
        at_most: valid crystals compared with others.
        workers: processes for what concerns a crystal alone.
        seed: of the draw of those compared.
    """

    matcher: Matcher
    oxidation_states: str = "smact14"
    self_images: bool = True
    at_most: int = 1_000
    workers: int = 1
    seed: int = 0

    def alone(self, samples: Sequence[Structure | None], *, groups: bool = True) -> list[Verdict]:
        """What can be said of each crystal by itself; without `groups` no space group."""
        judged = partial(_alone, self.oxidation_states, self.self_images, groups)
        return list(mapped(judged, samples, self.workers))

    def compared(
        self,
        samples: Sequence[Structure | None],
        verdicts: Sequence[Verdict],
        train: Sequence[Structure] | None,
        test: Sequence[Structure] | None = None,
    ) -> list[Verdict]:
        """The verdicts with what comparing the valid crystals adds: with one another, with training
        crystals (novel, nearest) and with a test set (matched, reference)."""
        valid = [i for i, verdict in enumerate(verdicts) if verdict.valid]
        chosen = [valid[k] for k in choice(len(valid), self.at_most, self.seed)]
        crystals = [s for s in (samples[i] for i in chosen) if s is not None]
        cells = [self.matcher.reduced(crystal) for crystal in crystals]
        found = list(verdicts)
        for i, first in zip(chosen, first_alike(cells, self.matcher).tolist(), strict=True):
            found[i] = replace(found[i], same_as=chosen[first], unique=chosen[first] == i)
        if train:
            for crystal, i, known in zip(
                crystals, chosen, nearest(crystals, cells, train, self.matcher), strict=True
            ):
                other = train[known.index]
                found[i] = replace(
                    found[i],
                    novel=not known.same,
                    nearest=known.index,
                    element_distance=known.element_distance,
                    displacement=known.displacement,
                    volume_ratio=crystal.volume / crystal.n_atoms / (other.volume / other.n_atoms),
                )
        if test:
            for i, known in zip(chosen, nearest(crystals, cells, test, self.matcher), strict=True):
                matched = not math.isnan(known.displacement)
                found[i] = replace(
                    found[i],
                    matched=matched,
                    reference=known.index if matched else None,
                    rmse=known.displacement,
                )
        return found

    def matched(
        self,
        samples: Sequence[Structure | None],
        verdicts: Sequence[Verdict],
        references: Sequence[Structure],
        made_for: Sequence[int],
    ) -> list[Verdict]:
        """The verdicts with what comparing each crystal with the reference that it was made for
        adds, for `at_most` of them."""
        found = [replace(v, reference=i) for v, i in zip(verdicts, made_for, strict=True)]
        for i in choice(len(samples), self.at_most, self.seed).tolist():
            sample, reference = samples[i], references[made_for[i]]
            rmse = (
                NAN
                if sample is None
                else self.matcher.rms(self.matcher.reduced(sample), self.matcher.reduced(reference))
            )
            found[i] = replace(found[i], matched=not math.isnan(rmse), rmse=rmse)
        return found


def _alone(
    oxidation_states: str, self_images: bool, groups: bool, sample: Structure | None
) -> Verdict:
    found = validity([sample], oxidation_states=oxidation_states, self_images=self_images)
    return Verdict(
        "" if sample is None else sample.formula,
        group_of(sample) if groups and sample is not None else None,
        bool(found.structural[0]),
        bool(found.compositional[0]),
        found.reasons[0],
    )


def group_of(structure: Structure) -> int | None:
    """spglib's space group, None where it finds none (atoms on one another)."""
    try:
        return space_group(structure, GROUP_TOLERANCE)
    except CrystalError:
        return None


def choice(n: int, at_most: int, seed: int) -> NDArray[np.int64]:
    """Indices of all n, or of a random at_most of them, ascending."""
    if n <= at_most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, at_most, replace=False))


def totals(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Numbers and shares of the rows: validity among all, the rest among those compared (NaN where
    none was)."""
    compared = [verdict for verdict in verdicts if verdict.unique is not None]
    return {
        "n_samples": len(verdicts),
        "structural": _share([v.structural for v in verdicts]),
        "compositional": _share([v.compositional for v in verdicts]),
        "valid": _share([v.valid for v in verdicts]),
        "n_compared": len(compared),
        "unique": _share([v.unique for v in compared]),
        "novel": _share([v.novel for v in compared]),
        "unique_and_novel": _share(
            [None if v.novel is None else bool(v.unique and v.novel) for v in compared]
        ),
        "rediscovered": _share([v.matched for v in compared]),
    }


def _share(rows: Sequence[bool | None]) -> float:
    """How many are True; NaN for no rows, and where they were not looked at."""
    known = [row for row in rows if row is not None]
    return sum(known) / len(known) if known else NAN
