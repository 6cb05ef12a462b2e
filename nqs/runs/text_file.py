"""Text files of users as InputError speaks of them; see hamiltonians.text_file."""

from __future__ import annotations

from pathlib import Path

from hamiltonians import text_file
from hamiltonians.text_file import LARGEST
from nqs.runs.schema import InputError


def read_text(path: str | Path, largest: int = LARGEST) -> str:
    """hamiltonians.text_file.read_text; raises InputError 'PATH: what is wrong'."""
    try:
        return text_file.read_text(path, largest)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def read_bytes(path: str | Path, largest: int = LARGEST) -> bytes:
    """hamiltonians.text_file.read_bytes; raises InputError 'PATH: what is wrong'."""
    try:
        return text_file.read_bytes(path, largest)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def decoded(data: bytes) -> str:
    """hamiltonians.text_file.decoded; raises InputError."""
    try:
        return text_file.decoded(data)
    except ValueError as error:
        raise InputError(str(error)) from None
