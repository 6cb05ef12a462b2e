"""Causal linear attention: chunked = written out = recurrent, branches share a memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from nqs.core import linear_attention as module
from nqs.core.linear_attention import LinearTransformer, feature_map, linear_attention

EXACT = {"rtol": 0.0, "atol": 1e-12}


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def written_out(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """All weights phi(q_t) phi(k_s), s <= t, as a normalised (T, T) matrix."""
    phi = torch.nn.functional.elu
    weights = ((phi(queries) + 1) @ (phi(keys) + 1).mT).tril()
    return weights @ values / weights.sum(-1, keepdim=True)


@given(
    length=st.integers(1, 9),
    chunk=st.integers(1, 10),
    n_prefix=st.integers(0, 9),
    seed=st.integers(0, 9),
)
def test_chunks_are_the_matrix(length: int, chunk: int, n_prefix: int, seed: int) -> None:
    """Any chunk, from any memory; with a chunk of 1 it is the recurrence of the state."""
    q, k, v = random(3, 2, 3, n_prefix + length, 4, seed=seed)
    expected = written_out(q, k, v)
    memory = torch.zeros(2, 3, 4, 5).double()
    if n_prefix:
        head = slice(0, n_prefix)
        _, memory = linear_attention(q[:, :, head], k[:, :, head], v[:, :, head], memory)
    own = slice(n_prefix, None)
    mixed, after = linear_attention(q[:, :, own], k[:, :, own], v[:, :, own], memory, chunk=chunk)
    assert_close(mixed, expected[:, :, own], **EXACT)
    phi = feature_map(k)
    assert_close(after[..., :-1], phi.mT @ v, **EXACT)
    assert_close(after[..., -1], phi.sum(2), **EXACT)


@pytest.mark.parametrize("length", [1, 5])
def test_branches_share_a_memory(length: int) -> None:
    memory = random(2, 3, 4, 5).exp()
    q, k, v = random(3, 6, 3, length, 4, seed=1)
    copied = memory.repeat_interleave(3, dim=0)
    for shared, own in zip(
        linear_attention(q, k, v, memory, chunk=2),
        linear_attention(q, k, v, copied, chunk=2),
        strict=True,
    ):
        assert_close(shared, own, **EXACT)


@torch.no_grad()
def test_transformer_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole sequences in chunks, and one token at a time, against blocks around the matrix form."""
    monkeypatch.setattr(module, "CHUNK", 4)
    model = LinearTransformer(6, 5, 9, d_model=8, n_heads=2, d_ff=12).double()
    for parameter in model.parameters():
        parameter += 0.3 * random(*parameter.shape)
    tokens = torch.randint(6, (4, 9), generator=torch.Generator().manual_seed(0))
    x = model.embedding.weight[tokens] + model.positions.table
    for block in model.blocks:
        qkv = block.norm_attention(x) @ block.attention.qkv.weight.T
        q, k, v = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in qkv.split(8, dim=2))
        mixed = written_out(q, k, v).transpose(1, 2).flatten(2)
        x = block.perceptron(x + mixed @ block.attention.project.weight.T)
    expected = model.head(model.norm(x))
    assert_close(model(tokens)[0], expected, **EXACT)
    state = model.start(4, 9)
    for t in range(9):
        logits, state = model(tokens[:, t : t + 1], state)
        assert_close(logits[:, 0], expected[:, t], **EXACT)


def test_feature_map() -> None:
    """elu(x) + 1, positive where elu rounds to -1; queries that see nothing give no NaN."""
    x = torch.linspace(-5, 5, 101).double()
    assert_close(feature_map(x), torch.nn.functional.elu(x) + 1, **EXACT)
    assert (feature_map(torch.tensor([-50.0, -80.0])) > 0).all()
    zero = torch.zeros(1, requires_grad=True)
    feature_map(zero).backward()
    assert float(zero.grad) == 1.0
    q, k, v = random(3, 1, 1, 3, 2)
    for far in (-1e4, -90.0, 1e4):
        mixed, _ = linear_attention(q + far, k + far, v, torch.zeros(1, 1, 2, 3).double())
        assert mixed.isfinite().all()
