"""A console that may go away: `| head`, a terminal that closes, a full disk behind >, an encoding
that lacks a character. None of it ends a run; run.log has every line."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from typing import TextIO


class LastingStream(io.TextIOBase):
    """Writes to a stream as long as that takes it.

    Args:
        stream: where to write; None (sys.stdout of a process without one) is nowhere.
        lost: called once, with the reason, when it takes no more.
    """

    def __init__(self, stream: TextIO | None, lost: Callable[[str], None]) -> None:
        self._stream = stream
        self._lost = lost

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream: rich draws its bar in characters that it has."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether somebody is looking."""
        return self._stream is not None and not self._stream.closed and self._stream.isatty()

    def fileno(self) -> int:
        """Of the stream."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Writes what the encoding has and escapes for the rest."""
        if self._stream is not None:
            try:
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    self._stream.write(escaped(text, self.encoding))
            except (OSError, ValueError) as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Passes on what was written."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """What the stream still holds goes nowhere too, lest Python fails over it at its end."""
        stream, self._stream = self._stream, None
        assert stream is not None
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        self._lost(getattr(error, "strerror", None) or str(error))


def escaped(text: str, encoding: str) -> str:
    """Text in an encoding, what that lacks as \\x.. and \\u...."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def tell(line: str, stream: TextIO | None) -> None:
    """A line for a stream that may be gone."""
    lasting = LastingStream(stream, lambda reason: None)
    lasting.write(line + "\n")
    lasting.flush()
