"""Structures as CIF text."""

from __future__ import annotations

import math
import re
from pathlib import Path

from nqs.crystal.structures.elements import symbol
from nqs.crystal.structures.structure import Structure

_CELL = (
    *("_cell_length_a", "_cell_length_b", "_cell_length_c"),
    *("_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma"),
)


def cif_text(structure: Structure, name: str = "crystal") -> str:
    """A P1 CIF with every atom, coordinates to ten decimals."""
    formula = structure.composition
    cell = zip(_CELL, (*structure.lengths, *structure.angles), strict=True)
    atoms = zip(structure.numbers.tolist(), structure.positions.tolist(), strict=True)
    lines = [
        f"data_{re.sub('[^A-Za-z0-9_.-]', '_', name) or 'crystal'}",
        "_symmetry_space_group_name_H-M 'P 1'",
        *(f"{tag} {value:.10f}" for tag, value in cell),
        "_symmetry_Int_Tables_number 1",
        f"_chemical_formula_structural {structure.reduced_formula}",
        f"_chemical_formula_sum '{' '.join(f'{symbol(z)}{n}' for z, n in formula.items())}'",
        f"_cell_volume {structure.volume:.8f}",
        f"_cell_formula_units_Z {math.gcd(*formula.values())}",
        "loop_\n_symmetry_equiv_pos_site_id\n_symmetry_equiv_pos_as_xyz\n1 'x, y, z'",
        "loop_\n_atom_site_type_symbol\n_atom_site_label\n_atom_site_symmetry_multiplicity",
        "_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n_atom_site_occupancy",
        *(
            f"{symbol(number)} {symbol(number)}{index} 1 {x:.10f} {y:.10f} {z:.10f} 1"
            for index, (number, (x, y, z)) in enumerate(atoms)
        ),
    ]
    return "\n".join(lines) + "\n"


def write_cif(structure: Structure, path: str | Path, name: str | None = None) -> None:
    """Write `cif_text` to a file, named after it unless told otherwise."""
    text = cif_text(structure, Path(path).stem if name is None else name)
    Path(path).write_text(text, encoding="utf-8")
