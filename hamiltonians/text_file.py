"""Text that people bring: any of the encodings editors write, bounded, and only from real files."""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path
from typing import Final

LARGEST: Final = 64 * 2**20
"""Bytes of text that are read at most unless the caller allows more."""

MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_text(path: str | Path, largest: int = LARGEST) -> str:
    """The content of a text file with lines that end in a newline alone.

    UTF-8 or UTF-16 by its byte order mark, which is dropped; without one UTF-8, and Latin-1 where
    the bytes are not that. Raises ValueError, one sentence without the file's name, for what is no
    regular file, cannot be read, is larger than `largest` bytes or holds zero bytes (binary data).
    """
    return decoded(read_bytes(path, largest))


def check_file(path: str | Path, wanted: str) -> None:
    """Raises ValueError, one line, where there is no such file; wanted: what it should be."""
    if not os.path.isfile(path):
        raise ValueError(
            f"file={shortened(str(path), 200)}: no such file; give the path of {wanted}"
        )


def read_bytes(path: str | Path, largest: int = LARGEST) -> bytes:
    """The bytes of a regular file of at most `largest`. Raises ValueError as `read_text` does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a fifo would wait for its writer
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    except ValueError:  # a zero byte in the name
        raise ValueError("cannot be read (not a file name)") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("cannot be read (not a regular file)")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(largest + 1)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    finally:
        os.close(descriptor)
    if len(data) > largest:
        raise ValueError(f"is larger than {largest / 2**20:.3g} MB, the most that is read")
    return data


def decoded(data: bytes) -> str:
    """Bytes as `read_text` understands them. Raises ValueError for binary data."""
    for mark, encoding in MARKS:
        if data.startswith(mark):
            try:
                text = data[len(mark) :].decode(encoding)
            except UnicodeDecodeError:
                raise ValueError(f"has the mark of {encoding} and is not that") from None
            break
    else:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    if "\0" in text:
        raise ValueError("holds zero bytes: it is not text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def shortened(text: str, length: int = 60) -> str:
    """The text in quotes, control characters escaped, cut after about `length` characters."""
    return repr(text if len(text) <= length else text[:length] + "...")
