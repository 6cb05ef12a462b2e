"""Families from Python, against enumeration and exact diagonalisation."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import nqs
from hamiltonians.exact.configurations import basis
from hamiltonians.exact.matrix import dense_matrix
from hamiltonians.exact.product import Product
from nqs.errors import InputError
from nqs.families.family import Family
from nqs.ground_states.couplings import BEYOND, Coupling, Law, drawn
from nqs.vmc.product_state import product_state

SIGMAS = 5
"""One estimate in 1.7e6 is further off by chance."""


def chain(h: float, J: float = 1.0) -> nqs.TransverseFieldIsing:
    return nqs.TransverseFieldIsing(nqs.Chain(6), h=h, J=J)


SMALL: dict[str, Any] = {
    "model": {"name": "ptf", "d_model": 8, "patch": "2", "symmetry": "none"},
    "steps": 80,
    "couplings": 6,
    "samples": 384,
    "width": 8,
    "dtype": "float64",
}


@pytest.fixture(scope="module")
def trained() -> Family:
    return nqs.family(chain, h=(0.8, 2.0), J=(0.8, 1.2), seed=1, **SMALL)


def amplitudes(family: Family, **couplings: float) -> Tensor:
    with torch.no_grad():
        return family.at(**couplings).log_psi(basis(6)).exp()


def energy(family: Family, psi: Tensor, **couplings: float) -> float:
    return float(psi @ Product(family.hamiltonian(**couplings))(psi))


@pytest.mark.parametrize("h", [0.8, 0.97, 1.3, 2.0])
def test_between_and_at_the_ends(trained: Family, h: float) -> None:
    """The exact energy of the state is within 2e-3 of the ground state's, at h never drawn too."""
    couplings = {"h": h, "J": 1.1}
    psi = amplitudes(trained, **couplings)
    torch.testing.assert_close(psi @ psi, torch.tensor(1.0).double())
    exact = nqs.exact(chain(**couplings)).energies[0]
    assert 0 <= energy(trained, psi, **couplings) - exact < 2e-3 * abs(exact)


def test_evaluation(trained: Family) -> None:
    couplings = {"h": 1.1, "J": 0.9}
    psi = amplitudes(trained, **couplings)
    found = trained.evaluate(4000, seed=3, **couplings)
    away = found.energy - energy(trained, psi, **couplings)
    assert abs(away) < SIGMAS * found.energy_error
    assert "magnetisation" in found.observables
    checked = trained.check(4000, seed=3, **couplings)
    assert checked["verdict"] == "good" and abs(checked["relative_error"]) < 2e-3
    assert checked["exact_energy"] == pytest.approx(nqs.exact(chain(**couplings)).energies[0])


def test_fidelity_and_its_susceptibility(trained: Family) -> None:
    here, there = {"h": 0.9, "J": 1.0}, {"h": 1.6, "J": 1.0}
    exact = float(amplitudes(trained, **here) @ amplitudes(trained, **there))
    found = trained.fidelity(here, there, 4000)
    assert abs(float(found.value) - exact) < SIGMAS * float(found.error)
    assert float(trained.fidelity(here, here, 100).value) == 1
    small = 1e-3
    states = [amplitudes(trained, h=1.0 + sign * small, J=1.0).log() for sign in (1, -1)]
    slope = (states[0] - states[1]) / (2 * small)
    p = amplitudes(trained, h=1.0, J=1.0).square()
    chi = float(p @ slope.square() - (p @ slope) ** 2)
    estimate = trained.susceptibility("h", 20_000, h=1.0, J=1.0)
    assert abs(float(estimate.value) - chi) < SIGMAS * float(estimate.error) + 1e-3 * chi
    assert 0 < float(estimate.error) < 0.1 * chi


@pytest.mark.parametrize("coupling", ["h", "J"])
def test_slope_is_that_of_the_hamiltonian(trained: Family, coupling: str) -> None:
    """Hellmann-Feynman: <dH/dc>, H linear in both."""
    at = {"h": 1.2, "J": 0.9}
    psi = amplitudes(trained, **at)
    more = trained.hamiltonian(**{**at, coupling: at[coupling] + 0.2})
    matrices = [torch.as_tensor(dense_matrix(H)) for H in (more, trained.hamiltonian(**at))]
    exact = float(psi @ ((matrices[0] - matrices[1]).to(psi) @ psi)) / 0.2
    found = trained.slope(coupling, 4000, **at)
    assert abs(float(found.value) - exact) < SIGMAS * float(found.error)


