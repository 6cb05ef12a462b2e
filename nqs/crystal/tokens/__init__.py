"""Crystals as sequences of tokens: the tokenisers that can be chosen by name are imported here."""

from __future__ import annotations

from typing import Final

from nqs.conf.kinds import Group
from nqs.crystal.tokens.coordinate import CoordinateTokeniser
from nqs.crystal.tokens.text_tokeniser import (
    CharacterTokeniser,
    CifTokeniser,
    PlainTextTokeniser,
)
from nqs.crystal.tokens.tokeniser import Conditions, Grammar, Tokeniser

__all__ = [
    "TOKENISERS",
    "CharacterTokeniser",
    "CifTokeniser",
    "Conditions",
    "CoordinateTokeniser",
    "Grammar",
    "PlainTextTokeniser",
    "Tokeniser",
    "make_tokeniser",
]

TOKENISERS: Final = Group(
    "data.tokeniser", Tokeniser, frozenset({"max_atoms"}), "How a crystal is written as tokens."
)


def make_tokeniser(name: str, max_atoms: int = 80) -> Tokeniser:
    """The tokeniser of a kind, or of anyone's class MODULE:CLASS, for crystals of at most so many
    atoms. Raises InputError."""
    made: Tokeniser = TOKENISERS.read({"name": name}).build(max_atoms=max_atoms)
    return made
