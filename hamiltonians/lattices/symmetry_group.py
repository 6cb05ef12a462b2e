"""Groups of site permutations, each with or without inverting all bits, and their characters.

Element g acts on a configuration as

    (g s)_i = s_{row_g[i]} xor inverted_g,

so first h, then g is the element with row_h[row_g] and inverted_g xor inverted_h. A character chi
is a representation in one dimension, |chi| = 1 and chi(g h) = chi(g) chi(h): a state belongs to it
if psi(g s) = chi(g) psi(s).

Letters: B configurations, N sites, E group elements, W words of a configuration.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Final, Self, final

import numpy as np
import torch
from torch import Tensor

from hamiltonians.lattices import parity_equations

WORD_BITS: Final = 62
"""Sites that share an int64 when configurations are compared."""

MAX_GENERATED: Final = 2**16
"""Most elements of a group that `generated_by` lists."""

Element = tuple[Tensor, bool]
"""A permutation (N,) of the sites and whether all bits are inverted besides."""


@final
class SymmetryGroup:
    """A finite group of permutations of N sites, with or without the inversion of all bits.

    Args:
        permutations: (E, N) int64, row_g of each element.
        inverted: (E,) bool, which elements invert all bits. None: none does.
        characters: (E,) chi(g). None: 1 throughout.

    All three are attributes, on the CPU (characters complex128); elements stay in their order.
    Raises ValueError for rows that are no permutations, an element that occurs twice, sets that
    lack the identity or a product of two elements, and characters that are no representation.
    """

    def __init__(
        self,
        permutations: Tensor,
        inverted: Tensor | None = None,
        characters: Tensor | None = None,
    ) -> None:
        self.permutations = _checked_permutations(permutations)
        if inverted is None:
            inverted = torch.zeros(len(self), dtype=torch.bool)
        if inverted.shape != (len(self),) or inverted.dtype != torch.bool:
            raise ValueError(f"inverted must be {len(self)} bools, one per permutation")
        self.inverted = inverted.detach().cpu()
        self._chosen, self._products = _generating_set(self.permutations, self.inverted)
        self.characters = torch.ones(len(self), dtype=torch.complex128)
        if characters is not None:
            self.characters = self._checked_characters(characters)
        self._copies: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @classmethod
    def identity(cls, n_sites: int) -> Self:
        """The group of the identity alone."""
        return cls(torch.arange(n_sites)[None])

    @classmethod
    def spin_flip(cls, n_sites: int) -> Self:
        """The identity and the inversion of all bits."""
        return cls(torch.arange(n_sites).repeat(2, 1), torch.tensor([False, True]))

    @classmethod
    def generated_by(cls, elements: Sequence[Element], limit: int | None = None) -> Self:
        """All products of one or more elements, in the order of (inverted, permutation).

        Raises ValueError for more than `limit` products, by default MAX_GENERATED.
        """
        limit = MAX_GENERATED if limit is None else limit
        n_sites = len(elements[0][0])
        table = torch.cat([torch.zeros(1, dtype=torch.int64), torch.arange(n_sites)])[None]
        n_elements = 0
        while len(table) > n_elements:
            n_elements = len(table)
            if n_elements > limit:
                raise ValueError(f"these symmetries generate more than {limit} elements")
            longer = [
                torch.cat([table[:, :1] ^ inverted, table[:, 1:][:, row]], dim=1)
                for row, inverted in elements
            ]
            table = torch.cat([table, *longer]).unique(dim=0)
        return cls(table[:, 1:], table[:, 0].bool())

    @property
    def n_sites(self) -> int:
        """N."""
        return self.permutations.shape[1]

    @property
    def is_trivial(self) -> bool:
        """Whether chi(g) = 1 for every element."""
        return bool((self.characters - 1).abs().max() < 1e-12)

    def __len__(self) -> int:
        """The order of the group, E."""
        return len(self.permutations)

    def __iter__(self) -> Iterator[Element]:
        return zip(self.permutations, self.inverted.tolist(), strict=True)

    def __contains__(self, element: Element) -> bool:
        return bool(self._places(element).any())

    def __repr__(self) -> str:
        inverted = f", {int(self.inverted.sum())} of them invert all bits" * self.inverted.any()
        others = int(((self.characters - 1).abs() > 1e-12).sum())
        characters = f", {others} characters other than 1" if others else ""
        plural = "" if len(self) == 1 else "s"
        return (
            f"SymmetryGroup({len(self)} element{plural} on {self.n_sites} sites"
            f"{inverted}{characters})"
        )

    def __mul__(self, other: SymmetryGroup) -> SymmetryGroup:
        """Every element of this group after every element of the other, each once.

        In the order of (inverted, permutation), so that the identity is the first.
        Raises ValueError for different numbers of sites, products that are no group, and factors
        with characters: they are chosen for the product.
        """
        if self.n_sites != other.n_sites:
            raise ValueError(f"groups on {self.n_sites} and {other.n_sites} sites have no product")
        if not (self.is_trivial and other.is_trivial):
            raise ValueError("characters must be those of the product, not of its factors")
        rows = other.permutations[:, self.permutations].transpose(0, 1).flatten(0, 1)
        inverted = (self.inverted[:, None] ^ other.inverted).flatten()
        table = torch.cat([inverted[:, None].to(rows), rows], dim=1).unique(dim=0)
        return SymmetryGroup(table[:, 1:], table[:, 0].bool())

    def index(self, element: Element) -> int:
        """The place of an element; ValueError where it is not of the group."""
        places = self._places(element).nonzero()
        if not len(places):
            raise ValueError(f"{self!r} does not have this element")
        return int(places[0])

    def generating_set(self) -> list[Element]:
        """Few elements whose products are all of the group; none for the identity alone."""
        return [(self.permutations[g], bool(self.inverted[g])) for g in self._chosen]

    def orbits(self) -> Tensor:
        """(N,) int64: sites of one label are carried into each other; labels 0, 1, ... in the order
        of their first sites."""
        first = self.permutations.amin(0)  # (N,) the first site of each one's orbit
        return first.unique(return_inverse=True)[1]

    def images(self, configs: Tensor) -> Tensor:
        """g s for configs (B, N) bool -> (B, E, N)."""
        permutations, inverted = self._on(configs.device)
        return configs[:, permutations] ^ inverted[:, None]

    def representatives(self, configs: Tensor) -> Tensor:
        """The image of each of configs (B, N) bool that is smallest as a number -> (B, N)."""
        images = self.images(configs)  # (B, E, N)
        least = smallest(bit_words(images))
        return images[torch.arange(len(least), device=least.device), least]

    def act(self, configs: Tensor, elements: Tensor) -> Tensor:
        """g s for each of configs (B, N) bool with its own element g, elements (B,) -> (B, N)."""
        permutations, inverted = self._on(configs.device)
        return configs.gather(1, permutations[elements]) ^ inverted[elements][:, None]

    def with_characters(self, characters: Tensor) -> SymmetryGroup:
        """The same elements with chi(g), (E,). Raises ValueError unless it is a representation."""
        group = copy.copy(self)
        group.characters = self._checked_characters(characters)
        return group

    def with_signs(
        self, signs: Sequence[tuple[Element, int]], even: Sequence[Element] = ()
    ) -> SymmetryGroup | None:
        """The group with characters +1 and -1 that are `signs` for some elements.

        Where that leaves a choice, elements of `even` get +1 if they can, one after another.
        None: no such character exists. Raises ValueError for elements that are not of the group.
        """
        parities, relations = self._parities()
        equations = [(relation, False) for relation in relations]
        equations += [(parities[self.index(element)], sign < 0) for element, sign in signs]
        chosen = self._solution(equations)
        if chosen is None:
            return None
        for element in even:
            equations.append((parities[self.index(element)], False))
            better = self._solution(equations)
            if better is None:
                equations.pop()
            else:
                chosen = better
        odd = [(parity & chosen).bit_count() % 2 == 1 for parity in parities]
        return self.with_characters(torch.where(torch.tensor(odd), -1.0, 1.0))

    def _places(self, element: Element) -> Tensor:
        """(E,) bool: where an element is."""
        permutation, inverted = element
        return (self.permutations == permutation).all(1) & (self.inverted == inverted)

    def _parities(self) -> tuple[list[int], set[int]]:
        """Which of the generating set an odd number of times make each element, bit k for the k-th,
        on one way to it; and the differences between ways, which have to be even."""
        identity = self.index((torch.arange(self.n_sites), False))
        parities, frontier = {identity: 0}, [identity]
        while frontier:
            h = frontier.pop()
            for k, product in enumerate(self._products):
                if product[h] not in parities:
                    parities[product[h]] = parities[h] ^ 1 << k
                    frontier.append(product[h])
        relations = {
            parities[g] ^ parities[h] ^ 1 << k
            for k, product in enumerate(self._products)
            for h, g in enumerate(product)
        }
        return [parities[h] for h in range(len(self))], relations - {0}

    def _solution(self, equations: list[tuple[int, bool]]) -> int | None:
        """Which of the generating set are odd, as bits."""
        return parity_equations.solution([2 * mask + odd for mask, odd in equations])

    def _checked_characters(self, characters: Tensor) -> Tensor:
        """(E,) complex128; ValueError unless |chi| = 1 and chi(g h) = chi(g) chi(h)."""
        chi = characters.detach().to("cpu", torch.complex128)
        if chi.shape != (len(self),) or not torch.allclose(
            chi.abs(), torch.ones(len(chi), dtype=torch.float64)
        ):
            raise ValueError(f"characters must be {len(self)} numbers of modulus 1, one an element")
        pairs = zip(self._chosen, self._products, strict=True)  # they generate every g
        represented = all(torch.allclose(chi[product], chi[g] * chi) for g, product in pairs)
        if not represented or (not self._chosen and abs(chi[0] - 1) > 1e-8):
            raise ValueError(
                "characters are no representation of the group: chi(g h) is not chi(g) chi(h)"
            )
        return chi

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Permutations and inversions on a device, where they stay."""
        if device not in self._copies:
            self._copies[device] = (self.permutations.to(device), self.inverted.to(device))
        return self._copies[device]


