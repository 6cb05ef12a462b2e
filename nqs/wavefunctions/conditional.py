"""One wavefunction for a whole family of Hamiltonians: psi(s | c), c their couplings.

At each c it is a wavefunction like any other, of one network with some of its vectors moved:

    psi(s | c) = psi(s; theta + Delta(c)),
    Delta adds v to the vector of every token and b to the output bias of every patch,
    (v, b) = context(x),        x = the couplings, scaled to -1 .. 1

where what reads the couplings is a perceptron or an encoder, and v and b are those of all places or
of each (`nqs.wavefunctions.contexts`). So sampling, flips and compiled code are the network's own,
and psi is normalised exactly at every c. (The transformer quantum state, Zhang & Di Ventra,
arXiv:2208.01758, reads couplings as tokens.) Derivatives follow by the chain rule: those by theta
are those of the moved network, those by v and b their sums over the tables' rows, or the rows
themselves, and those by the context's parameters a vector-Jacobian product for each sample.

Letters: n couplings, R rows of derivatives, P parameters of the network, C of the context, D width
of a token's vector, F numbers of a patch's output bias.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from hamiltonians.lattices.symmetry_group import SymmetryGroup
from nqs.core.large_patched import LargePatched
from nqs.core.positions import AddedTable
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.contexts import ContextKind, build_context, coupling_groups
from nqs.wavefunctions.image_average import ImageAverage
from nqs.wavefunctions.symmetrised import Symmetrised
from nqs.wavefunctions.transfer import groups_of


@final
class Conditional(nn.Module):
    """psi(s | c) (formula at the head of this file).

    Args:
        base: the network, symmetrised or not.
        low, high: (n,) float64, where each coupling mostly is; low < high.
        kind: of the context.
        places: the sites that each coupling belongs to, () for all of them, which is the default.
        width: of the context.
        generator: of the context's first weights; its last ones begin at 0, so that at first psi is
            base for every c.
        images: a group of symmetries of the lattice, M elements, and (M, n) which of the couplings
            c are those of g c, for `averaged_at`; None for none.

    Raises ValueError for a range that is empty or not finite, and for a network whose token vectors
    are no table, or none with a row for each place where the context has them.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        base: Autoregressive | Symmetrised,
        low: Tensor,
        high: Tensor,
        *,
        kind: ContextKind = "vector",
        places: Sequence[Sequence[int]] | None = None,
        width: int = 32,
        generator: torch.Generator | None = None,
        images: tuple[SymmetryGroup, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.images = images
        low, high = low.to(torch.float64), high.to(torch.float64)
        if low.shape != high.shape or low.dim() != 1 or not len(low):
            raise ValueError("low and high must be vectors of one length, a number per coupling")
        if not bool((low < high).all() & (high - low).isfinite().all()):
            raise ValueError("each range must be finite, its lower end below its upper one")
        self.base = base
        self.tables, by_place = _tables(base)
        parameters = dict(base.named_parameters())
        first, second = (parameters[name].shape for name in self.tables)
        shapes = (first[0], first[1]), (second[0], second[1])
        network = base.base if isinstance(base, Symmetrised) else base
        assert isinstance(network, Autoregressive)
        groups = coupling_groups(places or [()] * len(low), groups_of(network.patches))
        context = build_context(kind, groups, len(low), shapes, width, generator)
        if context.per_place and not by_place:
            raise ValueError(
                f"family.context={kind}: has vectors for each place, and this network none; use "
                "family.context=vector, or model.positions=learned where the model has that key"
            )
        self.context = context.to(next(base.parameters()))
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self._moved: list[Autoregressive | Symmetrised] = []  # not a part of the module

    @property
    def n_sites(self) -> int:
        """N."""
        return self.base.n_sites

    def scaled(self, couplings: Tensor) -> Tensor:
        """x (..., n) of couplings (..., n), in the parameters' precision."""
        x = 2 * (couplings.to(self.low) - self.low) / (self.high - self.low) - 1
        return x.to(next(self.base.parameters()))

    @torch.no_grad()
    def at(self, couplings: Tensor) -> Autoregressive | Symmetrised:
        """The wavefunction at couplings (n,): a copy, on which later training has no effect."""
        return copy.deepcopy(self.moved_to(couplings))

    @torch.no_grad()
    def averaged_at(self, couplings: Tensor) -> Autoregressive | Symmetrised | ImageAverage:
        """The best state at couplings (n,): that of `at`, averaged over the images of couplings
        that differ from place to place."""
        if self.images is None:
            return self.at(couplings)
        group, places = self.images
        return ImageAverage([self.at(couplings[own]) for own in places.to(couplings.device)], group)

    @torch.no_grad()
    def moved_to(self, couplings: Tensor) -> Autoregressive | Symmetrised:
        """The same, until the next call; its parameters must not be changed."""
        if couplings.shape != self.low.shape:
            raise ValueError(f"{len(self.low)} couplings are needed, not {tuple(couplings.shape)}")
        if not self._moved or _device(self._moved[0]) != _device(self.base):
            self._moved = [copy.deepcopy(self.base)]
        psi = self._moved[0]
        vectors = dict(zip(self.tables, self._vectors(couplings), strict=True))
        for (name, ours), theirs in zip(
            psi.named_parameters(), self.base.parameters(), strict=True
        ):
            ours.copy_(theirs + vectors[name] if name in vectors else theirs)
        return psi

    def _vectors(self, couplings: Tensor) -> tuple[Tensor, Tensor]:
        """v (D,) or (T, D) and b (F,) or (T, F)."""
        v, b = self.context(self.scaled(couplings))
        return v, b

    def derivatives(self, of_network: Tensor, couplings: Tensor) -> Tensor:
        """Derivatives by the network's parameters, (R, P), of rows at couplings (n,) -> those by
        all parameters, in their order: (R, P + C)."""
        by_tables, begin = {}, 0
        for name, parameter in self.base.named_parameters():
            end = begin + parameter.numel()
            if name in self.tables:
                rows = of_network[:, begin:end].unflatten(1, parameter.shape)
                by_tables[name] = rows if self.context.per_place else rows.sum(1)
            begin = end
        with torch.enable_grad():
            own = torch.autograd.grad(
                self._vectors(couplings),
                list(self.context.parameters()),
                [by_tables[name] for name in self.tables],
                is_grads_batched=True,
            )
        return torch.cat([of_network, *(part.flatten(1) for part in own)], dim=1)


def has_places(base: Autoregressive | Symmetrised) -> bool:
    """Whether a context may have vectors for each place. Raises ValueError as Conditional does."""
    return _tables(base)[1]


def _tables(base: Autoregressive | Symmetrised) -> tuple[list[str], bool]:
    """Names of the two parameters (rows, D) and (T, F) to the rows of which vectors are added: of
    positions where they are learned, else of tokens; and of the patches' biases. And whether the
    first has a row for each place."""
    network = base.base if isinstance(base, Symmetrised) else base
    assert isinstance(network, Autoregressive)
    core = network.core.large if isinstance(network.core, LargePatched) else network.core
    positions, embedding = getattr(core, "positions", None), getattr(core, "embedding", None)
    learned = isinstance(positions, AddedTable) and isinstance(positions.table, nn.Parameter)
    if not learned and not isinstance(embedding, nn.Embedding):
        raise ValueError(
            f"model={type(core).__name__}: has no table of token vectors, to which couplings could "
            "be added; use model.digit_decay=null, or another model"
        )
    vectors = positions.table if learned else embedding.weight  # type: ignore[union-attr]
    names = {id(parameter): name for name, parameter in base.named_parameters()}
    return [names[id(vectors)], names[id(network.bias.table)]], learned


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
