"""Atom registers of Pulser and Bloqade, and files of positions in micrometres.

Both describe the same atoms as `hamiltonians.rydberg`, with hbar = 1, energies in rad/us, lengths
in um and C6 in rad/us um^6:

    H = Omega/2 sum_i (cos phi sx_i - sin phi sy_i) - delta sum_i n_i + sum_{i<j} V_ij n_i n_j

and here -Omega / 2 sx_i. The sign of the drive is the choice of the phase phi of each atom's
excited state; energies, densities and all else that is diagonal do not know it. (Pulser writes
- delta / 2 sz with sz = +1 for the excited atom: the same but for a constant, delta / 2 an atom.)

    Pulser   pulser.Register, .qubits: {name: coordinates}; pulser.Sequence, .register and .device;
             a device's .interaction_coeff: C6 of its Rydberg level
    Bloqade  bloqade.analog arrangements, .enumerate(): sites with .position and .filling;
             C6 = 2 pi 862 690 (bloqade.analog.constants.RB_C6)

Neither package is imported: their objects are enough. Sites come in the order of the register.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hamiltonians.hamiltonian import Coupling
from hamiltonians.lattices.lattice import Positions
from hamiltonians.rydberg import Rydberg

BLOQADE_C6: Final = 2 * math.pi * 862_690
"""C6 of Bloqade's rubidium atoms, rad/us um^6."""


def from_pulser(
    source: Any,
    Omega: Coupling,
    delta: Coupling,
    *,
    C6: float | None = None,
    device: Any = None,
    cutoff: float | None = None,
) -> Rydberg:
    """The atoms of a pulser.Register or of a pulser.Sequence under a constant drive.

    Omega and delta in rad/us, a number or one per atom in the order of the register; cutoff in um.
    C6 in rad/us um^6; without it that of `device`, or of the sequence's own device.
    Raises ValueError where neither is known, and for objects of another kind.
    """
    device = getattr(source, "device", None) if device is None else device
    if C6 is None:
        C6 = getattr(device, "interaction_coeff", None)
    if C6 is None:
        raise ValueError(
            "from_pulser: a register does not say which Rydberg level its atoms use; give C6 (in "
            "rad/us um^6) or device=pulser.AnalogDevice"
        )
    return Rydberg.from_physical(_coordinates(source), float(C6), Omega, delta, cutoff=cutoff)


def pulser_positions(source: Any) -> Positions:
    """The places of a pulser.Register's or Sequence's atoms, um."""
    return Positions(_coordinates(source))


def _coordinates(source: Any) -> list[list[float]]:
    """Of `source.qubits` or `source.register.qubits`, (N, 2 or 3)."""
    register = source if hasattr(source, "qubits") else getattr(source, "register", None)
    qubits = getattr(register, "qubits", None)
    if not isinstance(qubits, Mapping):
        raise ValueError(
            f"from_pulser: {type(source).__name__} has no qubits; give a Register or a Sequence"
        )
    # Pulser's own arrays may hold torch tensors; all of them know tolist
    return [[float(x) for x in coordinates.tolist()] for coordinates in qubits.values()]


def from_bloqade(
    arrangement: Any,
    Omega: Coupling,
    delta: Coupling,
    *,
    C6: float = BLOQADE_C6,
    cutoff: float | None = None,
    **variables: float,
) -> Rydberg:
    """The atoms of a Bloqade arrangement (bloqade.analog) under a constant drive.

    Omega and delta in rad/us, a number or one per atom; C6 in rad/us um^6; cutoff in um. variables:
    values of the arrangement's variables, such as a lattice spacing. Vacant sites are left out.
    Raises ValueError for variables without a value and for objects of another kind.
    """
    positions = bloqade_positions(arrangement, **variables)
    return Rydberg.from_physical(positions.positions, C6, Omega, delta, cutoff=cutoff)


def bloqade_positions(arrangement: Any, **variables: float) -> Positions:
    """The places of a Bloqade arrangement's atoms, um; chains become points on a line (x, 0)."""
    if not hasattr(arrangement, "enumerate"):
        raise ValueError(
            f"from_bloqade: {type(arrangement).__name__} is no arrangement of atoms; give e.g. "
            "bloqade.analog.atom_arrangement.Square(4, lattice_spacing=6.7)"
        )
    sites = []
    for site in arrangement.enumerate():
        if site.filling.name != "filled":
            continue
        place = [float(coordinate(**variables)) for coordinate in site.position]
        sites.append(place if len(place) > 1 else [*place, 0.0])
    return Positions(sites)


def write_positions(positions: Positions, path: str | Path) -> None:
    """A CSV file that lattice=positions reads: header x,y or x,y,z and one atom a line."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow("xyz"[: positions.positions.shape[1]])
        writer.writerows(positions.positions.tolist())
