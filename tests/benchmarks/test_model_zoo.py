"""The table of all models at tiny size, the fitted exponents, what is kept and what is refused."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import model_accuracy, model_costs, step_memory
from benchmarks.exponents import exponent
from benchmarks.model_accuracy import Accuracy, in_order, measured
from benchmarks.model_costs import Time, times_table
from benchmarks.model_zoo import main
from benchmarks.models import MODELS
from benchmarks.problems import LARGE, PROBLEMS, ZOO
from benchmarks.programs import Ours
from benchmarks.tables import Rows
from nqs.ground_states.config import MODELS as KINDS


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_kind_of_model_is_in_the_table() -> None:
    configs = [PROBLEMS["2x2"].config(*model.arguments).model for model in MODELS.values()]
    assert {config.name for config in configs} == set(KINDS)
    assert any(config.symmetry != "none" for config in configs)


def test_problems_are_what_their_names_say() -> None:
    magnet = ZOO["heisenberg20"].config("model=rnn")
    assert magnet.model.n_up == 10 and magnet.lattice.periodic is True
    assert ZOO["heisenberg20"].energy == pytest.approx(-35.61755, abs=1e-5)
    large = {name: problem.config() for name, problem in LARGE.items()}
    assert large["heisenberg10x10"].model.n_up == 50
    assert large["heisenberg10x10"].lattice.periodic is False
    assert large["tfim12x12"].hamiltonian.h == 3.0 and LARGE["tfim12x12"].n_sites == 144


@pytest.mark.parametrize("name", MODELS)
def test_each_model_runs(name: str) -> None:
    """Two steps on four sites: the numbers of the row are those of the run."""
    row = measured(
        PROBLEMS["2x2"],
        MODELS[name],
        seed=1,
        changes=("train.steps=2", "train.n_samples=32"),
        eval_samples=200,
    )
    assert (row.model, row.steps, row.eval_samples, row.ended) == (name, 2, 200, "finished")
    assert row.relative_error == pytest.approx((row.energy + 2.13434683) / 2.13434683)
    assert -5 * row.relative_error_bar < row.relative_error < 0.5
    assert row.variance > 0 and row.seconds > 0 and row.n_parameters > 100


def test_a_failure_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Ours) -> None:
        raise FloatingPointError("the energy of step 1 is not finite")

    monkeypatch.setattr(Ours, "step", fail)
    row = measured(PROBLEMS["2x2"], MODELS["rnn"], seed=0, eval_samples=10)
    assert row.ended == "failed: the energy of step 1 is not finite"
    assert math.isnan(row.relative_error) and row.steps == 0


def test_a_budget_ends_between_steps() -> None:
    row = measured(PROBLEMS["2x2"], MODELS["rnn"], seed=0, budget=1e-6, eval_samples=50)
    assert (row.ended, row.steps) == ("budget", 0) and row.energy_error > 0


def test_the_command_in_two_pieces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second adds to the first; measuring again replaces; the table has all of it."""
    common = ["--steps", "1", "--eval-samples", "64", "--out", str(tmp_path)]
    assert main(["--problems", "ring16", "--models", "ssm,rnn2d", *common]) == 0
    assert main(["--problems", "4x4,ring16", "--models", "ssm,ptf-symmetric", *common]) == 0
    found = rows(tmp_path / "model_zoo.csv")
    assert [(row["problem"], row["model"]) for row in found] == [
        *(("ring16", "ssm"), ("ring16", "rnn2d"), ("4x4", "ssm"), ("4x4", "ptf-symmetric")),
        ("ring16", "ptf-symmetric"),
    ]
    assert found[1]["note"] == "1x4 grid: one direction only" and found[3]["note"] == "8 images"
    assert (tmp_path / "model_zoo.png").stat().st_size > 1000
    shown = capsys.readouterr().out.split("relative error  ")[-1].splitlines()
    assert [line.split()[:2] for line in shown[1:6]] == [
        *(["4x4", "ptf-symmetric"], ["4x4", "ssm"], ["ring16", "ptf-symmetric"]),
        *(["ring16", "rnn2d"], ["ring16", "ssm"]),
    ]


