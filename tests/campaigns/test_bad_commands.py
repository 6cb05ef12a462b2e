"""1 200 bad command lines: each ends with exit code 2 and one line, before any work."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bad_commands import commands
from outcome import ROOT, Outcome, outcome, report, stop_before_work, train_main

from nqs.cli.app import main as nqs


def campaign(n: int, seed: int, patch: pytest.MonkeyPatch) -> None:
    stop_before_work(patch)
    mains = {"train": train_main(), "nqs": nqs}
    found: list[tuple[Outcome, list[str]]] = []
    for program, words in commands(n, seed):
        one = outcome(mains[program], words)
        faults = one.faults(allowed=(2,))
        for path in Path().iterdir():
            faults.append(f"left {path.name}")
            shutil.rmtree(path)
        found.append((one, faults))
    assert not any(faults for _, faults in found), report(found)


def test_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    campaign(60, 1, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 14))
def test_many(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    campaign(100, seed, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_as_processes(seed: int, tmp_path: Path) -> None:
    """The same through the shell's door: arguments without zero bytes, an ASCII terminal."""
    programs = {"train": [str(ROOT / "train.py")], "nqs": ["-m", "nqs"]}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii:strict"}
    sample = random.Random(seed).sample(commands(300, 100 + seed), 15)
    for program, words in sample:
        if "\0" in " ".join(words) or any(len(word) > 100_000 for word in words):
            continue
        encoded = [os.fsencode(w.encode("utf-8", "replace").decode()) for w in words]
        done = subprocess.run(
            [sys.executable, *programs[program], *encoded],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            timeout=120,
        )
        one = Outcome(tuple(words), done.returncode, done.stdout.decode(), done.stderr.decode())
        assert not one.faults(allowed=(2,)), one
