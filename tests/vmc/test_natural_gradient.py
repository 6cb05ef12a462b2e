"""minSR against SR and the explicit Jacobian, SPRING against its definition, for every core."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from states import minsr
from torch import Tensor, nn
from torch.testing import assert_close

from hamiltonians import Rydberg
from hamiltonians.exact import basis
from hamiltonians.lattices.lattice import Square
from nqs.core import large_patched as large_patched_module
from nqs.core.digits import digit_products
from nqs.core.large_patched import LargePatched
from nqs.core.linear_attention import LinearTransformer
from nqs.core.recurrent import Recurrent
from nqs.core.recurrent2d import Recurrent2D
from nqs.core.sequence import EmbeddingModel
from nqs.core.state_space import StateSpace
from nqs.core.transformer import Transformer
from nqs.vmc.energies.local_energy import local_energies
from nqs.vmc.optimizers import layer_rules, natural_gradient
from nqs.vmc.optimizers.gradient import energy_gradient, flat_gradient, flat_parameters
from nqs.vmc.optimizers.jacobian import Jacobian, Workspace, add_gram, centre
from nqs.vmc.optimizers.layer_jacobians import LayerJacobians, bytes_per_row
from nqs.vmc.optimizers.layer_rules import Seen, Span, layer_rule
from nqs.vmc.optimizers.natural_gradient import (
    implicit_energies,
    momentum_share,
    solve_shifted,
    with_target_weights,
)
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.patches import Patches
from nqs.wavefunctions.wavefunction import Samples

HAMILTONIAN = Rydberg(Square(3, 3), V=3.0, delta=1.0)
SHIFT, RATE = 1e-3, 0.1
PRODUCTS = digit_products(4, 0.5, 3)
CORES = {
    "ptf-learned": lambda *sizes: Transformer(
        *sizes, d_model=8, n_heads=2, attention="softmax", positions="learned"
    ),
    "ptf-sinusoidal-relu": lambda *sizes: Transformer(
        *sizes, d_model=8, n_heads=2, attention="softmax", positions="sinusoidal", activation="relu"
    ),
    "ptf-factored": lambda *sizes: Transformer(*sizes, d_model=8, n_heads=2, attention="factored"),
    "elman": lambda *sizes: Recurrent(*sizes, d_model=6, cell="elman"),
    "gru-2": lambda *sizes: Recurrent(*sizes, d_model=6, cell="gru", n_layers=2),
    "linear": lambda *sizes: LinearTransformer(*sizes, d_model=4, n_heads=2, n_layers=1),
    "ssm": lambda *sizes: StateSpace(*sizes, d_model=4, d_state=2, n_layers=1),
    "rnn2d": lambda *sizes: Recurrent2D(*sizes[:2], (2, 2), d_model=5, d_embed=2),
    "ptf-digits": lambda *sizes: Transformer(
        *sizes, d_model=8, n_heads=2, attention="softmax", products=PRODUCTS
    ),
    "gru-digits": lambda *sizes: Recurrent(*sizes, d_model=5, cell="gru", products=PRODUCTS),
    "lstm-3-residual": lambda *sizes: Recurrent(
        *sizes, d_model=5, cell="lstm", n_layers=3, residual=True
    ),
}


def large_patched(
    sub: str,
    _: int,
    n_states: int,
    n_patches: int,
    *,
    length: int = 2,
    products: Tensor | None = None,
) -> LargePatched:
    """Pairs of patches (or single ones) as large ones; factored attention above an LSTM."""
    sizes = (n_states, n_states, length)
    attention = "factored" if sub == "lstm" else "softmax"
    inner: EmbeddingModel = (
        Transformer(
            *sizes, d_model=6, n_heads=2, n_layers=1, attention="softmax", products=products
        )
        if sub == "ptf"
        else Recurrent(*sizes, d_model=5, cell=sub, products=products)
    )
    lengths = [length] * (n_patches // length)
    sizes = (length * n_states + 1, inner.embedding.embedding_dim, len(lengths))
    kind = {"attention": attention, "products": products, "writes_tokens": False}
    outer = Transformer(*sizes, d_model=8, n_heads=2, **kind)
    return LargePatched(outer, inner, lengths)


LARGE_CORES = {
    "lptf-ptf": lambda *sizes: large_patched("ptf", *sizes),
    "lptf-gru": lambda *sizes: large_patched("gru", *sizes),
    "lptf-lstm": lambda *sizes: large_patched("lstm", *sizes),
    "lptf-digits": lambda *sizes: large_patched("gru", *sizes, products=PRODUCTS),
    # one sub-patch each: the sub-sampler's embedding is never read
    "lptf-single": lambda *sizes: large_patched("gru", *sizes, length=1),
}
every_core = pytest.mark.parametrize("core", CORES)
every_core_and_large = pytest.mark.parametrize("core", CORES | LARGE_CORES)


def spread(*settings: object) -> list[tuple[str, object]]:
    """Every core with one setting, every setting with some core."""
    return list(zip(CORES, itertools.cycle(settings), strict=False))


def build(core: str) -> Autoregressive:
    patches = Patches.from_spec(HAMILTONIAN.lattice, "2x2")
    sizes = (patches.n_states + 1, patches.n_states, patches.n_patches)
    psi = Autoregressive((CORES | LARGE_CORES)[core](*sizes), patches).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in psi.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator).double())
    return psi


def draw(psi: Autoregressive, seed: int = 0) -> tuple[Samples, Tensor]:
    samples = psi.sample(60, torch.Generator().manual_seed(seed), unique=True)
    return samples, local_energies(psi, HAMILTONIAN, samples)


EXPLICIT: dict[tuple[str, bytes, bytes], Tensor] = {}
"""Jacobians that several tests want."""


def explicit_jacobian(psi: Autoregressive, configs: Tensor) -> Tensor:
    """d ln psi / d theta, one backward pass a row, (U, P)."""
    parameters = flat_parameters(psi).numpy().tobytes()
    key = (repr(psi), parameters, configs.numpy().tobytes())
    if key not in EXPLICIT or any(p.device.type != "cpu" for p in psi.parameters()):
        rows = []
        for config in configs:
            psi.zero_grad()
            psi.log_psi(config[None]).sum().backward()
            rows.append(flat_gradient(psi))
        EXPLICIT[key] = torch.stack(rows)
    return EXPLICIT[key]


def centred_system(psi: Autoregressive, samples: Samples, e_loc: Tensor) -> tuple[Tensor, Tensor]:
    """O (U, P) and e (U,) by their definitions."""
    weights, jacobian = samples.weights, explicit_jacobian(psi, samples.configs)
    roots = weights.sqrt()
    return roots[:, None] * (jacobian - weights @ jacobian), roots * (e_loc - weights @ e_loc)


def parameter_space(o: Tensor, e: Tensor) -> Tensor:
    """SR: (O^T O + lambda)^-1 O^T e, the P x P system."""
    return torch.linalg.solve(o.T @ o + SHIFT * torch.eye(o.shape[1]).double(), o.T @ e)


@every_core_and_large
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


def test_launches_of_a_sub_sampler_leave_its_jacobian(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large patches one after another instead of all in one launch."""
    monkeypatch.setattr(large_patched_module, "MOST_ROWS", 1)
    psi = build("lptf-ptf")
    samples, _ = draw(psi)
    jacobians = LayerJacobians(psi, samples.configs)
    expected = explicit_jacobian(psi, samples.configs)
    for begin, block in jacobians.blocks(10**6):
        columns = slice(begin, begin + block.shape[1])
        assert_close(block, expected[:, columns], rtol=1e-12, atol=1e-12)
    row_bytes = bytes_per_row(psi, samples.configs)
    everything = LayerJacobians(psi, samples.configs)
    held = max(everything.nbytes for _ in everything.panels(50))
    assert held == len(samples.configs) * row_bytes.record


