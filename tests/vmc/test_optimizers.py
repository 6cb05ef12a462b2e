"""Adam is torch.optim.Adam on the energy gradient; clipping, schedules, restoring."""

from __future__ import annotations

import io
import math
from itertools import pairwise

import pytest
import torch
from states import adam, minsr, network
from torch.testing import assert_close

from hamiltonians import Rydberg
from hamiltonians.lattices.lattice import Square
from nqs.conf.kinds import keys_of
from nqs.conf.values import bounds_of
from nqs.runfolder.schedules import KINDS, Schedule
from nqs.vmc.energies.local_energy import local_energies
from nqs.vmc.optimizers import Adam, NaturalGradient, Optimizer
from nqs.vmc.optimizers.gradient import add_to_parameters, energy_gradient, flat_parameters
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.wavefunction import Samples

LATTICE = Square(2, 2)
HAMILTONIAN = Rydberg(LATTICE, V=3.0, delta=1.0, Omega=1.0)


def measured(psi: Autoregressive, generator: torch.Generator) -> tuple[Samples, torch.Tensor]:
    samples = psi.sample(64, generator, unique=True)
    return samples, local_energies(psi, HAMILTONIAN, samples)


def step(psi: Autoregressive, optimizer: Adam, generator: torch.Generator) -> torch.Tensor:
    update = optimizer.update(psi, *measured(psi, generator))
    add_to_parameters(psi, update)
    return update


@pytest.mark.parametrize(
    "options", [{}, {"beta1": 0.5, "beta2": 0.9}, {"eps": 1e-2}, {"beta1": 0.0, "beta2": 0.0}]
)
def test_torch_agrees(options: dict[str, float]) -> None:
    ours, theirs = network("gru", LATTICE, "2x1"), network("gru", LATTICE, "2x1")
    optimizer = adam(0.02, **options)
    betas = (options.get("beta1", 0.9), options.get("beta2", 0.999))
    twin = torch.optim.Adam(theirs.parameters(), 0.02, betas, options.get("eps", 1e-8))
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    start = flat_parameters(ours)
    for _ in range(12):
        step(ours, optimizer, generators[0])
        energy_gradient(theirs, *measured(theirs, generators[1]))  # leaves it in .grad
        twin.step()
        assert_close(flat_parameters(ours), flat_parameters(theirs), rtol=0, atol=1e-9)
    assert (flat_parameters(ours) - start).abs().max() > 1e-2


def test_the_first_step_has_the_size_of_the_learning_rate() -> None:
    psi = network("gru", LATTICE, "2x1")
    update = step(psi, adam(0.03), torch.Generator().manual_seed(0))
    moved = update[update != 0].abs()
    assert len(moved) > 100
    assert moved.median() == pytest.approx(0.03, rel=1e-4)


def test_clipping() -> None:
    """Longer gradients are shortened to clip_norm: the first moment shows what was used."""
    psi = network("gru", LATTICE, "2x1")
    samples, e_loc = measured(psi, torch.Generator().manual_seed(1))
    gradient = energy_gradient(psi, samples, e_loc)
    norm = float(gradient.norm())
    for clip_norm, scale in ((norm / 7, 1 / 7), (norm * 1.01, 1.0), (None, 1.0)):
        optimizer = adam(0.01, clip_norm=clip_norm)
        optimizer.update(psi, samples, e_loc)
        first = optimizer.state_dict()["first"]
        assert_close(first, 0.1 * scale * gradient, rtol=1e-9, atol=1e-15)
        assert optimizer.diagnostics["gradient_norm"] == pytest.approx(norm)  # before clipping


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_restored_runs_continue_bit_for_bit(clip_norm: float | None) -> None:

    def fresh() -> Adam:
        return Adam(0.02, clip_norm=clip_norm, warmup_steps=2).prepare(HAMILTONIAN, n_steps=10)

    psi, optimizer, generator = network("ptf", LATTICE), fresh(), torch.Generator().manual_seed(9)
    for _ in range(4):
        step(psi, optimizer, generator)
    file = io.BytesIO()
    torch.save([psi.state_dict(), optimizer.state_dict(), generator.get_state()], file)
    straight = [step(psi, optimizer, generator) for _ in range(4)]

    file.seek(0)
    parameters, moments, random = torch.load(file, weights_only=True)
    psi, optimizer, generator = network("ptf", LATTICE, seed=5), fresh(), torch.Generator()
    psi.load_state_dict(parameters)
    optimizer.load_state_dict(moments)
    generator.set_state(random)
    resumed = [step(psi, optimizer, generator) for _ in range(4)]
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))
    assert all(update.abs().max() > 0 for update in straight)


