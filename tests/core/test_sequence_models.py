"""Laws of every SequenceModel: causal, and resumable from a state in any pieces and branches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from nqs.core import perceptron
from nqs.core.attention import KeyValueState
from nqs.core.linear_attention import LinearTransformer
from nqs.core.perceptron import ACTIVATIONS
from nqs.core.positions import KINDS
from nqs.core.recurrent import Recurrent, RecurrentState
from nqs.core.recurrent2d import Recurrent2D
from nqs.core.sequence import SequenceModel, SequenceState
from nqs.core.state_space import StateSpace
from nqs.core.transformer import Transformer

VOCAB, OUTPUTS, LENGTH = 6, 5, 9
EXACT = {"rtol": 0.0, "atol": 1e-12}
Builder = Callable[..., SequenceModel]


def _with_positions(kind: type[SequenceModel], positions: str, **sizes: object) -> Builder:
    grid = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0))
    return partial(
        kind,
        VOCAB,
        OUTPUTS,
        LENGTH,
        d_model=8,
        n_layers=2,
        d_ff=12,
        positions=positions,
        coordinates=grid if positions == "grid" else None,
        **sizes,
    )


TRANSFORMERS = {
    f"{name}-{kind}": _with_positions(Transformer, kind, n_heads=2, attention=attention)
    for name, attention in (("transformer", "softmax"), ("factored", "factored"))
    for kind in (KINDS if attention == "softmax" else ("learned", "grid"))
}
RECURRENTS = {
    f"{cell}-{n_layers}{'-residual' if residual else ''}": partial(
        Recurrent,
        VOCAB,
        OUTPUTS,
        LENGTH,
        d_model=7,
        n_layers=n_layers,
        cell=cell,
        residual=residual,
    )
    for cell in ("elman", "gru", "lstm")
    for n_layers, residual in ((1, False), (3, False), (3, True))
}
LINEAR = {f"linear-{kind}": _with_positions(LinearTransformer, kind, n_heads=2) for kind in KINDS}
STATE_SPACES = {f"ssm-{kind}": _with_positions(StateSpace, kind, d_state=3) for kind in KINDS}
RECURRENTS_2D = {
    f"rnn2d-{rows}x{columns}": partial(
        Recurrent2D, VOCAB, OUTPUTS, (rows, columns), d_model=5, d_embed=2
    )
    for rows, columns in ((3, 3), (1, 9), (9, 1))
}
CONSTANT = RECURRENTS | LINEAR | STATE_SPACES | RECURRENTS_2D
BUILDERS = TRANSFORMERS | CONSTANT

every_model = pytest.mark.parametrize("name", BUILDERS)
every_transformer = pytest.mark.parametrize("name", TRANSFORMERS)


def build(name: str) -> SequenceModel:
    """A float64 model in which no parameter, bias or gain is trivial."""
    generator = torch.Generator().manual_seed(3)
    model = BUILDERS[name](generator=generator).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(
                parameter.shape, generator=generator, dtype=torch.float64
            )
    return model


def random_tokens(n_rows: int, length: int = LENGTH, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (n_rows, length), generator=torch.Generator().manual_seed(seed))


def snapshot(state: SequenceState) -> list[Tensor]:
    """Copies of everything a state holds."""
    if isinstance(state, RecurrentState):
        return [memory.clone() for memory in state.memory]
    assert isinstance(state, KeyValueState)
    own = [] if state.branch is None else state.branch[0] + state.branch[1]
    return [x.clone() for x in state.keys + state.values + own]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@torch.no_grad()
def test_transformer_written_out(activation: str) -> None:
    """Slow twin: pre-norm blocks (Vaswani et al.; GPT-2) from torch's own functions alone."""
    generator = torch.Generator().manual_seed(1)
    model = Transformer(
        VOCAB,
        OUTPUTS,
        LENGTH,
        d_model=8,
        n_heads=2,
        d_ff=12,
        attention="softmax",
        activation=activation,
    ).double()
    for parameter in model.parameters():
        parameter.normal_(0, 0.5, generator=generator)
    tokens = random_tokens(4)

    def norm(x: Tensor, layer: nn.LayerNorm) -> Tensor:
        deviation = x - x.mean(-1, keepdim=True)
        scale = (deviation.square().mean(-1, keepdim=True) + layer.eps).sqrt()
        return deviation / scale * layer.weight + layer.bias

    later = torch.ones(LENGTH, LENGTH).triu(1).bool()
    x = model.embedding.weight[tokens] + model.positions.table
    for block in model.blocks:
        qkv = norm(x, block.norm_attention) @ block.attention.qkv.weight.T
        heads = []
        for head in range(2):
            q, k, v = (part[..., 4 * head : 4 * head + 4] for part in qkv.split(8, dim=-1))
            scores = (q @ k.mT / 4**0.5).masked_fill(later, -torch.inf)
            heads.append(scores.softmax(-1) @ v)
        x = x + torch.cat(heads, dim=-1) @ block.attention.project.weight.T
        hidden = norm(x, block.perceptron.norm) @ block.perceptron.expand.weight.T
        x = x + getattr(nn.functional, activation)(hidden) @ block.perceptron.contract.weight.T
    expected = norm(x, model.norm) @ model.head.weight.T + model.head.bias
    assert_close(model(tokens)[0], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "cached"),
    [(name, n) for i, name in enumerate(BUILDERS) for n in ((1, 10**6), (7, 25))[i % 2]],
)
def test_blocks_and_look_ups_change_nothing(
    name: str, cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without gradients the perceptrons go in cache-sized blocks of rows, first projections are
    looked up.

    The slow twin is the same call with gradients, whole; also continued, in branches, from states.
    """
    monkeypatch.setattr(perceptron, "CACHED_ACTIVATIONS", 12 * cached)  # d_ff = 12
    model, tokens = build(name), random_tokens(24)
    tokens[:, :4] = tokens[::4, :4].repeat_interleave(4, dim=0)
    slow, _ = model(tokens)
    assert slow.requires_grad
    with torch.no_grad():
        assert_close(model(tokens)[0], slow.detach(), **EXACT)
        for start in (None, model.start(6, LENGTH)):
            logits, state = model(tokens[::4, :4], start)
            assert_close(logits, slow[::4, :4].detach(), **EXACT)
            logits, state = model(tokens[:, 4:7], state)
            assert_close(logits, slow[:, 4:7].detach(), **EXACT)
            logits, state = model(tokens[:, 7:], state)
            assert_close(logits, slow[:, 7:].detach(), **EXACT)


@every_model
@torch.no_grad()
def test_causal(name: str) -> None:
    model, tokens = build(name), random_tokens(4)
    logits, state = model(tokens)
    assert logits.shape == (4, LENGTH, OUTPUTS)
    assert (state.length, state.n_rows) == (LENGTH, 4)
    for j in range(LENGTH):
        changed = tokens.clone()
        changed[:, j] = (changed[:, j] + 1) % VOCAB
        other, _ = model(changed)
        assert_close(other[:, :j], logits[:, :j], **EXACT)
        for i in range(j, LENGTH):  # and everything after does depend on token j
            assert (other[:, i] - logits[:, i]).abs().max() > 1e-7, (j, i)


@every_model
@given(cuts=st.sets(st.integers(1, LENGTH - 1)), allocated=st.booleans())
@torch.no_grad()
def test_whole_is_any_sequence_of_pieces(name: str, cuts: set[int], allocated: bool) -> None:
    model, tokens = build(name), random_tokens(3)
    whole, _ = model(tokens)
    state = model.start(3, LENGTH) if allocated else None
    pieces, ends = [], [*sorted(cuts), LENGTH]
    for begin, end in zip([0, *ends], ends, strict=False):
        logits, state = model(tokens[:, begin:end], state)
        assert (state.length, state.n_rows) == (end, 3)
        pieces.append(logits)
    assert_close(torch.cat(pieces, dim=1), whole, **EXACT)


@every_model
@given(
    n_shared=st.integers(1, 3),
    n_branches=st.integers(1, 3),
    n_prefix=st.integers(0, 4),
    n_own=st.integers(1, 3),
    allocated=st.booleans(),
)
@torch.no_grad()
def test_branches_are_each_written_out(
    name: str, n_shared: int, n_branches: int, n_prefix: int, n_own: int, allocated: bool
) -> None:
    """Row r continues state row r // F; then branches once more, from the branched state."""
    model, rows = build(name), n_shared * n_branches
    tokens = random_tokens(2 * rows)
    parents = torch.arange(2 * rows) // (2 * n_branches)
    tokens[:, :n_prefix] = random_tokens(n_shared, seed=1)[parents, :n_prefix]
    first = slice(n_prefix, n_prefix + n_own)
    tokens[1::2, first] = tokens[::2, first]  # pairs part only in the second generation
    whole, _ = model(tokens)

    state: SequenceState | None = model.start(n_shared, LENGTH) if allocated else None
    if n_prefix:
        _, state = model(tokens[:: 2 * n_branches, :n_prefix], state)
    elif state is None:
        state = model.start(n_shared, LENGTH)
    logits, state = model(tokens[::2, first], state)
    assert (state.length, state.n_rows) == (n_prefix + n_own, rows)
    assert_close(logits, whole[::2, first], **EXACT)
    second = slice(n_prefix + n_own, LENGTH)
    logits, state = model(tokens[:, second], state)
    assert (state.length, state.n_rows) == (LENGTH, 2 * rows)
    assert_close(logits, whole[:, second], **EXACT)


@every_model
@torch.no_grad()
def test_gradients_flow_through_a_state(name: str) -> None:
    """Backpropagation through continued pieces is that of the whole sequence."""
    model, tokens = build(name), random_tokens(3)

    def gradients(pieces: list[slice]) -> list[Tensor]:
        model.zero_grad()
        state, total = None, torch.zeros((), dtype=torch.float64)
        with torch.enable_grad():
            for piece in pieces:
                logits, state = model(tokens[:, piece], state)
                total = total + logits.sin().sum()
            total.backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]

    whole = gradients([slice(0, LENGTH)])
    assert max(g.abs().max() for g in whole) > 0.1
    split = gradients([slice(0, 2), slice(2, 3), slice(3, LENGTH)])
    assert_close(split, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", LINEAR | STATE_SPACES | RECURRENTS_2D)
def test_finite_differences(name: str) -> None:
    """Slope along a random direction of all parameters, by central differences."""
    model, tokens = build(name), random_tokens(3)
    model(tokens)[0].sin().sum().backward()
    generator = torch.Generator().manual_seed(2)
    steps = [torch.randn(p.shape, generator=generator).double() for p in model.parameters()]
    slope = sum((p.grad * s).sum() for p, s in zip(model.parameters(), steps, strict=True))
    values = []
    with torch.no_grad():
        for size in (1e-5, -2e-5):
            for parameter, step in zip(model.parameters(), steps, strict=True):
                parameter += size * step
            values.append(float(model(tokens)[0].sin().sum()))
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(slope), rel=1e-6, abs=1e-6)


