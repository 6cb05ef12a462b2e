"""Families from Python: one state for ranges of couplings, trained once, asked at any of them.

    family = nqs.family(
        lambda delta, Rb: nqs.Rydberg(nqs.Square(4, 4), delta=delta, Rb=Rb),
        delta=(0, 3), Rb=(1.1, 1.6),
    )
    family.evaluate(delta=1.37, Rb=1.2)                    # energy, error, observables
    family.check(delta=1.37, Rb=1.2)["verdict"]            # "good" or "doubtful", with reasons
    family.at(delta=1.37, Rb=1.2)                          # a wavefunction like any other
    family.susceptibility("delta", delta=1.37, Rb=1.2)     # of the fidelity
    family = nqs.load_family("runs/family")                # of nqs train family.hamiltonian...

States of two couplings are normalised and sampled exactly, so that overlaps between them need no
ratio of norms: with Delta = ln psi'(s) - ln psi(s) and draws of either state in turn,

    <psi | psi'> = E_{(|psi|^2 + |psi'|^2) / 2} [ e^{i Im Delta} / cosh(Re Delta) ],

of which no term exceeds 1.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, final

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Chain
from nqs.conf.sections import from_mapping
from nqs.conf.values import convert
from nqs.errors import InputError, require, shown
from nqs.families.family_run import FamilyRun
from nqs.families.points import point_at
from nqs.ground_states.api import SEED, Device, Kind
from nqs.ground_states.build import Job
from nqs.ground_states.config import Config, FamilyConfig, TrainConfig
from nqs.ground_states.couplings import Coupling, Law
from nqs.ground_states.groups import ENERGIES, HAMILTONIAN, LATTICE, MODEL, OPTIMIZER
from nqs.ground_states.members import Members, build_family, conditional, trained_family
from nqs.ground_states.run_folder import read_config
from nqs.runfolder import checkpoint, digests
from nqs.runfolder.atomic import write_bytes
from nqs.vmc.energies.local_energy import connected, local_energy
from nqs.vmc.evaluation import Evaluation, evaluate
from nqs.vmc.optimise_family import FamilyRecord
from nqs.vmc.statistics import Estimate, RunningMoments
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.conditional import Conditional
from nqs.wavefunctions.image_average import ImageAverage
from nqs.wavefunctions.symmetrised import Symmetrised

STEP: Final = 0.01
"""Of a range: how far apart the two states of a susceptibility are."""
SLOPE_STEP: Final = 1e-3
"""The same for the derivative of a Hamiltonian."""
CHUNK: Final = 16_384
FORMAT: Final = "nqs family 3"


@final
class Family:
    """psi(s | c) for couplings c within ranges, and their Hamiltonians.

    Attributes:
        psi: the state (`nqs.wavefunctions.conditional`).
        members: H(c), and the ranges.
        job: what it was trained with; job.hamiltonian is that of the middle of the ranges.
    """

    def __init__(self, psi: Conditional, members: Members, job: Job) -> None:
        self.psi, self.members, self.job = psi, members, job

    def __repr__(self) -> str:
        ranges = ", ".join(f"{name} {law}" for name, law in self.ranges.items())
        n_parameters = sum(p.numel() for p in self.psi.parameters())
        return f"Family({ranges}; {self.psi.n_sites} sites, {n_parameters} parameters)"

    @property
    def ranges(self) -> Mapping[str, Law]:
        """How each coupling is distributed."""
        return {each.name: each.law for each in self.members.couplings}

    def at(self, **couplings: float) -> Autoregressive | Symmetrised | ImageAverage:
        """The wavefunction at these couplings, all of them named. Outside of the ranges a warning
        says so. Raises InputError for names that are not the family's, and for no numbers."""
        return self.psi.averaged_at(self._vector(couplings))

    def hamiltonian(self, **couplings: float) -> Hamiltonian:
        """H at these couplings."""
        return self._member(self._vector(couplings))

    def evaluate(self, n_samples: int = 50_000, seed: int = 0, **couplings: float) -> Evaluation:
        """Energy, error, variance and observables from fresh draws (`nqs.vmc.evaluation`)."""
        c = self._vector(couplings)
        return evaluate(
            self.psi.averaged_at(c),
            self._member(c),
            _number_of(n_samples, 2),
            self._generator(seed),
            lattice=self.job.lattice,
            thorough=True,
        )

    def check(self, n_samples: int = 10_000, seed: int = 0, **couplings: float) -> dict[str, Any]:
        """Whether the state can be trusted at these couplings, as `nqs evaluate` says it.

        Returns couplings, energy, energy_error, variance, v_score, n_samples of fresh draws,
        exact_energy and relative_error where diagonalisation is quick, verdict ("good" or
        "doubtful") and doubts, the reasons; couplings outside of the ranges are one, unless the
        exact energy is known. Raises InputError as `at` does.
        """
        c, outside = self.members.vector(couplings)
        point = point_at(
            self.job, self.members, self.psi, c, _number_of(n_samples, 2),
            convert(seed, SEED, "seed"), self.job.config.train.steps, thorough=True,
            outside=outside,
        )  # fmt: skip
        point.compare_where_quick()
        return point.entry()

    def fidelity(
        self,
        here: Mapping[str, float],
        there: Mapping[str, float],
        n_samples: int = 20_000,
        seed: int = 0,
    ) -> Estimate:
        """|<psi(here) | psi(there)>| and its standard error, from n_samples / 2 draws of each."""
        return self._overlap(self._vector(here), self._vector(there), n_samples, seed)

    def susceptibility(
        self, coupling: str, n_samples: int = 20_000, seed: int = 0, **couplings: float
    ) -> Estimate:
        """Fidelity susceptibility -d^2 ln F / dc^2 in one coupling, F = |<psi(c) | psi(c + dc)>|,
        from states half of dc to either side: -2 ln F / dc^2 with dc 1 % of the range.

        It peaks at transitions (Gu, arXiv:0811.3127). The difference has an error of order dc^2.
        """
        c, step = self._vector(couplings), STEP * self._unit(coupling)
        overlap = self._overlap(c - step / 2, c + step / 2, n_samples, seed)
        width = float(step.abs().max())
        return Estimate(-2 * overlap.value.log() / width**2, 2 * overlap.error / width**2)

    @torch.no_grad()
    def slope(
        self, coupling: str, n_samples: int = 20_000, seed: int = 0, **couplings: float
    ) -> Estimate:
        """dE/dc = <dH/dc> (Hellmann-Feynman), H differentiated by a central difference."""
        c, step = self._vector(couplings), SLOPE_STEP * self._unit(coupling)
        psi, total = self.psi.averaged_at(c), RunningMoments()
        ends = [self._member(c + sign * step / 2) for sign in (1, -1)]
        generator, width = self._generator(seed), float(step.abs().max())
        for n in _chunks(_number_of(n_samples, 2)):
            samples = psi.sample(n, generator, unique=True)
            above, below = (
                local_energy(end, samples.configs, *connected(psi, end, samples, CHUNK)).real
                for end in ends
            )
            total.add((above - below) / width, samples.counts)
        return total.estimate()

    def save(self, path: str | Path) -> Path:
        """Writes the parameters into one file, which `nqs.load_family` reads; returns its path.
        Raises InputError where that cannot be."""
        path, content = Path(path).expanduser(), io.BytesIO()
        state = {name: x.detach().cpu() for name, x in self.psi.state_dict().items()}
        ranges = [[each.name, str(each.law), each.size] for each in self.members.couplings]
        config = self.job.config.to_dict()
        middle = self.job.hamiltonian.describe()
        saved = {"format": FORMAT, "ranges": ranges, "config": config, "psi": state}
        saved["middle"] = middle
        torch.save(saved, content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, digests.sealed(content.getvalue()))
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None
        return path

    @torch.no_grad()
    def _overlap(self, here: Tensor, there: Tensor, n_samples: int, seed: int) -> Estimate:
        """|<psi(here) | psi(there)>|, see the head of this file."""
        n_each = _number_of(n_samples, 4) // 2
        states, generator = [self.psi.averaged_at(c) for c in (here, there)], self._generator(seed)
        halves = []
        for psi in states:
            moments = RunningMoments()
            for n in _chunks(n_each):
                samples = psi.sample(n, generator, unique=True)
                delta = states[1].log_psi(samples.configs) - states[0].log_psi(samples.configs)
                terms = 1 / torch.cosh(delta.real)
                if delta.is_complex():
                    terms = torch.polar(terms, delta.imag)
                moments.add(terms, samples.counts)
            halves.append(moments.estimate())
        mean = sum(half.value for half in halves) / 2  # real, or its two parts
        error = torch.stack([half.error for half in halves]).norm(dim=0) / 2
        assert isinstance(mean, Tensor)
        return Estimate(mean.norm(), error.norm())

    def _vector(self, couplings: Mapping[str, Any]) -> Tensor:
        """(n,) float64 in the family's order, with a warning outside of the ranges."""
        values, outside = self.members.vector(couplings)
        for line in outside:
            warnings.warn(line, stacklevel=3)
        return values

    def _unit(self, coupling: str) -> Tensor:
        """(n,): the length of the range of one coupling, at all its sites, 0 for the others."""
        if coupling not in self.ranges:
            known = ", ".join(self.ranges)
            raise InputError(f"{shown(coupling)}: no coupling of this family; it has {known}")
        parts = []
        for each in self.members.couplings:
            low, high = each.law.ends
            parts += [high - low if each.name == coupling else 0.0] * each.size
        return torch.tensor(parts, dtype=torch.float64)

    def _member(self, couplings: Tensor) -> Hamiltonian:
        return self.members.at(couplings).to(self.job.device)

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.job.device).manual_seed(convert(seed, SEED, "seed"))


