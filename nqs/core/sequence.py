"""The one interface of every sequence model: logits for the next token, resumable from a state.

Nothing here knows spins, lattices or crystals: a token is an integer. The wavefunctions and the
crystal language model drive the same classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

from torch import Tensor, nn

from nqs.core.digits import DigitEmbedding, DigitHead
from nqs.core.head import Head


class SequenceState(ABC):
    """What a model must remember of the tokens it has read: B rows, `length` tokens each.

    Keys and values for attention, hidden vectors for recurrent networks.
    """

    length: int
    """Number of tokens read so far (the position of the next token)."""

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """B, the number of independent sequences."""

    @abstractmethod
    def select(self, rows: Tensor) -> Self:
        """The state whose row r is row rows[r] of this one; rows (R,) int64. A copy: the two
        states can be continued independently."""

    @classmethod
    def concatenate(cls, states: list[Self]) -> Self:
        """The rows of several states of one length, one after another (constant states only)."""
        raise TypeError(f"{cls.__name__} cannot be concatenated")


class Reading(ABC):
    """Sequences (B, T) that a model has read, with all it computed on the way.

    Attributes:
        logits: (B, T, K), those of `SequenceModel.forward`.
    """

    logits: Tensor

    @abstractmethod
    def revised(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Logits at a few positions once tokens there are others, the other positions held fixed.

        places (S,) int64, ascending, holds every position whose token is another; tokens (R, S) are
        those of the branches, row r of sequence r // F. In each layer the positions of `places` see
        each other as they are now and all others as they were. Exact if no position after the first
        is left out, else without what reaches `places` by way of the others. Returns (R, S, K).
        """


class SequenceModel(nn.Module, ABC):
    """An autoregressive network over integer tokens.

    Attributes:
        vocab_size: number of distinct input tokens (including any start token).
        n_outputs: K, the number of logits per position.
        max_length: longest sequence the positions cover.
        head: the last linear map, from the width D to the K logits, by a table or by digits.
    """

    vocab_size: int
    n_outputs: int
    max_length: int
    head: Head | DigitHead

    constant_state: ClassVar[bool]
    """Whether the state's size does not grow with the length. Then states of equal length can be
    concatenated, and many branches of one sequence are best walked together, one position at a
    time; otherwise one suffix at a time."""

    @abstractmethod
    def forward(
        self, tokens: Tensor, state: SequenceState | None = None
    ) -> tuple[Tensor, SequenceState]:
        """Logits for the token that follows each given token.

        tokens (R, S) int64 are read at positions state.length, ..., state.length + S - 1 (from 0
        without a state). Returns logits (R, S, K), where logits[:, i] condition on everything up
        to and including tokens[:, i], and the state after the last token.

        A state of B rows can be continued by R = B F rows: row r continues state row r // F
        (F branches share one prefix, which is not copied where a broadcast will do).

        A state that came from `start` is continued in place: the state passed in must not be
        used again (take `select` copies first). Any other state is left as it was.

        Raises ValueError if R is not a multiple of B or the positions would exceed max_length.
        """

    @abstractmethod
    def start(self, n_rows: int, capacity: int) -> SequenceState:
        """An empty state for n_rows sequences with room for `capacity` tokens, allocated once."""

    @abstractmethod
    def prefix(self, state: SequenceState, length: int, *, repeats: bool = False) -> SequenceState:
        """The first `length` tokens of a state as a state: a view, for models whose state keeps
        every position (constant_state is False). Others raise TypeError.

        repeats=True promises that the prefix will be continued, once, without gradients and to the
        state's full length, by branches that differ from the state's own tokens in their first
        token alone: a model may then take from the state what these share. The state after such a
        continuation cannot be continued.
        """

    def whole(self, tokens: Tensor) -> Reading:
        """Reads tokens (B, T) from the start, without gradients, to revise some of them later.

        Only for models that keep every position; others raise TypeError.
        """
        raise TypeError(f"{type(self).__name__} cannot revise single positions of a sequence")


class EmbeddingModel(SequenceModel):
    """A sequence model that embeds its tokens and can be given vectors in their place.

    Attributes:
        embedding: vectors of width E of the input tokens.
    """

    embedding: nn.Embedding | DigitEmbedding

    @abstractmethod
    def read(
        self, embedded: Tensor, state: SequenceState | None = None
    ) -> tuple[Tensor, SequenceState]:
        """`forward` of vectors (R, S, E); forward(tokens) = read(embedding(tokens)).

        So another network may write some of the inputs, or one input may stand for many tokens.
        """


def check_sizes(**sizes: int) -> None:
    """Raise ValueError naming the first size that is not a positive integer."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name}={size!r} must be a positive integer")


def check_heads(d_model: int, n_heads: int) -> None:
    """Raise ValueError unless the heads divide the width."""
    if d_model % n_heads:
        divisors = [h for h in range(1, d_model + 1) if d_model % h == 0]
        raise ValueError(
            f"n_heads={n_heads} does not divide d_model={d_model}; allowed: {divisors}"
        )


def check_blocks(
    vocab_size: int,
    n_outputs: int,
    max_length: int,
    *,
    d_model: int,
    n_layers: int,
    d_ff: int | None,
    n_heads: int | None = None,
) -> int:
    """d_ff of a stack of residual blocks, 2 D for None.

    Raises ValueError naming the first size that is not a positive integer, and for heads that do
    not divide the width.
    """
    d_ff = 2 * d_model if d_ff is None else d_ff
    check_sizes(vocab_size=vocab_size, n_outputs=n_outputs, max_length=max_length)
    check_sizes(d_model=d_model, n_layers=n_layers, d_ff=d_ff)
    if n_heads is not None:
        check_sizes(n_heads=n_heads)
        check_heads(d_model, n_heads)
    return d_ff


def check_continuation(model: SequenceModel, inputs: Tensor, state: SequenceState | None) -> int:
    """The position of the first of inputs (R, S, ...); ValueError if they do not fit (forward)."""
    start = 0 if state is None else state.length
    n_rows, n_own = inputs.shape[:2]
    if state is not None and n_rows % state.n_rows:
        raise ValueError(
            f"{n_rows} rows cannot continue a state of {state.n_rows} rows: not a multiple"
        )
    if start + n_own > model.max_length:
        raise ValueError(f"position {start + n_own} is beyond max_length={model.max_length}")
    return start
