"""summary.json: what it says of a run, whatever somebody has put into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nqs.cli.app import main as nqs
from nqs.errors import InputError
from nqs.ground_states import summary
from nqs.runfolder import digests
from nqs.runfolder.history import Evaluation
from nqs.runfolder.summary import write as write_summary


def made(energy: float | None = -2.0, exact: float | None = None, **keys: Any) -> dict[str, Any]:
    """The summary of a run."""
    numbers = {"energy": energy, "energy_error": 0.01, "variance": 0.1, "v_score": 1e-3}
    return summary.summarise(
        status="finished",
        n_sites=4,
        n_parameters=10,
        steps=5,
        wall_seconds=1.0,
        seed=0,
        evaluation=None if energy is None else Evaluation(numbers | {"n_samples": 100}, {}),
        exact_energy=exact,
        **keys,
    )


def test_the_verdict() -> None:
    assert made()["verdict"] == "good" and made()["doubts"] == []
    assert made(energy=None)["verdict"] is None
    doubtful = made(doubts=["collapsed: one configuration holds everything", "rose: by 0.3"])
    assert doubtful["verdict"] == "doubtful" and len(doubtful["doubts"]) == 2
    lines = summary.lines(doubtful)
    place = next(i for i, line in enumerate(lines) if line.startswith("verdict "))
    assert lines[place].endswith("  doubtful")
    assert lines[place + 1].strip() == "collapsed: one configuration holds everything"
    assert lines[place + 2].strip() == "rose: by 0.3"
    older = {k: v for k, v in made().items() if k not in ("verdict", "doubts")}
    assert "no verdict (older run)" in "\n".join(summary.lines(older))


def test_the_error_against_exact_is_signed() -> None:
    below = made(energy=-2.0, exact=-1.9)
    assert below["relative_error"] == pytest.approx(-0.1 / 1.9)
    assert below["difference"] == pytest.approx(-0.1) and below["z_score"] == pytest.approx(-10)
    text = "\n".join(summary.lines(below))
    assert "error against exact  -1.00e-01 (-10.0 standard errors)" in text
    assert "-5.26e-02" in text


def test_an_exact_energy_of_zero() -> None:
    """faults.md, kind 4."""
    zero = made(energy=0.02, exact=0.0)
    assert zero["relative_error"] is None and zero["difference"] == 0.02
    assert zero["z_score"] == pytest.approx(2)
    text = "\n".join(summary.lines(zero))
    assert "error against exact  +2.00e-02 (+2.0 standard errors)" in text
    assert "relative error" not in text


def test_show_prints_names_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets are no markup, escape sequences no commands."""
    folder = tmp_path / "[red]x"
    folder.mkdir()
    doubt = "variance: [/b] \x1b[31m large"
    write_summary(folder / "summary.json", made(doubts=[doubt]))
    assert nqs(["show", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "[/b]" in out and "\x1b" not in out and "doubtful" in out


CHANGES: list[dict[str, Any]] = [
    {"energy": "low"},
    {"energy": [1]},
    {"energy_error": {}},
    {"n_sites": 0},
    {"n_sites": None},
    {"steps": "many"},
    {"status": ["finished"]},
    {"verdict": "fine"},
    {"doubts": "many"},
    {"doubts": [1]},
    {"observables": [1]},
    {"observables": {"a": 1}},
    {"flip_precision": 3},
    {"wall_seconds": None},
    {"exact_energy": "x"},
]
HOSTILE = [
    "",
    "{}",
    "[]",
    "null",
    "7",
    "NaN",
    '"text"',
    '{"energy": 1}',
    '{"energy": NaN}',
    "[" * 100_000,
    '{"energy": ' + "9" * 5_000 + "}",
    *(json.dumps(digests.vouched(made(exact=-2.1) | change)) for change in CHANGES),
]


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_any_content(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """faults.md, kind 5: one line."""
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(InputError):
        summary.read(tmp_path / "summary.json")
    assert not summary.is_finished(tmp_path)
    assert nqs(["show", str(tmp_path)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "summary" in line and len(line) < 400 + len(str(tmp_path))


def test_other_kinds_of_runs_show_all_they_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "summary.json").write_text('{"perplexity": 1.5, "status": "converged", "n": null}')
    assert nqs(["show", str(tmp_path)]) == 0
    assert "perplexity" in capsys.readouterr().out
