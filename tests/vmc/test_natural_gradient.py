"""minSR against SR and the explicit Jacobian, SPRING against its definition, for every core."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from hamiltonians import Rydberg
from hamiltonians.lattice import Square
from nqs.core.recurrent import Recurrent
from nqs.core.transformer import Transformer
from nqs.vmc import natural_gradient
from nqs.vmc.gradient import energy_gradient, flat_gradient
from nqs.vmc.layer_jacobians import LayerJacobians
from nqs.vmc.local_energy import local_energies
from nqs.vmc.natural_gradient import NaturalGradient, solve_shifted
from nqs.vmc.schedules import Schedule
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.patches import Patches
from nqs.wavefunctions.wavefunction import Samples

HAMILTONIAN = Rydberg(Square(3, 3), V=3.0, delta=1.0)
SHIFT, RATE = 1e-3, 0.1
CORES = {
    "ptf-learned": lambda *sizes: Transformer(*sizes, d_model=8, n_heads=2, positions="learned"),
    "ptf-sinusoidal-relu": lambda *sizes: Transformer(
        *sizes, d_model=8, n_heads=2, positions="sinusoidal", activation="relu"
    ),
    "elman": lambda *sizes: Recurrent(*sizes, d_model=6, cell="elman"),
    "gru-2": lambda *sizes: Recurrent(*sizes, d_model=6, cell="gru", n_layers=2),
    "lstm-3-residual": lambda *sizes: Recurrent(
        *sizes, d_model=5, cell="lstm", n_layers=3, residual=True
    ),
}
every_core = pytest.mark.parametrize("core", CORES)


def build(core: str) -> Autoregressive:
    patches = Patches.from_spec(HAMILTONIAN.lattice, "2x2")
    sizes = (patches.n_states + 1, patches.n_states, patches.n_patches)
    psi = Autoregressive(CORES[core](*sizes), patches).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in psi.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator).double())
    return psi


def draw(psi: Autoregressive, seed: int = 0) -> tuple[Samples, Tensor]:
    samples = psi.sample(200, torch.Generator().manual_seed(seed), unique=True)
    return samples, local_energies(psi, HAMILTONIAN, samples)


def explicit_jacobian(psi: Autoregressive, configs: Tensor) -> Tensor:
    """d ln psi / d theta, one backward pass a row, (U, P)."""
    rows = []
    for config in configs:
        psi.zero_grad()
        psi.log_psi(config[None]).sum().backward()
        rows.append(flat_gradient(psi))
    return torch.stack(rows)


def centred_system(psi: Autoregressive, samples: Samples, e_loc: Tensor) -> tuple[Tensor, Tensor]:
    """O (U, P) and e (U,) by their definitions."""
    weights, jacobian = samples.weights, explicit_jacobian(psi, samples.configs)
    roots = weights.sqrt()
    return roots[:, None] * (jacobian - weights @ jacobian), roots * (e_loc - weights @ e_loc)


def parameter_space(o: Tensor, e: Tensor) -> Tensor:
    """SR: (O^T O + lambda)^-1 O^T e, the P x P system."""
    return torch.linalg.solve(o.T @ o + SHIFT * torch.eye(o.shape[1]).double(), o.T @ e)


@every_core
def test_layer_jacobians_are_the_jacobian(core: str) -> None:
    """Whole and in small column blocks and row chunks; each column exactly once."""
    psi = build(core)
    samples, _ = draw(psi)
    expected = explicit_jacobian(psi, samples.configs)
    for chunk, max_columns in ((1_000, 10**6), (7, 20)):
        found = torch.full_like(expected, torch.nan)
        for begin, block in LayerJacobians(psi, samples.configs, chunk=chunk).blocks(max_columns):
            assert found[:, begin : begin + block.shape[1]].isnan().all()
            found[:, begin : begin + block.shape[1]] = block
        assert_close(found, expected, rtol=1e-12, atol=1e-12)
        found.fill_(torch.nan)
        for columns, panel in LayerJacobians(psi, samples.configs).panels(80):
            assert panel.shape[1] <= 80 and found[:, columns].isnan().all()
            found[:, columns] = panel
        assert_close(found, expected, rtol=1e-12, atol=1e-12)


@every_core
def test_minsr_is_sr_and_spring_its_recursion(core: str) -> None:
    psi = build(core)
    optimizer = NaturalGradient(RATE, diagonal_shift=SHIFT, momentum=0.8)
    old = None
    for seed in range(3):
        samples, e_loc = draw(psi, seed)
        o, e = centred_system(psi, samples, e_loc)
        if old is None:
            delta = parameter_space(o, e)
        else:
            delta = parameter_space(o, e - 0.8 * o @ old) + 0.8 * old
        update = optimizer.update(psi, samples, e_loc)
        assert_close(update, -RATE * delta, rtol=0, atol=1e-10 * float(delta.norm()))
        old = delta


@every_core
def test_gradient_norm_is_the_energy_gradients(core: str) -> None:
    psi = build(core)
    samples, e_loc = draw(psi)
    optimizer = NaturalGradient(RATE)
    optimizer.update(psi, samples, e_loc)
    expected = energy_gradient(psi, samples, e_loc).norm()
    assert optimizer.diagnostics["gradient_norm"] == pytest.approx(float(expected), rel=1e-9)


def test_counts_are_repeated_rows() -> None:
    psi = build("ptf-learned")
    unique, e_loc = draw(psi)
    rows = torch.arange(len(unique.counts)).repeat_interleave(unique.counts)
    written_out = Samples(unique.configs[rows], torch.ones_like(rows), unique.log_psi[rows])
    a = NaturalGradient(RATE).update(psi, unique, e_loc)
    b = NaturalGradient(RATE).update(psi, written_out, e_loc[rows])
    assert_close(a, b, rtol=0, atol=1e-10 * float(a.norm()))


def test_memory_budget_changes_nothing() -> None:
    psi = build("ptf-learned")
    samples, e_loc = draw(psi)
    a = NaturalGradient(RATE).update(psi, samples, e_loc)
    b = NaturalGradient(RATE, memory_gb=1e-5).update(psi, samples, e_loc)
    assert_close(a, b, rtol=0, atol=1e-10 * float(a.norm()))


def test_trust_region() -> None:
    """The applied update changes ln psi by max_norm at most (weighted standard deviation)."""
    psi = build("gru-2")
    samples, e_loc = draw(psi)
    o, _ = centred_system(psi, samples, e_loc)
    free = NaturalGradient(RATE, diagonal_shift=SHIFT).update(psi, samples, e_loc)
    bound = 0.5 * float((o @ free).norm())
    held = NaturalGradient(RATE, diagonal_shift=SHIFT, max_norm=bound)
    update = held.update(psi, samples, e_loc)
    assert float((o @ update).norm()) == pytest.approx(bound, rel=1e-9)
    assert_close(update, 0.5 * free, rtol=1e-8, atol=1e-12)
    assert held.diagnostics["learning_rate"] == pytest.approx(0.5 * RATE, rel=1e-9)


def test_schedules_act_on_rate_and_shift() -> None:
    psi = build("elman")
    samples, e_loc = draw(psi)
    halving = Schedule("exponential", total_steps=1, final_fraction=0.5)
    scheduled = NaturalGradient(
        RATE, diagonal_shift=SHIFT, momentum=0.0, schedule=halving, shift_schedule=halving
    )
    scheduled.update(psi, samples, e_loc)
    second = scheduled.update(psi, samples, e_loc)
    plain = NaturalGradient(RATE / 2, diagonal_shift=SHIFT / 2, momentum=0.0)
    assert_close(second, plain.update(psi, samples, e_loc), rtol=1e-9, atol=1e-12)


def test_state_continues_bit_for_bit() -> None:
    psi = build("ptf-learned")
    samples, e_loc = draw(psi)
    one = NaturalGradient(RATE)
    one.update(psi, samples, e_loc)
    other = NaturalGradient(RATE)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.update(psi, samples, e_loc), other.update(psi, samples, e_loc))


def test_solve_with_a_matrix_that_cholesky_refuses() -> None:
    """Rounding can leave the Gram matrix slightly indefinite; the eigenvalue path ignores that."""
    vectors, _ = torch.linalg.qr(
        torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double()
    )
    values = torch.tensor([3.0, 1.0, 0.5, 0.0, 0.0, -1e-3]).double()
    gram, right = (vectors * values) @ vectors.T, torch.ones(6).double()
    expected = (vectors / (values.clamp(min=0) + 1e-4)) @ (vectors.T @ right)
    assert_close(solve_shifted(gram, right, 1e-4), expected, rtol=1e-9, atol=1e-9)


def test_gram_below_the_diagonal() -> None:
    rows = torch.randn(11, 5, generator=torch.Generator().manual_seed(0)).double()
    gram = torch.zeros(11, 11).double()
    natural_gradient.add_gram(gram, rows)
    assert_close(gram.tril(), (rows @ rows.T).tril())


def test_unknown_layer_is_named() -> None:
    psi = build("ptf-learned")
    psi.core.head = nn.Bilinear(2, 2, 2).double()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"does not know the layer Bilinear \(core.head\)"):
        LayerJacobians(psi, torch.zeros(2, 9).bool())


@pytest.mark.parametrize(
    "bad",
    [
        {"learning_rate": 0.0},
        {"diagonal_shift": 0.0},
        {"momentum": 1.0},
        {"max_norm": -1.0},
        {"memory_gb": 0.0},
    ],
)
def test_bad_settings(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        NaturalGradient(**bad)
