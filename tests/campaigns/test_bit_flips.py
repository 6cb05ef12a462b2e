"""3 000 single-bit flips over all files of a finished and a half-done run: none goes unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest
from flips import campaign, make_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_runs(tmp_path_factory.mktemp("flips"))


def check(path: Path, n: int, seed: int) -> None:
    counts, unnoticed = campaign(path, n, seed)
    assert not unnoticed, unnoticed
    for name in ("checkpoints/", "run.h5", "inputs/", "summary.json", "config.yaml", "digests."):
        kinds = {kind for (file, kind), times in counts.items() if file.startswith(name)}
        assert kinds & {"refused", "told"}, f"{name}: {kinds}"
    for (file, kind), times in sorted(counts.items()):
        print(f"{file:40} {kind:10} {times}")


@pytest.mark.parametrize("which", [0, 1])
def test_some(which: int, runs: list[Path]) -> None:
    check(runs[which], 45, seed=which)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_many(which: int, seed: int, runs: list[Path]) -> None:
    check(runs[which], 500, seed)
