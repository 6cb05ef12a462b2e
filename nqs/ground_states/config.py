"""The configuration of a ground-state run: every key, its unit and its range.

Sections that choose a class (a lattice, a Hamiltonian ...) take their keys and defaults from the
class; see `nqs.ground_states.groups`. `Config()` is the main job: 4x4 Rydberg atoms at V = 7 and
delta = Omega = 1, a patched transformer. All that can be judged without building anything is judged
here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from nqs.conf.kinds import Selection
from nqs.conf.sections import from_mapping, to_mapping
from nqs.errors import require
from nqs.ground_states.groups import ENERGIES, HAMILTONIAN, LATTICE, MODEL, OPTIMIZER
from nqs.ground_states.older_config import moved
from nqs.runfolder.run_config import RunConfig

RESUMABLE: Final = (
    "train.steps",
    "train.max_seconds",
    "train.eval_samples",
    "train.exact",
    "train.observables",
    "train.checkpoint_every",
    "energies.flip_precision",
    "train.rank_timeout",
    "run.dir",
    "run.resume",
    "device",
)
"""Keys that may change when a run is resumed; every other one would make it another run."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to optimise, with how many samples, and how to judge the result."""

    steps: Annotated[int, "1 .. 1e9"] = 200
    """Optimisation steps in total; a finished run is extended by resuming with more."""
    n_samples: Annotated[int, "2 .. 1e9"] = 512
    """Configurations drawn at each step; minsr solves a system of that size."""
    max_seconds: Annotated[float, "1e-3 .. 1e9"] | None = None
    """Budget of the optimisation in seconds: then stop, evaluate, report; null has none."""
    eval_samples: Annotated[int, "2 .. 1e9"] = 50_000
    """Fresh configurations for the final energy."""
    exact: Literal["auto", True, False] = "auto"
    """Compare with exact diagonalisation: auto (up to 2^16 configurations: 16 sites, more with
    model.n_up), true or false."""
    observables: tuple[str, ...] = ()
    """Observables of your own, MODULE:CLASS each, measured beside those of the program."""
    checkpoint_every: Annotated[int, "1 .. 1e9"] = 100
    """Steps between checkpoints (and never more than five minutes apart)."""
    start_from: str | None = None
    """Folder of another run with the same model, on a lattice of the same kind and of any size that
    leaves the same remainder by the patches: start from the parameters of its newest checkpoint;
    null starts from the best product state. The optimizer starts afresh. model.patch=auto takes the
    patches of that run."""
    grow: bool | tuple[str | int, ...] = False
    """Train smaller arrays first, the smallest from the product state, each next one and at last
    the lattice itself from the one before: true chooses the sizes, [4x4,8x8] names them, or [16,32]
    of a chain; the lattice's own may be left out. All of it is one run: max_seconds counts it whole
    and gives a smaller array a third of what is left. model.patch=auto is about four sites."""
    stage_steps: Annotated[int, "1 .. 1e9"] | Literal["auto"] = "auto"
    """Steps of each of the smaller arrays of train.grow at most; auto: 150 of the first, of each
    next one train.steps times the ratio of the sites, and at least 200."""
    rank_timeout: Annotated[float, "1 .. 1e6"] = 1800.0
    """Seconds after which a silent process of several counts as lost; more than a step takes, for a
    rank waits for the slowest."""

    def __post_init__(self) -> None:
        named = self.start_from is None or bool(self.start_from.strip())
        require(named, "train.start_from", "''", "give the folder of a run")
        rule = "names no size; give true, false or a list, e.g. [4x4,8x8]"
        require(self.grow != (), "train.grow", self.grow, rule)
        rule = "begins at a product state; use train.start_from=null, or train.grow=false"
        require(not self.grow or self.start_from is None, "train.grow", self.grow, rule)

    @property
    def starts_warm(self) -> bool:
        """Whether the run starts from parameters that were trained before."""
        return self.start_from is not None or bool(self.grow)


