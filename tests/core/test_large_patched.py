"""Large patches over a sub-sampler: laws of a SequenceModel, for every pair of models."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from nqs.core import large_patched
from nqs.core.attention import RepeatedSoftmax
from nqs.core.factored import RepeatedSum
from nqs.core.large_patched import LargePatched
from nqs.core.recurrent import Recurrent
from nqs.core.sequence import EmbeddingModel, SequenceState
from nqs.core.transformer import Transformer

STATES, LENGTHS = 3, (3, 3, 1, 2)
TOKENS = sum(LENGTHS)
EXACT = {"rtol": 0.0, "atol": 1e-12}
KINDS = ("transformer", "elman", "gru", "lstm")

every_pair = pytest.mark.parametrize(
    ("outer", "inner"),
    [("transformer", kind) for kind in KINDS]
    + [("factored", "gru"), ("gru", "transformer"), ("lstm", "elman")],
)


def one(kind: str, *sizes: int) -> EmbeddingModel:
    if kind in ("transformer", "factored"):
        attention = "softmax" if kind == "transformer" else "factored"
        return Transformer(*sizes, d_model=8, n_heads=2, n_layers=2, attention=attention)
    return Recurrent(*sizes, d_model=5, n_layers=2, cell=kind)


def build(outer: str, inner: str) -> LargePatched:
    """A float64 model in which no parameter is trivial."""
    sub = one(inner, STATES, STATES, max(LENGTHS))
    sizes = (max(LENGTHS) * STATES + 1, sub.embedding.embedding_dim, len(LENGTHS))
    model = LargePatched(one(outer, *sizes), sub, LENGTHS).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return model


def random_tokens(n_rows: int, seed: int = 0) -> Tensor:
    """The start token, then any."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(STATES, (n_rows, TOKENS), generator=generator)
    tokens[:, 0] = STATES
    return tokens


@every_pair
@torch.no_grad()
def test_written_out(outer: str, inner: str) -> None:
    """Slow twin: patch by patch, token by token, row by row, each from the beginning."""
    model, tokens = build(outer, inner), random_tokens(3)
    logits, _ = model(tokens)
    table = model.large.embedding.weight
    for row, found in zip(tokens, logits, strict=True):
        own = row[1:].tolist()
        read, place = [table[-1]], 0
        for length in LENGTHS:
            context = model.large.read(torch.stack(read)[None])[0][0, -1]
            patch = own[place : place + length]
            for s in range(length):
                inputs = [context, *(model.sub.embedding.weight[token] for token in patch[:s])]
                expected = model.sub.read(torch.stack(inputs)[None])[0][0, -1]
                assert_close(found[place + s], expected, **EXACT)
            read.append(sum(table[STATES * s + token] for s, token in enumerate(patch)))
            place += length


@every_pair
@given(cuts=st.sets(st.integers(1, TOKENS - 1)), allocated=st.booleans())
@torch.no_grad()
def test_whole_is_any_sequence_of_pieces(
    outer: str, inner: str, cuts: set[int], allocated: bool
) -> None:
    model, tokens = build(outer, inner), random_tokens(3)
    whole, _ = model(tokens)
    state: SequenceState | None = model.start(3, TOKENS) if allocated else None
    pieces, ends = [], [*sorted(cuts), TOKENS]
    for begin, end in zip([0, *ends], ends, strict=False):
        logits, state = model(tokens[:, begin:end], state)
        assert (state.length, state.n_rows) == (end, 3)
        pieces.append(logits)
    assert_close(torch.cat(pieces, dim=1), whole, **EXACT)


@every_pair
@given(
    first=st.integers(0, TOKENS - 2),
    n_own=st.integers(1, 3),
    n_branches=st.integers(1, 3),
    allocated=st.booleans(),
    select=st.booleans(),
)
@torch.no_grad()
def test_branches_and_prefixes(
    outer: str,
    inner: str,
    first: int,
    n_own: int,
    n_branches: int,
    allocated: bool,
    select: bool,
) -> None:
    """Branches, then branches of these or copies; prefixes of all; each against the whole."""
    model, rows = build(outer, inner), 2 * n_branches
    tokens = random_tokens(2 * rows)
    parents = torch.arange(2 * rows) // (2 * n_branches)
    tokens[:, :first] = random_tokens(2, seed=1)[parents, :first]
    middle, last = slice(first, first + n_own), slice(min(first + n_own, TOKENS), TOKENS)
    tokens[1::2, middle] = tokens[::2, middle]
    whole, _ = model(tokens)
    state: SequenceState | None = model.start(2, TOKENS) if allocated else None
    if first:
        _, state = model(tokens[:: 2 * n_branches, :first], state)
    elif state is None:
        state = model.start(2, TOKENS)
    logits, state = model(tokens[::2, middle], state)
    assert_close(logits, whole[::2, middle], **EXACT)
    for length in range(state.length + 1):
        prefix = model.prefix(state, length)
        assert (prefix.length, prefix.n_rows) == (length, rows)
        if length < TOKENS:
            assert_close(model(tokens[::2, length:], prefix)[0], whole[::2, length:], **EXACT)
    if last.start < TOKENS:
        state = state.select(torch.arange(rows).repeat_interleave(2)) if select else state
        assert_close(model(tokens[:, last], state)[0], whole[:, last], **EXACT)


