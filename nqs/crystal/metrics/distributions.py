"""How far properties of generated crystals are distributed from those of a test set.

Wasserstein distance W1 = int |F(x) - G(x)| dx of the cumulative distributions, in the property's
unit (CDVAE, arXiv:2110.06197). CDVAE compares 1 000 valid samples; here all of those given count,
and the distance of two finite sets of one distribution is not 0: the training set's own distance to
the test set is the floor that tables show beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import wasserstein_distance

from nqs.crystal.structures.structure import Structure


def density_distance(samples: Sequence[Structure], test: Sequence[Structure]) -> float:
    """W1 of mass densities, in g/cm^3; NaN for an empty set."""
    if not samples or not test:
        return math.nan
    return float(wasserstein_distance([s.density for s in samples], [t.density for t in test]))


def elements_distance(samples: Sequence[Structure], test: Sequence[Structure]) -> float:
    """W1 of the numbers of distinct elements; NaN for an empty set."""
    if not samples or not test:
        return math.nan
    counts = [len(s.composition) for s in samples], [len(t.composition) for t in test]
    return float(wasserstein_distance(*counts))
