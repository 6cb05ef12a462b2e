"""Upper bounds from the states beside a point: their value against enumeration, what they catch,
what they leave alone, and that nothing of a scan is lost to them."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from nqs.ground_states import ground_state_run, summary
from nqs.ground_states.build import build
from nqs.ground_states.config import Config
from nqs.ground_states.judgement import Judgement
from nqs.ground_states.run import run as run_job
from nqs.ground_states.run_folder import read_config
from nqs.ground_states.saved_state import newest_checkpoint
from nqs.runfolder import checkpoint
from nqs.runfolder.summary import write as write_summary
from nqs.scans import neighbours
from nqs.scans import run as scans
from nqs.scans.folder import read as read_scan

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("train", ROOT / "train.py")
assert SPEC is not None and SPEC.loader is not None
train = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(train)

TINY = [
    "lattice.Lx=2",
    "lattice.Ly=2",
    "model.d_model=8",
    "model.n_heads=2",
    "model.n_layers=1",
    "train.steps=30",
    "train.n_samples=64",
    "train.eval_samples=2000",
]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Judgement, "doubts", lambda *arguments: [])  # tested elsewhere


def scan(*words: str) -> int:
    given = {word.partition("=")[0] for word in words}
    tiny = [word for word in TINY if word.partition("=")[0] not in given]
    return train.main(["-m", *tiny, "scan.dir=scan", *words])


def result(point: str) -> dict[str, Any]:
    return json.loads((Path("scan") / point / "summary.json").read_text())


def neighbour_doubts(point: str) -> list[str]:
    return [doubt for doubt in result(point)["doubts"] if doubt.startswith("neighbour: ")]


def expectation(folder: Path, target: Config) -> float:
    """<psi|H|psi> from all amplitudes of the state in `folder`, with the H of `target`."""
    config = read_config(folder)
    job, other = build(config), build(target)
    saved = newest_checkpoint(folder, config, torch.device("cpu"))
    assert saved is not None
    checkpoint.restore(job.wavefunction, saved)
    n = other.hamiltonian.n_sites
    numbers = torch.arange(2**n)
    configs = (numbers[:, None] >> torch.arange(n - 1, -1, -1) & 1).bool()
    with torch.no_grad():
        log_psi = job.wavefunction.log_psi(configs).to(torch.complex128)
    psi = log_psi.exp()
    h_psi = other.hamiltonian.diagonal(configs) * psi
    weights = 2 ** torch.arange(n - 1, -1, -1)
    elements = other.hamiltonian.off_diagonal(configs)
    for g, flip in enumerate(other.hamiltonian.flips):
        h_psi = h_psi + elements[:, g] * psi[((configs ^ flip) * weights).sum(1)]
    return float((psi.conj() @ h_psi).real / (psi.conj() @ psi).real)


@pytest.mark.parametrize(
    "words",
    [
        ["hamiltonian.delta=0.5,1.5"],
        ["hamiltonian.Omega=0.5,1"],
        ["hamiltonian=tfim", "hamiltonian.h=0.5,1", "model.symmetry=all", "lattice.periodic=true"],
        ["hamiltonian=xxz", "hamiltonian.Delta=0.5,1.5", "model.n_up=2"],
        ["hamiltonian=j1j2", "hamiltonian.J2=0,0.4", "model.phase=true"],
    ],
    ids=lambda words: " ".join(words),
)
def test_the_bound_is_the_energy_of_the_other_state(words: list[str]) -> None:
    """Against enumeration, within five standard errors that are themselves small."""
    assert scan(*words, "scan.repeat=false") == 0
    read = read_scan(Path("scan"))
    found = neighbours.judge(read, print, lambda: False)
    assert len(found) == 2
    for point in read.points:
        (bound,) = found[point.name]
        exact = expectation(bound.folder, read_config(read.folder(point)))
        assert abs(bound.energy - exact) < 5 * bound.error + 1e-9
        assert 0 < bound.error < 0.1
    assert not list(Path("scan").rglob(".*-*"))


def test_the_same_couplings_need_no_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "trained_job", None)
    assert scan("seed=0,1") == 0
    read = read_scan(Path("scan"))
    one, two = (result(point.name) for point in read.points)
    found = neighbours.judge(read, print, lambda: False)
    for point, other in zip(read.points, (two, one), strict=True):
        (bound,) = found[point.name]
        assert [bound.energy, bound.error] == [other["energy"], other["energy_error"]]


def test_flips_that_only_one_side_has() -> None:
    """couplings that add terms: the flips of the other Hamiltonian."""
    assert scan("hamiltonian=tfim", "hamiltonian.h=0.7,1", "scan.repeat=false") == 0
    read = read_scan(Path("scan"))
    folders = [read.folder(point) for point in read.points]
    config = read_config(folders[1])
    fewer = config.hamiltonian.replace(h=(0.0, 1.0, 1.0, 1.0))
    target = config.replace(hamiltonian=fewer)
    ((energy, error),) = neighbours.energies(folders[0], result(read.points[0].name), [target])
    exact = expectation(folders[0], target)
    assert abs(energy - exact) < 5 * error + 1e-9 and error < 0.2


def badly(warm: bool, careless: bool = True) -> Any:
    """A run whose warm (or cold) start is thrown away by absurdly long steps at delta=1. careless:
    it does not keep the start, as where that is hardly better than what the steps led to."""

    def spoilt(config: Any, command: Any) -> int:
        if config.hamiltonian.delta == 1 and (config.train.start_from is not None) == warm:
            wild = config.optimizer.replace(
                learning_rate=100.0, implicit=False, adaptive=False, max_norm=0.5
            )
            config = config.replace(optimizer=wild)
        with pytest.MonkeyPatch.context() as patch:
            if careless:
                patch.setattr(ground_state_run, "is_below", lambda *evaluations: True)
            return run_job(config, command)

    return spoilt


GRID = ["hamiltonian.delta=0.75,1,1.25", "lattice.Lx=3"]
WARM = [*GRID, "scan.warm_start=hamiltonian.delta"]


def test_a_diverged_scan_point_is_doubtful(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """faults.md, kind 1, "A diverged scan point"."""
    monkeypatch.setattr(scans, "run", badly(warm=True))
    assert scan(*WARM, "scan.repeat=false") == 0
    bad = result("hamiltonian.delta=1")
    assert bad["relative_error"] > 0.02 and bad["verdict"] == "doubtful"
    (doubt,) = neighbour_doubts("hamiltonian.delta=1")
    assert "standard errors) above" in doubt and "the state at hamiltonian.delta=" in doubt
    for good in ("hamiltonian.delta=0.75", "hamiltonian.delta=1.25"):
        assert result(good)["relative_error"] < 0.02 and not neighbour_doubts(good)
    out = capsys.readouterr().out
    assert "doubtful: hamiltonian.delta=1: neighbour: " in out
    assert "1 doubtful: hamiltonian.delta=1\n" in out
    before = {path: path.stat().st_mtime_ns for path in Path("scan").rglob("*.json")}
    assert train.main(["-m", "scan.dir=scan", "scan.resume=true"]) == 0
    after = {path: path.stat().st_mtime_ns for path in Path("scan").rglob("*.json")}
    assert before == after, "a second look changes nothing"
    (Path("scan") / "neighbours.json").write_text('{"format": "nqs neighbours 1", "bounds": []}')
    assert train.main(["-m", "scan.dir=scan", "scan.resume=true"]) == 0
    assert result("hamiltonian.delta=1") == bad, "nor does one without its memory"


def test_a_diverged_scan_point_keeps_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbour's state, whose energy with the point's couplings is a bound of its own."""
    monkeypatch.setattr(scans, "run", badly(warm=True, careless=False))
    assert scan(*WARM, "scan.repeat=false") == 0
    kept = result("hamiltonian.delta=1")
    assert kept["raised_energy"] > kept["energy"] + 0.01 and kept["relative_error"] < 0.02


