"""From a Config to the objects of a run. Every error a constructor can raise comes out here, in one
line that names the section, before any work and before the run's folder is made."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from hamiltonians import J1J2, XXZ, Heisenberg, Rydberg, TransverseFieldIsing
from hamiltonians.exact.diagonalisation import memory_needed
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.heisenberg import Marshall
from hamiltonians.invariance import check_invariance
from hamiltonians.lattices.lattice import (
    Chain,
    Honeycomb,
    Kagome,
    Lattice,
    Positions,
    Square,
    Triangular,
)
from hamiltonians.pauli import PauliSum
from nqs.core.digits import digit_products
from nqs.core.large_patched import LargePatched
from nqs.core.linear_attention import LinearTransformer
from nqs.core.recurrent import Recurrent
from nqs.core.recurrent2d import Recurrent2D
from nqs.core.sequence import EmbeddingModel, SequenceModel
from nqs.core.state_space import StateSpace
from nqs.core.transformer import Transformer
from nqs.errors import InputError, shown
from nqs.ground_states import distributed, memory
from nqs.ground_states.config import (
    MOST_SITES,
    OPTIMIZERS,
    Config,
    HamiltonianConfig,
    LatticeConfig,
    ModelConfig,
    TrainConfig,
)
from nqs.runfolder.machine import build_device, build_generator
from nqs.vmc.energies import Blurred, Energies, NearFlips
from nqs.vmc.optimizers import Optimizer
from nqs.vmc.product_state import complex_product_state, product_state
from nqs.vmc.ranks import ALONE, Ranks
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.large_patches import LargePatches, large_patches
from nqs.wavefunctions.patch_costs import cheapest_spec
from nqs.wavefunctions.patches import Patches
from nqs.wavefunctions.symmetrised import Symmetrised
from nqs.wavefunctions.wavefunction import Wavefunction

EXACT_CONFIGURATIONS: Final = 2**16
"""train.exact=auto compares with exact diagonalisation up to this many (about a second)."""
EXACT_GIGABYTES: Final = 8.0
"""Memory that exact diagonalisation may take."""
GRIDS: Final = {
    "square": Square,
    "triangular": Triangular,
    "honeycomb": Honeycomb,
    "kagome": Kagome,
}
CELL_SITES: Final = {"honeycomb": 2, "kagome": 3}
"""Sites of a unit cell where there are several."""
MANY_DIGITS: Final = 6
"""model.digit_decay=auto learns the states of patches of so many sites from their bits."""
DIGIT_DECAY: Final = 0.3
"""The decay it then has: 4x4 array, 4x2 patches, relative error after the 200 steps of the main job
1.0e-3 with tables, 6e-5 at decay 0.5, 2e-5 at 0.32 (2x2 patches: 5e-5)."""


@dataclass(frozen=True)
class Job:
    """All that a run works with.

    Attributes:
        generator: source of this process' samples of the optimisation.
        exact: whether the result is compared with exact diagonalisation.
        ranks: the processes that work on it.
        energies: where local energies come from, with what was measured on the way.
    """

    config: Config
    device: torch.device
    lattice: Lattice
    hamiltonian: Hamiltonian
    wavefunction: Autoregressive | Symmetrised
    optimizer: Optimizer
    generator: torch.Generator
    exact: bool
    ranks: Ranks
    energies: Energies

    @property
    def n_parameters(self) -> int:
        """Number of trainable numbers."""
        return sum(parameter.numel() for parameter in self.wavefunction.parameters())


def build(config: Config, ranks: Ranks = ALONE) -> Job:
    """The objects of a run. Raises InputError, one line, for anything that cannot be built."""
    check_shares(config, ranks.size)
    device = card_of(build_device(config.device), config.device, ranks)
    with naming("lattice"):
        lattice = build_lattice(config.lattice)
    with naming("hamiltonian"):
        hamiltonian = build_hamiltonian(config.hamiltonian, lattice)
    base = build_wavefunction(config, lattice)
    check_conserved(config.model.n_up, hamiltonian)
    check_memory(config, hamiltonian, base, device)
    wavefunction = symmetrised(config.model, lattice, base)
    with naming(symmetry_keys(config.model)):
        check_invariance(hamiltonian, wavefunction.generators())
    exact = compares_with_exact(config.train.exact, hamiltonian, config.model.n_up)
    optimizer = build_optimizer(config, hamiltonian)
    wavefunction = wavefunction.to(device)
    return Job(
        config=config,
        device=device,
        lattice=lattice,
        hamiltonian=hamiltonian.to(device),
        wavefunction=wavefunction,
        optimizer=optimizer,
        generator=build_generator(config.seed, "samples", device, ranks.rank),
        exact=exact,
        ranks=ranks,
        energies=build_energies(config.train, wavefunction),
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


def check_memory(
    config: Config, hamiltonian: Hamiltonian, wavefunction: Autoregressive, device: torch.device
) -> None:
    """Raises InputError for a run that does not fit this machine."""
    sizes = network_sizes(wavefunction.patches, config.model.n_up, len(hamiltonian.flips))
    n_parameters = sum(parameter.numel() for parameter in wavefunction.parameters())
    n_here = distributed.number("LOCAL_WORLD_SIZE", 1)
    memory.check_run(config, sizes, n_parameters, device, n_here)


def network_sizes(patches: Patches, n_up: int | None, n_flips: int) -> memory.Sizes:
    """What memory depends on; n_flips of the Hamiltonian."""
    n_sites = int(patches.sizes.sum())
    n_configs = 2**n_sites if n_up is None else math.comb(n_sites, n_up)
    return memory.Sizes(n_sites, n_flips, patches.n_patches, patches.n_states, n_configs)


def card_of(device: torch.device, name: str, ranks: Ranks) -> torch.device:
    """The device of this process: of several each has a GPU of its own."""
    if device.type == "cuda" and ranks.size > 1:
        return distributed.own_card(f"device={name}")
    return device


def build_lattice(config: LatticeConfig) -> Lattice:
    """The sites."""
    if config.name == "positions":
        assert config.file is not None
        return Positions.from_csv(config.file)
    assert config.Lx is not None and config.periodic is not None
    check_lattice(config)
    if config.name == "chain":
        return Chain(config.Lx, bool(config.periodic))
    assert config.Ly is not None
    periodic = config.periodic
    directions = (periodic[0], periodic[1]) if isinstance(periodic, tuple) else periodic
    return GRIDS[config.name](config.Lx, config.Ly, directions)


def check_lattice(config: LatticeConfig) -> None:
    """Raises InputError for a lattice with more sites than are allowed, or than fit."""
    n_sites = (config.Lx or 1) * (config.Ly or 1) * CELL_SITES.get(config.name, 1)
    size = f"lattice.Lx={config.Lx}" + (f" lattice.Ly={config.Ly}" if config.Ly else "")
    rule = f"are {n_sites} sites, allowed are {MOST_SITES}"
    if n_sites > MOST_SITES:
        raise InputError(f"{size}: {rule}")
    memory.check_sites(n_sites, size)


def build_hamiltonian(config: HamiltonianConfig, lattice: Lattice) -> Hamiltonian:
    """The couplings on the sites."""
    if config.name == "rydberg":
        assert config.delta is not None and config.Omega is not None
        V = config.V
        if config.C6 is not None:  # lengths stay in lattice constants, or um of lattice=positions
            V = config.C6 / (config.spacing or 1.0) ** 6
        return Rydberg(
            lattice,
            V=V,
            delta=config.delta,
            Omega=config.Omega,
            Rb=config.Rb,
            cutoff=config.cutoff,
        )
    if config.name == "tfim":
        assert config.J is not None and config.h is not None
        return TransverseFieldIsing(lattice, J=config.J, h=config.h)
    if config.name in ("xxz", "heisenberg", "j1j2"):
        return build_exchange(config, lattice)
    assert config.file is not None
    return PauliSum.from_file(config.file, lattice.n_sites)


def build_exchange(config: HamiltonianConfig, lattice: Lattice) -> Hamiltonian:
    """The couplings of spins 1/2; marshall is checked by HamiltonianConfig."""
    marshall: Marshall = "auto" if config.marshall == "auto" else config.marshall in (True, "true")
    if config.name == "j1j2":
        assert config.J1 is not None and config.J2 is not None
        return J1J2(lattice, config.J1, config.J2, marshall=marshall)
    assert config.J is not None and config.h is not None
    if config.name == "heisenberg":
        return Heisenberg(lattice, config.J, config.h, marshall=marshall)
    assert config.Delta is not None
    return XXZ(lattice, config.J, config.Delta, config.h, marshall=marshall)


def build_wavefunction(config: Config, lattice: Lattice) -> Autoregressive:
    """The network; its parameters are drawn on the CPU so that every device starts alike."""
    model = config.model
    generator = build_generator(config.seed, "parameters", torch.device("cpu"))
    if model.sub_patch is not None:
        named = f"model.patch={shown(model.patch)}, model.sub_patch={shown(model.sub_patch)}"
        with naming(named):
            large = large_patches(lattice, listed(model.patch), listed(model.sub_patch))
        patches = large.patches
        check_network(config, patches)
        with naming("model"):
            core: SequenceModel = build_large_core(model, large, generator)
    else:
        with naming(f"model.patch={shown(model.patch)}"):
            path = "zigzag" if model.name == "rnn2d" else "raster"
            patches = Patches.from_spec(lattice, patch_spec(model, lattice), path=path)
        check_network(config, patches)
        with naming("model"):
            core = build_core(model, patches, generator)
    with naming("model"):
        wavefunction = Autoregressive(core, patches, n_up=model.n_up, phase=model.phase)
    return wavefunction.to(torch.float64 if config.dtype == "float64" else torch.float32)


def check_network(config: Config, patches: Patches) -> None:
    """Raises InputError for a network that does not fit, before it is made."""
    itemsize = 8 if config.dtype == "float64" else 4
    memory.check_network(config.model, network_sizes(patches, config.model.n_up, 0), itemsize)


def patch_spec(model: ModelConfig, lattice: Lattice) -> str | list[list[int]]:
    """model.patch as `Patches.from_spec` takes it; auto of a transformer is what costs least."""
    if model.name != "ptf" or model.patch != "auto":
        return listed(model.patch)
    assert model.d_model is not None and model.n_layers is not None
    return cheapest_spec(lattice, d_model=model.d_model, n_layers=model.n_layers, d_ff=model.d_ff)


def listed(patch: str | int | tuple[tuple[int, ...], ...]) -> str | list[list[int]]:
    """A spec as text or lists."""
    assert not isinstance(patch, int)  # ModelConfig has made it text
    return patch if isinstance(patch, str) else [list(sites) for sites in patch]


def symmetrised(
    model: ModelConfig, lattice: Lattice, base: Autoregressive
) -> Autoregressive | Symmetrised:
    """The average of the network over model.symmetry and model.spin_flip, or the network itself."""
    if model.symmetry == "none" and not model.spin_flip:
        return base
    with naming(symmetry_keys(model)):
        if model.spin_flip and model.n_up is not None and 2 * model.n_up != lattice.n_sites:
            raise ValueError(
                f"model.n_up={model.n_up} is not half of {lattice.n_sites} sites, which the spin "
                "flip leaves; use model.spin_flip=false"
            )
        return Symmetrised(base, build_symmetry(model, lattice), spin_flip=model.spin_flip)


def build_symmetry(model: ModelConfig, lattice: Lattice) -> Tensor:
    """(n_elements, N) permutations of the sites. ValueError where there is but the identity."""
    if model.symmetry in ("translations", "all") and not any(lattice.periodic):
        raise ValueError("this lattice has no periodic direction; use model.symmetry=point_group")
    groups = {
        "none": lambda: torch.arange(lattice.n_sites)[None],
        "point_group": lattice.point_group,
        "translations": lattice.translations,
        "all": lattice.space_group,
    }
    permutations = groups[model.symmetry]()
    if model.symmetry != "none" and len(permutations) == 1:
        raise ValueError("this lattice has no such symmetry; use model.symmetry=none")
    return permutations


def symmetry_keys(model: ModelConfig) -> str:
    """What an error about the symmetry is about."""
    return f"model.symmetry={model.symmetry} model.spin_flip={shown(model.spin_flip)}"


def build_core(model: ModelConfig, patches: Patches, generator: torch.Generator) -> SequenceModel:
    """The sequence model over patches: K states and a start token in, K logits out, and K phases
    with model.phase."""
    products = digit_features(model, patches)
    n_outputs = 2 * patches.n_states if model.phase else patches.n_states
    sizes = (patches.n_states + 1, n_outputs, patches.n_patches)
    if model.name == "rnn2d":
        assert patches.grid is not None and model.d_embed is not None
        return Recurrent2D(
            *sizes[:2],
            patches.grid,
            d_model=model.d_model,
            d_embed=model.d_embed,
            products=products,
            generator=generator,
        )
    assert model.n_layers is not None
    if model.name == "ptf":
        return build_transformer(model, sizes, patches.centres, products, generator)
    if model.name == "linear_attention":
        assert model.n_heads is not None
        assert model.activation is not None and model.positions is not None
        return LinearTransformer(
            *sizes,
            d_model=model.d_model,
            n_layers=model.n_layers,
            n_heads=model.n_heads,
            d_ff=model.d_ff,
            activation=model.activation,
            positions=model.positions,
            coordinates=patches.centres,
            products=products,
            generator=generator,
        )
    if model.name == "ssm":
        assert model.d_state is not None
        assert model.activation is not None and model.positions is not None
        return StateSpace(
            *sizes,
            d_model=model.d_model,
            n_layers=model.n_layers,
            d_state=model.d_state,
            d_ff=model.d_ff,
            activation=model.activation,
            positions=model.positions,
            coordinates=patches.centres if model.positions == "grid" else None,
            products=products,
            generator=generator,
        )
    assert model.cell is not None and model.residual is not None
    return Recurrent(
        *sizes,
        d_model=model.d_model,
        n_layers=model.n_layers,
        cell=model.cell,
        residual=model.residual,
        products=products,
        generator=generator,
    )


def digit_features(model: ModelConfig, patches: Patches) -> Tensor | None:
    """(K, F) of the patch states, or None for tables of all of them."""
    decay, n_digits = model.digit_decay, patches.sites.shape[1]
    if decay == "auto":  # tables of few states learn as well, and stay as they always were
        decay = DIGIT_DECAY if n_digits >= MANY_DIGITS else None
    return None if decay is None else digit_products(n_digits, float(decay))


def build_transformer(
    model: ModelConfig,
    sizes: tuple[int, int, int],
    centres: Tensor,
    products: Tensor | None,
    generator: torch.Generator,
    *,
    writes_tokens: bool = True,
) -> Transformer:
    """The transformer over (large) patches with the given centres."""
    assert model.n_layers is not None and model.n_heads is not None
    assert model.activation is not None and model.positions is not None
    return Transformer(
        *sizes,
        d_model=model.d_model,
        n_layers=model.n_layers,
        n_heads=model.n_heads,
        d_ff=model.d_ff,
        attention=model.attention or "factored",
        activation=model.activation,
        positions=model.positions,
        coordinates=centres,
        products=products,
        writes_tokens=writes_tokens,
        generator=generator,
    )


def build_large_core(
    model: ModelConfig, large: LargePatches, generator: torch.Generator
) -> LargePatched:
    """The transformer over large patches and the sub-sampler within them."""
    n_states, longest = large.patches.n_states, max(large.lengths)
    products = digit_features(model, large.patches)
    sub_sizes = (n_states, 2 * n_states if model.phase else n_states, longest)
    assert model.sub_d_model is not None and model.sub_n_layers is not None
    sub: EmbeddingModel
    if model.sub_cell is not None:
        sub = Recurrent(
            *sub_sizes,
            d_model=model.sub_d_model,
            n_layers=model.sub_n_layers,
            cell=model.sub_cell,
            products=products,
            generator=generator,
        )
    else:
        assert model.sub_n_heads is not None and model.activation is not None
        sub = Transformer(
            *sub_sizes,
            d_model=model.sub_d_model,
            n_layers=model.sub_n_layers,
            n_heads=model.sub_n_heads,
            activation=model.activation,
            products=products,
            generator=generator,
        )
    sizes = (longest * n_states + 1, sub.embedding.embedding_dim, len(large.lengths))
    outer = build_transformer(model, sizes, large.centres, products, generator, writes_tokens=False)
    return LargePatched(outer, sub, large.lengths)


def build_optimizer(config: Config, hamiltonian: Hamiltonian) -> Optimizer:
    """The optimizer of a run of train.steps. Raises InputError for keys that do not go with it."""
    name, is_warm = config.optimizer.name, config.train.start_from is not None
    keys = {key: getattr(config.optimizer, key) for key in OPTIMIZERS[name]}
    try:
        return Optimizer.kinds[name](**keys).prepare(
            hamiltonian,
            n_steps=config.train.steps,
            is_complex=config.model.phase,
            warm_start=is_warm,
        )
    except ValueError as error:
        raise InputError(f"optimizer.{error}") from None


def build_energies(config: TrainConfig, wavefunction: Wavefunction) -> Energies:
    """Where local energies come from. Raises InputError for what the state cannot do."""
    try:
        energies = energies_of(config)
        energies.check(wavefunction)
    except ValueError as error:
        raise InputError(f"train.{error}") from None
    return energies


def energies_of(config: TrainConfig) -> Energies:
    """What the keys train.flip_* ask for."""
    if config.flip_radius is None:
        precision: Any = config.flip_precision  # one of the allowed words, as TrainConfig checks
        return Blurred(flip_fraction=config.flip_fraction, flip_precision=precision)
    share = {} if config.exact_fraction is None else {"exact_fraction": config.exact_fraction}
    return NearFlips(flip_radius=config.flip_radius, flip_fraction=config.flip_fraction, **share)


def start_from_product_state(job: Job) -> None:
    """Puts the wavefunction at the best product state; without it every model sits on that plateau
    for thousands of steps."""
    generator = build_generator(job.config.seed, "product_state", job.device)
    if job.config.model.phase:
        chances, phases = complex_product_state(job.hamiltonian, generator)
        job.wavefunction.set_product_state(chances, phases=phases)
    else:
        job.wavefunction.set_product_state(product_state(job.hamiltonian, generator))


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
    allowed = min(EXACT_GIGABYTES, memory.available() / 1e9)
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


@contextlib.contextmanager
def naming(section: str) -> Iterator[None]:
    """Turns a constructor's ValueError into one line that names the section it comes from."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, OSError) as error:
        raise InputError(f"{section}: {' '.join(str(error).split())}") from None
