"""nqs crystal train, generate and evaluate as a user types them: the shipped examples, resuming
after a signal and after kill -9, and bad input, which ends in one line with exit code 2."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from nqs.cli.app import main
from nqs.conf.words import value_of
from nqs.core import SequenceModel, Transformer
from nqs.crystal.commands.run_folder import read_trained
from nqs.runfolder.history import TIME_COLUMNS

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "model.d_model=16",
    "model.n_layers=1",
    "model.n_heads=2",
    "data.batch_tokens=1500",
    "data.max_atoms=8",
    "optimizer.warmup_steps=2",
    "optimizer.learning_rate=1e-2",
    "train.validate_every=8",
    "train.checkpoint_every=3",
]


def crystal(*words: object) -> int:
    return main(["crystal", *map(str, words)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the examples, long enough to have learnt something."""
    path = tmp_path_factory.mktemp("runs") / "run"
    assert crystal("train", *TINY, "train.steps=40", f"run.dir={path}") == 0
    return path


def test_examples_are_learnt(trained: Path) -> None:
    with h5py.File(trained / "run.h5") as file:
        perplexity = file["history/perplexity"][:]
        assert file["history/perplexity"].attrs["unit"] == "1"
    looked = perplexity[np.isfinite(perplexity)]
    assert len(looked) == 5 and looked[-1] < looked[0] / 2
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["perplexity"] == looked.min() and summary["steps"] == 40
    assert summary["n_crystals"] + summary["n_validation"] == pytest.approx(361 * 0.9, abs=1)
    found = {file.name for file in trained.iterdir()}
    assert {"config.yaml", "environment.json", "run.log", "learning_curve.png"} <= found


def test_one_class_serves_both(trained: Path) -> None:
    """The crystal model is the very class that the wavefunctions use, not a copy of it."""
    assert type(read_trained(trained).model) is Transformer is SequenceModel.kinds["ptf"]
    assert Transformer.__module__ == "nqs.core.transformer"


def test_the_best_parameters_are_read(trained: Path) -> None:
    """Tables that share features as what each token has of its own and what it shares."""
    saved = torch.load(max((trained / "checkpoints").iterdir()), weights_only=True)
    best, run = saved["optimizer"]["best"], read_trained(trained)
    features = torch.from_numpy(run.tokeniser.features()).float()
    for name, value in run.model.state_dict().items():
        if name in best:
            assert torch.equal(value, best[name])
        else:
            table = f"{name.removesuffix('.weight')}.parametrizations.weight"
            whole = best[f"{table}.original"] + features @ best[f"{table}.0.map"]
            torch.testing.assert_close(value, whole)


def without(key: str, run: Path, path: Path) -> Path:
    """A copy of a run from before the key data.KEY, in its files and its checkpoints."""
    older = shutil.copytree(run, path)
    lines = (older / "config.yaml").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(f"  {key}:")]
    assert len(kept) == len(lines) - 1
    (older / "config.yaml").write_text("".join(kept))
    (older / "digests.json").unlink()
    for file in (older / "checkpoints").iterdir():
        saved = torch.load(file, weights_only=True)
        del saved["config"]["data"][key]
        saved["format"] = "nqs checkpoint 1"
        torch.save(saved, file)
    return older


def test_a_run_from_before_a_key_can_be_used(trained: Path, tmp_path: Path) -> None:
    """It had what is now the default of a key that it does not have."""
    older = without("infilling", trained, tmp_path / "older")
    assert read_trained(older).step == read_trained(trained).step


