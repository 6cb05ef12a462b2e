"""The run itself, in this process with tiny models: files, resume, signals, budget, faults."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from pictures import with_pictures

from nqs.cli.app import main as nqs
from nqs.errors import InputError
from nqs.ground_states.build import build
from nqs.ground_states.config import Config
from nqs.ground_states.run import run as run_job
from nqs.ground_states.run_file import read as read_run_file
from nqs.ground_states.run_folder import create, resumed_config
from nqs.runfolder import atomic, folder, resumable_run
from nqs.runfolder.history import TIME_COLUMNS, Column
from nqs.runfolder.progress import ProgressDisplay, Record
from nqs.runfolder.resumable_run import check_finite
from nqs.vmc.energies import flip_precision
from nqs.vmc.energies.flip_precision import Rounding
from nqs.vmc.optimizers import Adam

TINY: dict[str, Any] = {
    "lattice": {"name": "square", "Lx": 2, "Ly": 2, "periodic": False},
    "hamiltonian": {"name": "rydberg", "V": 7.0, "delta": 1.0, "Omega": 1.0},
    "model": {
        "name": "ptf",
        "patch": "2",
        "d_model": 4,
        "n_layers": 1,
        "n_heads": 2,
        "attention": "factored",
        "activation": "gelu",
        "positions": "learned",
        "symmetry": "none",
        "spin_flip": False,
    },
    "optimizer": {
        "name": "adam",
        "learning_rate": 0.01,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "clip_norm": None,
        "schedule": "constant",
        "warmup_steps": 0,
        "final_fraction": 0.1,
    },
    "train": {
        "steps": 8,
        "n_samples": 16,
        "flip_fraction": 0.5,
        "max_seconds": None,
        "eval_samples": 64,
        "exact": "auto",
        "checkpoint_every": 3,
    },
    "run": {"dir": None, "resume": False},
    "seed": 3,
    "device": "cpu",
    "dtype": "float32",
}


def tiny(**changes: Any) -> Config:
    """TINY with dotted keys (section__key) replaced."""
    mapping = json.loads(json.dumps(TINY))
    for dotted, value in changes.items():
        section, _, key = dotted.rpartition("__")
        (mapping[section] if section else mapping)[key] = value
    return Config.from_dict(mapping)


def run(path: Path, **changes: Any) -> int:
    return run_job(tiny(run__dir=str(path), **changes), ["python", "train.py"])


def result(path: Path) -> dict[str, Any]:
    return json.loads((path / "summary.json").read_text())


def steps_of(path: Path) -> dict[str, np.ndarray]:
    """The history without its time columns."""
    with h5py.File(path / "run.h5") as file:
        columns = {name: values[:] for name, values in file["history"].items()}
    return {name: values for name, values in columns.items() if name not in TIME_COLUMNS}


def parameters(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(max((path / "checkpoints").iterdir()), weights_only=True)["model"]


def assert_same_run(one: Path, other: Path) -> None:
    for name, values in steps_of(one).items():
        np.testing.assert_array_equal(values, steps_of(other)[name])
    mine, theirs = parameters(one), parameters(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert result(one)["energy"] == result(other)["energy"]


def after_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Calls action once, while the given step is being recorded."""
    original = ProgressDisplay.update

    def update(self: ProgressDisplay, record: Record, elapsed: float, last: bool) -> None:
        original(self, record, elapsed, last)
        if record["step"] == step:
            action()

    monkeypatch.setattr(ProgressDisplay, "update", update)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of eight steps."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    with with_pictures():
        assert run(path) == 0
    return path


def test_folder_explains_itself(whole: Path) -> None:
    files = {str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file()}
    assert files == {
        "config.yaml",
        "environment.json",
        "digests.json",
        "run.log",
        "run.h5",
        "checkpoints/step-000000006.pt",
        "checkpoints/step-000000008.pt",
        "summary.json",
        "convergence.png",
    }
    (session,) = json.loads((whole / "environment.json").read_text())["sessions"]
    assert session["command"] == "python train.py" and session["seed"] == 3
    assert session["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in str(
        session["versions"]["torch"]
    )
    assert session["hardware"]["cores"] == os.cpu_count()
    assert session["flip_pass"].split()[0] in ("compiled", "torch")
    assert Config.from_dict(yaml.safe_load((whole / "config.yaml").read_text())) == tiny(
        run__dir=str(whole)
    )


