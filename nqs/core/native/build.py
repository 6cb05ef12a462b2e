"""Compiled code: C++ sources of this folder, compiled where they are first used and kept.

A library lies in $XDG_CACHE_HOME/nqs (or ~/.cache/nqs) as NAME-ORIGIN-CONTENT.so, with digests of
its source, compiler, flags and processor, and of the file itself: loading what a full disk or a
crash has left of one would end the process. It appears there whole, so that several processes may
compile it at once. Without a compiler, or with NQS_COMPILE=0 in the environment, there is none, and
the callers do without.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SWITCH: Final = "NQS_COMPILE"
"""Environment variable; 0 keeps everything in torch."""
COMPILERS: Final = ("c++", "g++", "clang++")
FLAGS: Final = ("-O2", "-march=native", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno")
SECONDS: Final = 120.0
"""A compiler that takes longer is given up."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Library:
    """A loaded library, or why there is none.

    Attributes:
        handle: None where there is none.
        description: one line: the compiler, or the reason.
    """

    handle: ctypes.CDLL | None
    description: str


def library(source: Path, defines: tuple[str, ...] = ()) -> Library:
    """The library of a C++ source, compiled with these macros defined; never an error."""
    if os.environ.get(SWITCH) == "0":
        return Library(None, f"{SWITCH}=0")
    return _library(source, defines, os.environ.get("CXX"), str(cache_folder()))


@functools.cache
def _library(source: Path, defines: tuple[str, ...], named: str | None, cache: str) -> Library:
    try:
        built = _built(source, defines, named, Path(cache))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        built = Library(None, _one_line(error))
    log.debug("%s: %s", source.name, built.description)
    return built


def cache_folder() -> Path:
    """Where libraries are kept."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "nqs"


def _built(source: Path, defines: tuple[str, ...], named: str | None, cache: Path) -> Library:
    """Raises OSError, SubprocessError, or ValueError for a CXX whose quotes are open."""
    names = ([named] if named and named.strip() else []) + list(COMPILERS)
    compiler = next(
        (words for name in names if shutil.which((words := shlex.split(name))[0])), None
    )
    if compiler is None:
        return Library(None, f"no compiler ({', '.join(names)}) found")
    version = _output(*compiler, "--version").partition("\n")[0] or compiler[0]
    command = [*compiler, *FLAGS, *(f"-D{name}" for name in defines)]
    texts = [file.read_text() for file in (source, *sorted(source.parent.glob("*.h")))]
    parts = [*texts, version, *command, processor()]
    name = f"{source.stem}-{_digest(chr(0).join(parts).encode())}"
    kept = next((file for file in sorted(cache.glob(f"{name}-*.so")) if _is_whole(file)), None)
    return Library(ctypes.CDLL(str(kept or _compile(command, source, cache, name))), version)


def _compile(command: list[str], source: Path, folder: Path, name: str) -> Path:
    """The file of a new library."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(suffix=".so", prefix=".building-", dir=folder)
    os.close(descriptor)
    try:
        _output(*command, "-o", temporary, str(source))
        target = folder / f"{name}-{_digest(Path(temporary).read_bytes())}.so"
        os.replace(temporary, target)
        return target
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _is_whole(file: Path) -> bool:
    """Whether a library has the content that its name says."""
    with suppress(OSError):
        return file.stem.endswith(f"-{_digest(file.read_bytes())}")
    return False


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _output(*command: str) -> str:
    """What a command prints; SubprocessError if it fails or takes too long."""
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=True
    ).stdout


def _one_line(error: Exception) -> str:
    """The first line of what a compiler said, or what became of it."""
    said = str(error)
    if isinstance(error, subprocess.CalledProcessError):
        said = error.stderr.strip() or f"{error.cmd[0]} ended with {error.returncode}"
    elif isinstance(error, subprocess.TimeoutExpired):
        said = f"{error.cmd[0]} took more than {error.timeout:.3g} s"
    return f"compiling failed: {said.partition(chr(10))[0]}"[:300]


def processor() -> str:
    """What -march=native depends on: the processor's name and abilities."""
    with suppress(OSError), open("/proc/cpuinfo") as file:
        wanted = ("model name", "flags", "Features", "CPU part")
        lines = {line.strip() for line in file if line.startswith(wanted)}
        return "\n".join(sorted(lines))
    return f"{platform.machine()} {platform.processor()}"
