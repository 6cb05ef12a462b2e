"""A scan that runs doubtful points again, killed at random moments and resumed until it ends."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORDS = [
    *("lattice=chain", "lattice.Lx=3", "model.d_model=4", "model.n_heads=1", "model.n_layers=1"),
    *("train.steps=12", "train.n_samples=16", "train.eval_samples=64"),
    *("train.checkpoint_every=1", "hamiltonian.delta=0,0.5,1,1.5"),
    *("scan.warm_start=hamiltonian.delta", "device=cpu"),
]
KEPT = ("energy", "energy_error", "steps", "verdict", "doubts")


def state(folder: Path) -> dict[str, Any]:
    """All that the end of a scan consists of."""
    return {
        path.parent.name: [json.loads(path.read_text()).get(key) for key in KEPT]
        for path in sorted(folder.glob("*/summary.json"))
    }


def started(words: list[str], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "-m", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_kills_lose_nothing(seed: int, tmp_path: Path) -> None:
    whole = started([*WORDS, "scan.dir=whole"], tmp_path)
    began = time.monotonic()
    assert whole.communicate(timeout=600)[1] == b""
    duration = time.monotonic() - began
    expected = state(tmp_path / "whole")
    assert any("~" in name for name in expected), "no point was run again: nothing to see"
    chosen = random.Random(seed)
    n_kills = 0
    while True:
        words = ["scan.dir=scan", "scan.resume=true"]
        if not (tmp_path / "scan/scan.json").exists():
            words = [*WORDS, "scan.dir=scan"]
        process = started(words, tmp_path)
        try:
            patience = chosen.uniform(0.35, 0.9) * duration if n_kills < 4 else 600
            errors = process.communicate(timeout=patience)[1]
            assert process.returncode == 0, errors
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            n_kills += 1
    assert n_kills > 0
    assert state(tmp_path / "scan") == expected, f"after {n_kills} kills"
    assert not [path for path in (tmp_path / "scan").rglob(".*-*.tmp")]
