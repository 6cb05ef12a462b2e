"""CIF files in every style that is met: right (formula, density, space group) or refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from cif_styles import (
    PROTOTYPES,
    READ,
    REFUSED,
    Prototype,
    files,
)
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice
from pymatgen.core import Structure as TheirStructure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from nqs.crystal.structures.cif import read_cif
from nqs.crystal.structures.elements import symbol
from nqs.crystal.structures.structure import CrystalError, Structure

CAMPAIGN = list(files(seed=20240))


def theirs(structure: Structure) -> TheirStructure:
    lattice = Lattice.from_parameters(*structure.lengths, *structure.angles)
    symbols = [symbol(number) for number in structure.numbers.tolist()]
    return TheirStructure(lattice, symbols, structure.positions)


def group_of(structure: TheirStructure) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls spglib in the old way
        return SpacegroupAnalyzer(structure, symprec=0.01).get_space_group_number()


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def in_turn(styles: Iterable[str]) -> list[ParameterSet]:
    """Each style with two crystals, each crystal with as many styles."""
    n = len(PROTOTYPES)
    return [
        pytest.param(style, p, id=f"{style}-{p.name}")
        for i, style in enumerate(styles)
        for p in (PROTOTYPES[i % n], PROTOTYPES[(i + 3) % n])
    ]


def test_the_campaign_is_large() -> None:
    assert len(READ) >= 40 and len(REFUSED) >= 12
    assert len(CAMPAIGN) == len(PROTOTYPES) * (len(READ) + len(REFUSED))
    assert len(in_turn(READ)) + len(in_turn(REFUSED)) >= 100


@pytest.mark.parametrize(("style", "prototype"), in_turn(READ))
def test_read_right(style: str, prototype: Prototype, tmp_path: Path) -> None:
    content = next(c for name, p, c, _ in CAMPAIGN if (name, p) == (style, prototype))
    found = read_cif(written(tmp_path / "a.cif", content))
    truth = prototype.whole()
    atoms = {symbol(number): count for number, count in found.composition.items()}
    assert atoms == prototype.composition
    assert found.density == pytest.approx(truth.density, rel=1e-3)
    assert group_of(theirs(found)) == prototype.group.number
    assert StructureMatcher(primitive_cell=False, stol=0.05).fit(theirs(found), truth)


@pytest.mark.parametrize(("style", "prototype"), in_turn(REFUSED))
def test_refused_with_a_reason(style: str, prototype: Prototype, tmp_path: Path) -> None:
    content = next(c for name, p, c, _ in CAMPAIGN if (name, p) == (style, prototype))
    with pytest.raises(CrystalError) as caught:
        read_cif(written(tmp_path / "a.cif", content))
    reason = str(caught.value)
    assert "a.cif: " in reason and "\n" not in reason and len(reason) < 400 + len(str(tmp_path))
