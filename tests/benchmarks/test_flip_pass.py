"""The table of the flip pass: its rows, and the operations that its share counts."""

from __future__ import annotations

import pytest
import torch

from benchmarks.flip_pass import main, network, operations
from nqs.core.native import network as native
from nqs.core.native.build import SWITCH


def test_operations_one_by_one() -> None:
    """3x3 atoms in patches of 4, 2, 2, 1: every position after the flipped patch."""
    psi = network(3)
    width, hidden, heads, n_states = 32, 64, 4, 16
    total = 0
    for first, n_flips in enumerate([4, 2, 2, 1]):
        for _ in range(n_flips):
            for position in range(first + 1, 4):
                total += heads * width  # first attention
                total += 2 * 2 * width * hidden  # perceptrons
                total += width * width * 2  # values, projection
                total += width * (position - first)  # second attention, own positions
                total += width * n_states  # head
    assert operations(psi, 5) == 2 * 5 * total


def test_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    there = native.compiled(torch.float32)
    if there.handle is None:
        pytest.skip(there.description)
    monkeypatch.setenv(SWITCH, "1")
    assert main(["--sides", "2", "3", "--draws", "5", "--repeats", "1"]) == 0
    header, titles, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith("compiled (") and titles.split()[0] == "array"
    assert [row.split()[0] for row in rows] == ["2x2", "3x3"]
    monkeypatch.setenv(SWITCH, "0")
    assert main(["--sides", "2"]) == 2
    assert capsys.readouterr().err == "torch (NQS_COMPILE=0)\n"
