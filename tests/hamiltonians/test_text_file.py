"""Text is read in every encoding that editors write; pipes and binary data are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hamiltonians.text_file import read_text, shortened

TEXT = "0.5 Z0 Z1\nLängstes Ångström\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_every_encoding_reads_the_same(tmp_path: Path, encoding: str, ending: str) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(TEXT.replace("\n", ending).encode(encoding))
    assert read_text(path) == TEXT


@pytest.mark.parametrize(
    "data, says", [(b"a\0b", "not text"), (b"\xff\xfea", "utf-16-le"), (b"x" * 100, "larger")]
)
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=says):
        read_text(path, largest=99)


def test_pipes_folders_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), tmp_path / "missing", "a\0b"):
        with pytest.raises(ValueError, match="cannot be read"):
            read_text(path)


def test_quotes_are_short_and_harmless() -> None:
    assert shortened("a b") == "'a b'"
    assert shortened("x" * 70) == repr("x" * 60 + "...")
    assert shortened("\x1b[31m\n") == r"'\x1b[31m\n'"
