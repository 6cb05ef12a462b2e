"""`import nqs`: what a notebook does with it, and that it costs nothing until it is used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import nqs
from hamiltonians.exact import basis, dense_matrix

SMALL = {"steps": 6, "samples": 64, "eval_samples": 400}
CHAIN = nqs.TransverseFieldIsing(nqs.Chain(5), J=1.0, h=0.7)


class Clock(nqs.Hamiltonian):
    """Spins in a field, each flip with its own strength; made of a function, too."""

    infinite_temperature_energy = 0.0

    def __init__(self, n: int, strength: object = 0.5) -> None:
        self.n_sites, self.strength = n, strength
        self.flips = torch.eye(n, dtype=torch.bool)

    def diagonal(self, configs: Tensor) -> Tensor:
        return -(1 - 2 * configs.to(torch.float64)).sum(1)

    def off_diagonal(self, configs: Tensor) -> Tensor:
        x = self.strength() if callable(self.strength) else self.strength
        return -float(x) * torch.ones(len(configs), self.n_sites, dtype=torch.float64)


def test_importing_takes_nothing_along() -> None:
    code = "import sys, nqs; dir(nqs); nqs.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_name_is_there() -> None:
    assert len(nqs.__all__) == len(set(nqs.__all__)) <= 25
    assert all(getattr(nqs, name) is not None for name in nqs.__all__)
    with pytest.raises(AttributeError, match="groundstate"):
        nqs.groundstate  # noqa: B018


def test_a_result_from_first_to_last(tmp_path: Path) -> None:
    """Trained in memory, looked at, saved, loaded: one state, and that of a run in a folder."""
    result = nqs.ground_state(CHAIN, **SMALL)
    assert result.exact_energy == pytest.approx(nqs.exact(CHAIN).energy, abs=1e-12)
    assert abs(result.energy - result.exact_energy) < 0.2 and result.verdict in ("good", "doubtful")
    assert repr(result).startswith("Result(E = -") and len(result.history["energy"]) == 6
    assert result.sample(7, seed=3).shape == (7, 5)
    configs = basis(5)
    assert float(result.log_psi(configs).exp().square().sum()) == pytest.approx(1, abs=1e-5)
    loaded = nqs.load(result.save(tmp_path / "run"))
    assert torch.equal(loaded.log_psi(configs), result.log_psi(configs))
    assert loaded.energy == result.energy and str(loaded) == str(result)
    there = nqs.ground_state(CHAIN, dir=tmp_path / "other", **SMALL)
    assert there.energy == result.energy and (tmp_path / "other" / "summary.json").exists()
    with pytest.raises(nqs.InputError, match=r"not an empty folder|already holds a run"):
        nqs.ground_state(CHAIN, dir=tmp_path / "run", **SMALL)


def test_expectations_are_those_of_the_enumerated_state() -> None:
    """5 standard errors of 20 000 draws: false alarms 6e-7 a number, of 6."""
    result = nqs.ground_state(CHAIN, **SMALL)
    weights = (2 * result.log_psi(basis(5))).exp().double()
    density = result.expect(lambda s: s.to(torch.float64), 20_000)
    expected = weights @ basis(5).double()
    assert bool(((density.value - expected).abs() < 5 * density.error).all())
    energy = result.expect(CHAIN, 20_000)
    psi = result.log_psi(basis(5)).exp().double()
    matrix = torch.as_tensor(dense_matrix(CHAIN))
    assert abs(float(energy.value - psi @ matrix @ psi)) < 5 * float(energy.error)
    with pytest.raises(ValueError, match="acts on 4 sites"):
        result.expect(nqs.TransverseFieldIsing(nqs.Chain(4)))
    with pytest.raises(ValueError, match="must have"):
        result.log_psi([[0, 1]])


PAULI = {
    "I": [[1, 0], [0, 1]],
    "X": [[0, 1], [1, 0]],
    "Y": [[0, -1j], [1j, 0]],
    "Z": [[1, 0], [0, -1]],
}


@pytest.mark.parametrize(
    ("hamiltonian", "keys"),
    [
        (nqs.Rydberg(nqs.Chain(4), V=2.0, Omega=[1.0, -1.0, -0.5, 0.7]), {}),
        (nqs.Heisenberg(nqs.Chain(4)), {}),
        (nqs.Heisenberg(nqs.Chain(4), marshall=False), {"phase": True}),
    ],
    ids=["atoms", "marshall", "complex"],
)
def test_operators_are_measured_in_the_frame_that_was_asked_for(
    hamiltonian: nqs.Hamiltonian, keys: dict[str, bool]
) -> None:
    """Against Kronecker products in U psi. 5 standard errors: false alarms 6e-7 a number, of 18."""
    result = nqs.ground_state(hamiltonian, {"name": "rnn", "d_model": 4, **keys}, **SMALL)
    signs = 1.0 - 2.0 * (basis(4) & hamiltonian.rotated).sum(1).remainder(2)
    psi = (signs * result.log_psi(basis(4)).exp()).to(torch.complex128)
    for string in ("XIII", "IXIX", "YYII", "IZZI", "XZIX", "IIYY"):
        matrix = torch.ones(1, 1, dtype=torch.complex128)
        for letter in string:
            matrix = torch.kron(matrix, torch.tensor(PAULI[letter], dtype=torch.complex128))
        expected = float((psi.conj() @ matrix @ psi).real)
        measured = result.expect(nqs.PauliSum(4, [(1.0, string)]), 20_000)
        assert abs(float(measured.value) - expected) < 5 * float(measured.error) + 1e-6, string


def test_what_cannot_be_measured_is_one_line() -> None:
    result = nqs.ground_state(CHAIN, **SMALL)
    for call, words in (
        (lambda: result.expect(CHAIN, 2.5), "n_samples=2.5"),
        (lambda: result.expect("X0"), "no Hamiltonian and no function"),
        (lambda: result.expect(lambda s: s[:2].double()), "a row for each"),
        (lambda: result.expect(lambda s: 1j * s.double()), "must be real"),
        (lambda: result.expect(lambda s: s.double() / 0), "not finite"),
        (lambda: result.log_psi([[2, 0, 0, 0, 0]]), "must hold bits"),
        (lambda: result.sample(3, seed="a"), "seed=a"),
        (lambda: result.evaluate(100, subsystems=[[1, 0]]), "must have"),
        (lambda: result.save(3), "dir=3"),
        (lambda: nqs.ground_state("rydberg"), "must be a Hamiltonian"),
        (lambda: nqs.exact(nqs.Rydberg), "must be a Hamiltonian"),
        (lambda: nqs.Rydberg(6), "must be a lattice"),
        (lambda: nqs.load(None), "run_dir=null"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)) as caught:
            call()
        assert "\n" not in str(caught.value) and len(str(caught.value)) <= 400


def test_objects_of_all_kinds_come_back_from_their_folder(tmp_path: Path) -> None:
    """Sums of Pauli strings and positions by files, a class of one's own by its arguments."""
    places = nqs.Positions([[0.0, 0.0], [1.0, 0.2], [0.3, 1.1]])
    systems = {
        "pauli": nqs.PauliSum(3, [(0.3, "XIZ"), (-0.5, "X0"), (0.25, "Z1 Z2"), (-1, ""),
                                  (-1, "X1")]),
        "positions": nqs.Rydberg(places, Rb=1.2, delta=[0.5, 1.0, 1.5]),
        "own": Clock(4, 0.8),
    }  # fmt: skip
    for name, hamiltonian in systems.items():
        result = nqs.ground_state(hamiltonian, {"name": "rnn", "d_model": 4}, **SMALL)
        loaded = nqs.load(result.save(tmp_path / name))
        assert nqs.exact(loaded.hamiltonian).energy == pytest.approx(nqs.exact(hamiltonian).energy)
        assert loaded.energy == result.energy


def test_what_no_configuration_can_say_is_not_saved(tmp_path: Path) -> None:
    result = nqs.ground_state(Clock(3, lambda: 0.5), **SMALL)
    with pytest.raises(nqs.InputError, match=r"hamiltonian=.*Clock: was made in memory"):
        result.save(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"name": "ptf", "d_modl": 4}}, "did you mean d_model"),
        ({"model": "transformer"}, "must be one of"),
        ({"steps": 0}, "train.steps=0"),
        ({"seed": "one"}, "seed=one"),
        ({"exact": "maybe"}, "train.exact=maybe"),
    ],
)
def test_bad_input_is_one_line(changes: dict[str, object], words: str) -> None:
    with pytest.raises(nqs.InputError) as caught:
        nqs.ground_state(CHAIN, **(SMALL | changes))
    assert words in str(caught.value) and "\n" not in str(caught.value)
