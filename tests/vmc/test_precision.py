"""Rounding measured, its first order cancelled, and products chosen by what was measured."""

from __future__ import annotations

import math

import pytest
import torch
from states import adam, network
from torch import Tensor

from hamiltonians import Rydberg
from hamiltonians.exact import basis
from hamiltonians.lattices.lattice import Square
from nqs.vmc.energies import Blurred, Exact, flip_precision
from nqs.vmc.energies.flip_precision import (
    FlipPrecision,
    Rounding,
    kind_of,
    rounding,
    steps_by_precision,
)
from nqs.vmc.energies.local_energy import connected, local_energy
from nqs.vmc.energies.proposal import blurred_samples
from nqs.vmc.energies.rounding import cheaper, rounded_products
from nqs.vmc.optimise import StepRecord, optimise
from nqs.vmc.statistics import sample_statistics
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.wavefunction import Samples

LATTICE = Square(2, 3)
HAMILTONIAN = Rydberg(LATTICE, V=7.0, delta=1.0, Omega=1.0)


def single(model: str = "ptf", seed: int = 0) -> Autoregressive:
    return network(model, LATTICE, seed=seed).to(torch.float32)


@torch.no_grad()
def everything(psi: Autoregressive) -> Samples:
    """The whole basis, |psi|^2 as importance."""
    configs = basis(psi.n_sites)
    log_psi = psi.log_psi(configs)
    ones = torch.ones(len(configs), dtype=torch.int64)
    return Samples(configs, ones, log_psi, importance=(2 * log_psi).exp())


def enumerated(psi: Autoregressive, log_ratios: Tensor, elements: Tensor) -> float:
    samples = everything(psi)
    return float(samples.weights @ local_energy(HAMILTONIAN, samples.configs, elements, log_ratios))


@torch.no_grad()
def test_the_first_order_of_the_bias_cancels() -> None:
    """Over all configurations: 12 states, rms bias at most a third of that with ln psi in full."""
    own, mixed = [], []
    for seed in range(12):
        psi = single(seed=seed)
        samples = everything(psi)
        elements, full = connected(psi, HAMILTONIAN, samples, 64)
        _, rounded = connected(psi, HAMILTONIAN, samples, 64, precision="bfloat16")
        with rounded_products("bfloat16", torch.device("cpu")):
            log_psi = psi.log_psi(samples.configs)
        energy = enumerated(psi, full, elements)
        own.append(enumerated(psi, rounded, elements) - energy)
        other = rounded + (log_psi - samples.log_psi)[:, None]
        mixed.append(enumerated(psi, other, elements) - energy)
    rms_own, rms_mixed = (torch.tensor(x).square().mean().sqrt() for x in (own, mixed))
    assert 0 < rms_own < rms_mixed / 3


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_bias_is_the_difference_of_two_estimates(fraction: float) -> None:
    """The slow twin: the same draws through Blurred, in bfloat16 and in float64."""
    psi = single()
    draws = blurred_samples(psi, HAMILTONIAN, 300, fraction, torch.Generator().manual_seed(3))
    found = rounding(psi, HAMILTONIAN, draws, "bfloat16", fraction=fraction)
    energies = []
    for state, precision in ((psi, "bfloat16"), (single().double(), "full")):
        generator = torch.Generator().manual_seed(3)
        source = Blurred(flip_fraction=fraction, flip_precision=precision)  # type: ignore[arg-type]
        drawn = source.draw(state, HAMILTONIAN, 300, generator)
        samples, e_loc = drawn.samples, drawn.e_loc
        assert torch.equal(samples.configs, draws.configs)
        energies.append(sample_statistics(e_loc, samples, 6, 0.0).energy)
    assert found.bias == pytest.approx(energies[0] - energies[1], rel=1e-6)
    assert found.n_draws == 300
    assert 0 < found.rms < 0.2 * found.spread


def test_a_float64_state_in_full_has_no_error() -> None:
    psi = single().double()
    draws = psi.sample(50, torch.Generator().manual_seed(0), unique=True)
    found = rounding(psi, HAMILTONIAN, draws, "full")
    assert found.rms < 1e-12 < found.spread
    assert found.tolerable(10**6)


@pytest.mark.parametrize(
    ("bias", "rms", "n_samples", "allowed"),
    [
        (0.0, 0.05, 400, True),  # bound 0.01 of an error of 0.05
        (0.02, 0.02, 400, True),  # 0.024 < 0.025
        (0.022, 0.02, 400, False),
        (-0.022, 0.02, 400, False),
        (0.02, 0.02, 1_600, False),  # more samples, smaller error
        (0.0, 0.11, 100, False),  # noise
    ],
)
def test_what_is_tolerable(bias: float, rms: float, n_samples: int, allowed: bool) -> None:
    assert Rounding(bias, rms, 1.0, 101).tolerable(n_samples) is allowed


