"""Optimising symmetrised states: Jacobians that sum images, orbits merged, Hamiltonians judged."""

from __future__ import annotations

import pytest
import torch
from states import minsr
from torch import Tensor
from torch.testing import assert_close

from hamiltonians import J1J2, Heisenberg, Rydberg, TransverseFieldIsing
from hamiltonians.exact import basis, dense_matrix, ground_state
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Chain, Square
from hamiltonians.lattices.symmetry_group import SymmetryGroup
from nqs.vmc.energies import Blurred
from nqs.vmc.energies.local_energy import local_energies
from nqs.vmc.evaluation import evaluate
from nqs.vmc.optimise import StepRecord, optimise
from nqs.vmc.optimizers import natural_gradient
from nqs.vmc.optimizers.gradient import energy_gradient, flat_gradient
from nqs.vmc.optimizers.layer_jacobians import LayerJacobians
from nqs.vmc.product_state import complex_product_state
from nqs.wavefunctions.symmetrised import Symmetrised
from nqs.wavefunctions.wavefunction import Samples, Wavefunction
from tests.vmc.states import (
    ComplexWavefunction,
    all_configurations,
    enumerated_energy,
    network,
    numbers,
)
from tests.wavefunctions.systems import build

SQUARE = Square(3, 3)
HAMILTONIAN = Rydberg(SQUARE, V=3.0, delta=1.0)
SHIFT, RATE = 1e-3, 0.1
every_model = pytest.mark.parametrize("model", ["ptf", "gru", "lstm"])


def symmetrised(model: str) -> Symmetrised:
    return Symmetrised(network(model, SQUARE), SQUARE.point_group())


def dense_jacobian(psi: Wavefunction, configs: Tensor) -> Tensor:
    """d ln psi / d theta, rows of Re then of Im, one backward pass each, (R, P)."""
    rows = []
    for part in ("real", "imag"):
        for config in configs:
            psi.zero_grad()
            log_psi = psi.log_psi(config[None])
            if part == "imag" and not log_psi.is_complex():
                continue
            getattr(log_psi, part).sum().backward()
            rows.append(flat_gradient(psi))
    return torch.stack(rows)


def direction(psi: Wavefunction, samples: Samples, e_loc: Tensor) -> Tensor:
    """(O^T O + lambda)^-1 O^T e from the dense Jacobian."""
    weights, jacobian = samples.weights, dense_jacobian(psi, samples.configs)
    error = e_loc - (weights.to(e_loc.dtype) @ e_loc)
    parts = jacobian.split(len(weights))
    errors = [error.real, error.imag] if len(parts) == 2 else [error]
    o = torch.cat([weights.sqrt()[:, None] * (part - weights @ part) for part in parts])
    e = torch.cat([weights.sqrt() * part for part in errors])
    return torch.linalg.solve(o.T @ o + SHIFT * torch.eye(o.shape[1]).double(), o.T @ e)


