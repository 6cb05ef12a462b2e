"""What is kept on disk of a table: bit for bit what is computed, never trusted when in doubt."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nqs.crystal.datasets import cache, canonical_table
from nqs.crystal.datasets.cache import Content
from nqs.crystal.datasets.examples import examples
from nqs.crystal.datasets.tables import Table
from nqs.crystal.structures.cif import cif_text
from nqs.runfolder.digests import sealed


def same(one: Table, other: Table) -> bool:
    """Bit for bit."""

    def plain(table: Table) -> list:
        rows = []
        for record in table.records:
            s = record.structure
            arrays = [a.tobytes() for a in (s.lengths, s.angles, s.numbers, s.positions)]
            rows.append((record.name, arrays, record.conditions))
        return [rows, table.refusals, table.notes]

    return plain(one) == plain(other)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve crystals with energies, two rows that hold none, worth keeping."""
    monkeypatch.setattr(canonical_table, "FEWEST", 10)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    (tmp_path / "data").mkdir()
    rows = ["id,formation_energy_per_atom,e_above_hull,space_group,cif"]
    for i, record in enumerate(examples()[::31]):
        known = f"{-i / 7!r},," if i % 2 else f",{i / 3!r},{record.conditions.space_group or ''}"
        rows.append(f'm-{i},{known},"{cif_text(record.structure)}"')
    rows += ['bad-1,,,,"no crystal"', 'bad-2,x,,,"no crystal"']
    path = tmp_path / "data" / "table.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def kept_file(table: Path) -> Path:
    return table.parent / "nqs_cache" / "table.csv.canonical"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for each time that a table is read and reduced."""
    times: list[str] = []
    original = canonical_table._reduced_table

    def counted(path: str, table: Table, workers: int) -> Table:
        times.append(path)
        return original(path, table, workers)

    monkeypatch.setattr(canonical_table, "_reduced_table", counted)
    return times


def test_the_kept_table_is_the_computed_one(table: Path, computed: list[str]) -> None:
    first = canonical_table.canonical_table(str(table))
    assert len(first.records) == 12 and len(first.refusals) == 2
    assert any(r.conditions.formation_energy == -3 / 7 for r in first.records)
    again = canonical_table.canonical_table(str(table))
    assert computed == [str(table)]
    assert same(first, again)
    files = [file.name for file in kept_file(table).parent.iterdir()]
    assert files == ["table.csv.canonical"], "one file, no temporaries"


def test_same_can_say_no(table: Path) -> None:
    first = canonical_table.canonical_table(str(table))
    moved = Table([*first.records], first.refusals, first.notes)
    moved.records[3] = canonical_table.of_cell(
        moved.records[3], moved.records[3].structure.shifted([1e-15, 0, 0])
    )
    assert not same(first, moved)
    assert not same(first, Table(first.records, first.refusals[:1], first.notes))
    assert not same(first, Table(first.records, first.refusals, Counter({"x": 1})))


def test_another_content_or_another_code_is_computed_anew(
    table: Path,
    computed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    canonical_table.canonical_table(str(table))
    table.write_text(table.read_text().replace("m-3", "m-4"))
    changed = canonical_table.canonical_table(str(table))
    assert len(computed) == 2 and [r.name for r in changed.records].count("m-4") == 2
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "of another table or another version; computed anew" in said
    monkeypatch.setattr(cache, "_library_version", lambda name: "9.9")
    canonical_table.canonical_table(str(table))
    assert len(computed) == 3 and capsys.readouterr().out.count("\n") == 1
    canonical_table.canonical_table(str(table))
    assert len(computed) == 3 and capsys.readouterr().out == ""


def test_the_version_is_that_of_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    names = canonical_table.SOURCES
    before = cache.code_version(names, ())
    assert before != cache.code_version(names[:2], ())
    assert before != cache.code_version(names, ("numpy",))
    original = cache._source_digest
    for changed in names:
        monkeypatch.setattr(
            cache, "_source_digest", lambda s, c=changed: original(s) + b"x" * (s == c)
        )
        assert before != cache.code_version(names, ())


def test_flipped_bits_are_noticed(
    table: Path, computed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = canonical_table.canonical_table(str(table))
    file, dice = kept_file(table), random.Random(0)
    content = file.read_bytes()
    key = json.loads(content.partition(b"\n")[0])["key"]
    assert cache.read(file, key, canonical_table.unpacked) is not None
    for _ in range(200):
        flipped = bytearray(content)
        flipped[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        file.write_bytes(flipped)
        assert cache.read(file, key, canonical_table.unpacked) is None
        said = capsys.readouterr().out
        assert said.count("\n") == 1 and len(said) <= 401
        assert said.startswith("note: ") and said.endswith("; computed anew\n")
    assert same(first, canonical_table.canonical_table(str(table))) and len(computed) == 2


def resealed(file: Path, old: bytes, new: bytes) -> None:
    """Changes what is under the seal, and seals it again: somebody else's file."""
    content = file.read_bytes()[: -cache.SEAL]
    assert old in content
    file.write_bytes(sealed(content.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"format": "nqs crystal cache 1"', b'"format": "nqs crystal cache 0"'),
        (b'"cells"', b'"walls"'),
        (b'"<f8"', b'"|O8"'),
        (b'"<f8"', b'"<i8"'),
        (b'"names": ["m-0", ', b'"names": ['),
        (b'"names": ["m-0", ', b'"names": [{"a": '),
        (b'"refusals": [[', b'"refusals": [[["x"], '),
        (b'"notes"', b'"nodes"'),
        (b'"key"', b'"kee"'),
        (b'{"format"', b'["format"'),
        (b"[12, 6]", b"[6, 12]"),
        (b"[12, 6]", b"[-12, 6]"),
        (b"[12, 6]", b"[1e9, 6]"),
        (b"[12, 6]", b"[99999999999, 6]"),
        (b"}\n", b"}\n" + bytes(8)),
        (b"}\n", b"}\n" + np.array([-1.0] * 3).tobytes()),
    ],
)
def test_a_file_of_somebody_else_is_not_trusted(
    old: bytes,
    new: bytes,
    table: Path,
    computed: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = canonical_table.canonical_table(str(table))
    resealed(kept_file(table), old, new)
    assert same(first, canonical_table.canonical_table(str(table)))
    said = capsys.readouterr().out
    assert len(computed) == 2 and said.count("\n") == 1 and "\x1b" not in said
    assert same(first, canonical_table.canonical_table(str(table))) and len(computed) == 2


@pytest.mark.parametrize("what", ["empty", "folder", "fifo", "link", "cut", "text"])
def test_whatever_lies_there(
    what: str, table: Path, computed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = canonical_table.canonical_table(str(table))
    file = kept_file(table)
    content = file.read_bytes()
    file.unlink()
    if what == "folder":
        file.mkdir()
    elif what == "fifo":
        os.mkfifo(file)
    elif what == "link":
        file.symlink_to(table.parent / "nowhere")
    else:
        file.write_bytes({"empty": b"", "cut": content[:-100], "text": b"dear reader"}[what])
    assert same(first, canonical_table.canonical_table(str(table)))
    lines = capsys.readouterr().out.splitlines()
    assert "computed anew" in lines[0]
    assert len(lines) == (2 if what == "folder" else 1)  # a folder cannot be replaced
    assert len(computed) == 2


def test_a_read_only_folder(table: Path, computed: list[str], tmp_path: Path) -> None:
    table.parent.chmod(0o555)
    try:
        for _ in range(2):
            canonical_table.canonical_table(str(table))
        assert sorted(file.name for file in table.parent.iterdir()) == ["table.csv"]
    finally:
        table.parent.chmod(0o755)
    (file,) = (tmp_path / "xdg/nqs/crystals").iterdir()
    assert file.name.endswith("-table.csv.canonical") and len(computed) == 1


def test_what_cannot_be_kept_is_said(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write_bytes", full)
    assert len(canonical_table.canonical_table(str(table)).records) == 12
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "not kept (No space left on device)" in said


def test_small_tables_leave_nothing_behind(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical_table, "FEWEST", 15)
    canonical_table.canonical_table(str(table))
    assert [file.name for file in table.parent.iterdir()] == ["table.csv"]


def test_a_table_that_changes_while_it_is_read_is_not_kept(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = canonical_table.read_table

    def slow(path: str) -> Table:
        found = original(path)
        table.write_text(table.read_text().replace("m-3", "m-5"))
        return found

    monkeypatch.setattr(canonical_table, "read_table", slow)
    canonical_table.canonical_table(str(table))
    assert not kept_file(table).exists()


def test_content_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"a": rng.random((3, 4)), "b": np.arange(5), "c": np.arange(6, dtype=np.uint8)}
    notes = {"text": "a\ud800\n\x00b", "deep": [1, {"x": None}]}
    cache.write(tmp_path / "f", "key", Content(arrays, notes))
    found = cache.read(tmp_path / "f", "key", lambda content: content)
    assert found is not None and json.dumps(found.notes) == json.dumps(notes)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype


def test_fingerprints_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same to the last bit; only crystals that are new are computed, and one that differs in
    its last bit is."""
    from nqs.crystal.metrics import coverage

    computed: list[str] = []
    original = coverage._fingerprint

    def counted(sample):
        computed.append(sample.formula)
        return original(sample)

    monkeypatch.setattr(coverage, "_fingerprint", counted)
    monkeypatch.setattr(coverage, "FEWEST", 1)
    crystals = [record.structure for record in examples()[:160:40]]
    file = tmp_path / "deep" / "fingerprints"

    def check(chosen, n_new: int) -> None:
        computed.clear()
        found = coverage.fingerprints(chosen, file=file)
        assert len(computed) == n_new
        plain = coverage.fingerprints(chosen)
        assert found.structures.tobytes() == plain.structures.tobytes()
        assert found.compositions.tobytes() == plain.compositions.tobytes()

    check(crystals[:3], 3)
    check([crystals[2], crystals[0], crystals[0]], 0)
    check(crystals, 1)
    nudged = crystals[0].positions + np.spacing(0.5)
    moved = type(crystals[0])(crystals[0].lengths, crystals[0].angles, crystals[0].numbers, nudged)
    check([moved], 1)
    capsys.readouterr()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    check(crystals, 4)
    assert capsys.readouterr().out.count("computed anew\n") == 1
    monkeypatch.setattr(cache, "_library_version", lambda name: "9.9")
    check(crystals, 4)
    assert "of another table or another version" in capsys.readouterr().out
