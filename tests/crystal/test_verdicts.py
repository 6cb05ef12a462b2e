"""A verdict for every crystal: by hand, and an evaluation's totals from the written rows alone."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from prototypes import caesium_chloride, cubic, rock_salt, rock_salt_primitive

from nqs.cli.app import main
from nqs.crystal.commands import generation_run
from nqs.crystal.datasets.examples import examples
from nqs.crystal.metrics.matching import Matcher
from nqs.crystal.metrics.verdicts import Judge, Verdict, totals
from nqs.crystal.structures.cif import cif_text

for library in ("pymatgen", "smact", "spglib"):
    pytest.importorskip(library)

TINY = [
    *("model.d_model=8", "model.n_layers=1", "model.n_heads=1", "data.max_atoms=8"),
    *("optimizer.warmup_steps=0", "train.steps=4", "train.validate_every=2"),
]
OVERLAPPING = cubic(4.0, [11, 17], [[0, 0, 0], [0.01, 0, 0]])
NOT_NEUTRAL = cubic(4.0, [11, 17, 17], [[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]])
SMALL = cubic(0.45, [11], [[0, 0, 0]])
Line = dict[str, str]


def crystal(*words: object) -> int:
    return main(["crystal", *map(str, words)])


def test_by_hand() -> None:
    samples = [rock_salt(), None, OVERLAPPING, NOT_NEUTRAL, SMALL, rock_salt_primitive(6.0),
               caesium_chloride(), rock_salt(6.9, 55)]  # fmt: skip
    judge = Judge(Matcher())
    train = [caesium_chloride(3.6), rock_salt(6.4, 37)]
    rows = judge.compared(samples, judge.alone(samples), train, [rock_salt(5.0)])
    assert [row.valid for row in rows] == [True, False, False, False, False, True, True, True]
    groups = [row.space_group for row in rows]
    assert groups[:2] + groups[5:] == [225, None, 225, 221, 225]
    assert rows[1].reason == "no crystal" and rows[0].reason == ""
    assert rows[2].reason == "atoms 0.040 Angstrom apart, at least 0.5"
    assert rows[3].reason == "no neutral oxidation states in smact14"
    assert rows[4].reason.startswith("a cell of 0.0911 Angstrom^3")
    assert [row.same_as for row in rows] == [0, None, None, None, None, 0, 6, 7]
    assert [row.unique for row in rows] == [True, None, None, None, None, False, True, True]
    assert [row.novel for row in rows] == [True, None, None, None, None, True, False, True]
    assert [row.nearest for row in rows] == [0, None, None, None, None, 0, 0, 1]
    ratios = [row.volume_ratio for row in rows if row.nearest is not None]
    given = [samples[i] for i in (0, 5, 6, 7)]
    sizes = [3.6**3 / 2, 3.6**3 / 2, 3.6**3 / 2, 6.4**3 / 8]
    expected = [s.volume / s.n_atoms / size for s, size in zip(given, sizes, strict=True)]
    np.testing.assert_allclose(ratios, expected)
    assert [row.matched for row in rows] == [True, None, None, None, None, True, False, False]
    assert [row.reference for row in rows] == [0, None, None, None, None, 0, None, None]
    found = totals(rows)
    assert found["n_samples"] == 8 and found["valid"] == 0.5 and found["n_compared"] == 4
    assert (found["unique"], found["novel"], found["unique_and_novel"]) == (0.75, 0.75, 0.5)
    assert found["rediscovered"] == 0.5


def test_what_is_not_looked_at_is_not_counted() -> None:
    row = Verdict("NaCl", 225, True, True, "")
    assert all(math.isnan(totals([row])[name]) for name in ("unique", "novel", "rediscovered"))
    row = Verdict("NaCl", 225, True, True, "", same_as=0, unique=True)
    assert totals([row])["unique"] == 1 and math.isnan(totals([row])["unique_and_novel"])
    assert all(math.isnan(totals([row])[name]) for name in ("novel", "rediscovered"))
    judge = Judge(Matcher(), at_most=0)
    assert judge.compared([rock_salt()], judge.alone([rock_salt()]), None)[0].unique is None
    few = Judge(Matcher(), at_most=3)
    samples = [rock_salt(5.0 + 0.1 * i) for i in range(8)]
    rows = few.compared(samples, few.alone(samples), [rock_salt()])
    compared = [i for i, row in enumerate(rows) if row.unique is not None]
    assert len(compared) == 3 and [rows[i].unique for i in compared] == [True, False, False]
    assert {rows[i].same_as for i in compared} == {compared[0]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learnt little, on a table with duplicates of some crystals."""
    folder = tmp_path_factory.mktemp("made")
    chosen = [*examples()[::6], *examples()[::30]]
    rows = [f'm-{i},"{cif_text(r.structure)}"' for i, r in enumerate(chosen)]
    (folder / "table.csv").write_text("\n".join(["id,cif", *rows]) + "\n")
    words = [*TINY, f"data.train={folder / 'table.csv'}", f"run.dir={folder / 'run'}"]
    assert crystal("train", *words) == 0
    return folder / "run"


