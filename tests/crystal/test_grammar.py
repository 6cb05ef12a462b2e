"""Grammars: whatever an untrained model may draw is a crystal that meets what was asked."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from nqs.crystal.datasets.examples import examples
from nqs.crystal.structures.structure import CrystalError, Structure, flatness
from nqs.crystal.tokens import TOKENISERS, make_tokeniser
from nqs.crystal.tokens.coordinate_fields import ANGLES, LEAST_FLATNESS, angle_table
from nqs.crystal.tokens.formats import LARGEST_ANGLE, SMALLEST_ANGLE
from nqs.crystal.tokens.text_grammar import gamma_bounds
from nqs.crystal.tokens.tokeniser import Conditions, Grammar, Tokeniser
from nqs.crystal.tokens.written_number import WrittenNumbers

MOST = 5
MADE = {name: make_tokeniser(name, MOST) for name in TOKENISERS.kinds}
CELL = Structure([4.0, 5.0, 6.0], [80.0, 95.0, 120.0], [17, 11], [[0, 0, 0], [0.5, 0.25, 0.1]])
WANTED = {11: 1, 17: 3, 6: 1}
ENERGIES = {"formation_energy": -1.2, "energy_above_hull": 0.0}
EXAMPLES = [r for r in examples()[::12] if r.structure.n_atoms <= MOST]

each = pytest.mark.parametrize("tokeniser", MADE.values(), ids=MADE.keys())


def walk(tokeniser: Tokeniser, grammar: Grammar, n_rows: int, generator: torch.Generator) -> Tensor:
    """Sequences (R, L) drawn uniformly from what is allowed."""
    device = generator.device
    drawn = [torch.full((n_rows,), tokeniser.bos, device=device)]
    while not (drawn[-1] == tokeniser.pad).all():
        allowed = grammar.allowed()
        assert allowed.shape == (n_rows, len(tokeniser.vocabulary)) and allowed.dtype == torch.bool
        assert allowed.any(1).all()
        score = torch.rand(allowed.shape, generator=generator, device=device)
        drawn.append(score.masked_fill_(~allowed, -1).argmax(1))
        grammar.advance(drawn[-1])
    tokens = torch.stack(drawn[:-1], 1)
    assert tokens.shape[1] <= min(grammar.max_length, tokeniser.max_length)
    return tokens


def questions(tokeniser: Tokeniser) -> dict[str, tuple[Conditions | None, Structure | None]]:
    """Conditions and partial structures of every kind that the tokeniser has."""
    cif = tokeniser.name == "cif"
    energies = (None, None) if cif else (-1.23, 0.05)
    asked: dict[str, tuple[Conditions | None, Structure | None]] = {
        "nothing": (None, None),
        "group": (Conditions(None, 14, *energies), None),
        "composition": (Conditions(WANTED, 221), None),
        "completion": (Conditions(WANTED), CELL),
        "whole": (Conditions(CELL.composition), CELL),
    }
    if not cif:
        asked["partial"] = (None, CELL)
    return asked


def check(tokeniser: Tokeniser, question: str, n_rows: int, generator: torch.Generator) -> Tensor:
    """Walk and decode; returns the rows."""
    conditions, partial = questions(tokeniser)[question]
    grammar = tokeniser.grammar(n_rows, conditions, partial=partial, device=generator.device)
    rows = walk(tokeniser, grammar, n_rows, generator)
    start = None if partial is None else tokeniser.decode(tokeniser.encode(partial))[0]
    for row in rows.tolist():
        structure, known = tokeniser.decode(row)
        assert structure.n_atoms <= MOST and structure.volume > 0
        if conditions is not None:
            assert known.space_group == conditions.space_group
            if conditions.composition is not None:
                assert structure.composition == dict(conditions.composition)
        if start is not None and not tokeniser.canonical:
            np.testing.assert_array_equal(structure.lengths, start.lengths)
            np.testing.assert_array_equal(structure.angles, start.angles)
            np.testing.assert_array_equal(structure.numbers[:2], start.numbers)
            np.testing.assert_array_equal(structure.positions[:2], start.positions)
    return rows


@pytest.mark.parametrize("question", questions(MADE["coordinate"]))
def test_ten_thousand_walks_of_coordinates(question: str, generator) -> None:
    for _ in range(2):
        check(MADE["coordinate"], question, 850, generator)


@pytest.mark.parametrize(
    ("name", "question"),
    [(name, question) for name in list(MADE)[1:] for question in questions(MADE[name])],
)
def test_walks_of_the_others(name: str, question: str, generator) -> None:
    check(MADE[name], question, 50, generator)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "question"),
    [(name, question) for name in MADE for question in questions(MADE[name])],
)
def test_ten_thousand_walks(name: str, question: str, generator) -> None:
    for _ in range(10):
        check(MADE[name], question, 1000, generator)


@pytest.mark.gpu
@each
def test_walks_on_the_gpu(tokeniser: Tokeniser) -> None:
    for question in questions(tokeniser):
        check(tokeniser, question, 256, torch.Generator("cuda").manual_seed(3))


@each
def test_every_written_crystal_is_allowed(tokeniser: Tokeniser) -> None:
    """The slow twin of the automaton: what encode writes, row by row, in one batch."""
    energies = {} if tokeniser.name == "cif" else ENERGIES
    for conditions in (lambda r: dataclasses.replace(r.conditions, **energies), lambda r: None):
        for record in EXAMPLES[::10]:
            known = conditions(record)
            tokens = torch.tensor(tokeniser.encode(record.structure, known))
            grammar = tokeniser.grammar(2, known)
            for token in tokens[1:]:
                assert grammar.allowed()[:, token].all()
                grammar.advance(token.expand(2))
            assert grammar.allowed().nonzero()[:, 1].tolist() == [tokeniser.pad] * 2


@each
def test_rows_are_independent(tokeniser: Tokeniser, generator) -> None:
    """What a row may draw does not depend on the rows beside it."""
    rows = walk(tokeniser, tokeniser.grammar(20, None), 20, generator)
    together = tokeniser.grammar(20, None)
    alone = [tokeniser.grammar(1, None)]
    for column in rows.T[1:]:
        allowed = together.allowed()
        for index, grammar in enumerate(alone):
            assert torch.equal(grammar.allowed()[0], allowed[index])
            grammar.advance(column[index : index + 1])
        together.advance(column)


@each
def test_every_choice_is_reached(tokeniser: Tokeniser, generator) -> None:
    """Uniform walks use every word that a crystal may hold: the masks are not too tight."""
    seen = walk(tokeniser, tokeniser.grammar(600, None), 600, generator).unique().tolist()
    words = {tokeniser.vocabulary[token] for token in seen}
    symbols = {symbol.rsplit(":", 1)[-1] for symbol in words}
    letters = tokeniser.name == "character"
    assert {"N", "a"} <= words if letters else {"H", "Na", "U"} <= symbols
    if tokeniser.name not in ("coordinate", "wyckoff"):
        assert set("0123456789. \n") <= words


@each
def test_refused(tokeniser: Tokeniser) -> None:
    with pytest.raises(CrystalError, match="at most 5 fit"):
        tokeniser.grammar(1, Conditions({11: 7}))
    with pytest.raises(CrystalError, match="hold 1 Na, the composition 0"):
        tokeniser.grammar(1, Conditions({17: 2}), partial=CELL)
    if tokeniser.name == "cif":
        with pytest.raises(CrystalError, match="give the composition"):
            tokeniser.grammar(1, None, partial=CELL)
        with pytest.raises(CrystalError, match="no word for energies"):
            tokeniser.grammar(1, Conditions(None, None, 1.0))
        with pytest.raises(CrystalError, match="no word for Po"):
            tokeniser.grammar(1, Conditions({84: 1}))


def test_angle_table() -> None:
    """Against the volume of the cells themselves."""
    rng = np.random.default_rng(5)
    table = angle_table()
    for index in rng.integers(0, 171, (3000, 3)):
        angles = ANGLES.values[index]
        a, b, c = sorted(angles)
        closes = c < a + b and a + b + c < 360
        assert table[tuple(index)] == (closes and flatness(angles) >= LEAST_FLATNESS)
    assert table.any((1, 2)).all() and not table[0, 0].any()  # 5 and 5 degrees: always flatter


@pytest.mark.parametrize("decimals", [0, 2, 4])
def test_gamma_bounds(decimals: int) -> None:
    """All alpha and beta leave room; the ends make cells, what lies beyond them does not."""
    unit = 10**decimals
    corners = torch.arange(SMALLEST_ANGLE, LARGEST_ANGLE + 1, 8) * unit
    alpha, beta = (grid.flatten() for grid in torch.meshgrid(corners, corners, indexing="ij"))
    low, high = gamma_bounds(alpha, beta, decimals)
    assert (low < high).all()
    for a, b, c, d in torch.stack([alpha, beta, low, high], 1).tolist():
        for end, beyond in ((c, c - 1), (d, d + 1)):
            assert flatness(np.array([a, b, end]) / unit) >= 0.01 * (1 - 1e-6)
            if SMALLEST_ANGLE * unit <= beyond <= LARGEST_ANGLE * unit:
                assert flatness(np.array([a, b, beyond]) / unit) < 0.01 * (1 + 1e-6)


@pytest.mark.parametrize(
    ("decimals", "low", "high"), [(0, 7, 112), (1, 95, 1203), (2, 0, 30), (1, 5, 5), (0, 1, 9)]
)
def test_written_numbers_are_those_within_the_bounds(decimals: int, low: int, high: int) -> None:
    """Against the list of all of them: prefix by prefix, the same continuations."""
    texts = [f"{n / 10**decimals:.{decimals}f}" for n in range(low, high + 1)]
    prefixes = {text[:end] for text in texts for end in range(len(text) + 1)}
    for prefix in prefixes:
        numbers = WrittenNumbers(1, "cpu")
        every = torch.ones(1, dtype=torch.bool)
        bounds = (torch.tensor([value]) for value in (-1, decimals, low, high))
        numbers.begin(every, *bounds)
        for character in prefix:
            numbers.read(every, torch.tensor([-1 if character == "." else int(character)]))
        over = decimals > 0 and prefix in texts
        digits = set() if over else {str(d) for d in numbers.digits()[0].nonzero()[:, 0].tolist()}
        assert digits == {d for d in "0123456789" if prefix + d in prefixes}
        assert bool(numbers.point()) == (prefix + "." in prefixes)
        assert bool(numbers.may_end()) == (decimals == 0 and prefix in texts)


def test_characters_spell_only_elements_that_remain() -> None:
    """After C, with C, Co and Cl to place and Cl gone: a space or an o."""
    tokeniser = MADE["character"]
    partial = Structure([4.0] * 3, [90.0] * 3, [17], [[0, 0, 0]])
    wanted = Conditions({6: 1, 27: 1, 17: 1})
    grammar = tokeniser.grammar(1, wanted, partial=partial)
    words = tokeniser.vocabulary
    tokens = tokeniser.encode(partial)[1:-1]
    head = tokeniser.encode(Structure([4.0] * 3, [90.0] * 3, [6, 27, 17], np.eye(3) / 2), wanted)
    n_head = len(head) - len(
        tokeniser.encode(Structure([4.0] * 3, [90.0] * 3, [6, 27, 17], np.eye(3) / 2))
    )
    for token in itertools.chain(head[1 : 1 + n_head], tokens, [words.index("C")]):
        assert grammar.allowed()[0, token]
        grammar.advance(torch.tensor([token]))
    assert {words[t] for t in grammar.allowed()[0].nonzero()[:, 0].tolist()} == {" ", "o"}