@pytest.mark.parametrize("phase", [False, True])
def test_begins_at_the_product_states(phase: bool) -> None:
    """At either end of the range nearer to the energy of the best product state there (found: 0.37
    of the way) than the state of the middle is, as far as a straight line in delta reaches."""

    def rydberg(delta: float) -> nqs.Rydberg:
        return nqs.Rydberg(nqs.Chain(6), delta=delta, Rb=1.2)

    model, slow = {**SMALL["model"], "phase": phase}, {"name": "minsr", "learning_rate": 1e-7}
    begin = {**SMALL, "model": model, "steps": 1, "optimizer": slow}
    family = nqs.family(rydberg, delta=(-1.5, 1.5), **begin)
    middle = amplitudes(family, delta=0.0).abs()
    for delta in (-1.5, 1.5):
        chances = product_state(rydberg(delta), torch.Generator().manual_seed(0))
        bits = basis(6)
        best = torch.where(bits, chances, 1 - chances).prod(1).sqrt()
        here = amplitudes(family, delta=delta).abs()
        ours, product, other = (energy(family, psi, delta=delta) for psi in (here, best, middle))
        assert other - product > 0.05
        assert abs(ours - product) < 0.5 * (other - product)


def test_symmetries_are_those_of_all_couplings() -> None:
    """At g = 0, in the middle, the spin flip is one of them; elsewhere the mirror alone is."""

    def tilted(g: float) -> nqs.PauliSum:
        terms = [(-1.0, f"Z{i} Z{i + 1}") for i in range(5)] + [(-0.5, f"X{i}") for i in range(6)]
        return nqs.PauliSum(6, terms + [(-g, f"Z{i}") for i in range(6)], lattice=nqs.Chain(6))

    model = {**SMALL["model"], "symmetry": "auto"}
    slow = {"name": "minsr", "learning_rate": 1e-7}
    start = {**SMALL, "model": model, "steps": 2, "optimizer": slow}
    family = nqs.family(tilted, g=(-0.3, 0.3), **start)
    group = family.at(g=0.1).symmetry
    assert len(group) == 2 and not group.inverted.any()
    up = (basis(6).sum(1) == 0).nonzero()  # where g > 0 pulls; product states differ there, too
    assert float(amplitudes(family, g=0.3)[up]) > 2 * float(amplitudes(family, g=-0.3)[up])
    with pytest.raises(InputError, match="not invariant under the spin flip"):
        nqs.family(
            tilted, g=(-0.3, 0.3), **{**SMALL, "model": model | {"spin_flip": True}, "steps": 2}
        )


def test_symmetries_of_the_middle_and_the_ends_alone() -> None:
    """A chain that is its own mirror image at h = -1, 0 and 1 and nowhere else."""

    def leaning(h: float) -> nqs.TransverseFieldIsing:
        slope = 1 - abs(2 * abs(h) - 1)
        return nqs.TransverseFieldIsing(nqs.Chain(6), h=[1 + slope * i for i in range(6)])

    model = {**SMALL["model"], "symmetry": "auto"}
    family = nqs.family(leaning, h=(-1, 1), **{**SMALL, "model": model, "steps": 2})
    group = family.at(h=0.5).symmetry
    assert len(group) == 2 and group.inverted.any()


@pytest.mark.parametrize("disorder", [False, True])
def test_names_that_are_no_keys(disorder: bool) -> None:
    """Of the function's arguments, or of a key that it uses otherwise."""

    def field(h: Any, theta: float = 0.0) -> nqs.TransverseFieldIsing:
        return nqs.TransverseFieldIsing(nqs.Chain(6), h=np.asarray(h) * 2 + theta)

    laws: dict[str, Any] = {"theta": (0, 0.5), "h": ("uniform(0.4,0.6)", 6) if disorder else (1, 2)}
    family = nqs.family(field, **laws, **{**SMALL, "steps": 2})
    at = {"theta": 0.2, "h": [0.5, 0.4, 0.6, 0.5, 0.5, 0.5] if disorder else 1.5}
    found = family.check(400, **at)
    exact = nqs.exact(field(**at)).energies[0]
    np.testing.assert_allclose(found["exact_energy"], exact)