@every_model
@pytest.mark.parametrize("allocated", [False, True])
@torch.no_grad()
def test_select(name: str, allocated: bool) -> None:
    """Selected copies continue as the rows they were, in place or not, and disturb no other."""
    model, tokens = build(name), random_tokens(3)
    whole, _ = model(tokens)
    _, state = model(tokens[:, :4], model.start(3, LENGTH) if allocated else None)
    rows = torch.tensor([2, 0, 0, 1])
    copies = [state.select(rows), state.select(rows)]
    other = random_tokens(4, 5, seed=8)
    _, _ = model(other, copies[1])
    for begin in range(4, LENGTH):
        logits, copies[0] = model(tokens[rows, begin : begin + 1], copies[0])
        assert_close(logits[:, 0], whole[rows, begin], **EXACT)
    logits, _ = model(tokens[:, 4:], state)
    assert_close(logits, whole[:, 4:], **EXACT)


@every_model
@torch.no_grad()
def test_select_of_branches(name: str) -> None:
    model, tokens = build(name), random_tokens(6)
    tokens[:, :3] = tokens[::3, :3].repeat_interleave(3, dim=0)
    whole, _ = model(tokens)
    _, state = model(tokens[::3, :3])
    _, state = model(tokens[:, 3:5], state)
    rows = torch.tensor([4, 1, 1])
    logits, _ = model(tokens[rows, 5:], state.select(rows))
    assert_close(logits, whole[rows, 5:], **EXACT)


