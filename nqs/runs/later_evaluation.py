"""A fresh evaluation of a run's newest checkpoint, added to its run.h5."""

from __future__ import annotations

from pathlib import Path

from nqs.runs import checkpoint, directory, history
from nqs.runs.build import build
from nqs.runs.ground_state_run import evaluated, writing
from nqs.runs.schema import InputError, require
from nqs.runs.summary import with_error


def evaluate_later(path: Path, n_samples: int, seed: int) -> None:
    """Prints energy, variance and V-score of n_samples fresh draws; nothing of the run is lost.

    Raises InputError for a folder without a readable checkpoint, or one that is being worked on.
    """
    require(n_samples >= 2, "--samples", n_samples, "must be a whole number >= 2")
    require(0 <= seed < 2**63, "--seed", seed, "must be >= 0 and < 2^63")
    config = directory.read_config(path)
    with directory.locked(path), writing(path):
        job = build(config.replace(device="auto"))
        content = history.read(path / "run.h5")
        saved = checkpoint.newest(
            path / "checkpoints", directory.portable(config), job.device, warn=print
        )
        if saved is None:
            raise InputError(f"{path}: holds no checkpoint yet; resume the run first")
        checkpoint.restore(job.wavefunction, saved)
        evaluation = evaluated(job, n_samples, seed, saved["step"], "later")
        content.evaluations.append(evaluation)
        content.write(path / "run.h5")
    numbers, n_sites = evaluation.numbers, job.hamiltonian.n_sites
    energy, error = numbers["energy"], numbers["energy_error"]
    print(f"step {saved['step']}, {n_samples} samples, seed {seed}")
    print(f"energy           {with_error(energy, error)}")
    print(f"energy per site  {with_error(energy / n_sites, error / n_sites)}")
    print(f"variance         {numbers['variance']:.4g}")
    print(f"V-score          {numbers['v_score']:.4g}")