@dataclass(frozen=True, kw_only=True)
class FamilyConfig:
    """One state for a family of Hamiltonians, for all couplings within ranges; see
    docs/families.md."""

    ranges: tuple[str, ...] = ()
    """Which keys vary, hamiltonian.KEY=RANGE each; on the command line family.hamiltonian.KEY=RANGE
    with RANGE interval(LOW,HIGH), a list [V1,V2,...], or of a number for each site or bond
    uniform(LOW,HIGH) or normal(MEAN,SPREAD), drawn anew at each step."""
    couplings: Annotated[int, "1 .. 65536"] = 8
    """Couplings of each step, stratified, which share train.n_samples."""
    context: Literal["auto", "vector", "places", "encoder"] = "auto"
    """What reads the couplings: vector (a perceptron; the same vector for all places), places (a
    perceptron with vectors for each place), encoder (a transformer over the couplings of each
    patch, and cross-attention), or auto: places for couplings of each site, else vector."""
    width: Annotated[int, "1 .. 65536"] = 32
    """Width of what reads the couplings."""

    def __post_init__(self) -> None:
        for entry in self.ranges:
            right = re.fullmatch(r"hamiltonian\.[A-Za-z_]\w*=.+", entry)
            require(
                bool(right), "family.ranges", [entry], "write hamiltonian.KEY=interval(LOW,HIGH)"
            )
        keys = [entry.partition("=")[0] for entry in self.ranges]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        require(twice is None, "family.ranges", list(self.ranges), f"has {twice} twice")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            rule = (
                "is of a family; give it a range too, e.g. family.hamiltonian.delta=interval(0,3)"
            )
            alone = not self.ranges and value != field.default
            require(not alone, f"family.{field.name}", value, rule)


_SQUARE = LATTICE.read({"name": "square"})
_RYDBERG = HAMILTONIAN.read({"name": "rydberg"})
_PTF = MODEL.read({"name": "ptf"})
_MINSR = OPTIMIZER.read({"name": "minsr"})
_BLURRED = ENERGIES.read({"name": "blurred"})
_FAMILY = FamilyConfig()
_RUN = RunConfig()


@dataclass(frozen=True, kw_only=True)
class Config:
    """All of a run. Two runs with equal configurations on one machine are equal bit for bit."""

    lattice: Annotated[Selection, LATTICE] = _SQUARE
    """Sites in space."""
    hamiltonian: Annotated[Selection, HAMILTONIAN] = _RYDBERG
    """Couplings."""
    model: Annotated[Selection, MODEL] = _PTF
    """Wavefunction."""
    optimizer: Annotated[Selection, OPTIMIZER] = _MINSR
    """Update of the parameters."""
    energies: Annotated[Selection, ENERGIES] = _BLURRED
    """Where local energies come from."""
    train: TrainConfig = TrainConfig()
    """Optimisation and evaluation."""
    family: FamilyConfig = _FAMILY
    """One state for many couplings."""
    run: RunConfig = _RUN
    """Files."""
    seed: int = 0
    """Seed of the initial weights, the samples and the evaluation, >= 0."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: auto (a GPU if there is one), cpu or cuda."""
    dtype: Literal["float32", "float64"] = "float32"
    """Numbers of the network: float32 or float64 (energies are always float64)."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, "seed", self.seed, "must be >= 0 and < 2^63")
        cheaper = self.energies.get("flip_precision", "full")
        rule = "rounds the products of float32 networks; use full with dtype=float64"
        allowed = self.dtype == "float32" or cheaper not in ("bfloat16", "tf32", "auto")
        require(allowed, "energies.flip_precision", cheaper, rule)
        if self.family.ranges:
            self._check_family()
        warmup, steps = self.optimizer.get("warmup_steps", 0), self.train.steps
        rule = f"must be less than train.steps={steps}; shorten the warm-up or lengthen the run"
        require(
            not isinstance(warmup, int) or warmup < steps, "optimizer.warmup_steps", warmup, rule
        )

    def _check_family(self) -> None:
        """Raises InputError for keys that do not go with a family."""
        train, family = self.train, self.family
        rule = "is not for a family; train it from its product state"
        require(train.start_from is None, "train.start_from", train.start_from, rule)
        require(not train.grow, "train.grow", train.grow, rule)
        rule = f"must be >= 2 family.couplings={2 * family.couplings}, two at each"
        require(train.n_samples >= 2 * family.couplings, "train.n_samples", train.n_samples, rule)

    @staticmethod
    def from_dict(mapping: Mapping[str, Any]) -> Config:
        """The configuration of a nested mapping, whose keys may stand where an earlier version had
        them; keys that are left out have their defaults.
        Raises InputError (a ValueError), one line."""
        return from_mapping(Config, moved(mapping))

    def to_dict(self) -> dict[str, Any]:
        """Nested plain mapping with the keys of the chosen kinds; from_dict(to_dict()) is equal."""
        return to_mapping(self)

    def replace(self, **changes: Any) -> Config:
        """A copy with some top-level entries replaced (checked again)."""
        return dataclasses.replace(self, **changes)