def _checked_permutations(permutations: Tensor) -> Tensor:
    """(E, N) int64; ValueError unless every row is a permutation of 0 .. N-1."""
    rows = permutations.detach().cpu()
    sites = torch.arange(rows.shape[-1] if rows.dim() else 0)
    if (
        rows.dim() != 2
        or rows.numel() == 0
        or rows.is_floating_point()
        or not torch.equal(rows.to(torch.int64).sort(1).values, sites.expand(len(rows), -1))
    ):
        raise ValueError(f"permutations must be rows that list each of the {len(sites)} sites once")
    return rows.to(torch.int64)


def _generating_set(rows: Tensor, inverted: Tensor) -> tuple[list[int], list[list[int]]]:
    """Numbers of few elements that generate all E, and for each g of them that of g h for every h.

    Raises ValueError unless the elements are a group: distinct, with the identity, and closed
    (which products with generators of all decide).
    """
    elements = torch.cat([rows, inverted[:, None].to(rows)], dim=1).numpy()
    numbers = {element.tobytes(): i for i, element in enumerate(elements)}
    if len(numbers) < len(elements):
        raise ValueError("permutations: an element occurs twice")
    identity = np.append(np.arange(rows.shape[1]), 0)
    first = numbers.get(identity.tobytes())
    if first is None:
        raise ValueError("permutations: the identity is missing, so they are no group")
    chosen: list[int] = []
    products: list[list[int]] = []
    reached = {first}
    for g in range(len(elements)):
        if g in reached:
            continue
        composed = torch.cat([rows[:, rows[g]], (inverted ^ inverted[g])[:, None].to(rows)], dim=1)
        product = [numbers.get(element.tobytes(), -1) for element in composed.numpy()]
        if -1 in product:
            raise ValueError(
                f"permutations: the product of elements {product.index(-1)} and {g} is missing, "
                "so they are no group"
            )
        chosen.append(g)
        products.append(product)
        frontier = list(reached)
        while frontier:
            h = frontier.pop()
            new = {product[h] for product in products} - reached
            reached |= new
            frontier += new
    return chosen, products


