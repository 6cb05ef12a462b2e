"""The configuration of a ground-state run: every key, its unit and its range.

The values a run starts from live in conf/ (one file a lattice, Hamiltonian, model or optimizer);
these classes hold no second set of defaults, only what is allowed. A key that does not belong to
the chosen kind is null. All that can be judged without building anything is judged here.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nqs.conf.sections import from_mapping, to_mapping
from nqs.errors import InputError, require, require_choice, shown
from nqs.runfolder.run_config import RunConfig

PerSite = float | tuple[float, ...]
WEAKEST, STRONGEST = 1e-30, 1e30
"""Couplings are 0 or in between: squares of energies stay numbers. Choose the unit accordingly."""
MOST_STEPS: Final = 10**9
"""Thirty years at a step a second."""
MOST_SAMPLES: Final = 10**9
"""Weeks on any machine for the smallest system, and error bars below the rounding of float32."""
MOST_SITES: Final = 32_768
"""As the lattices allow."""
WIDEST: Final = 65_536
"""Of a network's vectors; memory ends far below, see nqs.ground_states.memory."""
DEEPEST: Final = 1_024
"""Layers."""
LEAST_SHIFT: Final = 1e-12
"""Of the metric; less is lost in the rounding of its solution."""

# Keys of each kind; True = the kind cannot do without it.
LATTICES: Final[dict[str, dict[str, bool]]] = {
    "chain": {"Lx": True, "periodic": True},
    "square": {"Lx": True, "Ly": True, "periodic": True},
    "triangular": {"Lx": True, "Ly": True, "periodic": True},
    "honeycomb": {"Lx": True, "Ly": True, "periodic": True},
    "kagome": {"Lx": True, "Ly": True, "periodic": True},
    "positions": {"file": True},
}
HAMILTONIANS: Final[dict[str, dict[str, bool]]] = {
    "rydberg": {
        "V": False,
        "Rb": False,
        "C6": False,
        "spacing": False,
        "delta": True,
        "Omega": True,
        "cutoff": False,
    },
    "tfim": {"J": True, "h": True},
    "xxz": {"J": True, "Delta": True, "h": True, "marshall": True},
    "heisenberg": {"J": True, "h": True, "marshall": True},
    "j1j2": {"J1": True, "J2": True, "marshall": True},
    "pauli": {"file": True},
}
MODELS: Final[dict[str, dict[str, bool]]] = {
    "ptf": {
        "patch": True,
        "d_model": True,
        "n_layers": True,
        "n_heads": True,
        "d_ff": False,
        "attention": False,
        "activation": True,
        "positions": True,
    },
    "rnn": {"patch": True, "d_model": True, "n_layers": True, "cell": True, "residual": True},
    "linear_attention": {
        "patch": True,
        "d_model": True,
        "n_layers": True,
        "n_heads": True,
        "d_ff": False,
        "activation": True,
        "positions": True,
    },
    "ssm": {
        "patch": True,
        "d_model": True,
        "n_layers": True,
        "d_state": True,
        "d_ff": False,
        "activation": True,
        "positions": True,
    },
    "rnn2d": {"patch": True, "d_model": True, "d_embed": True},
}
_LARGE: Final = MODELS["ptf"] | {"sub_patch": True, "sub_d_model": True, "sub_n_layers": True}
MODELS["lptf"] = _LARGE | {"sub_cell": True}
MODELS["lptf_ptf"] = _LARGE | {"sub_n_heads": True}
for _keys in MODELS.values():
    _keys |= {
        "digit_decay": False,
        "n_up": False,
        "phase": False,
        "symmetry": True,
        "spin_flip": True,
    }
