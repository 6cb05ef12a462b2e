"""The Hamiltonians of a family, H(c) for couplings c, and the run's objects for all of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.invariance import check_invariance
from hamiltonians.lattices.lattice import Lattice
from nqs.conf.kinds import Selection
from nqs.conf.values import convert
from nqs.errors import InputError, require, shown
from nqs.ground_states.build import (
    Job,
    build,
    build_hamiltonian,
    build_lattice,
    check_conserved,
    symmetry_keys,
)
from nqs.ground_states.config import Config
from nqs.ground_states.coupling_images import coupling_images
from nqs.ground_states.couplings import Coupling, Law, drawn
from nqs.ground_states.groups import HAMILTONIAN
from nqs.ground_states.saved_state import newest_checkpoint
from nqs.runfolder import checkpoint
from nqs.runfolder.machine import build_generator
from nqs.vmc.optimizers.natural_gradient import NaturalGradient
from nqs.vmc.optimizers.time_step import time_step
from nqs.vmc.ranks import ALONE, Ranks
from nqs.wavefunctions.conditional import Conditional, has_places
from nqs.wavefunctions.image_average import ImageAverage

SECTION: Final = "hamiltonian."
CPU: Final = torch.device("cpu")
DRAWN_PROBES: Final = 3
"""Couplings besides the middle and the ends whose Hamiltonians must have the state's symmetries."""


@final
@dataclass(frozen=True)
class Members:
    """The Hamiltonians of a family.

    Args:
        make: couplings by name, a number or, with disorder, a list -> Hamiltonian.
        couplings: in the order in which they make up c.
        are_keys: whether their names are keys of the configuration's Hamiltonian, not arguments of
            somebody's function.
    """

    make: Callable[..., Hamiltonian]
    couplings: tuple[Coupling, ...]
    are_keys: bool = False

    @property
    def sizes(self) -> list[int]:
        """Numbers of each coupling."""
        return [coupling.size for coupling in self.couplings]

    @property
    def low(self) -> Tensor:
        """(n,) float64, where each number mostly is."""
        return self._each(lambda coupling: coupling.law.ends[0])

    @property
    def high(self) -> Tensor:
        """(n,) float64."""
        return self._each(lambda coupling: coupling.law.ends[1])

    @property
    def places(self) -> list[tuple[int, ...]]:
        """The sites that each of the n numbers belongs to, () for all."""
        return [sites for each in self.couplings for sites in (each.places or ((),) * each.size)]

    @property
    def has_disorder(self) -> bool:
        """Whether some coupling differs from place to place."""
        return any(coupling.law.is_disorder for coupling in self.couplings)

    @property
    def of_all_sites(self) -> list[int]:
        """Places in c of the numbers that are no disorder."""
        disorder = self._each(lambda coupling: float(coupling.law.is_disorder))
        return [place for place, is_disorder in enumerate(disorder.tolist()) if not is_disorder]

    def _each(self, end: Callable[[Coupling], float]) -> Tensor:
        numbers = [end(coupling) for coupling in self.couplings for _ in range(coupling.size)]
        return torch.tensor(numbers, dtype=torch.float64)

    def drawn(self, n_draws: int, generator: torch.Generator | None) -> Tensor:
        """c (C, n) of stratified draws."""
        return drawn(self.couplings, n_draws, generator)

    def named(self, c: Tensor) -> dict[str, Any]:
        """c (n,) by name: numbers, and lists of disorder."""
        parts = [part.tolist() for part in c.split(self.sizes)]
        return {
            each.name: part if each.law.is_disorder else part[0]
            for each, part in zip(self.couplings, parts, strict=True)
        }

    def vector(self, given: Mapping[str, Any]) -> tuple[Tensor, list[str]]:
        """c (n,) of couplings by name, all of them, and what is to be said of those outside of the
        ranges. Raises InputError."""
        names = ", ".join(each.name for each in self.couplings)
        rule = f"must be a mapping with the numbers of {names}"
        require(isinstance(given, Mapping), "couplings", given, rule)
        known = {each.name for each in self.couplings}
        for name in given:
            if name not in known:
                raise InputError(f"{shown(name)}: no coupling of this family; it has {names}")
        values: list[float] = []
        outside = []
        for each in self.couplings:
            if each.name not in given:
                raise InputError(f"{each.name} is missing; give all of {names}")
            numbers = _numbers(each, given[each.name])
            values += numbers
            far = [number for number in numbers if not each.law.holds(number)]
            if far:
                outside.append(
                    f"{each.name}={far[0]:g} is outside of {each.law}, where the family was "
                    "trained: nothing vouches for its state there"
                )
        return torch.tensor(values, dtype=torch.float64), outside

    def at(self, c: Tensor) -> Hamiltonian:
        """H for couplings (n,). Raises InputError where `make` refuses them, or returns something
        else."""
        named = self.named(c)
        try:
            hamiltonian = self.make(**named)
        except Exception as error:  # of anyone's function
            given = " ".join(f"{name}={shown(value)}" for name, value in named.items())
            known = isinstance(error, TypeError | ValueError)
            reason = f"{error}" if known else f"{type(error).__name__}: {error}"
            raise InputError(f"hamiltonian of {given[:100]}: {reason[:250]}") from error
        if not isinstance(hamiltonian, Hamiltonian):
            raise InputError(
                f"hamiltonian={shown(type(hamiltonian).__name__)}: must be a function of the "
                "couplings that returns a Hamiltonian, e.g. "
                "lambda delta: nqs.Rydberg(nqs.Square(4, 4), V=7, delta=delta)"
            )
        return hamiltonian

    def probes(self) -> list[Hamiltonian]:
        """H in the middle of the ranges, at their lower and at their upper ends, each with some
        disorder.

        Raises InputError unless all have as many sites, so that one state can serve.
        """
        some = self.drawn(1, torch.Generator().manual_seed(0))[0]
        disorder = self._each(lambda coupling: float(coupling.law.is_disorder)) > 0
        points = ((self.low + self.high) / 2, self.low, self.high)
        middle, *ends = (self.at(torch.where(disorder, some, c)) for c in points)
        for end in ends:
            if end.n_sites != middle.n_sites:
                names = ", ".join(each.name for each in self.couplings)
                raise InputError(
                    f"{names}: {end.describe()} and {middle.describe()} differ in their number of "
                    "sites; one state cannot serve both"
                )
        return [middle, *ends]


