"""The table of tokenisers: its commands run in this process, on a few small crystals."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest

pytest.importorskip("spglib")

from benchmarks import crystal_tokenisers
from nqs.cli.app import main
from nqs.crystal.datasets.examples import examples
from nqs.crystal.structures.cif import cif_text

TINY = ["model.d_model=8", "model.n_layers=1", "model.n_heads=2", "data.max_atoms=4"]
TINY += ["optimizer.warmup_steps=2"]


def write_table(path: Path, first: int) -> Path:
    known = [record for record in examples() if record.structure.n_atoms <= 4][first::2]
    rows = [f'{record.name},"{cif_text(record.structure)}"' for record in known[:12]]
    path.write_text("\n".join(["id,cif", *rows]) + "\n")
    return path


def test_a_row_is_what_the_runs_in_its_folder_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def in_this_process(*words: object) -> float:
        started = time.perf_counter()
        assert main(["crystal", *map(str, words)]) == 0
        return time.perf_counter() - started

    monkeypatch.setattr(crystal_tokenisers, "nqs", in_this_process)
    monkeypatch.setattr(crystal_tokenisers, "FEWEST", 12)
    monkeypatch.setattr(crystal_tokenisers, "TRIAL", 11)
    tables = [str(write_table(tmp_path / f"{i}.csv", i)) for i in range(2)]
    words = ["--minutes", "1e-5", "--draws", "12", "--guesses", "2", "--out", str(tmp_path)]
    names = ["wyckoff", "coordinate"]
    crystal_tokenisers.main([*tables, *words, *TINY, "--tokenisers", *names])
    assert capsys.readouterr().out.splitlines()[-2].startswith("wyckoff")
    with (tmp_path / "crystal_tokenisers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["tokeniser"] for row in rows] == names
    for name, row in zip(names, rows, strict=True):
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert int(row["steps"]) == summary["steps"] == crystal_tokenisers.FEWEST
        assert float(row["nats"]) == summary["nats_per_crystal"]
        assert float(row["tokens"]) == summary["n_tokens"] / summary["n_crystals"]
        assert 0 < float(row["seconds"]) < summary["wall_seconds"]
        for part, key in (("free", "structural"), ("guesses", "match_rate")):
            content = json.loads((tmp_path / name / part / "evaluation.json").read_text())
            assert float(row[key]) == next(iter(content["columns"].values()))[key]
        assert not (tmp_path / f"trial-{name}").exists()
