"""kill -9 at random moments: every file stays readable, and the resumed run is the uninterrupted
one bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from nqs.runfolder.history import TIME_COLUMNS

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "lattice.Lx=2",
    "lattice.Ly=3",
    "model.patch=2",
    "model.d_model=8",
    "model.n_layers=1",
    "train.n_samples=16",
    "train.eval_samples=64",
    "train.checkpoint_every=3",
    "seed=5",
]


def start(path: Path, steps: int, resume: bool) -> subprocess.Popen[bytes]:
    """A training process of its own; one thread, since two sum in another order."""
    arguments = [*TINY, f"train.steps={steps}", f"run.dir={path}", f"run.resume={resume}".lower()]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def complete(path: Path, steps: int, resume: bool) -> None:
    process = start(path, steps, resume)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()


def saved_step(path: Path) -> int:
    """Step of the newest checkpoint, -1 without one."""
    steps = [int(file.stem.split("-")[1]) for file in (path / "checkpoints").glob("step-*.pt")]
    return max(steps, default=-1)


def wait_for(path: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    """Until a checkpoint of that step or a later one is there."""
    deadline = time.monotonic() + 120
    while saved_step(path) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)


def kill(process: subprocess.Popen[bytes]) -> bool:
    """kill -9; False if the process had already ended."""
    process.send_signal(signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGKILL), error.decode()
    return process.returncode == -signal.SIGKILL


def all_readable(path: Path) -> None:
    """Opens every file that does not carry the name of an unfinished temporary."""
    for file in (p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
        if file.suffix == ".h5":
            with h5py.File(file, "r") as content:
                lengths = {len(values[:]) for values in content["history"].values()}
            assert len(lengths) == 1
        elif file.suffix == ".pt":
            assert torch.load(file, weights_only=True)["step"] == int(file.stem.split("-")[1])
        elif file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".yaml":
            assert isinstance(yaml.safe_load(file.read_text()), dict)
        elif file.suffix == ".png":
            assert file.read_bytes().endswith(b"IEND\xaeB`\x82")
        else:
            assert file.name == "run.log"
            file.read_text()


def newest_checkpoint(path: Path) -> dict[str, object]:
    content = torch.load(max((path / "checkpoints").iterdir()), weights_only=True)
    content.pop("elapsed"), content.pop("config")
    return content


def assert_equal_bits(one: object, other: object) -> None:
    if isinstance(one, dict):
        assert isinstance(other, dict) and one.keys() == other.keys()
        for key in one:
            assert_equal_bits(one[key], other[key])
    elif isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor) and one.dtype == other.dtype
        assert torch.equal(one, other)
    else:
        assert one == other


def assert_same_run(one: Path, other: Path) -> None:
    """Parameters, optimizer, generator, history (but for times) and final energy are equal."""
    assert_equal_bits(newest_checkpoint(one), newest_checkpoint(other))
    with h5py.File(one / "run.h5") as a, h5py.File(other / "run.h5") as b:
        assert a["history"].keys() == b["history"].keys()
        for name in a["history"]:
            if name not in TIME_COLUMNS:
                left, right = a["history"][name][:], b["history"][name][:]
                np.testing.assert_array_equal(left, right)
        assert len(a["evaluations"]) == len(b["evaluations"]) == 1
    energies = [json.loads((p / "summary.json").read_text())["energy"] for p in (one, other)]
    assert energies[0] == energies[1]


def killed_and_resumed(path: Path, steps: int, kills: int, chance: random.Random) -> None:
    """Starts and kills `kills` times, some way further each time, then lets the run end."""
    for number in range(kills):
        process = start(path, steps, resume=path.exists())
        if chance.random() < 0.15:  # now and then while it starts
            time.sleep(chance.uniform(0, 2.0))
        else:
            progress = chance.randrange(steps // (kills + 1))
            wait_for(path, max(0, saved_step(path)) + progress, process)
            time.sleep(chance.uniform(0, 0.05))  # anywhere in a step or in a file being written
        assert kill(process), f"the run ended before kill {number + 1}: give it more steps"
        if path.exists():
            all_readable(path)
    complete(path, steps, resume=path.exists())
    all_readable(path)
    assert not list(path.rglob(".*")), "temporaries are left behind"


def test_two_kills(tmp_path: Path) -> None:
    killed_and_resumed(tmp_path / "killed", 80, 2, random.Random(1))
    complete(tmp_path / "whole", 80, resume=False)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_many_kills(tmp_path: Path, seed: int) -> None:
    killed_and_resumed(tmp_path / "killed", 400, 8, random.Random(seed))
    complete(tmp_path / "whole", 400, resume=False)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
