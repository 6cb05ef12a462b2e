"""How commands end: exit codes, closed pipes, Ctrl-C while modules load, memory, ASCII."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nqs.errors import InputError
from nqs.runfolder.terminal import run_command
from nqs.vmc.optimizers.natural_gradient import NaturalGradient

ROOT = Path(__file__).resolve().parents[2]
TRAIN, NQS = [sys.executable, str(ROOT / "train.py")], [sys.executable, "-m", "nqs"]
TINY = [
    "lattice=chain", "lattice.Lx=3", "model.d_model=4", "model.n_heads=1", "model.n_layers=1",
    "train.steps=1", "train.n_samples=8", "train.eval_samples=8",
]  # fmt: skip


def raising(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


def allocate() -> int:
    torch.empty(2**60)
    return 0


@pytest.mark.parametrize(
    ("command", "code", "line"),
    [
        (lambda: 0, 0, ""),
        (lambda: 3, 3, ""),
        (raising(InputError("seed=-1: no")), 2, "error: seed=-1: no\n"),
        (raising(InputError("one", "two")), 2, "error: one\nerror: two\n"),
        (raising(KeyboardInterrupt()), 130, "stopped at once"),
        (raising(BrokenPipeError()), 141, ""),
        (raising(FileNotFoundError(2, "No such file", "a\nb")), 2, "a b: cannot be used (No such"),
        (raising(MemoryError()), 1, "error: out of memory; what was saved before stays"),
        (raising(torch.OutOfMemoryError("CUDA out of memory.\nmore")), 1, "(CUDA out of memory.)"),
        (allocate, 1, "error: out of memory"),
    ],
)
def test_exit_codes(
    command: Callable[[], int], code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(command) == code
    errors = capsys.readouterr().err
    assert line in errors and errors.count("\n") == (0 if not line else 2 if "two" in line else 1)
    assert all(len(text) <= 400 for text in errors.splitlines())


def test_our_own_mistakes_are_not_hidden() -> None:
    for error in (RuntimeError("shapes differ"), TypeError("no"), ZeroDivisionError()):
        with pytest.raises(type(error)):
            run_command(raising(error))


def run(
    command: Sequence[str], folder: Path, after: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    line = f'"$@" {after}; exit ${{PIPESTATUS[0]}}'
    return subprocess.run(
        ["bash", "-c", line, "bash", *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "command", [[*TRAIN, "--help"], [*NQS, "crystal", "train", "--help"]], ids=["train", "nqs"]
)
def test_a_closed_pipe_ends_quietly(command: list[str], tmp_path: Path) -> None:
    """--help | head -1 (typer ends with 1), and a reader that is gone before the first line."""
    for reader in ("head -c 1", "true"):
        done = run(command, tmp_path, f"| (sleep 0.2; {reader})")
        assert done.stderr == "" and done.returncode in (0, 1, 141), done


@pytest.mark.parametrize("program", [TRAIN, NQS], ids=["train", "nqs"])
def test_ctrl_c_while_modules_load(program: list[str], tmp_path: Path) -> None:
    """A module that takes long to load stands in the place of a big one."""
    slow = tmp_path / "slow"
    slow.mkdir()
    for module in ("hydra", "typer"):
        text = f"import pathlib, time\npathlib.Path({str(slow / 'here')!r}).touch()\ntime.sleep(60)"
        (slow / f"{module}.py").write_text(text)
    process = subprocess.Popen(
        [*program, "seed=1"],
        env=os.environ | {"PYTHONPATH": f"{slow}:{ROOT}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(600):
        if (slow / "here").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert errors == "" and process.returncode == -signal.SIGINT


def test_an_ascii_terminal(tmp_path: Path) -> None:
    """Names that it cannot show are escaped; the run ends as any other."""
    done = run([*TRAIN, *TINY, "run.dir='ψ'"], tmp_path, PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "files in \\u03c8" in done.stdout
    assert (tmp_path / "ψ/summary.json").exists()
    done = run([*NQS, "show", "ψ"], tmp_path, PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 0 and done.stderr == "", done.stderr


def test_no_memory_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last checkpoint stays, and the run resumes to where it would have come."""
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("train", ROOT / "train.py")
    assert spec is not None and spec.loader is not None
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    longer = [*(word for word in TINY if word != "train.steps=1"), "train.steps=5"]
    longer.append("train.checkpoint_every=1")
    assert train.main([*longer, "run.dir=whole"]) == 0
    update, n_calls = NaturalGradient.update, 0

    def scarce(*arguments: Any, **keywords: Any) -> torch.Tensor:
        nonlocal n_calls
        n_calls += 1
        return torch.empty(2**60) if n_calls == 4 else update(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(NaturalGradient, "update", scarce)
        capsys.readouterr()
        assert train.main([*longer, "run.dir=run"]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: out of memory; what was saved") and errors.count("\n") == 1
    assert (tmp_path / "run/checkpoints/step-000000003.pt").exists()
    assert train.main(["run.dir=run", "run.resume=true"]) == 0
    energies = [
        json.loads((tmp_path / name / "summary.json").read_text())["energy"]
        for name in ("whole", "run")
    ]
    assert energies[0] == energies[1]
