"""Numbers that place crystals in a space of structures and one of compositions, for coverage.

Structure: for each site the probabilities of the coordination numbers 1 .. 24 that CrystalNN finds
(Pan et al., Inorg. Chem. 60, 1590 (2021)), each followed by its products with the order parameters
of motifs of that coordination (Zimmermann & Jain, RSC Adv. 10, 6063 (2020)); averaged over the
sites. 61 numbers: those of matminer's CrystalNNFingerprint, preset "ops", which CDVAE uses.

Composition: minimum, maximum, range, mean, mean absolute deviation and mode over the atoms of 22
elemental properties (Ward et al., npj Comput. Mater. 2, 16028 (2016)). 132 numbers: matminer's
ElementProperty, preset "magpie". The tables are those that SMACT carries. Where Magpie knows no
value (melting point of He, electronegativity of noble gases) they hold the average over elements;
the matminer of CDVAE's time had NaN there, which CDVAE set to the mean of its scaler.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nqs.crystal.metrics.matching import to_pymatgen
from nqs.crystal.structures.elements import symbol
from nqs.crystal.structures.structure import Structure
from nqs.crystal.structures.symmetry import orbits
from nqs.errors import InputError

Floats = NDArray[np.float64]

HIGHEST_COORDINATION = 24
BOND_ORDER = ("q2", "q4", "q6")
"""Steinhardt's, where there are no motifs of their own."""
MOTIFS: dict[int, tuple[str, ...]] = {
    1: ("sgl_bd",),
    2: ("L-shaped", "water-like", "bent 120 degrees", "bent 150 degrees", "linear"),
    3: ("trigonal planar", "trigonal non-coplanar", "T-shaped"),
    4: (
        "square co-planar",
        "tetrahedral",
        "rectangular see-saw-like",
        "see-saw-like",
        "trigonal pyramidal",
    ),
    5: ("pentagonal planar", "square pyramidal", "trigonal bipyramidal"),
    6: ("hexagonal planar", "octahedral", "pentagonal pyramidal"),
    7: ("hexagonal pyramidal", "pentagonal bipyramidal"),
    8: ("body-centered cubic", "hexagonal bipyramidal"),
    9: BOND_ORDER,
    10: BOND_ORDER,
    11: BOND_ORDER,
    12: ("cuboctahedral", *BOND_ORDER),
}
"""Coordination number -> motifs whose order parameters are taken, in this order."""

FAILURES = (ValueError, RuntimeError, IndexError, TypeError, ZeroDivisionError)
"""Of CrystalNN: no neighbours, flat Voronoi cells, elements without a radius."""

SAME = 1e-3
"""Angstrom: what symmetry maps onto one another up to this has one fingerprint."""

STRUCTURE_SIZE = HIGHEST_COORDINATION + sum(len(motifs) for motifs in MOTIFS.values())

PROPERTIES = (
    "Number",
    "MendeleevNumber",
    "AtomicWeight",
    "MeltingT",
    "Column",
    "Row",
    "CovalentRadius",
    "Electronegativity",
    "NsValence",
    "NpValence",
    "NdValence",
    "NfValence",
    "NValence",
    "NsUnfilled",
    "NpUnfilled",
    "NdUnfilled",
    "NfUnfilled",
    "NUnfilled",
    "GSvolume_pa",
    "GSbandgap",
    "GSmagmom",
    "SpaceGroupNumber",
)
"""Magpie's names."""

COMPOSITION_SIZE = 6 * len(PROPERTIES)


def structure_fingerprint(structure: Structure, *, symmetry: bool = True) -> Floats | None:
    """(STRUCTURE_SIZE,), or None where CrystalNN finds no neighbours or fails (atoms on one
    another, few atoms in a huge cell).

    Cost: about 20 ms a site; with `symmetry`, one site of each orbit (spglib, within SAME
    Angstrom) stands for all. Raises InputError without pymatgen.
    """
    crystal_nn, parameters = _order_parameters()
    whole = to_pymatgen(structure)
    sites, weights = orbits(structure, SAME) if symmetry else (range(len(whole)), None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a radius that had to be guessed
        try:
            rows = [_site_fingerprint(whole, i, crystal_nn, parameters) for i in sites]
        except FAILURES:
            return None
    average = np.average(rows, axis=0, weights=weights)
    return average if np.isfinite(average).all() else None


def _site_fingerprint(whole: Any, i: int, crystal_nn: Any, parameters: Any) -> list[float]:
    """(STRUCTURE_SIZE,): each coordination number's weight, then weight x order parameters."""
    found = crystal_nn.get_nn_data(whole, i)
    values = []
    for coordination in range(1, HIGHEST_COORDINATION + 1):
        weight = found.cn_weights.get(coordination, 0.0)
        values.append(weight)
        motifs = parameters.get(coordination, ())
        if weight == 0:
            values.extend(0.0 for _ in motifs)
            continue
        sites = [whole[i], *(entry["site"] for entry in found.cn_nninfo[coordination])]
        neighbours = list(range(1, len(sites)))
        for motif in motifs:
            order = motif.get_order_parameters(sites, 0, indices_neighs=neighbours)[0]
            values.append(weight * (order or 0.0))  # None: not defined here
    return values


@lru_cache(maxsize=1)
def _order_parameters() -> tuple[Any, dict[int, list[Any]]]:
    """pymatgen's CrystalNN, and its order parameters of MOTIFS by coordination number."""
    try:
        from pymatgen.analysis import local_env
    except ImportError:
        raise InputError("fingerprints need pymatgen: pip install 'nqs[crystal]'") from None
    try:
        settings = local_env.CN_OPT_PARAMS
    except AttributeError:  # moved in October 2025
        from pymatgen.core.local_env import CN_OPT_PARAMS as settings
    parameters = {}
    for coordination, motifs in MOTIFS.items():
        known: dict[str, list[Any]] = settings.get(coordination, {})
        chosen = [known.get(motif, [motif]) for motif in motifs]
        parameters[coordination] = [
            local_env.LocalStructOrderParams([name], parameters=[options[0] if options else None])
            for name, *options in chosen
        ]
    return local_env.CrystalNN(), parameters


def composition_fingerprint(composition: Mapping[int, int]) -> Floats | None:
    """(COMPOSITION_SIZE,) of atomic number -> number of atoms: six statistics of each property in
    the order of PROPERTIES. None for elements that Magpie does not have (beyond Bk).

    The mode is the value of the most frequent element, the least one among equals. Raises
    InputError without SMACT.
    """
    rows = [_properties(number) for number in composition]
    if any(row is None for row in rows):
        return None
    values = np.array(rows)  # (elements, 22)
    counts = np.array(list(composition.values()), dtype=np.float64)
    weights = counts / counts.sum()
    least, most = values.min(axis=0), values.max(axis=0)
    mean = weights @ values
    deviation = weights @ np.abs(values - mean)
    mode = values[counts == counts.max()].min(axis=0)
    return np.stack([least, most, most - least, mean, deviation, mode], axis=1).ravel()


@cache
def _properties(number: int) -> tuple[float, ...] | None:
    try:
        from smact.data_loader import lookup_element_magpie_data
    except ImportError:
        raise InputError(
            "fingerprints of compositions need SMACT: pip install 'nqs[crystal]'"
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # elements that it does not list
        known = lookup_element_magpie_data(symbol(number))
    if not known:
        return None
    values = tuple(float(known[name]) for name in PROPERTIES)
    return None if any(math.isnan(value) for value in values) else values
