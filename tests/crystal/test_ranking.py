"""Which of many draws are kept: votes, likelihoods, templates last."""

from __future__ import annotations

import math

from prototypes import rock_salt

from nqs.crystal.model.generation import Sample
from nqs.crystal.model.ranking import ranked


def sample(name: str, log_likelihood: float) -> Sample:
    return Sample(0, 0, (1,), rock_salt(), log_likelihood, source=name)


def order(drawn: str, others: str = "", n: int | None = None) -> list[str]:
    """Draws such as "a3 b1": of type a with ln p = -3; templates such as "c" of that type."""
    made = [(sample(word, -float(word[1:])), word[0]) for word in drawn.split()]
    known = [(sample(word, math.nan), word[0].lower()) for word in others.split()]
    return [found.source for found in ranked(made, known, n)]


def test_the_most_frequent_type_comes_first_with_its_likeliest() -> None:
    assert order("b1 a5 a3 c2 a4") == ["a3", "b1", "c2", "a4", "a5"]
    assert order("b1 a5 a3 c2 a4", n=1) == ["a3"]


def test_types_of_equal_votes_come_as_they_were_drawn() -> None:
    assert order("c9 a1 b5 a2 b3") == ["a1", "b3", "c9", "a2", "b5"]


def test_every_draw_is_kept_once() -> None:
    drawn = "a1 a2 b1 c3 c1 c2 d4"
    assert sorted(order(drawn)) == sorted(drawn.split())


def test_templates_have_no_vote() -> None:
    """One of a drawn type comes after the draws of it, one of its own type after all types."""
    assert order("a1 a2 b1", "B D A") == ["a1", "b1", "D", "a2", "B", "A"]
    assert order("", "B D B") == ["B", "D", "B"]
    assert order("") == []
