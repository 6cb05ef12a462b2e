"""Whole files or none: a reader, kill -9 or a full disk never meets a half-written file."""

from __future__ import annotations

import os
from pathlib import Path


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces `path` by `data` in one step: temporary beside it, fsync, rename, fsync of folder.

    Raises OSError with the old file untouched and no temporary left behind.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """write_bytes of UTF-8 text."""
    write_bytes(path, text.encode())


def sync_folder(folder: Path) -> None:
    """fsync of the folder itself: without it a rename may be lost when the machine loses power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Removes what a killed process left behind of unfinished writes anywhere under `folder`."""
    for temporary in folder.rglob(".*.tmp"):
        temporary.unlink(missing_ok=True)