def test_momentum_is_kept_where_the_step_is_small() -> None:
    """All of it below the bound, less above in proportion; rows that the shifted metric cannot move
    do not count; ten times the sites with ten times the variance are the same."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(400, generator=generator, dtype=torch.float64)
    weights = torch.full((400,), 1 / 400, dtype=torch.float64)
    assert momentum_share(1e-2 * steps, weights, 1e-3, 9) == 1.0
    share = momentum_share(10 * steps, weights, 1e-3, 9)
    assert 0 < share < 0.1
    assert momentum_share(20 * steps, weights, 1e-3, 9) == pytest.approx(share / 2)
    assert momentum_share(10**0.5 * 10 * steps, weights, 1e-3, 90) == pytest.approx(share)
    tail = torch.cat([weights, torch.tensor([1e-12]).double()])
    assert (
        momentum_share(torch.cat([1e-2 * steps, torch.tensor([1e3]).double()]), tail, 1e-3, 9)
        == 1.0
    )
    assert momentum_share(torch.zeros(3).double(), weights[:3], 1e-3, 9) == 1.0


def test_the_direction_is_kept_as_far_as_it_was_gone() -> None:
    """A step that the trust region shortens to a hundredth leaves a hundredth of a direction."""
    psi = build("ptf-learned")
    samples, e_loc = draw(psi)
    whole = minsr(RATE, diagonal_shift=SHIFT)
    whole.update(psi, samples, e_loc)
    first = minsr(RATE, diagonal_shift=SHIFT, max_norm=1e6)
    first.update(psi, samples, e_loc)
    assert whole.direction is not None and first.direction is not None
    assert torch.equal(first.direction, whole.direction)
    short = minsr(RATE, diagonal_shift=SHIFT, max_norm=1e-6)
    update = short.update(psi, samples, e_loc)
    assert short.direction is not None
    assert_close(update, -RATE * short.direction)
    assert float(short.direction.norm()) < 1e-3 * float(whole.direction.norm())


@pytest.mark.parametrize("core", [*CORES, "lptf-gru"])
def test_minsr_is_sr_and_spring_its_recursion(core: str) -> None:
    psi = build(core)
    optimizer = minsr(RATE, diagonal_shift=SHIFT, momentum=0.8)
    old = None
    for seed in range(3):
        samples, e_loc = draw(psi, seed)
        o, e = centred_system(psi, samples, e_loc)
        if old is None:
            delta = parameter_space(o, e)
        else:
            steps = RATE * (e_loc - samples.weights @ e_loc)
            kept = 0.8 * momentum_share(steps, samples.weights, SHIFT, psi.n_sites)
            assert kept > 0.01
            delta = parameter_space(o, e - kept * o @ old) + kept * old
        update = optimizer.update(psi, samples, e_loc)
        assert_close(update, -RATE * delta, rtol=0, atol=1e-10 * float(delta.norm()))
        old = delta


@pytest.mark.parametrize(
    ("core", "space"),
    [("ptf-factored", "rows"), ("gru-2", "rows in pieces"), ("lptf-lstm", "parameters")],
)
def test_on_every_device(
    core: str, space: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jacobians and two directions, the second with momentum, are those of the CPU."""
    in_space(monkeypatch, space == "parameters")
    memory_gb = 3e-4 if space == "rows in pieces" else 1.0
    psi = build(core)
    samples, e_loc = draw(psi)
    samples = Samples(samples.configs[:12], samples.counts[:12], samples.log_psi[:12])
    e_loc = e_loc[:12]
    moved = Samples(*(x.to(device) for x in (samples.configs, samples.counts, samples.log_psi)))
    jacobian = explicit_jacobian(psi, samples.configs[:9])
    found = []
    for rows, energies in ((samples, e_loc), (moved, e_loc.to(device))):
        psi = psi.to(energies.device)
        optimizer = minsr(RATE, diagonal_shift=SHIFT, momentum=0.8, memory_gb=memory_gb)
        found.append([optimizer.update(psi, rows, energies).cpu() for _ in range(2)])
    assert_close(found[1], found[0], rtol=1e-9, atol=1e-11)
    for columns, panel in LayerJacobians(psi, moved.configs[:9]).panels(80):
        assert_close(panel.cpu(), jacobian[:, columns.cpu()], rtol=1e-12, atol=1e-12)


