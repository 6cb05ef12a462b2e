"""The command on the smallest lattices; the reference energies; the peers' settings."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from netket_matrices import dense

from benchmarks.measurement import Measure
from benchmarks.peer_settings import ARSettings, OlderSettings, RBMSettings, settings
from benchmarks.problems import PROBLEMS, Problem, ising, references
from benchmarks.programs import Ours, Program
from benchmarks.race import Race
from benchmarks.time_to_accuracy import main
from hamiltonians.exact import basis, dense_matrix, ground_state

NETKET_WARNINGS = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.mark.parametrize("name", [n for n, p in PROBLEMS.items() if p.n_sites <= 20])
def test_references_are_the_ground_states(name: str) -> None:
    problem = PROBLEMS[name]
    exact = ground_state(problem.hamiltonian(), k=1).energy
    assert problem.energy == pytest.approx(exact, rel=1e-8)


def test_the_critical_ring_is_free_fermions() -> None:
    """sum over k = (2m + 1) pi / N of -sqrt(2 - 2 cos k) = -2 / sin(pi / 2N)."""
    assert PROBLEMS["chain32"].energy == pytest.approx(-2 / math.sin(math.pi / 64), rel=1e-12)


def test_every_problem_has_a_reference_and_is_what_its_name_says() -> None:
    assert set(references()) == set(PROBLEMS)
    for problem in PROBLEMS.values():
        config = problem.config("seed=3")
        assert problem.hamiltonian().n_sites == problem.n_sites
        assert config.seed == 3
        assert config.lattice.periodic == problem.periodic
        assert problem.energy / problem.n_sites < -0.38


def test_ours_is_train_py_without_tuning() -> None:
    from nqs.cli.train import load_config

    arguments = ["lattice.Lx=6", "lattice.Ly=6", "hamiltonian.V=7", "seed=4"]
    assert Ours(PROBLEMS["6x6"], 4).config == load_config(arguments)


@pytest.mark.parametrize("name", PROBLEMS)
def test_peer_settings_are_complete(name: str) -> None:
    assert settings(RBMSettings, "netket-rbm", name).samples >= 2
    assert settings(ARSettings, "netket-ar", name).kernel <= max(PROBLEMS[name].shape)
    older = settings(OlderSettings, "older", name)
    assert PROBLEMS[name].n_sites % older.loops == 0


def test_odd_settings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "peers.yaml"
    path.write_text("netket-ar: {all: {layers: 1, widht: 3}}")
    with pytest.raises(ValueError, match="features, kernel, learning_rate, samples, widht"):
        settings(ARSettings, "netket-ar", "4x4", path)


def test_ours_on_four_sites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--problems", "2x2", "--programs", "ours,ours-adam,older", "--budget", "0.6"]
    smaller = ["--ours", "train.steps=40", "--ours", "train.n_samples=64"]
    assert main([*arguments, *smaller, "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "2x2  older: left out, no --older-code PATH given" in text
    rows = [line.split() for line in text.splitlines() if line.startswith("2x2 ")]
    assert rows[-2][1:3] == ["ours", "0"] and rows[-1][1:3] == ["ours-adam", "0"]
    for name in ("time_to_accuracy.csv", "time_to_accuracy_summary.csv", "time_to_accuracy.png"):
        assert (tmp_path / name).stat().st_size > 100


def agree(program: Program, problem: Problem) -> None:
    """The energy from fresh samples is that of the sum over the basis."""
    psi = program.log_psi(basis(problem.n_sites)).exp().numpy()
    exact = psi @ dense_matrix(problem.hamiltonian()) @ psi / (psi @ psi)
    energy, error = program.sampled_energy(8_192)
    assert 0 < error < 0.3
    assert abs(energy - exact) < 5 * error


class TestNetKet:
    pytestmark = NETKET_WARNINGS

    @pytest.fixture(autouse=True)
    def netket(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pytest.importorskip("netket")

    def test_its_ising_model_is_ours(self) -> None:
        from benchmarks.netket_peers import NetKetRBM

        problem = ising("any", (2, 3), 1, periodic=False, h=0.7)
        operator = NetKetRBM(problem, 0).operator()
        np.testing.assert_allclose(dense(operator), dense_matrix(problem.hamiltonian()))

    def test_rbm_runs_and_its_samples_agree_with_the_sum(self) -> None:
        from benchmarks.netket_peers import NetKetRBM

        problem = PROBLEMS["2x2"]
        program = NetKetRBM(problem, 1)
        measure = Measure(problem.hamiltonian(), problem.energy, 2_048)
        result = Race(program, measure, [0.1], labels=("2x2", "netket-rbm", 1)).run()
        assert result.ended == "budget" and result.last.steps == 1
        assert 0 < result.last.relative_error < 10
        agree(program, problem)

    @pytest.mark.slow
    def test_autoregressive_learns_and_its_samples_agree_with_the_sum(self) -> None:
        from benchmarks.netket_peers import NetKetAR

        problem = PROBLEMS["2x2"]
        program = NetKetAR(problem, 1)
        program.start()
        for _ in range(300):
            program.step()
        agree(program, problem)
        measured = Measure(problem.hamiltonian(), problem.energy, 2_048)(program)
        assert measured.energy == pytest.approx(problem.energy, rel=0.02)


def test_our_samples_agree_with_the_sum() -> None:
    program = Ours(PROBLEMS["2x2"], 0, ("train.n_samples=64",))
    program.start()
    program.step()
    agree(program, PROBLEMS["2x2"])


BAD = [
    (["--problems", "5x5"], "'5x5' is unknown; it must be of 2x2, 3x3"),
    (["--programs", "ours,quantax"], "'quantax' is unknown; it must be of ours, ours-adam"),
    (["--budget", "0"], "invalid number > 0 value: '0'"),
    (["--budget", "nan"], "invalid number > 0 value"),
    (["--spacing", "1"], "invalid number >= 1.05 value"),
    (["--seeds", "0,-1"], "argument --seeds"),
    (["--seeds", "a"], "invalid list of seeds such as 0,1,2 value"),
    (["--eval-samples", "1"], "invalid whole number >= 2 value"),
    (["--older-code", "/nowhere"], "no tvmc/models/PTF.py; give a VMC_with_LPTFs checkout"),
    (["--ours", "train.stebs=5"], "train.stebs: unknown key"),
    (["--ours", "train.steps=0"], "train.steps=0: must be"),
    (["--nonsense"], "unrecognized arguments"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        code = main([*arguments, "--out", str(tmp_path / "out")])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and message in captured.err
    assert captured.out == "" and not (tmp_path / "out").exists()


def test_nothing_to_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--problems", "chain16", "--programs", "older", "--out", str(tmp_path)]
    assert main(arguments) == 2
    assert "error: nothing was run" in capsys.readouterr().err


def test_out_that_is_a_file_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--problems", "2x2", "--out", str(tmp_path / "file")]) == 2
    assert "--out" in capsys.readouterr().err
