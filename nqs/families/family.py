"""Families from Python: one state for ranges of couplings, trained once, asked at any of them.

    family = nqs.family(
        lambda delta, Rb: nqs.Rydberg(nqs.Square(4, 4), delta=delta, Rb=Rb),
        delta=(0, 3), Rb=(1.1, 1.6),
    )
    family.evaluate(delta=1.37, Rb=1.2)                    # energy, error, observables
    family.at(delta=1.37, Rb=1.2)                          # a wavefunction like any other
    family.susceptibility("delta", delta=1.37, Rb=1.2)     # of the fidelity

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
from nqs.conf.sections import from_mapping
from nqs.conf.values import convert
from nqs.errors import InputError, require, shown
from nqs.families.training import Members, build_job, checked_ranges, train
from nqs.ground_states.api import SEED, Device, Kind
from nqs.ground_states.build import Job
from nqs.ground_states.config import TrainConfig
from nqs.runfolder import checkpoint, digests
from nqs.runfolder.atomic import write_bytes
from nqs.vmc.energies.local_energy import connected, local_energy
from nqs.vmc.evaluation import Evaluation, evaluate
from nqs.vmc.optimise_family import FamilyRecord
from nqs.vmc.statistics import Estimate, RunningMoments
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.conditional import Conditional
from nqs.wavefunctions.symmetrised import Symmetrised

STEP: Final = 0.01
"""Of a range: how far apart the two states of a susceptibility are."""
SLOPE_STEP: Final = 1e-3
"""The same for the derivative of a Hamiltonian."""
CHUNK: Final = 16_384
FORMAT: Final = "nqs family 1"


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
        ranges = ", ".join(f"{k} {low:g} .. {high:g}" for k, (low, high) in self.ranges.items())
        n_parameters = sum(p.numel() for p in self.psi.parameters())
        return f"Family({ranges}; {self.psi.n_sites} sites, {n_parameters} parameters)"

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """(low, high) of each coupling."""
        return self.members.ranges

    def at(self, **couplings: float) -> Autoregressive | Symmetrised:
        """The wavefunction at these couplings, all of them named. Outside of the ranges a warning
        says so. Raises InputError for names that are not the family's, and for no numbers."""
        return self.psi.at(self._vector(couplings))

    def hamiltonian(self, **couplings: float) -> Hamiltonian:
        """H at these couplings."""
        return self._member(self._vector(couplings))

    def evaluate(self, n_samples: int = 50_000, seed: int = 0, **couplings: float) -> Evaluation:
        """Energy, error, variance and observables from fresh draws (`nqs.vmc.evaluation`)."""
        c = self._vector(couplings)
        return evaluate(
            self.psi.moved_to(c),
            self._member(c),
            _number_of(n_samples, 2),
            self._generator(seed),
            lattice=self.job.lattice,
            thorough=True,
        )

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
        width = float(step.norm())
        return Estimate(-2 * overlap.value.log() / width**2, 2 * overlap.error / width**2)

    @torch.no_grad()
    def slope(
        self, coupling: str, n_samples: int = 20_000, seed: int = 0, **couplings: float
    ) -> Estimate:
        """dE/dc = <dH/dc> (Hellmann-Feynman), H differentiated by a central difference."""
        c, step = self._vector(couplings), SLOPE_STEP * self._unit(coupling)
        psi, total = self.psi.moved_to(c), RunningMoments()
        ends = [self._member(c + sign * step / 2) for sign in (1, -1)]
        generator, width = self._generator(seed), float(step.norm())
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
        ranges = {name: list(pair) for name, pair in self.ranges.items()}
        config = self.job.config.to_dict()
        saved = {"format": FORMAT, "ranges": ranges, "config": config, "psi": state}
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
        states, generator = [self.psi.at(c) for c in (here, there)], self._generator(seed)
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

    def _vector(self, couplings: Mapping[str, float]) -> Tensor:
        """(n,) float64 in the family's order, with a warning outside of the ranges."""
        names = ", ".join(self.ranges)
        rule = f"must be a mapping with the numbers of {names}"
        require(isinstance(couplings, Mapping), "couplings", couplings, rule)
        for name in couplings:
            if name not in self.ranges:
                raise InputError(f"{shown(name)}: no coupling of this family; it has {names}")
        values = []
        for name, (low, high) in self.ranges.items():
            if name not in couplings:
                raise InputError(f"{name} is missing; give all of {names}")
            value = convert(couplings[name], float, name)
            if not low <= value <= high:
                warnings.warn(
                    f"{name}={value:g} is outside of {low:g} .. {high:g}, where the family was "
                    "trained: nothing vouches for its state there",
                    stacklevel=3,
                )
            values.append(value)
        return torch.tensor(values, dtype=torch.float64)

    def _unit(self, coupling: str) -> Tensor:
        """(n,): the length of the range of one coupling, 0 for the others."""
        if coupling not in self.ranges:
            known = ", ".join(self.ranges)
            raise InputError(f"{shown(coupling)}: no coupling of this family; it has {known}")
        ends = [high - low if k == coupling else 0.0 for k, (low, high) in self.ranges.items()]
        return torch.tensor(ends, dtype=torch.float64)

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
    samples: int = 128,
    width: int = 32,
    optimizer: Kind = "minsr",
    max_seconds: float | None = None,
    device: Device = "auto",
    dtype: Literal["float32", "float64"] = "float32",
    on_step: Callable[[FamilyRecord], None] | None = None,
    **ranges: tuple[float, float],
) -> Family:
    """One state for all Hamiltonians with couplings within ranges, by variational Monte Carlo.

    hamiltonian: a function of the couplings, by name, that returns a Hamiltonian.
    ranges: (low, high) of each of them, whose names are none of the other arguments'.
    model: as for `ground_state`; couplings move its token vectors and output biases.
    steps, couplings, samples: optimisation steps, couplings that each takes (stratified, anew each
        time), draws of each.
    width: hidden numbers of the perceptron that reads the couplings.
    optimizer: minsr, or a mapping with its keys.
    max_seconds: budget of the optimisation.
    on_step: is given the record of each step.

    Raises InputError, one line, for what cannot be run, and FloatingPointError for a state whose
    energy is no longer a number.
    """
    seed = convert(seed, SEED, "seed")
    rule = "must be a function of the couplings that returns a Hamiltonian"
    require(callable(hamiltonian), "hamiltonian", hamiltonian, rule)
    for name, value in (("couplings", couplings), ("width", width)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        require(whole and 1 <= value <= 65_536, name, value, "must be a whole number, 1 .. 65536")
    members = Members(hamiltonian, checked_ranges(ranges))
    train_keys = {"steps": steps, "n_samples": samples, "max_seconds": max_seconds, "exact": False}
    job = build_job(
        members,
        model,
        from_mapping(TrainConfig, train_keys, "train"),
        optimizer,
        seed=seed,
        device=convert(device, Device, "device"),
        dtype=convert(dtype, Literal["float32", "float64"], "dtype"),
    )
    psi = train(
        members,
        job,
        width=width,
        n_couplings=couplings,
        max_seconds=job.config.train.max_seconds,
        on_step=on_step,
    )
    return Family(psi, members, job)


def load_family(
    path: str | Path, hamiltonian: Callable[..., Hamiltonian], *, device: Device = "auto"
) -> Family:
    """The family that `Family.save` wrote; hamiltonian: the function it was trained with.

    Raises InputError, one line, for a file that is missing, damaged or no family, and for a
    function whose Hamiltonians the state does not fit.
    """
    path = Path(path).expanduser()
    content = _read(path)
    try:
        members = Members(hamiltonian, checked_ranges(content["ranges"]))
        config = content["config"]
        model, training = config["model"], {"exact": False}
        job = build_job(
            members,
            model,
            from_mapping(TrainConfig, training, "train"),
            config["optimizer"],
            seed=config["seed"],
            device=convert(device, Device, "device"),
            dtype=config["dtype"],
        )
        width = len(content["psi"]["perceptron.0.bias"])
        psi = Conditional(job.wavefunction, members.low, members.high, width=width)
        psi.load_state_dict(content["psi"])
    except (KeyError, TypeError):
        raise InputError(f"{path}: is not a family of this version of the program") from None
    except RuntimeError:
        raise InputError(
            f"{path}: its parameters do not fit these Hamiltonians' sites, or this version's model"
        ) from None
    return Family(psi.to(job.device), members, job)


def _read(path: Path) -> dict[str, Any]:
    """The content of a family's file. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; Family.save writes one")
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
