"""While the modules of a command load: Ctrl-C, and the modules of the user's own kinds."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Within: Ctrl-C ends the program at once, without a word. Afterwards it is an exception."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def find_modules_here() -> None:
    """Modules in the current folder can be imported, as MODULE:CLASS on the command line wants."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
