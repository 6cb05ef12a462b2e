"""Runs whose steps raise the energy of the parameters that they start from."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import with_pictures
from test_ground_state_run import parameters, result, run, steps_of, tiny

import nqs
from nqs.cli.app import main as command
from nqs.ground_states import ground_state_run
from nqs.ground_states.kept_start import is_above, is_below
from nqs.ground_states.run_folder import START
from nqs.ground_states.start import read_start
from nqs.runfolder import history
from nqs.runfolder.history import Evaluation

STABLE = {"train__n_samples": 200, "train__eval_samples": 2000}
WILD = {"optimizer": tiny().to_dict()["optimizer"] | {"learning_rate": 1.0}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of forty good steps."""
    path = tmp_path_factory.mktemp("runs") / "source"
    assert run(path, **STABLE, train__steps=40) == 0
    return path


@pytest.fixture(scope="module")
def raised(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """A run whose steps are far too long."""
    path = tmp_path_factory.mktemp("runs") / "raised"
    assert follow(path, source) == 0
    return path


def follow(path: Path, source: Path, **changes: Any) -> int:
    return run(path, **STABLE | WILD | {"train__start_from": str(source)} | changes)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_start_is_the_result(raised: Path, source: Path) -> None:
    """The energies say that the rule is needed: without it the run would end at raised_energy."""
    summary, content = result(raised), history.read(raised / "run.h5")
    kinds = [evaluation.numbers["kind"] for evaluation in content.evaluations]
    assert kinds == ["start", "raised", "final"]
    error = np.hypot(summary["raised_energy_error"], summary["energy_error"])
    assert summary["raised_energy"] > summary["energy"] + 5 * error
    assert summary["energy"] == pytest.approx(result(source)["energy"], abs=5 * error)
    assert abs(summary["energy"] - summary["start_energy"]) < 5 * error + 0.05
    assert not any(doubt.startswith("rose: ") for doubt in summary["doubts"])
    assert steps_of(raised)["step"].tolist() == list(range(1, 9)) and summary["steps"] == 8
    assert same(read_start(raised / START)["model"], parameters(raised))
    assert same(parameters(source), parameters(raised))


def test_every_reader_sees_it(
    raised: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    shutil.copytree(raised, path)
    state, theirs = nqs.load(path), nqs.load(source)
    configs = state.sample(50)
    assert state.step == 8 and torch.equal(configs, theirs.sample(50))
    assert torch.equal(state.log_psi(configs), theirs.log_psi(configs))
    assert state.energy == result(raised)["energy"]
    capsys.readouterr()
    assert command(["evaluate", str(path), "--samples", "2000", "--seed", "3"]) == 0
    later = result(path)["later_evaluations"][-1]
    assert abs(later["energy"] - state.energy) < 5 * np.hypot(later["energy_error"], state.error)
    assert command(["show", str(path)]) == 0
    assert "that of the start: the steps raised it to" in " ".join(capsys.readouterr().out.split())
    with with_pictures():
        assert command(["plot", str(path)]) == 0
    assert "keeps the start" in (raised / "run.log").read_text()
    still = {"optimizer": tiny().to_dict()["optimizer"] | {"learning_rate": 1e-10}}
    assert follow(tmp_path / "next", raised, train__steps=1, **still) == 0
    start = read_start(tmp_path / "next" / START)
    assert start["step"] == 8 and same(start["model"], parameters(source))


def test_resuming_it_repeats_the_result(raised: Path, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(raised, path)
    assert follow(path, source, run__resume=True) == 0
    first, second = result(raised), result(path)
    times = ("wall_seconds", "sha256")
    assert {k: v for k, v in first.items() if k not in times} == {
        k: v for k, v in second.items() if k not in times
    }
    assert same(parameters(path), parameters(raised))


def test_more_steps_go_on_from_the_start(raised: Path, source: Path, tmp_path: Path) -> None:
    """At step 9, with an optimizer that has seen no step but counts them."""
    path = tmp_path / "run"
    shutil.copytree(raised, path)
    assert follow(path, source, run__resume=True, train__steps=9) == 0
    assert steps_of(path)["step"].tolist() == list(range(1, 10))
    saved = torch.load(path / "checkpoints/step-000000008.pt", weights_only=True)
    assert same(saved["model"], parameters(source)) and saved["optimizer"]["step"] == 8
    vectors = [v for v in saved["optimizer"].values() if isinstance(v, torch.Tensor)]
    assert not any(bool(vector.any()) for vector in vectors)


def test_killed_while_it_keeps_the_start(
    raised: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its evaluations, and while the checkpoint is replaced."""

    class Killed(BaseException):
        pass

    def dies(*arguments: Any, **rest: Any) -> Any:
        raise Killed

    for number, name in enumerate(("is_above", "begin_anew", "line_about")):
        path = tmp_path / f"{number}"
        with monkeypatch.context() as patch:
            patch.setattr(ground_state_run, name, dies)
            with pytest.raises(Killed):
                follow(path, source)
        assert follow(path, source, run__resume=True) == 0
        assert result(path)["energy"] == result(raised)["energy"]
        assert same(parameters(path), parameters(raised))
        if name != "line_about":
            assert result(path)["raised_energy"] == result(raised)["raised_energy"]


def test_a_signal_while_the_start_is_measured_loses_nothing(
    raised: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: Any, **rest: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal must not wait here")

    with monkeypatch.context() as patch:
        patch.setattr(ground_state_run, "is_above", stopped)
        assert follow(tmp_path / "run", source) == 128 + signal.SIGTERM
    assert follow(tmp_path / "run", source, run__resume=True) == 0
    assert result(tmp_path / "run")["energy"] == result(raised)["energy"]


def test_good_steps_are_kept(source: Path, tmp_path: Path) -> None:
    """From a worse start, and where they neither raise nor lower it."""
    assert run(tmp_path / "worse", **STABLE, train__steps=1) == 0
    assert run(tmp_path / "run", **STABLE, train__start_from=str(tmp_path / "worse")) == 0
    still = {"optimizer": tiny().to_dict()["optimizer"] | {"learning_rate": 1e-6}}
    assert follow(tmp_path / "still", source, **still) == 0
    for name in ("run", "still"):
        assert "raised_energy" not in result(tmp_path / name)
        kinds = [e.numbers["kind"] for e in history.read(tmp_path / name / "run.h5").evaluations]
        assert kinds == ["start", "final"]
    assert not same(parameters(tmp_path / "still"), parameters(source))


def test_from_python(source: Path, tmp_path: Path) -> None:
    """In memory, saved, and in a folder; the saved one goes on as the other."""
    hamiltonian = nqs.Rydberg(nqs.Square(2, 2), V=7, delta=1)
    model = {k: v for k, v in tiny().to_dict()["model"].items()}
    options: dict[str, Any] = {"model": model, "steps": 8, "samples": 200, "eval_samples": 2000}
    options |= {"optimizer": WILD["optimizer"], "start_from": source, "seed": 3, "device": "cpu"}
    energies = tiny().to_dict()["energies"]
    memory = nqs.ground_state(hamiltonian, energies=energies, **options)
    folder = nqs.ground_state(hamiltonian, energies=energies, dir=tmp_path / "run", **options)
    assert memory.energy == folder.energy and "raised_energy" in memory.summary
    configs = memory.sample(20)
    assert torch.equal(memory.log_psi(configs), nqs.load(source).log_psi(configs))
    saved = memory.save(tmp_path / "saved")
    assert same(parameters(saved), parameters(source))
    assert (saved / START).exists() and json.loads((saved / "summary.json").read_text())["energy"]


def evaluation(energy: float, error: float) -> Evaluation:
    return Evaluation({"energy": energy, "energy_error": error}, {})


def test_significance() -> None:
    one = evaluation(-1.0, 0.03)
    assert is_above(evaluation(-0.89, 0.04), one) and not is_above(evaluation(-0.91, 0.04), one)
    assert is_below(evaluation(-1.11, 0.04), one) and not is_below(evaluation(-1.09, 0.04), one)
    exact = evaluation(-1.0, 0.0)
    assert not is_above(exact, exact) and not is_below(exact, exact)
    assert not is_above(evaluation(-1.0 + 1e-8, 0.0), exact)
    assert is_above(evaluation(-1.0 + 1e-5, 0.0), exact)
    zero = evaluation(0.0, 0.0)
    assert not is_above(zero, zero)
