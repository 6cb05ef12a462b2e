"""What works without the packages of extras, and what is said where they are missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXTRAS = ("gemmi", "spglib", "pymatgen", "smact", "ase", "netket", "jax", "joblib", "submitit",
          "xarray", "h5netcdf")  # fmt: skip
CODE = f"""
import sys
sys.modules |= dict.fromkeys({EXTRAS!r})  # importing any of them fails
from nqs.cli.app import main
sys.exit(main(sys.argv[1:]))
"""
TINY = ("lattice.Lx=2", "lattice.Ly=2", "train.steps=2", "train.eval_samples=50")


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("scan", *TINY, "hamiltonian.delta=0,1", "scan.dir=scan"), 0, ""),
        (("crystal", "train"), 2, "error: crystal: needs the package gemmi; pip install"),
        (("collect", "scan"), 2, "error: collect: needs the package h5netcdf; pip install"),
        (
            ("scan", *TINY, "hamiltonian.delta=0,1", "launcher=joblib"),
            2,
            "error: launcher: the package joblib is not",
        ),
    ],
)
def test_without_any(words: tuple[str, ...], code: int, line: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr[: len(line)]) == (code, line), done.stderr
    assert done.stderr.count("\n") == (1 if code else 0)
