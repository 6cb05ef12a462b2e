"""How this program was started, so that what it advises works where it was started."""

from __future__ import annotations

import sys
from pathlib import Path


def program() -> list[str]:
    """The words before the keys of a run: python train.py, python -m nqs train or nqs train."""
    file = Path(sys.argv[0] if sys.argv else "")
    if file.name == "train.py":
        return ["python", sys.argv[0]]
    if file.name == "__main__.py" and file.parent.name == "nqs":
        return ["python", "-m", "nqs", "train"]
    return ["nqs", "train"]