def bit_words(configs: Tensor) -> Tensor:
    """configs (..., N) bool -> (..., W) int64 words whose lexicographic order is that of the rows
    read as numbers, site 0 most significant."""
    words = []
    for part in configs.split(WORD_BITS, dim=-1):
        places = torch.arange(part.shape[-1] - 1, -1, -1, device=configs.device)
        words.append((part.to(torch.int64) << places).sum(-1))
    return torch.stack(words, dim=-1)


def distinct(configs: Tensor) -> tuple[Tensor, Tensor]:
    """Each distinct row of configs (B, N) once, ascending, (U, N), and where each row went, (B,).

    What torch.unique(dim=0) does, which is slow for rows of bits, by their words.
    """
    words = bit_words(configs)  # (B, W)
    if words.shape[1] == 1:
        unique, place = torch.unique(words.squeeze(1), return_inverse=True)
    else:
        unique, place = torch.unique(words, dim=0, return_inverse=True)
    example = torch.empty(len(unique), dtype=torch.int64, device=place.device)
    example[place] = torch.arange(len(place), device=place.device)
    return configs[example], place


def smallest(words: Tensor) -> Tensor:
    """`bit_words` (B, E, ..., W) of images -> (B, ...) int64, the image smallest as a number."""
    candidates = torch.ones(words.shape[:-1], dtype=torch.bool, device=words.device)
    for word in words.unbind(-1):  # (B, E, ...)
        least = torch.where(candidates, word, torch.iinfo(torch.int64).max)
        candidates &= least == least.amin(1, keepdim=True)
    return candidates.to(torch.int8).argmax(1)