_SCHEDULED: Final = {
    "learning_rate": True,
    "schedule": True,
    "warmup_steps": True,
    "final_fraction": True,
}
OPTIMIZERS: Final[dict[str, dict[str, bool]]] = {
    "minsr": _SCHEDULED
    | {
        "diagonal_shift": True,
        "momentum": True,
        "max_norm": False,
        "implicit": True,
        "memory_gb": True,
        "final_shift_fraction": True,
    },
    "adam": _SCHEDULED | {"beta1": True, "beta2": True, "eps": True, "clip_norm": False},
}
RESUMABLE: Final = (
    "train.steps",
    "train.max_seconds",
    "train.eval_samples",
    "train.exact",
    "train.checkpoint_every",
    "train.flip_precision",
    "train.rank_timeout",
    "run.dir",
    "run.resume",
    "device",
)
"""Keys that may change when a run is resumed; every other one would make it another run."""


@dataclass(frozen=True, kw_only=True)
class LatticeConfig:
    """Sites in space; lengths in lattice constants."""

    name: str
    """Kind: chain, square, triangular, honeycomb, kagome or positions (the group option)."""
    Lx: int | None = None
    """Unit cells along the first direction (sites of a chain), 1 .. 32768."""
    Ly: int | None = None
    """Unit cells along the second direction, 1 .. 32768."""
    periodic: bool | tuple[bool, ...] | None = None
    """Periodic boundaries: true, false, or [true,false] for each direction."""
    file: str | None = None
    """CSV file of positions with the header x,y (lattice=positions)."""

    def __post_init__(self) -> None:
        _check_kind("lattice", self, LATTICES)
        for key in ("Lx", "Ly"):
            _check_int(f"lattice.{key}", getattr(self, key), 1, MOST_SITES)
        if isinstance(self.periodic, tuple):
            rule = "give true, false, or one of them for each of two directions, e.g. [true,false]"
            allowed = len(self.periodic) == 2 and self.name != "chain"
            require(allowed, "lattice.periodic", self.periodic, rule)
        _check_file("lattice.file", self.file, "a CSV file with the header x,y, one site a line")