def test_summary_and_history_agree(whole: Path) -> None:
    summary = result(whole)
    assert summary["status"] == "finished" and summary["steps"] == 8 and summary["n_sites"] == 4
    assert summary["seed"] == 3 and summary["n_parameters"] > 100 and summary["wall_seconds"] > 0
    assert summary["energy_per_site"] == summary["energy"] / 4
    assert summary["exact_energy"] == pytest.approx(-2.13434683, abs=1e-8)
    expected = abs(summary["energy"] / summary["exact_energy"] - 1)
    assert summary["relative_error"] == pytest.approx(expected)
    assert len(summary["observables"]["density"]["value"]) == 4
    with h5py.File(whole / "run.h5") as file:
        assert file["history/step"][:].tolist() == list(range(1, 9))
        assert file["history/energy"].attrs["unit"] == "couplings"
        (evaluation,) = file["evaluations"].values()
        assert evaluation.attrs["energy"] == summary["energy"]
        assert evaluation.attrs["kind"] == "final" and evaluation.attrs["n_samples"] == 64
        assert evaluation["density/value"].shape == (4,)


def test_log_has_header_rows_and_result(whole: Path) -> None:
    lines = (whole / "run.log").read_text().splitlines()
    header = next(i for i, line in enumerate(lines) if line.split()[:2] == ["step", "energy"])
    assert lines[header + 1].split()[0] == "1" and lines[header + 2].split()[0] == "8"
    assert len(lines[header]) == len(lines[header + 1])
    assert any(line.startswith("relative error") for line in lines)


def test_extending_equals_one_long_run(tmp_path: Path, whole: Path) -> None:
    assert run(tmp_path / "run", train__steps=5) == 0
    assert run(tmp_path / "run", train__steps=8, run__resume=True) == 0
    with h5py.File(tmp_path / "run" / "run.h5") as file:
        assert [e.attrs["step"] for e in file["evaluations"].values()] == [5, 8]
    assert_same_run(tmp_path / "run", whole)
    sessions = json.loads((tmp_path / "run/environment.json").read_text())["sessions"]
    assert len(sessions) == 2
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["train"]["steps"] == 8


