"""The variance of H sees what the state does not visit: bad states, by enumeration."""

from __future__ import annotations

import math

import pytest
import torch
from covering import pairwise
from states import TableWavefunction, exact_table, matrix, network, numbers, random_table
from torch import Tensor

from hamiltonians import Heisenberg, Rydberg, TransverseFieldIsing
from hamiltonians.exact import basis, ground_state
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Chain, Square
from hamiltonians.pauli import PauliSum
from nqs.vmc.energies import Blurred, Energies, NearFlips
from nqs.vmc.evaluation import evaluate
from nqs.vmc.residual import Rows, evaluated_rows, proposals, residuals, scale_of_flips
from nqs.vmc.statistics import sample_statistics
from nqs.wavefunctions.wavefunction import Wavefunction

RING = [(c, f"{a}{i} {b}{(i + 1) % 5}") for i in range(5) for c, a, b in (
    (0.8, "X", "Y"), (-0.8, "Y", "X"), (1.0, "Z", "Z"))] + [
    (c, f"{a}{i}") for i in range(5) for c, a in ((-0.7, "X"), (0.3, "Y"))]  # fmt: skip
SYSTEMS: dict[str, Hamiltonian] = {
    "rydberg": Rydberg(Square(2, 3), V=7.0),
    "blockade": Rydberg(Square(2, 3), V=1e6),
    "tfim": TransverseFieldIsing(Chain(5), h=0.7),
    "wrong sign": PauliSum(5, [(-1.0, f"Z{i} Z{(i + 1) % 5}") for i in range(5)] + [(2.0, "X1")]),
    "heisenberg": Heisenberg(Chain(6), marshall=False),
    "complex": PauliSum(5, RING),
    "no flips": PauliSum(4, [(1.0, "Z0 Z1"), (-0.5, "Z2 Z3"), (0.3, "Z0")]),
}


def table(hamiltonian: Hamiltonian, kind: str) -> TableWavefunction:
    """A state by its amplitudes: random ones, one configuration alone, half of them exactly zero,
    a few far below all others, the ground state of the neighbouring couplings."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(2**hamiltonian.n_sites, generator=generator, dtype=torch.float64).exp()
    if kind == "collapsed":
        values = torch.zeros_like(values)
        values[1] = 1.0
    if kind == "nodes":
        values[torch.rand(len(values), generator=generator) < 0.5] = 0.0
    if kind == "tails":
        values[::3] *= 1e-9
    if kind == "vanishing":
        values[::3] *= 1e-250
    return TableWavefunction(values)


KINDS = ("random", "collapsed", "nodes", "tails", "vanishing")


def moments(psi: Wavefunction, hamiltonian: Hamiltonian) -> tuple[float, float]:
    """E and Var(H) = |H psi - E psi|^2 by the dense matrix."""
    vector = psi.log_psi(basis(psi.n_sites)).detach().exp().to(torch.complex128)
    product = matrix(hamiltonian).to(torch.complex128) @ vector
    energy = float(torch.vdot(vector, product).real)
    return energy, float((product - energy * vector).abs().square().sum())


@pytest.mark.parametrize(
    ("system", "kind", "moved"), pairwise(list(SYSTEMS), list(KINDS), [0.3, 1.0])
)
def test_summed_over_all_rows_it_is_the_variance(system: str, kind: str, moved: float) -> None:
    """sum_s q(s) |<s|H - E|psi>|^2 / q(s), wherever q > 0: that leaves nothing out that H leads to
    (and E psi where psi is not 0)."""
    hamiltonian = SYSTEMS[system]
    psi = table(hamiltonian, kind)
    energy, variance = moments(psi, hamiltonian)
    rows = evaluated_rows(psi, hamiltonian, basis(psi.n_sites), 100)
    rows = Rows(rows.configs, rows.elements, rows.log_flipped, rows.log_psi.detach())
    p = (2 * rows.log_psi).exp()
    acts = rows.elements != 0
    there = p[numbers(rows.configs[:, None] ^ hamiltonian.flips)]
    around = torch.where(acts, there, p[:, None]).mean(1) if len(hamiltonian.flips) else p
    q = p + moved * around
    found = residuals(hamiltonian, rows, energy, 1.0, 1.0, moved)
    terms = torch.where(q > 0, q * (found.real + found.imaginary), 0.0)
    assert float(terms.sum()) == pytest.approx(variance, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("most", [10_000, 50])
def test_proposals_follow_the_flipped_density(most: int, generator: torch.Generator) -> None:
    """Mean weight n r p~(s) within 5 standard errors, worst of 64 (false alarm 4e-5)."""
    hamiltonian = SYSTEMS["rydberg"]
    psi = table(hamiltonian, "nodes")
    p = (2 * psi.log_psi(basis(6)).detach()).exp()
    around = p[numbers(basis(6)[:, None] ^ hamiltonian.flips)].mean(1)
    total, square, n = torch.zeros(64).double(), torch.zeros(64).double(), 400
    for _ in range(n):
        samples = psi.sample(200, generator, unique=True)
        elements = hamiltonian.off_diagonal(samples.configs)
        made = proposals(samples, elements, hamiltonian.flips, most, generator)
        assert made.ratio == min(most, 200) / 200
        found = torch.zeros(64).double().index_add(0, numbers(made.configs), made.weights)
        total += found
        square += found.square()
    mean = total / n
    error = ((square / n - mean.square()) / (n - 1)).clamp(min=1e-20).sqrt()
    z = (mean - min(most, 200) * around) / error
    assert z.abs().max() < 5
    assert float(z.abs().max()) > 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_evaluations_of_bad_states(
    system: str, kind: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variance of 16 evaluations has the enumerated mean, within 5 standard errors (a quarter
    of them with few flips), the energy is within its error bars; chunks of draws do not matter."""
    hamiltonian = SYSTEMS[system]
    psi = table(hamiltonian, kind)
    energy, variance = moments(psi, hamiltonian)
    found, scores = [], []
    for i in range(16):
        if i % 4 == 3:
            monkeypatch.setattr("nqs.vmc.residual.LEAST_ROWS", 40)
        result = evaluate(psi, hamiltonian, 600, generator, chunk=(600, 150)[i % 2])
        found.append(result.variance)
        assert result.energy_error >= (result.variance_outside / 599) ** 0.5
        scores.append((result.energy - energy) / max(result.energy_error, 1e-9))
        if kind == "collapsed":
            assert result.variance == pytest.approx(variance, rel=1e-6, abs=1e-12)
            assert result.variance_outside == pytest.approx(variance, rel=1e-6, abs=1e-12)
    values = torch.tensor(found).double()
    error = float(values.std()) / 4
    assert abs(float(values.mean()) - variance) <= 5 * error + 1e-7 * max(variance, 1)
    assert error < 0.5 * variance or variance < 1e-12
    z = torch.tensor(scores).double()
    assert float(z.square().sum()) < 64  # chi-square of 16 beyond 64: 1e-7
    assert float(z.abs().max()) > 0.01 or kind == "collapsed"


