"""Every state of a scan is an upper bound for the points beside it.

For any couplings d and d' on one lattice, the state psi' of the point d' obeys

    E_0(d) <= <psi'|H(d)|psi'> = E(d') + <psi'|H(d) - H(d')|psi'>,

and a model that can be psi' must not end above that. Where only the diagonal of H differs, the
second term is a mean over draws without a single flip; else it is one of local energies.

A point lies above a bound when it does so by more than SIGMAS standard errors of both and by more
than RELEVANT of the energy. Then it is doubtful, and its summary says which state lies below. Which
states are compared:

- points side by side along each numeric axis, whatever the key (seeds and hyperparameters too),
- the two directions of scan.direction=both,
- the two attempts at a point (nqs.scans.attempts); both serve as bounds for others,

all of one lattice and one model. neighbours.json keeps what was computed, by the state it came
from: a scan that is resumed computes only what is new. It may be deleted.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from hamiltonians.hamiltonian import Hamiltonian
from nqs.errors import InputError
from nqs.ground_states import summary
from nqs.ground_states.build import Job, build_hamiltonian
from nqs.ground_states.config import Config
from nqs.ground_states.run_folder import read_config
from nqs.ground_states.saved_state import trained_job
from nqs.runfolder import digests
from nqs.runfolder.atomic import write_text
from nqs.runfolder.folder import locked
from nqs.runfolder.machine import derived_seed
from nqs.runfolder.summary import write
from nqs.runfolder.text_file import read_bytes
from nqs.scans.attempts import attempts
from nqs.scans.folder import Point, Scan, is_numeric, text
from nqs.vmc.energies.local_energy import local_energies
from nqs.vmc.reweighting import shared_local_energies, weighted_mean
from nqs.wavefunctions.wavefunction import Samples

SIGMAS: Final = 4.0
RELEVANT: Final = 1e-4
"""Part of |E| by which a point must lie above a bound to be called doubtful."""
DRAWS: Final = 4_096
DRAWS_WITH_FLIPS: Final = 1_024
KIND: Final = "neighbour: "
FILE: Final = "neighbours.json"
FORMAT: Final = "nqs neighbours 1"


@dataclass(frozen=True)
class Bound:
    """An upper bound of a point's energy.

    Attributes:
        energy: <psi'|H|psi'> and `error`, its standard error.
        state: which state that is, for people.
        point: where it was trained, in the run in `folder`.
    """

    energy: float
    error: float
    state: str
    point: Point
    folder: Path


@dataclass(frozen=True)
class Side:
    """One of two points whose states are compared.

    Attributes:
        state: what distinguishes it from the other.
    """

    point: Point
    state: str


def judge(
    scan: Scan, say: Callable[[str], None], stopped: Callable[[], bool]
) -> dict[str, list[Bound]]:
    """Compares all finished points and writes what is doubtful into their summaries.

    Returns the bounds of each point from the states beside it. Ends early, with nothing written
    into a summary, when `stopped` says so.
    """
    memory = _Memory(scan)
    bounds: dict[str, list[Bound]] = defaultdict(list)
    wanted = defaultdict(list)
    for one, two in pairs(scan):
        wanted[one.point.name].append((one, two))
        wanted[two.point.name].append((two, one))
    for point in scan.points:
        for folder in attempts(scan, point) if point.name in wanted else []:
            if stopped():
                memory.save()
                return bounds
            for target, bound in _from_state(scan, memory, folder, wanted[point.name], say):
                bounds[target.name].append(bound)
    memory.save()
    for point in scan.points:
        mark(scan, point, bounds[point.name], say)
    return bounds


def mark(scan: Scan, point: Point, bounds: Sequence[Bound], say: Callable[[str], None]) -> None:
    """Writes into the summaries of a point's attempts whether they lie above one of the bounds or
    above each other, with a line for each that this makes doubtful."""
    folders = attempts(scan, point)
    for folder in folders:
        others = []
        for other in folders:
            if other != folder:
                value = _energy(summary.read(other / "summary.json"))
                others.append(Bound(*value, "the other attempt", point, other))
        try:
            with locked(folder):
                for doubt in _write_doubts(folder / "summary.json", [*others, *bounds]):
                    say(f"doubtful: {folder.name}: {doubt}")
        except (InputError, OSError) as error:
            say(f"{folder.name}: no doubt could be noted: {error}")


def _write_doubts(path: Path, bounds: Sequence[Bound]) -> list[str]:
    """Replaces the doubts of this kind in a summary; returns those that are new."""
    result = summary.read(path)
    before = result.get("doubts", [])
    doubts = [doubt for doubt in before if not doubt.startswith(KIND)]
    alone = result.get("verdict_alone", result.get("verdict"))
    worst = max(bounds, key=lambda bound: excess(result, bound), default=None)
    if worst is not None and excess(result, worst) > 0:
        doubts.append(described(result, worst))
    if doubts != before:
        result["verdict_alone"] = alone
        result["verdict"] = summary.DOUBTFUL if doubts else alone
        result["doubts"] = doubts
        write(path, result)
    return [doubt for doubt in doubts if doubt not in before]


def _energy(result: dict[str, Any]) -> tuple[float, float]:
    """A run's energy and its standard error."""
    return float(result["energy"]), float(result["energy_error"] or 0.0)


