"""The table of step times at tiny size."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from benchmarks import step_time


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