def test_a_plain_mean_would_not_have_seen_it(generator: torch.Generator) -> None:
    """The oracle says no: <|E_loc - E|^2> over draws of p is 0 for a collapsed state."""
    hamiltonian = SYSTEMS["blockade"]
    psi = table(hamiltonian, "collapsed")
    samples = psi.sample(500, generator, unique=True)
    assert len(samples.counts) == 1
    assert moments(psi, hamiltonian)[1] == pytest.approx(6 / 4)


@pytest.mark.parametrize("energies", [Blurred(), NearFlips(flip_radius=0.1, exact_fraction=0.5)])
def test_steps_count_the_rows_that_they_leave_out(energies: Energies) -> None:
    """Variance of the step's record against enumeration, collapsed network and table."""
    hamiltonian, generator = SYSTEMS["rydberg"], torch.Generator().manual_seed(0)
    psi: Wavefunction = table(hamiltonian, "vanishing")
    if isinstance(energies, NearFlips):
        psi = network("ptf", Square(2, 3), "1x1")
        psi.set_product_state(torch.tensor([1e-40, 0.5, 1e-40, 0.5, 1e-40, 0.5]).double())
    _, variance = moments(psi, hamiltonian)
    found = []
    for _ in range(60):
        drawn = energies.draw(psi, hamiltonian, 400, generator)
        record = sample_statistics(
            drawn.e_loc, drawn.samples, 6, 0.0, drawn.noise, outside=drawn.outside
        )
        assert drawn.outside > 0
        assert record.variance >= drawn.outside
        found.append(record.variance)
    values = torch.tensor(found).double()
    assert (
        abs(float(values.mean()) - variance) < 5 * float(values.std()) / 60**0.5 + 0.02 * variance
    )


@pytest.mark.parametrize("system", ["rydberg", "blockade", "tfim"])
def test_excess_of_states_near_the_ground_state(system: str, generator: torch.Generator) -> None:
    """0 for the ground state; for small random errors of ln psi at least a tenth of E - E_0, and
    not above it by more than the ratio of the spectrum's gap to a flip's scale allows."""
    hamiltonian = SYSTEMS[system]
    exact = ground_state(hamiltonian)
    psi = exact_table(hamiltonian)
    assert evaluate(psi, hamiltonian, 2_000, generator).excess < 1e-6
    for size in (0.03, 0.1, 0.3):
        noise = torch.randn(len(psi.log_weights), generator=generator, dtype=torch.float64)
        off = TableWavefunction((psi.log_amplitudes().detach() + size * noise).exp())
        energy, _ = moments(off, hamiltonian)
        excess = evaluate(off, hamiltonian, 20_000, generator).excess
        assert 0.1 < excess / (energy - exact.energy) < 30


def test_scale_of_flips() -> None:
    assert scale_of_flips(SYSTEMS["rydberg"]) == 0.5
    assert scale_of_flips(SYSTEMS["heisenberg"]) == 2.0
    assert scale_of_flips(SYSTEMS["no flips"]) == 0.0


def test_complex_amplitudes() -> None:
    """Phases of psi: sum over all rows, and both parts of the local energies."""
    hamiltonian = SYSTEMS["complex"]
    generator = torch.Generator().manual_seed(5)
    phases = torch.randn(32, generator=generator, dtype=torch.float64)
    base = random_table(5)

    class Twisted(TableWavefunction):
        def log_psi(self, configs: Tensor) -> Tensor:
            return torch.complex(super().log_psi(configs), phases[numbers(configs)])

    psi = Twisted(base.log_amplitudes().detach().exp())
    vector = psi.log_psi(basis(5)).detach().exp()
    product = matrix(hamiltonian).to(torch.complex128) @ vector
    energy = float(torch.vdot(vector, product).real)
    ratio = product / vector - energy
    configs = basis(5)
    flipped = psi.log_psi((configs[:, None] ^ hamiltonian.flips).flatten(0, 1)).view(32, -1)
    log_psi = psi.log_psi(configs).detach()
    rows = Rows(configs, hamiltonian.off_diagonal(configs), flipped.detach(), log_psi)
    found = residuals(hamiltonian, rows, energy, 1.0)
    torch.testing.assert_close(found.real, ratio.real.square())
    torch.testing.assert_close(found.imaginary, ratio.imag.square())
    assert math.isfinite(float(found.excess.sum()))
