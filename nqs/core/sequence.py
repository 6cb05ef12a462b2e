"""The one interface of every sequence model: logits for the next token, resumable from a state.

Nothing here knows spins, lattices or crystals: a token is an integer. The wavefunctions and the
crystal language model drive the same classes.

A model of one's own that is content to read its tokens again and again needs two functions:

    class Mean(UncachedModel):
        def __init__(self, n_tokens, n_outputs, length, *, width: int = 16, generator=None):
            super().__init__(n_tokens, n_outputs, length)
            self.embedding = nn.Embedding(n_tokens, width)
            self.head = Head(width, n_outputs)
            initialise(self, generator)

        def logits(self, tokens):
            seen = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)[:, None]
            return self.head(self.embedding(tokens).cumsum(1) / seen)

One that carries a memory of constant size along extends `nqs.core.recurrent.ConstantStateModel`.
What a constructor is supplied with, by name and where it has such a parameter: n_tokens, n_outputs,
length (T); coordinates (T, dims), where each token is; grid (rows, columns), if the tokens fill
one; products (K, F), of the tokens' digits (`nqs.core.digits`); generator; writes_tokens, whether
outputs are numbers of each token; lengths, of each group of tokens, where `groups_tokens`. All
other parameters are its keys.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, final

import torch
from torch import Tensor, nn

from nqs.core.digits import DigitEmbedding, DigitHead
from nqs.core.head import Head

if TYPE_CHECKING:
    from nqs.core.native.branches import BranchScorer
    from nqs.core.native.network import OutputTables
    from nqs.core.native.steps import StepState


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

    def branched(self, rows: Tensor) -> Self:
        """`select`, in place where the model can: this state must not be used again."""
        return self.select(rows)

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

    Args:
        n_tokens: distinct input tokens, any start token included.
        n_outputs: K, logits per position.
        length: T, longest sequence.

    Attributes:
        vocab_size, n_outputs, max_length: the same.
        head: the last linear map, from the width D to the K logits, by a table or by digits.
    """

    kinds: ClassVar[dict[str, type[SequenceModel]]] = {}
    """The models that can be chosen by name: `class Transformer(SequenceModel, kind="ptf")`."""

    path: ClassVar[Literal["raster", "zigzag"]] = "raster"
    """The order of tokens on a grid that suits it: all rows forwards, or every second one
    backwards."""
    groups_tokens: ClassVar[bool] = False
    """Whether its tokens come in groups: then `lengths` of the groups are supplied, coordinates are
    those of the groups, and its key sub_patch says what a token is."""

    head: Head | DigitHead

    def __init_subclass__(cls, *, kind: str | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if kind is not None:
            SequenceModel.kinds[kind] = cls

    def __init__(self, n_tokens: int, n_outputs: int, length: int) -> None:
        super().__init__()
        check_sizes(n_tokens=n_tokens, n_outputs=n_outputs, length=length)
        self.vocab_size, self.n_outputs, self.max_length = n_tokens, n_outputs, length

    @classmethod
    def token_cost(cls, n_outputs: int, keys: Mapping[str, Any]) -> float | None:
        """Multiplications, or as long, of reading a token and writing K logits; None: not known.

        keys: those of the constructor. Where it is known, the size of tokens is chosen by it.
        """
        return None

    constant_state: ClassVar[bool] = False
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

    def branch_obstacle(self) -> str | None:
        """Why compiled code cannot score branches of sequences here and now; None: it can."""
        return f"{type(self).__name__} has no compiled pass"

    def branch_scorer(self) -> BranchScorer:
        """Compiled code with the weights as they are now, where there is no `branch_obstacle`.

        Its scores agree with those by `prefix` and `forward` to rounding.
        """
        raise TypeError(str(self.branch_obstacle()))

    def compiled_start(self, tables: OutputTables, n_rows: int) -> StepState | None:
        """An empty state of n_rows sequences that compiled code continues with the weights as they
        are now, its outputs with `tables` added; None where `forward` must do it.

        Agrees with `start` and `forward` to rounding.
        """
        return None


@final
@dataclass
class TokenState(SequenceState):
    """The tokens themselves, (B, length)."""

    tokens: Tensor

    @property
    def length(self) -> int:  # type: ignore[override]
        """Number of tokens read so far."""
        return self.tokens.shape[1]

    @property
    def n_rows(self) -> int:
        return self.tokens.shape[0]

    def select(self, rows: Tensor) -> Self:
        return type(self)(self.tokens[rows])


class UncachedModel(SequenceModel):
    """A model that keeps nothing but the tokens and reads all of them again for each further one.

    T times the work of one that keeps more, for the least to write: `logits`.
    """

    @abstractmethod
    def logits(self, tokens: Tensor) -> Tensor:
        """tokens (R, S) int64, S <= T, from the start -> (R, S, K): [:, i] depends on tokens[:, :i]
        and tokens[:, i] alone."""

    def forward(
        self, tokens: Tensor, state: SequenceState | None = None
    ) -> tuple[Tensor, TokenState]:
        """See SequenceModel.forward."""
        first = check_continuation(self, tokens, state)
        if state is not None:
            assert isinstance(state, TokenState)
            n_branches = len(tokens) // state.n_rows
            tokens = torch.cat([state.tokens.repeat_interleave(n_branches, dim=0), tokens], dim=1)
        return self.logits(tokens)[:, first:], TokenState(tokens)

    def start(self, n_rows: int, capacity: int) -> TokenState:
        """No tokens."""
        device = self.head.weight.device
        return TokenState(torch.empty(n_rows, 0, dtype=torch.int64, device=device))

    def prefix(self, state: SequenceState, length: int, *, repeats: bool = False) -> TokenState:
        """See SequenceModel.prefix."""
        assert isinstance(state, TokenState)
        if not 0 <= length <= state.length:
            raise ValueError(f"prefix length {length} is outside 0..{state.length}")
        return TokenState(state.tokens[:, :length])


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


Width = Annotated[int, "1 .. 65536"]
"""Numbers in a vector."""
Depth = Annotated[int, "1 .. 1024"]
"""Layers."""


def check_sizes(**sizes: int) -> None:
    """Raise ValueError naming the first size that is not a positive integer."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name}={size!r} must be a positive integer")


def check_heads(d_model: int, n_heads: int, sub: str = "") -> None:
    """Raise ValueError unless the heads divide the width; `sub` stands before both keys' names."""
    if d_model % n_heads:
        divisors = [h for h in range(1, d_model + 1) if d_model % h == 0]
        allowed = ", ".join(map(str, divisors[:8]))
        raise ValueError(
            f"{sub}n_heads={n_heads} must divide {sub}d_model={d_model}; use one of {allowed}"
        )


def feed_forward_width(d_model: int, d_ff: int | None) -> int:
    """d_ff of residual blocks, 2 D for None."""
    return 2 * d_model if d_ff is None else d_ff


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


@torch.no_grad()
def state_numbers(model: SequenceModel, length: int) -> int:
    """Numbers in the state of one row with room for `length` tokens, once it has read one."""
    token = torch.full((1, 1), model.vocab_size - 1, device=model.head.weight.device)
    return _numbers_in(model(token, model.start(1, length))[1])


def _numbers_in(state: Any) -> int:
    """Of all tensors in nested containers and objects."""
    if isinstance(state, Tensor):
        return state.numel()
    if isinstance(state, Mapping):
        return sum(map(_numbers_in, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(_numbers_in, state))
    return _numbers_in(vars(state)) if hasattr(state, "__dict__") else 0
