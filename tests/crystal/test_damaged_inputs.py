"""Kinds 2 and 5: tables and samples that are missing, changed or hostile end in one line."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch

from nqs.cli.app import main
from nqs.crystal.datasets.examples import examples
from nqs.crystal.model.training import check_finite
from nqs.crystal.structures.cif import cif_text

TINY = [
    *("model.d_model=8", "model.n_layers=1", "model.n_heads=1", "data.max_atoms=8"),
    *("optimizer.warmup_steps=0", "train.validate_every=2", "train.checkpoint_every=1"),
]


def crystal(*words: object) -> int:
    return main(["crystal", *map(str, words)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, a run trained on it, and samples of its test crystals."""
    folder = tmp_path_factory.mktemp("made")
    rows = [f'm-{i},"{cif_text(r.structure)}"' for i, r in enumerate(examples()[::6])]
    (folder / "table.csv").write_text("\n".join(["id,cif", *rows]) + "\n")
    words = [*TINY, "train.steps=4", f"data.train={folder / 'table.csv'}"]
    assert crystal("train", *words, f"run.dir={folder / 'run'}") == 0
    samples = ("n=1", "like=test", "limit=3", f"out={folder / 'samples'}")
    assert crystal("generate", folder / "run", *samples) == 0
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy whose run and samples refer to their own table."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def one_line(capsys: pytest.CaptureFixture[str], *expected: str) -> None:
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert "Traceback" not in error and "\x1b" not in error
    for text in expected:
        assert text in error


@pytest.fixture
def own_table(made: Path):
    """The table of the run, put back afterwards."""
    path = made / "table.csv"
    content = path.read_bytes()
    yield path
    path.write_bytes(content)


