"""Kind 2: single bits of a half-done crystal run are flipped; resumed, it says so or ends as it
would have."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch

from nqs.cli.app import main

TINY = [
    *("model.d_model=8", "model.n_layers=1", "model.n_heads=1", "data.max_atoms=8"),
    *("optimizer.warmup_steps=0", "train.validate_every=2", "train.checkpoint_every=1"),
    *("train.steps=4", "data.canonical=false"),
]


def crystal(*words: object) -> int:
    return main(["crystal", *map(str, words)])


def parameters(run: Path) -> dict[str, torch.Tensor]:
    newest = max((run / "checkpoints").glob("step-*.pt"))
    return torch.load(newest, weights_only=True)["model"]


def resume(run: Path) -> int:
    return crystal("train", f"run.dir={run}", "run.resume=true", "train.max_seconds=null")


@pytest.mark.parametrize("n_flips", [14, pytest.param(400, marks=pytest.mark.slow)])
def test_no_flipped_bit_goes_unnoticed(
    n_flips: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "half"
    assert crystal("train", *TINY, "train.max_seconds=1e-6", f"run.dir={half}") == 0
    whole = shutil.copytree(half, tmp_path / "whole")
    assert resume(whole) == 0
    expected = parameters(whole)
    dice = random.Random(n_flips)
    files = sorted(file.relative_to(half) for file in half.rglob("*") if file.is_file())
    noticed = 0
    for number in range(n_flips):
        name = files[number % len(files)]
        run = shutil.copytree(half, tmp_path / "run")
        content = bytearray((run / name).read_bytes())
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        (run / name).write_bytes(content)
        capsys.readouterr()
        code = resume(run)
        error = capsys.readouterr().err
        assert code in (0, 2) and "Traceback" not in error
        if code == 2:
            assert error.startswith("error: ") and error.count("\n") == 1, error
            noticed += 1
        else:
            found = parameters(run)
            assert all(torch.equal(found[key], expected[key]) for key in expected), name
        shutil.rmtree(run)
    assert noticed > n_flips / len(files)  # at least the configuration and the digests
