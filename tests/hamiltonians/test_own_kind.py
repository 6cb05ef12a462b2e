"""A Hamiltonian and a lattice of one's own: one file, the least code, exact against its formula."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import kronecker
import numpy as np
import pytest
import torch

from hamiltonians import XXZ, Grid, Hamiltonian, Lattice, PauliSum, Rydberg, TransverseFieldIsing
from hamiltonians.exact.diagonalisation import dense_matrix, ground_state
from hamiltonians.interface import check_interface, check_lattice
from hamiltonians.invariance import check_invariance
from hamiltonians.lattices.symmetry_group import SymmetryGroup
from nqs.conf.kinds import Group

SOURCE = '''
"""Three-body Ising terms in a transverse field, on the triangles of any lattice.

    H = -K sum_<ijk> sz_i sz_j sz_k - h sum_i sx_i
"""

import itertools
from typing import Annotated

import torch

from hamiltonians import Grid, Hamiltonian


class ThreeBody(Hamiltonian, kind="three_body"):
    """Interactions of triangles.

    Args:
        K: strength of the triangles.
        h: transverse field.
    """

    def __init__(self, lattice, K: Annotated[float, "-9 .. 9"] = 1.0, h: float = 0.5):
        self.lattice, self.n_sites, self.K, self.h = lattice, lattice.n_sites, K, h
        pairs = {tuple(pair) for pair in lattice.bonds().tolist()}
        self.triangles = torch.tensor([
            t for t in itertools.combinations(range(self.n_sites), 3)
            if pairs.issuperset(itertools.combinations(t, 2))
        ])
        self.flips = torch.eye(self.n_sites, dtype=torch.bool)

    def diagonal(self, configs):
        return -self.K * (1.0 - 2 * configs.double())[:, self.triangles].prod(2).sum(1)

    def off_diagonal(self, configs):
        return torch.full((len(configs), self.n_sites), -self.h, dtype=torch.float64)

    infinite_temperature_energy = 0.0


class Ladder(Grid, kind="ladder"):
    """Two legs of triangles."""

    cell = ((1.0, 0.0), (0.0, 1.0))
    basis = ((0.0, 0.0), (0.5, 3**0.5 / 2))

    def __init__(self, Lx: int = 3, periodic: bool = False):
        super().__init__(Lx, 1, (periodic, False))
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "three_body.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("three_body")
    del sys.modules["three_body"], Hamiltonian.kinds["three_body"], Lattice.kinds["ladder"]


def test_from_one_file_to_the_exact_energy(own: ModuleType) -> None:
    """Chosen by name or as MODULE:CLASS; triangles of the ladder: sites 0 .. 5 in zigzag."""
    lattices = Group("lattice", Lattice, frozenset(), "")
    systems = Group("hamiltonian", Hamiltonian, frozenset({"lattice", "n_sites"}), "")
    lattice = lattices.read({"name": "ladder"}).build()
    assert len(lattice.bonds()) == 9 and repr(lattice) == "Ladder(3, 1)"
    for name in ("three_body", "three_body:ThreeBody"):
        chosen = systems.read({"name": name, "K": 0.7})
        H = chosen.build(lattice=lattice, n_sites=6)
        terms = [(-0.7, dict.fromkeys((i, i + 1, i + 2), "Z")) for i in range(4)]
        matrix = kronecker.pauli_sum(6, terms + [(-0.5, {i: "X"}) for i in range(6)])
        np.testing.assert_allclose(dense_matrix(H), matrix, atol=1e-14)
        levels = np.linalg.eigvalsh(matrix)
        np.testing.assert_allclose(ground_state(H, 3).energies, levels[:3], atol=1e-10)
    assert repr(H) == "ThreeBody(Ladder(3, 1), K=0.7, h=0.5)"
    assert H.is_stoquastic and not H.is_complex and not H.conserves_magnetisation
    assert systems.keys("three_body")["K"].line == "strength of the triangles. [-9 .. 9]"


def test_its_symmetries_are_asked_of_its_elements(own: ModuleType) -> None:
    H = own.ThreeBody(own.Ladder(3))
    check_interface(H)

    def group(permutation: torch.Tensor, inverted: bool) -> SymmetryGroup:
        return SymmetryGroup.generated_by([(permutation, inverted)])

    check_invariance(H, group(torch.arange(5, -1, -1), False))
    with pytest.raises(ValueError, match="not invariant under these permutations"):
        check_invariance(H, group(torch.tensor([1, 0, 2, 3, 4, 5]), False))
    with pytest.raises(ValueError, match="not invariant under the spin flip"):
        check_invariance(H, group(torch.arange(6), True))


def test_a_bridge_says_what_it_needs(own: ModuleType) -> None:
    with pytest.raises(NotImplementedError, match=r"define ThreeBody\.pauli_terms"):
        own.ThreeBody(own.Ladder(3)).pauli_terms()


class Plain(Hamiltonian):
    """What another Hamiltonian does, without what it knows."""

    def __init__(self, other: Hamiltonian) -> None:
        self.n_sites, self.flips, self._other = other.n_sites, other.flips, other

    def diagonal(self, configs: torch.Tensor) -> torch.Tensor:
        return self._other.diagonal(configs)

    def off_diagonal(self, configs: torch.Tensor) -> torch.Tensor:
        return self._other.off_diagonal(configs)

    infinite_temperature_energy = 0.0


RING = [(0, 1), (1, 2), (2, 0)]


@pytest.mark.parametrize(
    "H",
    [
        Rydberg(Lattice([[0, 0], [1, 0], [0, 2.0]])),
        TransverseFieldIsing(Lattice([[0, 0], [1, 0], [0, 2.0]]), h=0.0),
        XXZ(Lattice([[0, 0], [1, 0], [0, 1.0]]), marshall=False),
        XXZ(Lattice([[0, 0], [1, 0], [0, 1.0]]), marshall=True),
        PauliSum(3, [(c, {i: a, j: b}) for i, j in RING for c, a, b in ((1, *"XY"), (-1, *"YX"))]),
        PauliSum(3, [(1.0, "X0"), (1.0, "X1"), (1.0, "X0 X1")]),
        PauliSum(9, [(1e-3, {0: "X"}), (1e-3, {0: "X", 1: "Z"})]),  # two sites decide
        PauliSum(11, [(1.0, {i: p, i + 1: p}) for i in range(10) for p in "XYZ"]),
        PauliSum(11, [(1.0, {i: p, i + 1: p}) for i in range(10) for p in "XZ"]),
    ],
    ids=repr,
)  # fmt: skip
def test_defaults_are_what_a_class_knows_of_itself(H: Hamiltonian) -> None:
    plain = Plain(H)
    for question in ("is_complex", "is_stoquastic", "conserves_magnetisation"):
        assert getattr(plain, question) == getattr(H, question), question
    assert repr(plain) == f"Plain({H.n_sites} sites)"


def test_signs_that_cannot_be_told_are_not_claimed() -> None:
    fields = [(-1.0, {0: "X"}), (0.5, {0: "X", 1: "Z"})]
    assert PauliSum(15, fields).is_stoquastic and Plain(PauliSum(14, fields)).is_stoquastic
    assert not Plain(PauliSum(15, fields)).is_stoquastic


@pytest.mark.parametrize(
    "H",
    [
        Rydberg(Lattice([[0, 0], [1, 0], [0, 2.0]])),
        XXZ(Lattice([[0, 0], [1, 0], [0, 1.0]]), h=[0.1, 0.0, 2.0]),
        PauliSum(10, [(1.0, "Y0 Z3"), (0.5, "X0"), (0.1, ""), (2.0, "Z1")]),
        PauliSum(3, []),
        Plain(XXZ(Lattice([[0, 0], [1, 0], [0, 1.0]]))),
    ],
    ids=repr,
)
def test_a_class_that_keeps_the_interface_passes(H: Hamiltonian) -> None:
    check_interface(H)


class Broken(Plain):
    """One member that is not what it should be."""

    def __init__(self, **members: object) -> None:
        super().__init__(TransverseFieldIsing(Lattice([[0, 0], [1, 0], [0, 2.0]]), h=0.5))
        vars(self).update(members)


EYE = torch.eye(3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("members", "line"),
    [
        ({"n_sites": 3.5}, "n_sites is 3.5; it must be a whole number"),
        ({"lattice": "square"}, "lattice is a str"),
        ({"lattice": Lattice([[0, 0], [1.0, 0]])}, "n_sites is 3, but the lattice is Lattice.2"),
        ({"flips": EYE.double()}, r"float64 Tensor of shape \(3, 3\); it must be a bool"),
        ({"flips": EYE[:, :2]}, "it must be a bool Tensor"),
        ({"flips": [0, 1, 2]}, "flips is a list"),
        ({"flips": EYE & False}, "empty row"),
        ({"flips": EYE[[0, 0, 1]]}, "equal rows"),
        ({"diagonal": lambda s: s.float().sum(1)}, r"diagonal returns a float32 Tensor of shape"),
        ({"diagonal": lambda s: s.double()}, "for 8 configurations; it must be a float64 Tensor"),
        ({"diagonal": lambda s: s.sum(1) / 0.0 * 1.0}, "diagonal returns"),
        ({"diagonal": lambda s: s.double().sum(1)}, "energy is 0; the mean of .* is 1.5"),
        ({"off_diagonal": lambda s: -0.5}, "off_diagonal returns a float for 0 configurations"),
        ({"off_diagonal": lambda s: s.double() / 0}, "numbers that are not finite"),
        ({"off_diagonal": lambda s: s.double()}, "not Hermitian: flip 0 has the element"),
        ({"off_diagonal": lambda s: s.double() * 1j}, "not Hermitian"),
        ({"off_diagonal": lambda s: 1j + 0 * s}, "complex64 Tensor"),
        ({"n_sites": torch.tensor(3)}, "n_sites is a int64 Tensor .* must be an int"),
        ({"diagonal": lambda s: {}[s]}, "diagonal raises KeyError"),
        ({"diagonal": lambda s: s.logical_not_().sum(1).double()}, "diagonal writes into the"),
        ({"off_diagonal": lambda s: torch.randn(len(s), 3).double()}, "other numbers when"),
        ({"off_diagonal": lambda s: 1e200 - 0.0 * s.double()}, "of a size beyond 1e"),
        ({"off_diagonal": lambda s: 1.0 + 0.0 * s.double(), "is_stoquastic": True}, "elements > 0"),
        ({"off_diagonal": lambda s: 1.0 + 0j * s.double(), "is_complex": False}, "is_complex is"),
        ({"is_stoquastic": None}, "is_stoquastic is a NoneType; it must be True or False"),
        ({"describe": lambda: "two\nlines"}, "describe returns 'two.*one line of text"),
        ({"describe": lambda: {}["d"]}, "describe raises KeyError"),
    ],
)  # fmt: skip
def test_a_class_that_does_not_is_refused_in_one_line(
    members: dict[str, object], line: str
) -> None:
    with pytest.raises(ValueError, match=line) as error:
        check_interface(Broken(**members))
    text = str(error.value)
    assert text.startswith("Broken: ") and "\n" not in text and len(text) < 300


@pytest.mark.parametrize(
    ("member", "value", "line"),
    [
        ("infinite_temperature_energy", math.nan, "is nan; it must be a finite number"),
        ("infinite_temperature_energy", "zero", "is 'zero'; it must be a finite number"),
        ("constant_off_diagonal", torch.tensor([0.5, 0.5, 0.5]), "constant_off_diagonal is a"),
        ("constant_off_diagonal", True, "constant_off_diagonal is a bool; it must be None or"),
    ],
)
def test_what_a_class_says_of_its_elements(member: str, value: object, line: str) -> None:
    claiming = type("Claiming", (Broken,), {member: value, "is_stoquastic": True})
    with pytest.raises(ValueError, match=line):
        check_interface(claiming())


class Two(Lattice):
    """Two sites, and members that are set afterwards."""

    def __init__(self, **members: object) -> None:
        super().__init__([[0, 0], [1, 0]])
        vars(self).update(members)


class Folded(Grid):
    """Two sites at one place."""

    cell = ((1.0, 0.0), (0.0, 1.0))
    basis = ((0.0, 0.0), (0.0, 0.0))


class Flat(Folded):
    """No plane."""

    cell = ((1.0, 0.0), (2.0, 0.0))
    basis = ((0.0, 0.0),)


@pytest.mark.parametrize(
    ("lattice", "line"),
    [
        (Two(positions=torch.zeros(2, 2)), "positions is a float32 Tensor"),
        (Two(positions=torch.full((2, 2), math.nan).double()), "must be a finite float64"),
        (Two(_distances=torch.zeros(3, 3)), r"distances has the shape \(3, 3\)"),
        (Two(shape=(3, 1)), r"2 positions, but shape \(3, 1\) with 1 sites a cell"),
        (Two(bonds=lambda: torch.tensor([[0, 7]])), "bonds returns .* of sites"),
        (Folded(2, 1), "sites 0 and 1 coincide"),
        (Flat(2, 1), "must be 2 independent vectors"),
    ],
)
def test_lattices_of_ones_own(lattice: Lattice, line: str) -> None:
    check_lattice(Two())
    with pytest.raises(ValueError, match=line):
        check_lattice(lattice)


def test_members_that_are_missing() -> None:
    broken = Broken()
    del broken.flips
    with pytest.raises(ValueError, match="Broken: sets no flips"):
        check_interface(broken)
