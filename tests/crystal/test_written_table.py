"""The kept tokens of a table: those that are computed, and never trusted when in doubt."""

from __future__ import annotations

from pathlib import Path

import pytest

from nqs.crystal.datasets import written_table
from nqs.crystal.datasets.canonical_table import canonical_table
from nqs.crystal.datasets.examples import examples
from nqs.crystal.datasets.written_table import bodies
from nqs.crystal.structures.cif import cif_text
from nqs.crystal.structures.structure import CrystalError
from nqs.crystal.tokens import make_tokeniser

TOKENISER = make_tokeniser("wyckoff", 3)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve crystals, some too large to be written."""
    monkeypatch.setattr(written_table, "FEWEST", 10)
    rows = [f'm-{i},"{cif_text(r.structure)}"' for i, r in enumerate(examples()[::31])]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["id,cif", *rows]) + "\n")
    return path


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for each crystal that is written."""
    lines: list[str] = []
    original = written_table._body

    def counted(tokeniser, record):
        lines.append(record.name)
        return original(tokeniser, record)

    monkeypatch.setattr(written_table, "_body", counted)
    return lines


def test_kept_tokens_are_the_computed_ones(table: Path, computed: list[str]) -> None:
    records = canonical_table(str(table)).records
    first = bodies(str(table), records, TOKENISER)
    assert bodies(str(table), records, TOKENISER) == first and len(computed) == len(records)
    assert {type(body) for body in first} == {tuple, str}  # some have more than three atoms
    for record, body in zip(records, first, strict=True):
        if isinstance(body, str):
            with pytest.raises(CrystalError, match="at most 3 are written"):
                TOKENISER.encode(record.structure)
        else:
            assert list(body) == TOKENISER.encode(record.structure)


def test_others_are_computed_anew(
    table: Path, computed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """For another number of atoms, another table, a damaged file; and where the crystals are not
    canonical nothing is kept or used."""
    records = canonical_table(str(table)).records
    expected = bodies(str(table), records, TOKENISER)
    bodies(str(table), records, make_tokeniser("wyckoff", 2))
    assert len(computed) == 2 * len(records)
    kept = table.parent / "nqs_cache" / "table.csv.wyckoff-3"
    content = kept.read_bytes()
    kept.write_bytes(content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])
    assert bodies(str(table), records, TOKENISER) == expected
    assert "computed anew" in capsys.readouterr().out and len(computed) == 3 * len(records)
    with table.open("a") as file:
        file.write("\n")
    assert bodies(str(table), records, TOKENISER) == expected
    assert len(computed) == 4 * len(records)
    bodies(str(table), records, TOKENISER, keep=False)
    assert len(computed) == 5 * len(records)


def test_a_file_of_another_number_of_crystals_is_not_used(table: Path, computed: list[str]) -> None:
    records = canonical_table(str(table)).records
    bodies(str(table), records, TOKENISER)
    fewer = bodies(str(table), records[:-1], TOKENISER)
    assert len(fewer) == len(records) - 1 and len(computed) == 2 * len(records) - 1
