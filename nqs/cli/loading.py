"""What must be settled before the modules of a command load: Ctrl-C, threads, where modules are."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

# Idle threads spin this often, then sleep. On two cores: within 5 % of the default, endless
# spinning, on a machine of one's own; with 1000 spins half its time beside a second run. Sleeping
# at once costs 1.3 to 1.9 times on one's own. Must be said before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")


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
