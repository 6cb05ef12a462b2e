"""Complex ln psi of real parameters, against the dense matrix and finite differences."""

from __future__ import annotations

import pytest
import torch
from covering import pairwise
from states import (
    ComplexTable,
    ComplexWavefunction,
    adam,
    all_configurations,
    amplitudes,
    complex_energy,
    complex_pauli_sum,
    matrix,
    minsr,
    network,
)
from torch import Tensor
from torch.testing import assert_close

from hamiltonians.exact import basis
from hamiltonians.lattices.lattice import Chain, Square
from nqs.vmc.energies import Blurred
from nqs.vmc.energies.local_energy import local_energies
from nqs.vmc.evaluation import evaluate
from nqs.vmc.optimise import StepRecord, optimise
from nqs.vmc.optimizers.gradient import (
    add_to_parameters,
    energy_gradient,
    flat_gradient,
    flat_parameters,
)
from nqs.vmc.optimizers.layer_jacobians import LayerJacobians
from nqs.vmc.optimizers.natural_gradient import momentum_share
from nqs.vmc.statistics import RunningMoments, energy_statistics, sample_statistics
from nqs.wavefunctions.wavefunction import Samples, Wavefunction

HAMILTONIAN = complex_pauli_sum()
MATRIX = matrix(HAMILTONIAN).to(torch.complex128)
MODELS = ("ptf", "elman", "gru", "lstm")
every_model = pytest.mark.parametrize("model", MODELS)
SHIFT, RATE, MOMENTUM = 1e-3, 0.1, 0.8


def build(model: str, *, mixed: bool = False, random: bool = True) -> ComplexWavefunction:
    lattice = Chain(6) if model in ("elman", "lstm") else Square(2, 3)
    patch = "2" if model in ("elman", "lstm") else "2x2"
    return ComplexWavefunction(network(model, lattice, patch, random=random), mixed=mixed)


def numbers(configs: Tensor) -> Tensor:
    return (configs.long() * 2 ** torch.arange(configs.shape[1] - 1, -1, -1)).sum(1)


def draw(psi: Wavefunction, seed: int = 0, n_samples: int = 60) -> tuple[Samples, Tensor]:
    samples = psi.sample(n_samples, torch.Generator().manual_seed(seed), unique=True)
    return samples, local_energies(psi, HAMILTONIAN, samples)


def explicit_jacobian(psi: Wavefunction, configs: Tensor) -> Tensor:
    """d ln psi / d theta (U, P) complex, two backward passes a row."""
    rows = []
    for config in configs:
        parts = []
        for part in ("real", "imag"):
            psi.zero_grad()
            getattr(psi.log_psi(config[None]), part).sum().backward()
            parts.append(flat_gradient(psi))
        rows.append(torch.complex(*parts))
    return torch.stack(rows)


def dense_direction(
    psi: Wavefunction, samples: Samples, e_loc: Tensor, old: Tensor | None
) -> Tensor:
    """(Re O^dagger O + lambda)^-1 Re O^dagger (e - mu O delta_old) + mu delta_old."""
    weights = samples.weights.to(torch.complex128)
    jacobian = explicit_jacobian(psi, samples.configs)
    o = weights.sqrt()[:, None] * (jacobian - weights @ jacobian)
    e = weights.sqrt() * (e_loc - weights @ e_loc)
    steps = RATE * (e_loc - samples.weights.to(e_loc.dtype) @ e_loc)
    kept = MOMENTUM * momentum_share(steps, samples.weights, SHIFT, psi.n_sites)
    old = torch.zeros(o.shape[1], dtype=torch.float64) if old is None else kept * old
    metric = (o.conj().T @ o).real + SHIFT * torch.eye(o.shape[1], dtype=torch.float64)
    force = (o.conj().T @ (e - o @ old.to(o.dtype))).real
    return torch.linalg.solve(metric, force) + old