def excess(result: dict[str, Any], bound: Bound) -> float:
    """By how much the energy lies above the bound; 0 if not by enough to be sure and to matter."""
    energy, error = _energy(result)
    gap, noise = energy - bound.energy, math.hypot(error, bound.error)
    scale = max(abs(energy), abs(bound.energy))
    return gap if gap > SIGMAS * noise and gap > RELEVANT * scale else 0.0


def described(result: dict[str, Any], bound: Bound) -> str:
    """The doubt, in one sentence."""
    energy, error = _energy(result)
    gap, noise = energy - bound.energy, math.hypot(error, bound.error)
    sigmas = f"{gap / noise:.0f} standard errors" if noise else "no standard error"
    return (
        f"{KIND}{gap:.2g} ({sigmas}) above {summary.with_error(bound.energy, bound.error)}, "
        f"the energy here of {bound.state}"
    )


def pairs(scan: Scan) -> list[tuple[Side, Side]]:
    """Finished points that are compared: the nearest ones along each numeric dimension, and the two
    directions of a point."""
    finished = [point for point in scan.points if attempts(scan, point)]
    sides = []
    for tied in scan.dimensions:
        numeric = [axis.key for axis in tied if is_numeric(axis)]
        keys = [axis.key for axis in tied]
        lines = defaultdict(list)
        for point in finished if numeric else []:
            rest = {key: value for key, value in point.values.items() if key not in keys}
            lines[repr((rest, point.direction, _fitting(point)))].append(point)
        for line in lines.values():
            line.sort(key=lambda point: [point.values[key] for key in numeric])
            sides += [
                (Side(one, _at(one, keys)), Side(two, _at(two, keys)))
                for one, two in itertools.pairwise(line)
            ]
    places = defaultdict(list)
    for point in finished:
        places[repr((point.values, _fitting(point)))].append(point)
    for here in places.values():
        if len(here) == 2:
            one, two = (Side(p, f"the state of the {p.direction} direction") for p in here)
            sides.append((one, two))
    return sides


def _at(point: Point, keys: Sequence[str]) -> str:
    words = ", ".join(f"{key}={text(point.values[key])}" for key in keys)
    return f"the state at {words}"


def _fitting(point: Point) -> str:
    """What two points must share for their states to be comparable."""
    return repr([point.config.get(section) for section in ("lattice", "model")])


def _from_state(
    scan: Scan,
    memory: _Memory,
    folder: Path,
    compared: Sequence[tuple[Side, Side]],
    say: Callable[[str], None],
) -> Iterator[tuple[Point, Bound]]:
    """(point, bound) for each point beside the one whose attempt is in `folder`."""
    result = summary.read(folder / "summary.json")
    missing = [other for _, other in compared if memory.get(result, other.point) is None]
    if missing:
        try:
            configs = [read_config(scan.folder(other.point)) for other in missing]
            values = energies(folder, result, configs)
        except Exception as error:  # the results are there; a comparison must not lose them
            reason = " ".join(str(error).split())[:200]
            say(f"{folder.name} cannot be compared with its neighbours: {reason}")
            values = []
        for other, value in zip(missing, values, strict=False):
            memory.put(result, other.point, value)
    for own, other in compared:
        found = memory.get(result, other.point)
        if found is not None and all(map(math.isfinite, found)):
            yield other.point, Bound(found[0], found[1], own.state, own.point, folder)


