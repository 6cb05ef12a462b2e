"""How much of a test set is generated (recall) and how much of what is generated lies near it
(precision), after CDVAE (Xie et al., arXiv:2110.06197, appendix G).

With d_S, d_C the Euclidean distances of structure and scaled composition fingerprints,

    COV-R = share of test crystals i  with  min_j d_S(i, j) <= c_S  and  min_j d_C(i, j) <= c_C,
    COV-P = share of generated crystals j with the same over i.

The two minima may belong to different crystals: so CDVAE defines and computes it. A sample without
fingerprints counts against precision. Coverage grows with the number of samples: the sizes belong
to the number (CDVAE: 10 000 samples against the whole test set).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist

from nqs.crystal.datasets import cache
from nqs.crystal.metrics.fingerprints import (
    COMPOSITION_SIZE,
    STRUCTURE_SIZE,
    composition_fingerprint,
    structure_fingerprint,
)
from nqs.crystal.parallel import mapped
from nqs.crystal.structures.structure import Structure

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cutoffs:
    """Distances up to which a crystal is covered, of structure and of composition fingerprints."""

    structure: float
    composition: float


CUTOFFS = {
    "perov_5": Cutoffs(0.2, 4.0),
    "carbon_24": Cutoffs(0.2, 4.0),
    "mp_20": Cutoffs(0.4, 10.0),
}
"""CDVAE's, by data set."""

ROWS = 1_000
"""Distances held at a time: ROWS x references."""

SOURCES = ("metrics/fingerprints.py", "metrics/coverage.py", "metrics/matching.py", "structures")
LIBRARIES = ("pymatgen", "pymatgen-core", "smact", "spglib", "numpy")
FEWEST, MOST_KEPT = 50, 200_000
"""New fingerprints that are worth keeping, and those that a file holds."""

_SCALE = """
21.194 58.202 37.008 36.527 13.351 29.469 16.358 20.19 20.516 16.817 7.9666 22.271
28.717 78.887 50.17 59.568 19.02 61.336 21.802 12.805 24.757 13.93 10.215 27.802
47.145 141.75 94.606 85.958 34.073 68.062 39.74 54.27 53.705 42.852 20.783 56.288
637.99 1817.2 1179.3 1127.3 431.51 909.11 563.8 732.07 736.21 606.35 272.63 810.62
3.7744 13.674 9.8993 9.6202 3.8426 9.9695 3.0362 3.2075 4.0634 2.9738 1.7806 5.6432
3.3055 5.483 2.1776 4.2151 0.82061 3.7321 1.1994 0.8939 1.2298 1.0066 0.4913 1.416
109.17 179.56 70.39 136.1 27.028 119.17 31.755 28.054 38.163 25.835 15.388 39.671
1.2721 2.4614 1.1893 1.9844 0.46915 2.1001 0.31988 0.68337 0.74642 0.48813 0.31766 0.86017
1.483 1.99 0.50701 1.7956 0.20563 1.7459 0.58648 0.10049 0.58363 0.28117 0.24687 0.50074
0.056501 2.3619 2.3054 1.283 0.99956 1.515 0.37238 1.7236 1.7059 1.1559 0.76778 1.9204
0.77313 7.4648 6.6917 4.0107 2.6123 3.3035 2.1289 3.5326 3.7085 2.871 1.6111 4.3102
0.27395 5.8898 5.6158 2.3244 2.1426 1.4464 1.6644 6.2283 6.1201 3.1986 2.4493 4.0305
4.7392 14.578 9.8391 9.4137 3.5371 8.5504 3.662 6.8192 6.6142 4.335 2.5683 5.9495
0.0081199 0.43287 0.42475 0.16688 0.1714 0.10899 0.089744 0.49547 0.4943 0.23093 0.20729 0.31163
0.062832 2.6574 2.5945 1.2196 1.0596 1.1121 0.39806 1.8112 1.7973 0.9487 0.75388 1.5233
0.14843 3.8474 3.6989 1.4542 1.3862 0.80188 0.79526 3.7112 3.6387 1.7171 1.4308 2.1048
0.035428 2.4475 2.412 0.77452 0.91458 0.31986 0.49194 4.0648 4.0353 1.4859 1.5799 1.613
1.5527 6.9107 5.358 3.6152 1.9072 2.6702 1.5552 4.7769 4.5698 2.2246 1.7218 2.597
14.609 34.832 20.224 22.479 7.1767 18.642 7.215 19.253 18.775 9.4472 6.7468 11.107
0.009067 0.91852 0.90945 0.43686 0.38906 0.48376 0.27207 1.6449 1.6236 0.85069 0.70209 1.2282
0.0012986 0.21709 0.21579 0.08168 0.081554 0.060363 0.041344 0.55089 0.54861 0.24239 0.21278 0.30368
116.32 217.59 101.27 162.87 41.921 136.47 80.061 21.346 80.165 52.585 35.408 85.98
"""
"""A line a property of `PROPERTIES`: means of its six statistics, then their standard deviations.
The constants by which CDVAE scales every data set (its repository, MIT licence), to five digits."""

_TABLE = np.array([line.split() for line in _SCALE.strip().splitlines()], dtype=np.float64)
MEANS: Floats = _TABLE[:, :6].ravel()
DEVIATIONS: Floats = _TABLE[:, 6:].ravel()
"""(132,) each."""


