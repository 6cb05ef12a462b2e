"""A Hamiltonian and a network of one's own, each one class in a file of one's own, used end to end:
command line, files, pictures, exact diagonalisation, resuming, scans."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pictures import with_pictures

from nqs.cli.app import main as nqs

ROOT = Path(__file__).resolve().parents[2]
CLUSTERS = '''
from typing import Annotated

import torch

from hamiltonians import Hamiltonian


class Clusters(Hamiltonian):
    """H = -K sum_i sz_i sz_i+1 sz_i+2 - h sum_i sx_i along the order of the sites.

    Args:
        K: coupling of three neighbours.
        h: field.
    """

    def __init__(self, lattice, *, K: Annotated[float, "0 .. 9"] = 1.0, h: float = 0.7):
        self.lattice, self.n_sites = lattice, lattice.n_sites
        self.K, self.h = K, h
        self.flips = torch.eye(self.n_sites, dtype=torch.bool)

    def diagonal(self, configs):
        z = 1 - 2 * configs.to(torch.float64)
        return -self.K * (z[:, :-2] * z[:, 1:-1] * z[:, 2:]).sum(1)

    def off_diagonal(self, configs):
        return torch.full((len(configs), self.n_sites), -self.h, dtype=torch.float64)

    @property
    def infinite_temperature_energy(self):
        return 0.0
'''
MEANS = '''
import torch
from torch import nn

from nqs.core.head import Head
from nqs.core.initialise import initialise
from nqs.core.sequence import UncachedModel


class Mean(UncachedModel):
    """Reads the mean of what came before.

    Args:
        width: of its vectors.
    """

    def __init__(self, n_tokens, n_outputs, length, *, width: int = 6, generator=None):
        super().__init__(n_tokens, n_outputs, length)
        self.embedding = nn.Embedding(n_tokens, width)
        self.head = Head(width, n_outputs)
        initialise(self, generator)

    def logits(self, tokens):
        seen = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)[:, None]
        return self.head(self.embedding(tokens).cumsum(1) / seen)
'''
SMALL = ["lattice=chain", "lattice.Lx=5", "train.n_samples=16", "train.eval_samples=64"]
PTF = ["model.d_model=4", "model.n_heads=1", "model.n_layers=1"]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with the two modules; what is imported from it is forgotten afterwards."""
    (tmp_path / "clusters.py").write_text(CLUSTERS)
    (tmp_path / "means.py").write_text(MEANS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("clusters", "means"):
        sys.modules.pop(name, None)


def summary(path: str) -> dict[str, Any]:
    return json.loads((Path(path) / "summary.json").read_text())


def exact_energy(n_sites: int, K: float, h: float) -> float:
    """The lowest eigenvalue of the Kronecker products."""

    def product(**factors: np.ndarray) -> np.ndarray:
        matrix = np.eye(1)
        for site in range(n_sites):
            matrix = np.kron(matrix, factors.get(f"s{site}", np.eye(2)))
        return matrix

    x, z = np.array([[0, 1], [1, 0]]), np.diag([1, -1])
    matrix = sum(-h * product(**{f"s{i}": x}) for i in range(n_sites))
    for i in range(n_sites - 2):
        matrix = matrix - K * product(**{f"s{i + d}": z for d in range(3)})
    return float(np.linalg.eigvalsh(matrix)[0])


def test_a_hamiltonian(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["hamiltonian=clusters:Clusters", "hamiltonian.K=0.5", *SMALL, *PTF]
    with with_pictures():
        assert nqs(["train", *words, "train.steps=3"]) == 0
    run = "runs/Clusters-chain-5-ptf-001"
    assert summary(run)["exact_energy"] == pytest.approx(exact_energy(5, 0.5, 0.7))
    saved = yaml.safe_load((Path(run) / "config.yaml").read_text())
    assert saved["hamiltonian"] == {"name": "clusters:Clusters", "K": 0.5, "h": 0.7}
    assert (Path(run) / "convergence.png").exists()
    assert nqs(["train", f"run.dir={run}", "run.resume=true", "train.steps=5"]) == 0
    assert summary(run)["steps"] == 5
    assert nqs(["plot", run]) == 0 and (Path(run) / "observables.png").exists()
    capsys.readouterr()
    assert nqs(["train", "hamiltonian=clusters:Clusters", "--help"]) == 0
    assert "  hamiltonian.K=1.0\n      coupling of three neighbours. [0 .. 9]" in (
        capsys.readouterr().out
    )
    assert nqs(["train", *words, "hamiltonian.K=10"]) == 2  # given twice
    assert nqs(["train", words[0], "hamiltonian.K=10"]) == 2
    errors = capsys.readouterr().err
    assert "hamiltonian.K=10: must be >= 0 and <= 9\n" in errors


def test_a_scan_of_its_couplings() -> None:
    words = ["hamiltonian=clusters:Clusters", "hamiltonian.K=0.5,1", *SMALL, *PTF]
    words += ["train.steps=2", "scan.dir=scan", "scan.repeat=false"]
    assert nqs(["scan", *words]) == 0
    pytest.importorskip("h5netcdf")
    assert nqs(["collect", "scan"]) == 0
    import xarray

    with xarray.open_dataset("scan/collected.nc", engine="h5netcdf") as data:
        assert data["K"].values.tolist() == [0.5, 1.0]
        assert data["K"].attrs["long_name"].startswith("coupling of three")
        expected = [exact_energy(5, K, 0.7) for K in (0.5, 1.0)]
        assert data["exact_energy"].values == pytest.approx(expected)


def test_a_network() -> None:
    assert nqs(["train", "model=means:Mean", "model.width=5", *SMALL, "train.steps=3"]) == 0
    run = "runs/rydberg-chain-5-Mean-001"
    assert summary(run)["relative_error"] < 1
    shutil.copytree(run, "half")
    for folder in (run, "half"):
        words = [f"run.dir={folder}", "run.resume=true", "train.steps=4"]
        assert nqs(["train", *words]) == 0
    assert summary(run)["energy"] == summary("half")["energy"]
    assert nqs(["evaluate", run, "--samples", "32"]) == 0
    assert len(summary(run)["later_evaluations"]) == 1


def test_the_command_finds_modules_beside_the_user() -> None:
    """As the console script starts it, which has not the current folder on its path; and so do the
    processes of a scan."""
    pytest.importorskip("joblib")
    script = "import sys; from nqs.__main__ import main; sys.exit(main())"
    words = ["scan", "hamiltonian=clusters:Clusters", *SMALL, *PTF, "train.steps=1", "seed=1,2"]
    words += ["launcher=joblib", "launcher.n_jobs=2", "scan.repeat=false", "scan.dir=scan"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", script, *words]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    assert "2 of 2 points finished" in ended.stdout
