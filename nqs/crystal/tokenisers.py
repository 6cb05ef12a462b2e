"""The tokenisers by name."""

from __future__ import annotations

from nqs.crystal.coordinate import CoordinateTokeniser
from nqs.crystal.formats import FORMATS
from nqs.crystal.text_tokeniser import TextTokeniser
from nqs.crystal.tokeniser import Tokeniser
from nqs.runs.schema import require_choice

TOKENISERS = ("coordinate", *FORMATS)


def make_tokeniser(name: str, max_atoms: int = 80) -> Tokeniser:
    """coordinate, character, cif or text, for crystals of at most max_atoms."""
    require_choice("tokeniser", name, TOKENISERS)
    if name == "coordinate":
        return CoordinateTokeniser(max_atoms)
    return TextTokeniser(FORMATS[name], max_atoms)