def _numbers(coupling: Coupling, given: Any) -> list[float]:
    """The numbers of one coupling. Raises InputError."""
    if not coupling.law.is_disorder:
        return [convert(given, float, coupling.name)]
    listed = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(listed, int | float) and not isinstance(listed, bool):
        listed = [listed] * coupling.size
    numbers = convert(listed, tuple[float, ...], coupling.name)
    rule = f"must be one number, or {coupling.size} of them"
    require(len(numbers) == coupling.size, coupling.name, given, rule)
    return [float(number) for number in numbers]


def members_of(config: Config, lattice: Lattice) -> Members:
    """The Hamiltonians of a configuration with family.ranges. Raises InputError, one line."""
    couplings = []
    for entry in config.family.ranges:
        key, _, law = entry.partition("=")
        name = key.removeprefix(SECTION)
        couplings.append(
            _coupling(config.hamiltonian, lattice, name, Law.parsed(f"family.{key}", law))
        )

    def make(**named: Any) -> Hamiltonian:
        return build_hamiltonian(config.hamiltonian.replace(**named), lattice)

    return Members(make, tuple(couplings), are_keys=True)


def _coupling(selection: Selection, lattice: Lattice, name: str, law: Law) -> Coupling:
    """The coupling of one key of a Hamiltonian. Raises InputError for a key that there is not, or
    that takes no numbers."""
    key, kind = f"family.{SECTION}{name}={law}", f"hamiltonian={selection.name}"
    if name not in selection.values:
        has = ", ".join(selection.values)
        raise InputError(f"{key}: {kind} has no key {shown(name)}; it has {has}")
    value = sum(law.ends) / 2
    if not law.is_disorder:
        try:
            selection.replace(**{name: value})
        except InputError as error:
            raise InputError(f"{key}: {error}") from None
        return Coupling(name, law)
    refusal: InputError | None = None
    for places in _places(lattice):
        try:
            build_hamiltonian(selection.replace(**{name: [value] * len(places)}), lattice)
        except InputError as error:
            refusal = refusal or error
        else:
            return Coupling(name, law, len(places), places)
    raise InputError(
        f"{key}: a number for each site or bond, which {kind} does not take there; "
        "use interval(LOW,HIGH)"
    ) from refusal


def _places(lattice: Lattice) -> list[tuple[tuple[int, ...], ...]]:
    """The sites, and the bonds of either distance where there are any."""
    places: list[tuple[tuple[int, ...], ...]] = [tuple((i,) for i in range(lattice.n_sites))]
    for order in (1, 2):
        with contextlib.suppress(ValueError, IndexError):
            places.append(tuple(map(tuple, lattice.bonds(order).tolist())))
    return [each for each in places if each]