def test_it_is_repaired_from_the_product_state(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scans, "run", badly(warm=True))
    assert scan(*WARM) == 0
    point = "hamiltonian.delta=1"
    assert abs(result(point)["relative_error"]) < 0.02 and not neighbour_doubts(point)
    first = result(f"{point}~first")
    assert first["relative_error"] > 0.02 and first["verdict"] == "doubtful"
    assert result(point)["steps"] == 30 and first["steps"] == 8
    assert f"kept another attempt at {point}" in capsys.readouterr().out
    before = {p: p.stat().st_mtime_ns for p in Path("scan").rglob("*.json")}
    assert train.main(["-m", "scan.dir=scan", "scan.resume=true"]) == 0
    assert before == {p: p.stat().st_mtime_ns for p in Path("scan").rglob("*.json")}


def test_a_cold_point_is_repaired_from_its_best_neighbour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scans, "run", badly(warm=False))
    assert scan(*GRID) == 0
    point = "hamiltonian.delta=1"
    assert abs(result(point)["relative_error"]) < 0.02 and not neighbour_doubts(point)
    source = read_config(Path("scan") / point).train.start_from
    assert source in ("scan/hamiltonian.delta=0.75", "scan/hamiltonian.delta=1.25")
    assert result(f"{point}~first")["relative_error"] > 0.02


