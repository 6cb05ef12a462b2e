"""Ground states from Python: train, load what was trained, look at it, save it.

What a command line says with keys is said with objects here, and the numbers are the same, bit for
bit. Nothing here prints unless it is asked to, ends the interpreter or handles signals: Ctrl-C is a
KeyboardInterrupt as anywhere, and of a run in a folder the last checkpoint stays.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, final

import numpy as np
import torch
from torch import Tensor

from hamiltonians.exact import GroundState
from hamiltonians.exact import ground_state as diagonalised
from hamiltonians.frames import InFrame
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Chain, Lattice
from nqs.conf.sections import from_mapping
from nqs.conf.values import convert
from nqs.errors import InputError, require, shown
from nqs.ground_states import summary
from nqs.ground_states.build import Job, build, check_own
from nqs.ground_states.config import Config, TrainConfig
from nqs.ground_states.evaluations import evaluated
from nqs.ground_states.ground_state_run import GroundStateRun
from nqs.ground_states.groups import ENERGIES, HAMILTONIAN, LATTICE, MODEL, OPTIMIZER
from nqs.ground_states.growth import remarks, with_stages
from nqs.ground_states.run import built, open_folder, program
from nqs.ground_states.run_file import read as read_run_file
from nqs.ground_states.run_folder import create, read_config
from nqs.ground_states.saved_state import trained_job
from nqs.ground_states.start import sealed_start, starting_file, with_source_patches
from nqs.runfolder.history import Evaluation, RunFile
from nqs.runfolder.run_config import RunConfig
from nqs.runfolder.summary import write
from nqs.vmc.energies.local_energy import local_energies
from nqs.vmc.ranks import ALONE
from nqs.vmc.statistics import Estimate
from nqs.wavefunctions.wavefunction import Wavefunction

SEED: Final = Annotated[int, "0 .. 9223372036854774784"]
"""Below 2^63, which a generator takes."""

Device = Literal["auto", "cpu", "cuda"]

Kind = str | type | Mapping[str, Any]
"""The name of a kind, a class, or {"name": either, KEY: VALUE}."""


@final
class Result:
    """A trained state with all that is known of it.

    Attributes:
        job: the objects that it was trained with, at that state.
        step: optimisation steps done.
        summary: the result in numbers, as summary.json has it; empty for a run that has not ended.
        content: history and evaluations, as run.h5 has them.
        path: the run's folder, None where it was trained in memory.
    """

    def __init__(
        self,
        job: Job,
        step: int,
        content: RunFile,
        summary: Mapping[str, Any],
        path: Path | None,
        session: GroundStateRun | None = None,
    ) -> None:
        """session: what trained it in memory."""
        self.job, self.step, self.content, self.path = job, step, content, path
        self.summary = dict(summary)
        self._session = session

    @property
    def config(self) -> Config:
        """Of the run."""
        return self.job.config

    @property
    def lattice(self) -> Lattice:
        """The sites."""
        return self.job.lattice

    @property
    def hamiltonian(self) -> Hamiltonian:
        """What it was trained for."""
        return self.job.hamiltonian

    @property
    def wavefunction(self) -> Wavefunction:
        """ln psi and exact samples, with gradients, on the run's device."""
        return self.job.wavefunction

    @property
    def energy(self) -> float | None:
        """Of fresh samples, total, in the Hamiltonian's units; None before the end of the run."""
        return self.summary.get("energy")

    @property
    def error(self) -> float | None:
        """Standard error of the energy."""
        return self.summary.get("energy_error")

    @property
    def variance(self) -> float | None:
        """Of the local energy, in the square of the Hamiltonian's units."""
        return self.summary.get("variance")

    @property
    def v_score(self) -> float | None:
        """N Var(H) / (E - E_inf)^2."""
        return self.summary.get("v_score")

    @property
    def exact_energy(self) -> float | None:
        """By exact diagonalisation, None where that was not done."""
        return self.summary.get("exact_energy")

    @property
    def verdict(self) -> str | None:
        """good or doubtful; None before the end of the run."""
        return summary.verdict(self.summary)

    @property
    def doubts(self) -> list[str]:
        """Why the energy may not be the ground state's, each a sentence."""
        return list(self.summary.get("doubts", ()))

    @property
    def evaluation(self) -> Evaluation | None:
        """What the energy was reported from; None before the end of the run."""
        return self.content.last("final")

    @property
    def observables(self) -> dict[str, Estimate]:
        """{name: value and standard error} of the evaluation."""
        measured = {} if self.evaluation is None else self.evaluation.observables
        return {
            name: Estimate(torch.as_tensor(value), torch.as_tensor(error))
            for name, (value, error) in measured.items()
        }

    @property
    def history(self) -> dict[str, np.ndarray]:
        """{name: (steps,)} of the optimisation, such as energy, energy_error and variance."""
        return {name: np.asarray(values) for name, values in self.content.columns.items()}

    @torch.no_grad()
    def log_psi(self, configs: Tensor | np.ndarray | Sequence[Sequence[int]]) -> Tensor:
        """ln psi (B,) of configurations (B, N) of bits in the lattice's order.

        Where sites are rotated (`hamiltonian.rotated`) psi is the state of U H U, which is U psi.
        Raises ValueError for other shapes and other numbers than 0 and 1.
        """
        bits, n_sites = torch.as_tensor(configs), self.hamiltonian.n_sites
        if not bool(((bits == 0) | (bits == 1)).all()):
            raise ValueError("configs must hold bits, 0 or 1 (bit 1 is sigma^z = -1)")
        if bits.ndim != 2 or bits.shape[1] != n_sites:
            raise ValueError(
                f"configs have the shape {tuple(bits.shape)}, must have (B, {n_sites})"
            )
        return self.wavefunction.log_psi(bits.to(self.job.device, torch.bool))

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """(n, N) bool: independent draws from |psi|^2, exact, no Markov chain; True is bit 1, the
        excited atom. Raises ValueError for n < 1."""
        n = convert(n, Annotated[int, "1 .. 1e9"], "n")
        return self.wavefunction.sample(n, self._generator(seed)).configs

    @torch.no_grad()
    def expect(
        self,
        operator: Hamiltonian | Callable[[Tensor], Tensor],
        n_samples: int = 10_000,
        *,
        seed: int = 0,
    ) -> Estimate:
        """<A> and its standard error.

        operator: a Hamiltonian on these sites, PauliSum(N, [(1, "X0 X1")]) for instance, or a
        function of configurations (B, N) bool -> (B, ...) real, an observable that is diagonal.
        Rotated sites are turned back: A is in the frame of the Hamiltonian that was asked for.
        Raises ValueError for n_samples < 2, other sites, values that are complex or not finite.
        """
        n_samples = convert(n_samples, Annotated[int, "2 .. 1e9"], "n_samples")
        if not isinstance(operator, Hamiltonian) and not callable(operator):
            raise ValueError(f"operator={operator!r} is no Hamiltonian and no function")
        samples = self.wavefunction.sample(n_samples, self._generator(seed), unique=True)
        if isinstance(operator, Hamiltonian):
            there, here = operator.n_sites, self.hamiltonian.n_sites
            require(there == here, "operator", operator, f"acts on {there} sites, not {here}")
            framed = InFrame(operator.to(self.job.device), self.hamiltonian.rotated)
            values = local_energies(self.wavefunction, framed, samples).real
        else:
            values = torch.as_tensor(operator(samples.configs))
            if values.ndim == 0 or len(values) != len(samples.counts) or values.is_complex():
                raise ValueError(
                    f"operator returns {values.dtype} {tuple(values.shape)} for "
                    f"{len(samples.counts)} configurations; it must be real, a row for each"
                )
        return _mean(values.to(torch.float64), samples.weights, n_samples)

    def evaluate(
        self, n_samples: int = 100_000, *, seed: int = 1, subsystems: Any = None
    ) -> Evaluation:
        """A fresh evaluation with all observables, as `nqs evaluate` makes it; nothing is written.

        subsystems: (S, N) of bits, the sites of each subsystem whose Renyi entropy is measured.
        """
        n_samples = convert(n_samples, Annotated[int, "2 .. 1e9"], "n_samples")
        seed = convert(seed, SEED, "seed")
        if subsystems is not None:
            subsystems, n_sites = torch.as_tensor(subsystems), self.hamiltonian.n_sites
            if subsystems.ndim != 2 or subsystems.shape[1] != n_sites:
                shape = tuple(subsystems.shape)
                raise ValueError(f"subsystems have the shape {shape}, must have (S, {n_sites})")
            subsystems = subsystems.to(self.job.device, torch.bool)
        return evaluated(
            self.job, n_samples, seed, self.step, "later", thorough=True, subsystems=subsystems
        )

    def save(self, dir: str | Path) -> Path:
        """Writes a state that was trained in memory as the folder of a run: `nqs.load`, `nqs
        evaluate` and the other commands take it, and it resumes bit for bit. Returns its path.

        Raises InputError for a folder that is not empty, a state that has one, and a Hamiltonian or
        lattice that no configuration can say.
        """
        session = self._session
        if session is None:
            raise InputError(f"{dir}: the state lies in {self.path}; copy that folder")
        with tempfile.TemporaryDirectory() as inputs:
            config, begun = _written(self.job, _place(dir), Path(inputs)), session.start
            start = None if begun is None else sealed_start(begun.step, begun.model)
            folder = create(config, self.job.wavefunction, list(sys.orig_argv), start)
        session.job = self.job = dataclasses.replace(self.job, config=read_config(folder))
        with session.at_work(folder, quiet=True, signals=False):
            session.save()
            write(folder / "summary.json", self.summary)
            session.draw()
        return folder

    def _generator(self, seed: int) -> torch.Generator:
        seed = convert(seed, SEED, "seed")
        return torch.Generator(self.job.device).manual_seed(seed)

    def __repr__(self) -> str:
        if self.energy is None:
            return f"Result({self.hamiltonian.describe()}, step {self.step})"
        parts = [f"E = {summary.with_error(self.energy, self.error)}"]
        if self.exact_energy is not None:
            share = (self.energy - self.exact_energy) / abs(self.exact_energy or 1.0)
            parts.append(f"exact {self.exact_energy:.9g}, relative error {share:.1e}")
        parts += [f"variance {self.variance:.2g}", f"{self.verdict}"]
        return f"Result({', '.join(parts)})" + "".join(f"\n  {doubt}" for doubt in self.doubts)