def test_a_fresh_state_can_be_saved_and_restored() -> None:
    optimizer = adam()
    optimizer.load_state_dict(adam().state_dict())
    assert optimizer.step == 0
    assert (
        step(network("gru", LATTICE), optimizer, torch.Generator().manual_seed(0)).abs().max() > 0
    )


def test_the_schedule_is_followed() -> None:
    psi, optimizer = network("gru", LATTICE), Adam(0.01, schedule="linear", final_fraction=0.2)
    optimizer.prepare(HAMILTONIAN, n_steps=4)
    generator, rates = torch.Generator().manual_seed(0), []
    for _ in range(6):
        step(psi, optimizer, generator)
        rates.append(optimizer.diagnostics["learning_rate"])
    assert rates == pytest.approx([0.01, 0.008, 0.006, 0.004, 0.002, 0.002])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("final", [0.01, 0.3, 1.0])
def test_schedules_end_where_they_should(kind: str, final: float) -> None:
    schedule = Schedule(kind, decay_steps=50, final_fraction=final)
    factors = [schedule(i) for i in range(60)]
    assert factors[0] == 1.0
    end = 1.0 if kind == "constant" else final
    assert factors[50:] == pytest.approx([end] * 10, rel=1e-12)
    assert all(a >= b for a, b in pairwise(factors))
    middle = {
        "constant": 1.0,
        "linear": (1 + final) / 2,
        "cosine": (1 + final) / 2,
        "exponential": math.sqrt(final),
    }[kind]
    assert factors[25] == pytest.approx(middle, rel=1e-12)
    quarter = final + (1 - final) * (1 + math.cos(math.pi / 4)) / 2
    if kind == "cosine":
        assert Schedule(kind, decay_steps=40, final_fraction=final)(10) == pytest.approx(quarter)


