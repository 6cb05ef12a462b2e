"""Text files of users as InputError speaks of them; see hamiltonians.text_file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from nqs.errors import InputError

LARGEST: Final = 64 * 2**20
"""Bytes that are read at most unless the caller allows more."""


def read_text(path: str | Path, largest: int = LARGEST) -> str:
    """hamiltonians.text_file.read_text; raises InputError 'PATH: what is wrong'."""
    from hamiltonians import text_file  # its package imports torch: seconds that --help has not got

    try:
        return text_file.read_text(path, largest)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def read_bytes(path: str | Path, largest: int = LARGEST) -> bytes:
    """hamiltonians.text_file.read_bytes; raises InputError 'PATH: what is wrong'."""
    from hamiltonians import text_file

    try:
        return text_file.read_bytes(path, largest)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def decoded(data: bytes) -> str:
    """hamiltonians.text_file.decoded; raises InputError."""
    from hamiltonians import text_file

    try:
        return text_file.decoded(data)
    except ValueError as error:
        raise InputError(str(error)) from None