def test_a_worse_second_attempt_is_put_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    warm, cold = badly(warm=True), badly(warm=False)

    def spoilt(config: Any, command: Any) -> int:
        code = (cold if config.train.start_from is None else warm)(config, command)
        if "~again" in config.run.dir:
            path = Path(config.run.dir) / "summary.json"
            write_summary(path, summary.read(path) | {"energy": 100.0})
        return code

    monkeypatch.setattr(scans, "run", spoilt)
    assert scan(*WARM) == 0
    point = "hamiltonian.delta=1"
    again = result(f"{point}~again")
    assert not (Path("scan") / f"{point}~first").exists()
    assert result(point)["verdict"] == "doubtful"
    assert again["verdict"] == "doubtful" and again["energy"] >= result(point)["energy"]


def test_seeds_and_hyperparameters_are_judged_and_left_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert scan("train.steps=1,60", "seed=0,1") == 0
    names = [point.name for point in read_scan(Path("scan")).points]
    short = [name for name in names if "train.steps=1," in name]
    assert len(short) == 2 and any(neighbour_doubts(name) for name in short)
    assert not list(Path("scan").glob("*~*"))


def test_models_and_lattices_that_differ_are_not_compared() -> None:
    axes = ["model.d_model=4,8", "lattice.Lx=1,2"]
    assert scan(*axes, "train.n_samples=8", "train.eval_samples=32", "train.steps=1") == 0
    assert neighbours.pairs(read_scan(Path("scan"))) == []
    assert not (Path("scan") / "neighbours.json").exists()


def test_both_directions_are_compared_but_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(config: Any, command: Any) -> int:
        if config.run.dir.endswith("delta=1,backward"):
            wild = config.optimizer.replace(
                learning_rate=100.0, implicit=False, adaptive=False, max_norm=0.5
            )
            config = config.replace(optimizer=wild)
        return run_job(config, command)

    monkeypatch.setattr(scans, "run", spoilt)
    assert scan("hamiltonian.delta=0,1", "lattice.Lx=3", "scan.warm_start=hamiltonian.delta",
                "scan.direction=both") == 0  # fmt: skip
    (doubt,) = neighbour_doubts("hamiltonian.delta=1,backward")
    assert "the forward direction" in doubt or "hamiltonian.delta=0" in doubt
    assert not list(Path("scan").glob("*~*"))


def test_a_damaged_neighbour_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert scan("hamiltonian.delta=0,0.5", "train.steps=1") == 0
    before = {name: result(name) for name in ("hamiltonian.delta=0", "hamiltonian.delta=0.5")}
    for path in Path("scan/hamiltonian.delta=0/checkpoints").iterdir():
        path.unlink()
    os.unlink("scan/neighbours.json")
    assert train.main(["-m", "scan.dir=scan", "scan.resume=true"]) == 0
    assert "hamiltonian.delta=0 cannot be compared" in capsys.readouterr().out
    assert before == {name: result(name) for name in before}


def test_an_older_summary_without_verdict_gets_no_good_one() -> None:
    assert scan("hamiltonian.delta=0,0.5", "train.steps=1", "scan.repeat=false") == 0
    path = Path("scan/hamiltonian.delta=0/summary.json")
    older = summary.read(path)
    del older["verdict"], older["doubts"]
    older.pop("verdict_alone", None)  # of a point that its neighbour lies below already
    write_summary(path, older | {"energy": older["energy"] + 100})
    assert train.main(["-m", "scan.dir=scan", "scan.resume=true", "launcher=sequential"]) == 0
    assert result("hamiltonian.delta=0")["verdict"] == "doubtful"
    write_summary(path, summary.read(path) | {"energy": older["energy"] - 1})
    assert train.main(["-m", "scan.dir=scan", "scan.resume=true"]) == 0
    assert result("hamiltonian.delta=0")["verdict"] is None


def test_what_lies_above_a_bound() -> None:
    def excess(energy: float, error: float, bound: float, noise: float) -> float:
        found = {"energy": energy, "energy_error": error}
        other = neighbours.Bound(bound, noise, "", None, None)  # type: ignore[arg-type]
        return neighbours.excess(found, other)

    assert excess(-1.0, 0.01, -1.1, 0.01) == pytest.approx(0.1)
    assert excess(-1.0, 0.03, -1.1, 0.01) == 0, "3.2 standard errors"
    assert excess(-1.0, 1e-7, -1.00005, 1e-7) == 0, "sure, and of no account"
    assert excess(-1.1, 0.0, -1.0, 0.0) == 0
    assert excess(0.0, 0.0, 0.0, 0.0) == 0
    assert excess(0.0, 0.0, -1e-3, 0.0) == pytest.approx(1e-3)
    text = neighbours.described(
        {"energy": 0.0, "energy_error": 0.0},
        neighbours.Bound(-1e-3, 0.0, "the state at h=1", None, None),  # type: ignore[arg-type]
    )
    assert text.startswith("neighbour: ") and "h=1" in text
    assert summary.DOUBTFUL == "doubtful"
