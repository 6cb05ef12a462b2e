"""Floating-point operations of the sequence models: 2 m n k for each product (m x k) (k x n).

Three figures of each core, all exact functions of its sizes:

    forward     the products that `forward` really runs, shared prefixes and look-ups included
    backward    those of a backward pass through a whole sequence, with or without the parameters'
    token       the least that a network of this kind needs for one more token, nothing shared

Element by element work (norms, activations, softmax, gates, the scan of a state-space layer) is
left out, as everywhere in the literature: it is no matrix product, and the yardstick is the rate of
one. Fused causal attention counts as the full square, 4 R S^2 D, as torch's counter has it; in
`token` a position pays for the positions it may see.

Letters: R rows, S own tokens of a row, L tokens before them, B states they continue, D width, V
tokens in the vocabulary, d = D / H channels a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from torch import nn

from nqs.core import linear_attention
from nqs.core.attention import CausalSelfAttention
from nqs.core.digits import DigitHead
from nqs.core.factored import FactoredAttention
from nqs.core.large_patched import LargePatched
from nqs.core.linear_attention import LinearTransformer
from nqs.core.perceptron import Perceptron
from nqs.core.recurrent import Recurrent
from nqs.core.recurrent2d import Recurrent2D
from nqs.core.sequence import SequenceModel
from nqs.core.state_space import StateSpace
from nqs.core.transformer import Transformer


@dataclass(frozen=True)
class Call:
    """One forward pass: R rows of `own` tokens each.

    Attributes:
        before: tokens read before, L.
        shared: states that the rows continue, B; None: one for each row.
        embedded: the inputs are vectors (EmbeddingModel.read).
        repeats: the rows repeat their sequences but for the first token (SequenceModel.prefix).
        grad: gradients will be asked for.
    """

    rows: int
    own: int
    before: int = 0
    shared: int | None = None
    embedded: bool = False
    repeats: bool = False
    grad: bool = False

    @property
    def states(self) -> int:
        """B."""
        return self.rows if self.shared is None else self.shared

    @property
    def tokens(self) -> int:
        """R S."""
        return self.rows * self.own


class CoreFlops(ABC):
    """Counts of one core; subclasses say what it multiplies."""

    def forward(self, call: Call) -> int:
        """Of one call."""
        return self.linear(call) + self.mixing(call)

    @abstractmethod
    def linear(self, call: Call) -> int:
        """Of the linear maps in one call."""

    def mixing(self, call: Call) -> int:
        """Of products between what positions hold: attention."""
        return 0

    @abstractmethod
    def backward(self, rows: int, own: int, *, parameters: bool) -> int:
        """Of a backward pass through `own` tokens from the start, to the embeddings.

        parameters: also to the parameters; otherwise only to the layers' outputs.
        """

    @abstractmethod
    def jacobian(self, rows: int, own: int) -> int:
        """Of each sample's derivatives by all parameters, from inputs and output gradients."""

    @abstractmethod
    def token(self, before: int) -> int:
        """The least for one more token after `before` others."""

    def repeated(self, rows: int, own: int, length: int) -> int:
        """Of what branches share that repeat `rows` sequences of `own` tokens after `length`."""
        return 0

    def prefix(self, rows: int, length: int) -> int:
        """Of making a prefix of `length` tokens of `rows` states."""
        return 0


def core_flops(core: SequenceModel) -> CoreFlops:
    """The counts of a core. Raises TypeError for one that is not known here, and for one that makes
    its vectors and logits of digits (nqs.core.digits)."""
    for kind, counts in KINDS.items():
        if isinstance(core, kind) and isinstance(core.head, DigitHead):
            raise TypeError("products of digits have no count of operations; give tables of states")
        if isinstance(core, kind):
            return counts(core)
    known = ", ".join(kind.__name__ for kind in KINDS)
    raise TypeError(f"{type(core).__name__} has no count of operations; known are {known}")


def _linear(layer: nn.Linear) -> int:
    """Of one row through a linear map."""
    return 2 * layer.in_features * layer.out_features