def build_family(
    config: Config,
    members: Members,
    ranks: Ranks = ALONE,
    *,
    lattice: Lattice | None = None,
) -> Job:
    """Network, optimizer and energies of a run in the middle of the ranges.

    Raises InputError for what does not hold at their ends, and for an optimizer that cannot take a
    family.
    """
    if config.optimizer.kind is not NaturalGradient:
        raise InputError(f"optimizer={shown(config.optimizer.name)}: a family takes minsr alone")
    rule = f"must be at least the number of processes, {ranks.size}"
    n_couplings = config.family.couplings
    require(n_couplings >= ranks.size, "family.couplings", n_couplings, rule)
    middle, *ends = members.probes()
    drawn = members.drawn(DRAWN_PROBES, torch.Generator().manual_seed(1))
    others = [members.at(c) for c in drawn]
    job = _with_symmetries_of_all(config, ranks, lattice, [middle, *ends, *others])
    for end in ends:
        check_conserved(config.model.n_up, end)
    assert isinstance(job.optimizer, NaturalGradient)
    if config.optimizer.get("learning_rate") == "auto":
        job.optimizer.learning_rate = min(time_step(each) for each in (middle, *ends))
    return job


def _with_symmetries_of_all(
    config: Config, ranks: Ranks, lattice: Lattice | None, probes: Sequence[Hamiltonian]
) -> Job:
    """The job of the first probe. With model.symmetry=auto the network has the symmetries of the
    first one whose own all have: in the middle there may be more of them, as at g = 0 of a field g
    that breaks the spin flip.

    Raises InputError where that is none of them, or for given symmetries that one has not.
    """
    jobs: list[Job] = []
    refused: InputError | None = None
    for probe in probes:
        jobs.append(build(config, ranks, lattice=lattice, hamiltonian=probe))
        try:
            for each in probes:
                check_invariance(each, jobs[-1].wavefunction.symmetry)
        except ValueError as error:
            refused = refused or InputError(f"{symmetry_keys(config.model)}: {error}")
        else:
            return dataclasses.replace(jobs[0], wavefunction=jobs[-1].wavefunction)
    assert refused is not None
    raise refused


def conditional(job: Job, members: Members) -> Conditional:
    """psi(s | c) of a job's network, as it begins. Raises InputError."""
    family, network = job.config.family, job.wavefunction
    assert not isinstance(network, ImageAverage)  # which a trained family makes
    kind = family.context
    try:
        if kind == "auto":
            kind = "places" if members.has_disorder and has_places(network) else "vector"
        psi = Conditional(
            network,
            members.low,
            members.high,
            kind=kind,
            places=members.places,
            width=family.width,
            generator=build_generator(job.config.seed, "perceptron", CPU),
            images=coupling_images(job, members),
        )
    except ValueError as error:
        raise InputError(str(error)) from None
    return psi.to(job.device)


def trained_family(
    path: Path, config: Config, device: str = "auto", warn: Callable[[str], None] = print
) -> tuple[Conditional, Members, Job, int]:
    """The family of the run in folder `path`, with the configuration `config`, at its newest sound
    checkpoint, and the step of that. Raises InputError."""
    lattice = build_lattice(config.lattice)
    members = members_of(config, lattice)
    job = build_family(config.replace(device=device), members, lattice=lattice)
    psi = conditional(job, members)
    saved = newest_checkpoint(path, config, job.device, warn)
    if saved is None:
        raise InputError(f"{path}: holds no checkpoint yet; resume the run first")
    checkpoint.restore(psi, saved)
    return psi, members, job, saved["step"]


def member_job(job: Job, members: Members, psi: Conditional, c: Tensor) -> Job:
    """The run's objects at couplings c (n,), as of a run there by itself."""
    hamiltonian = members.at(c)
    config = job.config.replace(family=type(job.config.family)())
    if members.are_keys:
        selection = config.hamiltonian.replace(**members.named(c))
    else:
        selection = HAMILTONIAN.selection_of(hamiltonian)
    return dataclasses.replace(
        job,
        config=config.replace(hamiltonian=selection),
        hamiltonian=hamiltonian.to(job.device),
        wavefunction=psi.averaged_at(c),
    )


def couplings_here(members: Members, selection: Selection) -> Mapping[str, Any]:
    """The family's couplings as another run's Hamiltonian has them. Raises InputError where it has
    none of a name."""
    found = {}
    for each in members.couplings:
        value = selection.get(each.name)
        if value is None:
            what = "null" if each.name in selection.values else "no key"
            raise InputError(
                f"hamiltonian.{each.name} is {what} here; the family has it from {each.law}"
            )
        found[each.name] = value
    return found


def names_of(ranges: Sequence[str]) -> list[str]:
    """The keys of family.ranges."""
    return [entry.partition("=")[0] for entry in ranges]
