"""Where local energies come from: laws of every kind, their keys, and one that is defined here."""

from __future__ import annotations

import inspect
import math
import typing

import pytest
import torch
from states import exact_table, network

from hamiltonians import Rydberg, TransverseFieldIsing
from hamiltonians.exact import ground_state
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Chain, Square
from nqs.vmc.columns import Column
from nqs.vmc.energies import Blurred, Energies, Estimates, Exact, NearFlips
from nqs.vmc.optimise import StepRecord, optimise
from nqs.vmc.optimizers import Adam
from nqs.vmc.ranks import ALONE, Ranks
from nqs.vmc.statistics import sample_statistics
from nqs.wavefunctions.wavefunction import Wavefunction

RYDBERG = Rydberg(Square(2, 3), V=7.0, delta=1.0)
every_kind = pytest.mark.parametrize("kind", Energies.kinds)


def eigenvector(kind: str) -> tuple[Wavefunction, Hamiltonian, float]:
    """An exact eigenvector of H with its energy: a table, or, as near flips need a network, the
    product state of spins along x."""
    if kind != "near_flips":
        return exact_table(RYDBERG), RYDBERG, ground_state(RYDBERG).energy
    psi = network("ptf", Square(2, 3), random=False)
    with torch.no_grad():  # the bias alone is left
        for parameter in psi.core.head.parameters():
            parameter.zero_()
    psi.set_product_state(torch.full((6,), 0.5, dtype=torch.float64))
    return psi, TransverseFieldIsing(Square(2, 3), J=0.0, h=1.5), -9.0


@every_kind
def test_an_eigenvector_has_no_variance(kind: str, generator: torch.Generator) -> None:
    """Its local energies are all E; those of another state of the same H are not."""
    psi, hamiltonian, energy = eigenvector(kind)
    for state, exact in ((psi, True), (network("ptf", Square(2, 3), "1x1"), False)):
        estimates = Energies.kinds[kind]().draw(state, hamiltonian, 300, generator)
        assert estimates.samples.n_samples == 300
        spread = float((estimates.e_loc - energy).abs().max())
        assert (spread < 1e-6) if exact else (spread > 0.1)
        statistics = sample_statistics(
            estimates.e_loc, estimates.samples, 6, 0.0, estimates.noise, estimates.outside
        )
        assert (abs(statistics.variance) < 1e-9) == exact


def test_nothing_is_blurred_without_flips() -> None:
    """Blurred with fraction 0 is Exact, draw by draw; with another fraction it is not."""
    psi = network("gru", Square(2, 3))
    drawn = [
        energies.draw(psi, RYDBERG, 200, torch.Generator().manual_seed(3))
        for energies in (Exact(), Blurred(flip_fraction=0), Blurred())
    ]
    plain, same, other = drawn
    assert torch.equal(plain.samples.configs, same.samples.configs)
    assert torch.equal(plain.e_loc, same.e_loc) and same.samples.importance is None
    assert other.samples.importance is not None
    assert not torch.equal(plain.samples.configs, other.samples.configs)


@every_kind
def test_keys(kind: str) -> None:
    """Each has a default, a documented line and a range or choices that the constructor keeps."""
    cls = Energies.kinds[kind]
    hints = typing.get_type_hints(cls.__init__, include_extras=True)
    assert cls.__doc__ is not None
    for name, key in inspect.signature(cls).parameters.items():
        assert key.kind is inspect.Parameter.KEYWORD_ONLY and key.default is not key.empty
        assert f"{name}: " in cls.__doc__.partition("Args:")[2]
        hint = hints[name]
        if typing.get_origin(hint) is typing.Literal:
            assert key.default in typing.get_args(hint)
            bad: list[object] = ["half"]
        else:
            low, high = map(float, hint.__metadata__[0].rpartition("or ")[2].split(" .. "))
            for value in (low, high):
                assert f"{name}={value}" in repr(cls(**{name: value}))
            bad = [0.99 * low, 1.01 * high, -low, math.nan, math.inf]
        for value in bad:
            with pytest.raises(ValueError, match=f"^{name}="):
                cls(**{name: value})


def test_states_without_near_patches() -> None:
    """Refused before the first step, in one line that says what is needed."""
    for psi in (network("gru", Square(2, 3)), exact_table(RYDBERG)):
        with pytest.raises(ValueError, match=r"^flip_radius=1\.5: .*; needs model=ptf"):
            NearFlips().check(psi)
    NearFlips().check(network("ptf", Square(2, 3)))


def test_a_kind_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered by its class statement; its columns are in the records, its hook is called before
    each step, and an optimisation goes as with what it wraps."""
    monkeypatch.setattr(Energies, "kinds", dict(Energies.kinds))
    steps = []

    class Counted(Energies, kind="counted"):
        columns = (Column("n_draws", "1", "draws of the step"),)

        def before_step(self, step, *draw, **options) -> None:
            steps.append(step)

        def draw(
            self,
            wavefunction: Wavefunction,
            hamiltonian: Hamiltonian,
            n_samples: int,
            generator: torch.Generator,
            *,
            ranks: Ranks = ALONE,
        ) -> Estimates:
            return Exact().draw(wavefunction, hamiltonian, n_samples, generator, ranks=ranks)

        def record(self, estimates: Estimates) -> dict[str, float]:
            return {"n_draws": float(estimates.samples.n_samples)}

    ends: list[list[StepRecord]] = []
    for kind in ("counted", "exact"):
        records: list[StepRecord] = []
        optimise(
            network("gru", Chain(4), "2"),
            TransverseFieldIsing(Chain(4)),
            Adam(0.01, schedule="constant"),
            energies=Energies.kinds[kind](),
            n_steps=3,
            n_samples=40,
            generator=torch.Generator().manual_seed(0),
            after_step=lambda record, records=records: bool(records.append(record)),
        )
        ends.append(records)
    assert steps == [1, 2, 3] and [r.energy for r in ends[0]] == [r.energy for r in ends[1]]
    assert [r.row()["n_draws"] for r in ends[0]] == [40.0] * 3
    assert "n_draws" not in ends[1][0].row()
    assert set(ends[1][0].row()) == {
        column.name for column in (*StepRecord.columns, *Adam(0.01, schedule="constant").columns)
    }