def test_warm_up_rises_linearly() -> None:
    schedule = Schedule(warmup_steps=4)
    assert [schedule(i) for i in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    both = Schedule("linear", warmup_steps=1, decay_steps=10, final_fraction=0.5)
    assert [both(i) for i in (0, 1, 10)] == pytest.approx([0.5, 0.95, 0.5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "step"}, "schedule='step' is unknown; allowed: constant, linear, cosine, exp"),
        ({"kind": "linear", "decay_steps": 0}, "decay_steps=0 must be >= 1"),
        ({"final_fraction": 0.0}, r"final_fraction=0.0 must be in \(0, 1\]"),
        ({"final_fraction": 1.5}, r"final_fraction=1.5 must be in \(0, 1\]"),
        ({"final_fraction": math.nan}, r"final_fraction=nan must be in \(0, 1\]"),
        ({"warmup_steps": -1}, "warmup_steps=-1 must not be negative"),
    ],
)
def test_bad_schedules(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(**options)


def test_a_schedule_needs_the_length_of_the_run() -> None:
    with pytest.raises(ValueError, match="schedule=cosine: falls over a run whose steps are not"):
        Schedule("cosine")(0)
    over = Schedule("cosine", warmup_steps=2).over(7)
    assert over == Schedule("cosine", warmup_steps=2, decay_steps=7)
    with pytest.raises(ValueError, match="warmup_steps=2: must be less than the 2 steps"):
        Schedule(warmup_steps=2).over(2)


def test_a_decay_may_wait() -> None:
    late = Schedule("linear", decay_start=3, decay_steps=4, final_fraction=0.2)
    assert [late(i) for i in (0, 3, 5, 7, 9)] == pytest.approx([1, 1, 0.6, 0.2, 0.2])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("adam", {"learning_rate": 0.0}, "learning_rate=0.0: must be a number >= 1e-10"),
        ("adam", {"learning_rate": math.nan}, "learning_rate=nan: must be a number"),
        ("adam", {"beta1": 1.0}, "beta1=1.0: must be a number >= 1e-06 and <= 0.999999, or 0"),
        ("adam", {"eps": 0.0}, "eps=0.0: must be"),
        ("adam", {"clip_norm": 0.0}, "clip_norm=0.0: must be"),
        ("minsr", {"learning_rate": 0.0}, "learning_rate=0.0: must be a number >= 1e-30"),
        ("minsr", {"diagonal_shift": 1e-13}, "diagonal_shift=1e-13: must be"),
        ("minsr", {"momentum": 1.0}, "momentum=1.0: must be .* <= 0.9999, or 0"),
        ("minsr", {"max_norm": -1.0}, "max_norm=-1.0: must be"),
        ("minsr", {"memory_gb": 0.0}, "memory_gb=0.0: must be"),
        ("minsr", {"final_fraction": 2.0}, "final_fraction=2.0: must be"),
        ("minsr", {"warmup_steps": -1}, "warmup_steps=-1: must be"),
        ("minsr", {"diagonal_shift": 1e-9, "final_shift_fraction": 1e-4},
         "final_shift_fraction=0.0001: times diagonal_shift=1e-09 must be >= 1e-12"),
    ],
)  # fmt: skip
def test_bad_keys(kind: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Optimizer.kinds[kind](**options)


def test_what_the_run_decides() -> None:
    """The time step of the Hamiltonian, twice that from a near state; no momentum for signs."""
    automatic = NaturalGradient().prepare(HAMILTONIAN, n_steps=9)
    assert (automatic.learning_rate, automatic.momentum) == (0.2, 0.9)
    assert automatic.schedule == Schedule("cosine", decay_steps=9, final_fraction=0.05)
    falling = Schedule("exponential", decay_steps=9, final_fraction=0.05)
    assert automatic.shift_schedule == falling
    warm = NaturalGradient().prepare(HAMILTONIAN, n_steps=9, is_complex=True, warm_start=True)
    assert (warm.learning_rate, warm.momentum) == (0.4, 0.0)
    asked = NaturalGradient(0.3, momentum=0.5)
    asked.prepare(HAMILTONIAN, n_steps=9, is_complex=True, warm_start=True)
    assert (asked.learning_rate, asked.momentum) == (0.3, 0.5)
    rule = "learning_rate=1e-12: changes nothing; auto is 0.2 here, give at least 2e-10"
    with pytest.raises(ValueError, match=rule):
        NaturalGradient(1e-12).prepare(HAMILTONIAN, n_steps=9)
    psi = network("gru", LATTICE)
    with pytest.raises(ValueError, match="is auto: call `prepare`"):
        NaturalGradient().update(psi, *measured(psi, torch.Generator().manual_seed(0)))


def test_columns_are_what_diagnostics_hold() -> None:
    psi, generator = network("gru", LATTICE), torch.Generator().manual_seed(0)
    for optimizer in (adam(), minsr()):
        optimizer.update(psi, *measured(psi, generator))
        assert [column.name for column in optimizer.columns] == [*optimizer.diagnostics]


def test_a_class_registers_itself() -> None:
    class Mine(Optimizer, kind="mine"):
        pass

    assert Optimizer.kinds.pop("mine") is Mine
    assert {"minsr": NaturalGradient, "adam": Adam}.items() <= Optimizer.kinds.items()


@pytest.mark.parametrize("kind", [Adam, NaturalGradient])
def test_constructors_hold_the_bounds_that_they_document(kind: type[Optimizer]) -> None:
    for name, key in keys_of(kind).items():
        assert key.text, name
        for bounds in bounds_of(key.hint):
            for inside in (bounds.low, bounds.high, *([0] if bounds.or_zero else [])):
                other = {"diagonal_shift": 1e6} if name == "final_shift_fraction" else {}
                other |= {"final_shift_fraction": 1.0} if name == "diagonal_shift" else {}
                kind(**{name: inside}, **other)  # type: ignore[call-arg]
            step = 1 if name == "warmup_steps" else 0.01 * bounds.low
            for outside in (bounds.low - step, bounds.high * 1.01, math.nan):
                with pytest.raises(ValueError, match=f"^{name}="):
                    kind(**{name: outside})  # type: ignore[call-arg]
