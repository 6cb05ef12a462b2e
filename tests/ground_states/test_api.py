"""Ground states from Python: in memory as in a folder, saved, loaded, resumed; nothing printed, no
handlers, no exits."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import with_pictures
from test_ground_state_run import assert_same_run, tiny
from test_ground_state_run import run as run_job

from nqs.errors import InputError
from nqs.ground_states import api
from nqs.ground_states.build import build
from nqs.runfolder import resumable_run
from nqs.runfolder.progress import Record

HALF = {"train__steps": 4}


def test_in_memory_is_as_in_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same numbers, and nothing is written, printed or left behind; saved, it resumes."""
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGINT)
    trained = api.train(build(tiny()))
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr() == ("", "")
    assert signal.getsignal(signal.SIGINT) is handler
    there = api.run(tiny(run__dir="whole"))
    assert capsys.readouterr() == ("", "") and there.path == Path("whole")
    assert trained.summary["energy"] == there.summary["energy"]
    assert trained.content.columns["energy"] == there.content.columns["energy"]
    half = api.train(build(tiny(**HALF)))
    path = half.save("saved")
    with with_pictures():
        assert run_job(path, run__resume=True) == 0
    assert_same_run(path, tmp_path / "whole")
    assert (path / "convergence.png").exists()


def test_loaded_is_what_was_trained(tmp_path: Path) -> None:
    trained = api.train(build(tiny()))
    loaded = api.load(trained.save(tmp_path / "run"))
    assert loaded.step == 8 and loaded.summary["energy"] == trained.summary["energy"]
    for one, two in zip(
        loaded.wavefunction.parameters(), trained.wavefunction.parameters(), strict=True
    ):
        assert torch.equal(one, two)
    evaluations = [state.evaluate(100, seed=3) for state in (trained, loaded)]
    assert evaluations[0].numbers == evaluations[1].numbers
    np.testing.assert_array_equal(*(e.observables["density"][0] for e in evaluations))
    assert loaded.evaluation is not None
    assert loaded.evaluation.numbers["energy"] == loaded.summary["energy"]
    with pytest.raises(InputError, match="copy that folder"):
        loaded.save(tmp_path / "again")
    with pytest.raises(InputError, match="already holds a run"):
        trained.save(tmp_path / "run")


def test_damage_is_refused(tmp_path: Path) -> None:
    api.run(tiny(run__dir=str(tmp_path / "run")))
    newest, older = sorted((tmp_path / "run/checkpoints").iterdir(), reverse=True)
    newest.write_bytes(newest.read_bytes()[:-100])
    lines: list[str] = []
    assert api.load(tmp_path / "run", warn=lines.append).step < 8 and newest.name in lines[0]
    older.write_bytes(b"")
    with pytest.raises(InputError, match="no readable checkpoint"):
        api.load(tmp_path / "run", warn=lines.append)
    with pytest.raises(InputError, match="holds no run"):
        api.load(tmp_path / "nowhere")


def test_what_is_not_finite_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(record: Record, names: object) -> None:
        if record["step"] == 3:
            raise FloatingPointError("the energy of step 3 is not finite")

    monkeypatch.setattr(resumable_run, "check_finite", broken)
    with pytest.raises(FloatingPointError, match="step 3 is not finite; last good checkpoint: non"):
        api.train(build(tiny()))


def test_in_a_thread(tmp_path: Path) -> None:
    """Where no handlers can be installed; several at a time, each in its folder."""
    energies: dict[str, float] = {}

    def work(name: str) -> None:
        energies[name] = api.run(tiny(run__dir=str(tmp_path / name))).summary["energy"]

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert energies["a"] == energies["b"]