def test_a_run_of_other_tokens_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = without("permute", trained, tmp_path / "older")
    for words in (["generate", older], ["train", f"run.dir={older}", "run.resume=true"]):
        assert crystal(*words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "before the coordinate tokeniser wrote the form" in error


def test_generate(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["n=4", "formula=SrTiO3", "seed=3"]
    assert crystal("generate", trained, *words, f"out={out}") == 0
    assert crystal("generate", trained, *words, f"out={tmp_path / 'again'}", "batch_size=256") == 0
    table = (out / "samples.csv").read_text()
    assert table == (tmp_path / "again/samples.csv").read_text()
    lines = table.splitlines()
    assert len(lines) == 5 and all("SrTiO3,,,,SrTiO3" in line for line in lines[1:])
    assert len(list((out / "cif").glob("*.cif"))) == 4
    assert not (out / "checkpoints").exists()


def test_evaluate(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crystal("evaluate", trained, "translations=2") == 0
    assert "perplexity a token" in capsys.readouterr().out
    out = tmp_path / "out"
    assert crystal("generate", trained, "n=2", "like=test", "limit=3", f"out={out}") == 0
    assert len((out / "samples.csv").read_text().splitlines()) == 7
    assert crystal("evaluate", out, "n=[1,2]", "baselines=false") == 0
    assert "match rate" in capsys.readouterr().out
    content = json.loads((out / "evaluation.json").read_text())
    assert len(content["columns"]) == 2


def test_what_is_thrown_away_is_counted(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two sodium and two chlorine atoms at least 1.5 Angstrom apart: not all draws are."""
    out = tmp_path / "out"
    words = ("n=2", "formula=Na2Cl2", "min_distance=1.5", f"out={out}")
    assert crystal("generate", trained, *words) == 0
    said = capsys.readouterr().out
    with (out / "samples.csv").open(newline="") as file:
        rejected = sum(int(line["n_rejected"]) for line in csv.DictReader(file))
    assert rejected > 0
    assert f"; {rejected} of {2 + rejected} draws had atoms closer than 1.5 Angstrom" in said
    assert crystal("evaluate", out) == 0
    capsys.readouterr()
    columns = json.loads((out / "evaluation.json").read_text())["columns"]
    assert columns["samples"]["kept"] == pytest.approx(2 / (2 + rejected))
    assert columns["samples"]["structural"] == 1 and columns["test set"]["kept"] is None


def test_ranked_draws_that_were_left_out_are_counted_too(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 12 draws kept two by two or all, as many are thrown away; the evaluation says so."""
    counts, shares = [], []
    for words in ("n=12", "n=2 candidates=12"):
        out = tmp_path / words
        asked = ["formula=Na2Cl2", "min_distance=1.5", "at_most=0", *words.split()]
        assert crystal("generate", trained, *asked, f"out={out}") == 0
        said = re.search(r"(\d+) of (\d+) draws", capsys.readouterr().out)
        assert said is not None
        counts.append([int(number) for number in said.groups()])
        assert crystal("evaluate", out, "baselines=false") == 0
        columns = json.loads((out / "evaluation.json").read_text())["columns"]
        shares.append(columns["samples"]["kept"])
    thrown_away, drawn = counts[0]
    assert counts[0] == counts[1] and thrown_away > 0 and drawn - thrown_away == 12
    assert shares == [pytest.approx(12 / drawn)] * 2


def test_an_element_may_be_called_no() -> None:
    """Nobelium, and nitrogen monoxide: YAML would read a boolean."""
    assert value_of("formula", "No") == "No" and value_of("formula", "NO") == "NO"
    assert value_of("steer", "true") is True and value_of("steer", "False") is False


def test_generation_from_a_run_that_was_never_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = [*TINY, "train.steps=40", "train.max_seconds=1e-3", f"run.dir={run}"]
    assert crystal("train", *words) == 0 and not read_trained(run).judged
    capsys.readouterr()
    assert crystal("generate", run, "n=1", "at_most=0", "min_distance=null") == 0
    said = capsys.readouterr().out
    assert "has not been judged yet" in said and "are valid" in said and "unique" not in said


def content(path: Path) -> tuple[dict, dict]:
    saved = torch.load(max((path / "checkpoints").iterdir()), weights_only=True)
    with h5py.File(path / "run.h5") as file:
        columns = {name: values[:] for name, values in file["history"].items()}
    return saved, columns


def assert_same_run(one: Path, other: Path) -> None:
    """Parameters, moments, best parameters, generator and history (but for times), bit for bit."""
    (first, columns), (second, others) = content(one), content(other)
    assert first["step"] == second["step"]
    for name, value in columns.items():
        if name not in TIME_COLUMNS:
            np.testing.assert_array_equal(value, others[name])
    for key in ("model", "generator"):
        assert str(first[key]) == str(second[key])
    left = [first["model"], first["optimizer"]["best"], *moments(first)]
    right = [second["model"], second["optimizer"]["best"], *moments(second)]
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def moments(saved: dict) -> list[dict]:
    return list(saved["optimizer"]["adamw"]["state"].values())


def start(path: Path, *words: str) -> subprocess.Popen[bytes]:
    code = "import sys; from nqs.cli.app import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, "crystal", "train", f"run.dir={path}", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_a_checkpoint(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not list(path.glob("checkpoints/step-*.pt")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.002)


def test_resumed_after_its_budget_is_uninterrupted(tmp_path: Path) -> None:
    words, path = [*TINY, "train.steps=24"], tmp_path / "run"
    assert crystal("train", *words, "train.max_seconds=0.02", f"run.dir={path}") == 0
    stopped = json.loads((path / "summary.json").read_text())["steps"]
    assert 0 < stopped < 24
    resume = ["run.resume=true", "train.max_seconds=null"]
    assert crystal("train", *resume, f"run.dir={path}") == 0
    assert crystal("train", *words, f"run.dir={tmp_path / 'whole'}") == 0
    assert_same_run(path, tmp_path / "whole")


def test_resume_starts_where_there_is_no_run(tmp_path: Path) -> None:
    """One command line for a job that is put back into its queue."""
    words = [*TINY, "train.steps=3", f"run.dir={tmp_path / 'run'}", "run.resume=true"]
    assert crystal("train", *words) == 0
    assert crystal("train", *words) == 0
    assert json.loads((tmp_path / "run/summary.json").read_text())["steps"] == 3
    sessions = json.loads((tmp_path / "run/environment.json").read_text())["sessions"]
    assert len(sessions) == 2


@pytest.mark.slow
def test_kill_and_signal(tmp_path: Path) -> None:
    """kill -9, then SIGTERM, then to the end: the uninterrupted run."""
    words, path = [*TINY, "train.steps=30"], tmp_path / "run"
    process = start(path, *words)
    wait_for_a_checkpoint(path, process)
    process.kill()
    process.communicate()
    process = start(path, "run.resume=true")
    time.sleep(0.5)
    while process.poll() is None and b"resumed" not in (path / "run.log").read_bytes():
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=120)
    assert process.returncode in (0, 128 + signal.SIGTERM), error.decode()
    if process.returncode:
        assert f"nqs crystal train run.dir={path} run.resume=true" in out.decode()
    for folder, extra in ((path, ["run.resume=true"]), (tmp_path / "whole", words)):
        process = start(folder, *extra)
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()
    assert_same_run(path, tmp_path / "whole")
    assert not list(path.rglob(".*")), "temporaries are left behind"


def test_patience_and_budget(tmp_path: Path) -> None:
    words = [word for word in TINY if not word.startswith(("train.", "optimizer.learning"))]
    words += ["train.steps=500", "train.validate_every=1"]
    budget = ["train.max_seconds=0.5", f"run.dir={tmp_path / 'budget'}"]
    assert crystal("train", *words, *budget) == 0
    summary = json.loads((tmp_path / "budget/summary.json").read_text())
    assert summary["status"].startswith("budget") and summary["steps"] < 500
    words += ["optimizer.learning_rate=1e-12", "train.patience=2"]
    assert crystal("train", *words, f"run.dir={tmp_path / 'patience'}") == 0
    summary = json.loads((tmp_path / "patience/summary.json").read_text())
    assert summary["status"].startswith("converged")


BAD = [
    ("train model.core=transfomer", ["model.core=transfomer", "gru", "did you mean transformer?"]),
    ("train model.n_heads=5", ["model.n_heads=5", "d_model=128", "1, 2, 4"]),
    ("train model.dmodel=5", ["model.dmodel", "did you mean model.d_model?"]),
    ("train d_model=5", ["d_model", "did you mean model.d_model?"]),
    ("train model.d_model=wide", ["model.d_model=wide", "whole number"]),
    ("train model.d_model", ["model.d_model", "key=value"]),
    ("train seed=1 seed=2", ["seed", "twice"]),
    ("train data.train=nowhere.csv", ["data.train=nowhere.csv", "no such file"]),
    ("train data.train=letter.csv", ["letter.csv", "cif"]),
    ("train data.tokeniser=words", ["data.tokeniser=words", "coordinate"]),
    ("train data.tokeniser=wyckoff data.permute=true", ["data.permute=true", "equivalents=true"]),
    ("train data.tokeniser=wyckoff data.translate=true", ["data.translate=true", "wyckoff"]),
    ("train data.equivalents=true", ["data.equivalents=true", "no token", "coordinate"]),
    ("train data.split=[0.5,0.1,0.1]", ["data.split=[0.5,0.1,0.1]", "add up to 1"]),
    ("train data.conditions=[colour]", ["data.conditions=colour", "composition"]),
    (
        "train data.conditions=[formation_energy]",
        ["formation_energy", "no crystal of examples", "formation_energy_per_atom, heat_all"],
    ),
    ("train data.split=[0.999,0.001,0]", ["data.split=[0.999", "no crystal is left"]),
    ("train data.workers=0", ["data.workers=0", ">= 1"]),
    ("train data.infilling=1", ["data.infilling=1", "[0, 1)"]),
    ("train data.max_atoms=1", ["data.train", "no crystal is left"]),
    ("train optimizer.learning_rate=0", ["optimizer.learning_rate=0", ">= 1e-15"]),
    ("train optimizer.warmup_steps=9 train.steps=5", ["optimizer.warmup_steps=9", "train.steps=5"]),
    ("train train.precision=float16", ["train.precision=float16", "bfloat16"]),
    ("train train.patience=0", ["train.patience=0", ">= 1"]),
    ("train run.resume=true", ["run.resume=true", "run.dir=PATH"]),
    ("train run.resume=true run.dir=nowhere", ["nowhere: holds no run"]),
    ("train run.resume=true run.dir=. seed=1", [".: holds no run"]),
    ("train run.resume=true run.dir=RUN seed=5", ["seed=5", "has 0", "train.max_seconds"]),
    ("train run.dir=RUN", ["run.dir=", "already holds a run", "run.resume=true"]),
    ("train --config letter.csv", ["letter.csv", "mapping"]),
    ("generate nowhere", ["nowhere: holds no run"]),
    ("generate RUN n=0", ["n=0", ">= 1"]),
    ("generate RUN number=3", ["number", "unknown key"]),
    ("generate RUN formula=sodium", ["formula=sodium", "SrTiO3"]),
    ("generate RUN formula=Xy2", ["formula=Xy2", "no element"]),
    ("generate RUN formula=Na40", ["at most 8"]),
    ("generate RUN space_group=5", ["space_group=5", "composition"]),
    ("generate RUN temperature=0", ["temperature=0", "> 0"]),
    ("generate RUN top_p=2", ["top_p=2", "<= 1"]),
    ("generate RUN min_distance=0", ["min_distance=0", "> 0 and <= 20, or null"]),
    ("generate RUN min_distance=.inf", ["min_distance=inf", "finite"]),
    ("generate RUN min_distance=1e300", ["min_distance=1e+300", "<= 20"]),
    ("generate RUN formula=", ["formula=", "no value", "formula=null"]),
    ("generate RUN formula=Na٣Cl", ["formula=Na", "symbols and numbers"]),
    ("generate RUN proposals=both", ["proposals=both", "formula=SrTiO3"]),
    ("generate RUN like=nowhere.csv", ["like=nowhere.csv", "train, validation, test"]),
    ("generate RUN limit=5", ["limit=5", "like=TABLE"]),
    ("generate RUN out=RUN", ["out=", "not an empty folder"]),
    ("evaluate nowhere", ["nowhere: holds no run"]),
    ("evaluate RUN coverage=qm9", ["coverage=qm9", "perov_5"]),
    ("evaluate RUN oxidation_states=guess", ["oxidation_states=guess", "smact14"]),
    ("evaluate RUN against=nowhere.csv", ["against=nowhere.csv"]),
]


@pytest.mark.parametrize(("line", "expected"), BAD, ids=[line for line, _ in BAD])
def test_bad_input(
    line: str,
    expected: list[str],
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letter.csv").write_text("dear reader\n")
    before = sorted(trained.rglob("*"))
    assert main(["crystal", *line.replace("RUN", str(trained)).split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    for text in expected:
        assert text in error
    assert [file.name for file in tmp_path.iterdir()] == ["letter.csv"]
    assert sorted(trained.rglob("*")) == before


def test_samples_of_a_run_without_test_crystals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are compared with its validation crystals, unless the test crystals are asked for."""
    words = [*TINY, "data.split=[0.8,0.2,0.0]", "train.steps=3", f"run.dir={tmp_path / 'run'}"]
    assert crystal("train", *words) == 0
    out = tmp_path / "out"
    assert crystal("generate", tmp_path / "run", "n=2", "min_distance=null", f"out={out}") == 0
    assert crystal("evaluate", out, "baselines=false") == 0
    first = (out / "evaluation.json").read_text()
    assert crystal("evaluate", out, "baselines=false", "against=validation") == 0
    assert (out / "evaluation.json").read_text() == first
    capsys.readouterr()
    assert crystal("evaluate", out, "against=test") == 2
    assert capsys.readouterr().err == "error: against=test: holds no crystal; give another table\n"
