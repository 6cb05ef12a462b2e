"""Files of a run: whole or not at all, never overwritten, numbers as they are."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from nqs.errors import InputError
from nqs.ground_states import summary
from nqs.runfolder import atomic, checkpoint, history
from nqs.runfolder.folder import locked
from nqs.runfolder.history import ELAPSED, SECONDS, STEP, Column, Evaluation, RunFile
from nqs.runfolder.summary import write as write_summary


def recorded(step: int) -> dict[str, float]:
    return {"step": step, "energy": -step, "seconds": 0.01}


def filled(n_steps: int) -> RunFile:
    content = RunFile((STEP, Column("energy", "couplings", "mean local energy"), SECONDS, ELAPSED))
    for step in range(1, n_steps + 1):
        content.append(recorded(step), 0.01 * step)
    return content


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    atomic.write_bytes(path, b"old")

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        atomic.write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_history_round_trip(tmp_path: Path) -> None:
    """A column that comes later is NaN before; units and descriptions come back with the rest."""
    content = filled(2)
    content.declare([Column("gradient_norm", "couplings", "norm of the energy's gradient")])
    for step in (3, 4, 5):
        content.append(recorded(step) | {"gradient_norm": 0.5}, 0.01 * step)
    with pytest.raises(KeyError, match="no column for gradient"):
        content.append(recorded(6) | {"gradient": 0.5}, 0.06)
    numbers = {"energy": -1.5, "n_samples": 10, "kind": "final", "step": 5, "seed": 0}
    numbers |= {"energy_error": 0.1, "variance": 0.2, "v_score": 0.3}
    observables = {"density": (np.arange(4.0), np.ones(4)), "m": (np.array(0.5), np.array(0.1))}
    meanings = {"density": Column("density", "1", "<n_i>"), "m": Column("m", "", "")}
    content.evaluations.append(Evaluation(numbers, observables, meanings=meanings))
    content.write(tmp_path / "run.h5")
    again = history.read(tmp_path / "run.h5")
    norms = again.columns.pop("gradient_norm")
    assert np.isnan(norms[:2]).all() and norms[2:] == [0.5] * 3
    content.columns.pop("gradient_norm")
    assert again.columns == content.columns and set(again.layout) == set(content.layout)
    assert again.evaluations[0].meanings == meanings
    assert again.evaluations[0].numbers == numbers
    for name, (value, error) in observables.items():
        np.testing.assert_array_equal(again.evaluations[0].observables[name][0], value)
        np.testing.assert_array_equal(again.evaluations[0].observables[name][1], error)


def test_history_is_cut_to_the_checkpoint() -> None:
    content = filled(5)
    content.truncate(3)
    assert content.columns["step"] == [1, 2, 3] and content.columns["energy"] == [-1, -2, -3]
    with pytest.raises(InputError, match="step 3 but the checkpoint is at step 4"):
        content.truncate(4)


def save(folder: Path, step: int) -> Path:
    return checkpoint.save(
        folder,
        step=step,
        elapsed=1.0,
        config={"model": {"d_model": 4}},
        model={"w": torch.full((2,), float(step))},
        optimizer={"first": None},
        generators=torch.Generator().manual_seed(step).get_state()[None],
    )


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (3, 6, 10):
        save(tmp_path, step)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == [
        "step-000000006.pt",
        "step-000000010.pt",
    ]
    lines: list[str] = []
    cpu, config = torch.device("cpu"), {"model": {"d_model": 4}}
    content = checkpoint.newest(tmp_path, config, cpu, lines.append)
    assert content is not None and content["step"] == 10 and not lines
    (tmp_path / "step-000000010.pt").write_bytes(b"")
    content = checkpoint.newest(tmp_path, config, cpu, lines.append)
    assert content is not None and content["model"]["w"].tolist() == [6.0, 6.0]
    assert len(lines) == 1 and "step-000000010.pt" in lines[0]
    with pytest.raises(InputError, match=r"another run, model\.d_model=4 there and 8 in this"):
        checkpoint.newest(tmp_path, {"model": {"d_model": 8}}, cpu, lines.append)
    with pytest.raises(InputError, match="none: missing"):
        checkpoint.newest(tmp_path / "none", config, cpu, lines.append)
    (tmp_path / "none").mkdir()
    assert checkpoint.newest(tmp_path / "none", config, cpu, lines.append) is None


def test_opening_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"format": Trap()}, tmp_path / "step-000000001.pt")
    with pytest.raises(InputError, match="no readable checkpoint"):
        checkpoint.newest(tmp_path, {}, torch.device("cpu"), lambda line: None)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-7.25461, 0.00123, "-7.2546 ± 0.0012"),
        (-7.25461, 12.3, "-7 ± 12"),
        (-7.25461, 0.0, "-7.25461"),
        (0.5, float("nan"), "0.5"),
        (1.0, 9.99e-5, "1.00000 ± 0.00010"),
    ],
)
def test_value_with_error(value: float, error: float, text: str) -> None:
    assert summary.with_error(value, error) == text


def test_summary_is_strict_json(tmp_path: Path) -> None:
    content = summary.summarise(
        status="interrupted", n_sites=4, n_parameters=9, steps=3, wall_seconds=1.25, seed=0
    )
    write_summary(tmp_path / "summary.json", content | {"variance": float("nan")})
    text = (tmp_path / "summary.json").read_text()
    assert "NaN" not in text and json.loads(text)["variance"] is None
    assert any("resume" in line for line in summary.lines(summary.read(tmp_path / "summary.json")))


def test_lock_ends_with_the_block(tmp_path: Path) -> None:
    refusal = pytest.raises(InputError, match="another process")
    with locked(tmp_path), refusal, locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