def _perceptron(layer: Perceptron) -> int:
    return _linear(layer.expand) + _linear(layer.contract)


def _embedding(layer: nn.Embedding, tokens: int) -> int:
    """Of each sample's derivatives by a table: a product with one-hot tokens."""
    return 2 * tokens * layer.num_embeddings * layer.embedding_dim


class TransformerFlops(CoreFlops):
    """Softmax or factored attention."""

    def __init__(self, core: Transformer) -> None:
        self.core, self.width = core, core.d_model
        block = core.blocks[0]
        attention = block.attention
        self.factored = isinstance(attention, FactoredAttention)
        if isinstance(attention, CausalSelfAttention):
            self.read = _linear(attention.qkv)
        else:
            assert isinstance(attention, FactoredAttention)
            self.read = _linear(attention.values)
        self.rest = _linear(attention.project) + _perceptron(block.perceptron)
        self.head = _linear(core.head)
        self.n_layers = len(core.blocks)

    def linear(self, call: Call) -> int:
        read = call.tokens
        if call.repeats:
            read = call.rows
        elif not (call.embedded or call.grad or call.rows <= self.core.vocab_size):
            read = self.core.vocab_size * call.own  # each pair of token and place once
        later = (self.n_layers - 1) * call.tokens
        blocks = self.read * (read + later) + self.rest * call.tokens * self.n_layers
        return blocks + self.head * call.tokens

    def mixing(self, call: Call) -> int:
        plain = self._mixed(call)
        first = self._repeating(call) if call.repeats else plain
        return first + (self.n_layers - 1) * plain

    def _mixed(self, call: Call) -> int:
        if self.factored:
            return 2 * call.own * self.width * (call.tokens + call.before * call.states)
        return 4 * call.tokens * (call.before + call.own) * self.width

    def _repeating(self, call: Call) -> int:
        """The altered token attends; its share is mixed into the later ones."""
        if self.factored:
            return 0
        later, whole = call.own - 1, call.before + call.own
        first = self._mixed(replace(call, own=1))
        scores = 2 * call.rows * later * self.width
        shared = 2 * call.states * later * whole * self.width
        spread = 2 * call.rows * later * self.core.n_heads * self.width
        return first + scores + shared + spread

    def repeated(self, rows: int, own: int, length: int) -> int:
        return 2 * rows * own * own * self.width

    def backward(self, rows: int, own: int, *, parameters: bool) -> int:
        call = Call(rows, own, grad=True)
        maps = self.linear(call) * (2 if parameters else 1)
        pair = 2 * rows * own * own * self.width
        if self.factored:  # to the values; to the weights
            return maps + self.n_layers * pair * (2 if parameters else 1)
        return maps + self.n_layers * 5 * pair  # fused: the scores once more, then two each

    def jacobian(self, rows: int, own: int) -> int:
        pairs = 2 * rows * own * own * self.width * self.n_layers if self.factored else 0
        maps = self.linear(Call(rows, own, grad=True))
        return maps + pairs + _embedding(self.core.embedding, rows * own)

    def token(self, before: int) -> int:
        pair = (2 if self.factored else 4) * self.width * (before + 1)
        return self.n_layers * (self.read + self.rest + pair) + self.head


class RecurrentFlops(CoreFlops):
    """Elman, GRU, LSTM: branches of one state share its recurrent product at their first step."""

    def __init__(self, core: Recurrent) -> None:
        self.core = core
        self.hidden = len(core.cells) * _linear(core.cells[0].hidden)
        self.rest = _linear(core.head)
        for layer in core.inputs:
            assert isinstance(layer, nn.Linear)
            self.rest += _linear(layer)

    def linear(self, call: Call) -> int:
        return self.hidden * (call.states + call.tokens - call.rows) + self.rest * call.tokens

    def backward(self, rows: int, own: int, *, parameters: bool) -> int:
        maps = self.hidden * rows * (own - 1) + self.rest * rows * own  # the first h is a constant
        return maps + (self.linear(Call(rows, own)) if parameters else 0)

    def jacobian(self, rows: int, own: int) -> int:
        return self.linear(Call(rows, own)) + _embedding(self.core.embedding, rows * own)

    def token(self, before: int) -> int:
        return self.hidden + self.rest


