"""Estimates of memory against what processes take, and what is refused because of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nqs.cli.app import main as nqs
from nqs.cli.train import load_config
from nqs.ground_states import memory
from nqs.ground_states.build import build, build_lattice, build_wavefunction
from nqs.ground_states.config import Config
from nqs.runfolder import memory as machine_memory

ROOT = Path(__file__).resolve().parents[2]
FACTOR = 3.0


def config(words: str) -> Config:
    return load_config(words.split())


def estimated(words: str) -> float:
    """Bytes at the peak."""
    job = build(config(words))
    base = getattr(job.wavefunction, "base", job.wavefunction)
    peaks = memory.estimates(job.config, memory.sizes_of(base, len(job.hamiltonian.flips)))
    return max(sum(terms.values()) for terms in peaks.values())


PEAK = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as error:
    assert not error.code
print("peak", next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
"""(What wait4 says of a child contains the size of the process that started it.)"""


def measured(words: str, folder: Path) -> float:
    """Bytes that the run takes at its peak."""
    arguments = [str(ROOT / "train.py"), *words.split(), f"run.dir={folder / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return 1024.0 * float(done.stdout.rpartition("peak VmHWM:")[2].split()[0])


SHORT = "train.exact=false train.steps=1"
FAST = [
    f"{SHORT} model=linear_attention model.d_model=128 lattice.Lx=8 lattice.Ly=8 "
    "train.n_samples=64 train.eval_samples=64",
]
SLOW = [
    f"{SHORT} lattice.Lx=2 lattice.Ly=2",
    f"{SHORT} lattice.Lx=8 lattice.Ly=8 train.eval_samples=4096",
    f"{SHORT} lattice.Lx=16 lattice.Ly=16 train.n_samples=512 train.eval_samples=64",
    f"{SHORT} lattice.Lx=32 lattice.Ly=32 train.n_samples=16 train.eval_samples=16",
    f"{SHORT} train.n_samples=4096 train.eval_samples=64 lattice.Lx=6 lattice.Ly=6",
    f"{SHORT} optimizer=adam model.d_model=512 train.n_samples=64 train.eval_samples=64",
    f"{SHORT} model.phase=true train.n_samples=2048 train.eval_samples=64 lattice.Lx=6",
    f"{SHORT} model.patch=12 lattice.Lx=6 train.n_samples=2048 train.eval_samples=2048",
    f"{SHORT} model=rnn model.d_model=256 lattice.Lx=8 lattice.Ly=8 train.n_samples=128",
    f"{SHORT} model=ssm model.d_model=128 lattice.Lx=8 lattice.Ly=8 train.n_samples=128",
    f"{SHORT} model=rnn2d model.d_model=64 lattice.Lx=8 lattice.Ly=8 train.n_samples=128",
    f"{SHORT} lattice=chain lattice.Lx=256 model.patch=1 train.n_samples=64 train.eval_samples=16",
]


@pytest.mark.parametrize("words", FAST)
def test_estimates_are_honest(words: str, tmp_path: Path) -> None:
    assert 1 / FACTOR < estimated(words) / measured(words, tmp_path) < FACTOR


@pytest.mark.slow
@pytest.mark.parametrize("words", SLOW)
def test_more_estimates_are_honest(words: str, tmp_path: Path) -> None:
    test_estimates_are_honest(words, tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        "model=ptf", "model=ptf model.attention=softmax", "model=rnn", "model=rnn model.cell=lstm",
        "model=rnn model.n_layers=3", "model=linear_attention", "model=ssm", "model=rnn2d",
        "model.phase=true", "lattice.Lx=16 lattice.Ly=16", "model.d_ff=500", "model.d_model=256",
    ],
)  # fmt: skip
def test_parameters_are_counted(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last count of the guard, while the network is made, is that of its parameters."""
    needed = []
    monkeypatch.setattr(memory, "refuse_if_larger", lambda what, terms, room: needed.append(terms))
    chosen = config(words)
    lattice = build_lattice(chosen.lattice)
    needed.clear()
    wavefunction = build_wavefunction(chosen, lattice)
    counted = (sum(needed[-1].values()) - memory.PROGRAM) / (4 * memory.COPIES)
    n_parameters = sum(parameter.numel() for parameter in wavefunction.parameters())
    assert 0.7 < counted / n_parameters < 1.4


RUNS = {  # sizes that ran, and the GB they took
    "lattice.Lx=16 lattice.Ly=16 train.n_samples=512": 0.7,
    "lattice.Lx=24 lattice.Ly=24 train.n_samples=512": 1.0,
    "lattice.Lx=48 lattice.Ly=48 train.n_samples=16": 2.3,
    "model.d_model=128 model.d_ff=2048 lattice.Lx=8 lattice.Ly=8": 2.0,
    "lattice.Lx=12 lattice.Ly=12 train.n_samples=1024": 1.0,
}


@pytest.mark.parametrize("words", RUNS)
def test_what_runs_is_not_refused(words: str) -> None:
    assert estimated(words) < FACTOR * RUNS[words] * 1e9


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("lattice.Lx=90 lattice.Ly=100", "lattice.Lx=90 lattice.Ly=100: 9000 sites would take"),
        ("model.d_model=16384", "model.d_model=16384: "),
        ("train.n_samples=20000 lattice.Lx=6 lattice.Ly=6", "train.n_samples=20000: a step"),
        ("train.n_samples=1000000000", "train.n_samples=1000000000: a step"),
        ("lattice.Lx=20 lattice.Ly=20 optimizer=adam", "train.eval_samples=50000: the evaluation"),
        ("train.exact=true lattice.Lx=5 lattice.Ly=5", "train.exact=true: exact diag"),
    ],
)
def test_what_does_not_fit_is_refused(
    words: str, key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine of 2 GB (0.7 GB for the smaller ones)."""
    small = "optimizer=adam" in words or "lattice.Lx=5" in words
    monkeypatch.setattr(machine_memory, "available", lambda: 0.7e9 if small else 2e9)
    assert nqs(["train", *words.split()]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: {key}") and " GB" in line and line.count("\n") == 1, line