@every_model
@torch.no_grad()
def test_states_not_from_start_are_left_as_they_were(name: str) -> None:
    model, tokens, other = build(name), random_tokens(2), random_tokens(6, 5, seed=5)
    whole, _ = model(tokens)
    _, first = model(tokens[:, :2])
    _, second = model(tokens[:, 2:4], first)
    for state, length in ((first, 2), (second, 4)):
        before = snapshot(state)
        model(other[:2, : LENGTH - length], state)
        model(other[:, : LENGTH - length], state)  # 3 branches
        model(other[:2, :1], state)
        assert_close(snapshot(state), before, rtol=0, atol=0)
        assert (state.length, state.n_rows) == (length, 2)
        logits, _ = model(tokens[:, length:], state)
        assert_close(logits, whole[:, length:], **EXACT)


@every_transformer
@pytest.mark.parametrize("allocated", [False, True])
@torch.no_grad()
def test_prefixes_are_views(name: str, allocated: bool) -> None:
    model, tokens = build(name), random_tokens(3)
    whole, _ = model(tokens)
    _, state = model(tokens, model.start(3, LENGTH) if allocated else None)
    before = snapshot(state)
    for length in range(LENGTH):
        prefix = model.prefix(state, length)
        assert (prefix.length, prefix.n_rows) == (length, 3)
        assert prefix.keys[0].data_ptr() == state.keys[0].data_ptr()
        branches = tokens.repeat_interleave(2, dim=0)
        branches[1::2, length:] = random_tokens(3, LENGTH - length, seed=length)
        logits, _ = model(branches[:, length:], prefix)
        assert_close(logits[::2], whole[:, length:], **EXACT)
        assert_close(logits, model(branches)[0][:, length:], **EXACT)
    assert_close(snapshot(state), before, rtol=0, atol=0)