@every_model
def test_local_energies(model: str) -> None:
    psi = build(model)
    samples, e_loc = draw(psi)
    assert e_loc.dtype == torch.complex128 and e_loc.imag.abs().max() > 0.1
    vector = amplitudes(psi).detach()
    expected = (MATRIX @ vector / vector)[numbers(samples.configs)]
    assert_close(e_loc, expected, rtol=1e-10, atol=1e-10)


def test_zero_variance_on_an_exact_complex_eigenvector(generator: torch.Generator) -> None:
    """Sampled as well as enumerated, plain and around |psi|^2; a phase error is seen."""
    values, vectors = torch.linalg.eigh(MATRIX)
    exact, energy = ComplexTable(vectors[:, 0]), float(values[0])
    for fraction in (0.0, 0.4):
        drawn = Blurred(flip_fraction=fraction).draw(exact, HAMILTONIAN, 500, generator)
        samples, e_loc = drawn.samples, drawn.e_loc
        found = sample_statistics(e_loc, samples, 6, 0.0)
        assert found.energy == pytest.approx(energy, rel=1e-10)
        assert found.variance < 1e-18 and found.energy_error < 1e-9
        assert energy_gradient(exact, samples, e_loc).abs().max() < 1e-9
    assert evaluate(exact, HAMILTONIAN, 2_000, generator, chunk=300).variance < 1e-18
    wrong = ComplexTable(vectors[:, 0].conj())
    assert evaluate(wrong, HAMILTONIAN, 2_000, generator).variance > 0.1


def test_statistics_of_complex_energies(generator: torch.Generator) -> None:
    """Energy and error from the real parts, <|E_loc - E|^2> from both; chunks do not matter."""
    psi = build("gru")
    samples, e_loc = draw(psi, n_samples=400)
    found = sample_statistics(e_loc, samples, 6, 0.5)
    draws = e_loc.repeat_interleave(samples.counts)
    energy = float(draws.real.mean())
    assert found.energy == pytest.approx(energy, rel=1e-12)
    assert found.variance == pytest.approx(float((draws - energy).abs().square().mean()), rel=1e-12)
    error = float(draws.real.std()) / len(draws) ** 0.5
    assert found.energy_error == pytest.approx(error, rel=1e-12)
    moments = RunningMoments()
    for part in torch.arange(len(e_loc)).split(7):
        moments.add(e_loc[part], samples.counts[part])
    streamed = energy_statistics(moments, 6, 0.5)
    for name, value in vars(found).items():
        assert getattr(streamed, name) == pytest.approx(value, rel=1e-12)
    # the whole basis: <psi|(H - E)^2|psi>
    exact = all_configurations(psi)
    whole = sample_statistics(
        local_energies(psi, HAMILTONIAN, exact),
        Samples(exact.configs, exact.counts, exact.log_psi),
        6,
        0.0,
    )
    vector = amplitudes(psi).detach()
    spread = MATRIX @ vector - whole.energy * vector
    assert whole.energy == pytest.approx(
        float(complex_energy(psi, HAMILTONIAN).detach()), rel=1e-10
    )
    assert whole.variance == pytest.approx(float(spread.abs().square().sum()), rel=1e-10)


