"""Kind 5, unbounded and unguarded: planted names, leftovers of killed starts, one command line for
a job that is requeued, paths that leave the folder."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_ground_state_run import assert_same_run, result, run, tiny

import train
from nqs.errors import InputError
from nqs.ground_states.build import build
from nqs.ground_states.run_folder import create, read_config
from nqs.runfolder import atomic, history

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    *("lattice.Lx=2", "lattice.Ly=2", "model.patch=2", "model.d_model=4", "model.n_layers=1"),
    *("train.n_samples=16", "train.eval_samples=64", "train.checkpoint_every=2", "seed=4"),
    *("optimizer.final_shift_fraction=1", "optimizer.schedule=constant"),
]


def test_planted_names_are_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (".run.h5.tmp", ".run.h5-abcdefgh.tmp"):
        (tmp_path / name).symlink_to(victim)
    history.RunFile().write(tmp_path / "run.h5")
    assert victim.read_text() == "precious" and not (tmp_path / "run.h5").is_symlink()
    (tmp_path / "linked").symlink_to(victim)
    atomic.write_text(tmp_path / "linked", "new")  # the link is replaced, not what it leads to
    assert victim.read_text() == "precious" and (tmp_path / "linked").read_text() == "new"


def test_only_our_own_leftovers_are_removed(tmp_path: Path) -> None:
    """A stranger's hidden files stay, and so does what a planted link leads to."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ".run.h5-abcdefgh.tmp").write_text("theirs")
    path = tmp_path / "run"
    (path / "checkpoints").mkdir(parents=True)
    (path / "link").symlink_to(outside)
    ours = [".run.h5-abcdefgh.tmp", "checkpoints/.step-000000003.pt-a_3bcdef.tmp"]
    theirs = [".run.h5.tmp", ".hidden.tmp", ".vimrc-ABCDEFGH.tmp"]
    for name in (*ours, *theirs):
        (path / name).write_text("")
    atomic.remove_temporaries(path)
    assert not any((path / name).exists() for name in ours)
    assert all((path / name).exists() for name in theirs)
    assert (outside / ".run.h5-abcdefgh.tmp").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space"), KeyboardInterrupt()])
def test_no_temporary_stays(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    config = tiny(run__dir=str(tmp_path / "run"))
    wavefunction = build(config).wavefunction
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(error)):
        atomic.write_bytes(tmp_path / "file", b"new")
    with pytest.raises((type(error), InputError)):
        create(config, wavefunction, ["python"])
    assert not list(tmp_path.iterdir())


def test_permissions_are_those_of_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    atomic.write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_leftovers_of_killed_starts(tmp_path: Path) -> None:
    """Gone at the next start there; those that a process holds, and strangers' folders, stay."""
    names = [".run-abcdefgh", ".run-held____", ".run-theirs__", ".runs-abcdefgh", ".run-short"]
    for name in names:
        (tmp_path / name / "inputs").mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text("")
    (tmp_path / ".run-theirs__" / "thesis.tex").write_text("")
    held = os.open(tmp_path / names[1], os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        assert run(tmp_path / "run", train__steps=1) == 0
    finally:
        os.close(held)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"run", *names[1:]}


def test_a_start_that_is_killed(tmp_path: Path) -> None:
    """kill -9 while the folder is being filled, then the same command again."""
    script = tmp_path / "start.py"
    script.write_text(
        "import os, signal, sys\n"
        "from nqs.ground_states import run_folder\n"
        "run_folder.describe = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "import train\n"
        "train.main(sys.argv[1:])\n"
    )
    words = [*TINY, "train.steps=2", f"run.dir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, str(script), *words],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    assert any(path.name.startswith(".run-") for path in tmp_path.iterdir())
    assert train.main(words) == 0
    assert not any(path.name.startswith(".run-") for path in tmp_path.iterdir())


def test_one_command_line_for_a_requeued_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It starts, goes on, and repeats the result; without keys there is nothing to start."""
    words = [*TINY, f"run.dir={tmp_path / 'job'}", "run.resume=true"]
    assert train.main([*words, "train.steps=3"]) == 0
    assert train.main([*words, "train.steps=6"]) == 0
    assert "resumed at step 3" in capsys.readouterr().out
    assert train.main([*TINY, "train.steps=6", f"run.dir={tmp_path / 'whole'}"]) == 0
    assert_same_run(tmp_path / "job", tmp_path / "whole")
    (tmp_path / "empty").mkdir()
    assert (
        train.main([*TINY, f"run.dir={tmp_path / 'empty'}", "run.resume=true", "train.steps=1"])
        == 0
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("")
    for name in ("nowhere", "other"):
        keys = [] if name == "nowhere" else ["train.steps=1"]
        assert train.main([f"run.dir={tmp_path / name}", "run.resume=true", *keys]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"{tmp_path / name}: holds no run" in error


def test_a_requeued_job_that_starts_from_another(tmp_path: Path) -> None:
    """model.patch=auto has become the source's patches; the command line may still say auto."""
    words = [word for word in TINY if not word.startswith("model.patch")]
    assert (
        train.main([*words, "model.patch=2x1", "train.steps=2", f"run.dir={tmp_path / 'a'}"]) == 0
    )
    job = [*words, "model.patch=auto", f"train.start_from={tmp_path / 'a'}",
           f"run.dir={tmp_path / 'b'}", "run.resume=true"]  # fmt: skip
    assert train.main([*job, "train.steps=2"]) == 0
    shutil.rmtree(tmp_path / "a")
    assert train.main([*job, "train.steps=4"]) == 0
    assert result(tmp_path / "b")["steps"] == 4


def test_inputs_stay_inside(tmp_path: Path) -> None:
    strings = tmp_path / "strings.txt"
    strings.write_text("-1 Z0 Z1\n-1 X3\n")
    assert run(tmp_path / "run", hamiltonian={"name": "pauli", "file": str(strings)}) == 0
    file = tmp_path / "run/config.yaml"
    text = file.read_text()
    (tmp_path / "run/digests.json").unlink()
    for name in ("../strings.txt", str(strings)):
        file.write_text(text.replace("inputs/hamiltonian.txt", name))
        with pytest.raises(InputError, match=r"must be inputs/hamiltonian\.txt"):
            read_config(tmp_path / "run")


def test_several_writers_at_once(tmp_path: Path) -> None:
    """Three `nqs plot`, say: each has a temporary of its own, the last one's file is whole."""
    contents = [bytes([number]) * 100_000 for number in range(8)]

    def write(content: bytes) -> None:
        for _ in range(10):
            atomic.write_bytes(tmp_path / "picture.png", content)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, contents))
    assert (tmp_path / "picture.png").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
