"""Crystals as batches of tokens: what each one asks of the model is drawn anew in every epoch.

A crystal is encoded once, without conditions, and once for each set of conditions that is drawn for
it. In an epoch it becomes, by chance,

    generation   bos, those of its conditions that are not dropped, body, eos:  every token counts
                 but the conditions (they are always given, never drawn)
    infilling    bos, body with one of its elements hidden, question, answer:  the answer counts

(the tasks of Gruver et al., arXiv:2402.04379), moved by a random vector, with its atoms in a random
order or in an equivalent description if asked for. In the first task another crystal may be shown
before it, a template of its composition (nqs.crystal.datasets.templates),

    bos, elements that stood in the template for those of the formula, eos, its content, eos,
        conditions, body, eos

of which what comes before the crystal's own body is given. Crystals of about the same length share
a batch of about a constant number of tokens.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from nqs.crystal.datasets.templates import Exchange
from nqs.crystal.structures.elements import HEAVIEST
from nqs.crystal.structures.structure import CrystalError, Structure
from nqs.crystal.tokens.tokeniser import Conditions, Tokeniser

LENGTH_NOISE = 0.1
"""Relative noise on lengths before crystals are sorted by them: batches differ between epochs."""


@dataclass(frozen=True)
class Encoded:
    """One crystal as tokens.

    Attributes:
        body: bos, body, eos: the crystal without conditions.
        elements: its atomic numbers, each once.
        structure, known: what else it takes to write it with conditions.
        names: the conditions that may be asked for and are known.
        variants: its tokens with some of them, as they have been needed so far.
        prompts: what may be shown after bos: a template each.
    """

    body: tuple[int, ...]
    elements: tuple[int, ...]
    structure: Structure
    known: Conditions
    names: tuple[str, ...]
    variants: dict[tuple[str, ...], tuple[int, ...]] = field(default_factory=dict, repr=False)
    prompts: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Batch:
    """Tokens to read (R, L) int64, and what follows each: targets (R, L), pad where none counts."""

    tokens: Tensor
    targets: Tensor
    pad: int

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(self.tokens.to(device), self.targets.to(device), self.pad)


@dataclass(frozen=True)
class Tasks:
    """What crystals are made into; see DataConfig for the fields of the same names."""

    condition_dropout: float = 0.5
    template_dropout: float = 0.5
    infilling: float = 0.1
    translate: bool = False
    permute: bool = False
    equivalents: bool = False
    batch_tokens: int = 2048


def encode(
    tokeniser: Tokeniser,
    crystals: Iterable[tuple[Structure, Conditions]],
    conditions: Sequence[str] = (),
) -> tuple[list[Encoded], list[str]]:
    """The crystals that the tokeniser can write, and one line for each that it cannot."""
    encoded, refused = [], []
    for structure, known in crystals:
        try:
            encoded.append(encode_one(tokeniser, structure, known, conditions))
        except CrystalError as error:
            refused.append(f"{structure.formula}: {error}")
    return encoded, refused


def encode_one(
    tokeniser: Tokeniser,
    structure: Structure,
    known: Conditions,
    conditions: Sequence[str],
    body: tuple[int, ...] | None = None,
) -> Encoded:
    """One crystal with those of the named conditions that are known of it; `body`: its tokens
    without them, if they are known. Raises CrystalError."""
    body = tuple(tokeniser.encode(structure)) if body is None else body
    elements = tuple(sorted({int(number) for number in structure.numbers}))
    names = tuple(name for name in conditions if getattr(known, name) is not None)
    crystal = Encoded(body, elements, structure, known, names)
    generation(tokeniser, crystal, names)  # refused here, not in the middle of the training
    return crystal


class Epoch:
    """One pass over the crystals: batch i, 0 <= i < len, depends on the generator's state at the
    start and on i alone, so that a resumed run goes on in the middle.

    Raises ValueError if there is no crystal.
    """

    def __init__(
        self,
        tokeniser: Tokeniser,
        crystals: Sequence[Encoded],
        tasks: Tasks,
        generator: torch.Generator,
    ) -> None:
        if not crystals:
            raise ValueError("an epoch needs at least one crystal")
        self._tokeniser, self._translate = tokeniser, tasks.translate
        if tasks.permute:
            crystals = [permuted(tokeniser, crystal, generator) for crystal in crystals]
        n_crystals, n_names = len(crystals), max(len(crystal.names) for crystal in crystals)
        hides = torch.rand(n_crystals, generator=generator) < tasks.infilling
        chosen = torch.rand(n_crystals, generator=generator, dtype=torch.float64)
        kept = torch.rand(n_crystals, n_names, generator=generator) >= tasks.condition_dropout
        rng = None
        if tasks.equivalents:
            seed = int(torch.randint(2**62, (), generator=generator))
            rng = np.random.default_rng(seed)
        asked = [
            tuple(itertools.compress(crystal.names, keep))
            for crystal, keep in zip(crystals, kept.tolist(), strict=True)
        ]
        prompts = drawn_prompts(crystals, tasks.template_dropout, generator)
        self._rows = [
            infilling(tokeniser, crystal, int(chance * len(crystal.elements)), rng)
            if hide
            else after(prompt, *generation(tokeniser, crystal, names, rng))
            for crystal, hide, chance, names, prompt in zip(
                crystals, hides.tolist(), chosen.tolist(), asked, prompts, strict=True
            )
        ]
        lengths = torch.tensor([len(tokens) for tokens, _ in self._rows])
        self._batches = bucketed(lengths, tasks.batch_tokens, generator)
        self._seeds = torch.randint(2**62, (len(self._batches),), generator=generator).tolist()

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Batch:
        rows = [self._rows[row] for row in self._batches[index]]
        batch = collate(self._tokeniser, rows)
        if not self._translate:
            return batch
        generator = torch.Generator().manual_seed(self._seeds[index])
        shifts = torch.randint(self._tokeniser.n_bins, (len(rows), 3), generator=generator)
        return translated(self._tokeniser, batch, shifts)


def drawn_prompts(
    crystals: Sequence[Encoded], dropout: float, generator: torch.Generator
) -> list[tuple[int, ...]]:
    """For each crystal one of its prompts, none with chance `dropout`; () for none."""
    if not any(crystal.prompts for crystal in crystals):
        return [()] * len(crystals)
    shown = torch.rand(len(crystals), generator=generator) >= dropout
    chosen = torch.rand(len(crystals), generator=generator, dtype=torch.float64)
    return [
        crystal.prompts[int(chance * len(crystal.prompts))] if show and crystal.prompts else ()
        for crystal, show, chance in zip(crystals, shown.tolist(), chosen.tolist(), strict=True)
    ]


def after(prompt: Sequence[int], tokens: Sequence[int], given: int) -> tuple[Sequence[int], int]:
    """(tokens with the prompt after their bos, how many are given)."""
    return ((tokens[0], *prompt, *tokens[1:]), given + len(prompt)) if prompt else (tokens, given)


def template_prompt(
    tokeniser: Tokeniser, known: Sequence[int], exchange: Exchange
) -> tuple[int, ...]:
    """What shows the template that a known crystal (its tokens, without conditions) becomes. Raises
    CrystalError where it cannot be written."""
    before = [token for z in exchange.before for token in tokeniser.element_tokens(z)]
    tokens = tokeniser.exchanged(known, exchange.elements, exchange.scale)
    return (*before, tokeniser.eos, *tokeniser.content(tokens), tokeniser.eos)


def longest_sequence(tokeniser: Tokeniser, templates: int) -> int:
    """Of crystals, with a template before them if there are any."""
    if not templates:
        return tokeniser.max_length
    longest_word = max(len(tokeniser.element_tokens(z)) for z in range(1, HEAVIEST + 1))
    words = longest_word * min(tokeniser.max_atoms, HEAVIEST)
    return 2 * tokeniser.max_length + words + 1


def permuted(tokeniser: Tokeniser, crystal: Encoded, generator: torch.Generator) -> Encoded:
    """The crystal with its atoms in a random order, every order equally likely."""
    order = torch.randperm(crystal.structure.n_atoms, generator=generator).numpy()
    structure = crystal.structure.ordered(order)
    body = tuple(tokeniser.encode(structure))
    return dataclasses.replace(crystal, body=body, structure=structure, variants={})


def generation(
    tokeniser: Tokeniser,
    crystal: Encoded,
    names: tuple[str, ...],
    rng: np.random.Generator | None = None,
) -> tuple[tuple[int, ...], int]:
    """(tokens with the conditions `names`, how many tokens are given: bos and the conditions); in
    an equivalent description that rng draws, if there is one."""
    if rng is not None:
        tokens, given = generation(tokeniser, crystal, names)
        return tuple(tokeniser.equivalent(tokens, rng)), given
    if not names:
        return crystal.body, 1
    if names not in crystal.variants:
        conditions = Conditions(**{name: getattr(crystal.known, name) for name in names})
        written = tokeniser.conditioned(crystal.body, crystal.structure, conditions)
        crystal.variants[names] = tuple(written)
    tokens = crystal.variants[names]
    pairs = zip(reversed(tokens), reversed(crystal.body), strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return tokens, max(1, len(tokens) - common)


def infilling(
    tokeniser: Tokeniser, crystal: Encoded, which: int, rng: np.random.Generator | None = None
) -> tuple[list[int], int]:
    """(tokens of the question which element was hidden and its answer, how many are given); rng as
    in `generation`."""
    body, _ = generation(tokeniser, crystal, (), rng)
    tokens, question = tokeniser.infilling(body, crystal.elements[which])
    return tokens, question + 1


def bucketed(lengths: Tensor, batch_tokens: int, generator: torch.Generator) -> list[list[int]]:
    """Every row once, in batches in random order: rows times longest stays within batch_tokens.

    Rows of about the same length go together: they are sorted by length times 1 + noise.
    """
    noise = 1 + LENGTH_NOISE * torch.rand(len(lengths), generator=generator)
    order = (lengths * noise).argsort(stable=True).tolist()
    batches: list[list[int]] = [[]]
    longest = 0
    for row, length in zip(order, lengths[order].tolist(), strict=True):
        longest = max(longest, length)
        if batches[-1] and longest * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
            longest = length
        batches[-1].append(row)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def collate(tokeniser: Tokeniser, rows: Sequence[tuple[Sequence[int], int]]) -> Batch:
    """Rows (tokens, how many of them are given) as one batch."""
    whole = tokeniser.padded([tokens for tokens, _ in rows])  # (R, L + 1)
    given = torch.tensor([count for _, count in rows])
    targets = whole[:, 1:].clone()
    places = torch.arange(1, whole.shape[1])
    targets[places < given[:, None]] = tokeniser.pad
    return Batch(whole[:, :-1], targets, tokeniser.pad)


def translated(tokeniser: Tokeniser, batch: Batch, shifts: Tensor) -> Batch:
    """The batch with crystal r moved by shifts[r] (R, 3) bins along the axes."""
    whole = torch.cat([batch.tokens, batch.targets[:, -1:]], dim=1)  # a row's last token counts
    moved = whole.numpy().copy()
    for row, shift in zip(moved, shifts.tolist(), strict=True):
        row[:] = tokeniser.translated(row, (shift[0], shift[1], shift[2]))
    tokens = torch.from_numpy(moved)
    targets = torch.where(batch.targets == batch.pad, batch.pad, tokens[:, 1:])
    return Batch(tokens[:, :-1], targets, batch.pad)


def plain_batches(
    tokeniser: Tokeniser, sequences: Sequence[tuple[Sequence[int], int]], batch_tokens: int
) -> Iterator[tuple[list[int], Batch]]:
    """(which sequences, their batch) of all (tokens, how many are given), in order of their
    lengths."""
    order = sorted(range(len(sequences)), key=lambda i: (len(sequences[i][0]), i))
    rows: list[int] = []
    for index in order:
        if rows and len(sequences[index][0]) * (len(rows) + 1) > batch_tokens:
            yield rows, collate(tokeniser, [sequences[i] for i in rows])
            rows = []
        rows = [*rows, index]
    if rows:
        yield rows, collate(tokeniser, [sequences[i] for i in rows])