@every_model
@pytest.mark.parametrize("mixed", [False, True])
def test_gradient(model: str, mixed: bool) -> None:
    """Of the enumerated energy, by autograd and by finite differences, for any chunk."""
    psi = build(model, mixed=mixed)
    samples = all_configurations(psi)
    e_loc = local_energies(psi, HAMILTONIAN, samples)
    gradient = energy_gradient(psi, samples, e_loc, chunk=17)
    assert gradient.dtype == torch.float64
    psi.zero_grad()
    complex_energy(psi, HAMILTONIAN).backward()
    assert_close(gradient, flat_gradient(psi), rtol=1e-9, atol=1e-10)
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
    values = []
    for step in (1e-5, -2e-5):
        add_to_parameters(psi, step * direction)
        values.append(float(complex_energy(psi, HAMILTONIAN).detach()))
    slope = (values[0] - values[1]) / 2e-5
    assert slope == pytest.approx(float(gradient @ direction), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("fraction", [0.3, 0.7])
def test_importance_is_p_over_q(fraction: float) -> None:
    """Weights from |ratio|^2: no phase in them."""
    psi = build("ptf")
    drawn = Blurred(flip_fraction=fraction).draw(
        psi, HAMILTONIAN, 500, torch.Generator().manual_seed(0)
    )
    samples = drawn.samples
    p = amplitudes(psi).detach().abs().square()
    configs = basis(6)
    acts = HAMILTONIAN.off_diagonal(configs) != 0
    q = (1 - fraction) * p
    for g, flip in enumerate(HAMILTONIAN.flips):
        moved = torch.where(acts[:, g], p[numbers(configs ^ flip)], p)
        q = q + fraction / len(HAMILTONIAN.flips) * moved
    assert samples.importance is not None and samples.importance.dtype == torch.float64
    assert_close(samples.importance, (p / q)[numbers(samples.configs)], rtol=1e-9, atol=0)


@every_model
@pytest.mark.parametrize("mixed", [False, True])
def test_layer_jacobians(model: str, mixed: bool) -> None:
    """[Re; Im], also of layers that feed one of the two; whole, in chunks and in groups."""
    psi = build(model, mixed=mixed)
    samples, _ = draw(psi)
    expected = explicit_jacobian(psi, samples.configs)
    stacked = torch.cat([expected.real, expected.imag])
    for options in ({}, {"chunk": 7}, {"max_bytes": 2e4}):
        found = torch.full_like(stacked, torch.nan)
        for columns, panel in LayerJacobians(psi, samples.configs, **options).panels(90):
            assert found[:, columns].isnan().all()
            found[:, columns] = panel
        assert_close(found, stacked, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "mixed", "parameter_space", "memory_gb"),
    pairwise(MODELS, [False, True], [False, True], [1.0, 1e-4]),
)
def test_natural_gradient_is_the_dense_solve(
    model: str,
    mixed: bool,
    parameter_space: bool,
    memory_gb: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three steps with momentum, kept Jacobian or not, in either space."""
    monkeypatch.setattr(
        "nqs.vmc.optimizers.natural_gradient.fewer_parameters",
        lambda n_parameters, n_rows: parameter_space,
    )
    psi, old = build(model, mixed=mixed), None
    optimizer = minsr(RATE, diagonal_shift=SHIFT, momentum=MOMENTUM, memory_gb=memory_gb)
    for seed in range(3):
        samples, e_loc = draw(psi, seed)
        update = optimizer.update(psi, samples, e_loc)
        old = dense_direction(psi, samples, e_loc, old)
        assert_close(update, -RATE * old, rtol=0, atol=1e-10 * float(old.norm()))
        gradient = energy_gradient(psi, samples, e_loc)
        norm = optimizer.diagnostics["gradient_norm"]
        assert norm == pytest.approx(float(gradient.norm()), rel=1e-9)


@pytest.mark.parametrize("method", ["minsr", "adam"])
def test_the_loop_lowers_the_energy(method: str) -> None:
    """From a random state to half of the way to the ground state, within 5 standard errors."""
    psi = build("gru")
    start = float(complex_energy(psi, HAMILTONIAN).detach())
    ground = float(torch.linalg.eigvalsh(MATRIX)[0])
    records: list[StepRecord] = []
    optimise(
        psi,
        HAMILTONIAN,
        minsr(0.03) if method == "minsr" else adam(0.03),
        n_steps=60,
        n_samples=256,
        generator=torch.Generator().manual_seed(0),
        energies=Blurred(flip_fraction=0.3),
        after_step=lambda record: bool(records.append(record)),
    )
    end = float(complex_energy(psi, HAMILTONIAN).detach())
    assert ground - 1e-9 < end < start - 0.5 * (start - ground)
    assert records[-1].energy == pytest.approx(end, abs=10 * records[-1].energy_error + 0.3)
    assert flat_parameters(psi).dtype == torch.float64