@pytest.fixture
def has_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the processor had it, whatever it is."""
    monkeypatch.setattr(flip_precision, "cheaper", lambda psi: ("bfloat16",))


@pytest.mark.usefixtures("has_bfloat16")
def test_auto_takes_bfloat16_while_its_error_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    psi, generator = single(), torch.Generator().manual_seed(0)
    choice = FlipPrecision("auto")
    assert choice.kind == "full"
    choice.update(psi, HAMILTONIAN, 256, 0.5, generator)
    assert choice.kind == "bfloat16"
    assert choice.bias != 0 < choice.rms_share <= flip_precision.RMS_SHARE
    monkeypatch.setattr(flip_precision, "RMS_SHARE", choice.rms_share / 10)
    choice.update(psi, HAMILTONIAN, 256, 0.5, generator)
    assert (choice.kind, choice.bias, choice.rms_share) == ("full", 0.0, 0.0)


def test_auto_stays_in_full_where_nothing_is_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flip_precision, "cheaper", lambda psi: ())
    choice = FlipPrecision("auto")
    choice.update(single(), HAMILTONIAN, 256, 0.5, torch.Generator().manual_seed(0))
    assert choice.kind == "full"


def test_auto_stays_in_full_where_the_flips_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded products would be torch's, and slower."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    psi = single()
    for is_compiled, products in ((False, ("bfloat16",)), (True, ())):
        monkeypatch.setattr(type(psi), "has_compiled_flips", lambda self, is_=is_compiled: is_)
        assert cheaper(psi) == products


def test_a_fixed_kind_is_measured_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = FlipPrecision("bfloat16")
    assert [step for step in range(1, 50) if choice.measured_at(step)] == [1, 21, 41]
    assert not any(FlipPrecision().measured_at(step) for step in range(1, 50))
    psi = single()
    monkeypatch.setattr(flip_precision, "RMS_SHARE", 1e-9)
    choice.update(psi, HAMILTONIAN, 256, 0.5, torch.Generator().manual_seed(0))
    assert choice.kind == "bfloat16"
    assert choice.rms_share > 1e-4
    again = FlipPrecision("bfloat16")
    again.restore(choice.record())
    assert vars(again) == vars(choice)
    full = FlipPrecision("full")  # a run that was resumed with another key
    full.restore(choice.record())
    assert (full.kind, full.bias, full.rms_share) == ("full", 0.0, 0.0)


def test_records_name_the_operands() -> None:
    """Where they may be rounded, and by kind; older runs also have 53 for float64."""
    assert FlipPrecision("auto").record()["flip_bits"] == 24
    assert FlipPrecision().record() == {} and FlipPrecision().columns == ()
    kinds = [kind_of(bits) for bits in (53, 24, 11, 8, math.nan)]
    assert kinds == ["full", "full", "tf32", "bfloat16", "full"]
    history = {"step": [1.0, 2.0, 3.0], "flip_bits": [math.nan, 8.0, 8.0]}
    assert steps_by_precision(history) == {"full": 1, "bfloat16": 2}
    assert steps_by_precision({"step": [1.0, 2.0]}) == {"full": 2}
    with pytest.raises(ValueError, match="one of full"):
        FlipPrecision("float16")


def test_optimises_with_rounded_flips() -> None:
    """Records say bfloat16 and a measured bias; the energy falls as it does in full."""
    ends = {}
    for asked in ("full", "bfloat16"):
        records: list[StepRecord] = []
        optimise(
            single(),
            HAMILTONIAN,
            adam(0.02),
            n_steps=40,
            n_samples=256,
            generator=torch.Generator().manual_seed(1),
            energies=Blurred(flip_precision=asked),  # type: ignore[arg-type]
            after_step=lambda record, kept=records: bool(kept.append(record)),
        )
        ends[asked] = sum(record.energy for record in records[-5:]) / 5
        figures = [record.figures for record in records]
        if asked == "bfloat16":
            assert all(f["flip_bits"] == 8 and f["flip_bias"] != 0 for f in figures)
        else:
            assert all("flip_bits" not in f for f in figures)
        assert records[0].energy - ends[asked] > 1
    assert ends["bfloat16"] == pytest.approx(ends["full"], abs=0.2)


def test_states_that_have_no_such_products() -> None:
    """Refused before the first step."""
    for psi, asked, words in (
        (single().double(), "bfloat16", "float64"),
        (single(), "tf32", "GPU"),
    ):
        for energies in (Blurred(flip_precision=asked), Exact(flip_precision=asked)):  # type: ignore[arg-type]
            with pytest.raises(ValueError, match=f"^flip_precision={asked}: .*{words}"):
                energies.check(psi)
    Blurred(flip_precision="auto").check(single())
