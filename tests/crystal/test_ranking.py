"""Which of many draws are kept: votes, likelihoods, templates last."""

from __future__ import annotations

import math

from prototypes import rock_salt

from nqs.crystal.model.generation import Sample
from nqs.crystal.model.ranking import ranked


def sample(name: str, log_likelihood: float) -> Sample:
    return Sample(0, 0, (1,), rock_salt(), log_likelihood, source=name)


def order(drawn: str, templates: str = "", n: int | None = None) -> list[str]:
    """Draws such as "a3 b1": of type a with ln p = -3; templates such as "C0 A5": of types c and a,
    at distances 0 and 5."""
    made = [(sample(word, -float(word[1:])), word[0]) for word in drawn.split()]
    known = [
        (sample(word, math.nan), word[0].lower(), float(word[1:])) for word in templates.split()
    ]
    return [found.source for found in ranked(made, known, n)]


def test_the_most_frequent_type_comes_first_with_its_likeliest() -> None:
    assert order("b1 a5 a3 c2 a4") == ["a3", "b1", "c2", "a4", "a5"]
    assert order("b1 a5 a3 c2 a4", n=1) == ["a3"]


def test_every_draw_is_kept_once() -> None:
    drawn = "a1 a2 b1 c3 c1 c2 d4"
    assert sorted(order(drawn)) == sorted(drawn.split())


def test_templates_come_first_of_their_type_and_vote_a_little() -> None:
    """Of two types with as many draws the nearest template decides; of types with 60 and 40 % of
    the draws it does not; types of templates alone come by their distances."""
    assert order("a1 b1", "B0")[:2] == ["B0", "a1"]
    assert order("a1 a2 a3 b1 b2", "B0")[:2] == ["a1", "B0"]
    assert order("a1", "D0 C200 B1") == ["a1", "D0", "B1", "C200"]
    assert order("a1 a2", "A9") == ["A9", "a1", "a2"]
    assert order("", "B0 D1 B2") == ["B0", "D1", "B2"]
    assert order("") == []


def test_votes_by_hand() -> None:
    """b: 2/5 and a template next to the nearest, a: 2/5 and one further off, c: 1/5."""
    weights = {"b": 0.4 + 0.15, "a": 0.4 + 0.15 * math.exp(-10 / 30) / 2, "c": 0.2}
    assert sorted(weights, key=lambda kind: -weights[kind]) == ["b", "a", "c"]
    assert order("a1 a2 b1 b2 c1", "B7 A17") == ["B7", "A17", "c1", "b1", "a1", "b2", "a2"]
