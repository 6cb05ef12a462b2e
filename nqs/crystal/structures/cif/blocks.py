"""The text of a CIF as blocks of tags, whatever dictionary its writer followed.

A tag is known by its letters alone: _space_group_name_H-M_alt, _space_group.name_H-M_alt and
_SPACE_GROUP_NAME_H_M_ALT are one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import gemmi

from nqs.crystal.structures.structure import CrystalError
from nqs.errors import shown

LONGEST_TEXT = 4_000_000
"""Characters of a CIF; one with its diffraction data is no use here."""
ATOMS = "_atom_site_fract_x"
_TYPOGRAPHY = str.maketrans(
    "\u2010\u2011\u2012\u2013\u2212\u00a0\u2009\u202f\u2018\u2019", "-----   ''", "\ufeff"
)
"""What word processors make of a minus, a space and a quote."""
_UNKNOWN = ("?", ".", "")


class Block:
    """One data block: its tags with the texts that stand under each."""

    def __init__(self, block: gemmi.cif.Block) -> None:
        self.name: str = block.name.strip()
        self._entries: dict[str, list[tuple[str, list[str]]]] = {}
        for item in block:
            pair: Any = item.pair
            if pair is not None:
                self._add(pair[0], [pair[1]])
            elif item.loop is not None:
                tags, values = item.loop.tags, item.loop.values
                for index, tag in enumerate(tags):
                    self._add(tag, values[index :: len(tags)])

    def _add(self, tag: str, values: list[str]) -> None:
        self._entries.setdefault(canonical(tag), []).append((tag, values))

    def __iter__(self) -> Iterator[str]:
        """The tags, by their letters alone."""
        return iter(self._entries)

    def raw(self, tag: str) -> list[str] | None:
        """The values under a tag as they are written ('?' and '.' say that they are not known);
        None where it is not there.

        Raises CrystalError where two spellings of the tag say different things.
        """
        entries = self._entries.get(tag)
        if entries is None:
            return None
        (first, values), *others = entries
        for second, more in others:
            if [_text(value) for value in more] != [_text(value) for value in values]:
                raise CrystalError(
                    f"{shown(first)} {shown(_text(values[0]))} and {shown(second)} "
                    f"{shown(_text(more[0]))} contradict each other"
                )
        return values

    def texts(self, tag: str) -> list[str]:
        """The known values under a tag, without their quotes."""
        return [text for text in map(_text, self.raw(tag) or ()) if text not in _UNKNOWN]

    def one(self, *tags: str) -> str | None:
        """What the first of the tags that is there and known says. Raises CrystalError where it
        says several things."""
        for tag in tags:
            if tag not in self._entries:
                continue
            texts = list(dict.fromkeys(self.texts(tag)))
            if len(texts) > 1:
                raise CrystalError(
                    f"{tag} says both {shown(texts[0])} and {shown(texts[1])}: one is needed"
                )
            if texts:
                return texts[0]
        return None

    def spelled(self, tag: str) -> str:
        """The tag as the file writes it."""
        return shown(self._entries[tag][0][0])


def canonical(tag: str) -> str:
    """A tag by its letters alone."""
    return tag.lower().replace(".", "_").replace("-", "_").rstrip("_")


def read_blocks(text: str) -> list[Block]:
    """The blocks of a text that list atoms. Raises CrystalError for text that is no CIF."""
    if len(text) > LONGEST_TEXT:
        raise CrystalError(f"a CIF of {len(text)} characters: at most {LONGEST_TEXT} are read")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = text.translate(_TYPOGRAPHY)
    try:
        blocks = _parsed(text)
    except (ValueError, RuntimeError) as error:
        raise CrystalError(f"not a CIF: {shown(_plain(str(error)))}") from None
    return [block for block in map(Block, blocks) if block.raw(ATOMS)]


def the_block(text: str) -> Block:
    """The one block of a text that lists atoms. Raises CrystalError if there is not exactly one."""
    blocks = read_blocks(text)
    if len(blocks) != 1:
        names = ", ".join(shown(block.name) for block in blocks[:3])
        raise CrystalError(
            f"the CIF holds {len(blocks)} lists of atoms with fractional coordinates"
            f"{f' (blocks {names})' if names else ''}: one is needed"
        )
    return blocks[0]


def number(text: str) -> float:
    """A CIF number, its uncertainty in brackets left out; NaN for other text."""
    return float(gemmi.cif.as_number(text))


def _parsed(text: str) -> Sequence[gemmi.cif.Block]:
    try:
        return list(gemmi.cif.read_string(text))
    except ValueError:
        if text.isascii():
            raise
        return list(gemmi.cif.read_string(re.sub("[^\x00-\x7f]", "_", text)))  # bare words


def _text(value: str) -> str:
    return str(gemmi.cif.as_string(value)).strip()


def _plain(message: str) -> str:
    """gemmi's message without the name that it gives to a text from memory."""
    return re.sub(r"^string:?", "line ", message)
