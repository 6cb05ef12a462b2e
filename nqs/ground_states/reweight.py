"""nqs reweight: neighbouring couplings from the newest checkpoint of a run.

Estimates and their limits: `nqs.vmc.reweighting`. They are printed as a table and added to
reweighting.json in the run's folder, one entry a call.
"""

from __future__ import annotations

import itertools
import json
import math
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hamiltonians.hamiltonian import Hamiltonian
from nqs.errors import InputError, require, shown, suggestion
from nqs.ground_states import summary
from nqs.ground_states.build import Job, build_hamiltonian, check_conserved, naming
from nqs.ground_states.config import Config
from nqs.ground_states.groups import HAMILTONIAN
from nqs.ground_states.run_folder import read_config
from nqs.ground_states.saved_state import trained_job
from nqs.ground_states.summary import with_error
from nqs.runfolder.atomic import write_text
from nqs.runfolder.folder import locked, writing
from nqs.runfolder.machine import build_generator
from nqs.runfolder.summary import finite, one_line
from nqs.runfolder.text_file import read_text
from nqs.vmc.reweighting import LOWEST_SHARE, Neighbour, neighbouring_couplings

FILE = "reweighting.json"
ALTERNATIVES = ("V", "Rb", "C6")
"""Keys of which a Hamiltonian has one: giving another takes its place."""
MOST_SAMPLES: Final = 10_000_000
MOST_POINTS: Final = 1_000
"""Sets of couplings in one call."""
MOST_GIGABYTES: Final = 4.0
LARGEST: Final = 256 * 2**20
"""Bytes of a reweighting.json that are read at most."""


def reweight(
    path: Path, words: Sequence[str], n_samples: int, n_lanczos: int, seed: int
) -> list[Neighbour]:
    """Estimates at all combinations of the couplings `words`, each KEY=VALUE,VALUE,...

    Raises InputError for a folder without a readable checkpoint and for couplings that the run's
    Hamiltonian does not have.
    """
    rule = f"must be a whole number >= 2 and <= {MOST_SAMPLES}"
    require(2 <= n_samples <= MOST_SAMPLES, "--samples", n_samples, rule)
    require(2 <= n_lanczos <= MOST_SAMPLES, "--lanczos-samples", n_lanczos, rule)
    require(0 <= seed < 2**63, "--seed", seed, "must be >= 0 and < 2^63")
    config = read_config(path)
    rule = "is a family, which has a state at each coupling; see nqs evaluate"
    require(not config.family.ranges, "RUN", path, rule)
    couplings = combinations(words, config)
    with locked(path), writing(path):
        earlier = read_entries(path / FILE)  # refused before the work, not after it
        job, step = trained_job(path, config)
        check_memory(job, n_samples, n_lanczos, len(couplings))
        others = [at_couplings(job, values) for values in couplings]
        with naming(" ".join(words)):
            estimates = neighbouring_couplings(
                job.wavefunction,
                job.hamiltonian,
                others,
                n_samples,
                n_lanczos,
                build_generator(seed, "evaluation", job.device),
                lattice=job.lattice,
                also=job.observables,
            )
        entry = {
            "step": step,
            "seed": seed,
            "n_samples": n_samples,
            "n_lanczos": n_lanczos,
            "estimates": [
                {"couplings": values, **numbers(near)}
                for values, near in zip(couplings, estimates, strict=True)
            ],
        }
        entries = finite([*earlier, entry])
        write_text(path / FILE, json.dumps(entries, indent=2, allow_nan=False) + "\n")
    for line in lines(couplings, estimates):
        print(line)
    if not all(near.reliable for near in estimates):
        print(
            f"! below {LOWEST_SHARE:.0%} effective samples: too far from the trained couplings, do "
            f"not rely on the improved energy and observables; train there, e.g. with "
            f"train.start_from={path}"
        )
    for doubt in doubts(path):
        print(f"! the run itself is doubtful: {doubt}")
    print(f"observables in {path / FILE}")
    return estimates


def check_memory(job: Job, n_samples: int, n_lanczos: int, n_couplings: int) -> None:
    """Raises InputError for draws that do not fit: configurations and energies of all of them, and
    the connected configurations of those for the Lanczos step."""
    n_sites, n_flips = job.hamiltonian.n_sites, len(job.hamiltonian.flips)
    energies = 8 * (n_couplings + 1)
    needed = {
        "--samples": n_samples * (n_sites + 16 + energies),
        "--lanczos-samples": n_lanczos * n_flips * (n_sites + 32 + energies),
    }
    for name, n_bytes in needed.items():
        amount = n_samples if name == "--samples" else n_lanczos
        rule = f"needs {n_bytes / 1e9:.3g} GB, allowed are {MOST_GIGABYTES:g} GB; draw fewer"
        require(n_bytes <= 1e9 * MOST_GIGABYTES, name, amount, rule)


def doubts(path: Path) -> list[str]:
    """Why the run's own energy may not be the ground state's."""
    try:
        result = summary.read(path / "summary.json")
    except InputError:
        return []  # a run that is under way
    return [one_line(text) for text in result.get("doubts", [])]


def combinations(words: Sequence[str], config: Config) -> list[dict[str, float]]:
    """{key: value} of each combination, e.g. of ['delta=1,1.1', 'hamiltonian.V=7']."""
    keys = HAMILTONIAN.keys(config.hamiltonian.name)
    known = [name for name, key in keys.items() if takes_numbers(key.hint)]
    require(bool(words), "couplings", "", "give at least one, e.g. hamiltonian.delta=1.05,1.1")
    values: dict[str, list[float]] = {}
    for argument in words:
        name, equals, text = argument.partition("=")
        key = name.removeprefix("hamiltonian.")
        if key not in known:
            hint = suggestion(key, known) or f"; it has {', '.join(known)}"
            raise InputError(f"{name}: hamiltonian={config.hamiltonian.name} has no such key{hint}")
        require(key not in values, name, text, "given twice; write all values in one word")
        try:
            values[key] = [float(number) for number in text.split(",")]
        except ValueError:
            equals = ""
        if not equals:
            rule = f"give numbers, e.g. hamiltonian.{key}=1.05,1.1"
            raise InputError(f"{shown(argument)}: not understood; {rule}")
        bad = [number for number in values[key] if not math.isfinite(number)]
        require(not bad, f"hamiltonian.{key}", bad[0] if bad else "", "must be a finite number")
    n_points = math.prod(map(len, values.values()))
    rule = f"{n_points} sets of couplings; give at most {MOST_POINTS}"
    require(n_points <= MOST_POINTS, "couplings", " ".join(words), rule)
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def takes_numbers(hint: Any) -> bool:
    """Whether a key with this annotation is a coupling: a number, or a list of them."""
    if typing.get_origin(hint) is typing.Literal:
        return False
    return hint in (int, float, Any) or any(map(takes_numbers, typing.get_args(hint)))


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
    if not path.exists():
        return []
    try:
        entries = finite(json.loads(read_text(path, LARGEST)))
    except (ValueError, RecursionError, MemoryError):
        entries = None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path}: cannot be read; move it away")
    return entries


def lines(couplings: list[dict[str, float]], estimates: list[Neighbour]) -> list[str]:
    """Aligned columns, one line a set of couplings; energies are totals."""
    headings = ("energy", "change from here", "improved", "variance", "effective samples")
    rows = [[*couplings[0], *headings]]
    for values, near in zip(couplings, estimates, strict=True):
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
