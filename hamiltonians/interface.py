"""Whether a class of anyone's keeps what `Hamiltonian` or `Lattice` promises.

Of a Hamiltonian a few configurations are asked: shapes and types, distinct flip patterns, the same
elements twice, elements that are Hermitian,

    <s|H|s xor f> = conj <s xor f|H|s>,

what the class says of itself (is_complex, is_stoquastic, constant_off_diagonal, ...) and, where all
configurations are few, the mean of the diagonal: what would otherwise end deep in a run, or as a
wrong energy.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Lattice, check_sites, positive_integer
from hamiltonians.probing import MAX_LISTED_SITES, probing_configurations

MAX_PAIRS: Final = 4_096
"""Most pairs of a configuration and a flip whose elements are compared."""

MAX_ELEMENTS: Final = 2**23
"""Most elements that are asked for at once (64 MB)."""

LARGEST: Final = 1e100
"""Of a size beyond it the squares of energies may overflow."""

ROUNDING: Final = 1e-9
"""Of the largest element, what counts as equal."""


def check_interface(hamiltonian: Hamiltonian) -> None:
    """Raises ValueError, one line that names the class, its member and what it must be."""
    name = type(hamiltonian).__name__
    for member in ("n_sites", "flips"):
        if not hasattr(hamiltonian, member):
            raise ValueError(f"{name}: sets no {member}; its constructor has to")
    n_sites = positive_integer(name, "n_sites", hamiltonian.n_sites)
    if not isinstance(hamiltonian.n_sites, int):
        raise ValueError(f"{name}: n_sites is {_shown(hamiltonian.n_sites)}; it must be an int")
    _check_lattice(name, hamiltonian.lattice, n_sites)
    _check_flips(name, hamiltonian.flips, n_sites)
    configs = probing_configurations(n_sites)  # (B, N)
    for rows in (configs, configs[:0]):
        _check_diagonal(name, hamiltonian, rows)
    configs = configs[: max(1, MAX_ELEMENTS // max(1, len(hamiltonian.flips)))]
    _elements(name, hamiltonian, configs[:0])
    elements = _elements(name, hamiltonian, configs)  # (B, G)
    _check_hermitian(name, hamiltonian, configs, elements)
    _check_claims(name, hamiltonian, elements)
    text = _member(name, hamiltonian, "describe")
    if not isinstance(text, str) or not text.isprintable():
        raise ValueError(f"{name}: describe returns {text!r:.80}; it must be one line of text")


def _check_lattice(name: str, lattice: object, n_sites: int) -> None:
    if lattice is None:
        return
    if not isinstance(lattice, Lattice):
        raise ValueError(f"{name}: lattice is a {type(lattice).__name__}; it must be a Lattice")
    if lattice.n_sites != n_sites:
        raise ValueError(f"{name}: n_sites is {n_sites}, but the lattice is {lattice!r}")


def _check_flips(name: str, flips: object, n_sites: int) -> None:
    """A table of distinct patterns, none empty."""
    if not isinstance(flips, Tensor) or flips.dtype != torch.bool or flips.shape[1:] != (n_sites,):
        raise ValueError(f"{name}: flips is {_shown(flips)}; it must be a bool Tensor (G, N)")
    if not flips.any(dim=1).all():
        raise ValueError(f"{name}: flips has an empty row; what flips nothing is the diagonal")
    if len(flips.unique(dim=0)) < len(flips):
        raise ValueError(f"{name}: flips has equal rows; add up the elements of one pattern")


def _check_diagonal(name: str, H: Hamiltonian, configs: Tensor) -> None:
    diagonal = _asked(name, H, "diagonal", configs)
    right = isinstance(diagonal, Tensor) and diagonal.dtype == torch.float64
    if not right or diagonal.shape != (len(configs),):
        raise ValueError(
            f"{name}: diagonal returns {_shown(diagonal)} for {len(configs)} configurations; it "
            "must be a float64 Tensor (B,)"
        )
    _check_finite(name, "diagonal", diagonal)
    mean = _member(name, H, "infinite_temperature_energy")
    if not isinstance(mean, int | float) or not math.isfinite(mean):
        rule = "it must be a finite number, Tr H / 2^N"
        raise ValueError(f"{name}: infinite_temperature_energy is {mean!r:.80}; {rule}")
    if len(configs) == 2**H.n_sites and H.n_sites <= MAX_LISTED_SITES:
        scale = float(diagonal.abs().max())
        if not abs(mean - float(diagonal.mean())) <= ROUNDING * scale:
            raise ValueError(
                f"{name}: infinite_temperature_energy is {mean:g}; the mean of the diagonal, "
                f"Tr H / 2^N, is {float(diagonal.mean()):g}"
            )


def _elements(name: str, H: Hamiltonian, configs: Tensor) -> Tensor:
    """(B, G), checked."""
    elements = _asked(name, H, "off_diagonal", configs)
    right = isinstance(elements, Tensor) and elements.dtype in (torch.float64, torch.complex128)
    if not right or elements.shape != (len(configs), len(H.flips)):
        raise ValueError(
            f"{name}: off_diagonal returns {_shown(elements)} for {len(configs)} configurations "
            f"and {len(H.flips)} flips; it must be a float64 or complex128 Tensor (B, G)"
        )
    _check_finite(name, "off_diagonal", elements)
    return elements


def _check_hermitian(name: str, H: Hamiltonian, configs: Tensor, elements: Tensor) -> None:
    """elements (B, G) of configs (B, N) against those of the way back."""
    if len(H.flips) == 0:
        return
    most = min(MAX_PAIRS, max(1, MAX_ELEMENTS // len(H.flips)))
    chosen = torch.randperm(elements.numel(), generator=torch.Generator().manual_seed(0))[:most]
    b, g = torch.unravel_index(chosen.sort().values, elements.shape)  # (P,) each
    there = elements[b, g]  # (P,)
    here = _elements(name, H, configs[b] ^ H.flips[g])[torch.arange(len(g)), g]  # (P,)
    difference = (there - here.conj()).abs()
    if (difference > ROUNDING * elements.abs().max()).any():
        p = int(difference.argmax())
        raise ValueError(
            f"{name}: off_diagonal is not Hermitian: flip {int(g[p])} has the element "
            f"{there[p].item():g}, the same flip of the configuration that it leads to "
            f"{here[p].item():g}; it must be the conjugate"
        )


def _check_claims(name: str, H: Hamiltonian, elements: Tensor) -> None:
    """What the class says of its elements against those (B, G) that are known."""
    floor = ROUNDING * float(elements.abs().max()) if elements.numel() else 0.0
    row = _member(name, H, "constant_off_diagonal")
    right = isinstance(row, Tensor) and row.shape == elements.shape[1:]
    if row is not None and not (right and ((elements - row).abs() <= floor).all()):
        raise ValueError(
            f"{name}: constant_off_diagonal is {_shown(row)}; it must be None or the row (G,) that "
            "off_diagonal returns for every configuration"
        )
    for member in ("is_complex", "is_stoquastic", "conserves_magnetisation"):
        value = _member(name, H, member)
        if not isinstance(value, bool):
            raise ValueError(f"{name}: {member} is {_shown(value)}; it must be True or False")
        if elements.is_complex() and not H.is_complex:
            rule = "but off_diagonal returns complex numbers"
            raise ValueError(f"{name}: is_complex is False, {rule}")
    if H.is_stoquastic and (elements.real > floor).any():
        raise ValueError(f"{name}: is_stoquastic is True, but off_diagonal has elements > 0")


def check_lattice(lattice: Lattice) -> None:
    """Raises ValueError, one line that names the class, its member and what it must be."""
    name = type(lattice).__name__
    positions: Any = getattr(lattice, "positions", None)
    right = isinstance(positions, Tensor) and positions.dtype == torch.float64
    if not right or positions.dim() != 2 or not positions.isfinite().all():
        rule = "it must be a finite float64 Tensor (N, d), as the constructor of Lattice sets it"
        raise ValueError(f"{name}: positions is {_shown(positions)}; {rule}")
    check_sites(name, positions, lattice.distances())
    n_sites, d = positions.shape
    if lattice.n_sites != n_sites:
        rule = f"there are {n_sites} positions"
        raise ValueError(f"{name}: n_sites is {lattice.n_sites!r:.80}; {rule}")
    shape, n_basis = lattice.shape, lattice.n_basis
    if shape is not None and math.prod(shape) * n_basis != n_sites:
        cells = f"shape {shape} with {n_basis} sites a cell"
        raise ValueError(f"{name}: {n_sites} positions, but {cells}")
    cell = lattice.cell_vectors
    if cell.shape != (d, d) or not torch.linalg.matrix_rank(cell) == d:
        raise ValueError(f"{name}: cell is {cell.tolist()}; it must be {d} independent vectors")
    bonds = lattice.bonds()
    right = isinstance(bonds, Tensor) and bonds.dtype == torch.int64 and bonds.shape[1:] == (2,)
    if not right or not ((bonds >= 0) & (bonds < n_sites)).all():
        rule = "it must be an int64 Tensor (n_bonds, 2) of sites"
        raise ValueError(f"{name}: bonds returns {_shown(bonds)}; {rule}")


@contextlib.contextmanager
def _saying(name: str, member: str) -> Iterator[None]:
    """Names the member in what it raises."""
    try:
        yield
    except Exception as error:  # anyone's code
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise ValueError(f"{name}: {member} raises {reason}") from None


def _member(name: str, H: Hamiltonian, member: str) -> Any:
    """The value of a property, or what a method without arguments returns."""
    with _saying(name, member):
        value = getattr(H, member)
        return value() if member == "describe" else value


def _asked(name: str, H: Hamiltonian, member: str, configs: Tensor) -> Any:
    """What the method returns for configs (B, N), twice the same and without changing them."""
    rows = configs.clone()
    with _saying(name, member):
        first = getattr(H, member)(rows)
    if not torch.equal(rows, configs):
        raise ValueError(f"{name}: {member} writes into the configurations; let it copy them")
    with _saying(name, member):
        again = getattr(H, member)(rows)
    if isinstance(first, Tensor) and isinstance(again, Tensor):
        same = first.shape == again.shape and torch.allclose(
            first, again, rtol=ROUNDING, atol=0.0, equal_nan=True
        )
        if not same:
            raise ValueError(f"{name}: {member} returns other numbers when it is asked again")
    return first


def _check_finite(name: str, member: str, numbers: Tensor) -> None:
    if not (numbers.abs() <= LARGEST).all():
        rule = f"numbers that are not finite, or of a size beyond {LARGEST:g}"
        raise ValueError(f"{name}: {member} returns {rule}")


def _shown(value: object) -> str:
    """'a float32 Tensor of shape (4,)', or the type."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a {dtype} Tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
