"""The section `data` of a training's configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Final

from nqs.crystal.tokens import TOKENISERS
from nqs.errors import require, require_choice

EXAMPLES: Final = "examples"
"""Name of the crystals that come with the package, in place of a table's path."""
CONDITIONS: Final = ("space_group", "formation_energy", "energy_above_hull", "composition")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Crystals, and what the model is asked about them."""

    train: str = EXAMPLES
    """Crystals to learn: a table (.csv, .csv.gz with a column cif), a CIF file, a folder of them,
    or examples, 361 ideal ionic crystals that come with the package."""
    validation: str | None = None
    """Table of crystals that judge; null splits data.train."""
    split: tuple[float, ...] = (0.8, 0.1, 0.1)
    """Shares of data.train for training, validation and test, in this order; they add up to 1 (only
    without data.validation)."""
    shuffle: bool = True
    """Bring data.train into a random order (the seed's) before it is split; false: file order."""
    grouped: bool = False
    """Keep crystals of one reduced formula in one part of the split, so that no formula is judged
    that was learnt (only without data.validation)."""
    canonical: bool = True
    """Write each crystal in its primitive Niggli-reduced cell, atoms by element and place; false:
    as the table has it."""
    tokeniser: str = "coordinate"
    """How a crystal is written as tokens: coordinate, wyckoff, character, cif, text or
    MODULE:CLASS."""
    max_atoms: Annotated[int, "1 .. 2000"] = 20
    """Most atoms in a cell, >= 1; larger crystals are left out."""
    conditions: tuple[str, ...] = ("composition",)
    """What samples can be asked for: composition, space_group, formation_energy, energy_above_hull,
    as far as the table knows it. The tokenisers coordinate, wyckoff and cif always write the
    composition."""
    condition_dropout: float = 0.5
    """Chance with which each condition is left out of a crystal in an epoch, in [0, 1]."""
    templates: Annotated[int, "0 .. 100"] = 0
    """Templates of each crystal, one of which is shown before it: the nearest other training
    crystals, their elements exchanged for its own, 0..100; 0: none."""
    template_dropout: float = 0.5
    """Chance with which a crystal is shown no template in an epoch, in [0, 1]."""
    infilling: float = 0.1
    """Share of crystals that ask for a hidden element instead, drawn anew each epoch, in [0, 1)."""
    translate: bool = False
    """Move each crystal by a random vector each epoch: an exact shift of its coordinate tokens."""
    permute: bool = False
    """Write the atoms of each crystal in a new random order each epoch; false: by element and
    place (data.canonical) or as the table has them."""
    equivalents: bool = False
    """Write each crystal in a random one of its equivalent descriptions each epoch (other axes,
    origin, atoms of an orbit); false: in the canonical one. Only data.tokeniser=wyckoff has any."""
    features: bool = True
    """Let tokens share what is known of them (sizes of numbers, places in the periodic table, kinds
    of space groups), where the tokeniser knows any: coordinate, wyckoff; false: a row each."""
    batch_tokens: Annotated[int, "1 .. 10000000"] = 2048
    """Tokens of a batch, padding included, >= 1 (and at least one crystal)."""
    workers: Annotated[int, "1 .. 256"] = 1
    """Processes that bring the crystals of a table into their canonical cells, 4 ms each, and write
    them (data.tokeniser=wyckoff, 10 ms each), >= 1."""

    def __post_init__(self) -> None:
        TOKENISERS.find(self.tokeniser)
        rule = "give three shares >= 0 that add up to 1, the first two > 0, e.g. [0.8,0.1,0.1]"
        valid = len(self.split) == 3 and min(self.split) >= 0 and min(self.split[:2]) > 0
        require(valid and math.isclose(sum(self.split), 1), "data.split", self.split, rule)
        for name in self.conditions:
            require_choice("data.conditions", name, CONDITIONS)
        rule = "each condition at most once"
        require(len({*self.conditions}) == len(self.conditions), "data.conditions",
                self.conditions, rule)  # fmt: skip
        for name in ("condition_dropout", "template_dropout"):
            chance = getattr(self, name)
            require(0 <= chance <= 1, f"data.{name}", chance, "must be in [0, 1]")
        alone = self.validation is None or not self.grouped
        require(alone, "data.grouped", "true", "splits data.train: leave data.validation out")
        require(0 <= self.infilling < 1, "data.infilling", self.infilling, "must be in [0, 1)")