def lines(path: Path) -> list[Line]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def share(rows: list[Line], *columns: str) -> float:
    """Rows in which all the columns say 1, of those in which they say anything."""
    known = [row for row in rows if all(row[column] != "" for column in columns)]
    return sum(all(row[c] == "1" for c in columns) for row in known) / len(known)


def mean(values: list[str], missing: float | None = None) -> float:
    """Of those that are given, or with `missing` for the others."""
    numbers = [float(v) if v else missing for v in values if v or missing is not None]
    return sum(numbers) / len(numbers) if numbers else math.nan


def evaluation(folder: Path) -> dict[str, Any]:
    """evaluation.json, whose digests are those of the rows."""
    content = json.loads((folder / "evaluation.json").read_text())
    for name, digest in content["rows"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    return content


def planted(folder: Path, crystals: dict[int, str]) -> None:
    """Other crystals in the place of some that were drawn, so that there is something to find."""
    for number, text in crystals.items():
        (folder / f"cif/{number:06d}.cif").write_text(text)
    (folder / "SHA256SUMS").unlink()


def test_totals_of_samples_are_sums_of_rows(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert crystal("generate", run, "n=12", "seed=1", f"out={out}") == 0
    known = cif_text(examples()[0].structure)
    planted(out, {1: known, 4: known, 5: cif_text(NOT_NEUTRAL), 7: cif_text(OVERLAPPING), 8: "x"})
    assert crystal("evaluate", out, "at_most=8") == 0
    content = evaluation(out)
    ours = content["columns"]["samples"]
    rows = lines(out / "verdicts.csv")
    assert [row["file"] for row in rows] == [row["file"] for row in lines(out / "samples.csv")]
    assert [*content["rows"]] == ["verdicts.csv"]
    assert_allclose(ours["structural"], share(rows, "valid_structure"))
    assert_allclose(ours["compositional"], share(rows, "valid_composition"))
    assert_allclose(ours["valid"], share(rows, "valid"))
    assert ours["n_samples"] == len(rows) == 12
    compared = [row for row in rows if row["unique"]]
    assert 0 < ours["n_compared"] == len(compared) <= 8
    assert_allclose(ours["unique"], share(rows, "unique"))
    assert_allclose(ours["novel"], share(rows, "novel"))
    assert_allclose(ours["unique_and_novel"], share(rows, "unique", "novel"))
    assert_allclose(ours["rediscovered"], share(rows, "matched"))
    for row in rows:
        valid = row["valid_structure"] == row["valid_composition"] == "1"
        assert (row["valid"] == "1") == valid == (row["reason"] == "")
        assert (row["unique"] == "1") == (bool(row["unique"]) and row["same_as"] == row["file"])
        assert (row["novel"] == "") == (row["nearest"] == "") == (row["element_distance"] == "")
        if row["novel"] == "0":
            assert float(row["element_distance"]) == 0 and float(row["displacement"]) < 0.5
        assert (row["matched"] == "1") == bool(row["reference"]) == bool(row["rmse"])
    by_file = {row["file"]: row for row in rows}
    assert by_file["cif/000008.cif"]["reason"] == "no crystal"
    assert 0 < ours["valid"] < 1


def test_totals_of_matches_are_sums_of_rows(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert crystal("generate", run, "n=3", "like=test", "limit=5", f"out={out}") == 0
    asked = lines(out / "samples.csv")
    by_formula = {r.structure.formula: cif_text(r.structure) for r in examples()}
    planted(
        out,
        {k: by_formula[asked[k - 1]["asked_formula"]] for k in (2, 4, 12)} | {5: "no crystal"},
    )
    assert crystal("evaluate", out, "n=[1,2,3]") == 0
    content = evaluation(out)
    stol = content["settings"]["stol"]
    references, verdicts = lines(out / "references.csv"), lines(out / "verdicts.csv")
    assert {row["column"] for row in references} == {*content["columns"]}
    assert any(name.startswith("nearest template") for name in content["columns"])
    for name, ours in content["columns"].items():
        rows = [row for row in references if row["column"] == name]
        assert ours["n_references"] == len(rows) == 5
        matched = [row["rmse"] for row in rows]
        assert_allclose(ours["match_rate"], sum(map(bool, matched)) / 5)
        assert_allclose(math.nan if ours["rmse"] is None else ours["rmse"], mean(matched))
        assert_allclose(ours["own_crmse"], mean(matched, stol))
        valid = sum(bool(row["valid_rmse"]) for row in rows)
        assert_allclose(ours["valid_match_rate"], valid / 5)
        assert_allclose(ours["rate_of_valid"], valid / sum(row["valid"] == "1" for row in rows))
        assert_allclose(ours["metre"], sum(bool(row["metre_rmse"]) for row in rows) / 5)
        assert_allclose(ours["crmse"], mean([row["metre_rmse"] for row in rows], stol))
        assert_allclose(ours["valid_crmse"], mean([r["valid_metre_rmse"] for r in rows], stol))
        assert ours["n_guesses"] == sum(int(row["n_guesses"]) for row in rows)
    assert content["columns"]["guesses, n=3"]["match_rate"] >= 0.6
    for n in (1, 2, 3):  # the rows of the references from those of the guesses
        rows = [row for row in references if row["column"] == f"guesses, n={n}"]
        for request, row in enumerate(rows):
            own = [v for v in verdicts if v["request"] == str(request)][:n]
            found = [float(v["rmse"]) for v in own if v["matched"] == "1"]
            assert bool(found) == bool(row["rmse"])
            if found:
                assert min(found) == float(row["rmse"]) == found_at(own, row["guess"])
            assert {v["reference"] for v in own} == {row["reference"]}


def found_at(rows: list[Line], guess: str) -> float:
    return float(rows[int(guess) - 1]["rmse"])


def test_samples_hold_the_verdicts_of_the_evaluation(run: Path, tmp_path: Path) -> None:
    """What generate writes is what evaluate finds (but for self-images, in samples of a table)."""
    for name, words in {"free": ["n=9"], "like": ["n=2", "like=test", "limit=4"]}.items():
        out = tmp_path / name
        assert crystal("generate", run, *words, f"out={out}") == 0
        assert crystal("evaluate", out, "baselines=false") == 0
        samples, rows = lines(out / "samples.csv"), lines(out / "verdicts.csv")
        compared = ["valid", "reason", "unique", "same_as", "novel", "nearest", "space_group"]
        compared += ["matched", "reference"] if name == "like" else []
        for column in compared:
            assert [row[column] for row in samples] == [row[column] for row in rows], column
        assert any(row["nearest"].startswith("m-") for row in rows)


def test_generation_without_its_table_says_nothing_of_novelty(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = run.parent / "table.csv"
    content = table.read_bytes()
    try:
        table.write_bytes(content[:-1] + b" \n")
        capsys.readouterr()
        assert crystal("generate", run, "n=4", f"out={tmp_path / 'out'}") == 0
    finally:
        table.write_bytes(content)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("note: samples.csv says nothing of novelty: data.train=")
    rows = lines(tmp_path / "out/samples.csv")
    assert {row["novel"] for row in rows} == {row["nearest"] for row in rows} == {""}
    assert any(row["unique"] for row in rows)
    assert crystal("evaluate", tmp_path / "out") == 0


def test_fewer_comparisons_do_not_change_the_crystals(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["generate", run, "n=6", "seed=2"]
    assert crystal(*words, f"out={tmp_path / 'all'}") == 0
    with monkeypatch.context() as patched:
        patched.setattr(generation_run, "split", None)  # the training table is not read
        assert crystal(*words, "at_most=0", f"out={tmp_path / 'none'}") == 0
    every, none = lines(tmp_path / "all/samples.csv"), lines(tmp_path / "none/samples.csv")
    for column in ("file", "formula", "log_likelihood", "valid", "reason", "space_group"):
        assert [row[column] for row in every] == [row[column] for row in none]
    assert {row["unique"] for row in none} == {""} != {row["unique"] for row in every}


def test_rows_of_another_evaluation_do_not_stay(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert crystal("generate", run, "n=1", "like=test", "limit=3", f"out={out}") == 0
    assert crystal("evaluate", out, "baselines=false") == 0
    assert (out / "references.csv").exists()
    assert crystal("evaluate", out, "baselines=false", "against=validation") == 0
    assert not (out / "references.csv").exists()
    assert [*evaluation(out)["rows"]] == ["verdicts.csv"]


def test_an_interrupted_evaluation_leaves_the_samples_as_they_were(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ended between two of its files: the digests tell, and the next evaluation is whole."""
    from nqs.crystal.commands import evaluation_run

    out = tmp_path / "out"
    assert crystal("generate", run, "n=5", f"out={out}") == 0
    assert crystal("evaluate", out, "baselines=false") == 0
    before = (out / "evaluation.json").read_bytes()
    original = evaluation_run.write_text

    def full(path: Path, text: str) -> None:
        if path.name == "evaluation.csv":
            raise OSError(28, "No space left on device")
        original(path, text)

    with monkeypatch.context() as patched:
        patched.setattr(evaluation_run, "write_text", full)
        assert crystal("evaluate", out, "baselines=false", "at_most=2") == 2
    assert "No space left" in capsys.readouterr().err
    assert (out / "evaluation.json").read_bytes() == before
    digest = json.loads(before)["rows"]["verdicts.csv"]
    assert hashlib.sha256((out / "verdicts.csv").read_bytes()).hexdigest() != digest
    assert crystal("evaluate", out, "baselines=false") == 0
    assert (out / "evaluation.json").read_bytes() == before
    evaluation(out)


def test_names_that_somebody_has_chosen(run: Path, tmp_path: Path) -> None:
    """Line ends, commas and control characters in the names of training crystals."""
    folder = tmp_path / "copy"
    shutil.copytree(run.parent, folder)
    lines_ = ["id,cif"] + [
        f'"=1,\u2028\x1b[31m{i}\r","{cif_text(r.structure)}"'
        for i, r in enumerate(examples()[::20])
    ]
    (folder / "table.csv").write_text("\n".join(lines_) + "\n", encoding="utf-8")
    words = [*TINY, f"data.train={folder / 'table.csv'}", f"run.dir={folder / 'again'}"]
    assert crystal("train", *words) == 0
    assert crystal("generate", folder / "again", "n=4", f"out={folder / 'out'}") == 0
    assert crystal("evaluate", folder / "out", "baselines=false") == 0
    content = (folder / "out/samples.csv").read_text(encoding="utf-8")
    assert "\x1b" not in content and "\u2028" not in content and r"\u2028\x1b[31m" in content
