"""attend() = softmax(q k^T / sqrt(d)) v over the shared prefix and, causally, the own tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from nqs.core.attention import attend
from nqs.core.transformer import Transformer


def naive_attend(
    queries: Tensor, keys: Tensor, values: Tensor, prefix: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Row by row, the prefix copied to each row, one masked softmax."""
    n_rows, _, n_own, d_head = queries.shape
    if prefix is not None:
        n_branches = n_rows // prefix[0].shape[0]
        parents = torch.arange(n_rows) // n_branches
        keys = torch.cat([prefix[0][parents], keys], dim=2)
        values = torch.cat([prefix[1][parents], values], dim=2)
    n_prefix = keys.shape[2] - n_own
    scores = queries @ keys.transpose(2, 3) / d_head**0.5  # (R, H, S, L + S)
    place, source = torch.arange(n_own)[:, None] + n_prefix, torch.arange(n_prefix + n_own)
    return scores.masked_fill(source > place, -torch.inf).softmax(-1) @ values


def random_inputs(
    n_shared: int, n_branches: int, n_prefix: int, n_own: int, seed: int = 0
) -> tuple[list[Tensor], tuple[Tensor, Tensor] | None]:
    generator = torch.Generator().manual_seed(seed)

    def normal(n_rows: int, length: int) -> Tensor:
        x = torch.randn(n_rows, 2, length, 3, generator=generator, dtype=torch.float64)
        return x.requires_grad_()

    own = [normal(n_shared * n_branches, n_own) for _ in range(3)]
    if n_prefix == 0:
        return own, None
    return own, (normal(n_shared, n_prefix), normal(n_shared, n_prefix))


sizes = {
    "n_shared": st.integers(1, 4),
    "n_branches": st.integers(1, 4),
    "n_prefix": st.integers(0, 5),
    "n_own": st.integers(1, 5),
}


@given(**sizes, seed=st.integers(0, 100))
def test_values_and_gradients(
    n_shared: int, n_branches: int, n_prefix: int, n_own: int, seed: int
) -> None:
    own, prefix = random_inputs(n_shared, n_branches, n_prefix, n_own, seed)
    leaves = [*own, *(prefix or ())]
    fast, slow = attend(*own, prefix), naive_attend(*own, prefix)
    assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    weights = torch.randn(
        slow.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64
    )
    expected = torch.autograd.grad((slow * weights).sum(), leaves)
    assert_close(
        torch.autograd.grad((fast * weights).sum(), leaves), expected, rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("n_prefix", [0, 4])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3])
def test_large_scores_in_float32(n_prefix: int, scale: float) -> None:
    """Scores up to 1e7, where a bare exp would overflow; own, prefix and mixed peaks all occur."""
    own, prefix = random_inputs(3, 4, n_prefix, 3, seed=2)
    single = [(scale * x.detach()).float() for x in own[:2]] + [own[2].detach().float()]
    shared = prefix and ((scale * prefix[0].detach()).float(), prefix[1].detach().float())
    single[0].requires_grad_()
    mixed = attend(*single, shared)
    doubled = naive_attend(
        *(x.double() for x in single), shared and tuple(x.double() for x in shared)
    )
    assert mixed.dtype == torch.float32 and mixed.isfinite().all()
    assert_close(mixed.double(), doubled, rtol=0, atol=3e-6 * scale)
    mixed.sum().backward()
    assert single[0].grad is not None and single[0].grad.isfinite().all()


def test_hidden_tokens_have_no_influence_even_when_huge() -> None:
    own, prefix = random_inputs(2, 2, 3, 4)
    queries, keys, values = (x.detach() for x in own)
    assert prefix is not None
    shared = (prefix[0].detach(), prefix[1].detach())
    before = attend(queries, keys, values, shared)
    keys[:, :, 2:] *= 1e6
    values[:, :, 2:] = 1e6
    after = attend(queries, keys, values, shared)
    assert_close(after[:, :, :2], before[:, :, :2], rtol=0, atol=1e-14)
    assert not torch.equal(after[:, :, 2:], before[:, :, 2:])


@pytest.mark.parametrize("n_prefix", [0, 4])
def test_bfloat16(n_prefix: int) -> None:
    """As the exact softmax of the same rounded inputs, to a few roundings; gradients too."""
    own, prefix = random_inputs(3, 2, n_prefix, 5)
    own = [x.detach().bfloat16().requires_grad_() for x in own]
    rounded = [x.detach().double().requires_grad_() for x in own]
    near = far = None
    if prefix is not None:
        near = tuple(x.detach().bfloat16() for x in prefix)
        far = tuple(x.double() for x in near)
    found, expected = attend(*own, near), naive_attend(*rounded, far)
    assert_close(found.double(), expected, rtol=0.02, atol=0.02)
    (gradients, exact) = (
        torch.autograd.grad(out.sum(), leaves)
        for out, leaves in ((found, own), (expected, rounded))
    )
    for a, b in zip(gradients, exact, strict=True):
        assert_close(a.double(), b, rtol=0.04, atol=0.04)


@pytest.mark.parametrize("attention", ["softmax", "factored"])
def test_revised_places_may_be_the_first_ones(attention: str) -> None:
    """Nothing is before them that stays as it was."""
    model = Transformer(5, 4, 6, d_model=8, n_heads=2, attention=attention).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(generator=generator)
    tokens, branches = (torch.randint(5, size, generator=generator) for size in ((2, 6), (6, 2)))
    revised = model.whole(tokens).revised(branches, torch.arange(2))
    assert_close(revised, model(branches)[0], rtol=1e-10, atol=1e-10)
