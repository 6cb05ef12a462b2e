"""The comparison with exact diagonalisation on the smallest systems, and the shipped instances."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import vs_exact
from benchmarks.exact_comparison import Comparison, deviations, exact, fidelity
from benchmarks.exact_report import COLUMNS, draw, read, save, table, verdict
from benchmarks.instances import INSTANCES, Instance, load, written
from benchmarks.vs_exact import main
from hamiltonians.exact import basis, dense_matrix, sector_basis
from nqs.ground_states.build import build
from nqs.vmc.evaluation import evaluate
from nqs.vmc.statistics import Estimate

TINY = """
- name: atoms
  lattice: square
  lattice.Lx: 2
  lattice.Ly: 2
  hamiltonian: rydberg
  hamiltonian.delta: [0.5, 1.0, 1.5, 2]
- name: spins
  lattice: chain
  lattice.Lx: 4
  hamiltonian: xxz
  hamiltonian.J: [1, 0.5, 1.0]
  model.n_up: 2
- name: sites
  lattice: positions
  lattice.file: sites.csv
  hamiltonian: rydberg
  hamiltonian.Rb: 1.1
"""
SHORT = ["--set", "train.steps=3", "--set", "train.n_samples=64", "--eval-samples", "2000"]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    (tmp_path / "sites.csv").write_text("x,y\n0,0\n1,0\n0.3,1.2\n")
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def run(tiny: Path, *more: str) -> tuple[int, list[dict[str, str]]]:
    out = tiny.parent / "out"
    code = main(["--file", str(tiny), *SHORT, "--out", str(out), *more])
    with (out / "vs_exact.csv").open(newline="") as file:
        return code, list(csv.DictReader(file))


def test_table_and_files(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows = run(tiny, "--models", "ptf,rnn")
    assert code == 0 and len(rows) == 6 and tuple(rows[0]) == COLUMNS
    lines = capsys.readouterr().out.splitlines()
    header = next(i for i, text in enumerate(lines) if text.startswith("instance "))
    cells = [text.split() for text in lines[header + 1 : header + 7]]
    pairs = [(name, model) for name in ("atoms", "spins", "sites") for model in ("ptf", "rnn")]
    assert [tuple(cell[:2]) for cell in cells] == pairs
    assert (tiny.parent / "out" / "vs_exact.png").stat().st_size > 10_000
    for row, n_sites in zip(rows, (4, 4, 4, 4, 3, 3), strict=True):
        assert int(row["n_sites"]) == n_sites and row["ended"] == "finished"
        job = build(next(i for i in load(tiny) if i.name == row["instance"]).config())
        numbers = slice(None) if row["instance"] != "spins" else sector_basis(4, 2)
        levels = np.linalg.eigvalsh(dense_matrix(job.hamiltonian)[numbers][:, numbers])
        assert float(row["exact_energy"]) == pytest.approx(levels[0], abs=1e-9)
        assert float(row["gap"]) == pytest.approx(levels[1] - levels[0], abs=1e-9)
        error = float(row["energy"]) - levels[0]
        assert float(row["relative_error"]) == pytest.approx(error / abs(levels[0]))
        assert float(row["z_score"]) == pytest.approx(error / float(row["energy_error"]))
        assert float(row["z_score"]) > -4 and 0.5 < float(row["fidelity"]) <= 1 + 1e-6
        assert int(row["n_observables"]) >= n_sites


def test_resume_does_what_is_missing(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, first = run(tiny, "--instances", "atoms,sites")
    capsys.readouterr()
    _, second = run(tiny, "--resume")
    assert [row["instance"] for row in second] == ["atoms", "sites", "spins"]
    assert second[:2] == first
    assert capsys.readouterr().out.startswith("spins  ptf  seed 0")
    _, third = run(tiny, "--resume", "--instances", "atoms", "--set", "train.steps=2")
    assert [row["steps"] for row in third] == ["2", "3", "3"]  # other arguments: run again
    _, anew = run(tiny, "--instances", "sites")
    assert len(anew) == 1


def test_a_kill_loses_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **options: object) -> Comparison:
        if args[0].name == "spins":  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return compare(*args, **options)  # type: ignore[arg-type]

    compare = vs_exact.compare
    monkeypatch.setattr(vs_exact, "compare", interrupted)
    assert [row["instance"] for row in run(tiny)[1]] == ["atoms"]


def test_a_failed_run_is_a_row(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: object) -> None:
        raise FloatingPointError("the energy is not finite")

    monkeypatch.setattr("benchmarks.programs.Ours.step", fails)
    code, (row,) = run(tiny, "--instances", "atoms")
    assert code == 0 and row["ended"] == "failed: the energy is not finite"
    assert math.isnan(float(row["energy"])) and float(row["exact_energy"]) < 0
    assert run(tiny, "--resume", "--instances", "atoms")[1] == [row]


def test_a_budget_ends_a_run(tiny: Path) -> None:
    _, (row,) = run(tiny, "--instances", "atoms", "--budget", "1e-3")
    assert row["ended"] == "budget" and row["steps"] == "1"


@pytest.mark.parametrize("n_up", [None, 2])
@pytest.mark.parametrize("phase", [False, True])
def test_fidelity_is_the_dense_overlap(n_up: int | None, phase: bool) -> None:
    shape = ("lattice.Lx=2", "lattice.Ly=3", f"model.phase={str(phase).lower()}")
    system = ("hamiltonian=xxz", "hamiltonian.h=0.3") if n_up else ("hamiltonian.delta=2",)
    fixed = (f"model.n_up={n_up}",) if n_up else ()
    job = build(Instance("any", shape).config(*system, *fixed))
    state = exact(job).state
    numbers = slice(None) if n_up is None else sector_basis(6, n_up)
    levels, vectors = np.linalg.eigh(dense_matrix(job.hamiltonian)[numbers][:, numbers])
    with torch.no_grad():
        psi = job.wavefunction.log_psi(basis(6)[numbers]).exp().numpy()
    assert state.energy == pytest.approx(levels[0])
    expected = abs(vectors[:, 0] @ psi) ** 2 / np.vdot(psi, psi).real
    assert fidelity(job.wavefunction, state) == pytest.approx(expected, rel=1e-5)


def test_deviations_are_in_standard_errors() -> None:
    job = build(Instance("any", ("lattice.Lx=2", "lattice.Ly=2")).config())
    found = evaluate(job.wavefunction, job.hamiltonian, 100, torch.Generator())
    values = torch.tensor([[0.5, 0.25], [0.25, 0.4]])
    errors = torch.tensor([[0.1, 0.0], [0.0, 0.2]])
    found.observables.clear()
    found.observables["density_density"] = Estimate(values, errors)
    other = {"density_density": np.array([[0.4, 0.2], [0.2, 0.4]]), "sigma_x": np.zeros(2)}
    ((difference, in_errors),) = deviations(found, other)  # i <= j; nothing for sigma_x
    np.testing.assert_allclose(difference, [0.1, 0.05, 0.0], atol=1e-7)
    np.testing.assert_allclose(in_errors, [1.0, 5.0, 0.0], atol=1e-6)  # no error: 1 / 100


def test_shipped_instances_load_and_build() -> None:
    instances = load(INSTANCES)
    assert len({instance.name for instance in instances}) == len(instances) >= 24
    for instance in instances:
        assert 9 <= build(instance.config()).hamiltonian.n_sites <= 24
    words = " ".join(word for instance in instances for word in instance.arguments)
    for kind in ("chain", "square", "triangular", "kagome", "honeycomb", "positions"):
        assert f"lattice={kind}" in words
    for kind in ("rydberg", "tfim", "xxz", "heisenberg"):
        assert f"hamiltonian={kind}" in words


def test_an_instance_is_what_train_py_is_given() -> None:
    from nqs.cli.train import load_config

    (found,) = [i for i in load(INSTANCES) if i.name == "rydberg-4x4-checkerboard"]
    given = ["lattice.Lx=4", "lattice.Ly=4", "hamiltonian.Rb=1.15", "hamiltonian.delta=3.3"]
    assert found.config("seed=2") == load_config([*given, "seed=2"])


@pytest.mark.parametrize("text", ["my sites.csv", "it's.csv", "a,b.csv", "ü=1.csv"])
def test_odd_file_names_survive(text: str, tmp_path: Path) -> None:
    (tmp_path / text).write_text("x,y\n0,0\n1,0\n")
    path = str(tmp_path / text)
    config = Instance("odd", ("lattice=positions", f"lattice.file={written(path)}")).config()
    assert config.lattice.file == path


BAD_FILES = [
    ("name: x", "must be a list of entries"),
    ("[]", "must be a list of entries"),
    ("- [1", "is not YAML"),
    ("- 5", "entry 1: 5: must be a mapping"),
    ("- lattice: chain", "entry 1: name=null: every entry needs a name"),
    ("- name: a b", "entry 1: name=a b: every entry needs a name"),
    ("- {name: a}\n- {name: a}", "entry 2: the name a is taken already"),
    ("- {name: a, seed: 1}", "seed: is the command line's to say"),
    ("- {name: a, run.dir: x}", "run.dir: is the command line's to say"),
    ("- {name: a, lattice: {Lx: 4}}", "lattice={Lx:4}: must be a number, a word or a list"),
    ("- {name: a, lattice.Lz: 4}", "a: lattice.Lz: unknown key"),
    ("- {name: a, lattice.Lx: -1}", "a: lattice.Lx=-1: must be >= 1 and <= 32768"),
    ("- {name: a, hamiltonian.delta: [1, 2]}", "a: hamiltonian: Rydberg: delta has shape (2,)"),
    ("- {name: a, hamiltonian: isng}", "a: hamiltonian=isng: must be one of"),
    ("- {name: a, lattice: positions, lattice.file: no.csv}", "no such file"),
    ("- {name: a, lattice.Lx: 6, lattice.Ly: 6}", "a: exact diagonalisation of 36 sites needs"),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES)
def test_a_bad_entry_is_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "bad.yaml", tmp_path / "out"
    path.write_text("- {name: good}\n" + text if text[0] == "-" and "[1" not in text else text)
    message = message.replace("entry 2", "entry 3").replace("entry 1", "entry 2")
    assert main(["--file", str(path), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and message in captured.err
    assert captured.out == "" and not out.exists()


BAD = [
    (["--instances", "atoms,moon"], "--instances: 'moon' is unknown; it must be of atoms, spins"),
    (["--models", "mlp"], "'mlp' is unknown; it must be of"),
    (["--budget", "0"], "invalid number > 0 value: '0'"),
    (["--seeds", "-1"], "argument --seeds"),
    (["--set", "train.stebs=5"], "train.stebs: unknown key"),
    (["--file", "nowhere.yaml"], "nowhere.yaml: cannot be read (No such file or directory)"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_arguments_are_one_line(
    arguments: list[str], message: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tiny.parent / "out"
    try:
        code = main(["--file", str(tiny), "--out", str(out), *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and not out.exists()
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and message in captured.err and captured.out == ""


def test_a_foreign_table_is_refused(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny.parent / "vs_exact.csv").write_text("a,b\n1,2\n")
    assert main(["--file", str(tiny), "--out", str(tiny.parent), "--resume"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "vs_exact.csv: is no table of this program" in error


def row(name: str, error: float, z: float = 1.0) -> Comparison:
    text = {"instance": name, "model": "ptf", "ended": "finished", "arguments": ""}
    numbers = dict.fromkeys(set(COLUMNS) - set(text), 1)
    values = numbers | text | {"relative_error": error, "z_score": z, "relative_error_bar": 1e-6}
    return Comparison(**values)  # type: ignore[arg-type]


def test_verdict_and_files_of_made_up_rows(tmp_path: Path) -> None:
    rows = [row("a", 1e-5), row("b", -3e-4, z=-5.0), row("c", math.nan, z=math.nan)]
    median, worst, below = verdict(rows)
    assert median == "median relative error 3.0e-04 (target 1e-04)"
    assert worst == "worst relative error inf, c (target 1e-03)"
    assert below.endswith("b of 3")
    assert verdict(rows[:1])[2].endswith("none of 1")
    assert "1.0e-05 +- 1e-06" in table(rows)
    save(rows, tmp_path / "rows.csv")
    assert read(tmp_path / "rows.csv")[:2] == rows[:2]
    draw(rows, tmp_path / "rows.png")
    assert (tmp_path / "rows.png").stat().st_size > 10_000
    assert read(tmp_path / "none.csv") == []
