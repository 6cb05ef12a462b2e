"""Second attempts at doubtful points: when, from where, which is kept; deaths at any moment."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nqs.ground_states import summary
from nqs.ground_states.judgement import Judgement
from nqs.ground_states.run import run as run_job
from nqs.ground_states.run_folder import read_config
from nqs.runfolder.summary import write as write_summary
from nqs.scans import attempts
from nqs.scans import run as scans
from nqs.scans.folder import read as read_scan

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("train", ROOT / "train.py")
assert SPEC is not None and SPEC.loader is not None
train = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(train)

TINY = [
    "lattice=chain",
    "lattice.Lx=3",
    "model.d_model=4",
    "model.n_heads=1",
    "model.n_layers=1",
    "train.steps=4",
    "train.n_samples=16",
    "train.eval_samples=64",
    "hamiltonian.Rb=1",
]
GRID = ["hamiltonian.delta=0,0.5,1", "scan.warm_start=hamiltonian.delta"]
MIDDLE = "hamiltonian.delta=0.5"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Judgement, "doubts", lambda *arguments: [])  # tested elsewhere


def scan(*words: str) -> int:
    return train.main(["-m", *TINY, *GRID, "scan.dir=scan", *words])


def resume() -> int:
    return train.main(["-m", "scan.dir=scan", "scan.resume=true"])


def result(point: str) -> dict[str, Any]:
    return json.loads((Path("scan") / point / "summary.json").read_text())


def spoilt(where: Callable[[Any], bool], energy: float | None = None) -> Callable[..., int]:
    """A run that ends doubtful, with another energy if one is given, where its configuration says
    so. What makes a run doubtful by itself is not the scan's business."""

    def spoil(config: Any, command: Any) -> int:
        code = run_job(config, command)
        path = Path(config.run.dir) / "summary.json"
        if code == 0 and where(config):
            doubts = {"verdict": "doubtful", "doubts": ["variance: for this test"]}
            changed = {} if energy is None else {"energy": energy}
            write_summary(path, summary.read(path) | doubts | changed)
        return code

    return spoil


def warm_middle(config: Any) -> bool:
    return config.hamiltonian.delta == 0.5 and config.train.start_from is not None


def state(folder: str = "scan") -> dict[str, Any]:
    """All that a scan's end consists of."""
    kept = ("energy", "steps", "verdict", "doubts")
    return {
        path.parent.name: [json.loads(path.read_text()).get(key) for key in kept]
        for path in sorted(Path(folder).glob("*/summary.json"))
    }


def test_a_doubtful_warm_start_runs_again_from_the_product_state(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scans, "run", spoilt(warm_middle, energy=5.0))
    assert scan() == 0
    assert result(MIDDLE)["steps"] == 4 and result(f"{MIDDLE}~first")["steps"] == 1
    assert read_config(Path("scan") / MIDDLE).train.start_from is None
    end = read_config(Path("scan/hamiltonian.delta=1"))
    assert end.train.start_from == f"scan/{MIDDLE}" and end.train.steps == 1
    assert train.main([*TINY, MIDDLE, "run.dir=alone"]) == 0
    alone = json.loads(Path("alone/summary.json").read_text())
    assert result(MIDDLE)["energy"] == alone["energy"]
    out = capsys.readouterr().out
    assert f"{MIDDLE} is doubtful: once more, from its product state" in out
    assert "3 of 3 points finished" in out


def test_a_good_attempt_is_better_than_a_doubtful_one_and_then_the_lower_energy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scans, "run", spoilt(lambda c: c.hamiltonian.delta == 0.5))
    assert scan() == 0
    names = {path.name for path in Path("scan").iterdir() if path.name.startswith(MIDDLE)}
    assert len(names) == 2
    (other,) = names - {MIDDLE}
    assert result(MIDDLE)["energy"] <= result(other)["energy"]
    assert result(MIDDLE)["verdict"] == result(other)["verdict"] == "doubtful"


def test_a_point_after_a_doubtful_one_starts_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scans, "run", spoilt(lambda c: c.hamiltonian.delta == 0.5))
    assert scan() == 0
    source = read_config(Path("scan/hamiltonian.delta=1")).train.start_from
    assert source == "scan/hamiltonian.delta=0"
    assert f"starts from hamiltonian.delta=0, for {MIDDLE} is doubtful" in capsys.readouterr().out


def test_without_repetition_a_scan_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "run", spoilt(lambda c: c.hamiltonian.delta == 0.5))
    assert scan("scan.repeat=false") == 0
    assert not list(Path("scan").glob("*~*"))
    source = read_config(Path("scan/hamiltonian.delta=1")).train.start_from
    assert source == f"scan/{MIDDLE}"


def test_a_second_attempt_that_fails_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = spoilt(warm_middle)

    def failing(config: Any, command: Any) -> int:
        if config.run.dir.endswith("~again"):
            raise RuntimeError("out of memory")
        return run(config, command)

    monkeypatch.setattr(scans, "run", failing)
    assert scan() == 0
    assert result(MIDDLE)["verdict"] == "doubtful" and result(MIDDLE)["steps"] == 1
    streams = capsys.readouterr()
    assert f"FAILED {MIDDLE}~again: RuntimeError: out of memory" in streams.out
    assert "3 of 3 points finished" in streams.out and streams.err == ""


class Killed(BaseException):
    """Nothing in the program catches this."""


def operations(monkeypatch: pytest.MonkeyPatch, dies_at: int) -> list[str]:
    """Counts runs, renames and notes of doubts, before and after each; dies at one of these."""
    seen: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **keys: Any) -> Any:
            for moment in ("before", "after"):
                if moment == "after":
                    returned = function(*arguments, **keys)
                seen.append(f"{moment} {name}")
                if len(seen) == dies_at + 1:
                    raise Killed(seen[-1])
            return returned

        return wrapper

    monkeypatch.setattr(os, "rename", counted("rename", os.rename))
    monkeypatch.setattr(scans, "run", counted("run", spoilt(warm_middle, energy=5.0)))
    monkeypatch.setattr(scans.neighbours, "mark", counted("mark", scans.neighbours.mark))
    monkeypatch.setattr(attempts, "keep_better", counted("keep", attempts.keep_better))
    return seen


@pytest.mark.parametrize(
    "every", [8, pytest.param(1, marks=pytest.mark.slow)], ids=["some moments", "every moment"]
)
def test_a_death_at_any_moment_ends_in_the_same_state(
    every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        seen = operations(patch, dies_at=-1)
        assert scan() == 0
    whole = state()
    assert seen.count("after rename") == 2 and seen.count("after run") == 4
    between = seen.index("after rename")
    for moment in {between, *range(4, len(seen), every)}:
        os.rename("scan", f"scan-before-{moment}")
        with monkeypatch.context() as patch:
            operations(patch, dies_at=moment)
            with pytest.raises(Killed):
                scan()
        with monkeypatch.context() as patch:
            patch.setattr(scans, "run", spoilt(warm_middle, energy=5.0))
            assert resume() == 0
        assert state() == whole, seen[moment]


def test_two_renames_and_a_death_between_them() -> None:
    assert scan("scan.repeat=false") == 0
    read = read_scan(Path("scan"))
    point = read.points[1]
    os.rename(f"scan/{MIDDLE}", f"scan/{MIDDLE}~first")
    os.rename("scan/hamiltonian.delta=1", f"scan/{MIDDLE}~again")
    attempts.mend(read)
    assert [path.name for path in attempts.attempts(read, point)] == [
        MIDDLE,
        f"{MIDDLE}~first",
    ]
