"""|psi|^2 is exactly normalised and autoregressive, over patches that divide the lattice or not."""

from __future__ import annotations

import pytest
import torch
from systems import (
    GROUPS,
    MODELS,
    all_probabilities,
    build,
    build_core,
    build_system,
    every_case,
    every_model,
    every_remainder,
    random_bits,
)
from torch import Tensor
from torch.testing import assert_close

from hamiltonians.exact import basis
from hamiltonians.lattices.lattice import Chain, Square
from nqs.core.recurrent import Recurrent
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.patches import Patches

EXACT = {"rtol": 0.0, "atol": 1e-12}


@every_case
def test_normalised(model: str, system: str) -> None:
    p = all_probabilities(build_system(model, system))
    assert_close(p.sum(), torch.ones(()).double(), **EXACT)
    assert p.max() > 1.5 * p.mean()  # not the uniform state, for which much would hold trivially


@every_case
@torch.no_grad()
def test_log_psi_is_the_product_of_conditionals(model: str, system: str) -> None:
    """Slow twin: p(patch | earlier patches) by summing |psi|^2 over everything else."""
    psi = build_system(model, system)
    configs = basis(psi.n_sites)
    p, tokens = all_probabilities(psi), psi.patches.encode(configs)
    logits, log_norms, _ = psi.conditionals(psi.inputs(tokens))
    shown = random_bits(3, psi.n_sites)
    for token, config in zip(psi.patches.encode(shown), shown, strict=True):
        row = int((configs == config).all(1).nonzero())
        for t in range(psi.patches.n_patches):
            before = (tokens[:, :t] == token[:t]).all(1)
            upto = before & (tokens[:, t] == token[t])
            conditional = (logits[row, t, token[t]] - log_norms[row, t]).exp()
            assert_close(conditional, p[upto].sum() / p[before].sum(), rtol=1e-10, atol=1e-12)


@every_case
@torch.no_grad()
def test_later_patches_leave_earlier_conditionals_untouched(model: str, system: str) -> None:
    psi = build_system(model, system)
    configs = random_bits(8, psi.n_sites)

    def conditionals(s: Tensor) -> Tensor:
        logits, log_norms, _ = psi.conditionals(psi.inputs(psi.patches.encode(s)))
        return (logits - log_norms[:, :, None]).exp()

    original = conditionals(configs)
    for t in range(psi.patches.n_patches):
        for site in psi.patches.sites[t, : psi.patches.sizes[t]].tolist():
            flipped = configs.clone()
            flipped[:, site] ^= True
            changed = conditionals(flipped)
            assert_close(changed[:, : t + 1], original[:, : t + 1], **EXACT)
            for later in range(t + 1, psi.patches.n_patches):
                assert (changed[:, later] - original[:, later]).abs().max() > 1e-6


@every_model
def test_site_order_never_leaks(model: str) -> None:
    """Renaming the sites of the groups renames them in configurations, flips and samples alike."""
    lattice = Square(3, 3)
    renamed = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    psi = build(model, lattice, GROUPS)
    other = build(model, lattice, [[int(renamed[site]) for site in group] for group in GROUPS])
    configs, flips = random_bits(40, 9), torch.cat([torch.eye(9).bool(), random_bits(5, 9, seed=4)])

    def rename(rows: Tensor) -> Tensor:
        moved = torch.empty_like(rows)
        moved[:, renamed] = rows
        return moved

    with torch.no_grad():
        assert_close(other.log_psi(rename(configs)), psi.log_psi(configs), **EXACT)
        assert (other.log_psi(configs) - psi.log_psi(configs)).abs().max() > 1e-3
    assert_close(
        other.log_psi_flipped(rename(configs), rename(flips)),
        psi.log_psi_flipped(configs, flips),
        **EXACT,
    )
    for unique in (False, True):
        ours = psi.sample(200, torch.Generator().manual_seed(5), unique=unique)
        theirs = other.sample(200, torch.Generator().manual_seed(5), unique=unique)
        assert torch.equal(theirs.configs, rename(ours.configs))
        assert torch.equal(theirs.counts, ours.counts)


@every_case
def test_product_state(model: str, system: str) -> None:
    """With the head silenced the bias alone gives prod_i p_i^{n_i} (1 - p_i)^{1 - n_i}."""
    psi = build_system(model, system)
    generator = torch.Generator().manual_seed(1)
    chances = 0.05 + 0.9 * torch.rand(psi.n_sites, generator=generator, dtype=torch.float64)
    psi.set_product_state(chances, spread=0.0)
    product = torch.where(basis(psi.n_sites), chances, 1 - chances).prod(1)
    assert_close(all_probabilities(psi), product, rtol=1e-11, atol=0)

    near = build_system(model, system)
    weights = near.core.head.weight.detach().clone()
    near.set_product_state(chances, spread=1e-3)
    assert_close(near.core.head.weight.detach(), 1e-3 * weights)
    difference = (all_probabilities(near).log() - product.log()).abs().max()
    assert 0 < difference < 0.1


@pytest.mark.parametrize(
    "chances", [torch.full((7,), 0.5), torch.zeros(6), torch.ones(6), torch.full((6,), torch.nan)]
)
def test_impossible_product_states(chances: Tensor) -> None:
    psi = build("gru", Chain(6), "2")
    before = {name: value.clone() for name, value in psi.state_dict().items()}
    with pytest.raises(ValueError, match=r"probabilities must be 6 numbers in the open \(0, 1\)"):
        psi.set_product_state(chances)
    assert_close(psi.state_dict(), before, rtol=0, atol=0)


