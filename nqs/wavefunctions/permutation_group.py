"""Groups of site permutations, each with or without inverting all bits, and what they do to bits.

Element g acts as (g s)_i = s_{row_g[i]} xor inverted_g. First h, then g is the element with
row_h[row_g] and inverted_g xor inverted_h.

Letters: B configurations, N sites, M group elements.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD_BITS = 62
"""Sites that share an int64 when configurations are compared."""


def checked_permutations(permutations: Tensor, n_sites: int) -> Tensor:
    """(n, N) int64; ValueError unless every row is a permutation of 0 .. N-1."""
    rows = permutations.detach().to("cpu")
    sites = torch.arange(n_sites)
    if (
        rows.dim() != 2
        or rows.is_floating_point()
        or tuple(rows.shape[1:]) != (n_sites,)
        or not torch.equal(rows.to(torch.int64).sort(1).values, sites.expand(len(rows), -1))
    ):
        raise ValueError(f"permutations must be rows that list each of the {n_sites} sites once")
    return rows.to(torch.int64)


def generators(rows: Tensor, inverted: Tensor) -> tuple[list[int], list[list[int]]]:
    """Few elements that generate all M, and for each g of them the number of g h for every h.

    rows (M, N), inverted (M,). Raises ValueError unless the elements are a group: distinct, with
    the identity, and closed (which products with generators of all decide).
    """
    elements = torch.cat([rows, inverted[:, None].to(rows.dtype)], dim=1).numpy()
    numbers = {element.tobytes(): i for i, element in enumerate(elements)}
    if len(numbers) < len(elements):
        raise ValueError("permutations: an element occurs twice")
    identity = torch.arange(elements.shape[1])
    identity[-1] = 0
    first = numbers.get(identity.numpy().tobytes())
    if first is None:
        raise ValueError("permutations: the identity is missing, so they are no group")
    found: list[int] = []
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
        found.append(g)
        products.append(product)
        frontier = list(reached)
        while frontier:
            h = frontier.pop()
            new = {product[h] for product in products} - reached
            reached |= new
            frontier += new
    return found, products


def checked_characters(characters: Tensor, found: list[int], products: list[list[int]]) -> Tensor:
    """(M,) complex128; ValueError unless |chi| = 1 and chi(g h) = chi(g) chi(h).

    found, products: what `generators` returned; enough, as they generate every g.
    """
    chi = characters.detach().to("cpu", torch.complex128)
    n_elements = len(products[0]) if products else 1
    if chi.shape != (n_elements,) or not torch.allclose(chi.abs(), torch.ones(len(chi)).double()):
        raise ValueError(f"characters must be {n_elements} numbers of modulus 1, one per element")
    if not all(
        torch.allclose(chi[product], chi[g] * chi)
        for g, product in zip(found, products, strict=True)
    ) or (not found and abs(chi[0] - 1) > 1e-8):
        raise ValueError(
            "characters are no representation of the group: chi(g h) is not chi(g) chi(h)"
        )
    return chi


def packed(configs: Tensor) -> Tensor:
    """configs (..., N) bool -> (..., W) int64 words whose lexicographic order is that of the rows
    read as numbers, site 0 most significant."""
    words = []
    for part in configs.split(WORD_BITS, dim=-1):
        places = torch.arange(part.shape[-1] - 1, -1, -1, device=configs.device)
        words.append((part.to(torch.int64) << places).sum(-1))
    return torch.stack(words, dim=-1)


def distinct(configs: Tensor) -> tuple[Tensor, Tensor]:
    """Each distinct row of configs (B, N) once, (U, N), and where each row went, (B,); N <= 62.

    As torch.unique(dim=0), which takes 20 times as long, by one word a row.
    """
    words, place = torch.unique(packed(configs).squeeze(-1), return_inverse=True)
    example = torch.empty_like(words)
    example[place] = torch.arange(len(place), device=place.device)
    return configs[example], place


def smallest(words: Tensor) -> Tensor:
    """words (B, M, ..., W) of `packed` images -> (B, ...) int64, the image smallest as a number."""
    candidates = torch.ones(words.shape[:-1], dtype=torch.bool, device=words.device)
    for word in words.unbind(-1):  # (B, M, ...)
        least = torch.where(candidates, word, torch.iinfo(torch.int64).max)
        candidates &= least == least.amin(1, keepdim=True)
    return candidates.to(torch.int8).argmax(1)
