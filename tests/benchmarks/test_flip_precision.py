"""The table of rounded flips: z is bias over error, full is exact to float32, old runs are read."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from benchmarks import flip_precision, step_time
from nqs.cli.train import load_config
from nqs.ground_states.run import run

SMALL = ["train.steps=3", "train.n_samples=32", "train.eval_samples=16", "model.d_model=8"]


def test_rows_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    words = ["lattice.Lx=2", "lattice.Ly=3", "model.patch=2", *SMALL, f"run.dir={folder}"]
    assert run(load_config(words), ["python", "train.py"]) == 0
    arguments = [str(folder), "--samples", "200", "--timed", "8", "--repeats", "1"]
    assert flip_precision.main([*arguments, "--out", str(tmp_path)]) == 0
    with (tmp_path / "flip_precision.csv").open() as file:
        full, rounded = csv.DictReader(file)
    assert (full["products"], rounded["products"]) == ("full", "bfloat16")
    for row in (full, rounded):
        assert row["steps"] == "3" and row["n_sites"] == "6" and row["n_samples"] == "200"
        z = float(row["bias"]) / float(row["bias_error"])
        assert float(row["z"]) == pytest.approx(z)
        assert abs(z) < 6  # a false alarm once in 5e8 if there is no bias
    assert float(full["rms_share"]) < 1e-4 < float(rounded["rms_share"]) < 0.5
    assert full["times_faster"] == "" and float(rounded["times_faster"]) > 0
    assert "bfloat16" in capsys.readouterr().out


def test_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert flip_precision.main([str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err.splitlines()[0]


def test_step_time_has_a_row_for_rounded_flips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {torch.float32: 2e9, torch.bfloat16: 3e9}
    monkeypatch.setattr(step_time, "matmul_rate", lambda dtype, device: rates[dtype])
    monkeypatch.setattr(step_time, "CASES", step_time.CASES[-1:])
    arguments = ["--side", "4", "--samples", "8", "--repeats", "1", "--out", str(tmp_path)]
    assert step_time.main(arguments) == 0
    with (tmp_path / "step_time.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["program"] for row in rows] == ["ours", "ours, bfloat16"]
    for row in rows:
        share = float(row["flip_gflops"]) / float(row["matmul_gflops"])
        assert float(row["flip_share"]) == pytest.approx(share)
    assert [row["matmul_gflops"] for row in rows] == ["2.0", "3.0"]
