"""Ratios from near patches: exact without a radius, else a full forward with frozen positions."""

from __future__ import annotations

import math

import pytest
import torch
from systems import build_system, every_system, random_bits
from torch import Tensor
from torch.testing import assert_close

from nqs.core.attention import CausalSelfAttention
from nqs.core.factored import FactoredAttention
from nqs.core.transformer import Transformer
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.nearby import nearby_log_ratios

EXACT = {"rtol": 0.0, "atol": 1e-12}
every_attention = pytest.mark.parametrize("model", ["ptf", "factored"])


def patterns(n_sites: int) -> Tensor:
    """Single flips, pairs and a random pattern."""
    single = torch.eye(n_sites).bool()
    return torch.cat([single, single[:-1] | single[1:], random_bits(1, n_sites, 5) | single[:1]])


@torch.no_grad()
def exact(psi: Autoregressive, configs: Tensor, flips: Tensor) -> Tensor:
    flipped = (configs[:, None] ^ flips).flatten(0, 1)
    return psi.log_psi(flipped).view(len(configs), -1) - psi.log_psi(configs)[:, None]


def weights_of(attention: object, x: Tensor) -> tuple[Tensor, Tensor]:
    """Attention weights (H, T, T) and values (H, T, d) of one sequence x (T, D), spelled out."""
    if isinstance(attention, FactoredAttention):
        n_heads = attention.pairs.n_heads
        weights = attention.pairs.dense(0, len(x))
        return weights, attention.values(x).view(len(x), n_heads, -1).transpose(0, 1)
    assert isinstance(attention, CausalSelfAttention)
    parts = attention.qkv(x).view(len(x), 3, attention.n_heads, -1).permute(1, 2, 0, 3)
    queries, keys, values = parts.unbind(0)
    scores = queries @ keys.transpose(1, 2) / math.sqrt(queries.shape[-1])
    return scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -torch.inf).softmax(
        -1
    ), values


@torch.no_grad()
def layers(core: Transformer, tokens: Tensor, fixed: list[Tensor], again: Tensor) -> list[Tensor]:
    """Inputs of each block and of the head (T, D) for tokens (T,); positions outside `again` (T,)
    are overwritten by `fixed` in each of them."""
    x, seen = core.positions(core.embedding(tokens)), []
    for layer, block in enumerate(core.blocks):
        if fixed:
            x = torch.where(again[:, None], x, fixed[layer])
        seen.append(x)
        weights, values = weights_of(block.attention, block.norm_attention(x))
        mixed = (weights @ values).transpose(0, 1).flatten(1)
        x = block.perceptron((x + block.attention.project(mixed))[None])[0]
    return [*seen, torch.where(again[:, None], x, fixed[-1]) if fixed else x]


@torch.no_grad()
def slow(psi: Autoregressive, config: Tensor, flip: Tensor, radius: float) -> Tensor:
    """One truncated log ratio: both sequences whole, the far positions' layer outputs frozen."""
    core, centres = psi.core, psi.patches.centres
    assert isinstance(core, Transformer)
    unit = min(d for a in centres for b in centres if (d := math.dist(a, b)) > 0)
    old, new = psi.patches.encode(config[None]), psi.patches.encode((config ^ flip)[None])
    touched = (old != new)[0].nonzero().squeeze(1).tolist()
    again = [
        t > touched[0]
        and (
            t - 1 in touched
            or any(math.dist(centres[t], centres[k]) < radius * unit + 1e-5 for k in touched)
        )
        for t in range(len(centres))
    ]
    kept = torch.tensor(again)
    before = layers(core, psi.inputs(old)[0], [], kept)
    after = layers(core, psi.inputs(new)[0], before, kept)
    total = torch.zeros((), dtype=psi.log_psi_dtype)
    every = torch.arange(len(centres))
    for sign, tokens, hidden in ((1, new, after[-1]), (-1, old, before[-1])):
        logits = core.head(core.norm(hidden))[None]
        rows = psi.normalised(logits, psi.inputs(tokens), every)
        terms = psi.chosen(*rows, tokens)[0]
        total += sign * (terms[touched[0]] + terms[kept].sum())
    return total


