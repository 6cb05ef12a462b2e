"""Runs that grow: all stages in one folder, killed, stopped and resumed anywhere."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pictures import with_pictures
from test_ground_state_run import assert_same_run, result, run, steps_of, tiny
from test_symmetry import MINSR

import nqs
from nqs.cli.app import main as command
from nqs.errors import InputError
from nqs.ground_states import ground_state_run, growth, plateau, stages
from nqs.ground_states.build import build
from nqs.ground_states.growth import with_stages
from nqs.ground_states.run import run as run_job
from nqs.ground_states.run_folder import START, read_config, resumed_config
from nqs.ground_states.start import read_start
from nqs.runfolder import history
from nqs.runfolder.progress import ProgressDisplay, Record
from nqs.vmc.optimizers import Adam

CHAIN = {"name": "chain", "Lx": 8, "periodic": False}
STAGES = ("4", "6")


class Killed(BaseException):
    """Ends a process as kill -9 would, as far as the files are concerned."""


def grown(path: Path, **changes: Any) -> int:
    return run(path, **{"lattice": CHAIN, "train__grow": [4, 6], "train__stage_steps": 8} | changes)


def again(path: Path, **changes: Any) -> int:
    return grown(path, run__resume=True, **{"train__grow": ["4", "6"]} | changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three stages of eight steps each."""
    path = tmp_path_factory.mktemp("grown") / "whole"
    with with_pictures():
        assert grown(path) == 0
    return path


def assert_same_growth(one: Path, other: Path) -> None:
    assert_same_run(one, other)
    for name in STAGES:
        assert_same_run(one / "stages" / name, other / "stages" / name)


def in_stage(
    monkeypatch: pytest.MonkeyPatch, number: int, step: int, action: Callable[[], None]
) -> None:
    """Calls action once, while a step of the number-th optimisation is being recorded."""
    original, begun = ProgressDisplay.update, [0]

    def update(self: ProgressDisplay, record: Record, elapsed: float, last: bool) -> None:
        original(self, record, elapsed, last)
        begun[0] += record["step"] == 1
        if begun[0] == number and record["step"] == step:
            action()

    monkeypatch.setattr(ProgressDisplay, "update", update)


def kill() -> None:
    raise Killed


def test_each_stage_is_a_run_that_starts_from_the_one_before(whole: Path) -> None:
    assert sorted(path.name for path in (whole / "stages").iterdir()) == ["4", "6"]
    saved = yaml.safe_load((whole / "config.yaml").read_text())
    assert saved["train"]["grow"] == ["4", "6"] and saved["train"]["start_from"] is None
    before = None
    for name in STAGES:
        folder = whole / "stages" / name
        config = read_config(folder)
        assert config.lattice.Lx == int(name) == result(folder)["n_sites"]
        assert result(folder)["status"] == "finished" and (folder / "convergence.png").exists()
        assert config.train.start_from == (None if before is None else str(before))
        assert (folder / START).exists() == (before is not None)
        before = folder
    assert result(whole)["n_sites"] == 8 and result(whole)["steps"] == 8
    assert "start_energy" in result(whole) and "start_energy" in result(whole / "stages/6")
    assert "start_energy" not in result(whole / "stages/4")
    assert steps_of(whole)["step"].tolist() == list(range(1, 9))


def test_the_start_is_the_last_stage_carried_over(whole: Path, tmp_path: Path) -> None:
    """As train.start_from of that stage has it."""
    stage, path = whole / "stages/6", tmp_path / "run"
    assert run(path, lattice=CHAIN, train__start_from=str(stage)) == 0
    ours, theirs = (read_start(folder / START)["model"] for folder in (whole, path))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert_same_run(whole, path)


def test_the_optimizer_knows_which_stages_start_warm(tmp_path: Path) -> None:
    assert grown(tmp_path / "run", optimizer=MINSR | {"learning_rate": "auto"}) == 0
    rates = {
        name: steps_of(tmp_path / "run" / name)["learning_rate"].max()
        for name in ("stages/4", "stages/6", ".")
    }
    assert rates["stages/4"] < rates["stages/6"]
    job = build(with_stages(tiny(lattice=CHAIN, train__grow=[4], optimizer=MINSR)))
    assert job.config.train.starts_warm
    auto = MINSR | {"learning_rate": "auto"}
    cold, warm = (
        build(with_stages(tiny(lattice=CHAIN, train__grow=grow, optimizer=auto))).optimizer
        for grow in (False, [4])
    )
    assert warm.learning_rate == 2 * cold.learning_rate


