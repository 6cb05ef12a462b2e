"""From a Config to the objects of a run. Every error a constructor can raise comes out here, in one
line that names the section, before any work and before the run's folder is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

from hamiltonians.exact import memory_needed
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.interface import check_interface, check_lattice
from hamiltonians.invariance import check_invariance
from hamiltonians.lattices.lattice import Lattice, positive_integer
from nqs.conf.kinds import Selection, naming
from nqs.errors import InputError, shown
from nqs.ground_states import distributed, memory
from nqs.ground_states.automatic_symmetry import automatic_group
from nqs.ground_states.config import Config
from nqs.ground_states.own_classes import (
    check_columns,
    check_observables,
    own_observables,
)
from nqs.runfolder.machine import build_device, build_generator
from nqs.runfolder.memory import room
from nqs.vmc.energies import Energies
from nqs.vmc.observables import Observable, Request
from nqs.vmc.optimizers import Optimizer
from nqs.vmc.product_state import complex_product_state, product_state
from nqs.vmc.ranks import ALONE, Ranks
from nqs.wavefunctions.ansatz import Ansatz
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.image_average import ImageAverage
from nqs.wavefunctions.symmetrised import Symmetrised
from nqs.wavefunctions.wavefunction import Wavefunction

EXACT_CONFIGURATIONS: Final = 2**16
"""train.exact=auto compares with exact diagonalisation up to this many (about a second)."""
EXACT_GIGABYTES: Final = 8.0
"""Memory that exact diagonalisation may take."""


@dataclass(frozen=True)
class Job:
    """All that a run works with.

    Attributes:
        generator: source of this process' samples of the optimisation.
        exact: whether the result is compared with exact diagonalisation.
        ranks: the processes that work on it.
        energies: where local energies come from, with what was measured on the way.
        observables: classes of the run's own, measured besides those of the program.
    """

    config: Config
    device: torch.device
    lattice: Lattice
    hamiltonian: Hamiltonian
    wavefunction: Autoregressive | Symmetrised | ImageAverage
    optimizer: Optimizer
    generator: torch.Generator
    exact: bool
    ranks: Ranks
    energies: Energies
    observables: tuple[type[Observable], ...] = ()

    @property
    def n_parameters(self) -> int:
        """Number of trainable numbers."""
        return sum(parameter.numel() for parameter in self.wavefunction.parameters())


def build(
    config: Config,
    ranks: Ranks = ALONE,
    *,
    lattice: Lattice | None = None,
    hamiltonian: Hamiltonian | None = None,
) -> Job:
    """The objects of a run. Raises InputError, one line, for anything that cannot be built.

    lattice, hamiltonian: instead of those that the configuration says.
    """
    check_shares(config, ranks.size)
    observables = own_observables(config.train.observables)
    device = card_of(build_device(config.device), config.device, ranks)
    lattice = lattice or build_lattice(config.lattice)
    hamiltonian = hamiltonian or build_hamiltonian(config.hamiltonian, lattice)
    base = build_wavefunction(config, lattice)
    check_conserved(config.model.n_up, hamiltonian)
    sizes = memory.sizes_of(base, len(hamiltonian.flips))
    memory.check_run(config, sizes, device, distributed.number("LOCAL_WORLD_SIZE", 1))
    wavefunction = symmetrised(config, lattice, hamiltonian, base)
    with naming(symmetry_keys(config.model)):
        check_invariance(hamiltonian, wavefunction.symmetry)
    exact = compares_with_exact(config.train.exact, hamiltonian, config.model.n_up)
    optimizer = build_optimizer(config, hamiltonian, wavefunction)
    energies = build_energies(config.energies, wavefunction)
    check_columns(optimizer, energies, (config.optimizer, config.energies))
    wavefunction, hamiltonian = wavefunction.to(device), hamiltonian.to(device)
    request = Request(hamiltonian, lattice, wavefunction, also=observables)
    check_observables(config.train.observables, request)
    return Job(
        config=config,
        device=device,
        lattice=lattice,
        hamiltonian=hamiltonian,
        wavefunction=wavefunction,
        optimizer=optimizer,
        generator=build_generator(config.seed, "samples", device, ranks.rank),
        exact=exact,
        ranks=ranks,
        energies=energies,
        observables=observables,
    )


def check_shares(config: Config, n_processes: int) -> None:
    """Raises InputError unless every process has samples to draw."""
    for key, each in (("n_samples", 1), ("eval_samples", 2)):
        given = getattr(config.train, key)
        if given < each * n_processes:
            raise InputError(
                f"train.{key}={given}: {n_processes} processes need at least {each * n_processes}; "
                "draw more or start fewer processes"
            )


def card_of(device: torch.device, name: str, ranks: Ranks) -> torch.device:
    """The device of this process: of several each has a GPU of its own."""
    if device.type == "cuda" and ranks.size > 1:
        return distributed.own_card(f"device={name}")
    return device


def build_lattice(lattice: Selection) -> Lattice:
    """The sites. Raises InputError for more than fit."""
    built: Lattice = lattice.build()
    lengths = {k: v for k, v in lattice.values.items() if type(v) is int}
    key = " ".join(f"lattice.{name}={length}" for name, length in lengths.items())
    with naming("lattice", lattice.own):
        n_sites = positive_integer(type(built).__name__, "n_sites", built.n_sites)
    memory.check_sites(n_sites, key or f"lattice={lattice.name}")
    check_own(f"lattice={shown(lattice.name)}", built)
    return built


def build_hamiltonian(hamiltonian: Selection, lattice: Lattice) -> Hamiltonian:
    """The couplings on the sites."""
    built: Hamiltonian = hamiltonian.build(lattice=lattice, n_sites=lattice.n_sites)
    check_own(f"hamiltonian={shown(hamiltonian.name)}", built)
    if built.n_sites != lattice.n_sites:
        rule = f"acts on {built.n_sites} sites, the lattice has {lattice.n_sites}"
        raise InputError(f"hamiltonian={hamiltonian.name}: {rule}")
    return built


def check_own(rule: str, built: Lattice | Hamiltonian) -> None:
    """Raises InputError for an object of anyone's class, `rule`, 'section=MODULE:CLASS', that does
    not keep what its base says."""
    if type(built).__module__.partition(".")[0] in ("hamiltonians", "nqs"):
        return
    with naming(rule.partition("=")[0], rule):
        check_lattice(built) if isinstance(built, Lattice) else check_interface(built)


def build_wavefunction(config: Config, lattice: Lattice) -> Autoregressive:
    """The network; its parameters are drawn on the CPU so that every device starts alike."""
    model = config.model
    generator = build_generator(config.seed, "parameters", torch.device("cpu"))
    ansatz: Ansatz = model.build_common()
    itemsize = 8 if config.dtype == "float64" else 4
    with memory.guarded_network(model, itemsize), naming("model"):
        wavefunction = ansatz.wavefunction(lattice, model, generator)
    return wavefunction.to(torch.float64 if config.dtype == "float64" else torch.float32)


def symmetrised(
    config: Config, lattice: Lattice, hamiltonian: Hamiltonian, base: Autoregressive
) -> Autoregressive | Symmetrised:
    """The average of the network over model.symmetry and model.spin_flip, or the network itself:
    with auto also where the energies need that."""
    model = config.model
    ansatz: Ansatz = model.build_common()
    automatic = None
    if model.symmetry == "auto" and not model.odd:
        with naming("hamiltonian", config.hamiltonian.own):
            automatic = automatic_group(hamiltonian, lattice, model.n_up)
    with naming(symmetry_keys(model)):
        psi = ansatz.symmetrised(lattice, base, automatic)
        if automatic is None or accepted(config, psi):
            return psi
        return ansatz.symmetrised(lattice, base)


def accepted(config: Config, wavefunction: Wavefunction) -> bool:
    """Whether the run's energies go with the wavefunction."""
    try:
        build_energies(config.energies, wavefunction)
    except InputError:
        return False
    return True


