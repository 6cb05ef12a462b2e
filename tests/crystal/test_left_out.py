"""Kind 2, what vanishes: rows that hold no crystal are counted, said with reasons and kept."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path

import pytest

from nqs.cli.app import main
from nqs.crystal.datasets import tables
from nqs.crystal.datasets.data_config import DataConfig
from nqs.crystal.datasets.examples import examples
from nqs.crystal.datasets.splits import left_out_table, remarks
from nqs.crystal.datasets.tables import read_table
from nqs.crystal.structures.cif import cif_text
from nqs.crystal.structures.structure import CrystalError

TEXTS = [cif_text(record.structure) for record in examples()[::20]]
BROKEN = TEXTS[0].rstrip()[:-1] + "0.5\n"  # an occupancy
TINY = [
    *("model.d_model=8", "model.n_layers=1", "model.n_heads=1", "data.max_atoms=8"),
    *("optimizer.warmup_steps=0", "train.steps=2", "train.validate_every=2"),
]


def table(
    path: Path, texts: list[str], *, separator: str = ",", header: str = "material_id,cif"
) -> Path:
    lines = [header.replace(",", separator)]
    lines += [f'm-{index}{separator}"{text}"' for index, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n")
    return path


def crystal(*words: object) -> int:
    return main(["crystal", *map(str, words)])


def test_refused_rows_are_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Six of the rows hold no crystal; two crystals are too large to be written."""
    large = cif_text(next(r.structure for r in examples() if r.structure.n_atoms == 5))
    texts = TEXTS + [BROKEN] * 5 + ["no crystal"] + [large] * 2
    source = table(tmp_path / "t.csv", texts)
    tiny = [word for word in TINY if "max_atoms" not in word]
    words = [*tiny, "data.max_atoms=4", "data.canonical=false", f"data.train={source}"]
    assert crystal("train", *words, f"run.dir={tmp_path / 'run'}") == 0
    said = capsys.readouterr().out
    log = (tmp_path / "run/run.log").read_text()
    n_rows = len(texts)
    for text in (said, log):
        assert f"6 of {n_rows} rows hold no crystal:" in text
        assert "occupancy 0.5" in text and "and 1 more" in text
        assert "cannot be written:" in text
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["rows_without_a_crystal"] == 6
    with (tmp_path / "run" / summary["left_out"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 + summary["crystals_not_written"]
    n_used = summary["n_crystals"] + summary["n_validation"]
    n_test = round((n_rows - 6) * 0.1)
    assert abs(n_used + summary["crystals_not_written"] + n_test - (n_rows - 6)) <= 1
    assert [row["name"] for row in rows[:6]] == [
        f"m-{i}" for i in range(len(TEXTS), len(TEXTS) + 6)
    ]
    assert all(row["reason"] for row in rows)


def test_nothing_left_out_leaves_no_file(tmp_path: Path) -> None:
    assert crystal("train", *TINY, f"run.dir={tmp_path / 'run'}") == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["left_out"] is None and not (tmp_path / "run/left_out.csv").exists()


def test_one_bad_file_does_not_refuse_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(TEXTS[0])
    (tmp_path / "b.CIF").write_text(TEXTS[1])
    (tmp_path / "latin.cif").write_bytes(b"# caf\xe9\n" + TEXTS[2].encode())
    (tmp_path / "mark.cif").write_bytes(b"\xef\xbb\xbf" + TEXTS[3].encode())
    (tmp_path / "wide.cif").write_bytes(TEXTS[4].encode("utf-16"))
    (tmp_path / "packed.cif.gz").write_bytes(gzip.compress(TEXTS[5].encode()))
    (tmp_path / "two.cif").write_text(TEXTS[6] + TEXTS[7].replace("data_", "data_other_"))
    (tmp_path / "bad.cif").write_text("not a cif")
    (tmp_path / "binary.cif").write_bytes(bytes(range(256)))
    (tmp_path / "folder.cif").mkdir()
    os.mkfifo(tmp_path / "pipe.cif")
    (tmp_path / "dangling.cif").symlink_to(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("x")
    found = read_table(tmp_path)
    names = [record.name.split(":")[0] for record in found.records]
    assert names == ["a", "b", "latin", "mark", "packed", "two", "two", "wide"]
    reasons = {refusal.name: refusal.reason for refusal in found.refusals}
    assert set(reasons) == {"bad.cif", "binary.cif", "folder.cif", "pipe.cif", "dangling.cif"}
    assert all(str(tmp_path) not in reason for reason in reasons.values())
    assert found.notes["in the folder that is no CIF file and was not read"] == 1
    said = remarks(str(tmp_path), DataConfig(canonical=False))
    assert "5 of 13 rows hold no crystal:" in said[0]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", ["material_id,cif", "Material_ID,CIF", " id , Cif "])
def test_separators_and_headers(tmp_path: Path, separator: str, header: str) -> None:
    path = table(tmp_path / "t.csv", TEXTS[:3], separator=separator, header=header)
    assert [record.name for record in read_table(path).records] == ["m-0", "m-1", "m-2"]


@pytest.mark.parametrize(
    ("name", "packed"),
    [("T.CSV", False), ("t.tsv", False), ("t.csv.gz", True), ("T.CSV.GZ", True)],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_suffixes_and_encodings(tmp_path: Path, name: str, packed: bool, encoding: str) -> None:
    content = table(tmp_path / "x", [f"# \xe9tat\n{TEXTS[0]}"]).read_text().encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    assert len(read_table(tmp_path / name).records) == 1


def test_line_ends_of_other_systems(tmp_path: Path) -> None:
    content = table(tmp_path / "x", TEXTS[:2]).read_bytes()
    for number, end in enumerate((b"\r\n", b"\r")):
        path = tmp_path / f"{number}.csv"
        path.write_bytes(content.replace(b"\n", end))
        assert len(read_table(path).records) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"X;Y\n1;2\n", "no column cif, its columns are x;y"),
        (b"cif,cif\n1,2\n", "column cif twice"),
        (b"", "no column cif, its columns are none"),
        (b"cif\n", "holds no crystal"),
        (b'cif\n"unclosed\n', "holds no crystal"),
        (b"id,cif\na,b,c\n", "3 columns where the header has 2"),
        (b"id,cif\na\n", "1 columns where the header has 2"),
        (b"\0\1\2", "zero bytes"),
        (b"id,cif\n\x1b[31mred,\x1b[2Jx\n", r"\\x1b\[31mred"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(CrystalError, match=message) as caught:
        read_table(path)
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)


def test_rows_of_other_lengths_and_bad_numbers(tmp_path: Path) -> None:
    good, bad = TEXTS[0], "formation_energy_per_atom"
    path = tmp_path / "t.csv"
    path.write_text(
        f'id,cif,{bad},space_group\na,"{good}",1.5,225\nb,"{good}"\nc,"{good}",x,\nd,"{good}",,1e9\n'
    )
    found = read_table(path)
    assert [record.name for record in found.records] == ["a"]
    assert [refusal.name for refusal in found.refusals] == ["row 2", "c", "d"]


def test_a_column_that_contradicts_its_cif(tmp_path: Path) -> None:
    text = "data_x\n_cell_length_a 4\n_cell_length_b 4\n_cell_length_c 4\n"
    text += "_symmetry_Int_Tables_number 221\nloop_\n_atom_site_label\n_atom_site_fract_x\n"
    text += "_atom_site_fract_y\n_atom_site_fract_z\nPo1 0 0 0\n"
    (tmp_path / "t.csv").write_text(f'cif,space_group\n"{text}",221\n"{text}",225\n"{text}",\n')
    found = read_table(tmp_path / "t.csv")
    assert [record.conditions.space_group for record in found.records] == [221, 221]
    assert "225" in found.refusals[0].reason and "221" in found.refusals[0].reason


def test_decompression_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte that unpacks to a gigabyte is refused after the largest that is read."""
    monkeypatch.setattr(tables, "LARGEST", 2**20)
    for name in ("t.csv.gz", "t.cif.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"cif\n" + b"x" * 2**24))
        with pytest.raises(CrystalError, match="when decompressed"):
            read_table(tmp_path / name)
    (tmp_path / "t.csv").write_bytes(b"cif\n" + b"x" * 2**21)
    with pytest.raises(CrystalError, match=r"t\.csv: is larger than 1 MB"):
        read_table(tmp_path / "t.csv")
    monkeypatch.setattr(tables, "MOST_ROWS", 10)
    (tmp_path / "t.csv").write_bytes(b"cif\n" + b"x\n" * 20)
    with pytest.raises(CrystalError, match="more than 10 rows"):
        read_table(tmp_path / "t.csv")


def test_names_are_safe_to_print_and_to_write(tmp_path: Path) -> None:
    name = os.fsdecode(b"\x1b[31m\xff.cif")
    (tmp_path / name).write_text("nothing")
    (tmp_path / "good.cif").write_text(TEXTS[0])
    (refusal,) = read_table(tmp_path).refusals
    assert "\x1b" not in refusal.name
    from nqs.crystal.datasets.splits import LeftOut

    row = LeftOut(os.fsdecode(b"\xff"), refusal.name, "kind", refusal.reason)
    assert left_out_table([row]).encode()
