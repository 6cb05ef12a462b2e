"""Single bits of the files of a run turned round, and what a resumed run then goes on from.

A run is small enough for all that it depends on to be compared: configuration, Hamiltonian on every
configuration, parameters, optimizer, generator, history, evaluations, summary, sessions.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nqs.errors import InputError
from nqs.ground_states import summary
from nqs.ground_states.build import build
from nqs.ground_states.config import Config
from nqs.ground_states.ground_state_run import GroundStateRun
from nqs.ground_states.run import run as run_job
from nqs.ground_states.run_folder import START, resumed_config
from nqs.ground_states.start import read_start
from nqs.runfolder import digests

STRINGS = "-1 Z0 Z1\n-0.5 Z1 Z2\n-0.7 X0\n-0.5 X1\n-0.25 X2\n"
SITES = "x,y\n0,0\n1,0\n0,1.5\n"


def config(folder: Path, **train: Any) -> Config:
    """A run with input files in `folder`; run.dir is to be given as run={...}."""
    run = train.pop("run")
    return Config.from_dict(
        {
            "lattice": {"name": "positions", "file": str(folder / "sites.csv")},
            "hamiltonian": {"name": "pauli", "file": str(folder / "strings.txt")},
            "model": {
                **{"name": "ptf", "patch": "2", "d_model": 4, "n_layers": 1, "n_heads": 2},
                **{"attention": "factored", "activation": "gelu", "positions": "learned"},
            },
            "optimizer": {
                **{"name": "adam", "learning_rate": 0.01, "beta1": 0.9, "beta2": 0.999},
                **{"eps": 1e-8, "schedule": "constant", "warmup_steps": 0, "final_fraction": 0.1},
            },
            "train": {
                **{"steps": 6, "n_samples": 16, "flip_fraction": 0.5, "max_seconds": None},
                **{"eval_samples": 32, "exact": False, "checkpoint_every": 2, **train},
            },
            "run": run,
            "seed": 3,
            "device": "cpu",
            "dtype": "float32",
        }
    )


def make_runs(folder: Path) -> list[Path]:
    """A finished run, and a half-done one that started from it and has been evaluated later."""
    (folder / "strings.txt").write_text(STRINGS)
    (folder / "sites.csv").write_text(SITES)
    runs = [folder / "finished", folder / "half"]
    whole = config(folder, run={"dir": str(runs[0]), "resume": False})
    assert run_job(whole, ["python", "train.py"]) == 0
    half = config(
        folder, run={"dir": str(runs[1]), "resume": False}, steps=3, start_from=str(runs[0])
    )
    assert run_job(half, ["python", "train.py"]) == 0
    return runs


@dataclass(frozen=True)
class Reading:
    """What a resumed run goes on from, and what it says of it."""

    content: dict[str, str]
    warnings: list[str]


def reading(path: Path) -> Reading:
    """Reads everything as resuming, showing and starting do. Raises InputError."""
    warnings: list[str] = []
    resumed = resumed_config(path, {})
    job = build(resumed)
    saved, history = GroundStateRun(job).restored(path, warnings.append)
    n = job.hamiltonian.n_sites
    configs = torch.arange(2**n)[:, None].bitwise_right_shift(torch.arange(n)).bitwise_and(1).bool()
    start = path / START
    content = {
        "configuration": json.dumps(resumed.to_dict()),
        "positions": text(job.lattice.positions),
        "flips": text(job.hamiltonian.flips),
        "diagonal": text(job.hamiltonian.diagonal(configs)),
        "off_diagonal": text(job.hamiltonian.off_diagonal(configs)),
        "checkpoint": text(saved),
        "parameters": text(dict(job.wavefunction.state_dict())),
        "history": text(history.columns) + text(history.saved_step),
        "evaluations": text([vars(evaluation) for evaluation in history.evaluations]),
        "summary": text(summary.read(path / "summary.json")),
        "start": text(read_start(start)) if start.exists() else "",
    }
    try:
        content["sessions"] = text(digests.read_mapping(path / "environment.json")[0])
    except digests.Damaged as error:  # put aside when resumed
        warnings.append(str(error))
    return Reading(content, warnings)


def text(value: Any) -> str:
    """All of it, every bit of its numbers."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{tuple(value.shape)}{value.numpy().tobytes().hex()}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{value.tobytes().hex()}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{text(value[key])}" for key in value) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(text, value)) + "]"
    return repr(value)


@dataclass(frozen=True)
class Flip:
    """One bit of one file."""

    path: Path
    byte: int
    bit: int

    def apply(self) -> None:
        """Turns it round; a second time turns it back."""
        content = bytearray(self.path.read_bytes())
        content[self.byte] ^= 1 << self.bit
        self.path.write_bytes(content)


def flips(path: Path, n: int, seed: int) -> Iterator[Flip]:
    """n random bits: every file as often as every other, every byte of a file alike."""
    chance = random.Random(seed)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    for _ in range(n):
        file = chance.choice(files)
        yield Flip(file, chance.randrange(file.stat().st_size), chance.randrange(8))


def campaign(path: Path, n: int, seed: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """({(file, "refused", "told" or "same"): how often}, flips that went unnoticed)."""
    right, counts, unnoticed = reading(path), Counter[tuple[str, str]](), []
    assert not right.warnings
    for flip in flips(path, n, seed):
        name = str(flip.path.relative_to(path))
        flip.apply()
        try:
            found = reading(path)
            same = found.content == right.content
            verdict = "same" if same else "told" if found.warnings else "unnoticed"
        except InputError as error:
            assert "\n" not in str(error)
            verdict = "refused"
        finally:
            flip.apply()
        counts[name, verdict] += 1
        if verdict == "unnoticed":
            unnoticed.append(f"{name}, byte {flip.byte}, bit {flip.bit}")
    assert reading(path) == right
    return counts, unnoticed
