"""What takes minutes to compute from a table, kept in one file and computed anew when in doubt.

    nqs_cache/TABLE.KIND                           beside the table; where its folder is read-only
    $XDG_CACHE_HOME/nqs/crystals/HASH-TABLE.KIND   (or ~/.cache/nqs/...; HASH of the table's path)

A file is a line of JSON (format, key, shapes, notes), the bytes of the arrays, and a seal with the
SHA-256 of all before it (nqs.runfolder.digests). The key says what the content was computed from:
digests of the table and of the code that computes. A file with another key, without a right seal,
or whose content makes no sense is never used: one line says so, and it is replaced. Files may be
deleted at any time. A seal vouches against damage, not against malice: who can write beside a table
can change the table too.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from nqs.core.native.build import cache_folder
from nqs.crystal.datasets.data_config import EXAMPLES
from nqs.errors import one_line
from nqs.runfolder.atomic import write_bytes
from nqs.runfolder.digests import SEAL, Damaged, sealed, unsealed

T = TypeVar("T")
Say = Callable[[str], object]

FORMAT: Final = "nqs crystal cache 1"
FOLDER: Final = "nqs_cache"
TYPES: Final = ("<f8", "<i8", "|u1")
LARGEST: Final = 2**30
"""Bytes of a file at most."""
NONSENSE: Final = (ValueError, OSError, KeyError, IndexError, TypeError, AttributeError,
                   OverflowError, RecursionError, MemoryError)  # fmt: skip
"""What reading and rebuilding raise where a file is not what was written (Damaged is one)."""


@dataclass(frozen=True)
class Content:
    """What a file holds: arrays of TYPES by name, and notes, as JSON has them."""

    arrays: Mapping[str, NDArray[Any]]
    notes: Mapping[str, Any] = field(default_factory=dict)


def file_of(table: str, kind: str) -> Path:
    """The file of what is computed from the table at a path (or the shipped examples)."""
    path = Path(table).resolve()
    if table != EXAMPLES and _is_writable(path.parent):
        return path.parent / FOLDER / f"{path.name}.{kind}"
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return cache_folder() / "crystals" / f"{digest}-{path.name[:80]}.{kind}"


def _is_writable(folder: Path) -> bool:
    """Whether files may be made here; what is read-only for all is so for root too."""
    try:
        return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)
    except OSError:
        return False


def code_version(sources: tuple[str, ...], libraries: tuple[str, ...]) -> str:
    """Digest of the Python sources below nqs/crystal that compute something (files, folders), and
    of the versions of the libraries they use."""
    digest = hashlib.sha256(FORMAT.encode())
    for source in sources:
        digest.update(_source_digest(source))
    for name in libraries:
        digest.update(f"{name} {_library_version(name)}\n".encode())
    return digest.hexdigest()


@functools.cache
def _source_digest(source: str) -> bytes:
    path = Path(__file__).resolve().parents[1] / source
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(hashlib.sha256(f.read_bytes()).digest() for f in files)).digest()


def _library_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def read(path: Path, key: str, unpack: Callable[[Content], T], say: Say = print) -> T | None:
    """What the file holds under `key`; None where there is none, or one of no use, which is said.

    unpack may raise anything of NONSENSE for content that is not what was written.
    """
    if not os.path.lexists(path):
        return None
    try:
        return unpack(_content(path, key))
    except NONSENSE as error:
        say(one_line(f"note: {path}: {error or type(error).__name__}; computed anew"))
        return None


def _content(path: Path, key: str) -> Content:
    """Raises Damaged or one of NONSENSE for a file that is not what was written under this key."""
    length = path.stat().st_size
    if length > LARGEST:
        raise Damaged(f"larger than {LARGEST} bytes")
    with unsealed(path) as (file, has_seal):
        if not has_seal:
            raise Damaged("damaged: it has no sha256 at its end")
        header, _, data = file.read(length - SEAL).partition(b"\n")
    described = json.loads(header)
    if described["format"] != FORMAT or described["key"] != key:
        raise Damaged("of another table or another version")
    arrays, start = {}, 0
    for name, (kind, shape) in described["arrays"].items():
        if kind not in TYPES or min(shape, default=0) < 0:
            raise Damaged(f"damaged: an array of type {kind}, shape {shape}")
        count = math.prod(shape)
        arrays[name] = np.frombuffer(data, kind, count, start).reshape(shape)
        start += arrays[name].nbytes
    if start != len(data):
        raise Damaged("damaged: its arrays do not fill it")
    return Content(arrays, described["notes"])


def write(path: Path, key: str, content: Content, say: Say = print) -> None:
    """Replaces the file in one step; a line where that fails, since nothing else is lost."""
    shapes = {name: [a.dtype.str, list(a.shape)] for name, a in content.arrays.items()}
    header = {"format": FORMAT, "key": key, "arrays": shapes, "notes": content.notes}
    parts = [json.dumps(header).encode(), b"\n", *(a.tobytes() for a in content.arrays.values())]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, sealed(b"".join(parts)))
    except OSError as error:
        say(one_line(f"note: {path}: not kept ({error.strerror or error})"))
