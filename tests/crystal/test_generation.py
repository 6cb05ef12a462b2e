"""Samples of untrained models obey the grammar, cached decoding is the full forward pass, draws
follow the model's chances, and equal seeds give equal crystals."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from nqs.core.decoding import restrict
from nqs.core.sequence import SequenceModel
from nqs.crystal.datasets.examples import examples
from nqs.crystal.model import generation
from nqs.crystal.model.cores import CORES, build_core, core_choice
from nqs.crystal.model.generation import Filters, Request, Sample, batched, decode, generate
from nqs.crystal.structures.periodic_distances import shortest_distance
from nqs.crystal.structures.structure import CrystalError, Structure
from nqs.crystal.tokens import make_tokeniser
from nqs.crystal.tokens.tokeniser import Conditions, Tokeniser

SRTIO3 = {38: 1, 22: 1, 8: 3}


def model_for(tokeniser: Tokeniser, core: str = "transformer", seed: int = 0) -> SequenceModel:
    heads = {"n_heads": 2} if "n_heads" in CORES.keys(core) else {}
    config = core_choice(core, d_model=16, n_layers=2, **heads)
    init = torch.Generator().manual_seed(seed)
    return build_core(config, len(tokeniser.vocabulary), tokeniser.max_length, init).eval()


def drawn(
    model: SequenceModel,
    tokeniser: Tokeniser,
    requests: list[Request],
    batch_size: int = 64,
    seed: int = 1,
    min_distance: float | None = None,
    **filters: float,
) -> list[Sample]:
    generator = torch.Generator().manual_seed(seed)
    batches = generate(
        model,
        tokeniser,
        requests,
        filters=Filters(**filters),
        batch_size=batch_size,
        generator=generator,
        min_distance=min_distance,
    )
    return [sample for batch in batches for sample in batch]


@torch.no_grad()
@pytest.mark.parametrize("core", ["transformer", "linear_attention", "ssm", "gru", "lstm"])
def test_cached_decoding_is_the_full_forward_pass(core: str) -> None:
    """The log-likelihood of each sample, from one pass over its whole sequence and the grammar
    walked along; rows end at different steps, so compacted states are tested too."""
    tokeniser = make_tokeniser("coordinate", 5)
    model = model_for(tokeniser, core)
    with torch.no_grad():
        model.head.bias[tokeniser.eos] += 4  # ends at all lengths
    samples = drawn(model, tokeniser, [Request(40)])
    assert len({len(sample.tokens) for sample in samples}) >= 4
    for sample in samples:
        logits, _ = model(torch.tensor([sample.tokens[:-1]]))
        grammar = tokeniser.grammar(1)
        total = 0.0
        for place, token in enumerate(sample.tokens[1:]):
            total += float(restrict(logits[:, place], grammar.allowed())[0, token])
            grammar.advance(torch.tensor([token]))
        assert sample.log_likelihood == pytest.approx(total, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("coordinate", 1_000),
        pytest.param("coordinate", 10_000, marks=pytest.mark.slow),
        pytest.param("cif", 100, marks=pytest.mark.slow),  # 10 to 40 times as many tokens
        pytest.param("text", 100, marks=pytest.mark.slow),
        pytest.param("character", 100, marks=pytest.mark.slow),
    ],
)
def test_untrained_samples_are_crystals(name: str, n: int) -> None:
    """Every one decodes (`generate` would raise), and means what was asked for."""
    tokeniser = make_tokeniser(name, 4)
    model = model_for(tokeniser)
    free = drawn(model, tokeniser, [Request(n)], 128)
    assert len(free) == n and all(sample.structure.n_atoms <= 4 for sample in free)
    asked = Request(n, Conditions(composition={38: 1, 8: 2}))
    for sample in drawn(model, tokeniser, [asked], 128):
        assert sample.structure.composition == {38: 1, 8: 2}


def test_many_requests_at_once() -> None:
    """Compositions, a space group, energies and a partial structure, side by side in batches."""
    tokeniser = make_tokeniser("coordinate", 8)
    partial = Structure([4, 4, 4], [90, 90, 90], [38], [[0, 0, 0]])
    requests = [
        Request(3, Conditions(composition=SRTIO3)),
        Request(7),
        Request(5, Conditions(composition=SRTIO3, space_group=221), partial),
        Request(1, Conditions(formation_energy=-1.0, energy_above_hull=0.0)),
        Request(20, Conditions(composition={11: 4, 17: 4})),
    ]
    samples = drawn(model_for(tokeniser), tokeniser, requests, batch_size=6)
    assert [s.request for s in samples] == [0] * 3 + [1] * 7 + [2] * 5 + [3] + [4] * 20
    for sample in samples:
        conditions = requests[sample.request].conditions or Conditions()
        if conditions.composition is not None:
            assert sample.structure.composition == dict(conditions.composition)
        known = tokeniser.decode(sample.tokens)[1]
        assert dataclasses.replace(known, composition=conditions.composition) == conditions
    for sample in samples[10:15]:
        assert sample.structure.numbers[0] == 38
        assert not sample.structure.positions[0].any()
        assert_close(torch.tensor(sample.structure.lengths), torch.full((3,), 4.0).double(),
                     rtol=0.005, atol=0)  # fmt: skip


def test_equal_seeds_give_equal_crystals() -> None:
    tokeniser = make_tokeniser("coordinate", 8)
    model = model_for(tokeniser)
    one, same, other = (drawn(model, tokeniser, [Request(30)], seed=seed) for seed in (1, 1, 2))
    assert [s.tokens for s in one] == [s.tokens for s in same]
    assert [s.tokens for s in one] != [s.tokens for s in other]


def test_draws_follow_the_chances(assert_distribution) -> None:
    """Elements of two-atom crystals of a given formula: both orders, counted against exp(ln p)."""
    tokeniser = make_tokeniser("coordinate", 2)
    model = model_for(tokeniser, seed=3)
    grammar = tokeniser.grammar(2_000, Conditions(composition={11: 1, 17: 1}))
    generator = torch.Generator().manual_seed(0)
    tokens, _ = decode(model, tokeniser, grammar, 2_000, Filters(), generator)
    sodium, chlorine = (tokeniser.element_tokens(number)[0] for number in (11, 17))
    place = 5 + 6  # bos, formula, cell
    first = tokens[:, place]
    assert set(first.tolist()) <= {sodium, chlorine}
    with torch.no_grad():
        logits, _ = model(tokens[:, :place])
    chance = logits[:, -1, [sodium, chlorine]].double().softmax(1)[:, 0].mean()
    counts = torch.stack([(first == sodium).sum(), (first == chlorine).sum()])
    assert_distribution(counts, torch.stack([chance, 1 - chance]))


def test_sharper_draws_are_likelier() -> None:
    tokeniser = make_tokeniser("coordinate", 4)
    model, request = model_for(tokeniser), Request(50, Conditions(composition={11: 1, 17: 1}))
    means = {}
    for key, filters in {"plain": {}, "cold": {"temperature": 0.5}, "top_k": {"top_k": 5},
                         "top_p": {"top_p": 0.5}, "greedy": {"top_k": 1}}.items():  # fmt: skip
        samples = drawn(model, tokeniser, [request], **filters)
        means[key] = sum(sample.log_likelihood for sample in samples) / len(samples)
        if key == "greedy":
            assert len({sample.tokens for sample in samples}) == 1
    assert all(means["plain"] < means[key] for key in ("cold", "top_k", "top_p"))


@torch.no_grad()
def test_guidance_is_the_power_of_what_conditions_add() -> None:
    """First tokens after a space group, 1 000 draws for each strength: the mean of ln p(token | c)
    - ln p(token) is that of p_s, from the two passes by hand, within five standard errors (false
    alarm: 1e-6 for the two); with s = 1 draws are those without guidance."""
    tokeniser = make_tokeniser("coordinate", 4)
    model = model_for(tokeniser)
    model.embedding.weight[tokeniser.fields.group[220]] *= 6  # so that the condition counts
    known, n = Conditions(None, 221), 1_000
    given = [tokeniser.bos, tokeniser.fields.group[220]]
    grammar = tokeniser.grammar(1, known)
    grammar.advance(torch.tensor(given[1:]))
    with_it, _ = model(torch.tensor([given]))
    without, _ = model(torch.tensor([given[:1]]))
    conditioned = restrict(with_it[:, -1], grammar.allowed())[0]
    free = restrict(without[:, -1], grammar.allowed())[0]
    allowed = grammar.allowed()[0]
    added = torch.where(allowed, conditioned - free, 0.0)
    assert float(added[allowed].std()) > 0.3
    plain = [sample.tokens for sample in drawn(model, tokeniser, [Request(50, known)], seed=4)]
    for strength in (0.0, 1.0, 3.0):
        request = [Request(50 if strength == 1 else n, known)]
        samples = drawn(model, tokeniser, request, n, seed=4, guidance=strength)
        if strength == 1:
            assert [sample.tokens for sample in samples] == plain
            continue
        chances = torch.where(allowed, free + strength * added, -torch.inf).softmax(0)
        mean = float(chances @ added)
        error = math.sqrt(float(chances @ (added - mean).square()) / n)
        found = sum(float(added[sample.tokens[2]]) for sample in samples) / n
        assert abs(found - mean) < 5 * error, strength
        first = samples[0]  # and what is stated is the chance without guidance
        total, _ = model(torch.tensor([first.tokens[:-1]]))
        walked = tokeniser.grammar(1, known)
        stated = 0.0
        for place, token in enumerate(first.tokens[1:]):
            stated += float(restrict(total[:, place], walked.allowed())[0, token])
            walked.advance(torch.tensor([token]))
        assert first.log_likelihood == pytest.approx(stated, rel=1e-4)


@torch.no_grad()
def test_prompts_are_read_and_not_returned() -> None:
    """The log-likelihood of each sample is that after bos and its prompt, by a full pass."""
    tokeniser = make_tokeniser("coordinate", 5)
    config = core_choice(d_model=16, n_layers=2, n_heads=2)
    init = torch.Generator().manual_seed(0)
    n_places = 2 * tokeniser.max_length
    model = build_core(config, len(tokeniser.vocabulary), n_places, init).eval()
    prompts = (tuple(range(10, 30)), (7, 8, 9), ())
    requests = [Request(4, prompts=prompts), Request(3), Request(2, prompts=prompts[1:2])]
    samples = drawn(model, tokeniser, requests, batch_size=3)
    assert sorted((s.request, s.draw) for s in samples) == [
        (i, draw) for i, request in enumerate(requests) for draw in range(request.n)
    ]
    for sample in samples:
        prompt = requests[sample.request].prompt(sample.draw)
        assert tokeniser.decode(sample.tokens)[0].formula == sample.structure.formula
        whole = [tokeniser.bos, *prompt, *sample.tokens[1:-1]]
        logits, _ = model(torch.tensor([whole]))
        grammar, total = tokeniser.grammar(1), 0.0
        for place, token in enumerate(sample.tokens[1:]):
            step = restrict(logits[:, len(prompt) + place], grammar.allowed())
            total += float(step[0, token])
            grammar.advance(torch.tensor([token]))
        assert sample.log_likelihood == pytest.approx(total, rel=1e-5, abs=1e-4)


def test_batches_are_full() -> None:
    requests = [Request(n) for n in (3, 1, 10, 2)]
    found = list(batched(requests, 4))
    assert [len(places) for places in found] == [4, 4, 4, 4]
    every = [place for places in found for place in places]
    assert every == [(i, draw) for i, n in enumerate((3, 1, 10, 2)) for draw in range(n)]
    assert [len(places) for places in batched(requests, 5)] == [5, 5, 5, 1]


def test_batches_have_prompts_of_one_length() -> None:
    requests = [Request(5, prompts=((1, 2), (3,))), Request(2), Request(1, prompts=((4,),))]
    found = list(batched(requests, 8))
    lengths = [{len(requests[i].prompt(draw)) for i, draw in places} for places in found]
    assert lengths == [{0}, {1}, {2}]
    assert sorted(place for places in found for place in places) == [
        *[(0, draw) for draw in range(5)], (1, 0), (1, 1), (2, 0)]  # fmt: skip


def test_a_request_beyond_the_model_is_refused() -> None:
    small, large = make_tokeniser("coordinate", 4), make_tokeniser("coordinate", 20)
    config = core_choice(d_model=16, n_layers=1, n_heads=2)
    init = torch.Generator().manual_seed(0)
    model = build_core(config, len(large.vocabulary), small.max_length, init)
    with pytest.raises(CrystalError, match="tokens are asked for"):
        drawn(model, large, [Request(1)])


def test_the_examples_can_be_asked_for() -> None:
    """Every composition of the examples, one crystal each, all in one batch."""
    tokeniser = make_tokeniser("coordinate", 8)
    wanted = [record.structure.composition for record in itertools.islice(examples(), 0, None, 9)]
    requests = [Request(1, Conditions(composition=composition)) for composition in wanted]
    samples = drawn(model_for(tokeniser), tokeniser, requests, 1000)
    assert [sample.structure.composition for sample in samples] == wanted
    assert all(math.isfinite(sample.log_likelihood) for sample in samples)


@pytest.mark.parametrize("name", ["coordinate", "text"])
def test_atoms_are_kept_apart(name: str) -> None:
    """Of free samples and of those with a given cell, whatever the network has learnt; the order
    of the requests stays."""
    tokeniser = make_tokeniser(name, 4)
    cell = Structure([2.5, 2.5, 2.5], [90, 90, 90], [38], [[0, 0, 0]])
    crowded = Request(5, Conditions(composition={38: 1, 8: 3}), cell)
    requests = [crowded, Request(4, Conditions(composition={11: 2}))]
    samples = drawn(model_for(tokeniser), tokeniser, requests, 16, min_distance=1.0)
    assert [s.request for s in samples] == [0] * 5 + [1] * 4
    for sample in samples:
        structure = sample.structure
        assert shortest_distance(structure.matrix, structure.positions) >= 1.0
    assert sum(sample.n_rejected for sample in samples) > 0


def test_what_is_kept_follows_the_chances_of_crystals_apart(assert_distribution) -> None:
    """Two equal atoms in a given cube, the second drawn: its bins along z where x = y = 0 are all
    equally likely for a network without weights, and only those far enough from the first stay."""
    tokeniser = make_tokeniser("coordinate", 2)
    model = model_for(tokeniser)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        at = tokeniser.fields.coordinate.start
        model.head.bias[at + 1 : at + tokeniser.n_bins] = -40.0  # all but 0 ...
        model.head.bias[[at + 30, at + 60]] = 0.0  # ... a quarter and a half
    cell = Structure([4, 4, 4], [90, 90, 90], [11], [[0, 0, 0]])
    request = Request(1_500, Conditions(composition={11: 2}), cell)
    samples = drawn(model, tokeniser, [request], 1_500, min_distance=1.9)
    bins = [tuple((s.structure.positions[1] * 4).round().astype(int)) for s in samples]
    possible = [b for b in itertools.product(range(3), repeat=3) if 2 in b]  # or 1.41 at the most
    diagonal = [b for b in itertools.product(range(2), repeat=3) if sum(b) == 3]  # 1.73
    assert not set(bins) & set(diagonal)
    counts = torch.tensor([bins.count(b) for b in possible])
    assert int(counts.sum()) == len(samples)
    assert_distribution(counts, torch.full((len(possible),), 1 / len(possible)))
    rejected = sum(s.n_rejected for s in samples)
    share = len(samples) / (len(samples) + rejected)
    assert share == pytest.approx(len(possible) / 27, abs=4 * (0.21 / len(samples)) ** 0.5)


def test_what_cannot_be_kept_apart_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "IDLE_ROUNDS", 5)
    tokeniser = make_tokeniser("coordinate", 4)
    model = model_for(tokeniser)
    near = Structure([4, 4, 4], [90, 90, 90], [38, 8], [[0, 0, 0], [0.1, 0, 0]])
    with pytest.raises(CrystalError, match="atoms of the partial structure are closer"):
        drawn(model, tokeniser, [Request(1, None, near)], min_distance=0.5)
    small = Structure([2, 2, 2], [90, 90, 90], [38], [[0, 0, 0]])
    asked = Request(1, Conditions(composition={38: 2}), small)
    with pytest.raises(CrystalError, match="5 draws of Sr2 in a row"):
        drawn(model, tokeniser, [asked], min_distance=1.9)