def test_disorder_for_networks_without_places() -> None:
    """auto takes the vectors that they have, and a given context that they cannot have is refused
    with what they can."""

    def rydberg(delta: list[float]) -> nqs.Rydberg:
        return nqs.Rydberg(nqs.Chain(4), delta=delta, Rb=1.2)

    keys = {**SMALL, "model": {"name": "rnn", "digit_decay": None}, "steps": 2}
    law = ("uniform(0,1)", 4)
    assert not nqs.family(rydberg, delta=law, **keys).psi.context.per_place
    with pytest.raises(InputError, match=r"family\.context=vector"):
        nqs.family(rydberg, delta=law, context="encoder", **keys)


def test_complex_states() -> None:
    """Overlaps with phases, against enumeration."""
    model = {**SMALL["model"], "phase": True}
    family = nqs.family(
        lambda D: nqs.XXZ(nqs.Chain(6), Delta=D),
        D=(0.5, 1.5),
        **{**SMALL, "model": model, "steps": 3},
    )
    with torch.no_grad():
        for parameter in family.psi.context.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(2))
    states = [amplitudes(family, D=D) for D in (0.6, 1.4)]
    exact = abs(complex(states[0].conj() @ states[1]))
    found = family.fidelity({"D": 0.6}, {"D": 1.4}, 20_000)
    assert abs(float(found.value) - exact) < SIGMAS * float(found.error)


def test_same_seed_same_state(trained: Family, tmp_path: Path) -> None:
    again = nqs.family(chain, h=(0.8, 2.0), J=(0.8, 1.2), seed=1, **{**SMALL, "steps": 2})
    other = nqs.family(chain, h=(0.8, 2.0), J=(0.8, 1.2), seed=1, **{**SMALL, "steps": 2})
    psi = amplitudes(again, h=1.0, J=1.0)
    assert torch.equal(amplitudes(other, h=1.0, J=1.0), psi)
    read = nqs.load_family(again.save(tmp_path / "deep" / "family.pt"), chain)
    assert torch.equal(amplitudes(read, h=1.0, J=1.0), psi)
    assert read.ranges == again.ranges


def test_couplings_are_stratified() -> None:
    """Each part of each range has one, and the ends are drawn themselves."""
    low, high = torch.tensor([0.0, 5.0]), torch.tensor([1.0, 7.0])
    laws = [Law("interval", ends) for ends in ((0.0, 1.0), (5.0, 7.0))]
    couplings = [Coupling("h", laws[0]), Coupling("J", laws[1])]
    generator = torch.Generator().manual_seed(1)
    found = torch.stack([drawn(couplings, 10, generator) for _ in range(200)])
    share = ((found - low) / (high - low)).double()  # (200, 10, 2)
    assert bool(((share >= 0) & (share <= 1)).all())
    assert bool((share.sort(1).values.diff(dim=1) < 0.2 * (1 + 2 * BEYOND)).all())
    assert int((share == 0).sum()) > 20 and int((share == 1).sum()) > 20
    mean = share.mean((0, 1))
    assert bool(((mean - 0.5).abs() < 0.01).all())


def test_terms_that_vanish_at_an_end() -> None:
    """And numbers of numpy's."""
    family = nqs.family(chain, h=(np.float64(0), np.int64(1)), **{**SMALL, "steps": 2})
    assert len(family.hamiltonian(h=0.0).flips) < len(family.hamiltonian(h=np.float32(0.5)).flips)
    assert family.evaluate(100, h=0.0).energy < 0


def test_outside_of_the_ranges_is_said(trained: Family) -> None:
    with pytest.warns(UserWarning, match=r"h=2.5 is outside of interval\(0.8,2\)"):
        trained.at(h=2.5, J=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained.at(h=2.0, J=0.8)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({}, "no coupling has a range"),
        ({"h": (2, 1)}, r"h=.*LOW < HIGH"),
        ({"h": (1, 1)}, r"h=.*LOW < HIGH"),
        ({"h": 1.0}, r"h=1.*a pair"),
        ({"h": ("a", 2)}, r"h=a: must be a number"),
        ({"h": (1, float("inf"))}, r"h=inf"),
        ({"h": (1, float("nan"))}, r"h=nan"),
        ({"seed": (1, 2)}, r"seed=\[1,2\]"),
        ({"h": (1, 2, 3)}, r"h=.*a pair"),
        ({"h": [1.0]}, r"h=.*two values"),
        ({"h": [1.0, 1.0]}, r"h=.*two values"),
        ({"h": ("interval(0,1)", 6)}, r"h=.*disorder"),
        ({"h": ("normal(0,-1)", 6)}, r"h=.*SPREAD > 0"),
        ({"h": ("uniform(1,2)", 0)}, r"h=.*disorder"),
        ({"h": ("uniform(1,2)", 5)}, r"hamiltonian of h="),
    ],
)
def test_bad_ranges(ranges: dict[str, Any], message: str) -> None:
    with pytest.raises(nqs.InputError, match=message) as caught:
        nqs.family(chain, **{**SMALL, **ranges})
    assert len(str(caught.value)) <= 400 and "\n" not in str(caught.value)


