"""Error bars of energies and of <sigma^x> cover what they say, over many evaluations.

    pytest -s -m slow tests/campaigns/test_error_bars.py

Three states of a 2x3 Rydberg array, by enumeration: near the ground state, with configurations far
too small, and a network with random parameters. Two-sided false-alarm rate 1e-5 for each share.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from scipy.stats import binom
from torch import Tensor

from hamiltonians import Rydberg
from hamiltonians.exact import basis, dense_matrix
from hamiltonians.lattices.lattice import Square
from nqs.vmc.evaluation import evaluate
from nqs.wavefunctions.wavefunction import Wavefunction

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "vmc"))
from states import TableWavefunction, exact_table, network, numbers

HAMILTONIAN = Rydberg(Square(2, 3), V=7.0)
N_DRAWS = 400


def states() -> dict[str, Wavefunction]:
    generator = torch.Generator().manual_seed(0)
    good = exact_table(HAMILTONIAN).log_amplitudes().detach().exp()
    noise = torch.randn(len(good), generator=generator, dtype=torch.float64)
    tails = good.clone()
    tails[good < 0.02] *= 0.1
    return {
        "near": TableWavefunction((good + 1e-6) * (0.1 * noise).exp()),
        "tails": TableWavefunction(tails + 1e-9),
        "network": network("ptf", Square(2, 3)),
    }


def truth(psi: Wavefunction) -> tuple[float, Tensor]:
    """<H> and <sigma^x_i> (N,) by enumeration."""
    vector = psi.log_psi(basis(6)).detach().exp()
    energy = float(vector @ torch.from_numpy(dense_matrix(HAMILTONIAN)) @ vector)
    flipped = vector[numbers(basis(6)[:, None] ^ torch.eye(6, dtype=torch.bool))]  # (64, N)
    return energy, vector @ flipped


def scores(psi: Wavefunction, n: int) -> tuple[Tensor, Tensor]:
    """z of the energy (n,) and of each <sigma^x_i> (n, N)."""
    energy, sigma = truth(psi)
    generator = torch.Generator().manual_seed(1)
    found = [evaluate(psi, HAMILTONIAN, N_DRAWS, generator) for _ in range(n)]
    x = torch.stack([(f.observables["sigma_x"].value - sigma) for f in found])
    errors = torch.stack([f.observables["sigma_x"].error for f in found])
    return torch.tensor([(f.energy - energy) / f.energy_error for f in found]), x / errors


def shares(z: Tensor) -> dict[int, float]:
    return {k: float((z.abs() < k).double().mean()) for k in (1, 2, 3)}


@pytest.mark.parametrize("name", ["near", "tails", "network"])
@pytest.mark.parametrize("n", [pytest.param(1_000, marks=pytest.mark.slow), 100])
def test_error_bars_cover(name: str, n: int) -> None:
    """Not fewer within 1 and 2 error bars than of a normal distribution (with 2 points of grace for
    n = 400 draws); more only where the part outside is counted."""
    energies, sigma = scores(states()[name], n)
    print(name, n, "energy", shares(energies), "sigma_x", shares(sigma.flatten()))
    for k, expected in {1: 0.683, 2: 0.954}.items():
        least = binom.ppf(1e-5, n, expected - 0.02) / n
        assert shares(energies)[k] >= least
        assert float((sigma.abs() < k).double().mean(0).min()) >= least
    if name == "network":
        assert shares(energies)[1] <= binom.ppf(1 - 1e-5, n, 0.703) / n