def test_chosen_flip_precision_is_recorded_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured every third step; a resumed run goes on with the products and numbers it had."""
    monkeypatch.setattr(flip_precision, "CHECK_EVERY", 3)
    monkeypatch.setattr(Rounding, "tolerable", lambda self, n_samples: self.bias > 0)
    monkeypatch.setattr(flip_precision, "cheaper", lambda psi: ("bfloat16",))
    asked = {"train__flip_precision": "auto", "train__n_samples": 64}
    assert run(tmp_path / "whole", train__steps=13, **asked) == 0
    assert run(tmp_path / "parts", train__steps=8, **asked) == 0
    assert run(tmp_path / "parts", train__steps=13, run__resume=True, **asked) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    columns = steps_of(tmp_path / "whole")
    assert set(columns["flip_bits"]) == {8.0, 24.0}
    rounded = columns["flip_bits"] == 8
    assert all(columns["flip_bias"][rounded] != 0)
    assert all(columns["flip_rms_share"][~rounded] == 0)
    counts = {"bfloat16": int(rounded.sum()), "full": int((~rounded).sum())}
    assert result(tmp_path / "parts")["flip_precision"] == counts
    assert "bfloat16" in (tmp_path / "parts" / "run.log").read_text()


def test_columns_are_those_of_the_energies(tmp_path: Path, whole: Path) -> None:
    """Near flips add theirs; the default run has no more than the loop and the optimizer say."""
    common = {"step", "energy", "energy_error", "variance", "v_score", "n_unique"}
    common |= {"gradient_norm", "learning_rate"}
    assert set(steps_of(whole)) == common
    assert run(tmp_path / "run", train__steps=2, train__flip_radius=1.0) == 0
    columns = steps_of(tmp_path / "run")
    assert set(columns) == common | {"added_variance"} and (columns["added_variance"] >= 0).all()


def test_a_history_with_other_columns_goes_on(tmp_path: Path) -> None:
    """As older runs have them: what is no longer recorded is NaN from there on."""
    path = tmp_path / "run"
    assert run(path, train__steps=3) == 0
    content = read_run_file(path / "run.h5")
    content.declare([Column("flip_bits", "1", "significant bits")])
    content.columns["flip_bits"] = [8.0] * 3
    content.write(path / "run.h5")
    assert run(path, train__steps=5, run__resume=True) == 0
    bits = steps_of(path)["flip_bits"]
    assert bits[:3].tolist() == [8.0] * 3 and np.isnan(bits[3:]).all()
    assert result(path)["flip_precision"] == {"bfloat16": 3, "full": 2}


def test_resuming_a_finished_run_repeats_its_result(tmp_path: Path, whole: Path) -> None:
    assert run(tmp_path / "run") == 0
    assert run(tmp_path / "run", run__resume=True) == 0
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_says_how_to_resume(
    signum: signal.Signals,
    tmp_path: Path,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signum)
    with monkeypatch.context() as patch:
        after_step(patch, 4, lambda: os.kill(os.getpid(), signum))
        assert run(tmp_path / "run") == 128 + signum
    assert signal.getsignal(signum) is before
    last = capsys.readouterr().out.splitlines()[-1]
    command = f"python train.py run.dir={tmp_path / 'run'} run.resume=true"
    assert last.startswith("stopped at step ") and last.endswith(command)
    stopped = int(last.split()[3].rstrip(";"))
    assert stopped in (4, 5)  # the step in progress is finished, not thrown away
    assert result(tmp_path / "run")["status"] == "interrupted"
    assert len(steps_of(tmp_path / "run")["step"]) == stopped
    assert run(tmp_path / "run", run__resume=True) == 0
    assert_same_run(tmp_path / "run", whole)


def test_signal_during_evaluation(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killing(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal must not wait here")

    with monkeypatch.context() as patch:
        patch.setattr("nqs.ground_states.evaluations.evaluate", killing)
        assert run(tmp_path / "run") == 128 + signal.SIGTERM
    assert run(tmp_path / "run", run__resume=True) == 0
    assert_same_run(tmp_path / "run", whole)


def test_budget_counts_over_sessions(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert run(path, train__steps=10**6, train__max_seconds=0.3) == 0
    first = result(path)
    assert first["status"] == "budget" and 1 <= first["steps"] < 10**6
    assert first["energy"] is not None and first["wall_seconds"] > 0.3
    changes = {"train__steps": 10**6, "run__resume": True}
    assert run(path, train__max_seconds=0.3, **changes) == 0
    assert result(path)["steps"] == first["steps"]
    assert run(path, train__max_seconds=0.5, **changes) == 0
    assert result(path)["steps"] > first["steps"]
    with h5py.File(path / "run.h5") as file:
        elapsed = file["history/elapsed"][:]
    assert (np.diff(elapsed) > 0).all() and 0.5 <= elapsed[-1] < 5


def test_energy_that_is_not_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(record: Record, names: Sequence[str]) -> None:
        check_finite(record, names)
        if record["step"] == 5:
            raise FloatingPointError("the energy of step 5 is not finite")

    monkeypatch.setattr(resumable_run, "check_finite", broken)
    assert run(tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "step 5" in error and "checkpoint: step 3" in error
    assert result(tmp_path / "run")["status"] == "failed"
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["step-000000003.pt"]


def test_exploding_run_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update = Adam.update
    monkeypatch.setattr(Adam, "update", lambda *arguments: 1e38 * update(*arguments))
    assert run(tmp_path / "run", train__checkpoint_every=1) == 1
    assert "not finite" in capsys.readouterr().err
    assert result(tmp_path / "run")["status"] == "failed"


def test_full_disk(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(step: int) -> None:
        def fail(*arguments: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", fail)

    with monkeypatch.context() as patch:
        after_step(patch, 5, lambda: full(5))
        with pytest.raises(InputError, match=r"No space left on device.*resume") as caught:
            run(tmp_path / "run")
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.tmp"))
    assert run(tmp_path / "run", run__resume=True) == 0
    assert_same_run(tmp_path / "run", whole)


def test_damaged_newest_checkpoint_falls_back(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "run") == 0
    newest = max((tmp_path / "run/checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    assert run(tmp_path / "run", run__resume=True) == 0
    out = capsys.readouterr().out
    warnings = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and newest.name in warnings[0]
    assert "resumed at step 6" in out
    assert_same_run(tmp_path / "run", whole)


def test_killed_before_the_first_checkpoint(tmp_path: Path, whole: Path) -> None:
    config = tiny(run__dir=str(tmp_path / "run"))
    create(config, build(config).wavefunction, ["python"])
    assert run(tmp_path / "run", run__resume=True) == 0
    assert_same_run(tmp_path / "run", whole)


def test_input_files_travel_with_the_run(tmp_path: Path) -> None:
    sites = tmp_path / "sites.csv"
    sites.write_text("x,y\n0,0\n1,0\n0,1\n1,1.5\n")
    lattice = {"name": "positions", "file": str(sites)}
    assert run(tmp_path / "run", lattice=lattice) == 0
    sites.unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    config = resumed_config(tmp_path / "moved", {"train.steps": 9})
    assert run_job(config, ["python"]) == 0
    assert result(tmp_path / "moved")["steps"] == 9
    sites.write_text("x,y\n0,0\n1,0\n0,1\n1,1.25\n")
    with pytest.raises(InputError, match=r"lattice\.file"):
        resumed_config(tmp_path / "moved", {"lattice.file": str(sites)})


def test_two_processes_on_one_run(tmp_path: Path) -> None:
    assert run(tmp_path / "run") == 0
    with folder.locked(tmp_path / "run"), pytest.raises(InputError, match="another process"):
        run(tmp_path / "run", run__resume=True)


def test_a_lock_ends_where_it_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although a child that another thread has just started still has a copy of its descriptor."""
    opened: list[int] = []
    monkeypatch.setattr(
        os, "open", lambda *a, _open=os.open: opened.append(_open(*a)) or opened[-1]
    )
    with folder.locked(tmp_path):
        copy = os.dup(opened[-1])
    with folder.locked(tmp_path):
        pass
    os.close(copy)
    with folder.temporary_folder(tmp_path / "run") as temporary:
        copy = os.dup(opened[-1])
        temporary.rename(tmp_path / "run")
    with folder.locked(tmp_path / "run"):
        pass
    os.close(copy)