@every_remainder
@pytest.mark.parametrize("model", [model for model in MODELS if "digits" not in model])
def test_closed_states_have_no_influence(model: str, system: str) -> None:
    psi = build_system(model, system)
    configs, flips = random_bits(20, psi.n_sites), torch.eye(psi.n_sites, dtype=torch.bool)
    closed = ~psi.patches.allowed()
    assert closed.any()
    log_psi = psi.log_psi(configs)
    log_psi.sum().backward()
    assert not psi.bias.table.grad[closed].any() and psi.bias.table.grad[~closed].any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in psi.parameters())
    flipped = psi.log_psi_flipped(configs, flips)
    drawn = psi.sample(300, torch.Generator().manual_seed(2))
    with torch.no_grad():
        psi.bias.table[closed] += 1e4
    assert torch.equal(psi.log_psi(configs), log_psi)
    assert torch.equal(psi.log_psi_flipped(configs, flips), flipped)
    assert torch.equal(psi.sample(300, torch.Generator().manual_seed(2)).configs, drawn.configs)


@every_remainder
@pytest.mark.parametrize("model", [model for model in MODELS if "digits" in model])
def test_closed_states_are_closed_where_biases_are_shared(model: str, system: str) -> None:
    """Products of bits give a logit to states that do not exist, whatever the biases."""
    psi = build_system(model, system)
    closed = ~psi.patches.allowed()
    tokens = psi.patches.encode(random_bits(20, psi.n_sites))
    logits, log_norms, _ = psi.conditionals(psi.inputs(tokens))
    assert bool((logits[:, closed] == -torch.inf).all())
    total = logits.exp().sum(-1)
    assert_close(total, log_norms.exp(), rtol=1e-10, atol=0.0)
    (psi.log_psi(random_bits(20, psi.n_sites)).sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in psi.parameters())


@every_remainder
@pytest.mark.parametrize("unique", [False, True])
def test_closed_states_are_never_sampled(
    system: str, unique: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    psi = build_system("ptf", system)
    seen: list[Tensor] = []
    decode = psi.patches.decode
    monkeypatch.setattr(
        psi.patches, "decode", lambda tokens: (seen.append(tokens), decode(tokens))[1]
    )
    psi.sample(5_000, torch.Generator().manual_seed(0), unique=unique)
    (tokens,) = seen
    assert (tokens < (1 << psi.patches.sizes)).all()
    assert (tokens[:, psi.patches.sizes.argmin()] > 0).any()


@pytest.mark.parametrize("system", ["square-2x2", "square-3x3", "groups"])
@every_model
@torch.no_grad()
def test_float32_agrees_with_float64(model: str, system: str) -> None:
    double = build_system(model, system)
    single = build_system(model, system, dtype=torch.float32)
    single.load_state_dict(double.state_dict())
    configs, flips = random_bits(50, double.n_sites), torch.eye(double.n_sites, dtype=torch.bool)
    tolerance = {"rtol": 0.0, "atol": 2e-5}
    assert single.log_psi(configs).dtype == torch.float64
    assert_close(single.log_psi(configs), double.log_psi(configs), **tolerance)
    flipped = single.log_psi_flipped(configs, flips)
    assert flipped.dtype == torch.float64
    assert_close(flipped, double.log_psi_flipped(configs, flips), **tolerance)
    for unique in (False, True):
        drawn = single.sample(1_000, torch.Generator().manual_seed(1), unique=unique)
        assert drawn.log_psi.dtype == torch.float64
        assert_close(drawn.log_psi, double.log_psi(drawn.configs), **tolerance)
    assert abs(float(all_probabilities(single).sum()) - 1) < 1e-5


@pytest.mark.parametrize("model", MODELS)
def test_gradient_of_log_psi(model: str) -> None:
    """Central differences along random directions of parameter space."""
    psi = build(model, Square(2, 3), "2x2")
    configs, weights = random_bits(12, 6), torch.linspace(-1, 1, 12, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    gradient = torch.autograd.grad(weights @ psi.log_psi(configs), list(psi.parameters()))
    for _ in range(3):
        direction = [
            torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in psi.parameters()
        ]
        values = []
        with torch.no_grad():
            for step in (1e-5, -2e-5, 1e-5):  # there, to the other side, and back
                for p, d in zip(psi.parameters(), direction, strict=True):
                    p += step * d
                values.append(float(weights @ psi.log_psi(configs)))
        slope = (values[0] - values[1]) / 2e-5
        expected = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
        assert slope == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_cores_that_do_not_fit() -> None:
    patches = Patches.from_spec(Chain(6), "2")
    with pytest.raises(ValueError, match="reads 5 tokens and writes 5; these patches need 5 and 4"):
        Autoregressive(Recurrent(5, 5, 3, d_model=4), patches)
    with pytest.raises(ValueError, match="max_length=2 of the core is below 3 patches"):
        Autoregressive(Recurrent(5, 4, 2, d_model=4), patches)
    core = build_core("ptf", patches, torch.Generator().manual_seed(0))
    assert Autoregressive(core, patches).n_sites == 6
