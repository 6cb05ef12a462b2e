"""Every kind's defaults are valid, come back from their own config.yaml, and run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from nqs.cli.app import main as nqs
from nqs.cli.composition import compose
from nqs.core.digits import DigitHead
from nqs.errors import InputError
from nqs.ground_states.build import build
from nqs.ground_states.config import Config
from nqs.ground_states.groups import GROUPS

LATTICES, HAMILTONIANS, MODELS = (
    list(GROUPS[name].kinds) for name in ("lattice", "hamiltonian", "model")
)


def train(arguments: Sequence[str]) -> int:
    """The command line of `nqs train`."""
    return nqs(["train", *arguments])


FILES = {"lattice.file": "sites.csv", "hamiltonian.file": "terms.txt"}
SMALL = ["model.d_model=8", "train.steps=2", "train.n_samples=8", "train.eval_samples=16"]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the files that positions and pauli need."""
    (tmp_path / "sites.csv").write_text("x,y\n0,0\n1,0\n0,1\n1,1\n2,0.5\n")
    (tmp_path / "terms.txt").write_text("-1.0 Z0 Z1\n-0.5 X0\n-0.5 X1\n-0.5 X2\n")
    monkeypatch.chdir(tmp_path)


def command(lattice: str, hamiltonian: str, model: str) -> list[str]:
    words = [f"lattice={lattice}", f"hamiltonian={hamiltonian}", f"model={model}"]
    if lattice == "positions":
        words.append("lattice.file=sites.csv")
    if hamiltonian == "pauli":
        words.append("hamiltonian.file=terms.txt")
    return words


@pytest.mark.parametrize("lattice", LATTICES)
def test_every_choice_is_valid_and_buildable(lattice: str) -> None:
    pairs = [*((name, "ptf") for name in HAMILTONIANS), *(("rydberg", name) for name in MODELS)]
    for hamiltonian, model in dict.fromkeys(pairs):
        mapping, _ = compose(command(lattice, hamiltonian, model))
        config = Config.from_dict(mapping)
        if (lattice, model) == ("positions", "rnn2d"):
            with pytest.raises(InputError, match=r"model\.patch=auto.*not a grid of patches"):
                build(config)
            continue
        assert Config.from_dict(config.to_dict()) == config
        job = build(config)
        assert job.wavefunction.n_sites == job.hamiltonian.n_sites == job.lattice.n_sites


RUNS = [
    *(command("kagome", "rydberg", model) for model in ("linear_attention", "ssm", "rnn2d")),
    ["model=rnn2d", "lattice.Lx=3", "lattice.Ly=5", "model.d_embed=2"],
    ["model=ssm", "model.positions=grid", "model.d_state=3", "model.n_layers=1"],
    *(command(lattice, "rydberg", "ptf") for lattice in LATTICES),
    *(command("square", hamiltonian, "rnn") for hamiltonian in HAMILTONIANS),
    ["model=rnn", "model.cell=lstm", "model.residual=true", "model.n_layers=2"],
    ["model=rnn", "model.cell=elman", "train.flip_fraction=0"],
    ["model.attention=softmax", "train.flip_precision=bfloat16"],
    ["model=rnn", "train.flip_precision=auto"],
    ["energies=near_flips", "energies.exact_fraction=0.5"],
    ["train.flip_radius=1", "model.attention=softmax", "train.flip_fraction=0", "model.phase=true"],
    ["model=lptf", "model.patch=2x4", "model.sub_patch=2x2"],
    ["model=lptf", "model.patch=3x3", "model.sub_patch=2", "model.sub_cell=lstm", "lattice.Ly=3"],
    ["model=lptf_ptf", "model.sub_d_model=8", "lattice=kagome", "lattice.Lx=2", "lattice.Ly=2"],
    ["optimizer=adam", "optimizer.clip_norm=1"],
    ["optimizer=minsr", "optimizer.max_norm=0.1", "optimizer.momentum=0"],
    ["model.positions=grid", "lattice.Lx=3", "lattice.Ly=5", "dtype=float64"],
    ["model.positions=sinusoidal", "optimizer.schedule=exponential", "optimizer.warmup_steps=1"],
]


@pytest.mark.parametrize("words", RUNS, ids=[" ".join(words) for words in RUNS])
def test_it_runs(words: list[str], tmp_path: Path) -> None:
    fixed = any(word.startswith(("lattice", "model.patch")) for word in words)
    sizes = [] if fixed else ["lattice.Ly=2"]  # of 16 sites the exact energy takes most of the time
    assert train([*words, *sizes, *SMALL, "run.dir=run"]) == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["status"] == "finished" and summary["steps"] == 2
    assert summary["relative_error"] < 1  # product-state start: never far off


@pytest.mark.parametrize("model", MODELS)
def test_large_patches_are_made_of_bits(model: str) -> None:
    """digit_decay=auto: from 6 sites on, in the head of every kind of network."""
    key = "model.sub_patch" if model.startswith("lptf") else "model.patch"
    whole = ["model.patch=6x4"] if model.startswith("lptf") else []
    for patch, decay, by_digits in (
        ("3x2", "auto", True),
        ("2x2", "auto", False),
        ("2x2", "0.5", True),
        ("3x2", "null", False),
    ):
        words = [f"model={model}", "lattice.Lx=6", *whole, f"{key}={patch}"]
        mapping, _ = compose([*words, f"model.digit_decay={decay}"])
        network = build(Config.from_dict(mapping)).wavefunction
        assert isinstance(network.core.head, DigitHead) == by_digits
