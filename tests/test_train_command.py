"""The commands a user types: today's, the older code's, --help, numbered folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from nqs.cli.app import main as nqs


def train(arguments: Sequence[str]) -> int:
    """The command line of `nqs train`."""
    return nqs(["train", *arguments])


SMALL = ["train.steps=2", "train.n_samples=8", "train.eval_samples=16"]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def result(path: Path) -> dict[str, object]:
    return json.loads((path / "summary.json").read_text())


def test_the_main_command(tmp_path: Path) -> None:
    command = (
        "model=ptf model.patch=2x2 lattice.Lx=4 lattice.Ly=4 hamiltonian=rydberg "
        "hamiltonian.delta=1 train.steps=2 run.dir=runs/here seed=0 train.n_samples=16 "
        "train.eval_samples=32"
    )
    assert train(command.split()) == 0
    assert result(tmp_path / "runs/here")["exact_energy"] == pytest.approx(-7.254611338546459)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs"]  # no outputs/, no .hydra


def test_resuming_needs_only_the_folder(tmp_path: Path) -> None:
    small = ["lattice.Lx=2", "lattice.Ly=3", "model.d_model=8", *SMALL]
    assert train([*small, "run.dir=run"]) == 0
    assert train(["run.dir=run", "run.resume=true", "train.steps=4"]) == 0
    assert result(tmp_path / "run")["steps"] == 4
    repeated = [*small[:3], *SMALL[1:], "lattice=square", "model=ptf", "run.dir=run"]
    repeated.append("run.resume=true")
    assert train([*repeated, "train.steps=5"]) == 0
    assert result(tmp_path / "run")["steps"] == 5


def test_without_a_folder_runs_are_numbered(tmp_path: Path) -> None:
    for _ in range(2):
        assert train(["lattice.Lx=2", "lattice.Ly=3", "model.d_model=8", *SMALL]) == 0
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == ["rydberg-square-2x3-ptf-001", "rydberg-square-2x3-ptf-002"]
    assert (
        result(tmp_path / "runs" / names[0])["energy"]
        == result(tmp_path / "runs" / names[1])["energy"]
    )


def test_the_lecture_s_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        "--train L=16 steps=2 K=8 NLOOPS=4 dir=out --ptf patch=2x2 Nh=32 nhead=8 dropout=0.1 "
        "--rydberg V=7 delta=1 Omega=1"
    )
    assert train(command.split()) == 0
    streams = capsys.readouterr()
    assert streams.err.count("\n") == 1
    assert "NLOOPS=4" in streams.err and "dropout=0.1" in streams.err
    (today,) = (line for line in streams.out.splitlines() if line.startswith("today's form: "))
    summary = result(tmp_path / "out")
    again = today.removeprefix("today's form: nqs train ").replace("=out", "=again")
    assert train(again.split()) == 0
    assert result(tmp_path / "again")["energy"] == summary["energy"]


@pytest.mark.parametrize("sub", ["--rnn L=8 patch=2x2 Nh=8", "--ptf L=2x4 patch=2 Nh=8 nhead=2"])
def test_the_older_large_patches(tmp_path: Path, sub: str) -> None:
    command = f"--train L=16 steps=2 K=8 dir=out --lptf patch=2x4 Nh=8 nhead=2 {sub}"
    assert train(command.split()) == 0
    assert result(tmp_path / "out")["status"] == "finished"


def test_the_lecture_s_recurrent_network(tmp_path: Path) -> None:
    command = "--train L=2x3 steps=2 B=8 seed=7 dir=out --rnn patch=2 rnntype=GRU Nh=8"
    assert train(command.split()) == 0
    summary = result(tmp_path / "out")
    assert summary["seed"] == 7 and summary["n_sites"] == 6


def test_help_lists_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["--help"]) == 0
    text = capsys.readouterr().out
    for key in ("lattice.Lx", "hamiltonian.Rb", "model.patch", "optimizer.learning_rate",
                "energies.flip_fraction", "train.max_seconds", "run.resume", "seed"):  # fmt: skip
        assert f"  {key}=" in text
    assert "lattice=chain|" in text and "|MODULE:CLASS" in text
    assert "  model.d_model=64 [rnn]\n" in text and "[1 .. 65536]" in text
    assert train(["--help", "model=rnn"]) == 0
    text = capsys.readouterr().out
    assert "model.cell=gru\n" in text and "n_heads" not in text.split("optimizer=")[0]
    assert train(["--help", "model=rnnn"]) == 2
    assert "did you mean rnn?" in capsys.readouterr().err
