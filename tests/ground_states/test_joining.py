"""Kind 2 and 5, processes that differ: all refuse in one line what one of them would do otherwise,
none waits for ever; one that falls silent is noticed within train.rank_timeout."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from test_distributed import at_step, free_port, said
from test_ground_state_run import result, run, tiny

from nqs.errors import InputError
from nqs.ground_states import distributed
from nqs.ground_states import run as job
from nqs.ground_states.build import Job
from nqs.ground_states.config import Config
from nqs.ground_states.distributed import check_alike, code_digest, passport, together
from nqs.ground_states.run_folder import resumed_config
from nqs.vmc.ranks import ALONE

TIMEOUT = 4.0
SCENARIOS = (
    "coupling",
    "input",
    "folder",
    "version",
    "missing",
    "no_run",
    "device",
    "alike",
    "silent",
)


def scenario(name: str, rank: int, folder: Path) -> int:
    """What one of two processes does; the exit code of its run."""
    strings = folder / f"strings {rank}.txt"
    pauli = {"name": "pauli", "file": str(strings)}
    if name == "coupling":
        delta = {"name": "rydberg", "V": 7.0, "delta": 1.0 + rank, "Omega": 1.0}
        return run(folder / name, hamiltonian=delta)
    if name in ("input", "alike"):
        strength = 0.5 + rank if name == "input" else 0.5
        strings.write_text(f"-1 Z0 Z1\n-{strength} X0\n-1 X3\n")
        return run(folder / name, hamiltonian=pauli, train__steps=2)
    if name == "folder":
        return run(folder / f"{name} {rank}")
    if name == "version" and rank == 1:
        distributed.PACKAGES, before = (), distributed.PACKAGES  # type: ignore[misc]
        original, distributed.code_digest = code_digest, lambda: "another"
        try:
            return run(folder / name)
        finally:
            distributed.PACKAGES, distributed.code_digest = before, original  # type: ignore[misc]
    if name == "missing":  # refused while the configuration is read
        where = folder / f"gone {rank}.txt" if rank else strings
        mapping = tiny(run__dir=str(folder / name)).to_dict()
        mapping["hamiltonian"] = {"name": "pauli", "file": str(where)}
        return job.run_loaded(lambda: Config.from_dict(mapping), ["python"])
    if name == "no_run":
        path = folder / ("alone" if rank == 0 else "nowhere")
        load = lambda: resumed_config(path, {})  # noqa: E731
        return job.run_loaded(load, ["python", "train.py"])
    if name in ("version", "device") and rank == 0:
        return run(folder / name)
    if name == "device":
        original_build = job.build

        def elsewhere(*arguments: Any) -> Job:
            raise InputError("device=cuda: torch sees no GPU here")

        job.build = elsewhere
        try:
            return run(folder / name)
        finally:
            job.build = original_build
    stop = lambda: os.kill(os.getpid(), signal.SIGSTOP)  # noqa: E731
    undo = at_step(5, stop) if rank and name == "silent" else lambda: None
    try:
        return run(folder / name, train__steps=50, train__rank_timeout=TIMEOUT)
    finally:
        undo()


def work(rank: int, folder: Path, ports: list[int]) -> None:
    """One of the processes: all scenarios; exit codes and what was printed are in files."""
    import contextlib
    import traceback

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
            began = time.monotonic()
            try:
                print("code", scenario(name, rank, folder))
            except InputError as error:
                print("refused", error)
            except Exception:
                traceback.print_exc()
            print(f"{time.monotonic() - began:.1f} seconds")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have been through all scenarios; in the last one the second stopped."""
    folder = tmp_path_factory.mktemp("joining")
    assert run(folder / "alone", train__steps=2) == 0
    ports = [free_port() for _ in SCENARIOS]
    processes = [
        get_context("spawn").Process(target=work, args=(r, folder, ports)) for r in range(2)
    ]
    for process in processes:
        process.start()
    processes[0].join(200)
    hung = processes[0].is_alive()
    for process in processes:
        process.kill()
        process.join()
    assert not hung, [file.read_text() for file in sorted(folder.glob("*.?.txt"))]
    return folder


REFUSED = {
    "coupling": "hamiltonian.delta=2.0 on process 1 and 1.0 on process 0; start all with the same",
    "input": "content of hamiltonian.file=",
    "folder": "run.dir=",
    "version": "torch=null on process 1 and",
    "missing": "process 1 of 2: hamiltonian.file=",
    "no_run": "process 1 of 2: ",
    "device": "process 1 of 2: device=cuda: torch sees no GPU here",
}


@pytest.mark.parametrize("name", REFUSED)
def test_processes_that_differ(name: str, folder: Path) -> None:
    first, second = (said(folder, name, rank).splitlines() for rank in range(2))
    assert first[0] == second[0] and first[0].startswith(f"refused {REFUSED[name]}")
    assert len(first) == len(second) == 2  # at once, and before any work
    assert float(first[1].split()[0]) < 20 and not (folder / name).exists()


def test_what_may_differ(folder: Path) -> None:
    """An input file may have another name where its content is the same."""
    assert "code 0" in said(folder, "alike", 0) and "code 0" in said(folder, "alike", 1)


def test_a_process_that_falls_silent(folder: Path) -> None:
    text = said(folder, "silent", 0)
    assert "code 1" in text and "error: process 0 of 2 lost another one" in text
    assert float(text.splitlines()[-1].split()[0]) < 5 * TIMEOUT
    assert result(folder / "silent")["status"] == "lost"
    assert run(folder / "silent", train__steps=8, run__resume=True) == 0


def test_no_port_to_meet_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_PORT", "0")
    with pytest.raises(InputError, match="MASTER_PORT=0"), distributed.joined(1.0):
        pass


def test_the_timeout_is_a_key(tmp_path: Path) -> None:
    """That may change on resume."""
    assert run(tmp_path / "run", train__steps=2) == 0
    config = resumed_config(tmp_path / "run", {"train.rank_timeout": 60.0})
    assert config.train.rank_timeout == 60.0
    for value in (0.5, 1e7):
        with pytest.raises(InputError, match=r"train\.rank_timeout"):
            tiny(train__rank_timeout=value)


def test_alone_nothing_is_compared() -> None:
    here = passport(tiny())
    assert {"torch", "numpy", "code of nqs", "train.steps"} <= here.keys()
    check_alike(ALONE, here)
    assert together(ALONE, lambda: 3) == 3
    assert code_digest() == code_digest() and len(code_digest()) == 64
