"""Who imports whom within nqs.crystal: no circles, each folder only those before it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ORDER = ["parallel", "structures", "tokens", "datasets", "model", "metrics", "commands"]


def folders(source: str) -> Iterator[str]:
    """The parts of nqs.crystal that a file imports from."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("nqs.crystal."):
                yield name.split(".")[2]


def upward(source: str, folder: str) -> list[str]:
    return [other for other in folders(source) if ORDER.index(other) > ORDER.index(folder)]


@pytest.mark.parametrize("folder", ORDER)
def test_arrows_point_down(folder: str) -> None:
    place = ROOT / "nqs" / "crystal" / folder
    files = [*place.rglob("*.py")] or [place.with_suffix(".py")]
    assert files
    for file in files:
        assert upward(file.read_text(encoding="utf-8"), folder) == [], file


def test_the_checker_sees_arrows_upwards() -> None:
    source = "def f():\n    from nqs.crystal.commands import config\nimport nqs.crystal.tokens.text"
    assert upward(source, "model") == ["commands"]
    assert sorted(upward(source, "structures")) == ["commands", "tokens"]