def test_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """Timed here, the large systems' steps replaced by 2x2 in a process of their own."""
    small = {"problem": "tfim12x12", "model": "rnn", "seed": 0}

    def step(problem: str, model: str, n_steps: int, seed: int) -> model_costs.Step:
        assert {"problem": problem, "model": model, "seed": seed} == small and n_steps == 1
        return model_costs.Step(problem, model, seed, 1.5, 0.5, 1, 512, 10, "finished")

    monkeypatch.setattr(model_costs, "step", step)
    options = ["--models", "rnn", "--problems", "tfim12x12", "--sides", "2,3", "--samples", "4"]
    assert main(["--costs", *options, "--steps", "1", "--out", str(tmp_path)]) == 0
    times = rows(tmp_path / "model_times.csv")
    assert [(row["operation"], row["n_sites"]) for row in times] == [
        (operation, n) for n in ("4", "9") for operation in model_costs.OPERATIONS
    ]
    assert all(float(row["seconds"]) > 0 for row in times)
    text = capsys.readouterr().out
    assert "exponents fitted over N = [4, 9]" in text and "tfim12x12  rnn    1.5       0.50" in text
    assert (tmp_path / "model_costs.png").stat().st_size > 1000


def test_exponent_of_a_power_law() -> None:
    """Exact for c N^a, also with rows in any order; the rest is their mean in logarithms."""
    sizes = [16, 144, 36, 64, 100]
    assert exponent(sizes, [3e-5 * n**2.25 for n in sizes]) == pytest.approx(2.25, abs=1e-12)
    noise = [1.1, 0.9, 1.05, 1.0, 0.95]
    seconds = [x * n**1.5 for x, n in zip(noise, sizes, strict=True)]
    assert exponent(sizes, seconds) == pytest.approx(1.5, abs=0.15)
    assert math.isnan(exponent([16], [1.0]))


def test_exponents_stand_beside_the_theory() -> None:
    made = [Time("flips", "rnn", n, 8, 1e-6 * n**2.0) for n in (144, 16, 36)]
    header, line = times_table(made).splitlines()
    assert header.split() == ["operation", "model", "N=16", "N=36", "N=144", "exponent", "theory"]
    assert line.split()[-2:] == ["2.00", "2"]


def test_a_step_is_measured_in_a_process_of_its_own() -> None:
    """Peaks do not leak: a child of a large process reports its own memory."""
    ballast = b"x" * 10**9  # touched, so resident
    code = "from benchmarks.memory import peak_bytes; print(peak_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1e7 < int(done.stdout) < 9e8 and len(ballast) == 10**9
    found = step_memory.measured(Ours(PROBLEMS["2x2"], 0, ("model=rnn", "train.n_samples=16")), 2)
    assert found["seconds_per_step"] > 0 and found["peak_bytes"] > 1e9
    assert found["n_samples"] == 16 and found["n_parameters"] > 100


def test_a_process_that_ends_badly_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    row = model_costs.step("tfim12x12", "rnn", 1, 0)
    assert row.ended == "failed: exit code 1" and math.isnan(row.peak_gb)


def test_a_foreign_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "model_zoo.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="not a table of this command"):
        Rows(path, Accuracy, model_accuracy.KEY)
    assert path.read_text() == "a,b\n1,2\n"


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    row = measured(PROBLEMS["2x2"], MODELS["rnn"], seed=0, budget=1e-6, eval_samples=20)
    Rows(tmp_path / "a.csv", Accuracy, model_accuracy.KEY).add(row)
    assert Rows(tmp_path / "a.csv", Accuracy, model_accuracy.KEY).rows == [row]
    assert not in_order([])


BAD = [
    (["--models", "ptf,rbm"], "'rbm' is unknown; it must be of ptf, ptf-softmax"),
    (["--problems", "5x5"], "'5x5' is unknown; it must be of 4x4, ring16"),
    (["--problems", "tfim12x12"], "--problems tfim12x12: without --costs use 4x4, ring16"),
    (["--costs", "--problems", "4x4"], "--problems 4x4: with --costs use heisenberg10x10"),
    (["--steps", "0"], "invalid whole number >= 1 value: '0'"),
    (["--budget", "-1"], "invalid number > 0 value: '-1'"),
    (["--seed", "-1"], "invalid whole number >= 0 value: '-1'"),
    (["--eval-samples", "1"], "invalid whole number >= 2 value: '1'"),
    (["--sides", "4"], "--sides needs --costs"),
    (["--costs", "--sides", "4,x"], "invalid list of sides >= 2"),
    (["--costs", "--sides", "1"], "invalid list of sides >= 2"),
    (["--samples", "4"], "--samples needs --costs"),
    (["--costs", "--budget", "3"], "--budget means nothing with --costs"),
    (["--costs", "--eval-samples", "30"], "--eval-samples means nothing with --costs"),
    (["--nonsense"], "unrecognized arguments"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([*arguments, "--out", str(tmp_path / "out")])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and message in captured.err
    assert captured.out == "" and not (tmp_path / "out").exists()
