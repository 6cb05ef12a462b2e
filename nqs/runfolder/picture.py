"""Pictures of a run: written whole, and titled by names that somebody else has chosen."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from nqs.runfolder.atomic import write_bytes

LONGEST_TITLE: Final = 80


def save(path: Path, figure: Figure) -> None:
    """Writes a figure as a PNG in one step. Raises OSError."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # in somebody's name
        figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())


def as_title(name: str) -> str:
    """A name as a title: what no font draws is escaped, and the middle of a long one left out."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
    return text if len(text) <= LONGEST_TITLE else f"{text[:40]} ... {text[-35:]}"