def symmetry_keys(model: Selection) -> str:
    """What an error about the symmetry is about."""
    return f"model.symmetry={model.symmetry} model.spin_flip={shown(model.spin_flip)}"


def build_optimizer(
    config: Config, hamiltonian: Hamiltonian, wavefunction: Wavefunction
) -> Optimizer:
    """The optimizer of a run of train.steps. Raises InputError for keys that do not go with it, and
    for a network that it cannot update."""
    built: Optimizer = config.optimizer.build()
    whose = f"optimizer={shown(config.optimizer.name)}"
    with naming(f"{whose} model={shown(config.model.name)}", config.optimizer.own):
        built.check(wavefunction)
    with naming("optimizer", config.optimizer.own):
        prepared = built.prepare(
            hamiltonian,
            n_steps=config.train.steps,
            is_complex=config.model.phase,
            warm_start=config.train.starts_warm,
        )
    if not isinstance(prepared, Optimizer):
        raise InputError(f"{whose}: prepare must return the optimizer")
    return prepared


def build_energies(energies: Selection, wavefunction: Wavefunction) -> Energies:
    """Where local energies come from. Raises InputError for what the wavefunction lacks."""
    built: Energies = energies.build()
    with naming("energies", energies.own):
        built.check(wavefunction)
    return built


def start_from_product_state(job: Job) -> None:
    """Puts the wavefunction at the best product state; without it every model sits on that plateau
    for thousands of steps."""
    generator = build_generator(job.config.seed, "product_state", job.device)
    psi = job.wavefunction
    assert not isinstance(psi, ImageAverage)  # of a trained family
    if job.config.model.phase:
        chances, phases = complex_product_state(job.hamiltonian, generator)
        psi.set_product_state(chances, phases=phases)
    else:
        psi.set_product_state(product_state(job.hamiltonian, generator))


def check_conserved(n_up: int | None, hamiltonian: Hamiltonian) -> None:
    """Raises InputError for a fixed number of 1 bits that the Hamiltonian changes."""
    if n_up is not None and not hamiltonian.conserves_magnetisation:
        raise InputError(
            f"model.n_up={n_up}: {hamiltonian.describe()} does not conserve the number of 1 bits; "
            "use model.n_up=null"
        )


def compares_with_exact(wanted: str | bool, hamiltonian: Hamiltonian, n_up: int | None) -> bool:
    """Whether to diagonalise. Raises InputError if it was asked for and does not fit in memory."""
    n_sites = hamiltonian.n_sites
    n_configs = 2**n_sites if n_up is None else math.comb(n_sites, n_up)
    if wanted == "auto":
        return n_configs <= EXACT_CONFIGURATIONS
    if not wanted:
        return False
    allowed = min(EXACT_GIGABYTES, room() / 1e9)
    size, needed = f"2^{n_configs.bit_length() - 1} configurations", math.inf
    if n_configs <= 2**60:  # more do not fit into a float, either
        needed = memory_needed(hamiltonian, 1, n_up) / 1e9
        size = f"{needed:.3g} GB"
    if needed > allowed:
        where = "" if n_up is None else f" with {n_up} up"
        raise InputError(
            f"train.exact=true: exact diagonalisation of {n_sites} sites{where} needs {size}, "
            f"allowed are {allowed:.3g} GB; use train.exact=auto or false"
        )
    return True