class Recurrent2DFlops(CoreFlops):
    """The tensorised cell."""

    def __init__(self, core: Recurrent2D) -> None:
        self.core = core
        self.products, self.merge = _linear(core.cell.products), _linear(core.cell.merge)
        self.head = _linear(core.head)

    def linear(self, call: Call) -> int:
        return self.token(call.before) * call.tokens

    def backward(self, rows: int, own: int, *, parameters: bool) -> int:
        maps = (self.products + self.head) * rows * own + self.merge * rows * (own - 1)
        return maps + (self.linear(Call(rows, own)) if parameters else 0)

    def jacobian(self, rows: int, own: int) -> int:
        return self.linear(Call(rows, own)) + _embedding(self.core.embedding, 2 * rows * own)

    def token(self, before: int) -> int:
        return self.products + self.merge + self.head


class LinearAttentionFlops(CoreFlops):
    """Running sums between chunks, weights within."""

    def __init__(self, core: LinearTransformer) -> None:
        self.core, self.n_layers = core, len(core.blocks)
        self.n_heads = core.n_heads
        self.d_head = core.d_model // core.n_heads
        block = core.blocks[0]
        maps = _linear(block.attention.qkv) + _linear(block.attention.project)
        self.maps = self.n_layers * (maps + _perceptron(block.perceptron)) + _linear(core.head)

    def linear(self, call: Call) -> int:
        return self.maps * call.tokens

    def mixing(self, call: Call) -> int:
        return (
            sum(self._chunk(call.rows, length) for length in self._chunks(call.own)) * self.n_layers
        )

    def _chunks(self, own: int) -> list[int]:
        size = linear_attention.CHUNK
        return [min(size, own - begin) for begin in range(0, own, size)]

    def _sums(self, rows: int, length: int) -> int:
        """k^T v, or q times such sums."""
        return 2 * rows * self.n_heads * length * self.d_head * (self.d_head + 1)

    def _weights(self, rows: int, length: int) -> int:
        """q k^T, and that times v."""
        return 2 * rows * self.n_heads * length * length * (2 * self.d_head + 1)

    def _chunk(self, rows: int, length: int) -> int:
        near = self._weights(rows, length) if length > 1 else 0
        return 2 * self._sums(rows, length) + near

    def backward(self, rows: int, own: int, *, parameters: bool) -> int:
        maps = self.maps * rows * own * (2 if parameters else 1)
        chunks = self._chunks(own)
        mixing = 0
        for i, length in enumerate(chunks):
            sums, last = self._sums(rows, length), i == len(chunks) - 1
            if length == 1:
                mixing += 4 * sums
                continue
            mixing += 2 * self._weights(rows, length) + sums  # and to the queries
            mixing += sums if i > 0 else 0  # to the sums before; none at the start
            mixing += 0 if last else 2 * sums  # through k^T v, which nobody reads after the last
        return maps + mixing * self.n_layers

    def jacobian(self, rows: int, own: int) -> int:
        return self.maps * rows * own + _embedding(self.core.embedding, rows * own)

    def token(self, before: int) -> int:
        return self.maps + self.n_layers * self._chunk(1, 1)


class StateSpaceFlops(CoreFlops):
    """Linear maps only: the recurrence goes element by element."""

    def __init__(self, core: StateSpace) -> None:
        self.core = core
        block = core.blocks[0]
        maps = _linear(block.enter) + _linear(block.leave) + _perceptron(block.perceptron)
        self.maps = len(core.blocks) * maps + _linear(core.head)

    def linear(self, call: Call) -> int:
        return self.maps * call.tokens

    def backward(self, rows: int, own: int, *, parameters: bool) -> int:
        return self.maps * rows * own * (2 if parameters else 1)

    def jacobian(self, rows: int, own: int) -> int:
        return self.maps * rows * own + _embedding(self.core.embedding, rows * own)

    def token(self, before: int) -> int:
        return self.maps


