"""When the energy counts as rising, and what the natural gradient does about it."""

from __future__ import annotations

import pytest
import torch
from states import minsr
from test_natural_gradient import build, draw
from torch.testing import assert_close

from nqs.vmc.optimizers.energy_watch import WINDOW, EnergyWatch
from nqs.vmc.optimizers.gradient import add_to_parameters, flat_parameters


def rises_at(energies: torch.Tensor, error: float) -> int | None:
    """The first step at which a watch says so."""
    watch = EnergyWatch()
    for step, energy in enumerate(energies.tolist()):
        watch.add(energy, error)
        watch.is_lowest()
        if watch.rises():
            return step
    return None


def noise(n_series: int, n_steps: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_series, n_steps, generator=generator, dtype=torch.float64)


def test_noise_alone_is_seldom_a_rise() -> None:
    """In 60 runs of 120 steps."""
    assert all(rises_at(series - 7, 1.0) is None for series in noise(60, 120, 0))


def test_a_falling_energy_never_rises() -> None:
    falling = 30 * torch.exp(-torch.arange(200) / 40.0) + noise(20, 200, 1)
    assert all(rises_at(series, 1.0) is None for series in falling)


def test_a_rise_is_seen_within_two_windows() -> None:
    """By 4 errors of a step, on a plateau of 60 steps; misses are less likely than 1e-6."""
    for series in noise(20, 120, 2):
        series[60:] += 4
        step = rises_at(series, 1.0)
        assert step is not None and 60 <= step < 60 + 2 * WINDOW


def test_one_rare_configuration_is_no_rise() -> None:
    for series in noise(20, 120, 3):
        series[60] += 1e4
        assert rises_at(series, 1.0) is None


def test_rounding_is_no_rise() -> None:
    """Of an eigenstate, whose energies have no spread."""
    assert rises_at(-7.0 + 1e-9 * (torch.arange(60).double() % 7), 0.0) is None
    assert rises_at(torch.zeros(60).double(), 0.0) is None


def test_steps_go_back_to_the_lowest_energy_and_shorten() -> None:
    """Local energies are made up: they fall for 20 steps, then rise for good."""
    psi = build("ptf-factored")
    samples, e_loc = draw(psi)
    optimizer = minsr(1e-4, adaptive=True)
    lowest, back = None, None
    for step in range(40):
        level = -step if step < 20 else 100.0
        before = flat_parameters(psi).clone()
        update = optimizer.update(psi, samples, e_loc + level)
        add_to_parameters(psi, update)
        if step == 19:
            lowest = before
        if optimizer.diagnostics["steps_back"]:
            back = step
            break
        assert optimizer.diagnostics["learning_rate"] == 1e-4
    assert back is not None and 20 <= back < 30 and lowest is not None
    assert_close(flat_parameters(psi), lowest)
    assert optimizer.direction is None  # momentum led away from there
    optimizer.update(psi, samples, e_loc)
    assert optimizer.diagnostics["learning_rate"] == pytest.approx(0.5e-4)
    for _ in range(WINDOW):  # what is measured there from now on is the lowest
        optimizer.update(psi, samples, e_loc + 200)
    assert optimizer.diagnostics["steps_back"] == 1


def test_the_watch_is_part_of_the_state() -> None:
    """An optimizer restored a step before it goes back goes back as well, to the same place."""
    psi = build("ptf-factored")
    samples, e_loc = draw(psi)
    optimizer = minsr(1e-4, adaptive=True)
    for step in range(40):
        level = -step if step < 20 else 100.0
        state = optimizer.state_dict()
        update = optimizer.update(psi, samples, e_loc + level)
        if optimizer.diagnostics["steps_back"]:
            break
        add_to_parameters(psi, update)
    again = minsr(1e-4, adaptive=True)
    again.load_state_dict(state)
    assert_close(again.update(psi, samples, e_loc + 100.0), update, rtol=0, atol=0)
    assert again.diagnostics["steps_back"] == 1
