"""How symmetric a state is: against the dense projection, and what its images have together."""

from __future__ import annotations

import pytest
import torch
from states import ComplexTable, TableWavefunction, amplitudes, random_table
from torch import Tensor
from torch.testing import assert_close

from hamiltonians import J1J2, Rydberg, TransverseFieldIsing
from hamiltonians.exact import basis, dense_matrix, ground_state
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Chain, Square
from hamiltonians.lattices.symmetry_group import SymmetryGroup
from nqs.vmc.evaluation import Evaluation, evaluate
from nqs.vmc.observables import BrokenSymmetry, Request
from nqs.wavefunctions.symmetrised import Symmetrised
from nqs.wavefunctions.wavefunction import Wavefunction

ATOMS = Rydberg(Square(3, 3), V=2.0, delta=1.0)
RING = TransverseFieldIsing(Chain(5, True), J=1.0, h=0.8)
GROUPS = {
    "square": (ATOMS, Square(3, 3).point_group()),
    "ring": (RING, Chain(5, True).space_group() * SymmetryGroup.spin_flip(5)),
}
every_group = pytest.mark.parametrize("name", GROUPS)


def projection(group: SymmetryGroup) -> Tensor:
    """P (2^N, 2^N), the mean of the permutation matrices."""
    rows = basis(group.n_sites)
    places = 2 ** torch.arange(group.n_sites - 1, -1, -1)
    images = (group.images(rows).long() @ places).T  # (E, 2^N)
    result = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for place in images:
        result[torch.arange(len(rows)), place] += 1 / len(group)
    assert_close(result @ result, result)
    return result


def smooth_table(n_sites: int, seed: int) -> TableWavefunction:
    """Between symmetric and not."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2**n_sites, generator=generator, dtype=torch.float64)
    return TableWavefunction((0.4 * noise).exp())


def state(kind: str, n_sites: int) -> Wavefunction:
    if kind == "complex":
        generator = torch.Generator().manual_seed(5)
        values = torch.randn(2**n_sites, generator=generator, dtype=torch.complex128)
        return ComplexTable(values + 1.5)
    return smooth_table(n_sites, 1) if kind == "smooth" else random_table(n_sites, 2)


def measured(psi: Wavefunction, hamiltonian: Hamiltonian, n: int, seed: int = 0) -> Evaluation:
    return evaluate(psi, hamiltonian, n, torch.Generator().manual_seed(seed), chunk=5_000)


@every_group
@pytest.mark.parametrize("kind", ["smooth", "random", "complex"])
def test_the_weight_is_that_of_the_projection(name: str, kind: str) -> None:
    """Of 15 000 draws within 4 standard errors (false alarms 6e-5), and exactly by enumeration."""
    hamiltonian, group = GROUPS[name]
    psi = state(kind, group.n_sites)
    vector = amplitudes(psi).detach()
    projected = projection(group).to(vector.dtype) @ vector
    expected = float((vector.conj() @ projected).real)
    estimate = measured(psi, hamiltonian, 15_000).observables["symmetric_weight"]
    assert 0 < float(estimate.error) < 0.01
    assert abs(float(estimate.value) - expected) < 4 * float(estimate.error)
    request = Request(hamiltonian, hamiltonian.lattice, psi)
    exact = BrokenSymmetry(request).expectation(basis(group.n_sites), vector)
    assert float(exact["symmetric_weight"]) == pytest.approx(expected, abs=1e-12)


@every_group
def test_all_images_together(name: str) -> None:
    """Density and correlations of the mean probability, within 5 standard errors (false alarms
    6e-7 for each of 90 numbers); the state's own are far away."""
    hamiltonian, group = GROUPS[name]
    psi = random_table(group.n_sites, 2)
    chances = projection(group) @ amplitudes(psi).detach().square()
    bits = basis(group.n_sites).double()
    density = chances @ bits
    pairs = torch.einsum("s,si,sj->ij", chances, bits, bits)
    expected = {"density": density, "connected": pairs - torch.outer(density, density)}
    found = measured(psi, hamiltonian, 15_000)
    for key, value in expected.items():
        estimate = found.observables[f"symmetric_{key}"]
        assert ((estimate.value - value).abs() < 5 * estimate.error).all()
    own = found.observables["density"]
    assert ((own.value - density).abs() > 8 * own.error).any()
    request = Request(hamiltonian, hamiltonian.lattice, psi)
    exact = BrokenSymmetry(request).expectation(basis(group.n_sites), amplitudes(psi).detach())
    assert_close(exact["symmetric_density"], density)
    assert_close(exact["symmetric_connected"], expected["connected"])


def test_one_of_two_patterns() -> None:
    """A checkerboard without its counterpart: half of it, and a density of 1/2 everywhere."""
    lattice = Square(2, 2)
    hamiltonian = Rydberg(lattice, V=7.0, delta=4.0)
    table = torch.full((16,), 1e-4, dtype=torch.float64)
    table[0b1001] = 1.0
    psi = TableWavefunction(table)
    found = measured(psi, hamiltonian, 2_000).observables
    assert float(found["symmetric_weight"].value) == pytest.approx(0.5, abs=0.05)
    assert_close(found["symmetric_density"].value, torch.full((4,), 0.5).double(), rtol=0, atol=0.1)
    assert float(found["density"].value[0]) == pytest.approx(1.0, abs=0.01)


@every_group
def test_a_symmetric_state_has_all_of_it(name: str) -> None:
    """By construction, of a part of the symmetries, and by its numbers alone."""
    hamiltonian, group = GROUPS[name]
    base = random_table(group.n_sites, 2)
    psi = Symmetrised(base, group)
    logs = psi.log_psi(basis(group.n_sites)).detach()
    part = SymmetryGroup.generated_by(group.generating_set()[:1])
    for symmetric in (psi, TableWavefunction(logs.exp())):
        found = measured(symmetric, hamiltonian, 500).observables
        assert float(found["symmetric_weight"].value) == pytest.approx(1, abs=1e-12)
        assert "symmetric_density" not in found
    less = measured(Symmetrised(base, part), hamiltonian, 500).observables["symmetric_weight"]
    assert float(less.value) < 0.9


def test_it_is_left_out_where_nothing_is_known() -> None:
    """Signs that may change under a symmetry, and couplings without any."""
    frustrated = J1J2(Square(2, 2), J2=0.5, marshall=False)
    uneven = Rydberg(Chain(3), V=7.0, delta=[1.0, 2.0, 3.0])
    for hamiltonian in (frustrated, uneven):
        found = measured(random_table(hamiltonian.n_sites), hamiltonian, 50).observables
        assert not [key for key in found if key.startswith("symmetric_")]


@every_group
def test_images_together_are_no_worse(name: str) -> None:
    """The laws that the head of the file states: energy not above, overlap not below."""
    hamiltonian, group = GROUPS[name]
    matrix = torch.from_numpy(dense_matrix(hamiltonian))
    exact = torch.from_numpy(ground_state(hamiltonian, k=1).state).abs()
    for seed in range(10):
        vector = amplitudes(random_table(group.n_sites, seed)).detach()
        together = (projection(group) @ vector.square()).sqrt()
        assert together @ matrix @ together < vector @ matrix @ vector - 1e-6
        assert together @ exact > vector @ exact + 1e-6