@every_attention
@every_system
def test_an_infinite_radius_is_exact(model: str, system: str) -> None:
    psi = build_system(model, system)
    configs, flips = random_bits(5, psi.n_sites), patterns(psi.n_sites)
    found = nearby_log_ratios(psi, configs, flips, math.inf)
    assert found.dtype == torch.float64
    assert_close(found, exact(psi, configs, flips), **EXACT)


@every_attention
@pytest.mark.parametrize("radius", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("system", ["chain-3", "square-2x2", "kagome-1x1", "groups", "single"])
def test_slow_twin(model: str, system: str, radius: float) -> None:
    psi = build_system(model, system)
    configs, flips = random_bits(3, psi.n_sites), patterns(psi.n_sites)
    expected = torch.stack([torch.stack([slow(psi, s, f, radius) for f in flips]) for s in configs])
    found = nearby_log_ratios(psi, configs, flips, radius)
    assert_close(found, expected, **EXACT)
    if system in ("single", "kagome-1x1"):
        assert (found - exact(psi, configs, flips)).abs().max() > 1e-3  # something is left out


@every_attention
def test_softmax_of_large_scores(model: str) -> None:
    psi = build_system(model, "kagome-1x1")
    with torch.no_grad():
        for parameter in psi.core.blocks.parameters():  # type: ignore[union-attr]
            parameter.mul_(8.0)
    configs, flips = random_bits(3, psi.n_sites), patterns(psi.n_sites)
    expected = exact(psi, configs, flips)
    found = nearby_log_ratios(psi, configs, flips, math.inf)
    assert_close(found, expected, rtol=1e-10, atol=1e-10)


@every_attention
@pytest.mark.parametrize("max_rows", [1, 7])
def test_chunks_do_not_matter(model: str, max_rows: int) -> None:
    psi = build_system(model, "square-2x2")
    configs, flips = random_bits(9, psi.n_sites), patterns(psi.n_sites)
    whole = nearby_log_ratios(psi, configs, flips, 1.0)
    assert_close(nearby_log_ratios(psi, configs, flips, 1.0, max_rows=max_rows), whole, **EXACT)


@every_attention
def test_sector_and_phase(model: str) -> None:
    """Exchanges within a fixed number of ones, complex psi; the slow twin agrees at any radius."""
    psi = build_system(model, "square-2x2", n_up=6, phase=True)
    configs = psi.sample(4, torch.Generator().manual_seed(0)).configs
    single = torch.eye(psi.n_sites).bool()
    flips = torch.cat([single[:1] | single[1:], single[4:5] | single[5:]])
    allowed = (configs[:, None] ^ flips).sum(-1) == 6
    assert 5 < int(allowed.sum()) < allowed.numel()
    found = nearby_log_ratios(psi, configs, flips, math.inf)
    assert_close(found[allowed], exact(psi, configs, flips)[allowed], **EXACT)
    assert (found[~allowed].real == -torch.inf).all()
    near = nearby_log_ratios(psi, configs, flips, 1.0)
    for b, g in allowed.nonzero().tolist():
        assert_close(near[b, g], slow(psi, configs[b], flips[g], 1.0), **EXACT)


def test_refusals() -> None:
    psi = build_system("factored", "chain-3")
    configs, flips = random_bits(2, psi.n_sites), patterns(psi.n_sites)
    for radius in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="radius"):
            nearby_log_ratios(psi, configs, flips, radius)
    with pytest.raises(ValueError, match="at least one site"):
        nearby_log_ratios(psi, configs, flips & False, 1.0)
    for model in ("gru", "lptf-ptf", "linear"):
        other = build_system(model, "chain-3")
        with pytest.raises(TypeError, match="cannot revise single positions"):
            nearby_log_ratios(other, configs, flips, 1.0)