def test_positive_state_of_a_frustrated_system_is_flagged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terms = tmp_path / "terms.txt"
    terms.write_text("1.0 XXII\n0.5 ZIIZ\n1.0 IIZX\n0.3 ZZII\n")
    hamiltonian = {"name": "pauli", "file": str(terms)}
    assert run(tmp_path / "run", hamiltonian=hamiltonian) == 0
    assert "upper bound" in capsys.readouterr().out
    assert "upper bound" in result(tmp_path / "run")["warning"]


def test_evaluate_adds_and_keeps(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "run") == 0
    before = result(tmp_path / "run")
    command = ["evaluate", str(tmp_path / "run"), "--samples", "500", "--seed", "9"]
    assert nqs([*command, "--subsystem", "0,1", "--subsystem", "2"]) == 0
    content = read_run_file(tmp_path / "run/run.h5")
    assert [e.numbers["kind"] for e in content.evaluations] == ["final", "later"]
    assert content.evaluations[1].numbers["n_samples"] == 500
    assert content.evaluations[0].numbers["energy"] == before["energy"]
    summary = result(tmp_path / "run")
    (also,) = summary.pop("later_evaluations")
    numbers = dict(content.evaluations[1].numbers)
    assert also == {name: value for name, value in numbers.items() if name != "kind"}
    assert summary.pop("sha256") != before.pop("sha256") and summary == before
    assert_same_run(tmp_path / "run", whole)
    out = capsys.readouterr().out
    assert "500 samples, seed 9" in out and "Renyi entropy S2, 2 sites" in out
    final, later = content.evaluations
    n_sites = before["n_sites"]
    assert later.coordinates["renyi2"].tolist() == [[1, 1, 0, 0], [0, 0, 1, 0]]
    assert later.observables["renyi2"][0].shape == (2,) and "renyi2" not in final.observables
    momenta = later.coordinates["structure_factor"]
    assert momenta.shape[:-1] == later.observables["structure_factor"][1].shape
    for evaluation in content.evaluations:
        assert evaluation.observables["density_density"][0].shape == (n_sites, n_sites)
        assert evaluation.observables["sigma_x"][1].shape == (n_sites,)
    with h5py.File(tmp_path / "run/run.h5") as file:
        for observable in file["evaluations/0002"].values():
            assert observable.attrs["unit"] and observable.attrs["description"]


def test_the_summary_stays_short(whole: Path) -> None:
    """Scalars and densities; pairs of sites and momenta are in run.h5 alone."""
    summary = result(whole)["observables"]
    assert "density" in summary and "checkerboard_order" in summary
    assert not {"density_density", "connected", "structure_factor", "sigma_x"} & summary.keys()


def test_show_and_plot(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nqs(["show", str(whole)]) == 0
    assert "relative error" in capsys.readouterr().out
    picture = whole / "convergence.png"
    old = picture.read_bytes()
    atomic.write_bytes(picture, b"")
    with with_pictures():
        assert nqs(["plot", str(whole)]) == 0
    assert picture.read_bytes() == old
    assert (whole / "observables.png").read_bytes().startswith(b"\x89PNG")
