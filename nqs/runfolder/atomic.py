"""Whole files or none: a reader, kill -9 or a full disk never meets a half-written file.

What is unfinished lies beside its target as .<name>-<8 characters>, made by mkstemp or mkdtemp: no
name that somebody could have planted, and none that two processes could share.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path
from typing import Final

SUFFIX: Final = ".tmp"
RANDOM: Final = "-[a-z0-9_]{8}"
"""What tempfile puts into a name, after our dash."""
LEFTOVER: Final = re.compile(rf"\..*{RANDOM}{re.escape(SUFFIX)}", re.DOTALL)


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces `path` by `data` in one step: temporary beside it, fsync, rename, fsync of folder.

    Raises OSError with the old file untouched; no temporary is left behind, whatever happens.
    """
    descriptor, name = tempfile.mkstemp(SUFFIX, prefix(path), path.parent)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o666 & ~umask())  # mkstemp's 0600 would hide it from colleagues
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(name, path)
    except BaseException:  # a signal's exception as well
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """write_bytes of UTF-8 text."""
    write_bytes(path, text.encode())


def prefix(path: Path) -> str:
    """How the temporaries of `path` begin; cut, since file systems take names of 255 bytes."""
    return f".{path.name[:40]}-"


def umask() -> int:
    """The permissions that new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """fsync of the folder itself: without it a rename may be lost when the machine loses power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Removes what a killed process left behind of unfinished writes anywhere under `folder`."""
    for temporary in folder.rglob(f".*{SUFFIX}"):
        if LEFTOVER.fullmatch(temporary.name) and not temporary.is_dir():
            temporary.unlink(missing_ok=True)
