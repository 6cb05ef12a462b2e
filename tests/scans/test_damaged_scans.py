"""The folder of a scan that is damaged, edited, or somebody's trap: refused in one line."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from nqs.cli.app import main as nqs
from nqs.errors import InputError
from nqs.runfolder import digests
from nqs.scans import folder as scan_folder
from tests.test_scan_command import scan, train, workplace  # noqa: F401 (each test's own folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "scan"
    assert scan("seed=0,1", "train.steps=1", f"scan.dir={path}") == 0
    return path


@pytest.fixture
def finished(small: Path) -> Path:
    """A finished scan of a test's own."""
    return Path(shutil.copytree(small, "scan"))


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """What both readers of a scan's folder say, one line each."""
    capsys.readouterr()
    lines = []
    for call in (lambda: train(["-m", "scan.dir=scan", "scan.resume=true"]),
                 lambda: nqs(["collect", "scan"])):  # fmt: skip
        assert call() == 2
        streams = capsys.readouterr()
        lines.append(streams.err)
        assert streams.err.startswith("error: ") and streams.err.count("\n") == 1, streams.err
        assert len(streams.err) <= 400 and streams.err.rstrip("\n").isprintable()
    return lines[0]


def signed(content: dict[str, Any]) -> str:
    """What somebody writes who knows how."""
    return json.dumps(digests.vouched(content))


BAD = {
    "empty": "",
    "null": "null",
    "a number": "1e999",
    "a mapping": "{}",
    "NaN": "NaN",
    "deep": "[" * 200_000,
    "a huge number": '{"format": ' + "9" * 100_000 + "}",
    "binary": "\0\1\2",
    "control characters": '{"format": "\\u001b[31mred"}',
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_scan_json_of_any_content(
    content: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """faults.md, kind 5, well-formed files with nonsense inside."""
    (finished / "scan.json").write_text(content)
    assert "scan.json" in refused(capsys)


CHANGES: dict[str, Any] = {
    "another digest": lambda c: c | {"sha256": "0"},
    "a point outside": lambda c: named(c, "../escaped=1"),
    "a point at the root": lambda c: named(c, "/escaped=1"),
    "a hidden point": lambda c: named(c, ".=1"),
    "a point that clears the screen": lambda c: named(c, "a=\x1b[2J"),
    "a point called scan.log": lambda c: named(c, "scan.log"),
    "a point of 300 letters": lambda c: named(c, "a=" + "b" * 300),
    "a point that is a number": lambda c: named(c, 7),
    "the same name twice": lambda c: c | {"chains": [c["chains"][0] * 2]},
    "the same place twice": lambda c: placed(c, {"seed": 1}),
    "a value of no axis": lambda c: placed(c, {"seed": 2}),
    "another key": lambda c: placed(c, {"sead": 0}),
    "an axis that is no key": lambda c: c | {"axes": [{"key": "a b", "values": [0, 1]}]},
    "an axis of huge numbers": lambda c: c | {"axes": [{"key": "seed", "values": [10**400]}]},
    "too many points": lambda c: c | {"axes": [{"key": k, "values": [*range(999)]} for k in "ab"]},
    "no chains": lambda c: c | {"chains": []},
    "chains of text": lambda c: c | {"chains": ["a=1", "a=2"]},
    "points of text": lambda c: c | {"chains": [["a=1"], ["a=2"]]},
    "a command that is no list": lambda c: c | {"command": "seed=0,1"},
    "an unknown key of the scan": lambda c: c | {"scan": c["scan"] | {"shuffle": True}},
    "a wrong type": lambda c: c | {"scan": c["scan"] | {"warm_steps": "many"}},
    "no digest": lambda c: c | {"sha256": None},
    "another format": lambda c: c | {"format": "nqs scan 9"},
}


def named(content: dict[str, Any], name: Any) -> dict[str, Any]:
    content["chains"][0][0]["name"] = name
    return content


def placed(content: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    content["chains"][0][0]["values"] = values
    return content


@pytest.mark.parametrize("change", CHANGES)
def test_scan_json_with_nonsense_inside(
    change: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """faults.md, kind 5: nothing leads out of the scan's folder, whoever wrote the file."""
    before = set(tmp_path.iterdir())
    content = json.loads((finished / "scan.json").read_text())
    content = CHANGES[change](content)
    digest = content.pop("sha256")
    text = json.dumps(content | {"sha256": digest}) if digest in ("0", None) else signed(content)
    (finished / "scan.json").write_text(text)
    assert "scan" in refused(capsys)
    assert set(tmp_path.iterdir()) == before


def test_a_changed_scan_json_is_noticed(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """faults.md, kind 2: every single-bit flip, at random places."""
    whole = (finished / "scan.json").read_bytes()
    chosen = random.Random(3)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[chosen.randrange(len(whole))] ^= 1 << chosen.randrange(8)
        (finished / "scan.json").write_bytes(damaged)
        try:
            found = scan_folder.read(finished)
        except InputError:
            continue
        (finished / "scan.json").write_bytes(whole)
        assert found == scan_folder.read(finished), "only white space may change unnoticed"


def test_an_older_scan_is_read_without_a_digest(finished: Path) -> None:
    content = json.loads((finished / "scan.json").read_text())
    del content["sha256"], content["scan"]["zip"], content["scan"]["repeat"]
    (finished / "scan.json").write_text(json.dumps(content | {"format": "nqs scan 1"}))
    assert train(["-m", "scan.dir=scan", "scan.resume=true"]) == 0
    assert nqs(["collect", "scan"]) == 0


@pytest.mark.parametrize("name", ["seed=0", "seed=1~again", "scan.log", "jobs"])
def test_planted_links_are_not_followed(
    name: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "log").write_text("mine")
    path = finished / name
    if path.is_dir():
        path.rename(tmp_path / "moved")
    path.unlink(missing_ok=True)
    path.symlink_to(outside / "log" if name == "scan.log" else outside)
    capsys.readouterr()
    assert train(["-m", "scan.dir=scan", "scan.resume=true"]) == 2
    line = capsys.readouterr().err
    assert name in line and line.count("\n") == 1
    assert [entry.name for entry in outside.iterdir()] == ["log"]
    assert (outside / "log").read_text() == "mine"


def test_a_log_that_is_a_pipe_does_not_wait(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / "scan.log").unlink()
    os.mkfifo(finished / "scan.log")
    assert train(["-m", "scan.dir=scan", "scan.resume=true"]) == 2
    assert "scan.log" in capsys.readouterr().err
