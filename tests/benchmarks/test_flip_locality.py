"""The table of how local flips are: its columns by hand on a tiny array, and bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.flip_locality import Row, main, of_run, token_share, trained, weights_bias
from benchmarks.tables import Rows


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--sides", "4", "--steps", "3", "--samples", "64", "--repeats", "1"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    rows = Rows(tmp_path / "flip_locality.csv", Row, ("state", "radius", "exact_flips")).rows
    assert [row.exact_flips for row in rows] == [4, 2]  # at least two are exact
    assert len(capsys.readouterr().out.splitlines()) == 3
    for row in rows:
        assert (row.state, row.n_sites, row.n_patches, row.n_flips) == ("4x4", 16, 4, 16)
        assert row.tokens == 1  # 2x2 patches of which each sees all others within 1.5 spacings
        assert abs(row.rms) < 1e-4 and row.added < 1e-6  # float32
        seconds = row.exact_seconds / (row.near_seconds + row.subset_seconds)
        assert row.gain == pytest.approx(seconds / (1 + row.added))


def test_token_share_counts_positions() -> None:
    """3x3 patches in rows, radius 1: a flip of patch t needs t + 1, and t + 3 where they exist."""
    state = trained(6, 1, 0)
    needed = sum(len({t + 1, t + 3} & set(range(9))) for t in range(9))
    assert token_share(state, 1.0) == pytest.approx(needed / sum(8 - t for t in range(9)))
    assert token_share(state, 1e9) == 1


def test_weights_without_truncation_are_exact() -> None:
    state = trained(6, 1, 0)
    with torch.no_grad():
        shift, _ = weights_bias(state, 200, 1e9, torch.Generator().manual_seed(0))
        near, _ = weights_bias(state, 200, 0.5, torch.Generator().manual_seed(0))
    assert abs(shift) < 1e-5 < abs(near)


@pytest.mark.parametrize("words", [["--sides", "1"], ["--radius", "0"], ["--runs", "nowhere"]])
def test_bad_input(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--out", str(tmp_path)])
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_run_without_a_folder_is_named() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        of_run(Path("nowhere"))
