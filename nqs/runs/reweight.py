"""nqs reweight: neighbouring couplings from the newest checkpoint of a run.

Estimates and their limits: `nqs.vmc.reweighting`. They are printed as a table and added to
reweighting.json in the run's folder, one entry a call.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hamiltonians.hamiltonian import Hamiltonian
from nqs.runs import checkpoint, directory
from nqs.runs.atomic import write_text
from nqs.runs.build import Job, build, build_hamiltonian, check_conserved, naming
from nqs.runs.config import HAMILTONIANS, Config
from nqs.runs.directory import writing
from nqs.runs.machine import build_generator
from nqs.runs.schema import InputError, require, shown, suggestion
from nqs.runs.summary import with_error
from nqs.vmc.reweighting import LOWEST_SHARE, Neighbour, neighbouring_couplings

FILE = "reweighting.json"
ALTERNATIVES = ("V", "Rb", "C6")
"""Keys of which a Hamiltonian has one: giving another takes its place."""


def reweight(
    path: Path, given: Sequence[str], n_samples: int, n_lanczos: int, seed: int
) -> list[Neighbour]:
    """Estimates at all combinations of the couplings `given` as KEY=VALUE,VALUE,...

    Raises InputError for a folder without a readable checkpoint and for couplings that the run's
    Hamiltonian does not have.
    """
    require(n_samples >= 2, "--samples", n_samples, "must be a whole number >= 2")
    require(n_lanczos >= 2, "--lanczos-samples", n_lanczos, "must be a whole number >= 2")
    require(0 <= seed < 2**63, "--seed", seed, "must be >= 0 and < 2^63")
    config = directory.read_config(path)
    couplings = combinations(given, config)
    with directory.locked(path), writing(path):
        job = build(config.replace(device="auto"))
        saved = checkpoint.newest(
            path / "checkpoints", directory.portable(config), job.device, warn=print
        )
        if saved is None:
            raise InputError(f"{path}: holds no checkpoint yet; resume the run first")
        others = [at_couplings(job, values) for values in couplings]
        checkpoint.restore(job.wavefunction, saved)
        signs = job.lattice.sublattice_signs()
        with naming(" ".join(given)):
            found = neighbouring_couplings(
                job.wavefunction,
                job.hamiltonian,
                others,
                n_samples,
                n_lanczos,
                build_generator(seed, "evaluation", job.device),
                sublattice_signs=None if signs is None else signs.to(job.device),
            )
        entry = {
            "step": saved["step"],
            "seed": seed,
            "n_samples": n_samples,
            "n_lanczos": n_lanczos,
            "estimates": [
                {"couplings": values, **numbers(near)}
                for values, near in zip(couplings, found, strict=True)
            ],
        }
        entries = [*read_entries(path / FILE), entry]
        write_text(path / FILE, json.dumps(entries, indent=2) + "\n")
    for line in lines(couplings, found):
        print(line)
    if not all(near.reliable for near in found):
        print(
            f"! below {LOWEST_SHARE:.0%} effective samples: too far from the trained couplings, do "
            f"not rely on the improved energy and observables; train there, e.g. with "
            f"train.start_from={path}"
        )
    print(f"observables in {path / FILE}")
    return found


def combinations(given: Sequence[str], config: Config) -> list[dict[str, float]]:
    """{key: value} of each combination, e.g. of ['delta=1,1.1', 'hamiltonian.V=7']."""
    known = [
        key for key in HAMILTONIANS[config.hamiltonian.name] if key not in ("file", "marshall")
    ]
    require(bool(given), "couplings", "", "give at least one, e.g. hamiltonian.delta=1.05,1.1")
    values: dict[str, list[float]] = {}
    for argument in given:
        name, equals, text = argument.partition("=")
        key = name.removeprefix("hamiltonian.")
        if key not in known:
            hint = suggestion(key, known) or f"; it has {', '.join(known)}"
            raise InputError(f"{name}: hamiltonian={config.hamiltonian.name} has no such key{hint}")
        try:
            values[key] = [float(number) for number in text.split(",")]
        except ValueError:
            equals = ""
        if not equals:
            rule = f"give numbers, e.g. hamiltonian.{key}=1.05,1.1"
            raise InputError(f"{shown(argument)}: not understood; {rule}")
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def at_couplings(job: Job, values: dict[str, float]) -> Hamiltonian:
    """The run's Hamiltonian with some couplings replaced."""
    mapping = job.config.to_dict()
    if set(values) & set(ALTERNATIVES):
        mapping["hamiltonian"] |= dict.fromkeys(
            set(ALTERNATIVES) & set(mapping["hamiltonian"]), None
        )
    mapping["hamiltonian"] |= values
    config = Config.from_dict(mapping)
    with naming("hamiltonian"):
        hamiltonian = build_hamiltonian(config.hamiltonian, job.lattice)
    check_conserved(config.model.n_up, hamiltonian)
    return hamiltonian.to(job.device)


def numbers(near: Neighbour) -> dict[str, Any]:
    """A Neighbour as JSON has it."""
    content: dict[str, Any] = {}
    for name in ("energy", "difference", "improved"):
        estimate = getattr(near, name)
        content |= {name: float(estimate.value), f"{name}_error": float(estimate.error)}
    content |= {
        "variance": near.variance,
        "step": near.step,
        "effective_samples": near.effective_samples,
        "reliable": near.reliable,
        "observables": {
            name: {"value": estimate.value.tolist(), "error": estimate.error.tolist()}
            for name, estimate in near.observables.items()
        },
    }
    return content


def read_entries(path: Path) -> list[Any]:
    """What earlier calls have written. Raises InputError if it cannot be read."""
    try:
        entries = json.loads(path.read_text()) if path.exists() else []
    except (OSError, ValueError):
        entries = None
    if not isinstance(entries, list):
        raise InputError(f"{path}: cannot be read; move it away")
    return entries


def lines(couplings: list[dict[str, float]], found: list[Neighbour]) -> list[str]:
    """Aligned columns, one line a set of couplings; energies are totals."""
    headings = ("energy", "change from here", "improved", "variance", "effective samples")
    rows = [[*couplings[0], *headings]]
    for values, near in zip(couplings, found, strict=True):
        energies = (near.energy, near.difference, near.improved)
        share = near.effective_samples / near.n_samples
        rows.append(
            [
                *(f"{value:g}" for value in values.values()),
                *(with_error(float(energy.value), float(energy.error)) for energy in energies),
                f"{near.variance:.4g}",
                f"{near.effective_samples:.0f} ({share:.0%}){' ' if near.reliable else '!'}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.rjust, row, widths)) for row in rows]
