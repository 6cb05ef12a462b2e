"""nqs reweight: the table, the file and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_ground_state_run import result, run

from hamiltonians import Rydberg
from hamiltonians.exact import ground_state
from hamiltonians.lattices.lattice import Square
from nqs.cli.app import main as nqs
from nqs.ground_states import summary
from nqs.runfolder.summary import write as write_summary


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "trained"
    assert run(path, train__steps=60, train__n_samples=128) == 0
    return path


def test_table_and_file(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = result(trained)
    command = ["reweight", str(trained), "hamiltonian.delta=1,1.1", "V=7,8"]
    assert nqs([*command, "--samples", "4000", "--lanczos-samples", "500"]) == 0
    out = capsys.readouterr().out
    assert "effective samples" in out and "change from here" in out and "±" in out
    (entry,) = json.loads((trained / "reweighting.json").read_text())
    assert entry["n_samples"] == 4000 and entry["step"] == 60
    points = [estimate["couplings"] for estimate in entry["estimates"]]
    assert points == [{"delta": d, "V": v} for d in (1.0, 1.1) for v in (7.0, 8.0)]
    for estimate in entry["estimates"]:
        point = estimate["couplings"]
        exact = ground_state(Rydberg(Square(2, 2), point["V"], point["delta"]), k=1).energy
        noise = 5 * (estimate["improved_error"] + 1e-6)
        assert exact - noise < estimate["improved"] < estimate["energy"] + noise
        assert 0 < estimate["effective_samples"] <= 4000 * (1 + 1e-9)
        assert len(estimate["observables"]["density"]["value"]) == 4
    here = entry["estimates"][0]
    assert here["difference"] == 0 and abs(here["energy"] - before["energy"]) < 0.2
    assert nqs([*command, "--samples", "100", "--lanczos-samples", "100", "--seed", "2"]) == 0
    assert len(json.loads((trained / "reweighting.json").read_text())) == 2
    assert result(trained) == before


def test_far_couplings_are_flagged(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["reweight", str(trained), "Rb=0.5", "hamiltonian.delta=-40"]
    assert nqs([*command, "--samples", "2000", "--lanczos-samples", "200"]) == 0
    out = capsys.readouterr().out
    assert "%)!" in out and "do not rely" in out and "train.start_from" in out
    last = json.loads((trained / "reweighting.json").read_text())[-1]["estimates"][0]
    assert not last["reliable"]


@pytest.mark.parametrize(
    ("arguments", "culprits"),
    [
        (["hamiltonian.detla=1"], ["hamiltonian.detla", "did you mean delta?"]),
        (["hamiltonian.J=1"], ["hamiltonian.J", "it has V, delta, Omega, Rb"]),
        (["delta"], ["delta: not understood", "hamiltonian.delta=1.05,1.1"]),
        (["delta=1,x"], ["delta=1,x: not understood"]),
        (["delta=nan"], ["hamiltonian.delta=nan", "finite"]),
        (["Omega=0"], ["Omega=0", "whole terms"]),
        (["V=7", "Rb=1"], ["only one"]),
        (["delta=1", "--samples", "1"], ["--samples=1", ">= 2"]),
    ],
)
def test_bad_input(
    trained: Path, arguments: list[str], culprits: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert nqs(["reweight", str(trained), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(culprit in error for culprit in culprits)


@pytest.mark.parametrize("content", ["", "{}", "7", "[1]", "[" * 100_000, "null", '["text"]'])
def test_a_file_of_any_content(
    content: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """faults.md, kind 5: refused before any work, and left as it is."""
    file = trained / "reweighting.json"
    before = file.read_bytes() if file.exists() else None
    file.write_text(content)
    try:
        assert nqs(["reweight", str(trained), "delta=1.1"]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and "reweighting.json" in line and "move it away" in line
        assert file.read_text() == content
    finally:
        file.unlink() if before is None else file.write_bytes(before)


@pytest.mark.parametrize(
    ("arguments", "culprits"),
    [
        (["delta=1", "hamiltonian.delta=2"], ["hamiltonian.delta=2", "given twice"]),
        (["delta=inf"], ["hamiltonian.delta=inf", "finite"]),
        (["delta=" + ",".join("1" * 2000)], ["2000 sets of couplings", "1000"]),
        (["delta=1", "--samples", "1000000000000000"], ["--samples=", "10000000"]),
        (["delta=1", "--lanczos-samples", "9999999999"], ["--lanczos-samples=", "1000000"]),
        ([f"delta={','.join(map(str, range(900)))}", "--samples", "9000000"], ["GB", "fewer"]),
    ],
    ids=["twice", "inf", "many", "samples", "lanczos", "memory"],
)
def test_bounds(
    trained: Path, arguments: list[str], culprits: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert nqs(["reweight", str(trained), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(culprit in error for culprit in culprits)


def test_a_doubtful_run_says_so(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = trained / "summary.json"
    before = file.read_text()
    doubts = ["collapsed: a handful of configurations holds everything \x1b[2J"]
    write_summary(file, summary.read(file) | {"verdict": "doubtful", "doubts": doubts})
    try:
        command = ["reweight", str(trained), "delta=1.1", "--samples", "100"]
        assert nqs([*command, "--lanczos-samples", "100"]) == 0
        out = capsys.readouterr().out
        assert "the run itself is doubtful: collapsed: a handful" in out and "\x1b" not in out
    finally:
        file.write_text(before)
