"""docs/extending.md is true: its classes, in files of their names, do what it says."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from hamiltonians import Chain, Kagome
from hamiltonians.exact import basis, ground_state
from nqs.cli.app import main
from nqs.ground_states.api import load
from nqs.vmc.observables import Observable, Request, expectations

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
SMALL = ["train.n_samples=64", "train.eval_samples=2000", "model.width=4"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's files in a folder of the user's, which is the current one."""
    text = PAGE.read_text(encoding="utf-8")
    names = re.findall(r"`(\w+)\.py`:\n\n```python\n(.*?)```", text, flags=re.S)
    assert [name for name, _ in names] == ["clusters", "means", "bonds"]
    for name, code in names:
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name, _ in names:
        sys.modules.pop(name, None)


def test_all_three_in_one_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A Hamiltonian, a network and an observable of one's own: trained, compared, measured, drawn,
    evaluated and resumed. 5 standard errors of the evaluation: false alarms 6e-7."""
    words = ["hamiltonian=clusters:Clusters", "hamiltonian.K=0.3", "model=means:Means"]
    words += ["train.observables=[bonds:Bonds]", "lattice=kagome", "lattice.Lx=1", "lattice.Ly=2"]
    assert main(["train", *words, *SMALL, "train.steps=40", "run.dir=run"]) == 0
    summary = json.loads((folder / "run" / "summary.json").read_text())
    import bonds
    import clusters

    assert bonds.Bonds not in Observable.kinds.values()  # it belongs to the run alone
    exact = clusters.Clusters(Kagome(1, 2), K=0.3)
    assert summary["exact_energy"] == pytest.approx(ground_state(exact).energy, abs=1e-10)
    state = load(folder / "run")
    configs = basis(6)
    amplitudes = state.log_psi(configs).exp().double()
    values = expectations(Request(exact, exact.lattice, also=(bonds.Bonds,)), configs, amplitudes)
    with h5py.File(folder / "run" / "run.h5") as file:
        names: list[str] = []
        file.visit(names.append)
        assert any(name.endswith("bond_density") for name in names)
    measured = state.observables["mean_bond"]
    assert abs(float(measured.value - values["mean_bond"])) < 5 * float(measured.error)
    capsys.readouterr()
    assert main(["evaluate", "run", "--samples", "200"]) == 0
    assert "mean bond" in capsys.readouterr().out
    assert main(["plot", "run"]) == 0 and (folder / "run" / "observables.png").exists()
    assert main(["train", "run.dir=run", "run.resume=true", "train.steps=42"]) == 0
    again = load(folder / "run")
    assert again.step == 42 and np.isfinite(again.energy)


def test_a_run_whose_observable_is_gone(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It resumes without; evaluate and plot say what they lack."""
    words = ["hamiltonian=tfim", "lattice=chain", "lattice.Lx=4", "model=means:Means", *SMALL]
    words += ["train.observables=[bonds:Bonds]", "train.steps=2", "run.dir=run"]
    assert main(["train", *words]) == 0
    (folder / "bonds.py").unlink()
    sys.modules.pop("bonds")
    capsys.readouterr()
    for command in (["evaluate", "run", "--samples", "200"], ["plot", "run"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: train.observables=bonds:Bonds: ModuleNotFoundError")
        assert error.count("\n") == 1
    words = ["run.dir=run", "run.resume=true", "train.steps=3", "train.observables=[]"]
    assert main(["train", *words]) == 0
    assert main(["evaluate", "run", "--samples", "200"]) == 0 and main(["plot", "run"]) == 0


def test_the_help_knows_its_keys(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "hamiltonian=clusters:Clusters", "model=means:Means", "--help"]) == 0
    text = capsys.readouterr().out
    assert "hamiltonian.K=1.0" in text and "coupling of three neighbours. [0 .. 9]" in text
    assert "model.width=6" in text


def test_an_observable_that_is_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "train.observables=[clusters:Clusters]"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: train.observables=clusters:Clusters: must be a")
    assert error.count("\n") == 1 and not (folder / "runs").exists()


def test_from_python(folder: Path) -> None:
    import clusters
    import means

    import nqs

    result = nqs.ground_state(
        clusters.Clusters(Chain(4)), {"name": means.Means, "width": 4}, steps=5, samples=32
    )
    assert nqs.load(result.save(folder / "saved")).energy == result.energy