def _place(dir: str | Path) -> RunConfig:
    """Where a run is to be written. Raises InputError for what is no path."""
    given = str(dir.expanduser()) if isinstance(dir, Path) else dir
    rule = "must be the path of a folder"
    require(isinstance(given, str) and "\0" not in given, "dir", given, rule)
    return RunConfig(dir=os.path.expanduser(given))


def _mean(values: Tensor, weights: Tensor, n_samples: int) -> Estimate:
    """Mean of values (U, ...) with weights (U,) of n_samples draws, and its standard error."""
    if not bool(values.isfinite().all()):
        raise ValueError("operator: some of its values are not finite")
    weights = weights.reshape(-1, *[1] * (values.ndim - 1))
    mean = (weights * values).sum(0)
    variance = (weights * (values - mean).square()).sum(0)
    return Estimate(mean, (variance / (n_samples - 1)).sqrt())


def _checked(hamiltonian: Any) -> None:
    """Raises InputError for anything but a Hamiltonian."""
    rule = "must be a Hamiltonian, e.g. nqs.Rydberg(nqs.Square(4, 4), V=7)"
    require(isinstance(hamiltonian, Hamiltonian), "hamiltonian", hamiltonian, rule)


def _written(job: Job, run: RunConfig, inputs: Path) -> Config:
    """The configuration of a run in a folder whose objects may have been made in memory; what it
    needs of files is written into `inputs`. Raises InputError where none makes them again."""
    config = job.config.replace(run=run)
    if not config.lattice.whole:
        config = config.replace(lattice=LATTICE.selection_of(job.lattice, inputs))
    if not config.hamiltonian.whole:
        config = config.replace(hamiltonian=HAMILTONIAN.selection_of(job.hamiltonian, inputs))
    for selection in (config.lattice, config.hamiltonian):
        selection.check_whole()
    return config


