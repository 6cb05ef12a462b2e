"""The scaling table and the GPU run at tiny size, and that both take the default run's step."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_run, scaling, scaling_point
from benchmarks.exponents import exponent
from benchmarks.problems import PROBLEMS
from benchmarks.programs import Ours
from benchmarks.scaling import Forecast, Point, measure, points
from benchmarks.scaling_report import exponents
from benchmarks.scaling_rows import Row, failed
from benchmarks.trial import Setting, Trial, timed
from nqs.vmc.optimizers.natural_gradient import NaturalGradient


@pytest.fixture(autouse=True)
def fixed_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The yardstick itself takes seconds."""
    for module in (gpu_run, scaling, scaling_point):
        monkeypatch.setattr(module, "matmul_rate", lambda *a, **options: 1e11)


def test_a_trial_is_the_default_run() -> None:
    """Two steps: bit for bit those of train.py with its defaults, but for symmetries, which small
    arrays alone have."""
    ours = Ours(PROBLEMS["4x4"], 3, ("train.n_samples=64", "model.symmetry=none"))
    ours.start()
    trial = Trial(Setting(4, 64, seed=3)).start()
    theirs = ours.job.optimizer
    assert isinstance(theirs, NaturalGradient)
    for name in ("learning_rate", "diagonal_shift", "momentum", "max_norm"):
        assert getattr(trial.optimizer, name) == getattr(theirs, name)
    assert trial.optimizer.implicit == theirs.implicit
    assert trial.optimizer.schedule == theirs.schedule
    assert trial.optimizer.shift_schedule == theirs.shift_schedule
    for _ in range(2):
        ours.step()
        trial.advance()
    expected = ours.job.wavefunction.state_dict()
    for name, tensor in trial.psi.state_dict().items():
        assert torch.equal(tensor, expected[name])
    assert trial.evaluation(500).energy == ours.evaluation(500).energy


def test_timed_steps() -> None:
    """At least one step however little the time, and one more whose operations are counted."""
    trial = Trial(Setting(4, 32)).start()
    steps = timed(trial, 5, 1e-9)
    assert (steps.n_steps, trial.step) == (1, 2) and 0 < steps.n_rows <= 32
    assert steps.run > 0 and steps.least > 0


def arguments(*words: str, out: Path) -> list[str]:
    return [*words, "--out", str(out)]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """Children run here; a size beyond the time is skipped, one that fails is a row."""

    def child(command: list[str], **options: object) -> SimpleNamespace:
        code = scaling_point.main([w for w in command[3:] if w not in ("--memory-gb", "8.0")])
        captured = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=captured.out, stderr=captured.err)

    monkeypatch.setattr(subprocess, "run", child)
    monkeypatch.setattr(Forecast, "seconds", lambda self, s: 99.0 if s.side == 6 else 0.1)
    sizes = ["--sides", "3,2,4,6", "--samples", "8", "--few", "4", "--steps", "1"]
    assert scaling.main(arguments("--sweeps", "sites", *sizes, out=tmp_path)) == 0
    found = rows(tmp_path / "scaling.csv")
    assert [(row["side"], row["samples"]) for row in found] == [
        (side, samples) for samples in ("8", "4") for side in ("2", "3", "4", "6")
    ]
    for row in found:
        if row["side"] == "6":
            assert row["ended"] == "skipped: a step would take about 99 s"
            continue
        assert row["ended"] == "finished" and float(row["seconds_per_step"]) > 0
        assert 0 < float(row["mfu"]) < 1 and 0 < float(row["run_share"]) < 1
        assert 1 <= int(row["rows"]) <= int(row["samples"])
        rate = int(row["samples"]) / float(row["seconds_per_step"])
        assert float(row["samples_per_second"]) == pytest.approx(rate)
    text = capsys.readouterr().out
    assert "ours, cpu, 8 samples, start: seconds ~ n_sites^" in text
    assert (tmp_path / "scaling.png").stat().st_size > 1000


def test_a_foreign_file_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scaling.csv"
    path.write_text("a,b\n1,2\n")
    assert scaling.main(arguments("--sweeps", "sites", "--sides", "2", out=tmp_path)) == 2
    assert "not a table of this command" in capsys.readouterr().err
    assert path.read_text() == "a,b\n1,2\n"


def test_all_sweeps_are_planned() -> None:
    args = scaling.parser().parse_args(["--older-code", "x"])
    planned = list(points(args))
    assert {point.sweep for point in planned} == set(scaling.SWEEPS)
    assert max(point.setting.side for point in planned) ** 2 == 2304
    assert {point.after for point in planned if point.sweep == "state"} == {scaling.AFTER}
    assert {p.sweep for p in planned if p.program == "older code"} == {"sites", "samples", "width"}
    assert len({(p.sweep, p.program, p.setting, p.after) for p in planned}) == len(planned)


