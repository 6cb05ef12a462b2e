"""Kind 4, results lost at the last moment: the evaluation is on disk before anything that may
fail, and what fails beside it costs a line."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, NoReturn

import pytest
from covering import pairwise
from pictures import with_pictures
from test_ground_state_run import assert_same_run, result, run

from nqs.cli.app import main as nqs
from nqs.ground_states import plot, summary
from nqs.runfolder import history
from nqs.runfolder.signals import Interrupted


def fail(*arguments: Any, **options: Any) -> NoReturn:
    raise ArithmeticError("no digit is left\nof it")


@pytest.mark.parametrize("asked", ["auto", True])
def test_a_comparison_that_fails(
    asked: str | bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 1 for who asked for it, after everything is saved."""

    def failing(*arguments: Any, **options: Any) -> NoReturn:
        saved = summary.read(tmp_path / "run/summary.json")
        assert saved["status"] == "finished" and saved["energy"] is not None
        assert history.read(tmp_path / "run/run.h5").last("final") is not None
        fail()

    with monkeypatch.context() as patch:
        patch.setattr("nqs.ground_states.ground_state_run.ground_state", failing)
        with with_pictures():
            code = run(tmp_path / "run", train__exact=asked)
    assert code == (1 if asked is True else 0)
    line = "comparison: failed (ArithmeticError: no digit is left of it)"
    assert result(tmp_path / "run")["notes"] == [line]
    assert line in capsys.readouterr().out.splitlines()
    assert line in (tmp_path / "run/run.log").read_text().splitlines()
    assert (tmp_path / "run/convergence.png").exists()
    assert "exact_energy" not in result(tmp_path / "run")
    assert result(tmp_path / "run")["verdict"] == "doubtful"
    doubt = "exact: the comparison failed (ArithmeticError: no digit is left of it)"
    assert doubt in result(tmp_path / "run")["doubts"]
    assert run(tmp_path / "run", train__exact=asked, run__resume=True) == 0
    assert doubt not in result(tmp_path / "run").get("doubts", [])
    assert "notes" not in result(tmp_path / "run") and "exact_energy" in result(tmp_path / "run")


def test_a_verdict_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is called good that was not judged."""
    monkeypatch.setattr("nqs.ground_states.judgement.doubts", fail)
    assert run(tmp_path / "run") == 0
    summary = result(tmp_path / "run")
    assert summary["verdict"] == "doubtful" and summary["energy"] is not None
    assert summary["doubts"] == [
        "unjudged: the verdict failed (ArithmeticError: no digit is left of it)"
    ]


def test_a_picture_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "convergence_figure", fail)
    with with_pictures():
        assert run(tmp_path / "run") == 0
    summary = result(tmp_path / "run")
    assert summary["notes"] == ["picture: failed (ArithmeticError: no digit is left of it)"]
    assert summary["status"] == "finished" and "exact_energy" in summary


def test_a_signal_during_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> NoReturn:
        raise Interrupted(signal.SIGUSR1)

    monkeypatch.setattr("nqs.ground_states.ground_state_run.ground_state", interrupted)
    assert run(tmp_path / "run") == 128 + signal.SIGUSR1
    summary = result(tmp_path / "run")
    assert summary["status"] == "finished" and summary["energy"] is not None
    assert summary["notes"] == ["stopped by SIGUSR1 once the result was saved"]


def test_an_exact_energy_of_zero(tmp_path: Path) -> None:
    """H = sum of projectors with a common null vector."""
    strings = tmp_path / "strings.txt"
    strings.write_text("0.5\n-0.5 Z0 Z1\n0.5\n-0.5 Z1 Z2\n0.5\n-0.5 X0 X1 X2\n")
    sites = tmp_path / "sites.csv"
    sites.write_text("x,y\n0,0\n1,0\n2,0\n")
    lattice = {"name": "positions", "file": str(sites)}
    hamiltonian = {"name": "pauli", "file": str(strings)}
    assert run(tmp_path / "run", lattice=lattice, hamiltonian=hamiltonian) == 0
    summary = result(tmp_path / "run")
    assert abs(summary["exact_energy"]) < 1e-12 and "notes" not in summary
    assert nqs(["show", str(tmp_path / "run")]) == 0
    with with_pictures():
        assert nqs(["plot", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("name", ["$x$", "$\x1b[31m\nb", "\udc80", "水" * 80])
def test_a_folder_of_any_name(name: str, tmp_path: Path) -> None:
    with with_pictures():
        assert run(tmp_path / name, train__steps=2) == 0
    assert "notes" not in result(tmp_path / name)
    assert "\x1b" not in (tmp_path / name / "run.log").read_text()
    if name in ("$x$", "\udc80"):  # a formula, and no text: in a title
        assert nqs(["plot", str(tmp_path / name)]) == 0
    assert run(tmp_path / name, train__steps=3, run__resume=True) == 0


@pytest.mark.parametrize(
    ("n_steps", "value", "exact"),
    pairwise([0, 1, 5], [0.0, 5e15, float("nan"), float("inf")], [None, 0.0, -1.0, 1e-320]),
)
def test_histories_without_a_spread(
    n_steps: int, value: float, exact: float | None, tmp_path: Path
) -> None:
    """Every sample the same, every error zero: warnings are errors here."""
    columns = ("step", "energy", "energy_error", "elapsed")
    content = history.RunFile(tuple(history.Column(name, "", "") for name in columns))
    for name in content.columns:
        content.columns[name] = [value] * n_steps
    content.columns["step"] = [float(step) for step in range(1, n_steps + 1)]
    plot.save_convergence(tmp_path / "picture.png", content, 4, exact, "run")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_killed_between_evaluation_and_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed, the evaluation is there once; another number of samples is another one."""

    def kill(path: Path, content: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nqs.runfolder.summary.write", kill)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run")
    assert len(history.read(tmp_path / "run/run.h5").evaluations) == 1
    assert not (tmp_path / "run/summary.json").exists()
    for expected, n_samples in ((1, 64), (1, 64), (2, 65)):
        assert run(tmp_path / "run", run__resume=True, train__eval_samples=n_samples) == 0
        assert len(history.read(tmp_path / "run/run.h5").evaluations) == expected
    assert run(tmp_path / "whole", train__eval_samples=65) == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_the_same_evaluation_is_kept_once(tmp_path: Path) -> None:
    """And its number is in the summary, where it stays when the run goes on."""
    assert run(tmp_path / "run", train__steps=4) == 0
    command = ["evaluate", str(tmp_path / "run"), "--samples"]
    for words in (["500"], ["500"], ["600"], ["500", "--seed", "2"], ["500", "--subsystem", "0"]):
        assert nqs([*command, *words]) == 0
    found = history.read(tmp_path / "run/run.h5").evaluations
    assert [e.numbers["n_samples"] for e in found] == [64, 500, 600, 500, 500]
    later = result(tmp_path / "run")["later_evaluations"]
    assert [entry["n_samples"] for entry in later] == [500, 600, 500, 500]
    assert [entry["seed"] for entry in later] == [1, 1, 2, 1]
    for entry, evaluation in zip(later, found[1:], strict=True):
        assert entry["energy"] == evaluation.numbers["energy"] and entry["step"] == 4
        assert entry["energy_error"] == evaluation.numbers["energy_error"]
    assert run(tmp_path / "run", run__resume=True) == 0
    assert result(tmp_path / "run")["later_evaluations"] == later
