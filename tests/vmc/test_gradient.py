"""The energy gradient against the enumerated energy, by autograd and by finite differences."""

from __future__ import annotations

import pytest
import torch
from states import (
    all_configurations,
    enumerated_energy,
    exact_table,
    network,
    random_table,
)
from torch import nn
from torch.testing import assert_close

from hamiltonians import Rydberg, TransverseFieldIsing
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Chain, Lattice, Square
from hamiltonians.pauli import PauliSum
from nqs.vmc.energies.local_energy import local_energies
from nqs.vmc.optimizers.gradient import (
    CACHED_WORK,
    MOST_ROWS,
    add_to_parameters,
    energy_gradient,
    flat_gradient,
    flat_parameters,
    rows_at_once,
)
from nqs.wavefunctions.wavefunction import Samples

LATTICE: Lattice = Square(2, 3)
HAMILTONIANS: dict[str, Hamiltonian] = {
    "rydberg": Rydberg(LATTICE, V=7.0, delta=1.0, Omega=1.0),
    "tfim": TransverseFieldIsing(LATTICE, J=1.0, h=0.7),
    "frustrated": PauliSum(
        6, [(0.7, "XXIIII"), (-0.4, "IYYIZI"), (0.9, "ZIIIZX"), (0.3, "IZIIII")]
    ),
}

every_hamiltonian = pytest.mark.parametrize("name", HAMILTONIANS)
every_model = pytest.mark.parametrize("model", ["ptf", "gru", "table"])


def build(model: str):
    return random_table(6) if model == "table" else network(model, LATTICE)


def exact_gradient(psi, hamiltonian: Hamiltonian):
    """energy_gradient without sampling error."""
    samples = all_configurations(psi)
    return energy_gradient(psi, samples, local_energies(psi, hamiltonian, samples))


@every_hamiltonian
@every_model
def test_derivative_of_the_enumerated_energy(model: str, name: str) -> None:
    psi, hamiltonian = build(model), HAMILTONIANS[name]
    gradient = exact_gradient(psi, hamiltonian)
    psi.zero_grad()
    enumerated_energy(psi, hamiltonian).backward()
    assert gradient.abs().max() > 1e-2
    assert_close(gradient, flat_gradient(psi), rtol=1e-9, atol=1e-11)


@every_hamiltonian
@every_model
def test_finite_differences(model: str, name: str) -> None:
    psi, hamiltonian = build(model), HAMILTONIANS[name]
    gradient = exact_gradient(psi, hamiltonian)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
        values = []
        for step in (1e-5, -2e-5, 1e-5):  # there, to the other side, and back
            add_to_parameters(psi, step * direction)
            values.append(float(enumerated_energy(psi, hamiltonian).detach()))
        slope = (values[0] - values[1]) / 2e-5
        assert slope == pytest.approx(float(gradient @ direction), rel=1e-5, abs=1e-6)


@every_model
def test_a_constant_energy_has_no_influence(model: str) -> None:
    """The baseline removes it, sample by sample, not only on average."""
    psi, hamiltonian = build(model), HAMILTONIANS["rydberg"]
    samples = psi.sample(40, torch.Generator().manual_seed(2), unique=True)
    e_loc = local_energies(psi, hamiltonian, samples)
    gradient = energy_gradient(psi, samples, e_loc)
    assert gradient.abs().max() > 1e-3
    assert_close(energy_gradient(psi, samples, e_loc + 1e3), gradient, rtol=0, atol=1e-9)
    constant = energy_gradient(psi, samples, torch.full_like(e_loc, -3.0))
    assert constant.abs().max() < 1e-12


@pytest.mark.parametrize("name", ["rydberg", "tfim"])
def test_vanishes_at_the_ground_state_for_any_samples(name: str) -> None:
    hamiltonian = HAMILTONIANS[name]
    psi = exact_table(hamiltonian)
    samples = psi.sample(20, torch.Generator().manual_seed(0), unique=True)
    gradient = energy_gradient(psi, samples, local_energies(psi, hamiltonian, samples))
    assert gradient.abs().max() < 1e-8