def test_processes_that_end_badly_are_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory, killed, out of time: each with its reason; larger older ones are left out."""
    args = scaling.parser().parse_args(["--older-code", "x", "--seconds", "2"])
    forecast = Forecast("cpu")
    point = Point("sites", "older code", Setting(4, 8))
    said = "error: DefaultCPUAllocator: can't allocate memory"
    done = SimpleNamespace(returncode=2, stdout="", stderr=said)
    monkeypatch.setattr(subprocess, "run", lambda *a, **o: done)
    row = measure(point, args, forecast)
    assert row.ended == "failed: DefaultCPUAllocator: can't allocate memory"
    assert math.isnan(row.seconds_per_step) and not row.measured
    larger = replace(point, setting=Setting(6, 8))
    assert measure(larger, args, forecast).ended == "skipped: 4x4 took longer than allowed"
    mine = replace(point, program="ours")
    done.stderr, done.returncode = "", -9
    assert measure(mine, args, forecast).ended == "failed: exit code -9"

    def late(*a: object, **options: float) -> None:
        raise subprocess.TimeoutExpired("x", options["timeout"])

    monkeypatch.setattr(subprocess, "run", late)
    assert measure(mine, args, forecast).ended == "skipped: not done in 68 s"


def test_memory_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """In a process of its own, whose limit dies with it."""
    command = scaling.command(
        Point("sites", "ours", Setting(8, 4096)),
        scaling.parser().parse_args(["--memory-gb", "0.3", "--steps", "1", "--seconds", "1"]),
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and done.stdout == ""


def test_peak_memory_is_the_process_own() -> None:
    """A child of a large process reports its own."""
    ballast = b"x" * 10**9  # touched, so resident
    code = "from benchmarks.memory import peak_bytes; print(peak_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1e7 < int(done.stdout) < 9e8 and len(ballast) == 10**9


def test_exponents() -> None:
    base = Point("sites", "ours", Setting(4, 8))
    made = [
        replace(failed(base, "finished"), side=L, n_sites=L * L, seconds_per_step=1e-6 * L**5)
        for L in (8, 4, 6)
    ]
    made.append(replace(failed(base, "skipped: x"), side=10, n_sites=100))
    (line,) = exponents(made)
    assert line.startswith("ours, cpu, 8 samples, start: seconds ~ n_sites^2.50 over n_sites 16")
    assert line.endswith("last 2.50") and isinstance(made[0], Row)
    assert math.isnan(exponent([16], [1.0]))


def test_the_gpu_run_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All parts but the older code's; energies lie where those of 4x4 do, errors are reported."""
    options = ["--device", "cpu", "--size", "4", "--second-size", "6", "--samples", "64"]
    options += ["--seconds", "8", "--eval-samples", "256"]
    (tmp_path / "gpu_run_steps.csv").write_text("from another run\n")
    assert gpu_run.main(arguments(*options, out=tmp_path)) == 0
    found = json.loads((tmp_path / "gpu_run.json").read_text())
    assert not any("failed" in part for part in found.values())
    assert set(found["flip_pass"]) == {"width_32", "width_128", "wall_seconds"}
    assert 0 < found["flip_pass"]["width_32"]["mfu"] < 1
    first, second = found["first"], found["second"]
    assert first["steps"] >= 1 and first["eval_samples"] >= 256
    assert first["reference_per_site"] == pytest.approx(-0.4534132)
    assert first["above_reference_per_site"] > -5 * first["error_bar_per_site"]
    assert second["side"] == 6 and second["error_bar_per_site"] > 0
    history = rows(tmp_path / "gpu_run_steps.csv")
    assert [row["part"] for row in history].count("first") == first["steps"]


def test_no_more_than_torch_numpy_scipy_is_needed() -> None:
    """Where the GPU is there may be neither Hydra nor NetKet, nor HDF5."""
    absent = "hydra", "omegaconf", "netket", "jax", "h5py", "rich", "typer", "matplotlib"
    code = f"import sys; sys.modules.update(dict.fromkeys({absent}));"
    code += "import benchmarks.gpu_run, benchmarks.scaling, benchmarks.scaling_point"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_part_that_fails_leaves_the_others(tmp_path: Path, monkeypatch) -> None:
    def fail(*a: object) -> None:
        raise torch.OutOfMemoryError("no memory\nat all")

    monkeypatch.setattr(gpu_run, "flip_pass", fail)
    monkeypatch.setattr(gpu_run, "trained", lambda *a: None)
    options = ["--device", "cpu", "--size", "4", "--second-size", "4", "--seconds", "1"]
    assert gpu_run.main(arguments(*options, out=tmp_path)) == 0
    found = json.loads((tmp_path / "gpu_run.json").read_text())
    assert found["flip_pass"]["failed"] == "no memory at all" and found["total"]["seconds"] > 0


BAD = [
    (scaling, ["--sweeps", "size"], "'size' is unknown; it must be of sites, samples, patch"),
    (scaling, ["--sides", "1"], "invalid list of sides >= 2"),
    (scaling, ["--device", "cuda"], "--device cuda: torch sees no GPU here"),
    (scaling, ["--older-code", "nowhere"], "--older-code nowhere: no tvmc/models/PTF.py"),
    (gpu_run, [], "--device cuda: torch sees no GPU here"),
    (gpu_run, ["--device", "cpu", "--size", "5"], "size 5: must be an even number >= 4"),
    (gpu_run, ["--device", "cpu", "--eval-samples", "1"], "--eval-samples 1: must be at least 2"),
]


@pytest.mark.parametrize(("command", "words", "message"), BAD)
def test_bad_input_is_one_line(
    command, words: list[str], message: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    try:
        code = command.main([*words, "--out", str(tmp_path / "out")])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and message in captured.err
    assert captured.out == "" and not (tmp_path / "out").exists()
