"""Whether a class of anyone's keeps what `Hamiltonian` promises, asked of a few configurations.

Shapes and types, distinct flip patterns, elements that are Hermitian,

    <s|H|s xor f> = conj <s xor f|H|s>,

and, where all configurations are few, the mean of the diagonal: what would otherwise end deep in a
run, or as a wrong energy.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Lattice, positive_integer
from hamiltonians.probing import MAX_LISTED_SITES, probing_configurations

MAX_ROWS: Final = 4_096
"""Most pairs of a configuration and a flip whose elements are compared."""

ROUNDING: Final = 1e-9
"""Of the largest element, what counts as equal."""


def check_interface(hamiltonian: Hamiltonian) -> None:
    """Raises ValueError, one line that names the class, its member and what it must be."""
    name = type(hamiltonian).__name__
    for member in ("n_sites", "flips"):
        if not hasattr(hamiltonian, member):
            raise ValueError(f"{name}: sets no {member}; its constructor has to")
    n_sites = positive_integer(name, "n_sites", hamiltonian.n_sites)
    _check_lattice(name, hamiltonian.lattice, n_sites)
    _check_flips(name, hamiltonian.flips, n_sites)
    configs = probing_configurations(n_sites)  # (B, N)
    for rows in (configs, configs[:0]):
        _check_diagonal(name, hamiltonian, rows)
    configs = configs[: max(1, MAX_ROWS // max(1, len(hamiltonian.flips)))]
    _elements(name, hamiltonian, configs[:0])
    elements = _elements(name, hamiltonian, configs)  # (B, G)
    _check_hermitian(name, hamiltonian, configs, elements)


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
    diagonal = H.diagonal(configs)
    right = isinstance(diagonal, Tensor) and diagonal.dtype == torch.float64
    if not right or diagonal.shape != (len(configs),):
        raise ValueError(
            f"{name}: diagonal returns {_shown(diagonal)} for {len(configs)} configurations; it "
            "must be a float64 Tensor (B,)"
        )
    if not diagonal.isfinite().all():
        raise ValueError(f"{name}: diagonal returns numbers that are not finite")
    mean = H.infinite_temperature_energy
    if len(configs) == 2**H.n_sites and H.n_sites <= MAX_LISTED_SITES:
        scale = float(diagonal.abs().max())
        if not abs(mean - float(diagonal.mean())) <= ROUNDING * scale:
            raise ValueError(
                f"{name}: infinite_temperature_energy is {mean:g}; the mean of the diagonal, "
                f"Tr H / 2^N, is {float(diagonal.mean()):g}"
            )


def _elements(name: str, H: Hamiltonian, configs: Tensor) -> Tensor:
    """(B, G), checked."""
    elements = H.off_diagonal(configs)
    right = isinstance(elements, Tensor) and elements.dtype in (torch.float64, torch.complex128)
    if not right or elements.shape != (len(configs), len(H.flips)):
        raise ValueError(
            f"{name}: off_diagonal returns {_shown(elements)} for {len(configs)} configurations "
            f"and {len(H.flips)} flips; it must be a float64 or complex128 Tensor (B, G)"
        )
    if not elements.isfinite().all():
        raise ValueError(f"{name}: off_diagonal returns numbers that are not finite")
    return elements


def _check_hermitian(name: str, H: Hamiltonian, configs: Tensor, elements: Tensor) -> None:
    """elements (B, G) of configs (B, N) against those of the way back."""
    if len(H.flips) == 0:
        return
    images = (configs[:, None] ^ H.flips).flatten(0, 1)  # (B G, N)
    back = _elements(name, H, images).unflatten(0, elements.shape)  # (B, G, G)
    difference = (elements - back.diagonal(dim1=1, dim2=2).conj()).abs()  # (B, G)
    if (difference > ROUNDING * elements.abs().max()).any():
        b, g = divmod(int(difference.argmax()), len(H.flips))
        there, here = elements[b, g].item(), back[b, g, g].item()
        raise ValueError(
            f"{name}: off_diagonal is not Hermitian: flip {g} has the element {there:g}, the same "
            f"flip of the configuration that it leads to {here:g}; it must be the conjugate"
        )


def _shown(value: object) -> str:
    """'a float32 Tensor of shape (4,)', or the type."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a {dtype} Tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
