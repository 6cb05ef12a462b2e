"""Crystals as sequences of tokens: the tokenisers that can be chosen by name are imported here."""

from __future__ import annotations

from typing import Any, Final

from nqs.conf.kinds import Group
from nqs.crystal.tokens.coordinate import CoordinateTokeniser
from nqs.crystal.tokens.text_tokeniser import (
    CharacterTokeniser,
    CifTokeniser,
    PlainTextTokeniser,
)
from nqs.crystal.tokens.tokeniser import Conditions, Grammar, Tokeniser
from nqs.crystal.tokens.wyckoff import WyckoffTokeniser
from nqs.errors import InputError, shown

__all__ = [
    "TOKENISERS",
    "CharacterTokeniser",
    "CifTokeniser",
    "Conditions",
    "CoordinateTokeniser",
    "Grammar",
    "PlainTextTokeniser",
    "Tokeniser",
    "WyckoffTokeniser",
    "make_tokeniser",
]

TOKENISERS: Final = Group(
    "data.tokeniser", Tokeniser, frozenset({"max_atoms"}), "How a crystal is written as tokens."
)


def make_tokeniser(name: str, max_atoms: int = 80) -> Tokeniser:
    """The tokeniser of a kind, or of anyone's class MODULE:CLASS, for crystals of at most so many
    atoms. Raises InputError."""
    made: Tokeniser = TOKENISERS.read({"name": name}).build(max_atoms=max_atoms)
    if ":" in name:
        check_attributes(made, f"data.tokeniser={shown(name)}")
    return made


def check_attributes(tokeniser: Tokeniser, whose: str) -> None:
    """Raises InputError, one line, unless its constructor has set what the base class needs."""
    names = ("vocabulary", "pad", "bos", "eos", "mask", "max_atoms", "max_length")
    missing = [name for name in names if not hasattr(tokeniser, name)]
    if missing:
        raise InputError(f"{whose}: its constructor does not set {', '.join(missing)}")
    words: Any = tokeniser.vocabulary
    whole = isinstance(words, tuple | list) and all(isinstance(word, str) for word in words)
    if not whole or len(set(words)) < len(words):
        raise InputError(f"{whose}: vocabulary must be a tuple of texts, each of them once")
    special = [tokeniser.pad, tokeniser.bos, tokeniser.eos, tokeniser.mask]
    if not all(type(t) is int and 0 <= t < len(words) for t in special) or len(set(special)) < 4:
        rule = f"must be four tokens in 0 .. {len(words) - 1}"
        raise InputError(f"{whose}: pad, bos, eos and mask {rule}, are {shown(special)}")
    for name in ("max_atoms", "max_length"):
        size: Any = getattr(tokeniser, name)
        if type(size) is not int or size < 1:
            raise InputError(f"{whose}: {name}={shown(size)} must be a positive whole number")