def _number_of(n_samples: Any, least: int) -> int:
    """Draws that suffice for an error bar. Raises InputError."""
    checked = convert(n_samples, int, "n_samples")
    require(checked >= least, "n_samples", n_samples, f"must be at least {least}")
    return int(checked)


def _chunks(n_samples: int) -> list[int]:
    """n_samples in parts of at most CHUNK, of two or more."""
    n_parts = -(-n_samples // CHUNK)
    return [n_samples * (i + 1) // n_parts - n_samples * i // n_parts for i in range(n_parts)]


def family(
    hamiltonian: Callable[..., Hamiltonian],
    model: Kind = "ptf",
    steps: int = 200,
    seed: int = 0,
    *,
    couplings: int = 8,
    samples: int = 1024,
    context: Literal["auto", "vector", "places", "encoder"] = "auto",
    width: int = 32,
    optimizer: Kind = "minsr",
    max_seconds: float | None = None,
    device: Device = "auto",
    dtype: Literal["float32", "float64"] = "float32",
    on_step: Callable[[FamilyRecord], None] | None = None,
    **ranges: Any,
) -> Family:
    """One state for all Hamiltonians with couplings within ranges, by variational Monte Carlo.

    hamiltonian: a function of the couplings, by name, that returns a Hamiltonian.
    ranges: of each of them, whose names are none of the other arguments': (low, high), a list of
        values, or disorder, ("uniform(-1,1)", 16) or ("normal(0,1)", 16): so many independent
        numbers, which the function gets as a list.
    model: as for `ground_state`; couplings move its token vectors and output biases.
    steps, couplings, samples: optimisation steps, couplings that each takes (stratified, anew each
        time), draws of a step, which these share.
    context, width: what reads the couplings, as family.context and family.width.
    optimizer: minsr, or a mapping with its keys.
    max_seconds: budget of the optimisation.
    on_step: is given the record of each step.

    Raises InputError, one line, for what cannot be run, and FloatingPointError for a state whose
    energy is no longer a number.
    """
    seed = convert(seed, SEED, "seed")
    rule = "must be a function of the couplings that returns a Hamiltonian"
    require(callable(hamiltonian), "hamiltonian", hamiltonian, rule)
    family_keys = {"couplings": couplings, "context": context, "width": width}
    for name, value in family_keys.items():
        require(not isinstance(value, bool), name, value, "must be a number")
    train_keys = {"steps": steps, "n_samples": samples, "max_seconds": max_seconds, "exact": False}
    members = Members(hamiltonian, checked_ranges(ranges))
    ranges_here = [f"hamiltonian.{each.name}={each.law}" for each in members.couplings]
    keys = family_keys | {"ranges": ranges_here}
    run = FamilyRun(
        _job(
            members,
            model,
            optimizer,
            family=from_mapping(FamilyConfig, keys, "family"),
            train=from_mapping(TrainConfig, train_keys, "train"),
            seed=seed,
            device=convert(device, Device, "device"),
            dtype=convert(dtype, Literal["float32", "float64"], "dtype"),
        ),
        members,
    )
    if on_step is not None:
        run.listener = on_step
    with run.at_work(None, quiet=True, signals=False):
        run.prepare(resumes=False)
        run.optimise()
    return Family(run.psi, members, run.job)


def checked_ranges(ranges: Mapping[str, Any]) -> tuple[Coupling, ...]:
    """The couplings of Python's ranges. Raises InputError, one line."""
    if not ranges:
        raise InputError("no coupling has a range; give at least one, e.g. delta=(0, 3)")
    return tuple(_coupling(name, given) for name, given in ranges.items())


def _coupling(name: str, given: Any) -> Coupling:
    rule = 'must be a pair (low, high), a list of values, or disorder, ("uniform(-1,1)", 16)'
    if (
        isinstance(given, tuple)
        and len(given) == 2
        and isinstance(given[0], str)
        and "(" in given[0]
    ):
        law = Law.parsed(name, given[0])
        size = convert(given[1], int, name)
        require(law.is_disorder and 1 <= size <= 1_000_000, name, given, rule)
        return Coupling(name, law, size)
    if isinstance(given, tuple):
        require(len(given) == 2, name, given, rule)
        ends = [convert(end, float, name) for end in given]
        return Coupling(name, Law.of(name, given, "interval", ends))
    require(isinstance(given, list), name, given, rule)
    return Coupling(name, Law.of(name, given, "list", [convert(x, float, name) for x in given]))


def _job(members: Members, model: Kind, optimizer: Kind, **rest: Any) -> Job:
    """The run's objects for a function of couplings."""
    middle = members.probes()[0]
    lattice = middle.lattice or Chain(middle.n_sites)
    config = Config(
        lattice=LATTICE.selection_of(lattice),
        hamiltonian=HAMILTONIAN.selection_of(middle),
        model=MODEL.chosen(model),
        optimizer=OPTIMIZER.chosen(optimizer),
        energies=ENERGIES.chosen("blurred"),
        **rest,
    )
    return build_family(config, members, lattice=lattice)


def load_family(
    path: str | Path,
    hamiltonian: Callable[..., Hamiltonian] | None = None,
    *,
    device: Device = "auto",
) -> Family:
    """The family in the folder of a run, `nqs train family...`, at its newest sound checkpoint; or
    the one that `Family.save` wrote, with the function `hamiltonian` that it was trained with.

    Raises InputError, one line, for what is missing, damaged or no family, and for a function whose
    Hamiltonians the state does not fit.
    """
    path, device = Path(path).expanduser(), convert(device, Device, "device")
    if path.is_dir():
        rule = "a run's folder has its Hamiltonian itself; leave the function out"
        require(hamiltonian is None, "hamiltonian", hamiltonian, rule)
        config = read_config(path)
        if not config.family.ranges:
            raise InputError(f"{path}: is a run at one coupling; use nqs.load")
        psi, members, job, _ = trained_family(path, config, device)
        return Family(psi, members, job)
    content = _read(path)
    rule = "must be the function that the family was trained with"
    require(callable(hamiltonian), "hamiltonian", hamiltonian, rule)
    assert hamiltonian is not None
    try:
        laws = [(name, Law.parsed(name, law), size) for name, law, size in content["ranges"]]
        members = Members(hamiltonian, tuple(Coupling(*each) for each in laws))
        config = content["config"]
        job = _job(
            members,
            config["model"],
            config["optimizer"],
            family=from_mapping(FamilyConfig, config["family"], "family"),
            train=from_mapping(
                TrainConfig, {"n_samples": config["train"]["n_samples"], "exact": False}, "train"
            ),
            seed=config["seed"],
            device=device,
            dtype=config["dtype"],
        )
        psi = conditional(job, members)
        psi.load_state_dict(content["psi"])
        if job.hamiltonian.describe() != content["middle"]:
            raise InputError(
                f"{path}: its family has {content['middle']} in the middle, the function makes "
                f"{job.hamiltonian.describe()}"
            )
    except (KeyError, TypeError):
        raise InputError(f"{path}: is not a family of this version of the program") from None
    except RuntimeError:
        raise InputError(
            f"{path}: its parameters do not fit these Hamiltonians' sites, or this version's model"
        ) from None
    return Family(psi, members, job)


def _read(path: Path) -> dict[str, Any]:
    """The content of a family's file. Raises InputError."""
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; Family.save writes one, and nqs train family... a folder"
        )
    try:
        content, has_seal = checkpoint.load(path, torch.device("cpu"))
        if content.get("format") != FORMAT:
            raise digests.Damaged(f"it is no family; allowed is '{FORMAT}'")
        if not has_seal:
            raise digests.Damaged("its seal is gone")
        if not checkpoint.is_sound(content.get("psi")):
            raise digests.Damaged("it holds numbers that are not finite")
    except (OSError, digests.Damaged) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    return content
