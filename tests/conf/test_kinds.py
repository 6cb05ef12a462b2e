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
        *(({"name": name}, f"shape={name}: write MODULE:CLASS, a module's name without .py")
          for name in ("./x.py:X", "x.py:X", ".x:X", ":X", "os:", "a:b:c")),
        ({"name": None}, "shape=null: must be one of"),
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


ODD = """
import abc
import sys
from typing import Annotated
from {module} import Dot, Shape

class Key(Shape):
    def __init__(self): raise KeyError("boo\\nhoo")
class Exit(Shape):
    def __init__(self): sys.exit(3)
class Deep(Shape):
    def __init__(self): self.__init__()
class Empty(Shape):
    def __init__(self): raise ValueError
class Other(Shape):
    def __new__(cls): return 5
class Abstract(Shape, abc.ABC):
    @abc.abstractmethod
    def area(self): ...
class Positional(Shape):
    def __init__(self, place, a=1, /): ...
class Rest(Shape):
    def __init__(self, **rest): ...
class Named(Shape):
    def __init__(self, name="joe"): ...
class Typo(Shape):
    def __init__(self, place: "Unknown", a: "Anotated[float, '1 .. 2']" = 1.0): ...
class Words(Shape):
    def __init__(self, a: "1 +" = 1.0): ...
class Bounded(Shape):
    def __init__(self, a: Annotated[float, "9 .. 0"] = 1.0): ...
class Default(Shape):
    def __init__(self, a=object): ...
class Outside(Shape):
    def __init__(self, a: Annotated[float, "0 .. 9"] = 100): ...
class Table(Shape):
    def __init__(self, a: dict = {{"b": 1}}): ...
class Check(Shape):
    def __init__(self, a=1.0): ...
    @staticmethod
    def check_keys(a, b): ...
class Inherits(Check):
    def __init__(self, c: float = None): self.c = c
class Some(Check):
    def __init__(self, a=1.0, b=2.0, c=3.0): self.c = c
"""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_shapes.py").write_text(ODD.format(module=Shape.__module__))
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, Shape.__module__, sys.modules[__name__])
    monkeypatch.delitem(sys.modules, "odd_shapes", raising=False)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("Key", r"shape=odd_shapes:Key: KeyError: 'boo\\nhoo'"),
        ("Exit", "shape=odd_shapes:Exit: SystemExit: 3"),
        ("Deep", "shape=odd_shapes:Deep: RecursionError"),
        ("Empty", "shape=odd_shapes:Empty: ValueError: no reason given"),
        ("Other", "shape=odd_shapes:Other: makes a int, not a Shape"),
        ("Abstract", "an abstract class; it must define area"),
        ("Positional", "its parameter place: arguments are passed by name"),
        ("Rest", r"its parameter \*\*rest: arguments"),
        ("Named", "its parameter name: that key is the class's own"),
        ("Typo", "parameter a is annotated .*: NameError: name 'Anotated' is not defined"),
        ("Words", r"parameter a is annotated '1 \+': SyntaxError"),
        ("Bounded", "parameter a: bounds '9 .. 0' are none"),
        ("Default", "shape.a=.*must be numbers.*, not type; this is the default in shape=odd"),
        ("Outside", "must be >= 0 and <= 9; this is the default in shape=odd_shapes:Outside"),
        ("Table", "shape.a={b:1}: must be numbers, text, .*, not dict"),
        ("Check", r"shape=odd_shapes:Check: TypeError: .*missing 1 required .* 'b'"),
    ],
)
def test_what_is_refused_of_anyones_classes(odd: None, kind: str, line: str) -> None:
    with pytest.raises(InputError, match=line) as caught:
        GROUP.read({"name": f"odd_shapes:{kind}"}).build(place=0)
    assert f"shape=odd_shapes:{kind}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_leaves(odd: None) -> None:
    with pytest.raises(InputError, match=r"^shape=leaving:X: SystemExit: 0"):
        GROUP.read({"name": "leaving:X"})


def test_checks_of_keys_that_are_inherited(odd: None) -> None:
    """Not asked without the keys that they need; None is what a default of None says."""
    for kind, value in (("Inherits", None), ("Some", 3.0)):
        assert GROUP.read({"name": f"odd_shapes:{kind}"}).build().c == value


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
    with pytest.raises(ValueError, match="are none"):
        Bounds.parsed("9 .. 0")


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
