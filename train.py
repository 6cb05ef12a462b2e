"""`python train.py ...` is `nqs train ...`, from a checkout that need not be installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nqs.__main__ import main as nqs


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    return nqs(["train", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
