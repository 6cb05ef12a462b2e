"""What all kinds of runs share, on the smallest one: two numbers that follow a noisy gradient."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nqs.errors import InputError
from nqs.runfolder import environment, folder, history, resumable_run, summary
from nqs.runfolder.history import SECONDS, STEP, Column
from nqs.runfolder.progress import Form, Record
from nqs.runfolder.resumable_run import Limits, ResumableRun

COLUMNS = (STEP, Column("loss", "1", "square of the distance"), SECONDS)
CPU = torch.device("cpu")


class Descent(ResumableRun):
    """Two parameters, momentum as the optimizer's state, a draw a step."""

    form = Form("step", lambda record, *rates: f"{record['step']:4.0f}", lambda record: "")
    finite = ("loss",)
    required = ("step", "loss")
    resumable = ("steps",)

    def __init__(self, steps: int = 12, seconds: float | None = None, gain: float = 0.1) -> None:
        super().__init__(Limits(steps, seconds, 5), COLUMNS, CPU, ["follow"])
        self.weights = nn.ParameterList([torch.ones(2)])
        self.momentum, self.gain = torch.zeros(2), gain
        self.draws = torch.Generator().manual_seed(3)
        self.during: Callable[[int], object] = lambda step: None
        self.patience = False

    @property
    def model(self) -> nn.Module:
        return self.weights

    @property
    def generator(self) -> torch.Generator:
        return self.draws

    def saved_config(self) -> dict[str, Any]:
        return {"steps": self.limits.steps, "gain": self.gain}

    def optimizer_state(self) -> Mapping[str, Any]:
        return {"momentum": self.momentum}

    def restore(self, saved: Mapping[str, Any]) -> None:
        self.momentum = saved["optimizer"]["momentum"]
        self.draws.set_state(saved["generator"][0].clone())

    def describe(self) -> list[str]:
        return ["a descent"]

    @torch.no_grad()
    def advance(self, after_step: Callable[[Record], bool]) -> None:
        (x,) = self.weights
        for step in range(self.step + 1, self.limits.steps + 1):
            noise = torch.randn(2, generator=self.draws)
            self.momentum = 0.9 * self.momentum + x + 0.1 * noise
            x -= self.gain * self.momentum
            self.during(step)
            if after_step({"step": step, "loss": float(x.square().sum()), "seconds": 0.0}):
                return

    def converged(self) -> bool:
        return self.patience and self.step >= 7

    def conclude(self) -> int:
        self.status = self.ended
        self.report(self.status)
        self.during(-1)
        return 0

    def summarise(self, status: str) -> dict[str, Any]:
        return {"status": status, "steps": self.step}


@contextlib.contextmanager
def in_folder(run: Descent, path: Path) -> Iterator[None]:
    """The folder of a new run, or one that is there."""
    entry = environment.session(["follow", f"run.dir={path}"], 0, "cpu")
    if not path.exists():
        folder.make(str(path), "", lambda new: folder.describe(new, run.saved_config(), entry))
    with run.at_work(path):
        yield


def work(path: Path, run: Descent) -> int:
    resumes = path.exists()
    with in_folder(run, path):
        return run.work(resumes)


def assert_same(one: Path, two: Path) -> None:
    """Checkpoints but for times, histories but for times."""
    saved = [torch.load(max((p / "checkpoints").iterdir()), weights_only=True) for p in (one, two)]
    for key in ("model", "optimizer"):
        assert all(torch.equal(saved[0][key][name], saved[1][key][name]) for name in saved[0][key])
    assert torch.equal(saved[0]["generator"], saved[1]["generator"])
    loss = [history.read(p / "run.h5").columns["loss"] for p in (one, two)]
    np.testing.assert_array_equal(*loss)
    assert len(loss[0]) == saved[0]["step"] == saved[1]["step"] == 12


def status(path: Path) -> str:
    return str(summary.read(path / "summary.json")["status"])


def stop(step: int, signum: signal.Signals) -> Callable[[int], object]:
    return lambda now: os.kill(os.getpid(), signum) if now == step else None


