"""Batches: masks, tasks, exact translations, and the same epoch from the same state."""

from __future__ import annotations

import csv
import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from nqs.crystal.datasets.data import Encoded, Epoch, Tasks, bucketed, encode, generation, infilling
from nqs.crystal.datasets.data_config import DataConfig
from nqs.crystal.datasets.examples import examples
from nqs.crystal.datasets.loading import add_prompts, load
from nqs.crystal.datasets.splits import records, split
from nqs.crystal.parallel import mapped
from nqs.crystal.structures.cif import cif_text
from nqs.crystal.structures.symmetry import space_group
from nqs.crystal.tokens import TOKENISERS, make_tokeniser
from nqs.crystal.tokens.coordinate import CoordinateTokeniser
from nqs.errors import InputError

PLAIN = Tasks(condition_dropout=1.0, infilling=0.0, batch_tokens=512)


def encoded(n: int = 40, conditions: tuple[str, ...] = ("composition",)) -> list[Encoded]:
    pairs = [(record.structure, record.conditions) for record in examples()[:: 361 // n]]
    found, refused = encode(CoordinateTokeniser(20), pairs, conditions)
    assert not refused
    return found


def rows(epoch: Epoch) -> list[tuple[int, ...]]:
    """Every sequence of an epoch, pads cut off."""
    found = []
    for i in range(len(epoch)):
        batch = epoch[i]
        whole = torch.cat([batch.tokens, batch.targets[:, -1:]], dim=1)
        found += [tuple(t for t in row if t != batch.pad) for row in whole.tolist()]
    return found


def test_every_crystal_once_within_the_size(generator) -> None:
    crystals = encoded()
    epoch = Epoch(CoordinateTokeniser(20), crystals, PLAIN, generator)
    assert sorted(rows(epoch)) == sorted(crystal.body for crystal in crystals)
    for i in range(len(epoch)):
        assert epoch[i].tokens.numel() <= PLAIN.batch_tokens
    assert len(epoch) > 1


def test_a_crystal_longer_than_a_batch_is_a_batch(generator) -> None:
    batches = bucketed(torch.tensor([5, 100, 5, 5]), 10, generator)
    assert sorted(map(sorted, batches)) in (
        [[0, 2], [1], [3]],
        [[0, 3], [1], [2]],
        [[0], [1], [2, 3]],
    )


def with_prompts(n_shown: int) -> tuple[CoordinateTokeniser, list[Encoded]]:
    """Crystals with their nearest other ones as templates."""
    tokeniser, crystals = CoordinateTokeniser(20), encoded()
    parts = {"train": crystals}
    add_prompts(parts, DataConfig(templates=n_shown), tokeniser)
    return tokeniser, parts["train"]


def test_templates_are_shown_and_given(generator) -> None:
    """Each row is bos, a prompt of its crystal, the crystal; what the prompt says is no target, and
    every prompt comes with its share."""
    tokeniser, crystals = with_prompts(3)
    assert {len(crystal.prompts) for crystal in crystals} <= {0, 1, 2, 3}
    assert sum(len(crystal.prompts) for crystal in crystals) > 60
    tasks = dataclasses.replace(PLAIN, template_dropout=0.0)
    wanted = {
        (crystal.body[0], *prompt, *crystal.body[1:]): len(prompt)
        for crystal in crystals
        for prompt in crystal.prompts or [()]
    }
    seen = set()
    for _ in range(12):
        epoch = Epoch(tokeniser, crystals, tasks, generator)
        for i in range(len(epoch)):
            batch = epoch[i]
            whole = torch.cat([batch.tokens, batch.targets[:, -1:]], dim=1)
            for row, targets in zip(whole.tolist(), batch.targets.tolist(), strict=True):
                sequence = tuple(t for t in row if t != batch.pad)
                seen.add(sequence)
                n_given = wanted[sequence]
                counted = [t for t in targets if t != batch.pad]
                assert counted == list(sequence[1 + n_given :])
    assert len(seen) > 0.9 * len(wanted)  # (2/3)^12 of three are missed


def test_templates_can_be_left_out(generator) -> None:
    tokeniser, crystals = with_prompts(2)
    never = Epoch(tokeniser, crystals, dataclasses.replace(PLAIN, template_dropout=1.0), generator)
    assert sorted(rows(never)) == sorted(crystal.body for crystal in crystals)
    half = Epoch(tokeniser, crystals, dataclasses.replace(PLAIN, template_dropout=0.5), generator)
    bodies = {crystal.body for crystal in crystals}
    n_shown = sum(row not in bodies for row in rows(half))
    assert 6 <= n_shown <= 34  # of 40: false alarm 1e-5


def test_a_grouped_split_shares_no_formula() -> None:
    """Every crystal once, no formula in two parts, shares met but for a formula's crystals; another
    seed, another split; without the key formulas are shared."""
    table = examples()
    formulas = {}
    for grouped in (True, False):
        data = DataConfig(grouped=grouped, split=(0.6, 0.2, 0.2))
        parts = [split(name, data, 0) for name in ("train", "validation", "test")]
        names = [record.name for part in parts for record in part]
        assert sorted(names) == sorted(record.name for record in table)
        kinds = [{record.structure.reduced_formula for record in part} for part in parts]
        formulas[grouped] = len(kinds[0] & kinds[1]) + len(kinds[0] & kinds[2])
        for part, share in zip(parts, data.split, strict=True):
            assert abs(len(part) / len(table) - share) < 0.02
        other = [record.name for record in split("train", data, 1)]
        assert {*other} != {record.name for record in parts[0]}
    assert formulas[True] == 0 and formulas[False] > 5


def test_everything_after_bos_counts(generator) -> None:
    batch = Epoch(CoordinateTokeniser(20), encoded(), PLAIN, generator)[0]
    assert torch.equal(batch.targets[:, :-1], batch.tokens[:, 1:])
    assert ((batch.targets == batch.pad) == (torch.roll(batch.tokens, -1, 1) == batch.pad))[
        :, :-1
    ].all()
    assert (batch.targets[:, -1] != batch.pad).any()


@pytest.mark.parametrize("name", TOKENISERS.kinds)
def test_conditions_are_given_and_never_counted(name: str) -> None:
    tokeniser = make_tokeniser(name, 20)
    record = next(r for r in examples() if "perovskite" in r.name)
    (crystal,), _ = encode(
        tokeniser, [(record.structure, record.conditions)], ("composition", "space_group")
    )
    tokens, given = generation(tokeniser, crystal, ("composition", "space_group"))
    assert list(tokens) == tokeniser.encode(record.structure, record.conditions)
    assert tokens[given:] == crystal.body[len(crystal.body) - len(tokens) + given :]
    assert tokens[given - 1] != crystal.body[-(len(tokens) - given) - 1] or given == 1
    assert generation(tokeniser, crystal, ()) == (crystal.body, 1)


@pytest.mark.parametrize("name", TOKENISERS.kinds)
def test_infilling_counts_the_answer_alone(name: str) -> None:
    tokeniser = make_tokeniser(name, 20)
    record = examples()[0]
    (crystal,), _ = encode(tokeniser, [(record.structure, record.conditions)])
    for which, element in enumerate(crystal.elements):
        tokens, given = infilling(tokeniser, crystal, which)
        assert tokens[given:] == [*tokeniser.element_tokens(element), tokeniser.eos]
        assert tokens[given - 1] == tokeniser.mask


def test_shares_of_the_tasks(generator) -> None:
    """Counts of 4 sigma: a correct one fails with chance 6e-5 each, fixed seed."""
    tokeniser, crystals = CoordinateTokeniser(20), encoded(361, ("space_group",))
    tasks = Tasks(condition_dropout=0.25, infilling=1 / 3)
    found = rows(Epoch(tokeniser, crystals, tasks, generator))
    n, asked = len(found), sum(row.count(tokeniser.mask) > 0 for row in found)
    assert abs(asked - n / 3) < 4 * (n * 2 / 9) ** 0.5
    groups = tokeniser.fields.group
    conditioned = sum(row[1] in groups for row in found if tokeniser.mask not in row)
    assert abs(conditioned - (n - asked) * 0.75) < 4 * ((n - asked) * 3 / 16) ** 0.5


def test_the_same_state_gives_the_same_epoch(generator) -> None:
    tasks = Tasks(translate=True, batch_tokens=512)
    tokeniser, crystals, state = CoordinateTokeniser(20), encoded(), generator.get_state()
    first = Epoch(tokeniser, crystals, tasks, generator)
    second = Epoch(tokeniser, crystals, tasks, generator)
    generator.set_state(state)
    again = Epoch(tokeniser, crystals, tasks, generator)
    for i in reversed(range(len(first))):  # in any order
        assert torch.equal(first[i].tokens, again[i].tokens)
        assert torch.equal(first[i].targets, again[i].targets)
    assert rows(first) != rows(second)


def test_translations_are_exact_and_differ_by_crystal(generator) -> None:
    """Each row is one of the crystals, all its atoms moved by one vector of whole bins."""
    tokeniser, crystals = CoordinateTokeniser(20), encoded()
    tasks = Tasks(condition_dropout=1.0, infilling=0.0, translate=True)
    originals = {}
    for crystal in crystals:
        key = tuple(sorted(crystal.structure.numbers)), crystal.body[1:4]
        originals[key] = tokeniser.decode(crystal.body)[0]
    vectors = set()
    for row in rows(Epoch(tokeniser, crystals, tasks, generator)):
        moved, _ = tokeniser.decode(row)
        original = originals[tuple(sorted(moved.numbers)), row[1:4]]
        np.testing.assert_array_equal(moved.numbers, original.numbers)
        bins = np.rint((moved.positions - original.positions) * tokeniser.n_bins).astype(int)
        assert (bins % tokeniser.n_bins == bins[0] % tokeniser.n_bins).all()
        vectors.add(tuple(bins[0] % tokeniser.n_bins))
    assert len(vectors) > 0.9 * len(crystals)


@pytest.mark.parametrize("name", [n for n, t in TOKENISERS.kinds.items() if not t.canonical])
def test_permuted_crystals_are_the_same_atoms(name: str, generator) -> None:
    """Every order of a three-atom crystal comes, each about as often: 4 sigma, 6e-5 each."""
    tokeniser = make_tokeniser(name, 20)
    record = next(r for r in examples() if r.structure.n_atoms == 3)
    crystals, _ = encode(tokeniser, [(record.structure, record.conditions)] * 600, ("composition",))
    tasks = Tasks(condition_dropout=0.5, infilling=0.0, permute=True)
    counts: dict[bytes, int] = {}
    for row in rows(Epoch(tokeniser, crystals, tasks, generator)):
        structure, conditions = tokeniser.decode(row)
        assert structure.composition == record.structure.composition
        assert conditions.composition in (None, record.structure.composition)
        places = structure.positions
        order = places[np.lexsort(places.T)]
        original = tokeniser.decode(tokeniser.encode(record.structure))[0].positions
        np.testing.assert_array_equal(order, original[np.lexsort(original.T)])
        counts[places.tobytes()] = counts.get(places.tobytes(), 0) + 1
    assert len(counts) == 6
    assert all(abs(count - 100) < 4 * (600 * 5 / 36) ** 0.5 for count in counts.values())


def test_equivalents_are_the_same_crystals(generator) -> None:
    """Each row says what the canonical one says, in words that change from epoch to epoch."""
    tokeniser = make_tokeniser("wyckoff", 20)
    pairs = [(record.structure, record.conditions) for record in examples()[120:170]]
    crystals, refused = encode(tokeniser, pairs, ("space_group",))
    assert not refused
    tasks = Tasks(condition_dropout=0.5, infilling=0.2, equivalents=True)
    first, second = (rows(Epoch(tokeniser, crystals, tasks, generator)) for _ in range(2))
    bodies = {crystal.body for crystal in crystals}
    for row in [*first, *second]:
        if tokeniser.mask not in row:
            structure, known = tokeniser.decode(row)
            assert tuple(tokeniser.encode(structure)) in bodies
            assert known.space_group in (None, *range(1, 231))
    assert len({*first} - {*second}) > 10 and len({*first} - bodies) > 10


def table_of_examples(folder: Path) -> str:
    """A table of the first 12."""
    path = folder / "table.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "cif"])
        for record in examples()[:12]:
            writer.writerow([record.name, cif_text(record.structure, "crystal")])
    return str(path)


def test_processes_read_and_write_a_table_as_one_does(tmp_path: Path) -> None:
    """Crystals, what is known of them, their tokens, and why there are none."""
    path, tokeniser = table_of_examples(tmp_path), make_tokeniser("wyckoff", 20)
    data = {"train": path, "tokeniser": "wyckoff", "conditions": ()}
    alone, shared = (DataConfig(workers=n, **data) for n in (1, 2))
    one, two = records(path, alone), records(path, shared)
    assert [r.name for r in one] == [r.name for r in two] and len(one) == 12
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.structure.positions, b.structure.positions)
        assert a.conditions == b.conditions
    ours, theirs = load(alone, 0, tokeniser), load(shared, 0, tokeniser)
    assert [c.body for c in ours.train] == [c.body for c in theirs.train] and len(ours.train) == 10
    few = make_tokeniser("wyckoff", 1)
    with pytest.raises(InputError, match="2 atoms: at most 1 are written"):
        load(alone, 0, few)


def test_wyckoff_knows_the_space_group_that_a_table_does_not_say(tmp_path: Path) -> None:
    path, tokeniser = table_of_examples(tmp_path), make_tokeniser("wyckoff", 20)
    data = DataConfig(train=path, tokeniser="wyckoff", conditions=("space_group",))
    loaded = load(data, 0, tokeniser)
    groups = {r.name: space_group(r.structure) for r in records(path, data)}
    assert {c.known.space_group for c in loaded.train} <= {*groups.values()}
    for crystal in loaded.train:
        assert crystal.known.space_group == space_group(crystal.structure)
    with pytest.raises(InputError, match=r"spacegroup\.number"):
        load(
            DataConfig(train=path, conditions=("space_group",)), 0, make_tokeniser("coordinate", 20)
        )


def test_a_process_that_ends_is_named() -> None:
    with pytest.raises(InputError, match="workers=2: one of the processes ended early"):
        list(mapped(os._exit, [1, 1], 2))
