"""E_loc = (H psi)(s) / psi(s), constant on an eigenstate."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from states import (
    TableWavefunction,
    all_configurations,
    amplitudes,
    exact_table,
    matrix,
    network,
    pauli_sums,
    random_table,
)
from torch import Tensor
from torch.testing import assert_close

from hamiltonians import Rydberg, TransverseFieldIsing
from hamiltonians.exact import basis, ground_state
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Chain, Kagome, Square
from hamiltonians.pauli import PauliSum
from nqs.vmc.energies.local_energy import local_energies
from nqs.wavefunctions.wavefunction import Samples, Wavefunction


def xxz_ring(n_sites: int) -> PauliSum:
    """Stoquastic after the rotation of every other site; conserves the number of excitations."""
    terms = []
    for i in range(n_sites):
        j = (i + 1) % n_sites
        terms += [(-1.0, f"X{i} X{j}"), (-1.0, f"Y{i} Y{j}"), (0.7, f"Z{i} Z{j}")]
    return PauliSum(n_sites, terms)


STOQUASTIC: dict[str, Hamiltonian] = {
    "rydberg": Rydberg(Square(2, 3), V=7.0, delta=1.0, Omega=1.0),
    "rydberg-per-site": Rydberg(
        Kagome(2, 1),
        V=3.0,
        delta=[0.5, -1.0, 2.0, 0.3, 1.0, 0.0],
        Omega=[1.0, 0.3, 2.0, 0.9, 1.0, 0.7],
    ),
    "tfim": TransverseFieldIsing(Chain(6, periodic=True), J=1.0, h=0.8),
    "tfim-random": TransverseFieldIsing(
        Chain(5), J=[1.0, -0.4, 0.7, 0.2], h=[0.3, 1.1, 0.9, 0.5, 2.0]
    ),
    "xxz": xxz_ring(6),
    "pauli": PauliSum(
        3, [(-1.0, "XXI"), (-0.5, "IXX"), (0.8, "ZIZ"), (-0.3, "IZI"), (-0.2, "XIX")]
    ),
}


def dense_local_energies(psi: Wavefunction, hamiltonian: Hamiltonian, samples: Samples) -> Tensor:
    """Slow twin: the dense matrix times the vector."""
    vector = amplitudes(psi).detach()
    rows = all_rows(samples.configs)
    return ((matrix(hamiltonian).to(torch.complex128) @ vector.to(torch.complex128)).real / vector)[
        rows
    ]


def all_rows(configs: Tensor) -> Tensor:
    return (configs[:, None] == basis(configs.shape[1])).all(2).to(torch.int8).argmax(1)


@pytest.mark.parametrize("name", STOQUASTIC)
def test_zero_variance_on_the_ground_state(name: str) -> None:
    hamiltonian = STOQUASTIC[name]
    psi = exact_table(hamiltonian)
    samples = all_configurations(psi)
    e_loc = local_energies(psi, hamiltonian, samples)
    exact = ground_state(hamiltonian, k=1).energy
    weights = samples.weights
    assert_close(weights @ e_loc, torch.tensor(exact, dtype=torch.float64), rtol=0, atol=1e-9)
    assert float(weights @ (e_loc - exact).square()) < 1e-18
    likely = samples.counts > 1e-12
    assert (e_loc - exact)[likely].abs().max() < 1e-6
    # a law of the ground state only: any other state scatters
    other = random_table(hamiltonian.n_sites)
    assert local_energies(other, hamiltonian, all_configurations(other)).var() > 1e-2


@given(data=st.data(), n_sites=st.integers(1, 5), real=st.booleans(), seed=st.integers(0, 9))
def test_any_hamiltonian_on_any_state(
    data: st.DataObject, n_sites: int, real: bool, seed: int
) -> None:
    hamiltonian = data.draw(pauli_sums(n_sites, real))
    psi = random_table(n_sites, seed)
    samples = all_configurations(psi)
    e_loc = local_energies(psi, hamiltonian, samples)
    assert e_loc.dtype == torch.float64 and e_loc.shape == (2**n_sites,)
    assert_close(e_loc, dense_local_energies(psi, hamiltonian, samples), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("model", ["ptf", "gru"])
@given(data=st.data(), seed=st.integers(0, 3))
def test_any_hamiltonian_on_a_network(model: str, data: st.DataObject, seed: int) -> None:
    lattice = Square(2, 3)
    hamiltonian = data.draw(pauli_sums(6))
    psi = network(model, lattice, seed=seed)
    samples = psi.sample(50, torch.Generator().manual_seed(seed), unique=True)
    expected = dense_local_energies(psi, hamiltonian, samples)
    for max_rows in (32_768, 7):
        e_loc = local_energies(psi, hamiltonian, samples, max_rows=max_rows)
        assert_close(e_loc, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", STOQUASTIC)
@pytest.mark.parametrize("model", ["ptf", "lstm"])
def test_our_hamiltonians_on_a_network(model: str, name: str) -> None:
    hamiltonian = STOQUASTIC[name]
    psi = network(model, Chain(hamiltonian.n_sites), "2")
    samples = psi.sample(200, torch.Generator().manual_seed(0))
    e_loc = local_energies(psi, hamiltonian, samples)
    assert_close(e_loc, dense_local_energies(psi, hamiltonian, samples), rtol=1e-10, atol=1e-10)


def test_no_flips_leave_the_diagonal() -> None:
    hamiltonian = Rydberg(Chain(4), V=2.0, delta=0.5, Omega=0.0)
    for psi in (random_table(4), network("ptf", Chain(4), "2"), network("gru", Chain(4), "2")):
        samples = all_configurations(psi)
        e_loc = local_energies(psi, hamiltonian, samples)
        assert_close(e_loc, hamiltonian.diagonal(samples.configs), rtol=0, atol=0)


@pytest.mark.parametrize("unneeded", [-torch.inf, torch.inf, torch.nan])
def test_vanishing_elements_stay_out_whatever_the_ratio(unneeded: float) -> None:
    """-XX-YY does not act on |00> and |11>; there psi may be 0 and the ratio infinite or 0/0."""

    class Awkward(TableWavefunction):
        def log_psi_flipped(self, configs, flips, needed=None, *, max_rows=32_768):
            result = super().log_psi_flipped(configs, flips)
            assert needed is not None and not needed.all()
            return torch.where(needed, result, unneeded)

    hamiltonian = PauliSum(2, [(-1.0, "XX"), (-1.0, "YY"), (0.5, "ZZ")])
    psi = Awkward(torch.tensor([0.0, 1.0, 2.0, 0.0]))
    configs = basis(2)
    samples = Samples(configs, torch.ones(4, dtype=torch.int64), psi.log_psi(configs).detach())
    e_loc = local_energies(psi, hamiltonian, samples)
    expected = torch.tensor([0.5, -0.5 - 2 * 2, -0.5 - 2 / 2, 0.5], dtype=torch.float64)
    assert_close(e_loc, expected, rtol=0, atol=1e-12)


def test_an_amplitude_of_zero_gives_an_infinite_energy_not_nan() -> None:
    """A row with psi = 0 where the element does act: the ratio is +inf, honest and visible."""
    hamiltonian = TransverseFieldIsing(Chain(2), J=1.0, h=1.0)
    psi = TableWavefunction(torch.tensor([1.0, 1.0, 1.0, 0.0]))
    configs = basis(2)
    samples = Samples(configs, torch.ones(4, dtype=torch.int64), psi.log_psi(configs).detach())
    e_loc = local_energies(psi, hamiltonian, samples)
    assert e_loc[3] == -torch.inf
    assert_close(e_loc[:3], torch.tensor([-1.0 - 2, 1.0 - 1, 1.0 - 1]).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [-400.0, 400.0])
def test_tiny_and_huge_ratios(shift: float) -> None:
    """Ratios of e^400 stay finite in float64; ln psi, not psi, is what is subtracted."""
    hamiltonian = PauliSum(1, [(-1.0, "X")])
    psi = TableWavefunction(torch.ones(2))
    with torch.no_grad():
        psi.log_weights[0] += 2 * shift
    e_loc = local_energies(psi, hamiltonian, all_configurations(psi))
    expected = -torch.tensor([-shift, shift], dtype=torch.float64).exp()
    assert_close(e_loc, expected, rtol=1e-9, atol=0)
