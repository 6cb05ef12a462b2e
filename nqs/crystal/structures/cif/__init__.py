"""CIF text to structures and back.

Principle of reading: what a file states and this code does not understand is never taken for "not
there". A crystal comes out only if all that the file states of it holds: its space group (number,
Hermann-Mauguin, Hall or Schoenflies symbol, operators), cell, formula, Z, volume and density.
"""

from nqs.crystal.structures.cif.reading import (
    CifCrystal,
    crystal_from_cif,
    crystals_from_cif,
    read_cif,
    read_text,
    structure_from_cif,
)
from nqs.crystal.structures.cif.writing import cif_text, write_cif

__all__ = [
    "CifCrystal",
    "cif_text",
    "crystal_from_cif",
    "crystals_from_cif",
    "read_cif",
    "read_text",
    "structure_from_cif",
    "write_cif",
]
