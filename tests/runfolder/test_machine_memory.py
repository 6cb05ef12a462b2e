"""What memory there is: the machine's, or what the control group leaves of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nqs.errors import InputError
from nqs.runfolder import memory


def test_the_machine_s_memory() -> None:
    assert 2**28 < memory.available() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("memory.max", "1000000000\n", 1e9),
        ("memory/memory.limit_in_bytes", "1000000000\n", 1e9),
        ("memory.max", "max\n", None),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", None),
        ("other", "1\n", None),
    ],
)
def test_a_control_group_s_memory(
    name: str, text: str, expected: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "GROUPED", tmp_path)
    whole = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    assert memory.available() == (whole if expected is None else expected)


def test_what_is_too_large_names_the_largest_term() -> None:
    memory.refuse_if_larger("a thing", {"a": 1e9, "b": 2e9}, 3e9)
    with pytest.raises(InputError, match=r"^b: a thing would take about 3 GB .* 2.9 GB"):
        memory.refuse_if_larger("a thing", {"a": 1e9, "b": 2e9}, 2.9e9)