@dataclass(frozen=True)
class Fingerprints:
    """Of S crystals; rows of NaN where there is none.

    Attributes:
        structures: (S, 61).
        compositions: (S, 132), scaled.
    """

    structures: Floats
    compositions: Floats

    @property
    def complete(self) -> NDArray[np.bool_]:
        """(S,): which crystals have both."""
        both = np.concatenate([self.structures, self.compositions], axis=1)
        complete: NDArray[np.bool_] = ~np.isnan(both).any(axis=1)
        return complete

    def chosen(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> Fingerprints:
        return Fingerprints(self.structures[which], self.compositions[which])


def fingerprints(
    samples: Sequence[Structure | None], *, file: Path | None = None, workers: int = 1
) -> Fingerprints:
    """Of each sample; None has none. Cost: about 20 ms an inequivalent site.

    file: where those of these crystals are kept from one evaluation to the next
    (nqs.crystal.datasets.cache); None: nowhere.
    """
    if file is None:
        rows = list(mapped(_fingerprint, samples, workers))
    else:
        rows = _kept_rows([s for s in samples if s is not None], file, workers)
    table = np.array(rows).reshape(len(samples), STRUCTURE_SIZE + COMPOSITION_SIZE)
    structures, compositions = table[:, :STRUCTURE_SIZE], table[:, STRUCTURE_SIZE:]
    return Fingerprints(structures, (compositions - MEANS) / DEVIATIONS)


def _kept_rows(crystals: Sequence[Structure], file: Path, workers: int) -> list[Floats]:
    """A row a crystal, from the file where it has that very crystal; the file gets the others."""
    key = cache.code_version(SOURCES, LIBRARIES)
    known = cache.read(file, key, _unpacked) or {}
    names = [_digest(crystal) for crystal in crystals]
    new = {n: c for n, c in zip(names, crystals, strict=True) if n not in known}
    computed = zip(new, mapped(_fingerprint, list(new.values()), workers), strict=True)
    known |= dict(computed)
    if len(new) >= FEWEST:
        kept = known if len(known) <= MOST_KEPT else {name: known[name] for name in names}
        digests = np.frombuffer(b"".join(kept), np.uint8).reshape(len(kept), -1)
        content = cache.Content({"digests": digests, "rows": np.array([*kept.values()])})
        cache.write(file, key, content)
    return [known[name] for name in names]


def _unpacked(content: cache.Content) -> dict[bytes, Floats]:
    """Digest of a crystal -> its row. Raises one of cache.NONSENSE for anything else."""
    digests, rows = content.arrays["digests"], content.arrays["rows"]
    if digests.shape != (len(rows), 32) or rows.shape[1:] != (STRUCTURE_SIZE + COMPOSITION_SIZE,):
        raise ValueError("fingerprints of another shape")
    return {digest.tobytes(): row for digest, row in zip(digests, rows, strict=True)}


def _digest(crystal: Structure) -> bytes:
    """Of the crystal as it is written, to the last bit."""
    arrays = (crystal.lengths, crystal.angles, crystal.numbers, crystal.positions)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).digest()


def _fingerprint(sample: Structure | None) -> Floats:
    """(61 + 132,), NaN where there is none."""
    row = np.full(STRUCTURE_SIZE + COMPOSITION_SIZE, np.nan)
    if sample is None:
        return row
    composition = composition_fingerprint(sample.composition)
    structure = structure_fingerprint(sample)
    if composition is not None and structure is not None:
        row[:STRUCTURE_SIZE], row[STRUCTURE_SIZE:] = structure, composition
    return row


@dataclass(frozen=True)
class Coverage:
    """COV-R and COV-P, and the average minimum distances (AMSD, AMCD) behind them.

    Attributes:
        recall, precision: shares, 0 to 1.
        structure_recall, structure_precision: AMSD, from test to generated crystals and back.
        composition_recall, composition_precision: AMCD, likewise.
    """

    recall: float
    precision: float
    structure_recall: float
    structure_precision: float
    composition_recall: float
    composition_precision: float


def coverage(generated: Fingerprints, test: Fingerprints, cutoffs: Cutoffs) -> Coverage:
    """Of a test set by generated crystals; NaN distances and shares of 0 if nothing was generated.

    Test crystals without fingerprints are left out, generated ones count as not covered.
    """
    n_generated = len(generated.structures)
    generated, test = generated.chosen(generated.complete), test.chosen(test.complete)
    if not len(generated.structures) or not len(test.structures):
        return Coverage(0.0, 0.0, math.nan, math.nan, math.nan, math.nan)
    from_test, from_generated = _nearest(generated.structures, test.structures)
    c_from_test, c_from_generated = _nearest(generated.compositions, test.compositions)
    recalled = (from_test <= cutoffs.structure) & (c_from_test <= cutoffs.composition)
    near = (from_generated <= cutoffs.structure) & (c_from_generated <= cutoffs.composition)
    return Coverage(
        recall=float(recalled.mean()),
        precision=float(near.sum() / n_generated),
        structure_recall=float(from_test.mean()),
        structure_precision=float(from_generated.mean()),
        composition_recall=float(c_from_test.mean()),
        composition_precision=float(c_from_generated.mean()),
    )


def _nearest(generated: Floats, test: Floats) -> tuple[Floats, Floats]:
    """Least distances (T,) from each test row to a generated one, and (S,) the other way."""
    from_test = np.full(len(test), np.inf)
    from_generated = []
    for start in range(0, len(generated), ROWS):
        distances = cdist(generated[start : start + ROWS], test)  # (ROWS, T)
        from_test = np.minimum(from_test, distances.min(axis=0))
        from_generated.append(distances.min(axis=1))
    return from_test, np.concatenate(from_generated)


def diversity(generated: Fingerprints) -> tuple[float, float]:
    """Mean distance of two crystals: of their structure fingerprints, of their compositions'; NaN
    for fewer than two."""
    generated = generated.chosen(generated.complete)
    if len(generated.structures) < 2:
        return math.nan, math.nan
    return float(pdist(generated.structures).mean()), float(pdist(generated.compositions).mean())