@pytest.mark.parametrize(("number", "step"), [(1, 2), (1, 5), (2, 1), (2, 8), (3, 1), (3, 7)])
def test_killed_anywhere_it_goes_on_bit_for_bit(
    number: int, step: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        in_stage(patch, number, step, kill)
        with pytest.raises(Killed):
            grown(tmp_path / "run")
    assert not (tmp_path / "run/summary.json").exists()
    assert again(tmp_path / "run") == 0
    assert_same_growth(tmp_path / "run", whole)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_killed_between_its_stages_it_goes_on(
    number: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the number-th file of parameters is carried over, or a summary is written."""
    called = [0]
    name = "starting_file" if number < 3 else "put_at_start"
    module = stages if number < 3 else ground_state_run
    original = getattr(module, name)

    def dies(*arguments: Any) -> Any:
        called[0] += 1
        if called[0] == (number if number < 3 else number - 1):
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, dies)
        with pytest.raises(Killed):
            grown(tmp_path / "run")
    assert again(tmp_path / "run") == 0
    assert_same_growth(tmp_path / "run", whole)


def test_killed_before_a_stage_has_its_result(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its steps are done; they are not done again."""
    original = ground_state_run.evaluated
    with monkeypatch.context() as patch:

        def dies(job: Any, n: int, seed: int, step: int, kind: str, **rest: Any) -> Any:
            if kind == "final":
                raise Killed
            return original(job, n, seed, step, kind, **rest)

        patch.setattr(ground_state_run, "evaluated", dies)
        with pytest.raises(Killed):
            grown(tmp_path / "run")
    assert again(tmp_path / "run") == 0
    assert_same_growth(tmp_path / "run", whole)


@pytest.mark.parametrize("number", [1, 2])
def test_a_signal_in_a_stage_saves_and_says_how_to_go_on(
    number: int,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        in_stage(patch, number, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert grown(path) == 128 + signal.SIGTERM
    out, name = capsys.readouterr().out, STAGES[number - 1]
    assert f"stopped in stage {name}, at its step 5" in out  # polled before the display
    assert f"resume with: python train.py run.dir={path} run.resume=true" in out
    assert result(path)["status"] == result(path / "stages" / name)["status"] == "interrupted"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert f"stopped in stage {name}, at its step 5" in result(path)["notes"]
    assert command(["plot", str(path)]) == 2
    assert "has done no step of its own yet" in capsys.readouterr().err
    assert again(path) == 0
    assert ("done in an earlier session" in capsys.readouterr().out) == (number == 2)
    assert_same_growth(path, whole)


def test_a_signal_while_a_stage_is_evaluated(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And after it, in the next stage, a signal waits for the step's end again."""
    original = ground_state_run.evaluated

    def stopped(*arguments: Any, **rest: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal must not wait here")

    with monkeypatch.context() as patch:
        patch.setattr(ground_state_run, "evaluated", stopped)
        assert grown(tmp_path / "run") == 128 + signal.SIGTERM
    assert ground_state_run.evaluated is original
    with monkeypatch.context() as patch:
        in_stage(patch, 1, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))  # of stage 6
        assert again(tmp_path / "run") == 128 + signal.SIGTERM
    assert result(tmp_path / "run/stages/6")["steps"] == 3
    assert again(tmp_path / "run") == 0
    assert_same_growth(tmp_path / "run", whole)


def test_the_budget_counts_all_stages(tmp_path: Path) -> None:
    """A stage may take a third of what is left; the lattice itself comes to its result, with no
    step at all where nothing is left."""
    path = tmp_path / "run"
    assert grown(path, train__max_seconds=1e-3) == 0
    assert result(path)["status"] == "budget" and result(path)["energy"] is not None
    spent = sum(result(path / "stages" / name)["wall_seconds"] for name in STAGES)
    assert result(path)["steps"] == 0 and result(path)["wall_seconds"] >= spent > 1e-3
    limits = [read_config(path / "stages" / name).train.max_seconds for name in STAGES]
    assert limits == [pytest.approx(1e-3), pytest.approx(1e-3)]
    assert again(path, train__max_seconds=1e6) == 0
    elapsed = np.asarray(history.read(path / "run.h5").columns["elapsed"])
    assert len(elapsed) == 8 and elapsed[0] >= spent
    assert grown(tmp_path / "long", train__max_seconds=900.0) == 0
    first, second = (
        read_config(tmp_path / "long/stages" / name).train.max_seconds for name in STAGES
    )
    assert first == 300.0 and second is not None and 200 < second < 300


def test_a_stage_ends_when_it_no_longer_pays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate of nothing moves nothing: at the same step of a run that is killed and resumed; the
    lattice itself takes all of its steps."""
    monkeypatch.setattr(plateau, "LEAST_STEPS", 4)
    monkeypatch.setattr(plateau, "LEAST_WINDOW", 2)
    monkeypatch.setattr(plateau, "NEGLIGIBLE", 10.0)
    still = {"optimizer": tiny().to_dict()["optimizer"] | {"learning_rate": 1e-10}}
    still |= {"train__steps": 12, "train__stage_steps": 12, "train__grow": [4]}
    assert grown(tmp_path / "whole", **still) == 0
    stage = result(tmp_path / "whole/stages/4")
    assert stage["status"] == "converged" and 4 <= stage["steps"] < 12
    assert result(tmp_path / "whole")["steps"] == 12
    for step in (stage["steps"] - 1, stage["steps"]):  # the last is done again, or judged again
        path = tmp_path / f"killed at {step}"
        with monkeypatch.context() as patch:
            in_stage(patch, 1, step, kill)
            with pytest.raises(Killed):
                grown(path, **still)
        assert again(path, **still | {"train__grow": ["4"]}) == 0
        assert_same_run(path, tmp_path / "whole")
        assert_same_run(path / "stages/4", tmp_path / "whole/stages/4")


def test_a_stage_that_is_not_finite_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Adam, "update", lambda self, psi, *rest: torch.full((1,), torch.nan))
    assert grown(tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert "stage 4: the update of step 1 is not finite" in error and error.count("\n") == 1
    assert result(tmp_path / "run")["status"] == "failed"


def test_resuming_accepts_the_words_that_began_it(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for same in ([4, 6], ["4", "6"], [4, 6, 8], ("4", 6)):
        changes = {"train.grow": same, "model.patch": "auto"}
        assert resumed_config(whole, changes).train.grow == ("4", "6")
    for other in ([4], [4, 5], [9], False, True, "no"):
        with pytest.raises(InputError, match=r"train\.grow=.*may only change"):
            resumed_config(whole, {"train.grow": other})
    monkeypatch.setattr(growth, "SMALLEST", 4)
    assert grown(tmp_path / "run", train__grow=True, train__steps=1) == 0
    assert read_config(tmp_path / "run").train.grow == ("4",)
    config = resumed_config(tmp_path / "run", {"train.grow": True, "train.steps": 2})
    assert config.train.grow == ("4",) and run_job(config, ["python", "train.py"]) == 0
    assert result(tmp_path / "run")["steps"] == 2


def test_a_stage_without_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        in_stage(patch, 2, 3, kill)
        with pytest.raises(Killed):
            grown(tmp_path / "run")
    (tmp_path / "run/stages/6/config.yaml").unlink()
    with pytest.raises(InputError, match=r"stages/6 has no config\.yaml.* delete that folder"):
        again(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/stages/6")
    assert again(tmp_path / "run") == 0


def test_a_start_that_is_lost_is_told(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / START).unlink()
    assert again(tmp_path / "run", train__steps=9) == 0
    assert "start.pt is missing: the run may have ended above" in capsys.readouterr().out


def test_a_finished_run_is_extended(whole: Path, tmp_path: Path) -> None:
    """The stages are left alone."""
    path = tmp_path / "run"
    assert grown(path, train__steps=5) == 0
    shutil.rmtree(path / "stages")
    assert again(path) == 0
    assert result(path)["steps"] == 8 and not (path / "stages").exists()


def test_commands_read_a_grown_run(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    for words in (["show"], ["plot"], ["evaluate", "--samples", "64"]):
        assert command([words[0], str(path), *words[1:]]) == 0
        assert command([words[0], str(path / "stages/6"), *words[1:]]) == 0
    capsys.readouterr()
    state = nqs.load(path)
    assert state.step == 8 and state.lattice.n_sites == 8
    assert run(tmp_path / "next", lattice=CHAIN | {"Lx": 10}, train__start_from=str(path)) == 0


def test_from_python_in_memory_and_in_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "SMALLEST", 4)
    hamiltonian = nqs.Rydberg(nqs.Chain(16), V=7, delta=1)
    options: dict[str, Any] = {"steps": 4, "samples": 16, "eval_samples": 32, "seed": 1}
    options |= {"model": {"name": "ptf", "patch": 2, "d_model": 4, "n_heads": 2}, "exact": False}
    options["stage_steps"] = 4
    by_numpy = nqs.ground_state(hamiltonian, grow=[np.int64(4), np.int64(8)], **options)
    assert by_numpy.energy == nqs.ground_state(hamiltonian, grow=range(4, 9, 4), **options).energy
    memory = nqs.ground_state(hamiltonian, grow=True, **options)
    folder = nqs.ground_state(hamiltonian, grow=("4", 8), dir=tmp_path / "run", **options)
    assert memory.config.train.grow == folder.config.train.grow == ("4", "8")
    assert memory.energy == folder.energy and "start_energy" in memory.summary
    saved = memory.save(tmp_path / "saved")
    assert_same_run(saved, tmp_path / "run")
    assert resumed_config(saved, {"train.steps": 6}).train.steps == 6
    assert not list(tmp_path.glob("saved/stages"))
    ours, theirs = (read_start(tmp_path / name / START)["model"] for name in ("saved", "run"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(ValueError, match=r"train\.grow=\[9,8\]: 9 does not grow to 8"):
        nqs.ground_state(hamiltonian, grow=["9", 8], **options)
    pauli = nqs.PauliSum(4, [(1.0, "XXXX")])
    with pytest.raises(ValueError, match=r"grow=\[4\]: hamiltonian=pauli"):
        nqs.ground_state(pauli, grow=[4], **options)
    noisy = nqs.Rydberg(nqs.Chain(16), V=7, delta=[1.0] * 16)
    with pytest.raises(ValueError, match="a number for each site"):
        nqs.ground_state(noisy, grow=True, **options)


def test_a_scan_grows_each_point_that_starts_cold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["lattice=chain", "lattice.Lx=8", "model.patch=2", "model.d_model=4", "seed=1"]
    words += ["model.n_layers=1", "model.n_heads=2", "train.steps=2", "train.n_samples=8"]
    words += ["train.eval_samples=8", "train.exact=false", "train.stage_steps=2"]
    words += ["train.grow=[4,6]"]
    words += ["hamiltonian.delta=1,1.1", "scan.warm_start=hamiltonian.delta", "scan.dir=scan"]
    assert command(["scan", *words, "scan.repeat=false"]) == 0
    first, second = (Path("scan") / f"hamiltonian.delta={value}" for value in ("1", "1.1"))
    assert (first / "stages/6/summary.json").exists()
    warm = read_config(second).train
    assert warm.grow is False and warm.start_from == str(first)
    assert command(["collect", "scan"]) == 0
    assert command(["scan", *words[:-3], "hamiltonian.delta=1,2", "train.grow=[9]"]) == 2
    assert "train.grow" in capsys.readouterr().err


def test_two_processes_grow_together(tmp_path: Path) -> None:
    """And one goes on where they were stopped."""
    words = ["lattice=chain", "lattice.Lx=8", "model.patch=2", "model.d_model=4", "seed=1"]
    words += ["train.steps=4", "train.n_samples=16", "train.eval_samples=16", "train.exact=false"]
    words += ["train.grow=[4,6]", "train.stage_steps=4", "device=cpu"]
    words += [f"run.dir={tmp_path / 'run'}"]
    root = Path(__file__).resolve().parents[2]
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*program, "--nproc-per-node=2", str(root / "train.py"), *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "run")["steps"] == 4
    assert result(tmp_path / "run/stages/6")["steps"] == 4
