"""A trained family asked at couplings: `nqs evaluate FAMILY hamiltonian.delta=1.37`, and at draws
of its own couplings, --draws."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nqs.errors import InputError, require, shown
from nqs.families.points import Point, point_at
from nqs.ground_states.config import Config
from nqs.ground_states.evaluations import remarks
from nqs.ground_states.later_evaluation import chosen_subsystems, lines
from nqs.ground_states.members import SECTION, Members, trained_family
from nqs.ground_states.run_file import read
from nqs.ground_states.summary import with_error
from nqs.runfolder import summary
from nqs.runfolder.folder import locked, writing
from nqs.runfolder.history import LONGEST_TEXT
from nqs.runfolder.machine import build_generator

MOST_DRAWS = 100_000


def named_couplings(members: Members, given: Mapping[str, Any]) -> dict[str, Any]:
    """{hamiltonian.KEY: value} by the family's names. Raises InputError for other keys."""
    keys = [f"{SECTION}{each.name}" for each in members.couplings]
    for key in given:
        if key not in keys:
            raise InputError(
                f"{shown(key)}: not varied in this family, which has {', '.join(keys)}"
            )
    for key in keys:
        if key not in given:
            raise InputError(f"{key} is missing; give all of {', '.join(keys)}")
    return {key.removeprefix(SECTION): value for key, value in given.items()}


def evaluate_at(
    path: Path,
    config: Config,
    given: Mapping[str, Any],
    n_samples: int,
    seed: int,
    subsystems: Sequence[str] = (),
) -> None:
    """Measures everything at one coupling, {hamiltonian.KEY: value}, and prints it; it is added to
    run.h5 and summary.json. Raises InputError."""
    require(0 <= seed < 2**63, "--seed", seed, "must be >= 0 and < 2^63")
    with locked(path), writing(path):
        psi, members, job, step = trained_family(path, config)
        c, outside = members.vector(named_couplings(members, given))
        point = point_at(
            job,
            members,
            psi,
            c,
            n_samples,
            seed,
            step,
            thorough=True,
            subsystems=chosen_subsystems(subsystems, job.lattice),
            outside=outside,
        )
        point.compare_where_quick()
        _keep(path, [point])
    numbers, n_sites = point.evaluation.numbers, job.lattice.n_sites
    energy, error = numbers["energy"], numbers["energy_error"]
    print(f"{numbers['couplings']}, step {step}, {n_samples} samples, seed {seed}")
    print(f"energy                           {with_error(energy, error)}")
    print(f"energy per site                  {with_error(energy / n_sites, error / n_sites)}")
    entry = point.entry()
    print(f"verdict                          {entry['verdict']}")
    for doubt in entry["doubts"]:
        print(f"                                 {doubt}")
    if "exact_energy" in entry:
        print(f"exact energy                     {entry['exact_energy']:.8f}")
        if entry["relative_error"] is not None:
            print(f"relative error                   {entry['relative_error']:+.2e}")
    print(f"variance                         {numbers['variance']:.4g}")
    print(f"V-score                          {numbers['v_score']:.4g}")
    for name, value in lines(point.evaluation, job.observables):
        print(f"{name:<31}  {value}")


def evaluate_draws(path: Path, config: Config, n_draws: int, n_samples: int, seed: int) -> None:
    """Energies at n_draws draws of the family's couplings, such as disorder that it has never seen,
    one line each, and what they amount to. Raises InputError."""
    require(0 <= seed < 2**63, "--seed", seed, "must be >= 0 and < 2^63")
    require(1 <= n_draws <= MOST_DRAWS, "--draws", n_draws, f"must be 1 .. {MOST_DRAWS}")
    points = []
    with locked(path), writing(path):
        psi, members, job, step = trained_family(path, config)
        generator = build_generator(seed, "checks", torch.device("cpu"))
        couplings = members.drawn(n_draws, generator)
        print(
            f"step {step}, {n_draws} draws of the couplings, {n_samples} samples each, seed {seed}"
        )
        print(f"{'draw':>6}  {'energy':>20}  {'V-score':>9}  {'relative error':>14}  verdict")
        for number, c in enumerate(couplings, start=1):
            point = point_at(job, members, psi, c, n_samples, seed, step)
            point.compare_where_quick()
            points.append(point)
            print(_row(number, point.entry()))
        _keep(path, points)
    entries = [point.entry() for point in points]
    errors = [abs(e["relative_error"]) for e in entries if e.get("relative_error") is not None]
    if errors:
        print(f"relative error: median {statistics.median(errors):.2e}, worst {max(errors):.2e}")
    scores = [entry["v_score"] for entry in entries]
    print(f"V-score: median {statistics.median(scores):.2e}, worst {max(scores):.2e}")
    print(f"doubtful: {sum(bool(entry['doubts']) for entry in entries)} of {n_draws}")


def _row(number: int, entry: Mapping[str, Any]) -> str:
    relative = entry.get("relative_error")
    error = "" if relative is None else f"{relative:+.2e}"
    energy = with_error(entry["energy"], entry["energy_error"])
    kinds = ", ".join(doubt.partition(":")[0] for doubt in entry["doubts"])
    verdict = f"{entry['verdict']}{': ' if kinds else ''}{kinds}"
    return f"{number:>6}  {energy:>20}  {entry['v_score']:>9.2e}  {error:>14}  {verdict}"


def _keep(path: Path, points: Sequence[Point]) -> None:
    """Adds evaluations to run.h5 and summary.json."""
    content = read(path / "run.h5")
    for point in points:
        entry = point.entry()
        known: dict[str, Any] = {
            name: entry[name] for name in ("exact_energy", "verdict") if name in entry
        }
        doubts = " | ".join(entry["doubts"])[:LONGEST_TEXT]
        point.evaluation.numbers.update(known, doubts=doubts)
        content.keep(point.evaluation)
    content.write(path / "run.h5")
    file = path / "summary.json"
    if file.exists():
        summary.write(file, summary.read(file) | remarks(content))
