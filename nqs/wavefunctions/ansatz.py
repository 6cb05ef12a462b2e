"""From a lattice and a sequence model with its keys to a wavefunction.

The sites are grouped into patches, whose states are the tokens of the model; what the model's class
says of itself (`SequenceModel.path`, `groups_tokens`, `token_cost`) decides how, nothing here knows
models by their names.

Letters: N sites, T patches, P sites in the largest patch, K = 2^P patch states.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Protocol, final

import torch
from torch import Tensor

from hamiltonians.lattices.characters import odd_under
from hamiltonians.lattices.lattice import Lattice
from hamiltonians.lattices.symmetry_group import SymmetryGroup
from nqs.core.digits import digit_products
from nqs.core.own_models import check_model
from nqs.core.sequence import SequenceModel
from nqs.errors import shown
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.large_patches import large_patches
from nqs.wavefunctions.patch_costs import cheapest_spec
from nqs.wavefunctions.patches import Patches
from nqs.wavefunctions.symmetrised import Symmetrised

SUPPLIED: Final = frozenset(
    {
        "n_tokens",
        "n_outputs",
        "length",
        "lengths",
        "coordinates",
        "grid",
        "products",
        "writes_tokens",
        "dropout",
        "generator",
    }
)
"""What a model's constructor is supplied with by name (nqs.core.sequence), and what wavefunctions,
which are no functions of chance, leave at its default."""
MANY_DIGITS: Final = 6
"""digit_decay=auto learns the states of patches of so many sites from their bits."""
DIGIT_DECAY: Final = 0.3
"""The decay it then has (docs/decisions.md)."""

Patch = Annotated[str | int | tuple[tuple[int, ...], ...], "0 .. 32768"]
Symmetry = Literal["auto", "none", "point_group", "translations", "all"]


class ModelChoice(Protocol):
    """A sequence model that is yet to be made: its class, its keys, and how
    (`nqs.conf.kinds.Selection` has them)."""

    @property
    def kind(self) -> type[Any]:
        """A SequenceModel."""

    @property
    def values(self) -> Mapping[str, Any]:
        """{key of the class' constructor: value}, all of them; others may be among them."""

    def build(self, **supplied: Any) -> Any:
        """The model, of its keys and what it takes of `supplied`."""


@final
@dataclass(frozen=True)
class Tiling:
    """The sites in patches, as a model reads them.

    Attributes:
        patches: the T patches, one token each.
        coordinates: places of the patches, or of the large patches that hold them, (., d).
        lengths: number of patches in each large patch, for models whose tokens come in groups.
    """

    patches: Patches
    coordinates: Tensor
    lengths: tuple[int, ...] | None = None


@final
class Ansatz:
    """How a wavefunction is made of a sequence model over patches of sites.

    Args:
        patch: Sites drawn at once: 2x2 (grid), 4 (neighbours), auto, or a list of lists of sites.
            auto is about four sites, and what costs a ptf least on grids of 100 sites and more. For
            lptf the large patches, one position of the transformer each.
        digit_decay: Make the network's vectors and logits of patch states of products of their
            bits, with digit_decay times the weight for each further bit (less than 0.01 is rounded
            away): what is learned of one state holds for states that differ in few bits. null
            learns each state for itself, as auto does up to 5 sites a patch; 0.3 from 6 sites on.
        n_up: Number of 1 bits, kept exactly (magnetisation sum sz = N - 2 n_up), at most the number
            of sites, for a Hamiltonian that conserves it; null leaves it free.
        phase: Whether psi is complex: phases beside the amplitudes, for ground states with signs.
        symmetry: Average |psi|^2 over symmetries of the lattice: none, point_group, translations
            (periodic lattices) or all, their product. A configuration costs as many times more as
            there are elements; configurations that they connect are evaluated once a step. auto
            takes those of the Hamiltonian, with the spin flip, where psi can be positive: at most
            16, of more than 2^14 configurations 8, of 2^17 2, of 2^20 none; none with model.odd.
        spin_flip: Average over configurations with all bits inverted too; twice the cost.
        odd: Those of the symmetries under which psi changes sign, with phase=true: spin_flip,
            shift_x, shift_y (by a cell), rotation90, mirror45 (at a line at 45 degrees) and so on;
            the others leave it as it is where that is possible.
    """

    def __init__(
        self,
        *,
        patch: Patch = "auto",
        digit_decay: Annotated[float, "0.01 .. 1"] | Literal["auto"] | None = "auto",
        n_up: Annotated[int, "0 .. 32768"] | None = None,
        phase: bool = False,
        symmetry: Symmetry = "auto",
        spin_flip: bool = False,
        odd: tuple[str, ...] = (),
    ) -> None:
        self.patch, self.digit_decay = patch, digit_decay
        self.n_up, self.phase = n_up, phase
        self.symmetry, self.spin_flip, self.odd = symmetry, spin_flip, odd

    def wavefunction(
        self, lattice: Lattice, model: ModelChoice, generator: torch.Generator
    ) -> Autoregressive:
        """psi without symmetries; parameters from `generator`. Raises ValueError, a line that
        begins with KEY=..., for patches that the lattice does not have and sizes that do not fit.
        """
        return self.network(self.tiling(lattice, model), model, generator)

    def tiling(self, lattice: Lattice, model: ModelChoice) -> Tiling:
        """The patches, in the order in which the model visits them. Raises ValueError."""
        kind: type[SequenceModel] = model.kind
        if kind.groups_tokens:
            sub_patch = model.values["sub_patch"]
            with _naming(f"patch={shown(self.patch)}, model.sub_patch={shown(sub_patch)}"):
                large = large_patches(lattice, _spec(self.patch), _spec(sub_patch))
            return Tiling(large.patches, large.centres, large.lengths)
        with _naming(f"patch={shown(self.patch)}"):
            patches = Patches.from_spec(lattice, self.spec(lattice, model), path=kind.path)
        return Tiling(patches, patches.centres)

    def spec(self, lattice: Lattice, model: ModelChoice) -> str | list[list[int]]:
        """`patch` as `Patches.from_spec` takes it; auto of a model of known cost is what costs
        least."""
        kind: type[SequenceModel] = model.kind
        if self.patch != "auto" or kind.token_cost(2, model.values) is None:
            return _spec(self.patch)
        return cheapest_spec(lattice, lambda k: kind.token_cost(k, model.values) or 0.0)

    def network(
        self, tiling: Tiling, model: ModelChoice, generator: torch.Generator
    ) -> Autoregressive:
        """The wavefunction over these patches: K states and a start token in, K logits out, and K
        phases with `phase`."""
        patches = tiling.patches
        core = model.build(
            n_tokens=patches.n_states + 1,
            n_outputs=(2 if self.phase else 1) * patches.n_states,
            length=patches.n_patches,
            lengths=tiling.lengths,
            coordinates=tiling.coordinates,
            grid=patches.grid,
            products=self.products(patches),
            writes_tokens=True,
            generator=generator,
        )
        if type(core) not in SequenceModel.kinds.values():
            check_model(core, "model")
        return Autoregressive(core, patches, n_up=self.n_up, phase=self.phase)

    def products(self, patches: Patches) -> Tensor | None:
        """(K, F) of the bits of patch states, or None for tables of all of them."""
        decay, n_digits = self.digit_decay, patches.sites.shape[1]
        if decay == "auto":  # tables of few states learn as well
            decay = DIGIT_DECAY if n_digits >= MANY_DIGITS else None
        return None if decay is None else digit_products(n_digits, float(decay))

    def symmetrised(
        self, lattice: Lattice, base: Autoregressive, automatic: SymmetryGroup | None = None
    ) -> Autoregressive | Symmetrised:
        """The average of the network over `symmetry` and `spin_flip`, or the network itself.

        automatic: what symmetry=auto stands for; None: no symmetry.
        Raises ValueError where there is no such symmetry.
        """
        if self.odd and not self.phase:
            raise ValueError("model.odd: a state that changes sign needs model.phase=true")
        asked = automatic is not None if self.symmetry == "auto" else self.symmetry != "none"
        if not asked and not self.spin_flip and not self.odd:
            return base
        if self.spin_flip and self.n_up is not None and 2 * self.n_up != lattice.n_sites:
            raise ValueError(
                f"model.n_up={self.n_up} is not half of {lattice.n_sites} sites, which the spin "
                "flip leaves; use model.spin_flip=false"
            )
        return Symmetrised(base, self.symmetry_group(lattice, automatic))

    def symmetry_group(
        self, lattice: Lattice, automatic: SymmetryGroup | None = None
    ) -> SymmetryGroup:
        """Of `symmetry` and `spin_flip`, with the characters of `odd`; automatic as for
        `symmetrised`. ValueError where the lattice has no such symmetry, or none of these
        characters."""
        if self.symmetry in ("translations", "all") and not any(lattice.periodic):
            raise ValueError(
                "this lattice has no periodic direction; use model.symmetry=point_group"
            )
        nothing = SymmetryGroup.identity(lattice.n_sites)
        groups = {
            "auto": lambda: nothing if automatic is None else automatic,
            "none": lambda: nothing,
            "point_group": lattice.point_group,
            "translations": lattice.translations,
            "all": lattice.space_group,
        }
        group = groups[self.symmetry]()
        if self.symmetry not in ("auto", "none") and len(group) == 1:
            raise ValueError("this lattice has no such symmetry; use model.symmetry=none")
        if self.spin_flip:
            group = group * SymmetryGroup.spin_flip(lattice.n_sites)
        with _naming(f"model.odd={shown(list(self.odd))}"):
            return odd_under(group, lattice, self.odd) if self.odd else group


def _spec(patch: str | int | tuple[tuple[int, ...], ...]) -> str | list[list[int]]:
    """Patches as `Patches.from_spec` takes them."""
    return str(patch) if isinstance(patch, str | int) else [list(sites) for sites in patch]


@contextlib.contextmanager
def _naming(keys: str) -> Iterator[None]:
    """Puts keys before the line of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{keys}: {error}") from None
