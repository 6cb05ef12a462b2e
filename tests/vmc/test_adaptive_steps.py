"""The slope along the last direction, and the step that follows it."""

from __future__ import annotations

import math

import pytest
import torch
from states import minsr
from test_natural_gradient import HAMILTONIAN, build, draw, in_space
from torch import Tensor

from hamiltonians.exact import basis
from nqs.vmc.energies.local_energy import local_energies
from nqs.vmc.optimise import optimise
from nqs.vmc.optimizers.gradient import add_to_parameters, flat_parameters
from nqs.vmc.optimizers.jacobian import Jacobian
from nqs.vmc.optimizers.natural_gradient import GAIN, NaturalGradient, in_units_of
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.wavefunction import Samples


def every_configuration(psi: Autoregressive) -> tuple[Samples, Tensor]:
    """All of them, weighted by |psi|^2, and their local energies."""
    configs = basis(HAMILTONIAN.n_sites)
    with torch.no_grad():
        log_psi = psi.log_psi(configs)
        ones = torch.ones(len(configs), dtype=torch.int64)
        samples = Samples(configs, ones, log_psi, (2 * log_psi).exp())
        return samples, local_energies(psi, HAMILTONIAN, samples)


def test_the_slope_is_the_energys_derivative_along_the_direction() -> None:
    """sum_s e_s (O delta)_s = -1/2 dE/dx of theta - x delta at x = 0, by central differences."""
    psi = build("ptf-factored")
    direction = torch.randn(
        len(flat_parameters(psi)),
        generator=torch.Generator().manual_seed(0),
        dtype=torch.float64,
    )
    samples, e_loc = every_configuration(psi)
    jacobian = Jacobian(psi, samples)
    _, image = jacobian.gram(direction)
    slope = float(jacobian.rows(e_loc - samples.weights @ e_loc) @ image)
    energies, width = [], 1e-4
    for sign in (1, -2):
        add_to_parameters(psi, sign * width * direction)
        now, energy = every_configuration(psi)
        energies.append(float(now.weights @ energy))
    derivative = (energies[1] - energies[0]) / (2 * width)
    assert derivative == pytest.approx(-2 * slope, rel=1e-5)


def test_noise_alone_has_a_slope_of_one_standard_error() -> None:
    """mean 0 and mean square 1 over 400 batches of 200: each within 4 errors, 1 in 16 000."""
    generator = torch.Generator().manual_seed(1)
    e, x = torch.randn(2, 400, 200, generator=generator, dtype=torch.float64)
    x = x * torch.logspace(0, 1, 200)
    t = in_units_of((e * x).sum(1), (e.square() * x.square()).sum(1).sqrt())
    assert abs(float(t.mean())) < 4 / 20
    assert abs(float(t.square().mean()) - 1) < 4 * math.sqrt(2) / 20


@pytest.mark.parametrize("space", ["rows", "parameters"])
def test_steps_that_go_too_far_shorten(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one state: back and forth over the minimum with steps 30 times too long, never with
    steps far too short."""
    in_space(monkeypatch, space == "parameters")
    factors = {}
    for rate in (1e-3, 3.0):
        psi = build("ptf-factored")
        optimizer = minsr(rate, adaptive=True, momentum=0.0, implicit=True)
        factors[rate] = trained(psi, optimizer)
    assert min(factors[1e-3]) == 1.0
    assert factors[3.0][-1] < 0.3
    changes = [
        after / before for before, after in zip(factors[3.0], factors[3.0][1:], strict=False)
    ]
    assert min(changes) >= math.exp(-GAIN) * (1 - 1e-12)


def trained(psi: Autoregressive, optimizer: NaturalGradient) -> list[float]:
    """The factor after each of 20 steps."""
    factors: list[float] = []

    def note(_: object) -> bool:
        factors.append(optimizer.factor)
        return False

    generator = torch.Generator().manual_seed(0)
    optimise(
        psi, HAMILTONIAN, optimizer, n_steps=20, n_samples=200, generator=generator, after_step=note
    )
    return factors


@pytest.mark.parametrize("warm", [False, True])
def test_the_first_step_of_a_warm_start_minds_the_shift(warm: bool) -> None:
    """Shorter by the root of what the leverage raises the shift by, if it raises it at all."""
    for leverage, raises in ((0.2, True), (1.0, False)):
        psi = build("ptf-factored")
        samples, e_loc = draw(psi)
        optimizer = minsr(0.1, adaptive=True, leverage=leverage, diagonal_shift=1e-6)
        optimizer.prepare(HAMILTONIAN, n_steps=10, warm_start=warm)
        optimizer.update(psi, samples, e_loc)
        ratio = 1e-6 / optimizer.diagnostics["diagonal_shift"]
        assert (ratio < 0.1) == raises
        expected = 0.1 * ratio**0.5 if warm and raises else 0.1
        assert optimizer.diagnostics["learning_rate"] == pytest.approx(expected)


def test_the_step_is_the_factor_times_the_rate() -> None:
    psi = build("gru-2")
    samples, e_loc = draw(psi)
    optimizer = minsr(0.1, adaptive=True)
    optimizer.load_state_dict(optimizer.state_dict() | {"factor": 0.25})
    optimizer.update(psi, samples, e_loc)
    assert optimizer.diagnostics["learning_rate"] == pytest.approx(0.025)
    assert optimizer.factor == 0.25  # no last direction, nothing to learn from
