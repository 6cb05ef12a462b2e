"""Kinds read from constructors: types, bounds, choices, defaults, texts, anyone's classes."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest

from nqs.conf.kinds import MISSING, Group, Selection, documented
from nqs.conf.values import Bounds, convert
from nqs.errors import InputError

Coupling = Annotated[float | Sequence[float], "0 or 1e-30 .. 1e30 in size"]


class Shape:
    """A base with kinds."""

    kinds: ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls, *, kind: str | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if kind is not None:
            Shape.kinds[kind] = cls


class Circle(Shape, kind="circle"):
    """A circle.

    Args:
        place: where it is.
        radius: half of its
            diameter.
        weight, colour: how it looks.
        mode: a choice.
    """

    def __init__(
        self,
        place: object,
        *,
        radius: Annotated[float, "1e-5 .. 1e5"],
        weight: Coupling = 1.0,
        colour: Literal["red", "blue"] | None = None,
        mode: Annotated[float, "0.1 .. 1"] | Literal["auto", True] = "auto",
    ) -> None:
        self.place, self.radius, self.weight = place, radius, weight
        if radius == 13:
            raise ValueError("no circle has\na radius of 13")

    @staticmethod
    def check_keys(*, radius: float, colour: str | None, **_: object) -> None:
        if colour == "red" and radius > 10:
            raise ValueError("red circles are small")


class Dot(Shape, kind="dot"):
    def __init__(self, n: int = 3) -> None:
        self.n = n


GROUP = Group("shape", Shape, frozenset({"place"}), "Forms.")


def test_the_keys_of_a_kind() -> None:
    keys = GROUP.keys("circle")
    assert list(keys) == ["radius", "weight", "colour", "mode"]
    assert keys["radius"].default is MISSING and keys["mode"].default == "auto"
    assert keys["radius"].line == "half of its diameter. [1e-5 .. 1e5]"
    assert keys["weight"].text == keys["colour"].text == "how it looks."
    assert list(GROUP.keys("dot")) == ["n"]
    assert documented(Dot) == {}


def test_a_selection_builds_its_kind_and_comes_back() -> None:
    chosen = GROUP.read({"name": "circle", "radius": 2, "weight": [1, -2.5]})
    assert (chosen.radius, chosen.weight, chosen.mode) == (2.0, (1.0, -2.5), "auto")
    built = chosen.build(place="here", nobody="asks")
    assert isinstance(built, Circle) and (built.place, built.radius) == ("here", 2.0)
    assert GROUP.read(chosen.to_mapping()) == chosen == pickle.loads(pickle.dumps(chosen))
    assert hash(chosen) == hash(GROUP.read(chosen.to_mapping()))
    assert chosen != chosen.replace(radius=3) and chosen.replace(radius=3).radius == 3
    with pytest.raises(AttributeError):
        _ = chosen.nothing
    assert chosen.get("nothing", 1) == 1


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"radius": 1}, "shape"),
        ({"name": "circel", "radius": 1}, "did you mean circle?"),
        ({"name": "circle"}, "shape.radius: missing"),
        ({"name": "circle", "radius": None}, "shape.radius: missing"),
        ({"name": "circle", "radius": 0}, "shape.radius=0: must be >= 1e-05 and <= 100000"),
        ({"name": "circle", "radius": "big"}, "must be a number (>= 1e-05 and <= 100000), not str"),
        ({"name": "circle", "radius": float("nan")}, "finite"),
        ({"name": "circle", "radius": 1, "weight": [1, 1e40]}, "[1,1e+40]: must be of a size"),
        ({"name": "circle", "radius": 1, "colour": "bleu"}, "did you mean blue?"),
        ({"name": "circle", "radius": 1, "mode": 2}, "must be >= 0.1 and <= 1"),
        ({"name": "circle", "radius": 1, "mode": False}, "shape.mode=false"),
        ({"name": "circle", "radius": 1, "colr": 1}, "did you mean colour?"),
        ({"name": "circle", "radius": 11, "colour": "red"}, "shape: red circles are small"),
        ({"name": "dot", "radius": 1}, "shape.radius=1: shape=dot has no such key; it has n"),
        ({"name": "dot", "n": 1.5}, "a whole number"),
        ({"name": "os:nothing"}, "has no class nothing"),
        ({"name": "os:PathLike"}, "must be a"),
        ({"name": "no_such_module_anywhere:X"}, "No module named"),
    ],
)  # fmt: skip
def test_what_is_refused(mapping: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        GROUP.read(mapping)
    assert words in str(caught.value) and len(str(caught.value)) <= 400


def test_a_constructor_that_refuses_is_one_line_with_its_section() -> None:
    with pytest.raises(InputError, match=r"^shape: no circle has a radius of 13$"):
        GROUP.read({"name": "circle", "radius": 13}).build(place=0)


def test_a_class_of_anyones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no annotations, no documentation, and no registration."""
    module = Shape.__module__
    (tmp_path / "my_shapes.py").write_text(
        f"from {module} import Shape\n"
        "class Square(Shape):\n"
        "    def __init__(self, place, a=1.0, names=('x', 'y')):\n"
        "        self.place, self.a, self.names = place, a, names\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, module, sys.modules[__name__])
    chosen = GROUP.read({"name": "my_shapes:Square", "a": [1, 2]})
    assert chosen.build(place=5).a == (1, 2)
    assert chosen.to_mapping() == {"name": "my_shapes:Square", "a": [1, 2], "names": ["x", "y"]}
    assert isinstance(chosen, Selection) and "Square" not in Shape.kinds


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [("1 .. 9", (1, 9, 5.5), (0, 9.1)), ("0 or 1e-3 .. 1", (0, 1e-3), (1e-4, -1)),
     ("0 or 1 .. 2 in size", (0, -1, 2), (0.5, -3))],
)  # fmt: skip
def test_bounds(text: str, inside: Sequence[float], outside: Sequence[float]) -> None:
    bounds = Bounds.parsed(text)
    assert all(map(bounds.hold, inside)) and not any(map(bounds.hold, outside))


def test_bounds_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"LOW \.\. HIGH"):
        Bounds.parsed("positive")


@pytest.mark.parametrize(
    ("value", "hint", "result"),
    [(1e4, int, 10_000), (3, float, 3.0),
     ([True, False], bool | tuple[bool, bool], (True, False)),
     ([[0, 1], [2]], str | tuple[tuple[int, ...], ...], ((0, 1), (2,))),
     (None, float | None, None)],
)  # fmt: skip
def test_conversion(value: Any, hint: Any, result: Any) -> None:
    assert convert(value, hint, "key") == result


@pytest.mark.parametrize(("value", "hint"), [([True], tuple[bool, bool]), (True, int), (1, bool)])
def test_conversions_that_are_refused(value: Any, hint: Any) -> None:
    with pytest.raises(InputError, match=r"^key="):
        convert(value, hint, "key")
