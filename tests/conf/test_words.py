"""KEY=VALUE words: values as YAML writes them, one line for all that is wrong."""

from __future__ import annotations

import pytest

from nqs.conf.words import check_known, merged, parsed
from nqs.errors import InputError


def test_values() -> None:
    words = ["a.b=500", "rate=1e-3", "on=true", "none=null", "l=[0.5,1]", "t=x=y", "n=NO"]
    assert parsed(words) == {
        "a.b": 500, "rate": 1e-3, "on": True, "none": None, "l": [0.5, 1], "t": "x=y", "n": "NO",
    }  # fmt: skip
    assert parsed([]) == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [(["seed"], "key=value"), (["=1"], "key=value"), (["a=1", "a=2"], "a: given twice"),
     (["a=[1"], r"a=\[1: not understood"), (["a="], "a=: no value is given; a=null is none")],
)  # fmt: skip
def test_words_that_are_none(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parsed(words)


def test_merging() -> None:
    base = {"seed": 1, "model": {"core": "gru", "d_model": 8}}
    keys = {"model.d_model": 9, "train.steps": 5, "seed": 2}
    expected = {"seed": 2, "model": {"core": "gru", "d_model": 9}, "train": {"steps": 5}}
    assert merged(base, keys) == expected
    assert base["seed"] == 1 and base["model"] == {"core": "gru", "d_model": 8}
    with pytest.raises(InputError, match="seed=1: must be a mapping"):
        merged(base, {"seed.x": 1})


def test_known_keys() -> None:
    check_known(["model.core"], ["model.core", "seed"])
    with pytest.raises(InputError, match=r"model.croe: unknown key \(did you mean model.core\?\)"):
        check_known(["model.croe"], ["model.core", "seed"])
