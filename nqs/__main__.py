"""The command `nqs`, also `python -m nqs` and `python train.py`; see nqs.cli."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nqs.cli.loading import loading


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    with loading():
        from nqs.cli.app import main as run
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
