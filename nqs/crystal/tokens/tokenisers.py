"""The tokenisers by name."""

from __future__ import annotations

from nqs.crystal.tokens.coordinate import CoordinateTokeniser
from nqs.crystal.tokens.formats import FORMATS
from nqs.crystal.tokens.text_tokeniser import TextTokeniser
from nqs.crystal.tokens.tokeniser import Tokeniser
from nqs.errors import require_choice

TOKENISERS = ("coordinate", *FORMATS)


def make_tokeniser(name: str, max_atoms: int = 80) -> Tokeniser:
    """coordinate, character, cif or text, for crystals of at most max_atoms."""
    require_choice("tokeniser", name, TOKENISERS)
    if name == "coordinate":
        return CoordinateTokeniser(max_atoms)
    return TextTokeniser(FORMATS[name], max_atoms)
