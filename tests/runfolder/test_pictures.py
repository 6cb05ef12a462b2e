"""Pictures with any name for a title: no warning, which is an error here, and never too long."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from nqs.crystal.commands.learning_curve import save_curve
from nqs.runfolder.history import ELAPSED, STEP, Column, RunFile
from nqs.runfolder.picture import as_title, save


@pytest.mark.parametrize("name", ["run", "$x$", "$", "a\nb", "\x1b[31m", "\udc80", "水" * 80])
def test_any_name_is_a_title(name: str, tmp_path: Path) -> None:
    title = as_title(name)
    assert title.isprintable() and len(title) <= 80
    assert title == name or not name.isprintable() or len(name) > 80
    figure = Figure(figsize=(2, 1))
    figure.suptitle(title, parse_math=False)
    save(tmp_path / "picture.png", figure)
    columns = (STEP, Column("loss", "", ""), Column("perplexity", "", ""), ELAPSED)
    content = RunFile(columns)
    content.append({"step": 1, "loss": 0.5, "perplexity": 2.0}, 1.0)
    save_curve(tmp_path / "curve.png", content, name)
    for file in ("picture.png", "curve.png"):
        assert (tmp_path / file).read_bytes().startswith(b"\x89PNG")