def ground_state(
    hamiltonian: Hamiltonian,
    model: Kind = "ptf",
    steps: int = 200,
    seed: int = 0,
    *,
    samples: int = 512,
    eval_samples: int = 50_000,
    optimizer: Kind = "minsr",
    energies: Kind = "blurred",
    exact: bool | Literal["auto"] = "auto",
    max_seconds: float | None = None,
    start_from: str | Path | None = None,
    grow: bool | Sequence[str | int] = False,
    stage_steps: int | Literal["auto"] = "auto",
    device: Device = "auto",
    dtype: Literal["float32", "float64"] = "float32",
    dir: str | Path | None = None,
    quiet: bool = True,
) -> Result:
    """The ground state of a Hamiltonian by variational Monte Carlo.

    model, optimizer, energies: the name of a kind as on the command line, a class of your own, or
        a mapping with the name and keys, {"name": "rnn", "d_model": 64}.
    steps, samples: optimisation steps, draws of each; eval_samples: fresh draws for the result.
    exact: compare with exact diagonalisation; "auto" up to 2^16 configurations.
    max_seconds: budget of the optimisation.
    start_from: folder of a run whose parameters are the start.
    grow: train smaller arrays first, as train.grow: True, or sizes, ["4x4", "8x8"] or [16, 32].
    stage_steps: steps of each of them at most; "auto": 150 of the first, of each next one `steps`
        times the ratio of the sites, and at least 200.
    dir: folder of the run, as `nqs train run.dir=dir` writes it; None keeps everything in memory
        (see `Result.save`).
    quiet: print nothing.

    A Hamiltonian without a lattice is taken for a chain in the order of its sites.
    Raises InputError (a ValueError), one line, for what cannot be run, and FloatingPointError for a
    run whose energy is no longer a number.
    """
    _checked(hamiltonian)
    check_own(f"hamiltonian={HAMILTONIAN.name_of(type(hamiltonian))}", hamiltonian)
    lattice = hamiltonian.lattice or Chain(hamiltonian.n_sites)
    check_own(f"lattice={LATTICE.name_of(type(lattice))}", lattice)
    train_config = {
        "steps": steps,
        "n_samples": samples,
        "eval_samples": eval_samples,
        "exact": exact,
        "max_seconds": max_seconds,
        "start_from": None if start_from is None else str(start_from),
        "grow": list(grow) if isinstance(grow, Sequence) and not isinstance(grow, str) else grow,
        "stage_steps": stage_steps,
    }
    config = Config(
        lattice=LATTICE.selection_of(lattice),
        hamiltonian=HAMILTONIAN.selection_of(hamiltonian),
        model=MODEL.chosen(model),
        optimizer=OPTIMIZER.chosen(optimizer),
        energies=ENERGIES.chosen(energies),
        train=from_mapping(TrainConfig, train_config, "train"),
        seed=convert(seed, SEED, "seed"),
        device=convert(device, Device, "device"),
        dtype=convert(dtype, Literal["float32", "float64"], "dtype"),
    )
    if config.train.grow:
        try:
            config.lattice.check_whole()
            config.hamiltonian.check_whole()
        except InputError as error:
            raise InputError(f"grow={shown(config.train.grow)}: {error}") from None
    asked = config
    config = with_stages(with_source_patches(config))
    job = build(config, lattice=lattice, hamiltonian=hamiltonian)
    return _trained(job, dir, quiet, remarks(asked, config))


