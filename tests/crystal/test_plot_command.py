"""nqs crystal plot: what is in the pictures, that they are the same each time, and bad folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.text import Text
from prototypes import caesium_chloride, perovskite, rock_salt

from nqs.cli.app import main
from nqs.crystal.commands.contact_sheet import contact_sheet
from nqs.crystal.commands.distribution_picture import distributions
from nqs.crystal.commands.match_curve import match_curve
from nqs.crystal.commands.plot_run import evaluated, verdict_in_words
from nqs.crystal.datasets.examples import examples
from nqs.crystal.structures.cif import cif_text

for library in ("ase", "pymatgen", "smact", "spglib"):
    pytest.importorskip(library)

TINY = [
    *("model.d_model=8", "model.n_layers=1", "model.n_heads=1", "data.max_atoms=8"),
    *("optimizer.warmup_steps=0", "train.steps=4", "train.validate_every=2"),
]


def crystal(*words: object) -> int:
    return main(["crystal", *map(str, words)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, a run, free samples, and samples of test crystals, which are evaluated."""
    folder = tmp_path_factory.mktemp("made")
    rows = [f'm-{i},"{cif_text(r.structure)}"' for i, r in enumerate(examples()[::6])]
    (folder / "table.csv").write_text("\n".join(["id,cif", *rows]) + "\n")
    words = [*TINY, f"data.train={folder / 'table.csv'}", f"run.dir={folder / 'run'}"]
    assert crystal("train", *words) == 0
    assert crystal("generate", folder / "run", "n=9", f"out={folder / 'free'}") == 0
    like = ("n=2", "like=test", "limit=3", f"out={folder / 'like'}")
    assert crystal("generate", folder / "run", *like) == 0
    assert crystal("evaluate", folder / "like", "n=[1,2]") == 0
    return folder