@every_core
def test_gradient_norm_is_the_energy_gradients(core: str) -> None:
    psi = build(core)
    samples, e_loc = draw(psi)
    optimizer = minsr(RATE)
    optimizer.update(psi, samples, e_loc)
    expected = energy_gradient(psi, samples, e_loc).norm()
    assert optimizer.diagnostics["gradient_norm"] == pytest.approx(float(expected), rel=1e-9)


def test_counts_are_repeated_rows() -> None:
    psi = build("ptf-learned")
    unique, e_loc = draw(psi)
    rows = torch.arange(len(unique.counts)).repeat_interleave(unique.counts)
    written_out = Samples(unique.configs[rows], torch.ones_like(rows), unique.log_psi[rows])
    a = minsr(RATE).update(psi, unique, e_loc)
    b = minsr(RATE).update(psi, written_out, e_loc[rows])
    assert_close(a, b, rtol=0, atol=1e-10 * float(a.norm()))


def test_memory_budget_changes_nothing() -> None:
    psi = build("ptf-learned")
    samples, e_loc = draw(psi)
    a = minsr(RATE).update(psi, samples, e_loc)
    b = minsr(RATE, memory_gb=1e-5).update(psi, samples, e_loc)
    assert_close(a, b, rtol=0, atol=1e-10 * float(a.norm()))