@pytest.mark.parametrize("change", ["byte", "row", "gone"])
def test_a_table_that_has_changed(
    change: str, made: Path, own_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = own_table.read_bytes()
    if change == "byte":
        place = content.rindex(b"0.5")
        own_table.write_bytes(content[:place] + b"0.6" + content[place + 3 :])
    elif change == "row":
        own_table.write_bytes(content[: content.rindex(b"\nm-") + 1])
    else:
        own_table.unlink()
    commands = [
        ("train", f"run.dir={made / 'run'}", "run.resume=true", "train.patience=5"),
        ("generate", made / "run", "like=test", f"out={made / 'never'}"),
        ("evaluate", made / "samples"),
        ("evaluate", made / "run"),
    ]
    for words in commands:
        assert crystal(*words) == 2
        one_line(capsys, "table.csv")
    assert crystal("generate", made / "run", "n=1", f"out={made / change}") == 0  # needs no table


def test_the_digests_are_checked_themselves(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made / "run/tables.json"
    content = path.read_text()
    saved = json.loads(content)
    try:
        for text in ("{}", "[]", "{", "[" * 10_000, content.replace("sha256", "sha257", 1)):
            path.write_text(text)
            assert crystal("generate", made / "run", "n=1", f"out={made / 'never'}") == 2
            one_line(capsys, "tables.json: damaged")
        saved["vocabulary"] = {"sha256": "0" * 64}
        from nqs.runfolder.digests import vouched

        path.write_text(json.dumps(vouched({k: v for k, v in saved.items() if k != "sha256"})))
        assert crystal("generate", made / "run", "n=1", f"out={made / 'never'}") == 2
        one_line(capsys, "tokens are not those")
        path.unlink()  # a run from before there were digests
        assert crystal("generate", made / "run", "n=1", f"out={made / 'unchecked'}") == 0
    finally:
        path.write_text(content)


def test_missing_is_not_invalid(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once '0.00 % valid', exit code 0."""
    files = sorted((copy / "samples/cif").glob("*.cif"))
    files[1].unlink()
    assert crystal("evaluate", copy / "samples") == 2
    one_line(capsys, "1 of the 3 files of samples.csv are missing", "cif/000002.cif")
    shutil.rmtree(copy / "samples/cif")
    assert crystal("evaluate", copy / "samples") == 2
    one_line(capsys, "3 of the 3 files")
    assert not (copy / "samples/evaluation.json").exists()


@pytest.mark.parametrize("name", ["cif/000001.cif", "samples.csv", "config.yaml"])
def test_flipped_bits_of_samples(name: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "samples" / name
    content = path.read_bytes()
    dice = random.Random(0)
    for _ in range(5):
        flipped = bytearray(content)
        flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
        path.write_bytes(flipped)
        assert crystal("evaluate", copy / "samples") == 2
        one_line(capsys)
    path.write_bytes(content)
    assert crystal("evaluate", copy / "samples") == 0


def test_samples_that_somebody_relaxed(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "samples/cif/000001.cif"
    path.write_text(cif_text(examples()[0].structure))
    assert crystal("evaluate", copy / "samples") == 2
    one_line(capsys, "not what was generated", "delete SHA256SUMS")
    (copy / "samples/SHA256SUMS").unlink()
    assert crystal("evaluate", copy / "samples") == 0
    path.write_text("nothing")
    assert crystal("evaluate", copy / "samples") == 0
    assert "1 files hold no crystal and count as invalid" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("cif/000001.cif,0,", "cif/000001.cif,zero,", "line 2, request is zero"),
        ("cif/000001.cif,0,", "cif/000001.cif,-1,", "request is -1"),
        ("cif/000001.cif,0,", "cif/000001.cif,1e99,", "request is 1e99"),
        ("cif/000001.cif,0,", "cif/000001.cif,7,", "request 7 asked for"),
        ("cif/000001.cif,0,", "cif/000001.cif,\u0663,", "whole number"),
        ("cif/000001.cif,0,", "../../copy/samples/config.yaml,0,", "is not in this folder"),
        ("cif/000001.cif", "../../../../../../../../etc/passwd", "is not in this folder"),
        ("cif/000001.cif", "/etc/passwd", "is not in this folder"),
        ("cif/000001.cif", "", "is not in this folder"),
        ("cif/000001.cif", "cif/000002.cif", "is named twice"),
        ("cif/000001.cif", "link.cif", "is not in this folder"),
        ("cif/000001.cif", "cif/\x1b[31m.cif", r"\x1b[31m"),
        ("cif/000001.cif", "x" * 5000, "missing|too long"),
        ("cif/000001.cif,0,", "cif/000001.cif,0,0,0,", "line 2 has"),
        ("file,request", "file,query", "not a table"),
        ("file,request", "file,file", "not a table"),
        ("n_rejected,", "n_rejected\x00,", "zero bytes"),
    ],
)
def test_hostile_tables_of_samples(
    old: str, new: str, expected: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = copy / "samples"
    (samples / "SHA256SUMS").unlink()
    (samples / "link.cif").symlink_to("/etc/passwd")
    content = (samples / "samples.csv").read_text()
    assert old in content
    (samples / "samples.csv").write_text(content.replace(old, new, 1))
    assert crystal("evaluate", samples) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and len(error) <= 401 and "\x1b" not in error
    assert any(text in error for text in expected.split("|")), error


@pytest.mark.parametrize("content", ["", "file,request\n", "\n\n", '"', "{}"])
def test_empty_tables_of_samples(
    content: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "samples/SHA256SUMS").unlink()
    (copy / "samples/samples.csv").write_text(content)
    assert crystal("evaluate", copy / "samples") == 2
    one_line(capsys, "samples.csv")


def test_an_update_that_is_not_finite_is_not_kept() -> None:
    model = torch.nn.Linear(2, 2)
    check_finite(model, 3)  # type: ignore[arg-type]
    with torch.no_grad():
        model.weight[0, 0] = torch.inf
    with pytest.raises(FloatingPointError, match="step 3"):
        check_finite(model, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "line",
    [
        "train model.d_model=1e9",
        "train model.d_model=65536 model.n_layers=1000",
        "train model.d_ff=1e6 model.n_layers=1000",
        "train model.n_layers=1e12",
        "train data.max_atoms=1e9",
        "train data.batch_tokens=1e15",
        "train data.workers=1e6",
        "train train.steps=1e300",
        "train optimizer.learning_rate=1e300",
        "train optimizer.weight_decay=1e300",
        "train data.train={a:1}",
        "train model={a:1}",
        "train seed={a:1}",
        "train data.split=[1e400,0,0]",
        "train model.d_model=" + "9" * 5000,
        "train data.train=" + "x" * 5000,
        "train data.train=\x1b[31m.csv",
        "train \x1b[31m=1",
        "train --config FOLDER",
        "train --config DEEP",
        "generate RUN n=1e12",
        "generate RUN n=1e300",
        "generate RUN n=500000 like=test",
        "generate RUN batch_size=1e12",
        "generate RUN temperature=1e-300",
        "generate RUN temperature=1e300",
        "generate RUN seed=1e300",
        "generate RUN formula=Na999999999999999999999",
        "generate RUN formula=" + "Na" * 5000,
        "generate RUN partial=FIFO",
        "generate RUN partial=nowhere.cif",
        "generate RUN like=FIFO",
        "evaluate RUN workers=1e6",
        "evaluate RUN against=FOLDER",
        "evaluate FOLDER",
        "evaluate RUN n=[1e300]",
    ],
)
def test_absurd_sizes_are_refused_before_work(
    line: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import os

    os.mkfifo(tmp_path / "fifo.cif")
    (tmp_path / "folder").mkdir()
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 5000)
    names = {"FIFO": "fifo.cif", "FOLDER": "folder", "DEEP": "deep.yaml"}
    words = line.split(" ")
    words = [str(made / "run") if word == "RUN" else word for word in words]
    for name, file in names.items():
        words = [word.replace(name, str(tmp_path / file)) for word in words]
    if words[0] == "train":
        words.append(f"run.dir={tmp_path / 'run'}")
    if words[0] == "generate":
        words.append(f"out={tmp_path / 'out'}")
    assert crystal(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert len(error) <= 401 and "\x1b" not in error
    assert not (tmp_path / "run").exists() and not (tmp_path / "out").exists()