class LargePatchedFlops(CoreFlops):
    """The large model over patches, the sub-sampler within."""

    def __init__(self, core: LargePatched) -> None:
        self.core = core
        self.large, self.sub = core_flops(core.large), core_flops(core.sub)
        self.last = len(core.lengths) - 1

    def linear(self, call: Call) -> int:
        return sum(counts.linear(part) for counts, part in self._parts(call))

    def mixing(self, call: Call) -> int:
        return sum(counts.mixing(part) for counts, part in self._parts(call))

    def _parts(self, call: Call) -> list[tuple[CoreFlops, Call]]:
        """What the two models are asked: the rest of the current large patch, then new ones."""
        core, end = self.core, call.before + call.own
        parts: list[tuple[CoreFlops, Call]] = []
        first = call.before
        if first > 0:
            patch = core.patch_of[first - 1]
            begin = core.begins[patch]
            within = min(begin + core.lengths[patch], end) - first
            if within > 0:
                rest = Call(call.rows, within, first - begin, call.shared, grad=call.grad)
                parts.append((self.sub, rest))
                first += within
        if first < end:
            opened = range(core.patch_of[first], core.patch_of[end - 1] + 1)
            repeats = call.repeats and opened.start < self.last
            large = Call(
                call.rows, len(opened), opened.start, call.shared, True, repeats, call.grad
            )
            longest = max(min(end - core.begins[t], core.lengths[t]) for t in opened)
            rows = call.rows * len(opened)
            parts += [
                (self.large, large),
                (self.sub, Call(rows, longest, embedded=True, grad=call.grad)),
            ]
        return parts

    def repeated(self, rows: int, own: int, length: int) -> int:
        patch = self.core.patch_of[length - 1]
        return self.large.repeated(rows, self.last + 1, patch + 1) if patch < self.last - 1 else 0

    def prefix(self, rows: int, length: int) -> int:
        """The current large patch is read once more; all, if the large model keeps no prefixes."""
        patch = self.core.patch_of[length - 1]
        own = length - self.core.begins[patch]
        read = self.sub.forward(Call(rows, own, embedded=True))
        if self.core.large.constant_state:
            read += self.large.forward(Call(rows, patch + 1, embedded=True))
        return read

    def backward(self, rows: int, own: int, *, parameters: bool) -> int:
        n_patches, longest = self._whole(own)
        large = self.large.backward(rows, n_patches, parameters=parameters)
        return large + self.sub.backward(rows * n_patches, longest, parameters=parameters)

    def jacobian(self, rows: int, own: int) -> int:
        """The large model embeds every token of a patch, the sub-sampler all but the last."""
        n_patches, longest = self._whole(own)
        large, sub = self.core.large.embedding, self.core.sub.embedding
        inner = rows * n_patches
        total = self.large.jacobian(rows, n_patches) + self.sub.jacobian(inner, longest)
        every = max(self.core.lengths)
        return total + _embedding(large, inner * (every - 1)) - _embedding(sub, inner)

    def _whole(self, own: int) -> tuple[int, int]:
        """Large patches of a whole sequence, tokens in the longest."""
        if own != self.core.max_length:
            raise ValueError(f"{own} tokens: only whole sequences of {self.core.max_length}")
        return len(self.core.lengths), max(self.core.lengths)

    def token(self, before: int) -> int:
        patch = self.core.patch_of[before]
        step = before - self.core.begins[patch]
        return self.sub.token(step) + (self.large.token(patch) if step == 0 else 0)


KINDS = {
    Transformer: TransformerFlops,
    Recurrent: RecurrentFlops,
    Recurrent2D: Recurrent2DFlops,
    LinearTransformer: LinearAttentionFlops,
    StateSpace: StateSpaceFlops,
    LargePatched: LargePatchedFlops,
}
