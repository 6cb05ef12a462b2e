"""What is printed of user text: one line, bounded, nothing in it that steers a terminal."""

from __future__ import annotations

import time
from typing import Any

import pytest

from nqs.conf.sections import flatten
from nqs.errors import (
    LONGEST_LINE,
    InputError,
    error_lines,
    one_line,
    printable,
    require_choice,
    shown,
    suggestion,
)

HOSTILE = [
    "\x1b[2J\x1b]0;owned\x07",
    "a\nerror: forged",
    "a\r\x08\x7f",
    "\u202egnp.exe",
    "\x9b31m",
    "\u2028\u2029\u200b\ufeff",
    "\ud800",
    "\x00",
]


@pytest.mark.parametrize("text", HOSTILE, ids=map(repr, HOSTILE))
def test_nothing_steers_the_terminal(text: str) -> None:
    for line in (one_line(text), printable(text), shown(text), *error_lines(InputError(text))):
        assert line.isprintable(), line
    assert one_line(f"a{text}b").startswith("a") and one_line(f"a{text}b").endswith("b")


def test_what_can_be_seen_stays() -> None:
    text = "run.dir=Läufe/ψ 日本: already holds a run"
    assert one_line(text) == printable(text) == text
    assert printable("\x1b[1m\ud800\n") == "\\x1b[1m\\ud800\\n"
    assert one_line("two\nlines  of\ttext") == "two lines of text"


@pytest.mark.parametrize("size", [LONGEST_LINE, LONGEST_LINE + 1, 10**4, 10**7])
def test_a_line_is_bounded_and_keeps_its_ends(size: int) -> None:
    text = "key=" + "x" * (size - 8) + ": no"
    (line,) = error_lines(InputError(text))
    assert len(line) <= LONGEST_LINE
    assert line.startswith("error: key=x") and line.endswith("x: no")
    assert (" ... " in line) == (len(text) + len("error: ") > LONGEST_LINE)
    assert len(one_line("\x1b" * size)) <= LONGEST_LINE  # grows fourfold when it is escaped


def test_several_things_wrong_are_several_lines() -> None:
    error = InputError("first", "second\nline")
    assert str(error) == "first\nsecond\nline"
    assert error_lines(error) == ["error: first", "error: second line"]
    assert error_lines(InputError("only")) == ["error: only"] and str(InputError("only")) == "only"


def bomb(depth: int, width: int) -> Any:
    content: Any = ["x"] * width
    for _ in range(depth):
        content = [content] * width  # the same object: width^depth entries in no memory
    return content


def deep(depth: int) -> Any:
    content: Any = 1
    for _ in range(depth):
        content = {"a": [content]}
    return content


@pytest.mark.parametrize(
    "value",
    [bomb(12, 9), deep(9**5), [""] * 10**6, {i: i for i in range(10**5)}, 10**10**5, -(16**9999)],
    ids=["bomb", "deep", "wide", "mapping", "whole", "negative"],
)  # fmt: skip
def test_any_value_is_shown_at_once(value: Any) -> None:
    began = time.process_time()
    text = shown(value)
    assert 0 < len(text) <= 60 and text.isprintable()
    assert time.process_time() - began < 1


def test_values_are_shown_as_they_are_written() -> None:
    assert shown([1, [None, True]]) == "[1,[null,true]]" and shown({"a": 1}) == "{a:1}"
    assert shown(10**40) == str(10**40) and "6000 digits" in shown(10**6000)


def test_flatten_goes_one_level_down() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": 2, 3: 4}) == {"a.b": {"c": 1}, "d": 2, "3": 4}


def test_a_choice_is_of_its_own_type() -> None:
    """'false' as text is true to Python: `train.exact: 'false'` diagonalised."""
    require_choice("train.exact", False, ("auto", True, False))
    for value in ("false", "true", 0, 1, " auto", "auto\n", ["auto"], None):
        with pytest.raises(InputError, match="must be one of auto, true, false"):
            require_choice("train.exact", value, ("auto", True, False))


def test_long_words_are_no_slips() -> None:
    began = time.process_time()
    assert suggestion("model.d_modl" * 10**5, ["model.d_model"]) == ""
    assert time.process_time() - began < 1