def test_bad_families(trained: Family, tmp_path: Path) -> None:
    def of_size(n: float) -> nqs.Hamiltonian:
        return nqs.Rydberg(nqs.Chain(round(n)), V=1)

    bad: list[tuple[Any, dict[str, Any], str]] = [
        (3, {"h": (1, 2)}, "must be a function"),
        (lambda h: h, {"h": (1, 2)}, "must be a function"),
        (of_size, {"n": (4, 6)}, "one state cannot serve both"),
        (chain, {"g": (1, 2)}, r"hamiltonian of g=1.5: .*unexpected keyword"),
        (lambda Rb: nqs.Rydberg(nqs.Chain(4), Rb=Rb), {"Rb": (-1, 1)}, "hamiltonian of Rb=-?[01]"),
        (lambda h: 1 / 0, {"h": (1, 2)}, "ZeroDivisionError"),
        (chain, {"h": (1, 2), "couplings": 0}, "couplings=0"),
        (chain, {"h": (1, 2), "width": 1.5}, "width=1.5"),
        (chain, {"h": (1, 2), "optimizer": "adam"}, "takes minsr alone"),
        (chain, {"h": (1, 2), "steps": 0}, "steps=0"),
    ]
    for make, keys, message in bad:
        with pytest.raises(nqs.InputError, match=message):
            nqs.family(make, **{**SMALL, **keys})
    for call, message in (
        (lambda: trained.at(h=1.0), "J is missing"),
        (lambda: trained.at(h=1.0, J=1.0, V=2.0), "no coupling of this family"),
        (lambda: trained.at(h="x", J=1.0), "h=x"),
        (lambda: trained.evaluate(1, h=1.0, J=1.0), "n_samples=1"),
        (lambda: trained.slope("h", 0, h=1.0, J=1.0), "n_samples=0"),
        (lambda: trained.fidelity({"h": 1.0, "J": 1.0}, 3), "couplings=3"),
        (lambda: trained.save(tmp_path), "cannot be written"),
        (lambda: trained.susceptibility("V", h=1.0, J=1.0), "no coupling of this family"),
        (lambda: nqs.load_family(tmp_path / "none.pt", chain), "no such file"),
    ):
        with pytest.raises(nqs.InputError, match=message):
            call()
    path = trained.save(tmp_path / "family.pt")
    with pytest.raises(nqs.InputError, match="do not fit"):
        nqs.load_family(path, lambda h, J: nqs.TransverseFieldIsing(nqs.Chain(8), h=h, J=J))
    with pytest.raises(nqs.InputError, match="in the middle"):
        nqs.load_family(path, lambda h, J: nqs.Rydberg(nqs.Chain(6), delta=h, V=J))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(nqs.InputError, match="cannot be read"):
        nqs.load_family(path, chain)


def test_disorder_from_python() -> None:
    """A field of its own at each site, evaluated where no step has been."""
    psi = nqs.family(chain, h=("uniform(0.5,1.5)", 6), seed=2, **SMALL | {"steps": 40})
    fields = [0.6, 1.4, 0.9, 1.1, 0.7, 1.3]
    exact = nqs.exact(chain(fields)).energies[0]  # type: ignore[arg-type]
    amplitude = amplitudes(psi, h=fields)  # type: ignore[arg-type]
    found = energy(psi, amplitude, h=fields)  # type: ignore[arg-type]
    assert 0 <= found - exact < 5e-3 * abs(exact)
    even = amplitudes(psi, h=[1.0] * 6)  # type: ignore[arg-type]
    assert energy(psi, even, h=fields) - exact > 2 * (found - exact)  # type: ignore[arg-type]
    with pytest.raises(nqs.InputError, match="one number, or 6"):
        psi.at(h=fields[:5])  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=r"h=1.9 is outside of uniform\(0.5,1.5\)"):
        psi.at(h=[*fields[:5], 1.9])  # type: ignore[arg-type]