@torch.no_grad()
def energies(
    folder: Path, result: dict[str, Any], targets: Sequence[Config]
) -> list[tuple[float, float]]:
    """<psi|H|psi> and its standard error of the state psi of the run in `folder`, whose summary is
    `result`, for the Hamiltonian of each of the targets, which have the same lattice.

    Raises InputError for a run without the checkpoint that its summary speaks of.
    """
    config = read_config(folder)
    own = _energy(result)
    here = _couplings(config)
    same = [_couplings(target) == here for target in targets]
    if all(same):
        return [own] * len(targets)
    job, samples, few = _loaded(folder, config, result)
    return [
        own if equal else _shifted(job, own, target, samples, few)
        for target, equal in zip(targets, same, strict=True)
    ]


def _couplings(config: Config) -> dict[str, Any]:
    mapping: dict[str, Any] = config.to_dict()["hamiltonian"]
    if mapping.get("file") is not None:
        mapping["file"] = read_bytes(mapping["file"])
    return mapping


def _loaded(
    folder: Path, config: Config, result: dict[str, Any]
) -> tuple[Job, Samples, Callable[[], Samples]]:
    """The run at its newest checkpoint, draws from its state, and how to get the fewer ones that
    local energies are made of."""
    job, step = trained_job(folder, config, warn=lambda line: None)
    if step != result["steps"]:
        raise InputError(f"{folder}: holds no checkpoint of step {result['steps']}")
    # a stream of its own: the evaluation's would correlate the draws with the energy
    seed = derived_seed(config.seed, "evaluation", (0, 1))
    generator = torch.Generator(job.device).manual_seed(seed)
    samples = job.wavefunction.sample(DRAWS, generator, unique=True)
    return job, samples, lambda: job.wavefunction.sample(DRAWS_WITH_FLIPS, generator, unique=True)


def _shifted(
    job: Job,
    own: tuple[float, float],
    target: Config,
    samples: Samples,
    few: Callable[[], Samples],
) -> tuple[float, float]:
    """<psi|H|psi> of one other Hamiltonian on the job's lattice."""
    hamiltonian = build_hamiltonian(target.hamiltonian, job.lattice).to(job.device)
    if _flips_alike(hamiltonian, job.hamiltonian, samples):
        values = hamiltonian.diagonal(samples.configs) - job.hamiltonian.diagonal(samples.configs)
    else:
        samples = few()
        if not torch.equal(hamiltonian.flips, job.hamiltonian.flips):
            mean = weighted_mean(
                local_energies(job.wavefunction, hamiltonian, samples).real, None, samples
            )
            return float(mean.value), float(mean.error)
        both = shared_local_energies(job.wavefunction, [job.hamiltonian, hamiltonian], samples)
        values = (both[1] - both[0]).real
    change = weighted_mean(values, None, samples)
    return own[0] + float(change.value), math.hypot(own[1], float(change.error))


def _flips_alike(one: Hamiltonian, two: Hamiltonian, samples: Samples) -> bool:
    """Whether the two differ in nothing but their diagonals, as far as these draws see."""
    if not torch.equal(one.flips, two.flips):
        return False
    return torch.equal(one.off_diagonal(samples.configs), two.off_diagonal(samples.configs))


class _Memory:
    """What neighbours.json holds: [energy, error] by the state's run and the point. The state is
    known by its energy, error and steps as well, which change when the run goes on."""

    def __init__(self, scan: Scan) -> None:
        self._path = scan.path / FILE
        self._entries: dict[str, list[float]] = {}
        self._changed = False
        try:
            content, has_digest = digests.read_mapping(self._path)
            if content["format"] == FORMAT and has_digest:
                entries = content["bounds"].items()
                self._entries = {key: [float(e), float(error)] for key, (e, error) in entries}
        except (ValueError, KeyError, TypeError, AttributeError):
            pass  # none yet, or not ours: everything is computed again

    def get(self, result: dict[str, Any], point: Point) -> list[float] | None:
        """The bound from the run with the summary `result` for the point."""
        return self._entries.get(self._key(result, point))

    def put(self, result: dict[str, Any], point: Point, value: tuple[float, float]) -> None:
        """Remembers a bound."""
        self._entries[self._key(result, point)] = list(value)
        self._changed = True

    def save(self) -> None:
        """Writes the file where there is something new."""
        if self._changed:
            content = digests.vouched({"format": FORMAT, "bounds": self._entries})
            with contextlib.suppress(OSError):  # nothing that cannot be computed again
                write_text(self._path, json.dumps(content, indent=1) + "\n")

    def _key(self, result: dict[str, Any], point: Point) -> str:
        state = [result[name] for name in ("energy", "energy_error", "steps", "seed")]
        return f"{json.dumps(state)} at {point.name}"
