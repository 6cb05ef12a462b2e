"""One wavefunction for a whole family of Hamiltonians: psi(s | c), c their couplings.

At each c it is a wavefunction like any other, of one network with some of its vectors moved:

    psi(s | c) = psi(s; theta + Delta(c)),
    Delta adds v to the vector of every token and b to the output bias of every patch,
    y = (v, b) = W2 tanh(W1 x + b1) + b2,        x = the couplings, scaled to -1 .. 1

So sampling, flips and compiled code are the network's own, and psi is normalised exactly at every
c. (The transformer quantum state, Zhang & Di Ventra, arXiv:2208.01758, reads couplings as tokens.)
Derivatives follow by the chain rule: those by theta are those of the moved network, those by y
their sums over the tables' rows, and those by the perceptron's parameters a vector-Jacobian product
of the perceptron for each sample.

Letters: n couplings, R rows of derivatives, P parameters of the network, D width of a token's
vector, F numbers of a patch's output bias, Y = D + F, H hidden width.
"""

from __future__ import annotations

import copy
from typing import final

import torch
from torch import Tensor, nn

from nqs.core.large_patched import LargePatched
from nqs.core.positions import AddedTable
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.symmetrised import Symmetrised


@final
class Conditional(nn.Module):
    """psi(s | c) (formula at the head of this file).

    Args:
        base: the network, symmetrised or not.
        low, high: (n,) float64, the range of each coupling; low < high.
        width: H.
        generator: of W1 and b1; W2 and b2 begin at 0, so that at first psi is base for every c.

    Raises ValueError for a range that is empty or not finite, and for a network whose token vectors
    are no table.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        base: Autoregressive | Symmetrised,
        low: Tensor,
        high: Tensor,
        *,
        width: int = 32,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        low, high = low.to(torch.float64), high.to(torch.float64)
        if low.shape != high.shape or low.dim() != 1 or not len(low):
            raise ValueError("low and high must be vectors of one length, a number per coupling")
        if not bool((low < high).all() & (high - low).isfinite().all()):
            raise ValueError("each range must be finite, its lower end below its upper one")
        self.base = base
        self.tables = _tables(base)
        parameters = dict(base.named_parameters())
        self.widths = [parameters[name].shape[1] for name in self.tables]  # D, F
        first = nn.Linear(len(low), width)
        last = nn.Linear(width, sum(self.widths))
        self.perceptron = nn.Sequential(first, nn.Tanh(), last).to(next(base.parameters()))
        with torch.no_grad():
            first.weight.normal_(generator=generator).mul_(len(low) ** -0.5)
            first.bias.normal_(generator=generator)
            last.weight.zero_()
            last.bias.zero_()
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

    def _vectors(self, couplings: Tensor) -> tuple[Tensor, ...]:
        """v (D,) and b (F,)."""
        return self.perceptron(self.scaled(couplings)).split(self.widths)

    @torch.no_grad()
    def derivatives(self, of_network: Tensor, couplings: Tensor) -> Tensor:
        """Derivatives by the network's parameters, (R, P), of rows at couplings (n,) -> those by
        all parameters, in their order: (R, P + n H + H + Y H + Y)."""
        sums, begin = {}, 0
        for name, parameter in self.base.named_parameters():
            end = begin + parameter.numel()
            if name in self.tables:
                rows = of_network[:, begin:end].unflatten(1, parameter.shape)
                sums[name] = rows.sum(1)
            begin = end
        by_output = torch.cat([sums[name] for name in self.tables], dim=1)  # (R, Y)
        first, _, last = self.perceptron
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        x = self.scaled(couplings)
        hidden = torch.tanh(first(x))  # (H,)
        by_hidden = (by_output @ last.weight) * (1 - hidden.square())  # (R, H)
        own = (by_hidden[:, :, None] * x, by_hidden, by_output[:, :, None] * hidden, by_output)
        return torch.cat([of_network, *(part.flatten(1) for part in own)], dim=1)


def _tables(base: Autoregressive | Symmetrised) -> list[str]:
    """Names of the two parameters (rows, D) and (T, F) to every row of which vectors are added: of
    positions where they are learned, else of tokens; and of the patches' biases."""
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
    return [names[id(vectors)], names[id(network.bias.table)]]


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