@pytest.mark.parametrize("shared", [RepeatedSoftmax, RepeatedSum])
@pytest.mark.parametrize("inner", ["transformer", "gru"])
@torch.no_grad()
def test_branches_that_repeat(
    inner: str, shared: type[RepeatedSoftmax | RepeatedSum], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Branches that differ in one token alone share the large model's first layer."""
    outer = "transformer" if shared is RepeatedSoftmax else "factored"
    model, tokens = build(outer, inner), random_tokens(2)
    mixed, mix = [], shared.mix

    def counted(self: RepeatedSoftmax | RepeatedSum, *altered: Tensor) -> Tensor:
        mixed.append(len(altered[0]))
        return mix(self, *altered)

    monkeypatch.setattr(shared, "mix", counted)
    _, state = model(tokens)
    for length in range(1, TOKENS):
        branches = tokens.repeat_interleave(3, dim=0)
        branches[:, length] = torch.tensor([0, 1, 2] * 2)
        logits, _ = model(branches[:, length:], model.prefix(state, length, repeats=True))
        assert_close(logits, model(branches)[0][:, length:], **EXACT)
    # the first two patches: after the others too little follows
    assert mixed == [6] * sum(LENGTHS[:2])


@every_pair
def test_gradients_flow_through_a_state(outer: str, inner: str) -> None:
    model, tokens = build(outer, inner), random_tokens(3)
    found = []
    for cuts in ((), (2,), (1, 4, 5)):
        model.zero_grad()
        state, total, ends = None, torch.zeros(()).double(), [*cuts, TOKENS]
        for begin, end in zip([0, *ends], ends, strict=False):
            logits, state = model(tokens[:, begin:end], state)
            total = total + logits.sin().sum()
        total.backward()
        found.append([p.grad.clone() for p in model.parameters()])
    assert max(g.abs().max() for g in found[0]) > 0.1
    for other in found[1:]:
        assert_close(other, found[0], rtol=1e-10, atol=1e-10)


@every_pair
@pytest.mark.parametrize("most_rows", [1, 6, 10])
@torch.no_grad()
def test_launches_of_the_sub_sampler(
    outer: str, inner: str, most_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokens = build(outer, inner), random_tokens(3)
    expected, _ = model(tokens)
    monkeypatch.setattr(large_patched, "MOST_ROWS", most_rows)
    launched: list[int] = []
    model.sub.head.register_forward_hook(lambda layer, inputs, out: launched.append(len(out)))
    assert_close(model(tokens)[0], expected, **EXACT)
    assert max(launched) <= max(3, most_rows) and sum(launched) == 3 * len(LENGTHS)


def test_models_that_do_not_fit() -> None:
    sub = one("gru", 3, 3, 2)
    large = one("transformer", 7, 15, 4)
    assert LargePatched(large, sub, [2, 2, 1, 2]).max_length == 7
    with pytest.raises(ValueError, match="large: max_length=4 is below 5"):
        LargePatched(large, sub, [2] * 5)
    with pytest.raises(ValueError, match=r"reads 7 tokens.*up to 1 tokens.* need 4 and 15"):
        LargePatched(large, sub, [1, 1])
    with pytest.raises(ValueError, match="sub: max_length=2 is below 3"):
        LargePatched(one("transformer", 10, 15, 4), sub, [3])
    with pytest.raises(ValueError, match="lengths is empty"):
        LargePatched(large, sub, [])
    with pytest.raises(ValueError, match="length=0 must be a positive integer"):
        LargePatched(large, sub, [2, 0])
    model = build("transformer", "gru")
    _, state = model(random_tokens(2))
    with pytest.raises(ValueError, match=r"prefix length 10 is outside 0\.\.9"):
        model.prefix(state, 10)
    with pytest.raises(ValueError, match="position 10 is beyond max_length=9"):
        model(random_tokens(2)[:, :1], state)