@every_transformer
@torch.no_grad()
def test_prefix_of_a_branched_state(name: str) -> None:
    model, tokens = build(name), random_tokens(4)
    tokens[:, :2] = tokens[::2, :2].repeat_interleave(2, dim=0)
    whole, _ = model(tokens)
    _, state = model(tokens[::2, :2])
    _, state = model(tokens[:, 2:6], state)
    for length in (1, 2, 3, 6):
        logits, _ = model(tokens[:, length:], model.prefix(state, length))
        assert_close(logits, whole[:, length:], **EXACT)


@pytest.mark.parametrize("name", CONSTANT)
@torch.no_grad()
def test_concatenated_states(name: str) -> None:
    model, tokens = build(name), random_tokens(5)
    assert model.constant_state
    whole, _ = model(tokens)
    states = [model(tokens[rows, :3])[1] for rows in (slice(0, 2), slice(2, 5))]
    logits, _ = model(tokens[:, 3:], type(states[0]).concatenate(states))
    assert_close(logits, whole[:, 3:], **EXACT)


@torch.no_grad()
def test_what_a_kind_of_state_cannot_do() -> None:
    attention, recurrent = build("transformer-learned"), build("gru-1")
    assert not attention.constant_state
    _, state = attention(random_tokens(2, 3))
    with pytest.raises(TypeError, match="cannot be concatenated"):
        type(state).concatenate([state, state])
    for length in (-1, 4):
        with pytest.raises(ValueError, match=rf"prefix length {length} is outside 0\.\.3"):
            attention.prefix(state, length)
    _, memory = recurrent(random_tokens(2, 3))
    with pytest.raises(TypeError, match="no prefixes"):
        recurrent.prefix(memory, 1)


