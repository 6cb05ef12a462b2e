"""Runs on two gloo processes: resume with any number, signals, a process that dies, refusals."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from test_ground_state_run import assert_same_run, parameters, result, run, steps_of

import train
from nqs.errors import InputError
from nqs.ground_states.distributed import own_card, share_cores, started_by
from nqs.runfolder.machine import build_generator
from nqs.runfolder.progress import ProgressDisplay, Record

ROOT = Path(__file__).resolve().parents[2]
MINSR = {
    "name": "minsr",
    "learning_rate": 0.1,
    "diagonal_shift": 1e-3,
    "momentum": 0.9,
    "max_norm": 0.5,
    "implicit": True,
    "schedule": "constant",
    "warmup_steps": 0,
    "final_fraction": 0.1,
    "final_shift_fraction": 1.0,
    "memory_gb": 1.0,
}
SCENARIOS = ("whole", "half", "more", "two", "stopped", "refused", "killed")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def at_step(step: int, action: Callable[[], None]) -> Callable[[], None]:
    """Calls action once, while that step is being recorded; returns what ends that."""
    original = ProgressDisplay.update

    def update(self: ProgressDisplay, record: Record, elapsed: float, last: bool) -> None:
        original(self, record, elapsed, last)
        if record["step"] == step:
            action()

    def undo() -> None:
        ProgressDisplay.update = original  # type: ignore[method-assign]

    ProgressDisplay.update = update  # type: ignore[method-assign]
    return undo


def scenario(name: str, rank: int, folder: Path) -> int:
    """What one of two processes does; the exit code of its run."""
    changes: dict[str, Any] = {"optimizer": MINSR, "train__n_samples": 17}
    if name == "whole":
        return run(folder / "whole", **changes)
    if name == "half":
        return run(folder / "half", train__steps=3, **changes)
    if name == "more":
        return run(folder / "half", run__resume=True, **changes)
    if name == "two":
        return run(folder / "from one", run__resume=True, **changes)
    if name == "refused":
        return run(folder / "refused", train__n_samples=2, train__eval_samples=3)
    signum = signal.SIGTERM if name == "stopped" else signal.SIGKILL
    undo = at_step(5, lambda: os.kill(os.getpid(), signum)) if rank else lambda: None
    try:
        return run(folder / name, train__steps=50, **changes)
    finally:
        undo()


def work(rank: int, folder: Path, ports: list[int]) -> None:
    """One of the processes: all scenarios; exit codes and what was printed are in files."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": f"{rank}", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"LOCAL_RANK": f"{rank}", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    for name, port in zip(SCENARIOS, ports, strict=True):
        os.environ["MASTER_PORT"] = f"{port}"
        with (
            open(folder / f"{name}.{rank}.txt", "w", buffering=1) as output,
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            try:
                print("code", scenario(name, rank, folder))
            except InputError as error:
                print("refused", error)
            except Exception:
                traceback.print_exc()
                raise


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have been through all scenarios; the last one killed the second."""
    folder = tmp_path_factory.mktemp("distributed")
    assert run(folder / "from one", train__steps=3, train__n_samples=17, optimizer=MINSR) == 0
    shutil.copytree(folder / "from one", folder / "one alone")
    ports = [free_port() for _ in SCENARIOS]
    processes = [
        get_context("spawn").Process(target=work, args=(r, folder, ports)) for r in range(2)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + 300
    while any(p.is_alive() for p in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
        if any(p.exitcode not in (None, 0, -signal.SIGKILL) for p in processes):
            break  # the other one would wait for it
    for process in processes:
        process.kill()
        process.join()
    assert [process.exitcode for process in processes] == [0, -signal.SIGKILL]
    return folder


def said(folder: Path, name: str, rank: int) -> str:
    return (folder / f"{name}.{rank}.txt").read_text()


def test_rank_0_alone_writes(folder: Path) -> None:
    assert "2 x cpu" in said(folder, "whole", 0) and said(folder, "whole", 0).endswith("code 0\n")
    assert said(folder, "whole", 1) == "code 0\n"
    assert len(steps_of(folder / "whole")["step"]) == 8
    assert result(folder / "whole")["n_samples"] == 64
    assert result(folder / "whole")["relative_error"] < 0.2
    assert not list((folder / "whole").rglob(".*"))


def test_resumed_on_two_is_the_uninterrupted_run(folder: Path) -> None:
    """Bit for bit, each process with its own stream of samples."""
    assert_same_run(folder / "whole", folder / "half")
    content = torch.load(max((folder / "half" / "checkpoints").iterdir()), weights_only=True)
    assert len(content["generator"]) == 2
    assert not torch.equal(*content["generator"])


def test_resumed_on_another_number(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "the samples go on differently, seeded anew by seed, process and step 3"
    assert line in said(folder, "two", 0) and "saved with 1 generators" in said(folder, "two", 0)
    assert said(folder, "two", 1) == "code 0\n"
    for name in ("one", "two"):  # neither repeats the samples of one process that goes on
        path, other = folder / f"{name} alone", folder / "from one"
        if name == "two":
            path = folder / "two alone"
            shutil.copytree(folder / "whole", path)
            for late in sorted((path / "checkpoints").iterdir())[1:]:
                late.unlink()
            other = folder / "whole"
        changes = {"optimizer": MINSR, "train__n_samples": 17}
        assert run(path, run__resume=True, **changes) == 0
        assert (line.replace("step 3", "step 6") in capsys.readouterr().out) == (name == "two")
        mine, theirs = steps_of(path)["energy"], steps_of(other)["energy"]
        kept = 3 if name == "one" else 6
        assert len(mine) == len(theirs) == 8
        assert (mine[:kept] == theirs[:kept]).all() and (mine[kept:] != theirs[kept:]).all()


def test_a_signal_to_one_process_stops_all_at_the_same_step(folder: Path) -> None:
    assert said(folder, "stopped", 0).endswith("code 143\n")
    assert said(folder, "stopped", 1) == "code 143\n"
    assert "torchrun --nproc-per-node=2 train.py run.dir=" in said(folder, "stopped", 0)
    assert result(folder / "stopped")["status"] == "interrupted"
    assert result(folder / "stopped")["steps"] == 6  # the signal came during step 5


def test_a_process_that_dies(folder: Path) -> None:
    """kill -9 of one: the other ends with a line, and the last checkpoint goes on."""
    text = said(folder, "killed", 0)
    assert text.endswith("code 1\n")
    assert "error: process 0 of 2 lost another one" in text and "resume at step 3 with" in text
    assert result(folder / "killed")["status"] == "lost"
    path = folder / "killed"
    changes = {"optimizer": MINSR, "train__n_samples": 17, "train__steps": 8}
    assert run(path, run__resume=True, **changes) == 0
    assert result(path)["status"] == "finished" and len(steps_of(path)["step"]) == 8
    assert parameters(path).keys() == parameters(folder / "whole").keys()


def test_too_few_samples_are_refused(folder: Path) -> None:
    line = "refused train.eval_samples=3: 2 processes need at least 4; draw more or start fewer"
    assert said(folder, "refused", 0).startswith(line)
    assert not (folder / "refused").exists()


def test_streams_are_independent() -> None:
    cpu = torch.device("cpu")
    drawn = [
        torch.rand(4, generator=build_generator(0, stream, cpu, rank))
        for stream in ("samples", "evaluation")
        for rank in range(3)
    ]
    assert len(torch.stack(drawn).unique()) == 24
    first = build_generator(0, "samples", cpu)
    assert torch.equal(torch.rand(4, generator=first), drawn[0])


def test_fewer_cards_than_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="device=auto: 4 processes on a machine with 2 GPUs; "):
        own_card("device=auto")


def test_cores_are_shared_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    share_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    share_cores()
    assert given == [2]


def test_the_command_is_told_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["python", "train.py", "seed=1"]
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert started_by(command) == command
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    several = ["torchrun", "--nnodes=2", "--nproc-per-node=4", "train.py", "seed=1"]
    assert started_by(command) == several


def test_a_scan_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train.main(["-m", "hamiltonian.delta=1,2"]) == 2
    assert capsys.readouterr().err.startswith("error: -m: a scan under torchrun; start it without")


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    return subprocess.run(
        [sys.executable, *command, str(ROOT / "train.py"), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_bad_input_is_one_line_under_torchrun() -> None:
    done = torchrun("model.d_modle=8")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "model.d_modle" in lines[0] and "model.d_model" in lines[0]
    assert done.returncode != 0 and "exitcode  : 2" in done.stderr


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    """The command of the README, on a tiny system."""
    tiny = ["lattice.Lx=2", "lattice.Ly=2", "train.steps=4", "train.eval_samples=64"]
    done = torchrun(*tiny, f"run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "run")["status"] == "finished"