@dataclass(frozen=True, kw_only=True)
class HamiltonianConfig:
    """Couplings, all in one unit of energy (usually Omega = 1 or J = 1), each 0 or of a size from
    1e-30 to 1e30."""

    name: str
    """Kind: rydberg, tfim, xxz, heisenberg, j1j2 or pauli (the group option)."""
    V: float | None = None
    """Rydberg interaction of nearest neighbours, V_ij = V / r_ij^6; 7 unless Rb or C6 is given."""
    Rb: float | None = None
    """Blockade radius in lattice constants instead of V: V = Omega Rb^6, 1e-5 .. 1e5."""
    C6: float | None = None
    """Physical units instead of V: V_ij = C6 / r_ij^6 with C6 in rad/us um^6, 1e-6 .. 1e15 (87Rb
    70S: 5420158.53); Omega and delta in rad/us, and so all energies; lattice.file in um."""
    spacing: float | None = None
    """Lattice constant in um, 0.01 .. 1e4, for C6 on a lattice other than lattice=positions."""
    delta: PerSite | None = None
    """Rydberg detuning, a number or one per site."""
    Omega: PerSite | None = None
    """Rabi frequency, a number or one per site."""
    cutoff: float | None = None
    """Distance in lattice constants beyond which V_ij is dropped, 1e-6 .. 1e6; null keeps all
    pairs."""
    J: PerSite | None = None
    """Coupling of neighbours, a number or one per bond. tfim: -J sz sz, > 0 is ferromagnetic;
    xxz, heisenberg: +J s.s in Pauli matrices, > 0 is antiferromagnetic."""
    h: PerSite | None = None
    """Field, a number or one per site: -h sx (tfim), -h sz (xxz, heisenberg)."""
    Delta: PerSite | None = None
    """Anisotropy, J (sx sx + sy sy + Delta sz sz), a number or one per bond."""
    J1: PerSite | None = None
    """Coupling of nearest neighbours, +J1 s.s in Pauli matrices, a number or one per bond."""
    J2: PerSite | None = None
    """Coupling of next-nearest neighbours, +J2 s.s, a number or one per bond."""
    marshall: bool | str | None = None
    """Marshall's sign rule, a rotation that turns sx and sy around on one of two sublattices: true,
    false, or auto (where there are two and J, J1 sums to > 0). Levels and sz stay as they are."""
    file: str | None = None
    """Text file of Pauli strings, a coefficient and a string a line (hamiltonian=pauli)."""

    def __post_init__(self) -> None:
        _check_kind("hamiltonian", self, HAMILTONIANS)
        strengths = [key for key in ("V", "Rb", "C6") if getattr(self, key) is not None]
        if self.name == "rydberg" and not strengths:
            object.__setattr__(self, "V", 7.0)
        if len(strengths) > 1:
            given = " and ".join(f"hamiltonian.{k}={shown(getattr(self, k))}" for k in strengths)
            raise InputError(f"{given}: give only one of V, Rb and C6; V = Omega Rb^6")
        for key, low, high in (("Rb", 1e-5, 1e5), ("C6", 1e-6, 1e15), ("spacing", 1e-2, 1e4)):
            _check_range(f"hamiltonian.{key}", getattr(self, key), low, high)
        for key in ("V", "delta", "Omega", "J", "h", "Delta", "J1", "J2"):
            _check_coupling(f"hamiltonian.{key}", getattr(self, key))
        rule = "means something with hamiltonian.C6 alone"
        require(
            self.spacing is None or self.C6 is not None, "hamiltonian.spacing", self.spacing, rule
        )
        _check_range("hamiltonian.cutoff", self.cutoff, 1e-6, 1e6)
        if self.marshall is not None:
            require_choice("hamiltonian.marshall", self.marshall, ("auto", True, False))
        _check_file("hamiltonian.file", self.file, "a text file of Pauli strings")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The wavefunction: ptf = patched transformer, rnn = patched recurrent network, lptf = large
    patched transformer over a recurrent sub-sampler, lptf_ptf = the same over a transformer,
    linear_attention = transformer of constant state, ssm = diagonal state space, rnn2d = recurrent
    network in two dimensions."""

    name: str
    """Kind: ptf, rnn, lptf, lptf_ptf, linear_attention, ssm or rnn2d (the group option)."""
    patch: str | int | tuple[tuple[int, ...], ...]
    """Sites drawn at once: 2x2 (grid), 4 (neighbours), auto, or a list of lists of sites. auto is
    about four sites, and what costs a ptf least on grids of 100 sites and more. For lptf the large
    patches, one position of the transformer each."""
    sub_patch: str | int | tuple[tuple[int, ...], ...] | None = None
    """Sites of a large patch that its sub-sampler draws at once, written as patch (lptf)."""
    d_model: int
    """Width of the network, 1 .. 65536; with attention a multiple of n_heads."""
    n_layers: int | None = None
    """Number of layers, 1 .. 1024."""
    n_heads: int | None = None
    """Attention heads, >= 1; must divide d_model."""
    d_ff: int | None = None
    """Width of the feed-forward layers, 1 .. 65536; null means 2 d_model."""
    attention: str | None = None
    """What decides where to look: factored (learned for each pair of places; also null) or softmax
    (of queries and keys)."""
    activation: str | None = None
    """Non-linearity of the feed-forward layers: gelu, relu or silu."""
    positions: str | None = None
    """Position encoding: learned, sinusoidal or grid (from the patches' centres)."""
    d_state: int | None = None
    """Complex modes of each recurrence, 1 .. 65536 (ssm)."""
    d_embed: int | None = None
    """Channels of a patch in its products with hidden units, 1 .. 65536 (rnn2d)."""
    cell: str | None = None
    """Recurrent cell: gru, lstm or elman (rnn)."""
    residual: bool | None = None
    """Add each layer's input to its output (rnn)."""
    sub_d_model: int | None = None
    """Width of the sub-sampler, 1 .. 65536; for a transformer a multiple of sub_n_heads."""
    sub_n_layers: int | None = None
    """Number of layers of the sub-sampler, 1 .. 1024."""
    sub_cell: str | None = None
    """Recurrent cell of the sub-sampler: gru, lstm or elman."""
    sub_n_heads: int | None = None
    """Attention heads of the sub-sampler, >= 1; must divide sub_d_model."""
    digit_decay: float | str | None = None
    """Make the network's vectors and logits of patch states of products of their bits, with
    digit_decay times the weight for each further bit, 0.01 .. 1 (less is rounded away): what is
    learned of one state holds for states that differ in few bits. null learns each state for
    itself, as auto does up to 5 sites a patch; 0.3 from 6 sites on."""
    n_up: int | None = None
    """Number of 1 bits, kept exactly (magnetisation sum sz = N - 2 n_up), 0 .. sites, for a
    Hamiltonian that conserves it; null leaves it free."""
    phase: bool = False
    """Whether psi is complex: phases beside the amplitudes, for ground states with signs."""
    symmetry: str = "none"
    """Average |psi|^2 over symmetries of the lattice: none, point_group, translations (periodic
    lattices) or all, their product. A configuration costs as many times more as there are elements;
    configurations that they connect are evaluated once a step."""
    spin_flip: bool = False
    """Average over configurations with all bits inverted too: true or false; twice the cost."""

    def __post_init__(self) -> None:
        _check_kind("model", self, MODELS)
        for key in ("patch", "sub_patch"):
            _check_patch(f"model.{key}", getattr(self, key))
            if isinstance(getattr(self, key), int):
                object.__setattr__(self, key, str(getattr(self, key)))
        widths = ("d_model", "n_heads", "d_ff", "d_state", "d_embed", "sub_d_model", "sub_n_heads")
        for key in widths:
            _check_int(f"model.{key}", getattr(self, key), 1, WIDEST)
        for key in ("n_layers", "sub_n_layers"):
            _check_int(f"model.{key}", getattr(self, key), 1, DEEPEST)
        _check_int("model.n_up", self.n_up, 0, MOST_SITES)
        decay = self.digit_decay
        inside = decay == "auto" if isinstance(decay, str) else decay is None or 0.01 <= decay <= 1
        require(inside, "model.digit_decay", decay, "must be >= 0.01 and <= 1, auto or null")
        if self.positions is not None:
            require_choice("model.positions", self.positions, ("learned", "sinusoidal", "grid"))
        if self.attention is not None:
            require_choice("model.attention", self.attention, ("softmax", "factored"))
        if self.activation is not None:
            require_choice("model.activation", self.activation, ("gelu", "relu", "silu"))
        choices = ("none", "point_group", "translations", "all")
        require_choice("model.symmetry", self.symmetry, choices)
        for key in ("cell", "sub_cell"):
            if getattr(self, key) is not None:
                require_choice(f"model.{key}", getattr(self, key), ("gru", "lstm", "elman"))
        for sub in ("", "sub_"):
            width, heads = getattr(self, f"{sub}d_model"), getattr(self, f"{sub}n_heads")
            if heads is not None:
                divisors = [n for n in range(1, width + 1) if width % n == 0]
                allowed = ", ".join(map(str, divisors[:8]))
                rule = f"must divide model.{sub}d_model={width}; use one of {allowed}"
                require(width % heads == 0, f"model.{sub}n_heads", heads, rule)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """minsr = natural gradient in sample space with SPRING momentum, or adam; with a schedule."""

    name: str
    """Kind: minsr or adam (the group option)."""
    learning_rate: float | str
    """Step size at the top of the schedule. adam: 1e-10 .. 1000. minsr: imaginary time, 1 over the
    couplings' unit, 1e-30 .. 1e6 and at least 1e-9 of auto; auto is what the
    terms that flip spins allow, 0.2 over their spectral width per site, <= 0.2, and twice that
    after train.start_from."""
    diagonal_shift: float | None = None
    """Added to the quantum metric, 1e-12 .. 1e6 (minsr); less is lost in its rounding."""
    momentum: float | str | None = None
    """Share of the last direction that is kept, at most, 0 (plain minSR) or 1e-6 .. 0.9999
    (further back than most runs are long); less where steps are long, as at first under strong
    repulsion. auto is 0.9, or 0 with model.phase, where momentum empties configurations before
    their sign is found (minsr)."""
    max_norm: float | None = None
    """Largest standard deviation of the change of ln psi in one step, 1e-6 (below the rounding of
    float32) .. 1e6; null is none (minsr)."""
    implicit: bool | None = None
    """Damp large local energies above the mean as an implicit time step does, so that strong
    repulsion empties no configuration for good (minsr)."""
    memory_gb: float | None = None
    """Memory for columns of the Jacobian, GB, 0.001 .. 1e5 (minsr)."""
    beta1: float | None = None
    """Decay of the mean gradient, 0 or 1e-6 .. 0.999999 (adam)."""
    beta2: float | None = None
    """Decay of the mean squared gradient, 0 or 1e-6 .. 0.999999 (adam)."""
    eps: float | None = None
    """Added to the root of the mean squared gradient, 1e-30 .. 1e30 (adam)."""
    clip_norm: float | None = None
    """Longest gradient that is applied unscaled, 1e-30 .. 1e30; null never clips (adam)."""
    schedule: str
    """Learning rate over the run: constant, cosine, linear or exponential."""
    warmup_steps: int
    """Steps over which the learning rate first rises from 0, >= 0 and less than train.steps."""
    final_fraction: float
    """Learning rate at the last step as a fraction of learning_rate, 1e-9 .. 1."""
    final_shift_fraction: float | None = None
    """The same for diagonal_shift, which falls geometrically, 1e-9 .. 1, and no lower than to 1e-12
    (minsr)."""

    def __post_init__(self) -> None:
        _check_kind("optimizer", self, OPTIMIZERS)
        if isinstance(self.learning_rate, str):
            known = self.name == "minsr" and self.learning_rate == "auto"
            rule = "must be a number > 0" + (" or auto" if self.name == "minsr" else "")
            require(known, "optimizer.learning_rate", self.learning_rate, rule)
        else:
            low, high = (WEAKEST, 1e6) if self.name == "minsr" else (1e-10, 1e3)
            _check_range("optimizer.learning_rate", self.learning_rate, low, high)
        for key, low, high in (
            ("diagonal_shift", LEAST_SHIFT, 1e6),
            ("max_norm", 1e-6, 1e6),
            ("memory_gb", 1e-3, 1e5),
            ("eps", WEAKEST, STRONGEST),
            ("clip_norm", WEAKEST, STRONGEST),
            ("final_fraction", 1e-9, 1),
            ("final_shift_fraction", 1e-9, 1),
        ):
            _check_range(f"optimizer.{key}", getattr(self, key), low, high)
        if isinstance(self.momentum, str):
            rule = "must be 0, from 1e-06 to 0.9999, or auto"
            require(self.momentum == "auto", "optimizer.momentum", self.momentum, rule)
        else:
            _check_range("optimizer.momentum", self.momentum, 1e-6, 0.9999, or_zero=True)
        for key in ("beta1", "beta2"):
            _check_range(f"optimizer.{key}", getattr(self, key), 1e-6, 0.999999, or_zero=True)
        choices = ("constant", "cosine", "linear", "exponential")
        require_choice("optimizer.schedule", self.schedule, choices)
        _check_int("optimizer.warmup_steps", self.warmup_steps, 0, MOST_STEPS)
        if self.diagonal_shift is not None and self.final_shift_fraction is not None:
            last = self.diagonal_shift * self.final_shift_fraction
            rule = f"times diagonal_shift={self.diagonal_shift:g} must be >= {LEAST_SHIFT:g}"
            key = "optimizer.final_shift_fraction"
            require(last >= LEAST_SHIFT, key, self.final_shift_fraction, rule)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to optimise, with how many samples, and how to judge the result."""

    steps: int
    """Optimisation steps in total, 1 .. 1e9; a finished run is extended by resuming with more."""
    n_samples: int
    """Configurations drawn at each step, 2 .. 1e9; minsr solves a system of that size."""
    flip_fraction: float
    """Share of the draws that take one random flip (importance sampling), 0 (none) or 0.001
    .. 0.99."""
    flip_radius: float | None = None
    """Compute local energies from the patches up to here from a flip, in patch spacings, 0.1 ..
    1000, corrected without bias by exact flips (train.exact_fraction); model=ptf only. null: all
    flips exactly."""
    exact_fraction: float | None = None
    """Share of the flips that are exact with train.flip_radius, 0.001 .. 1; null is an eighth."""
    max_seconds: float | None
    """Budget of the optimisation in seconds, 1e-3 .. 1e9: then stop, evaluate, report; null
    has none."""
    eval_samples: int
    """Fresh configurations for the final energy, 2 .. 1e9."""
    exact: str | bool
    """Compare with exact diagonalisation: auto (up to 2^16 configurations: 16 sites, more with
    model.n_up), true or false."""
    checkpoint_every: int
    """Steps between checkpoints, 1 .. 1e9 (and never more than five minutes apart)."""
    flip_precision: str = "full"
    """Matrix products of the flip pass, which takes no gradient: full (as dtype), bfloat16, tf32
    (GPUs), or auto: bfloat16 or tf32 while their error on live samples stays small, else full. Pays
    for wide networks. The final evaluation is always full."""
    start_from: str | None = None
    """Folder of another run with the same model, on a lattice of the same kind and any size: start
    from the parameters of its newest checkpoint; null starts from the best product state. The
    optimizer starts afresh. model.patch=auto takes the patches of that run."""
    rank_timeout: float = 1800.0
    """Seconds after which a silent process of several counts as lost, 1 .. 1e6; more than a step
    takes, for a rank waits for the slowest."""

    def __post_init__(self) -> None:
        given = self.start_from is None or bool(self.start_from.strip())
        require(given, "train.start_from", "''", "give the folder of a run")
        for key, low, high in (
            ("steps", 1, MOST_STEPS),
            ("n_samples", 2, MOST_SAMPLES),
            ("eval_samples", 2, MOST_SAMPLES),
            ("checkpoint_every", 1, MOST_STEPS),
        ):
            _check_int(f"train.{key}", getattr(self, key), low, high)
        _check_range("train.flip_fraction", self.flip_fraction, 1e-3, 0.99, or_zero=True)
        choices = ("full", "bfloat16", "tf32", "auto")
        require_choice("train.flip_precision", self.flip_precision, choices)
        _check_range("train.flip_radius", self.flip_radius, 0.1, 1e3)
        full = self.flip_radius is None or self.flip_precision == "full"
        rule = "must be full with train.flip_radius"
        require(full, "train.flip_precision", self.flip_precision, rule)
        share = self.exact_fraction
        _check_range("train.exact_fraction", share, 1e-3, 1)
        rule = "needs train.flip_radius, without which all flips are exact"
        require(share is None or self.flip_radius is not None, "train.exact_fraction", share, rule)
        require_choice("train.exact", self.exact, ("auto", True, False))
        _check_range("train.max_seconds", self.max_seconds, 1e-3, 1e9)
        _check_range("train.rank_timeout", self.rank_timeout, 1, 1e6)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All of a run. Two runs with equal configurations on one machine are equal bit for bit."""

    lattice: LatticeConfig
    """Sites in space."""
    hamiltonian: HamiltonianConfig
    """Couplings."""
    model: ModelConfig
    """Wavefunction."""
    optimizer: OptimizerConfig
    """Update of the parameters."""
    train: TrainConfig
    """Optimisation and evaluation."""
    run: RunConfig
    """Files."""
    seed: int
    """Seed of the initial weights, the samples and the evaluation, >= 0."""
    device: str
    """Where to compute: auto (a GPU if there is one), cpu or cuda."""
    dtype: str
    """Numbers of the network: float32 or float64 (energies are always float64)."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, "seed", self.seed, "must be >= 0 and < 2^63")
        require_choice("device", self.device, ("auto", "cpu", "cuda"))
        require_choice("dtype", self.dtype, ("float32", "float64"))
        cheaper = self.train.flip_precision
        rule = "rounds the products of float32 networks; use full with dtype=float64"
        allowed = self.dtype == "float32" or cheaper == "full"
        require(allowed, "train.flip_precision", cheaper, rule)
        C6, spacing = self.hamiltonian.C6, self.hamiltonian.spacing
        free = self.lattice.name == "positions"
        rule = "the positions of lattice.file are in um already"
        require(not free or spacing is None, "hamiltonian.spacing", spacing, rule)
        rule = f"lattice={self.lattice.name} needs hamiltonian.spacing, its lattice constant in um"
        require(free or C6 is None or spacing is not None, "hamiltonian.C6", C6, rule)
        warmup, steps = self.optimizer.warmup_steps, self.train.steps
        rule = f"must be less than train.steps={steps}; shorten the warm-up or lengthen the run"
        require(warmup < steps, "optimizer.warmup_steps", warmup, rule)
        model, radius = self.model, self.train.flip_radius
        plain = model.name == "ptf" and model.symmetry == "none" and not model.spin_flip
        rule = "needs model=ptf model.symmetry=none model.spin_flip=false; or give null"
        require(radius is None or plain, "train.flip_radius", radius, rule)

    @staticmethod
    def from_dict(mapping: Mapping[str, Any]) -> Config:
        """The configuration of a nested mapping; raises InputError (a ValueError), one line."""
        return from_mapping(Config, mapping)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain mapping with the keys of the chosen kinds; from_dict(to_dict()) is equal."""
        mapping = to_mapping(self)
        for section, kinds in (
            ("lattice", LATTICES),
            ("hamiltonian", HAMILTONIANS),
            ("model", MODELS),
            ("optimizer", OPTIMIZERS),
        ):
            keys = ("name", *kinds[mapping[section]["name"]])
            mapping[section] = {key: mapping[section][key] for key in keys}
        return mapping

    def replace(self, **changes: Any) -> Config:
        """A copy with some top-level entries replaced (checked again)."""
        return dataclasses.replace(self, **changes)


def _check_kind(section: str, config: Any, kinds: dict[str, dict[str, bool]]) -> None:
    """The name is a known kind, its required keys are given, keys of other kinds are not."""
    require_choice(f"{section}.name", config.name, kinds)
    keys = kinds[config.name]
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), f"{section}.{field.name}"
        if field.name == "name":
            continue
        if field.name in keys:
            rule = f"{section}={config.name} needs a value"
            require(value is not None or not keys[field.name], key, value, rule)
        else:
            rule = f"{section}={config.name} has no such key; it has {', '.join(keys)}"
            require(value is None, key, value, rule)