@pytest.mark.parametrize("ending", ["SIGTERM", "SIGUSR1", "budget", "converged", "killed", "NaN"])
def test_however_it_ends_it_goes_on_bit_for_bit(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, code, expected = Descent(), 0, ending
    if ending.startswith("SIG"):
        signum = signal.Signals[ending]
        run.during, code, expected = stop(6, signum), 128 + signum, "interrupted"
    elif ending == "budget":
        run = Descent(seconds=1e-9)
    elif ending == "converged":
        run.patience = True
    elif ending == "NaN":
        run.during = lambda step: run.weights[0].data.fill_(torch.nan) if step == 8 else None
        code, expected = 1, "failed"
    if ending == "killed":
        run.during = lambda step: 1 // (step != 9)  # dies without a last word
        with pytest.raises(ZeroDivisionError):
            work(tmp_path / "run", run)
        assert not (tmp_path / "run/summary.json").exists()
    else:
        assert work(tmp_path / "run", run) == code
        assert status(tmp_path / "run") == expected
    streams = capsys.readouterr()
    assert ("resume with: follow run.dir=" in streams.out) == ending.startswith("SIG")
    assert ("step 8 is not finite; last good checkpoint: step 5" in streams.err) == (
        ending == "NaN"
    )
    steps = [int(file.stem[-2:]) for file in (tmp_path / "run/checkpoints").iterdir()]
    at = {"SIGTERM": 6, "SIGUSR1": 6, "budget": 1, "converged": 7, "killed": 5, "NaN": 5}
    assert max(steps) == at[ending]
    assert work(tmp_path / "run", Descent()) == work(tmp_path / "whole", Descent()) == 0
    assert status(tmp_path / "run") == "finished"
    assert f"resumed at step {at[ending]}" in (tmp_path / "run/run.log").read_text()
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_signal_once_the_result_is_saved(tmp_path: Path) -> None:
    run = Descent()
    run.during = stop(-1, signal.SIGTERM)
    assert work(tmp_path / "run", run) == 128 + signal.SIGTERM
    result = summary.read(tmp_path / "run/summary.json")
    assert result["status"] == "finished"
    assert result["notes"] == ["stopped by SIGTERM once the result was saved"]


def test_damage_is_passed_over_or_refused(tmp_path: Path) -> None:
    assert work(tmp_path / "run", Descent()) == work(tmp_path / "whole", Descent()) == 0
    newest = max((tmp_path / "run/checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-200])
    assert work(tmp_path / "run", Descent()) == 0
    assert f"{newest} cannot be used" in (tmp_path / "run/run.log").read_text()
    assert_same(tmp_path / "run", tmp_path / "whole")
    with pytest.raises(InputError, match=r"belongs to another run, gain=0\.1 there and 0\.2 in"):
        work(tmp_path / "run", Descent(gain=0.2))
    (tmp_path / "run/run.h5").unlink()
    with pytest.raises(InputError, match=r"run\.h5: missing, the checkpoint is at step 12"):
        work(tmp_path / "run", Descent())


def test_a_second_process_waits(tmp_path: Path) -> None:
    busy = pytest.raises(InputError, match="another process is working on this run")
    with in_folder(Descent(), tmp_path / "run"), busy:
        work(tmp_path / "run", Descent())


def test_checkpoints_come_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable_run, "CHECKPOINT_SECONDS", 0.0)
    run = Descent()
    run.during = lambda step: 1 // (step != 4)
    with pytest.raises(ZeroDivisionError):
        work(tmp_path / "run", run)
    names = sorted(file.name for file in (tmp_path / "run/checkpoints").iterdir())
    assert names == ["step-000000002.pt", "step-000000003.pt"]


def test_in_memory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Descent()
    with run.at_work(None, quiet=True, signals=False):
        assert run.work(resumes=False) == 0
    assert list(tmp_path.iterdir()) == [] and run.result == {"status": "finished", "steps": 12}
    assert work(tmp_path / "run", Descent()) == 0
    assert history.read(tmp_path / "run/run.h5").columns["loss"] == run.content.columns["loss"]


def test_a_column_that_a_run_begins_to_have(tmp_path: Path) -> None:
    """NaN before; one that it no longer has is NaN from there on; what it cannot do without is
    asked for."""
    assert work(tmp_path / "run", Descent()) == 0
    file = tmp_path / "run/run.h5"
    content = history.read(file, (STEP, Column("pace", "1", "new")), required=("loss",))
    content.append({"step": 13, "loss": 0.5, "pace": 2.0}, 1.0)
    content.write(file)
    columns = history.read(file).columns
    assert np.isnan(columns["pace"][:12]).all() and columns["pace"][12] == 2.0
    assert np.isnan(columns["seconds"][12]) and not np.isnan(columns["seconds"][:12]).any()
    with pytest.raises(InputError, match=r"not a readable run\.h5 \(it has no column energy"):
        history.read(file, required=("energy",))