def train(job: Job, *, dir: str | Path | None = None, quiet: bool = True) -> Result:
    """Optimises and evaluates, in memory or in a new folder; the numbers are the same. Raises
    FloatingPointError for a step that is not finite."""
    return _trained(job, dir, quiet, [])


def _trained(job: Job, dir: str | Path | None, quiet: bool, notes: list[str]) -> Result:
    """notes: what is to be said beforehand."""
    folder = None
    if dir is not None:
        with tempfile.TemporaryDirectory() as inputs:
            config = _written(job, _place(dir), Path(inputs))
            start = starting_file(job)
            folder = create(config, job.wavefunction, list(sys.orig_argv), start)
        job = dataclasses.replace(job, config=read_config(folder))
    session = GroundStateRun(job)
    session.notes += notes
    with session.at_work(folder, quiet=quiet, signals=False):
        session.work(resumes=False)
    return _finished(session)


def run(config: Config, command: Sequence[str] | None = None, *, quiet: bool = True) -> Result:
    """Runs in the folder config.run.dir, or goes on there with config.run.resume.

    command: for environment.json, by default that of this interpreter.
    Raises InputError as the command `nqs train`, and FloatingPointError for a step that is not
    finite: the last checkpoint stays.
    """
    words = list(sys.orig_argv) if command is None else list(command)
    session = GroundStateRun(built(ALONE, config), program(words))
    session.notes += remarks(config, session.job.config)
    path = open_folder(session, words)
    with session.at_work(path, quiet=quiet, signals=False):
        session.work(session.job.config.run.resume)
    return _finished(session)


def _finished(session: GroundStateRun) -> Result:
    if session.failure is not None:
        raise FloatingPointError(session.failure)
    in_memory = session if session.path is None else None
    return Result(
        session.job, session.step, session.content, session.result, session.path, in_memory
    )


def load(
    run_dir: str | Path, *, device: str = "auto", warn: Callable[[str], None] = print
) -> Result:
    """The state of the run in a folder at its newest sound checkpoint.

    warn: takes a line about a damaged checkpoint that is passed over. Raises InputError for a
    folder without a checkpoint, and for files that are not as they were written.
    """
    path = Path(convert(str(run_dir) if isinstance(run_dir, Path) else run_dir, str, "run_dir"))
    config = read_config(path)
    require(not config.family.ranges, "run_dir", path, "is a family; use nqs.load_family")
    job, step = trained_job(path, config, convert(device, Device, "device"), warn)
    content, file = read_run_file(path / "run.h5"), path / "summary.json"
    return Result(job, step, content, summary.read(file) if file.exists() else {}, path)


def exact(hamiltonian: Hamiltonian, k: int = 1, *, n_up: int | None = None) -> GroundState:
    """The k lowest levels by exact diagonalisation, in the sector of n_up 1 bits if that is given;
    see `hamiltonians.exact.ground_state`, whose errors it raises."""
    _checked(hamiltonian)
    return diagonalised(hamiltonian, k=k, n_up=n_up)