def in_space(monkeypatch: pytest.MonkeyPatch, parameter_space: bool) -> None:
    monkeypatch.setattr(natural_gradient, "fewer_parameters", lambda *sizes: parameter_space)


@pytest.mark.parametrize(("core", "memory_gb"), [*((core, 1e-4) for core in CORES), ("gru-2", 1.0)])
def test_both_spaces_and_any_budget_give_one_direction(
    core: str, memory_gb: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept Jacobian and backward pass, groups of layers and chunks of rows: over two steps."""
    psi = build(core)
    drawn = [draw(psi, seed) for seed in range(2)]
    found = []
    for parameter_space, budget in ((False, 1.0), (False, memory_gb), (True, memory_gb)):
        in_space(monkeypatch, parameter_space)
        optimizer = minsr(RATE, diagonal_shift=SHIFT, momentum=0.8, memory_gb=budget)
        steps = []
        for samples, e_loc in drawn:
            steps.append((optimizer.update(psi, samples, e_loc), optimizer.diagnostics))
        found.append(steps)
    for other in found[1:]:
        for (a, a_figures), (b, b_figures) in zip(found[0], other, strict=True):
            assert_close(b, a, rtol=0, atol=1e-10 * float(a.norm()))
            assert b_figures == pytest.approx(a_figures, rel=1e-9)


def test_the_smaller_space_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer parameters than rows no R x R matrix is formed, with more no P x P one."""
    psi = build("elman")
    n_parameters = sum(p.numel() for p in psi.parameters())
    sizes: list[int] = []
    solve = natural_gradient.solve_shifted

    def recorded(matrix: Tensor, *arguments: object) -> Tensor:
        sizes.append(len(matrix))
        return solve(matrix, *arguments)

    monkeypatch.setattr(natural_gradient, "solve_shifted", recorded)
    for n_rows in (20, n_parameters + 1):
        configs = basis(9)[torch.arange(n_rows) % 512]
        samples = Samples(configs, torch.ones(n_rows, dtype=torch.int64), psi.log_psi(configs))
        e_loc = local_energies(psi, HAMILTONIAN, samples)
        minsr(RATE).update(psi, samples, e_loc)
    assert sizes == [20, n_parameters]


@pytest.mark.parametrize(("core", "max_bytes"), spread(10**6, 10**5, 3 * 10**4))
def test_what_is_held_is_bounded(core: str, max_bytes: int) -> None:
    """Inputs and gradients below half of the budget, or those of a single layer, at all times."""
    psi = build(core)
    samples, _ = draw(psi)
    row_bytes = bytes_per_row(psi, samples.configs)
    whole = len(samples.configs) * row_bytes.record
    largest = len(samples.configs) * max(row_bytes.layers.values())
    jacobians = LayerJacobians(psi, samples.configs, max_bytes=max_bytes)
    held = {jacobians.nbytes for _ in jacobians.panels(50)}
    assert 0 < max(held) <= max(max_bytes / 2, largest)
    assert (len(held) > 1) == (whole > max_bytes / 2)  # otherwise one group is enough
    assert jacobians.nbytes == 0
    everything = LayerJacobians(psi, samples.configs)
    assert max(everything.nbytes for _ in everything.panels(50)) == whole  # measured = held


@every_core
def test_the_graph_of_a_chunk_is_bounded(core: str) -> None:
    """What autograd saves for a chunk of rows grows as measured with one."""
    psi = build(core)
    samples, _ = draw(psi)
    graph = bytes_per_row(psi, samples.configs).graph
    constants = [*psi.parameters(), *psi.buffers()]
    known = {tensor.untyped_storage().data_ptr() for tensor in constants}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        psi.log_psi(samples.configs[:40])
    total = sum(storage.nbytes() for place, storage in saved.items() if place not in known)
    assert total <= 40 * graph * 1.05
    chunk = bytes_per_row(psi, samples.configs).chunk(10 * graph)
    assert chunk == 5  # gradients on the way back count as much again


@pytest.mark.parametrize(("core", "max_bytes"), [*spread(2.0**30, 1e5), ("lptf-gru", 1e5)])
def test_the_jacobian_is_a_linear_map(core: str, max_bytes: float) -> None:
    """O O^T, O v, O^T a, O^T O and O^T e are those of the matrix, in memory or not."""
    psi = build(core)
    samples, e_loc = draw(psi)
    o, e = centred_system(psi, samples, e_loc)
    generator = torch.Generator().manual_seed(5)
    v, w = torch.randn(2, o.shape[1], generator=generator, dtype=o.dtype)
    a = torch.randn(len(o), generator=generator, dtype=o.dtype)
    tolerance = {"rtol": 1e-9, "atol": 1e-10 * float((o @ o.T).abs().max())}
    whole = Jacobian(psi, samples, Workspace(max_bytes))
    assert (whole.n_rows, whole.n_parameters) == o.shape
    assert_close(whole.rows(e_loc - samples.weights @ e_loc), e)
    backward = whole.pull_back(a)
    for result, expected in zip(whole.gram(v, w), (o @ o.T, o @ v, o @ w), strict=True):
        assert_close(result, expected, **tolerance)
    for result in (backward, whole.pull_back(a)):
        assert_close(result, a @ o, **tolerance)
    for result, expected in zip(whole.metric(e), (o.T @ o, e @ o), strict=True):
        assert_close(result, expected, **tolerance)


@pytest.mark.parametrize("memory_gb", [1.0, 1e-4])
def test_a_jacobian_that_fits_is_held(memory_gb: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then O^T a needs no pass through the network; the slow twin is that pass."""
    psi = build("ptf-learned")
    samples, _ = draw(psi)
    o = Jacobian(psi, samples, Workspace(memory_gb * 2**30))
    gram = o.gram()[0]
    passes: list[Tensor] = []
    log_psi = psi.log_psi
    monkeypatch.setattr(psi, "log_psi", lambda x: passes.append(x) or log_psi(x))
    o.pull_back(gram[0])
    assert (len(passes) == 0) == (memory_gb == 1.0)


class Scale(nn.Module):
    """y = s x + b, channel by channel, with s in two parts: a kind of layer of this file's own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.offset = (
            nn.Parameter(torch.ones(2, width // 2)),
            nn.Parameter(torch.ones(())),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.flatten() + self.offset


def with_scales() -> Autoregressive:
    """One before the head, read position by position."""
    psi = build("ptf-learned")
    psi.core.norm = nn.Sequential(psi.core.norm, Scale(8)).double()  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(2)
    for parameter in psi.core.norm[1].parameters():
        parameter.data.normal_(generator=generator)
    return psi


def test_a_new_kind_of_layer_needs_one_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    psi = with_scales()
    samples, e_loc = draw(psi)
    rule = (
        r"no rule for the layer Scale \(core.norm.1\): register one with @layer_rule\(Scale\) of "
        r"nqs.vmc.optimizers.layer_rules, build from Linear, .* or take optimizer=adam"
    )
    with pytest.raises(ValueError, match=rule):
        minsr().update(psi, samples, e_loc)
    monkeypatch.setattr(layer_rules, "RULES", layer_rules.RULES.copy())

    @layer_rule(Scale)
    def scale(layer: Scale, seen: Seen, span: Span, out: Tensor) -> None:
        if span.parameter == "offset":
            out[:] = seen.gradients.sum((1, 2))[:, None]
        else:
            torch.sum((seen.gradients * seen.inputs)[:, :, span.elements], dim=1, out=out)

    o, e = centred_system(psi, samples, e_loc)
    expected = explicit_jacobian(psi, samples.configs)
    for max_columns in (10**6, 5):
        for columns, panel in LayerJacobians(psi, samples.configs).panels(max_columns):
            assert_close(panel, expected[:, columns], rtol=1e-12, atol=1e-12)
    delta = parameter_space(o, e)
    update = minsr(RATE, diagonal_shift=SHIFT).update(psi, samples, e_loc)
    assert_close(update, -RATE * delta, rtol=0, atol=1e-10 * float(delta.norm()))


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_float32_gram_matrices_lose_no_more_than_rounding(shift: float) -> None:
    """Centring comes before the product: a mean of 1000 standard deviations cancels only once."""
    generator = torch.Generator().manual_seed(0)
    jacobian = shift + torch.randn(50, 400, generator=generator, dtype=torch.float64)
    weights = torch.rand(50, generator=generator, dtype=torch.float64)
    roots = (weights / weights.sum()).sqrt()
    single = (roots[:, None] * jacobian).float()
    exact = roots[:, None] * (jacobian - roots.square() @ jacobian)
    mean = centre(single, roots)
    assert_close(mean.double(), roots.square() @ jacobian, rtol=1e-6, atol=1e-6)
    gram = torch.zeros(50, 50, dtype=torch.float64)
    add_gram(gram, single)
    error = (gram.tril() - (exact @ exact.T).tril()).abs().max() / (exact @ exact.T).abs().max()
    assert float(error) < (1e-6 if shift == 0 else 1e-4)


@pytest.mark.parametrize(("core", "parameter_space"), spread(False, True))
def test_float32_is_close_to_float64(
    core: str, parameter_space: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_space(monkeypatch, parameter_space)
    psi = build(core)
    samples, e_loc = draw(psi)
    double = minsr(RATE, diagonal_shift=SHIFT).update(psi, samples, e_loc)
    single = minsr(RATE, diagonal_shift=SHIFT).update(psi.float(), samples, e_loc)
    assert single.dtype == torch.float32
    assert float((single.double() - double).norm() / double.norm()) < 5e-3


def test_trust_region() -> None:
    """The applied update changes ln psi by max_norm at most (weighted standard deviation)."""
    psi = build("gru-2")
    samples, e_loc = draw(psi)
    o, _ = centred_system(psi, samples, e_loc)
    free = minsr(RATE, diagonal_shift=SHIFT).update(psi, samples, e_loc)
    bound = 0.5 * float((o @ free).norm())
    held = minsr(RATE, diagonal_shift=SHIFT, max_norm=bound)
    update = held.update(psi, samples, e_loc)
    assert float((o @ update).norm()) == pytest.approx(bound, rel=1e-9)
    assert_close(update, 0.5 * free, rtol=1e-8, atol=1e-12)
    assert held.diagnostics["learning_rate"] == pytest.approx(0.5 * RATE, rel=1e-9)


def test_schedules_act_on_rate_and_shift() -> None:
    psi = build("elman")
    samples, e_loc = draw(psi)
    halves = {"schedule": "exponential", "final_fraction": 0.5, "final_shift_fraction": 0.5}
    scheduled = minsr(RATE, diagonal_shift=SHIFT, momentum=0.0, **halves)
    scheduled.prepare(HAMILTONIAN, n_steps=1)
    scheduled.update(psi, samples, e_loc)
    second = scheduled.update(psi, samples, e_loc)
    plain = minsr(RATE / 2, diagonal_shift=SHIFT / 2, momentum=0.0)
    assert_close(second, plain.update(psi, samples, e_loc), rtol=1e-9, atol=1e-12)


def test_state_continues_bit_for_bit() -> None:
    psi = build("ptf-learned")
    samples, e_loc = draw(psi)
    one = minsr(RATE)
    one.update(psi, samples, e_loc)
    other = minsr(RATE)
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
    add_gram(gram, rows)
    assert_close(gram.tril(), (rows @ rows.T).tril())


def test_implicit_energies_are_those_of_the_implicit_step() -> None:
    """exp(-dt g(x)) = 1 / (1 + dt x) above the mean; below it, and as dt falls, x itself.

    No amplitude is asked to grow by more than exp(1).
    """
    excess = torch.tensor([-4.9, -1.0, 0.0, 0.5, 1e6], dtype=torch.float64)
    damped = implicit_energies(excess, 0.2)
    assert_close(damped[:3], excess[:3])
    assert_close(implicit_energies(torch.tensor([-1e30, -5.1]), 0.2), torch.tensor([-5.0, -5.0]))
    assert_close((-0.2 * damped[3:]).exp(), 1 / (1 + 0.2 * excess[3:]))
    assert_close(implicit_energies(excess[:4], 1e-9), excess[:4], rtol=1e-8, atol=0.0)
    turned = torch.complex(excess, excess.flip(0))
    assert_close(implicit_energies(turned, 0.2).real, damped)
    assert_close(implicit_energies(turned, 0.2).imag, excess.flip(0))


def test_what_was_emptied_weighs_as_what_it_is_to_be() -> None:
    """psi of one configuration falls, H psi and so what a step makes of it does not: nor does the
    weight of its row, which would else fall as |psi|^2."""
    importance = torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64)
    configs, ones = torch.eye(3).bool(), torch.ones(3, dtype=torch.int64)
    found = []
    for scale in (1e-3, 1e-6):
        log_psi = torch.tensor([0.0, 0.0, math.log(scale)], dtype=torch.float64)
        ratios = torch.tensor([1.0, 1.0, scale**2], dtype=torch.float64)  # |psi|^2
        samples = Samples(configs, ones, log_psi, importance * ratios)
        excess = torch.tensor([0.3, -0.2, -0.7 / scale], dtype=torch.float64)
        found.append(with_target_weights(samples, excess, 0.1).importance)
    assert found[0] is not None and found[1] is not None
    assert_close(found[0], found[1])
    assert_close(found[0], torch.tensor([1.0, 1.0, 0.5 * 0.07**2], dtype=torch.float64))
    mild = Samples(configs, ones, torch.zeros(3, dtype=torch.float64))
    assert with_target_weights(mild, torch.tensor([-9.9, 5.0, 1e9]), 0.1) is mild


def test_implicit_update_is_the_plain_one_of_implicit_energies() -> None:
    psi = build("gru-2")
    samples, e_loc = draw(psi)
    excess = e_loc - samples.weights @ e_loc
    plain = minsr(RATE, diagonal_shift=SHIFT).update(psi, samples, implicit_energies(excess, RATE))
    implicit = minsr(RATE, diagonal_shift=SHIFT, implicit=True)
    assert_close(implicit.update(psi, samples, e_loc), plain, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(plain, minsr(RATE, diagonal_shift=SHIFT).update(psi, samples, e_loc))
