"""Which of many proposals are kept: likelihoods of types, votes of templates, templates first."""

from __future__ import annotations

import math

from prototypes import rock_salt

from nqs.crystal.model.generation import Sample
from nqs.crystal.model.ranking import FLOOR, NEAR, WEIGHT, Proposal, ranked


def proposals(drawn: str, templates: str = "") -> list[Proposal]:
    """Draws such as "a3 b1": of type a with ln p = -3; templates such as "C0 A5": of types c and a,
    at distances 0 and 5."""

    def sample(name: str, log_likelihood: float) -> Sample:
        return Sample(0, 0, (1,), rock_salt(), log_likelihood, source=name)

    made = [Proposal(sample(word, -float(word[1:])), (), word[0]) for word in drawn.split()]
    known = [
        Proposal(sample(word, math.nan), (), word[0].lower(), float(word[1:]))
        for word in templates.split()
    ]
    return [*known, *made]


def order(
    drawn: str, templates: str = "", chances: dict[str, float] | None = None, n: int | None = None
) -> list[str]:
    log_p = None if chances is None else {kind: math.log(p) for kind, p in chances.items()}
    return [found.source for found in ranked(proposals(drawn, templates), log_p, n)]


def test_the_most_frequent_type_comes_first_with_its_likeliest() -> None:
    assert order("b1 a5 a3 c2 a4") == ["a3", "b1", "c2", "a4", "a5"]
    assert order("b1 a5 a3 c2 a4", n=1) == ["a3"]


def test_every_proposal_is_kept_once() -> None:
    drawn = "a1 a2 b1 c3 c1 c2 d4"
    assert sorted(order(drawn)) == sorted(drawn.split())
    assert sorted(order(drawn, "A0 E1")) == sorted([*drawn.split(), "A0", "E1"])
    assert order("") == []


def test_chances_that_are_known_count_instead_of_draws() -> None:
    chances = {"a": 0.1, "b": 0.7, "c": 0.2}
    assert order("a1 a2 a3 b1 c4", chances=chances) == ["b1", "c4", "a1", "a2", "a3"]
    del chances["b"]  # of which nothing is known
    assert order("a1 a2 a3 b1 c4", chances=chances) == ["c4", "a1", "b1", "a2", "a3"]


def test_templates_come_first_of_their_type_the_nearest_first() -> None:
    assert order("a1 a2", "A9") == ["A9", "a1", "a2"]
    assert order("", "B0 D1 B2") == ["B0", "D1", "B2"]
    assert order("a1 b1", "B0")[:2] == ["B0", "a1"]


def test_scores_by_hand() -> None:
    """Chances and votes pull in opposite directions; the odds at which they balance are known."""
    far = math.exp(-30 / NEAR) / 2
    balance = ((1 + FLOOR) / (far + FLOOR)) ** WEIGHT  # of a at 0 and b at 30
    for odds, first in ((0.99 * balance, "A0"), (1.01 * balance, "B30")):
        chances = {"a": 1 / (1 + odds), "b": odds / (1 + odds)}
        assert order("", "A0 B30", chances)[0] == first
    alone = ((1 + FLOOR) / FLOOR) ** WEIGHT  # of a template and a type that is drawn alone
    for odds, first in ((0.99 * alone, "A0"), (1.01 * alone, "c1")):
        chances = {"a": 1 / (1 + odds), "c": odds / (1 + odds)}
        assert order("c1", "A0", chances)[0] == first