def _check_int(key: str, value: int | None, at_least: int, at_most: int = 10**9) -> None:
    rule = f"must be a whole number >= {at_least} and <= {at_most}"
    require(value is None or at_least <= value <= at_most, key, value, rule)


def _check_range(
    key: str, value: float | None, low: float, high: float, *, or_zero: bool = False
) -> None:
    inside = value is None or low <= value <= high or (or_zero and value == 0)
    rule = f"must be a number >= {low:g} and <= {high:g}{', or 0' if or_zero else ''}"
    require(inside, key, value, rule)


def _check_positive(key: str, value: float | None) -> None:
    require(value is None or value > 0, key, value, "must be a number > 0")


def _check_coupling(key: str, value: PerSite | None) -> None:
    values = value if isinstance(value, tuple) else () if value is None else (value,)
    inside = all(x == 0 or WEAKEST <= abs(x) <= STRONGEST for x in values)
    rule = f"must be 0 or of a size from {WEAKEST:g} to {STRONGEST:g}; choose another unit"
    require(inside, key, value, rule)


def _check_patch(key: str, value: str | int | tuple[tuple[int, ...], ...] | None) -> None:
    sites = itertools.chain(*value) if isinstance(value, tuple) else [value]
    inside = all(not isinstance(site, int) or 0 <= site <= MOST_SITES for site in sites)
    require(inside, key, value, f"must hold whole numbers >= 0 and <= {MOST_SITES}")


def _check_file(key: str, value: str | None, wanted: str) -> None:
    found = value is None or Path(value).is_file()
    require(found, key, value, f"no such file; give the path of {wanted}")
