"""Floating-point operations of the sequence models: 2 m n k for each product (m x k) (k x n).

Three figures of each core, all exact functions of its sizes:

    forward     the products that `forward` really runs, shared prefixes and look-ups included
    backward    those of a backward pass through a whole sequence, with or without the parameters'
    token       the least that a network of this kind needs for one more token, nothing shared

Element by element work (norms, activations, softmax, gates, the scan of a state-space layer) is
left out, as everywhere in the literature: it is no matrix product, and the yardstick is the rate of
one. Fused causal attention counts as the full square, 4 R S^2 D, as torch's counter has it; in
`token` a position pays for the positions it may see. Vectors and logits made of digits
(nqs.core.digits) are products with their tables: of all tokens once a call without gradients, of
each row with them.

Letters: R rows, S own tokens of a row, L tokens before them, B states they continue, D width, V
tokens in the vocabulary, d = D / H channels a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Protocol

from torch import nn

from nqs.core import linear_attention
from nqs.core.attention import CausalSelfAttention
from nqs.core.digits import DigitEmbedding, DigitHead
from nqs.core.factored import FactoredAttention
from nqs.core.head import Head
from nqs.core.large_patched import MOST_ROWS, LargePatched
from nqs.core.linear_attention import LinearTransformer
from nqs.core.perceptron import Perceptron
from nqs.core.recurrent import Recurrent
from nqs.core.recurrent2d import Recurrent2D
from nqs.core.sequence import SequenceModel
from nqs.core.state_space import StateSpace
from nqs.core.transformer import Transformer
from nqs.wavefunctions.autoregressive import Autoregressive


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
    """The counts of a core. Raises TypeError for one that is not known here."""
    for kind, counts in KINDS.items():
        if isinstance(core, kind):
            return counts(core)
    known = ", ".join(kind.__name__ for kind in KINDS)
    raise TypeError(f"{type(core).__name__} has no count of operations; known are {known}")


def _linear(layer: nn.Linear) -> int:
    """Of one row through a linear map."""
    return 2 * layer.in_features * layer.out_features


def _perceptron(layer: Perceptron) -> int:
    return _linear(layer.expand) + _linear(layer.contract)


class HeadFlops:
    """The last map, from D to K logits or m numbers of each token."""

    def __init__(self, head: Head | DigitHead) -> None:
        self.spread = 0
        if isinstance(head, DigitHead):
            n_tokens, n_products = head.products.shape
            n_kinds = head.map.out_features // n_products
            self.width = head.map.in_features
            self.map = _linear(head.map)
            self.spread = 2 * n_kinds * n_products * n_tokens  # a row of coefficients expanded
            self.least = 2 * self.width * n_kinds * n_tokens
        else:
            self.map = self.least = _linear(head)

    def forward(self, call: Call) -> int:
        if self.spread and not call.grad and call.tokens:
            return self.least * call.tokens + self.spread * (self.width + 1)  # and the bias
        return (self.map + self.spread) * call.tokens

    def backward(self, tokens: int, *, parameters: bool) -> int:
        return (self.map * (2 if parameters else 1) + self.spread) * tokens

    def jacobian(self, tokens: int) -> int:
        return self.map * tokens


class EmbeddingFlops:
    """The vectors of tokens: a table costs nothing but its derivatives, a product with one-hot
    tokens."""

    def __init__(self, embedding: nn.Embedding | DigitEmbedding) -> None:
        self.digits = isinstance(embedding, DigitEmbedding)
        if isinstance(embedding, DigitEmbedding):
            self.row, self.n_tokens = _linear(embedding.map), len(embedding.features)
        else:
            self.row = 2 * embedding.num_embeddings * embedding.embedding_dim

    def forward(self, tokens: int, *, grad: bool) -> int:
        """Without gradients the table is made even where no token is read."""
        if not self.digits:
            return 0
        return self.row * (tokens if grad else self.n_tokens)

    def backward(self, tokens: int, *, parameters: bool) -> int:
        return self.row * tokens if self.digits and parameters else 0

    def jacobian(self, tokens: int) -> int:
        return self.row * tokens


class HasEnds(Protocol):
    """Counts of a core whose every token is embedded once and gets logits once."""

    head: HeadFlops
    embedding: EmbeddingFlops


def _ends_forward(counts: HasEnds, call: Call) -> int:
    if not call.tokens:
        return 0
    embedded = 0 if call.embedded else counts.embedding.forward(call.tokens, grad=call.grad)
    return embedded + counts.head.forward(call)


def _ends_backward(counts: HasEnds, tokens: int, parameters: bool) -> int:
    embedded = counts.embedding.backward(tokens, parameters=parameters)
    return embedded + counts.head.backward(tokens, parameters=parameters)


def _ends_jacobian(counts: HasEnds, tokens: int) -> int:
    return counts.embedding.jacobian(tokens) + counts.head.jacobian(tokens)


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
        self.head, self.embedding = HeadFlops(core.head), EmbeddingFlops(core.embedding)
        self.n_layers = len(core.blocks)

    def linear(self, call: Call) -> int:
        read = call.tokens
        if call.repeats:
            read = call.rows
        elif not (call.embedded or call.grad or call.rows <= self.core.vocab_size):
            read = self.core.vocab_size * call.own  # each pair of token and place once
        later = (self.n_layers - 1) * call.tokens
        blocks = self.read * (read + later) + self.rest * call.tokens * self.n_layers
        return blocks + _ends_forward(self, call)

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
        maps = self._blocks(rows * own) * (2 if parameters else 1)
        maps += _ends_backward(self, rows * own, parameters)
        pair = 2 * rows * own * own * self.width
        if self.factored:  # to the values; to the weights
            return maps + self.n_layers * pair * (2 if parameters else 1)
        return maps + self.n_layers * 5 * pair  # fused: the scores once more, then two each

    def jacobian(self, rows: int, own: int) -> int:
        pairs = 2 * rows * own * own * self.width * self.n_layers if self.factored else 0
        return self._blocks(rows * own) + pairs + _ends_jacobian(self, rows * own)

    def _blocks(self, tokens: int) -> int:
        return self.n_layers * (self.read + self.rest) * tokens

    def token(self, before: int) -> int:
        pair = (2 if self.factored else 4) * self.width * (before + 1)
        return self.n_layers * (self.read + self.rest + pair) + self.head.least


class RecurrentFlops(CoreFlops):
    """Elman, GRU, LSTM: branches of one state share its recurrent product at their first step."""

    def __init__(self, core: Recurrent) -> None:
        self.core = core
        self.hidden = len(core.cells) * _linear(core.cells[0].hidden)
        self.head, self.embedding = HeadFlops(core.head), EmbeddingFlops(core.embedding)
        self.inputs = 0
        for layer in core.inputs:
            assert isinstance(layer, nn.Linear)
            self.inputs += _linear(layer)

    def linear(self, call: Call) -> int:
        cells = self.hidden * (call.states + call.tokens - call.rows) + self.inputs * call.tokens
        return cells + _ends_forward(self, call)

    def backward(self, rows: int, own: int, *, parameters: bool) -> int:
        maps = self.hidden * rows * (own - 1) + self.inputs * rows * own  # the first h is constant
        maps += (self.hidden + self.inputs) * rows * own if parameters else 0
        return maps + _ends_backward(self, rows * own, parameters)

    def jacobian(self, rows: int, own: int) -> int:
        return (self.hidden + self.inputs) * rows * own + _ends_jacobian(self, rows * own)

    def token(self, before: int) -> int:
        return self.hidden + self.inputs + self.head.least


class Recurrent2DFlops(CoreFlops):
    """The tensorised cell."""

    def __init__(self, core: Recurrent2D) -> None:
        self.core = core
        self.products, self.merge = _linear(core.cell.products), _linear(core.cell.merge)
        self.head, self.embedding = HeadFlops(core.head), EmbeddingFlops(core.embedding)

    def linear(self, call: Call) -> int:
        """Every place reads the tokens of two neighbours."""
        if not call.tokens:
            return 0
        embedded = self.embedding.forward(2 * call.tokens, grad=call.grad)
        return embedded + (self.products + self.merge) * call.tokens + self.head.forward(call)

    def backward(self, rows: int, own: int, *, parameters: bool) -> int:
        tokens = rows * own
        maps = self.products * tokens + self.merge * rows * (own - 1)
        maps += (self.products + self.merge) * tokens if parameters else 0
        maps += self.embedding.backward(2 * tokens, parameters=parameters)
        return maps + self.head.backward(tokens, parameters=parameters)

    def jacobian(self, rows: int, own: int) -> int:
        tokens = rows * own
        maps = (self.products + self.merge) * tokens + self.embedding.jacobian(2 * tokens)
        return maps + self.head.jacobian(tokens)

    def token(self, before: int) -> int:
        return self.products + self.merge + self.head.least


class LinearAttentionFlops(CoreFlops):
    """Running sums between chunks, weights within."""

    def __init__(self, core: LinearTransformer) -> None:
        self.core, self.n_layers = core, len(core.blocks)
        self.n_heads = core.n_heads
        self.d_head = core.d_model // core.n_heads
        block = core.blocks[0]
        maps = _linear(block.attention.qkv) + _linear(block.attention.project)
        self.maps = self.n_layers * (maps + _perceptron(block.perceptron))
        self.head, self.embedding = HeadFlops(core.head), EmbeddingFlops(core.embedding)

    def linear(self, call: Call) -> int:
        return self.maps * call.tokens + _ends_forward(self, call)

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
        maps += _ends_backward(self, rows * own, parameters)
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
        return self.maps * rows * own + _ends_jacobian(self, rows * own)

    def token(self, before: int) -> int:
        return self.maps + self.head.least + self.n_layers * self._chunk(1, 1)


class StateSpaceFlops(CoreFlops):
    """Linear maps only: the recurrence goes element by element."""

    def __init__(self, core: StateSpace) -> None:
        self.core = core
        block = core.blocks[0]
        maps = _linear(block.enter) + _linear(block.leave) + _perceptron(block.perceptron)
        self.maps = len(core.blocks) * maps
        self.head, self.embedding = HeadFlops(core.head), EmbeddingFlops(core.embedding)

    def linear(self, call: Call) -> int:
        return self.maps * call.tokens + _ends_forward(self, call)

    def backward(self, rows: int, own: int, *, parameters: bool) -> int:
        maps = self.maps * rows * own * (2 if parameters else 1)
        return maps + _ends_backward(self, rows * own, parameters)

    def jacobian(self, rows: int, own: int) -> int:
        return self.maps * rows * own + _ends_jacobian(self, rows * own)

    def token(self, before: int) -> int:
        return self.maps + self.head.least


class LargePatchedFlops(CoreFlops):
    """The large model over patches, the sub-sampler within."""

    def __init__(self, core: LargePatched) -> None:
        self.core = core
        self.large, self.sub = core_flops(core.large), core_flops(core.sub)
        self.outer, self.inner = (EmbeddingFlops(part.embedding) for part in (core.large, core.sub))
        self.last, self.longest = len(core.lengths) - 1, max(core.lengths)

    def linear(self, call: Call) -> int:
        rest, opened = self._parts(call)
        total = self.sub.linear(rest) if rest else 0
        if opened is None:
            return total
        large, sub = opened
        total += self.large.linear(large)
        total += self.outer.forward(large.tokens * self.longest, grad=call.grad)
        if sub.own > 1:  # all but the last token of each patch
            total += self.inner.forward(sub.rows * (sub.own - 1), grad=call.grad)
        return total + sum(self.sub.linear(launch) for launch in self._launches(call, sub))

    def mixing(self, call: Call) -> int:
        rest, opened = self._parts(call)
        total = self.sub.mixing(rest) if rest else 0
        if opened is None:
            return total
        return total + self.large.mixing(opened[0]) + self.sub.mixing(opened[1])

    def _parts(self, call: Call) -> tuple[Call | None, tuple[Call, Call] | None]:
        """What is asked: of the sub-sampler the rest of the current large patch; then, of the large
        model and of the sub-sampler, new ones."""
        core, end = self.core, call.before + call.own
        rest, first = None, call.before
        if first > 0:
            patch = core.patch_of[first - 1]
            begin = core.begins[patch]
            within = min(begin + core.lengths[patch], end) - first
            if within > 0:
                rest = Call(call.rows, within, first - begin, call.shared, grad=call.grad)
                first += within
        if first >= end:
            return rest, None
        opened = range(core.patch_of[first], core.patch_of[end - 1] + 1)
        repeats = call.repeats and opened.start < self.last
        large = Call(call.rows, len(opened), opened.start, call.shared, True, repeats, call.grad)
        longest = max(min(end - core.begins[t], core.lengths[t]) for t in opened)
        sub = Call(call.rows * len(opened), longest, embedded=True, grad=call.grad)
        return rest, (large, sub)

    def _launches(self, call: Call, sub: Call) -> list[Call]:
        """The sub-sampler's rows, cut between large patches."""
        if not call.rows:
            return []
        size = max(1, MOST_ROWS // call.rows) * call.rows
        sizes = [min(size, sub.rows - begin) for begin in range(0, sub.rows, size)]
        return [replace(sub, rows=rows) for rows in sizes]

    def repeated(self, rows: int, own: int, length: int) -> int:
        patch = self.core.patch_of[length - 1]
        return self.large.repeated(rows, self.last + 1, patch + 1) if patch < self.last - 1 else 0

    def prefix(self, rows: int, length: int) -> int:
        """The current large patch is read once more; all, if the large model keeps no prefixes."""
        patch = self.core.patch_of[length - 1]
        own = length - self.core.begins[patch]
        read = self.sub.forward(Call(rows, own, embedded=True))
        read += self.inner.forward(rows * (own - 1), grad=False)
        if self.core.large.constant_state:
            read += self.large.forward(Call(rows, patch + 1, embedded=True))
            read += self.outer.forward(rows * (patch + 1) * self.longest, grad=False)
        return read

    def backward(self, rows: int, own: int, *, parameters: bool) -> int:
        inner = rows * self._whole(own)
        large = self.large.backward(rows, inner // rows, parameters=parameters)
        sub = self.sub.backward(inner, self.longest, parameters=parameters)
        more = self.outer.backward(inner * (self.longest - 1), parameters=parameters)
        return large + sub + more - self.inner.backward(inner, parameters=parameters)

    def jacobian(self, rows: int, own: int) -> int:
        """The large model embeds every token of a patch, the sub-sampler all but the last."""
        inner = rows * self._whole(own)
        total = self.large.jacobian(rows, inner // rows) + self.sub.jacobian(inner, self.longest)
        more = self.outer.jacobian(inner * (self.longest - 1))
        return total + more - self.inner.jacobian(inner)

    def _whole(self, own: int) -> int:
        """Large patches of a whole sequence."""
        if own != self.core.max_length:
            raise ValueError(f"{own} tokens: only whole sequences of {self.core.max_length}")
        return len(self.core.lengths)

    def token(self, before: int) -> int:
        patch = self.core.patch_of[before]
        step = before - self.core.begins[patch]
        return self.sub.token(step) + (self.large.token(patch) if step == 0 else 0)


class BiasedFlops(CoreFlops):
    """A core whose logits get a bias of each position, made of digits as they are: expanded in
    every row with gradients, else once a call."""

    def __init__(self, core: CoreFlops, spread: int) -> None:
        self.core, self.spread = core, spread

    def forward(self, call: Call) -> int:
        if not call.tokens:
            return self.core.forward(call)
        return self.core.forward(call) + self.spread * (call.tokens if call.grad else call.own)

    def linear(self, call: Call) -> int:
        return self.core.linear(call)

    def backward(self, rows: int, own: int, *, parameters: bool) -> int:
        expanded = self.spread * rows * own
        return self.core.backward(rows, own, parameters=parameters) + expanded

    def jacobian(self, rows: int, own: int) -> int:
        return self.core.jacobian(rows, own)

    def token(self, before: int) -> int:
        return self.core.token(before)

    def repeated(self, rows: int, own: int, length: int) -> int:
        return self.core.repeated(rows, own, length)

    def prefix(self, rows: int, length: int) -> int:
        return self.core.prefix(rows, length)


def conditional_flops(psi: Autoregressive) -> CoreFlops:
    """The counts of a wavefunction's conditionals. Raises TypeError as core_flops."""
    counts, spread = core_flops(psi.core), HeadFlops(psi.core.head).spread
    return BiasedFlops(counts, spread) if spread else counts


KINDS = {
    Transformer: TransformerFlops,
    Recurrent: RecurrentFlops,
    Recurrent2D: Recurrent2DFlops,
    LinearTransformer: LinearAttentionFlops,
    StateSpace: StateSpaceFlops,
    LargePatched: LargePatchedFlops,
}