@every_model
def test_counts_are_repeated_rows_and_chunks_do_not_matter(model: str) -> None:
    psi, hamiltonian = build(model), HAMILTONIANS["rydberg"]
    samples = psi.sample(300, torch.Generator().manual_seed(3), unique=True)
    assert samples.counts.max() > 1
    e_loc = local_energies(psi, hamiltonian, samples)
    gradient = energy_gradient(psi, samples, e_loc)
    rows = torch.arange(len(e_loc)).repeat_interleave(samples.counts)
    ones = torch.ones_like(rows)
    written_out = Samples(samples.configs[rows], ones, samples.log_psi[rows])
    assert_close(energy_gradient(psi, written_out, e_loc[rows]), gradient, rtol=1e-10, atol=1e-12)
    for chunk in (1, 7):
        assert_close(
            energy_gradient(psi, samples, e_loc, chunk=chunk), gradient, rtol=1e-10, atol=1e-12
        )


def test_unbiased(generator: torch.Generator) -> None:
    """Mean of 400 estimates from 200 samples against the exact gradient, over all parameters.

    The baseline from the same samples scales the mean by (1 - 1/n). Chi-square per parameter with
    the estimated scatter: the largest of 64 |z| below 6 has a false-alarm rate below 1e-6.
    """
    psi, hamiltonian = build("table"), HAMILTONIANS["tfim"]
    exact = exact_gradient(psi, hamiltonian)
    estimates = []
    for _ in range(400):
        samples = psi.sample(200, generator, unique=True)
        estimates.append(energy_gradient(psi, samples, local_energies(psi, hamiltonian, samples)))
    scatter = torch.stack(estimates)
    error = scatter.std(0) / len(estimates) ** 0.5
    z = (scatter.mean(0) / (1 - 1 / 200) - exact) / error
    assert z.abs().max() < 6
    assert (exact / error).abs().max() > 12  # a wrong sign or factor 2 would be seen


def test_earlier_gradients_do_not_leak_in() -> None:
    psi, hamiltonian = build("gru"), HAMILTONIANS["rydberg"]
    first = exact_gradient(psi, hamiltonian)
    for parameter in psi.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    assert_close(exact_gradient(psi, hamiltonian), first, rtol=0, atol=0)


def test_flat_vectors() -> None:
    """One order for parameters, gradients and updates; no gradient counts as zero."""
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = flat_parameters(module)
    assert before.shape == (2 * 3 + 3 + 3 + 1,) and not before.requires_grad
    module[1].weight.grad = torch.tensor([[1.0, 2.0, 3.0]])
    expected = torch.zeros(13)
    expected[9:12] = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(flat_gradient(module), expected)
    update = torch.arange(13, dtype=torch.float64)
    add_to_parameters(module, update)
    assert_close(flat_parameters(module), before + update.float(), rtol=0, atol=1e-6)
    assert module[0].weight.dtype == torch.float32


def test_float32_parameters_give_a_float32_gradient_close_to_the_exact_one() -> None:
    psi = network("ptf", Chain(6), "2")
    hamiltonian = Rydberg(Chain(6), V=3.0)
    double = exact_gradient(psi, hamiltonian)
    single = exact_gradient(psi.float(), hamiltonian)
    assert single.dtype == torch.float32
    assert_close(single.double(), double, rtol=1e-3, atol=1e-4)


def test_rows_at_once_fall_with_the_work_of_a_row() -> None:
    psi, configs = build("table"), torch.zeros(5, 64, dtype=torch.bool)
    size = sum(p.numel() for p in psi.parameters())
    assert rows_at_once(psi, configs) == min(MOST_ROWS, CACHED_WORK // (64 * size))
    psi.more = torch.nn.Parameter(torch.zeros(10**6))
    assert rows_at_once(psi, configs) == CACHED_WORK // (64 * (size + 10**6)) < 100
    assert rows_at_once(psi, configs.expand(5, 64).repeat(1, 10**4)) == 1
    assert rows_at_once(psi, configs.to("meta")) == MOST_ROWS