@every_model
@torch.no_grad()
def test_rows_and_positions_that_do_not_fit(name: str) -> None:
    model = build(name)
    _, state = model(random_tokens(2, 4))
    with pytest.raises(ValueError, match="3 rows cannot continue a state of 2 rows"):
        model(random_tokens(3, 1), state)
    with pytest.raises(ValueError, match="position 10 is beyond max_length=9"):
        model(random_tokens(2, 6), state)
    with pytest.raises(ValueError, match="position 10 is beyond max_length=9"):
        model(random_tokens(2, LENGTH + 1))


@every_transformer
@pytest.mark.parametrize("step", [1, 2])
@torch.no_grad()
def test_an_allocated_state_does_not_overflow_silently(name: str, step: int) -> None:
    model, tokens = build(name), random_tokens(2)
    state = model.start(2, 4)
    for begin in range(0, 4, step):
        _, state = model(tokens[:, begin : begin + step], state)
    with pytest.raises((ValueError, RuntimeError)):
        model(tokens[:, 4 : 4 + step], state)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            Transformer,
            {"d_model": 6, "n_heads": 4},
            r"n_heads=4 must divide d_model=6; use one of 1, 2, 3, 6",
        ),
        (
            Transformer,
            {"positions": "rotary"},
            "'rotary' is unknown; allowed: learned, sinusoidal, grid",
        ),
        (Transformer, {"positions": "grid"}, "needs one coordinate row per token"),
        (
            Transformer,
            {"positions": "grid", "coordinates": torch.zeros(8, 2)},
            r"needs one coordinate row per token \(9\)",
        ),
        (
            Transformer,
            {"positions": "sinusoidal", "d_model": 1, "n_heads": 1},
            "too small for 1 coord",
        ),
        (Transformer, {"activation": "tanh"}, "'tanh' is unknown; allowed: gelu, relu, silu"),
        (Transformer, {"n_layers": 0}, "n_layers=0 must be a positive integer"),
        (Transformer, {"n_heads": -2}, "n_heads=-2 must be a positive integer"),
        (Transformer, {"d_ff": 0}, "d_ff=0 must be a positive integer"),
        (Transformer, {"d_model": 8.0}, "d_model=8.0 must be a positive integer"),
        (Recurrent, {"cell": "rwkv"}, "cell='rwkv' is unknown; allowed: elman, gru, lstm"),
        (Recurrent, {"d_model": 0}, "d_model=0 must be a positive integer"),
        (Recurrent, {"n_layers": True}, "n_layers=True must be a positive integer"),
        (LinearTransformer, {"n_heads": 5}, "n_heads=5 must divide d_model=32"),
        (LinearTransformer, {"n_layers": 0}, "n_layers=0 must be a positive integer"),
        (StateSpace, {"d_state": 0}, "d_state=0 must be a positive integer"),
        (StateSpace, {"activation": "tanh"}, "'tanh' is unknown; allowed: gelu, relu, silu"),
    ],
)
def test_bad_arguments(kind: type[SequenceModel], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        kind(VOCAB, OUTPUTS, LENGTH, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("sizes", [(0, 5, 9), (6, 0, 9), (6, 5, 0)])
@pytest.mark.parametrize("kind", [Transformer, Recurrent, LinearTransformer, StateSpace])
def test_bad_sizes(kind: type[SequenceModel], sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="=0 must be a positive integer"):
        kind(*sizes)


@every_model
def test_parameters_come_from_the_generator_alone(name: str) -> None:
    torch.manual_seed(1)
    first = BUILDERS[name](generator=torch.Generator().manual_seed(5)).state_dict()
    torch.manual_seed(2)
    second = BUILDERS[name](generator=torch.Generator().manual_seed(5)).state_dict()
    other = BUILDERS[name](generator=torch.Generator().manual_seed(6)).state_dict()
    assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first["head.weight"], other["head.weight"])