@every_model
@pytest.mark.parametrize("parameter_space", [False, True])
@pytest.mark.parametrize("memory_gb", [1.0, 1e-4])
def test_minsr_is_the_dense_jacobians_direction(
    model: str, parameter_space: bool, memory_gb: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    psi = symmetrised(model)
    samples = psi.sample(25, torch.Generator().manual_seed(0), unique=True)
    e_loc = local_energies(psi, HAMILTONIAN, samples)
    monkeypatch.setattr(natural_gradient, "fewer_parameters", lambda p, r: parameter_space)
    optimizer = minsr(RATE, diagonal_shift=SHIFT, memory_gb=memory_gb)
    update = optimizer.update(psi, samples, e_loc)
    expected = -RATE * direction(psi, samples, e_loc)
    assert_close(update, expected, rtol=0, atol=1e-10 * float(expected.norm()))
    norm = energy_gradient(psi, samples, e_loc).norm()
    assert optimizer.diagnostics["gradient_norm"] == pytest.approx(float(norm), rel=1e-9)


@pytest.mark.parametrize("model", ["ptf", "gru", "lstm", "factored", "lptf-ptf", "lptf-factored"])
def test_layer_jacobians_add_the_images(model: str) -> None:
    """Whole, in small column blocks and in row chunks."""
    if model.startswith("lptf") or model == "factored":
        psi = Symmetrised(build(model, SQUARE, "2x2"), SQUARE.point_group())
    else:
        psi = symmetrised(model)
    configs = basis(9)[5:500:50]
    expected = dense_jacobian(psi, configs)
    for chunk, max_columns in ((1_000, 10**6), (3, 20)):
        found = torch.full_like(expected, torch.nan)
        for begin, block in LayerJacobians(psi, configs, chunk=chunk).blocks(max_columns):
            found[:, begin : begin + block.shape[1]] = block
        assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("odd", [False, True])
def test_minsr_of_a_complex_state(odd: bool) -> None:
    """Momentum 0 and pi of a ring."""
    ring = Chain(6, True)
    group = ring.translations()
    if odd:
        group = group.with_characters((-1.0) ** group.permutations[:, 0])
    psi = Symmetrised(ComplexWavefunction(network("gru", ring, "2")), group)
    hamiltonian = TransverseFieldIsing(ring, J=1.0, h=0.7)
    samples = psi.sample(25, torch.Generator().manual_seed(0), unique=True)
    e_loc = local_energies(psi, hamiltonian, samples)
    update = minsr(RATE, diagonal_shift=SHIFT).update(psi, samples, e_loc)
    expected = -RATE * direction(psi, samples, e_loc)
    assert_close(update, expected, rtol=0, atol=1e-10 * float(expected.norm()))


EXCHANGE = {
    "n_up": (Heisenberg(Chain(6, True), marshall=True), "4", {"n_up": 3}),
    "phase": (J1J2(Square(2, 3), J2=0.5, marshall=False), "2x2", {"phase": True}),
    "n_up-phase": (J1J2(Square(2, 4), J2=0.5, marshall=False), "2x3", {"n_up": 4, "phase": True}),
}
every_exchange = pytest.mark.parametrize("name", EXCHANGE)


def in_a_sector(model: str, name: str) -> tuple[Symmetrised, Hamiltonian]:
    """A state of all symmetries of the magnet on a ring or rectangle, spin flip included."""
    hamiltonian, patch, options = EXCHANGE[name]
    assert hamiltonian.lattice is not None
    base = build(model, hamiltonian.lattice, patch, **options)
    group = hamiltonian.lattice.point_group() * SymmetryGroup.spin_flip(base.n_sites)
    return Symmetrised(base, group), hamiltonian


@every_exchange
@pytest.mark.parametrize("model", ["factored", "gru"])
def test_minsr_in_a_sector_and_with_phases(model: str, name: str) -> None:
    """Local energies are H psi / psi row by row, the direction is the dense Jacobian's."""
    psi, hamiltonian = in_a_sector(model, name)
    samples = psi.sample(25, torch.Generator().manual_seed(0), unique=True)
    e_loc = local_energies(psi, hamiltonian, samples)
    with torch.no_grad():
        vector = psi.log_psi(basis(psi.n_sites)).exp()
    local = torch.from_numpy(dense_matrix(hamiltonian)).to(vector.dtype) @ vector / vector
    rows = numbers(samples.configs)
    assert_close(e_loc, local[rows], rtol=1e-9, atol=1e-9)
    update = minsr(RATE, diagonal_shift=SHIFT).update(psi, samples, e_loc)
    expected = -RATE * direction(psi, samples, e_loc)
    assert_close(update, expected, rtol=0, atol=1e-10 * float(expected.norm()))


@every_exchange
def test_orbits_in_a_sector_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    psi, hamiltonian = in_a_sector("gru", name)
    found = {}
    for merge in (True, False):
        if not merge:
            monkeypatch.setattr(Symmetrised, "representatives", lambda self, configs: configs)
        generator = torch.Generator().manual_seed(0)
        drawn = Blurred(flip_fraction=0.5).draw(psi, hamiltonian, 200, generator)
        samples, e_loc = drawn.samples, drawn.e_loc
        update = minsr(RATE, diagonal_shift=SHIFT).update(psi, samples, e_loc)
        found[merge] = (len(e_loc), samples.weights.to(e_loc.dtype) @ e_loc, update)
    assert found[True][0] < found[False][0]
    assert_close(found[True][1].real, found[False][1].real, rtol=1e-12, atol=0)
    scale = float(found[False][2].norm())
    assert_close(found[True][2], found[False][2], rtol=0, atol=1e-9 * scale)


def test_symmetric_signs_are_found() -> None:
    """Frustrated magnet, no sign rule given; its ground state is one of trivial characters."""
    hamiltonian, n_up = J1J2(Square(2, 4), J2=0.5, marshall=False), 4
    exact = ground_state(hamiltonian, n_up=n_up)
    lattice, inside = Square(2, 4), basis(8)[basis(8).sum(1) == n_up]
    state = torch.zeros(256, dtype=torch.float64)
    state[numbers(inside)] = torch.from_numpy(exact.state)
    for row in lattice.point_group().permutations:
        assert_close(state[numbers(inside[:, row])], state[numbers(inside)], rtol=0, atol=1e-8)
    base = build("gru", lattice, "2x2", n_up=n_up, phase=True)
    psi = Symmetrised(base, lattice.point_group())
    generator = torch.Generator().manual_seed(0)
    chances, phases = complex_product_state(hamiltonian, generator, n_steps=150, n_samples=256)
    psi.set_product_state(chances, phases=phases)
    optimizer = minsr(0.05, diagonal_shift=1e-2, max_norm=0.3)
    optimise(psi, hamiltonian, optimizer, n_steps=60, n_samples=256, generator=generator)
    found = evaluate(psi, hamiltonian, 4_000, generator)
    assert found.energy == pytest.approx(exact.energy, rel=1e-2)
    assert found.energy > exact.energy - 5 * found.energy_error


def test_local_energies_average_to_the_energy() -> None:
    psi = symmetrised("gru")
    everything = all_configurations(psi)
    e_loc = local_energies(psi, HAMILTONIAN, everything)
    energy = float(enumerated_energy(psi, HAMILTONIAN).detach())
    assert float(everything.weights @ e_loc) == pytest.approx(energy, abs=1e-9)
    ground = ground_state(HAMILTONIAN, k=1).energy
    assert energy > ground
    vector = psi.log_psi(basis(9)).exp()
    local = (torch.from_numpy(dense_matrix(HAMILTONIAN)) @ vector) / vector
    assert_close(e_loc, local, rtol=0, atol=1e-9)


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_orbits_share_a_row_and_nothing_else_changes(
    fraction: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same draws, written out: equal averages, equal natural gradient, fewer rows."""
    psi = symmetrised("gru")
    found = {}
    for merge in (True, False):
        if not merge:
            monkeypatch.setattr(Symmetrised, "representatives", lambda self, configs: configs)
        generator = torch.Generator().manual_seed(0)
        drawn = Blurred(flip_fraction=fraction).draw(psi, HAMILTONIAN, 200, generator)
        samples, e_loc = drawn.samples, drawn.e_loc
        update = minsr(RATE, diagonal_shift=SHIFT).update(psi, samples, e_loc)
        found[merge] = (len(e_loc), samples.n_samples, samples.weights @ e_loc, update)
    assert found[True][0] < 0.6 * found[False][0] and found[True][1] == found[False][1]
    assert_close(found[True][2], found[False][2], rtol=1e-12, atol=0)
    scale = float(found[False][3].norm())
    assert_close(found[True][3], found[False][3], rtol=0, atol=1e-9 * scale)


def test_optimise_lowers_the_energy_and_asks_for_the_symmetry() -> None:
    psi = Symmetrised(network("gru", SQUARE, random=False), SQUARE.point_group())
    records: list[StepRecord] = []

    def keep(record: StepRecord) -> bool:
        records.append(record)
        return False

    options = {"n_steps": 15, "n_samples": 100, "generator": torch.Generator().manual_seed(0)}
    optimise(psi, HAMILTONIAN, minsr(0.05), after_step=keep, **options)  # type: ignore[arg-type]
    assert records[-1].energy < records[0].energy and records[-1].variance < records[0].variance
    uneven = Rydberg(SQUARE, V=3.0, delta=[1.0] * 8 + [1.2])
    with pytest.raises(ValueError, match="not invariant under these permutations"):
        optimise(psi, uneven, minsr(0.05), **options)  # type: ignore[arg-type]
