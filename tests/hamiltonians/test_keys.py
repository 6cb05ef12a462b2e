"""Kinds of lattices and Hamiltonians as a configuration sees them: keys, bounds, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hamiltonians import XXZ, Chain, Hamiltonian, Lattice, Positions, Rydberg, Square
from nqs.conf.kinds import Group
from nqs.conf.values import Bounds, bounds_of
from nqs.errors import InputError

LATTICES = Group("lattice", Lattice, frozenset(), "Sites in space.")
HAMILTONIANS = Group("hamiltonian", Hamiltonian, frozenset({"lattice", "n_sites"}), "Couplings.")
KINDS = [
    (group, name)
    for group in (LATTICES, HAMILTONIANS)
    for name, kind in group.kinds.items()
    if kind.__module__.startswith("hamiltonians.")  # other tests register theirs
]
PAIR = Positions([[0.0, 0.0], [5.0, 0.0]])


def test_the_kinds() -> None:
    assert {name for group, name in KINDS if group is LATTICES} == {
        "chain", "square", "triangular", "honeycomb", "kagome", "positions",
    }  # fmt: skip
    assert {name for group, name in KINDS if group is HAMILTONIANS} == {
        "rydberg", "tfim", "xxz", "heisenberg", "j1j2", "pauli",
    }  # fmt: skip


@pytest.mark.parametrize(("group", "name"), KINDS)
def test_every_key_is_documented_and_typed(group: Group, name: str) -> None:
    for key in group.keys(name).values():
        assert len(key.text) > 10 and "\n" not in key.text, key.name
        assert key.hint is not Any, key.name


@pytest.mark.parametrize(("group", "name"), KINDS)
def test_a_kind_is_built_from_its_defaults(group: Group, name: str, tmp_path: Path) -> None:
    mapping: dict[str, object] = {"name": name}
    if "file" in group.keys(name):
        file = tmp_path / "file"
        file.write_text("x,y\n0,0\n" if group is LATTICES else "1 Z0 Z1\n")
        mapping["file"] = str(file)
    chosen = group.read(mapping)
    built = chosen.build(lattice=Square(), n_sites=16)
    assert type(built) is group.kinds[name]
    assert built.n_sites == {"positions": 1, "kagome": 12}.get(name, 16)


def outside(bounds: Bounds) -> list[float]:
    """Numbers just out of bounds."""
    numbers = [bounds.low * 0.999, bounds.high * 1.001]
    return [*numbers, -numbers[0], -numbers[1]] if bounds.in_size else [*numbers, -bounds.high]


@pytest.mark.parametrize("name", [name for group, name in KINDS if group is HAMILTONIANS])
def test_constructors_refuse_what_the_keys_refuse(name: str) -> None:
    """A ValueError that names class and key, for each bounded key."""
    kind = HAMILTONIANS.kinds[name]
    for key in HAMILTONIANS.keys(name).values():
        for bounds in bounds_of(key.hint):
            with_it = {"C6": 1.0} if key.name == "spacing" else {}
            for number in outside(bounds):
                with pytest.raises(ValueError, match=f"^{kind.__name__}: {key.name} ") as error:
                    kind(Square(2, 2), **with_it, **{key.name: number})
                assert "\n" not in str(error.value)
            for number in (bounds.low, bounds.high):
                if key.name not in ("cutoff", "C6"):  # need others with them
                    kind(Square(2, 2), **with_it, **{key.name: number})


def test_the_interaction_of_atoms() -> None:
    lattice = Square(2, 2)
    assert Rydberg(lattice).V == 7.0 and Rydberg(lattice, 0.5).V == 0.5
    assert Rydberg(lattice, C6=7 * 8.0 * 2**6, spacing=2.0).V == 56.0
    assert Rydberg(PAIR, C6=64.0).interactions[0, 1].item() == 64 / 5**6
    assert Rydberg(lattice, Rb=2.0, Omega=-3.0).V == 3.0 * 2**6


@pytest.mark.parametrize(
    ("group", "mapping", "line"),
    [
        (HAMILTONIANS, {"name": "rydberg", "V": 7, "Rb": 1.2}, "give only one of V, Rb and C6"),
        (HAMILTONIANS, {"name": "rydberg", "spacing": 6}, "means something with C6 alone"),
        (HAMILTONIANS, {"name": "rydberg", "Rb": 1e-6}, "hamiltonian.Rb=1e-06: must be >= 1e-05"),
        (HAMILTONIANS, {"name": "rydberg", "C6": 5e6}, r"needs spacing, its lattice constant in"),
        (HAMILTONIANS, {"name": "tfim", "J": [1.0, 1e40]}, r"hamiltonian.J=\[1.0,1e\+40\]: must"),
        (HAMILTONIANS, {"name": "tfim", "J": [1.0, 2.0]}, r"J has shape \(2,\).*per bond \(24\)"),
        (HAMILTONIANS, {"name": "heisenberg", "marshall": 1}, "hamiltonian.marshall=1"),
        (HAMILTONIANS, {"name": "pauli"}, "hamiltonian.file: missing"),
        (HAMILTONIANS, {"name": "pauli", "file": "no\0"}, "no such file; give .* Pauli strings"),
        (LATTICES, {"name": "positions", "file": "x" * 5000}, "no such file; give .* header x,y"),
        (LATTICES, {"name": "square", "periodic": [True] * 3}, "Square: periodic is .*per direc"),
        (LATTICES, {"name": "chain", "periodic": [True, False]}, "lattice.periodic="),
        (LATTICES, {"name": "kagome", "Lx": 30_000}, "Kagome: Lx=30000 Ly=2: 180000 sites asked"),
        (LATTICES, {"name": "chain", "Lx": 10**9}, "lattice.Lx=1000000000: must be .*<= 32768"),
    ],
)  # fmt: skip
def test_what_is_refused(group: Group, mapping: dict[str, object], line: str) -> None:
    with pytest.raises(InputError, match=line) as error:
        group.read(mapping).build(lattice=Square(4, 4), n_sites=16)
    text = str(error.value)
    assert text.startswith(group.name) and "\n" not in text and len(text) <= 400


def test_positional_arguments() -> None:
    atoms = Rydberg(Square(2, 3, True), 7.0, 2.0, 0.5)
    assert (atoms.V, atoms.delta[0], atoms.Omega[0], atoms.lattice.shape) == (7.0, 2.0, 0.5, (2, 3))
    model = XXZ(Chain(4, True), 2.0, 3.0, 0.5)
    assert (model.J[0], model.Delta[0], model.h[0], model.marshall) == (2.0, 3.0, 0.5, True)
