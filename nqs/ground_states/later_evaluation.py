"""A fresh evaluation of a run's newest checkpoint, added to its run.h5 and to summary.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from hamiltonians.lattices.lattice import Lattice
from nqs.errors import InputError, require
from nqs.ground_states.api import load
from nqs.ground_states.evaluations import remarks
from nqs.ground_states.summary import with_error
from nqs.runfolder.folder import locked, writing
from nqs.runfolder.history import Evaluation
from nqs.runfolder.summary import write
from nqs.vmc.observables import Observable, owner
from nqs.vmc.observables.renyi import half, subsystem


def evaluate_later(path: Path, n_samples: int, seed: int, subsystems: Sequence[str] = ()) -> None:
    """Measures everything in n_samples fresh draws and prints it; nothing of the run is lost, and
    the same measurement is kept once.

    subsystems: site numbers "0,1,2" of each subsystem whose Renyi entropy is measured; none given:
    half of the lattice.
    Raises InputError for a folder without a readable checkpoint, or one that is being worked on.
    """
    require(n_samples >= 2, "--samples", n_samples, "must be a whole number >= 2")
    require(0 <= seed < 2**63, "--seed", seed, "must be >= 0 and < 2^63")
    with locked(path), writing(path):
        trained = load(path)
        masks = chosen_subsystems(subsystems, trained.lattice)
        evaluation, content = (
            trained.evaluate(n_samples, seed=seed, subsystems=masks),
            trained.content,
        )
        content.keep(evaluation)
        content.write(path / "run.h5")
        if trained.summary:
            write(path / "summary.json", trained.summary | remarks(content))
    numbers, n_sites = evaluation.numbers, trained.lattice.n_sites
    energy, error = numbers["energy"], numbers["energy_error"]
    print(f"step {trained.step}, {n_samples} samples, seed {seed}")
    print(f"energy                           {with_error(energy, error)}")
    print(f"energy per site                  {with_error(energy / n_sites, error / n_sites)}")
    print(f"variance                         {numbers['variance']:.4g}")
    print(f"V-score                          {numbers['v_score']:.4g}")
    for name, value in lines(evaluation, trained.job.observables):
        print(f"{name:<31}  {value}")


def chosen_subsystems(texts: Sequence[str], lattice: Lattice) -> Tensor | None:
    """(S, N) bool; None for a single site, which has no subsystem. Raises InputError."""
    if not texts:
        return half(lattice)[None] if lattice.n_sites > 1 else None
    masks = []
    for text in texts:
        try:
            sites = [int(site) for site in text.split(",")]
        except ValueError:
            raise InputError(f"--subsystem={text} must be site numbers like 0,1,2") from None
        try:
            masks.append(subsystem(sites, lattice.n_sites))
        except ValueError as error:
            raise InputError(f"--subsystem={text} {error}") from None
    return torch.stack(masks)


def lines(evaluation: Evaluation, also: tuple[type[Observable], ...] = ()) -> list[tuple[str, str]]:
    """(name, text) of each number among the observables, as their classes write them."""
    rows = []
    for name, (value, error) in evaluation.observables.items():
        known, coordinates = owner(name, also), evaluation.coordinates.get(name)
        kind = Observable if known is None else known[0]
        rows += kind.entries(
            name,
            torch.from_numpy(value),
            torch.from_numpy(error),
            None if coordinates is None else torch.from_numpy(coordinates),
        )
    return [(text, with_error(value, error)) for text, value, error in rows]