@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("free", ["distributions.png", "structures.png"]),
        ("like", ["distributions.png", "structures.png", "matches.png"]),
        ("run", ["distributions.png", "structures.png"]),
    ],
)
def test_pictures_are_the_same_each_time(
    name: str, pictures: list[str], made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = []
    for _ in range(2 if name == "like" else 1):
        capsys.readouterr()
        assert crystal("plot", made / name, "structures=3", "at_most=9") == 0
        said = capsys.readouterr().out.splitlines()
        assert [Path(line).name for line in said] == pictures
        contents.append([(made / name / picture).read_bytes() for picture in pictures])
    assert contents[0] == contents[-1]
    for picture in pictures:
        image = imread(made / name / picture)
        assert image.shape[0] > 200 and np.ptp(image[..., :3]) > 0.5
    assert contents[0][0] != contents[0][1]


def words_of(figure) -> list[str]:
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_shares_are_of_the_crystals_of_each_set() -> None:
    """Three quarters of one set are rock salt (225), a quarter CsCl (221); the other has oxygen."""
    sets = {"ours": [rock_salt()] * 3 + [caesium_chloride()], "data": [perovskite(3.9, 38, 22)] * 2}
    figure = distributions(sets, "title")
    density, number, elements, groups = figure.axes
    heights = {
        axes: {
            (label.get_text(), k): bar.get_height()
            for k, bars in enumerate(axes.containers)
            for label, bar in zip(axes.get_xticklabels(), bars, strict=True)
        }
        for axes in (number, elements, groups)
    }
    assert heights[number] == {("2", 0): 1, ("3", 0): 0, ("2", 1): 0, ("3", 1): 1}
    assert heights[elements]["Na", 0] == heights[elements]["Cl", 0] == 1
    assert heights[elements]["O", 1] == 1 and heights[elements]["O", 0] == 0
    assert heights[groups]["225", 0] == 0.75 and heights[groups]["221", 0] == 0.25
    assert heights[groups]["221", 1] == 1
    assert "ours (4)" in words_of(figure) and "title" in words_of(figure)
    shares = [patch.get_data().values.sum() for patch in density.patches]
    assert shares == pytest.approx([1, 1])


def test_a_sheet_has_every_cell_with_its_caption() -> None:
    crystals = [rock_salt(), caesium_chloride(), perovskite(3.9, 38, 22)] * 3
    crystals = crystals[:7]  # a row and one more
    figure = contact_sheet(crystals, [f"caption {i} $x_{i}" for i in range(7)], "title")
    drawn = [axes for axes in figure.axes if axes.patches]
    assert len(drawn) == 7
    for axes, structure in zip(drawn, crystals, strict=True):
        assert len(axes.patches) >= structure.n_atoms
    captions = {f"caption {i} $x_{i}\n{s.density:.2f} g/cm³" for i, s in enumerate(crystals)}
    assert captions <= {*words_of(figure)}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["O", "Na", "Cl", "Ti", "Sr"]


def test_a_curve_ends_at_the_match_rate() -> None:
    rows = [{"column": "guesses, n=1", "rmse": rmse} for rmse in ("0.2", "", "0.1", "")]
    rows += [{"column": "nearest template, n=1", "rmse": "0.3"}] * 2
    figure = match_curve(rows, "title")
    (ours, theirs) = figure.axes[0].lines
    np.testing.assert_allclose(ours.get_xdata(), [0, 0.1, 0.2, 0.5])
    np.testing.assert_allclose(ours.get_ydata(), [0, 0.25, 0.5, 0.5])
    assert figure.axes[0].get_xlim()[0] < 0  # what is matched at once is seen beside the axis
    np.testing.assert_allclose(theirs.get_ydata()[-1], 1)
    assert {"guesses, n=1: 50.0 %", "nearest template, n=1: 100.0 %"} <= {*words_of(figure)}


def test_verdicts_in_words() -> None:
    assert verdict_in_words({}) == ""
    assert verdict_in_words({"valid": "0", "reason": "no crystal"}) == "invalid: no crystal"
    line = {"valid": "1", "unique": "1", "novel": "0", "nearest": "mp-1"}
    assert verdict_in_words(line) == "known: mp-1"
    assert verdict_in_words(line | {"novel": "1", "matched": "1", "rmse": "9.7e-17"}) == (
        "new, matched 0.000"
    )
    assert verdict_in_words({"valid": "1", "matched": "0", "reference": "a"}) == "not matched"
    assert verdict_in_words({"valid": "1", "matched": "0", "reference": ""}) == ""
    assert verdict_in_words({"valid": "1", "matched": "1", "rmse": "\x1b[31m"}) == "matched nan"


def test_rows_of_another_evaluation_are_not_shown(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "like"
    shutil.copytree(made / "like", folder)
    assert evaluated(folder, "references.csv") and evaluated(folder, "verdicts.csv")
    rows = (folder / "references.csv").read_text()
    (folder / "references.csv").write_text(rows.replace("test", "best").replace("0", "1"))
    capsys.readouterr()
    assert crystal("plot", folder, "structures=2", "at_most=9") == 0
    said = capsys.readouterr().out
    assert "references.csv: not of this evaluation.json; evaluate the folder again" in said
    assert "matches.png" not in said
    for text in ("", "[]", "{", "[" * 10_000, json.dumps({"rows": {"verdicts.csv": 3}})):
        (folder / "evaluation.json").write_text(text)
        assert evaluated(folder, "verdicts.csv") is None
        assert capsys.readouterr().out.count("\n") == 1
    (folder / "evaluation.json").unlink()
    assert evaluated(folder, "verdicts.csv") is None and capsys.readouterr().out == ""


BAD = [
    ("plot nowhere", ["nowhere: holds no run"]),
    ("plot", ["RUN|SAMPLES"]),
    ("plot FREE structures=0", ["structures=0", ">= 1 and <= 200"]),
    ("plot FREE structures=201", ["structures=201"]),
    ("plot FREE at_most=0", ["at_most=0", ">= 1"]),
    ("plot FREE workers=1e6", ["workers=1000000"]),
    ("plot FREE seed=-1", ["seed=-1", ">= 0"]),
    ("plot FREE against=nowhere.csv", ["against=nowhere.csv", "train, validation, test"]),
    ("plot FREE colour=red", ["colour", "unknown key"]),
    ("generate FREE at_most=-1", ["at_most=-1", ">= 0"]),
]


@pytest.mark.parametrize(("line", "expected"), BAD, ids=[line for line, _ in BAD])
def test_bad_input(
    line: str, expected: list[str], made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(made.rglob("*"))
    capsys.readouterr()
    assert main(["crystal", *line.replace("FREE", str(made / "free")).split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and len(error) <= 401, error
    for text in expected:
        assert text in error
    assert sorted(made.rglob("*")) == before
