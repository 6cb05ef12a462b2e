"""No run ends good and wrong: verdicts without exact diagonalisation, against it.

    pytest -m slow tests/campaigns/test_good_means_right.py

Wrong is an energy more than TOLERANCE (relative) away from the exact one. The settings are drawn
with a seed: couplings that make the diagonal wide, and optimizers that nobody would choose.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from hamiltonians.exact import ground_state
from nqs.cli.composition import compose
from nqs.ground_states import summary
from nqs.ground_states.build import build
from nqs.ground_states.config import Config
from nqs.ground_states.run import run

TOLERANCE = 1e-3
SMALL = ("model.d_model=8", "model.n_layers=1", "train.n_samples=128", "train.eval_samples=4000")
SYSTEMS = (
    "lattice.Lx=3 lattice.Ly=3 hamiltonian.V=7",
    "lattice.Lx=3 lattice.Ly=3 hamiltonian.Rb=1.5 hamiltonian.delta=3",
    "lattice.Lx=3 lattice.Ly=2 hamiltonian.V=1e4",
    "lattice=chain lattice.Lx=9 hamiltonian.V=200 hamiltonian.delta=2",
    "lattice=kagome lattice.Lx=2 lattice.Ly=1 hamiltonian.V=7 hamiltonian.delta=2.5",
    "lattice=chain lattice.Lx=8 lattice.periodic=true hamiltonian=tfim",
    "lattice.Lx=3 lattice.Ly=3 hamiltonian=tfim hamiltonian.h=0.3",
    "lattice.Lx=3 lattice.Ly=3 hamiltonian=tfim hamiltonian.h=-2",
    "lattice=chain lattice.Lx=8 lattice.periodic=true hamiltonian=heisenberg model.n_up=4",
)


def ended(words: list[str], folder: Path) -> tuple[dict[str, Any], float]:
    """The summary of a run without exact diagonalisation, and the relative error of its energy."""
    mapping, _ = compose([*words, "train.exact=false", f"run.dir='{folder}'"])
    config = Config.from_dict(mapping)
    assert run(config, ["train.py", *words]) in (0, 1)
    result = summary.read(folder / "summary.json")
    if result["energy"] is None:
        assert result["status"] == "failed" and result["verdict"] is None
        return result, 0.0
    exact = ground_state(build(config).hamiltonian, k=1, n_up=config.model.n_up).energy
    return result, abs(result["energy"] - exact) / abs(exact)


def good_and_wrong(settings: list[list[str]], folder: Path) -> list[str]:
    """A line for each run that ended so; all are listed on the way."""
    bad, n_good, n_wrong = [], 0, 0
    for number, words in enumerate(settings):
        result, error = ended(words, folder / f"{number:03d}")
        n_good += result["verdict"] == "good"
        n_wrong += error > TOLERANCE
        line = f"{result['verdict']} {error:.1e} {' '.join(words)} {result['doubts']}"
        print(line)
        if result["verdict"] == "good" and error > TOLERANCE:
            bad.append(line)
    print(f"{len(settings)} runs, {n_good} good, {n_wrong} wrong, {len(bad)} good and wrong")
    return bad


def absurd(generator: random.Random) -> list[str]:
    """A system with an optimizer that nobody would choose, or, every other time, one that might
    just do."""
    words = [*generator.choice(SYSTEMS).split(), *SMALL, f"seed={generator.randrange(1000)}"]
    if generator.random() < 0.5:
        rate, shift = 10 ** generator.uniform(-2, 0), 10 ** generator.uniform(-4, -1)
        words += [f"train.steps={generator.choice((60, 120, 240))}"]
        return [*words, f"optimizer.learning_rate={rate:g}", f"optimizer.diagonal_shift={shift:g}"]
    words.append(f"train.steps={generator.choice((1, 3, 10, 40, 120))}")
    words.append(f"energies.flip_fraction={generator.choice((0, 0.1, 0.5, 0.95))}")
    if generator.random() < 0.4:
        words += ["optimizer=adam", f"optimizer.learning_rate={10 ** generator.uniform(-5, 1.5):g}"]
        return words
    words.append(f"optimizer.learning_rate={10 ** generator.uniform(-4, 1):g}")
    words.append(f"optimizer.diagonal_shift={10 ** generator.uniform(-9, 2):g}")
    words.append(f"optimizer.momentum={generator.choice((0, 0.5, 0.9, 0.99))}")
    words.append(f"optimizer.max_norm={generator.choice(('null', '0.01', '0.25', '5'))}")
    words.append(f"optimizer.implicit={generator.choice(('true', 'false'))}")
    return words


def wide(V: str, side: int, seed: int) -> list[str]:
    """A square array of strong repulsion at default settings."""
    return [f"hamiltonian.V={V}", f"lattice.Lx={side}", f"lattice.Ly={side}", f"seed={seed}"]


def test_some_absurd_optimizers(tmp_path: Path) -> None:
    generator = random.Random(1)
    assert not good_and_wrong([absurd(generator) for _ in range(4)], tmp_path)


@pytest.mark.slow
def test_absurd_optimizers(tmp_path: Path) -> None:
    generator = random.Random(2)
    assert not good_and_wrong([absurd(generator) for _ in range(100)], tmp_path)


@pytest.mark.slow
def test_wide_diagonals(tmp_path: Path) -> None:
    settings = [
        wide(V, side, seed)
        for V in ("1e3", "1e4", "1e5", "1e6")
        for side in (3, 4)
        for seed in (0, 1, 2)
    ]
    assert not good_and_wrong(settings, tmp_path)
