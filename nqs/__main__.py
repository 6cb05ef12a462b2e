"""The command `nqs`, also `python -m nqs`; see nqs.cli."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Runs the command line; returns the exit code."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:  # Ctrl-C while modules load: end at once, without a word
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from nqs.cli.app import main as run

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()


if __name__ == "__main__":
    sys.exit(main())
