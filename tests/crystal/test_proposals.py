"""nqs crystal generate with templates, candidates and guidance, training with templates and from
another run, as a user types them; what cannot be asked for ends in one line with exit code 2."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from nqs.cli.app import main
from nqs.crystal.commands.run_folder import read_trained
from nqs.crystal.datasets.examples import examples
from nqs.crystal.datasets.loading import add_prompts, encoded_part, load
from nqs.crystal.datasets.splits import split
from nqs.crystal.datasets.templates import Templates, exchanged
from nqs.crystal.model.descriptions import summed
from nqs.crystal.model.training import quality_after_templates
from nqs.crystal.structures.cif import cif_text, read_cif
from nqs.crystal.tokens.tokeniser import structure_type

TINY = [
    "model.d_model=16",
    "model.n_layers=1",
    "model.n_heads=2",
    "data.batch_tokens=1500",
    "data.max_atoms=6",
    "optimizer.warmup_steps=2",
    "optimizer.learning_rate=1e-2",
    "train.validate_every=8",
]
ASKED = ["data.conditions=[composition,space_group]"]


def crystal(*words: object) -> int:
    return main(["crystal", *map(str, words)])


def write_table(path: Path, step: int) -> Path:
    """Every step-th of the examples with at most six atoms."""
    known = [record for record in examples() if record.structure.n_atoms <= 6][::step]
    rows = [f'{r.name},{r.conditions.space_group},"{cif_text(r.structure)}"' for r in known]
    path.write_text("\n".join(["id,space_group,cif", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("tables") / "some.csv", 4)


@pytest.fixture(scope="module", params=["wyckoff", "coordinate"])
def trained(
    request: pytest.FixtureRequest, table: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run with templates on a quarter of the examples."""
    path = tmp_path_factory.mktemp("runs") / request.param
    words = [*TINY, *ASKED, f"data.tokeniser={request.param}", "data.templates=2"]
    words.append(f"data.train={table}")
    assert crystal("train", *words, "train.steps=24", f"run.dir={path}") == 0
    return path


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "samples.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_templates_alone_are_the_nearest_training_crystals(trained: Path, tmp_path: Path) -> None:
    """Against `Templates` on the run's training crystals; no likelihood is stated."""
    out = tmp_path / "out"
    words = ["n=3", "proposals=template", "like=test", "limit=4", f"out={out}"]
    assert crystal("generate", trained, *words) == 0
    run = read_trained(trained).config
    train, test = (split(name, run.data, run.seed) for name in ("train", "test"))
    templates = Templates([record.structure for record in train])
    wanted = [record.structure for record in test if record.structure.n_atoms <= 6][:4]
    expected = [
        (train[one.index].name, exchanged(train[one.index].structure, one))
        for row in templates.nearest([structure.composition for structure in wanted], 3)
        for one in row
    ]
    rows = rows_of(out)
    assert [row["source"] for row in rows] == [f"template {name}" for name, _ in expected]
    assert {row["log_likelihood"] for row in rows} == {""}
    for row, (_, structure) in zip(rows, expected, strict=True):
        found = read_cif(out / row["file"])
        assert found.composition == structure.composition
        assert found.volume == pytest.approx(structure.volume, rel=1e-3)
    assert crystal("evaluate", out, "baselines=true", "n=[1]") == 0
    columns = json.loads((out / "evaluation.json").read_text())["columns"]
    rates = [column["match_rate"] for column in columns.values() if "match_rate" in column]
    assert len(rates) >= 2 and rates[0] == rates[1]  # our own guesses are the template baseline


def test_both_draws_after_templates_and_falls_back_on_them(trained: Path, tmp_path: Path) -> None:
    """Guesses of a request differ in type until there are no more types (spglib may find more
    symmetry than tokens say, hence one less); templates come after what was drawn of their type."""
    out = tmp_path / "out"
    words = ["n=8", "proposals=both", "candidates=8", "like=test", "limit=2", f"out={out}"]
    assert crystal("generate", trained, *words) == 0
    rows = rows_of(out)
    assert len(rows) == 16 and {row["source"].split()[0] for row in rows} == {"model", "template"}
    for _, group in itertools.groupby(rows, key=lambda row: row["request"]):
        kinds = [structure_type(read_cif(out / row["file"])) for row in group]
        n_types = len({*kinds})
        assert len({*kinds[:n_types]}) >= n_types - 1
    again = tmp_path / "again"
    assert crystal("generate", trained, *words[:-1], f"out={again}") == 0
    assert (again / "samples.csv").read_text() == (out / "samples.csv").read_text()


def test_templates_of_a_space_group(trained: Path, tmp_path: Path) -> None:
    """Only those that have it; there are templates in others."""
    words = ["n=60", "proposals=template", "formula=NaCl"]
    for group in (None, 221):
        out = tmp_path / str(group)
        asked = [] if group is None else [f"space_group={group}"]
        assert crystal("generate", trained, *words, *asked, f"out={out}") == 0
        groups = {row["space_group"] for row in rows_of(out)}
        assert groups == {"221"} if group else len(groups) > 1


def test_candidates_of_the_model_alone(trained: Path, tmp_path: Path) -> None:
    """Of 12 draws three are kept: they are among the 12, the first of the most frequent type, and
    the likeliest of it."""
    every, best = tmp_path / "every", tmp_path / "best"
    words = ["formula=NaCl", "seed=5", "min_distance=null"]
    assert crystal("generate", trained, "n=12", *words, f"out={every}") == 0
    assert crystal("generate", trained, "n=3", "candidates=12", *words, f"out={best}") == 0
    drawn, kept = rows_of(every), rows_of(best)
    chances = [row["log_likelihood"] for row in drawn]
    assert len(kept) == 3 and {row["log_likelihood"] for row in kept} <= {*chances}


def test_a_training_crystal_is_no_template_for_itself(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["n=1", "proposals=template", "like=train", "limit=20", f"out={out}"]
    assert crystal("generate", trained, *words) == 0
    run = read_trained(trained).config
    train = [r for r in split("train", run.data, run.seed) if r.structure.n_atoms <= 6]
    for row in rows_of(out):
        assert row["source"] != f"template {train[int(row['request'])].name}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["proposals=both"], "templates are of a whole formula: give formula"),
        (
            ["proposals=templates", "formula=NaCl"],
            "proposals=templates: must be one of model, templ",
        ),
        (["proposals=template", "formula=NaCl", "candidates=3"], "candidates=3"),
        (["n=5", "candidates=4"], "candidates=4.*must be a whole number >= n=5"),
        (["guidance=2"], "guidance=2.*space_group, formation_energy or energy_above_hull"),
        (["guidance=-1", "space_group=225"], "guidance=-1"),
        (["steer=true", "min_distance=null"], "steer=true: keeps atoms min_distance apart"),
        (["proposals=template", "formula=Na5Cl"], "no training crystal has the numbers of atoms"),
    ],
)
def test_what_cannot_be_asked_for(
    trained: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert crystal("generate", trained, *words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and len(error) <= 400 and re.search(message, error), error


def test_steered_draws(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of crystals with free sites far fewer are thrown away, which is the default where the
    tokeniser can."""
    words = ["n=25", "seed=2", "min_distance=1.2", "formula=Na3Cl3", "space_group=1"]
    if read_trained(trained).config.data.tokeniser != "wyckoff":
        assert crystal("generate", trained, *words, "steer=true") == 2
        assert "steer=true: needs a run with data.tokeniser=wyckoff" in capsys.readouterr().err
        return
    rejected = {}
    for steer in ("false", "true", "null"):
        out = tmp_path / steer
        assert crystal("generate", trained, *words, f"steer={steer}", f"out={out}") == 0
        rejected[steer] = sum(int(row["n_rejected"]) for row in rows_of(out))
    assert rejected["null"] == rejected["true"] < 0.5 * rejected["false"]


def test_a_formula_is_held_to_a_space_group_without_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """wyckoff says the group after the formula: the grammar can ask for it, free draws cannot."""
    table = write_table(tmp_path / "mine.csv", 9)
    words = [*TINY, f"data.train={table}", "data.tokeniser=wyckoff", "data.templates=1"]
    run = tmp_path / "run"
    assert crystal("train", *words, "train.steps=3", f"run.dir={run}") == 0
    for source in ("model", "both"):
        asked = ["n=4", "formula=Na2Cl2", "space_group=8", f"proposals={source}", "at_most=0"]
        out = tmp_path / source
        assert crystal("generate", run, *asked, f"out={out}") == 0
        drawn = [row for row in rows_of(out) if row["source"] == "model"]
        assert drawn and all(row["asked_space_group"] == "8" for row in drawn)
        tokeniser = read_trained(run).tokeniser
        found = [tokeniser.group_of(tokeniser.encode(read_cif(out / r["file"]))) for r in drawn]
        assert found.count(8) >= len(found) - 1  # one may be rounded to a higher group
    capsys.readouterr()
    for asked in (["space_group=8"], ["formula=NaCl", "space_group=8", "guidance=2"],
                  ["formula=NaCl", "space_group=0"]):  # fmt: skip
        assert crystal("generate", run, *asked) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and re.search("space_group=|guidance=", error), error


def test_guided_generation(trained: Path, tmp_path: Path) -> None:
    """Strength 1 gives the files of no guidance; another strength others, in the group asked for
    where the tokeniser holds to it."""
    words = ["n=20", "space_group=225", "seed=2", "min_distance=null"]
    tables = {}
    for strength in ("1", "3"):
        out = tmp_path / strength
        assert crystal("generate", trained, *words, f"guidance={strength}", f"out={out}") == 0
        tables[strength] = (out / "samples.csv").read_text()
    plain = tmp_path / "plain"
    assert crystal("generate", trained, *words, f"out={plain}") == 0
    assert tables["1"] == (plain / "samples.csv").read_text() != tables["3"]


def test_training_with_templates_resumes_bit_for_bit(
    trained: Path, table: Path, tmp_path: Path
) -> None:
    """In two parts as in one."""
    name = read_trained(trained).config.data.tokeniser
    words = [*TINY, *ASKED, f"data.tokeniser={name}", "data.templates=2", "train.steps=24"]
    words.append(f"data.train={table}")
    path = tmp_path / "parts"
    short = ["train.max_seconds=1e-3", "train.checkpoint_every=3"]
    assert crystal("train", *words, *short, f"run.dir={path}") == 0
    resumed = ["run.resume=true", "train.max_seconds=null"]
    assert crystal("train", f"run.dir={path}", *resumed) == 0
    one, other = read_trained(trained).model.state_dict(), read_trained(path).model.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_training_starts_from_another_run(trained: Path, tmp_path: Path) -> None:
    """At a learning rate of nothing the parameters stay those of the other run, which were learnt
    from other crystals; its perplexity is at once better than that of a random start."""
    name = read_trained(trained).config.data.tokeniser
    table = write_table(tmp_path / "mine.csv", 9)
    words = [word for word in TINY if "learning_rate" not in word]
    words += [*ASKED, f"data.train={table}", f"data.tokeniser={name}", "data.templates=1"]
    words += ["train.steps=3", "optimizer.learning_rate=1e-15", "optimizer.muon=null"]
    first = {}
    for start in (trained, "null"):
        path = tmp_path / Path(str(start)).name
        assert crystal("train", *words, f"train.start={start}", f"run.dir={path}") == 0
        first[str(start)] = json.loads((path / "summary.json").read_text())["perplexity"]
    assert first[str(trained)] < 0.5 * first["null"]
    one = read_trained(trained).model.state_dict()
    other = read_trained(tmp_path / name).model.state_dict()
    for key in one:
        np.testing.assert_allclose(other[key], one[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.max_atoms=7"], "data.max_atoms=7: must be 6 as in train.start="),
        (["model.d_model=32"], "model.d_model=32: must be 16 as in train.start="),
        (["data.templates=0"], "data.templates=0: must be > 0 as in train.start="),
        (["data.features=false"], "data.features=false: must be true as in train.start="),
        (["data.tokeniser=cif"], "data.tokeniser=cif: must be .* as in train.start="),
    ],
)
def test_a_start_that_does_not_fit(
    trained: Path,
    tmp_path: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = read_trained(trained).config.data.tokeniser
    given = {"data.tokeniser": name, "data.templates": "2"} | dict(w.split("=") for w in words)
    keys = [f"{key}={value}" for key, value in given.items()]
    kept = [word for word in TINY if word.split("=")[0] not in given]
    start = [f"train.start={trained}", "train.steps=3", f"run.dir={tmp_path / 'new'}"]
    assert crystal("train", *kept, *keys, *start) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and len(error) <= 400 and re.search(message, error), error
    assert not (tmp_path / "new").exists()


def test_a_start_may_learn_with_another_dropout(trained: Path, tmp_path: Path) -> None:
    """Dropout has no parameters: a run without it may be fine-tuned with it."""
    name, table = read_trained(trained).config.data.tokeniser, write_table(tmp_path / "mine.csv", 9)
    words = [*TINY, *ASKED, f"data.train={table}", f"data.tokeniser={name}", "data.templates=1"]
    words += ["train.steps=3", "model.dropout=0.3", f"train.start={trained}"]
    assert crystal("train", *words, f"run.dir={tmp_path / 'new'}") == 0
    assert read_trained(tmp_path / "new").config.model.get("dropout", None) == 0.3


def test_what_is_not_said_is_as_in_the_start(trained: Path, tmp_path: Path) -> None:
    """Tokeniser, sizes, templates and network of the other run need not be written again."""
    table = write_table(tmp_path / "mine.csv", 9)
    words = [f"data.train={table}", "train.steps=3", f"train.start={trained}"]
    assert crystal("train", *words, f"run.dir={tmp_path / 'new'}") == 0
    one, other = (read_trained(path).config for path in (trained, tmp_path / "new"))
    assert one.model == other.model
    for name in ("tokeniser", "max_atoms", "features", "templates"):
        assert getattr(one.data, name) == getattr(other.data, name)
    assert other.data.batch_tokens != one.data.batch_tokens  # this is no part of the model


def test_a_start_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crystal("train", *TINY, "train.steps=3", f"train.start={tmp_path / 'none'}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "none" in error


def test_templates_need_the_training_table(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run whose table has changed since draws, but has no templates."""
    table = write_table(tmp_path / "mine.csv", 9)
    path = tmp_path / "run"
    name = read_trained(trained).config.data.tokeniser
    words = [*TINY, f"data.train={table}", f"data.tokeniser={name}", "train.steps=3"]
    assert crystal("train", *words, f"run.dir={path}") == 0
    shutil.copy(table, tmp_path / "kept.csv")
    table.write_text(table.read_text() + "\n")
    assert crystal("generate", path, "n=2", "formula=NaCl", f"out={tmp_path / 'one'}") == 0
    capsys.readouterr()
    assert crystal("generate", path, "n=2", "formula=NaCl", "proposals=both") == 2
    assert "is not what the run in" in capsys.readouterr().err


def test_evaluation_of_a_run_with_templates(trained: Path) -> None:
    """Nats after templates and over all descriptions, against the functions that compute them."""
    assert crystal("evaluate", trained, "translations=1", "descriptions=4") == 0
    content = json.loads((trained / "evaluation.json").read_text())
    (found,) = content["columns"].values()
    run = read_trained(trained)
    loaded = load(dataclasses.replace(run.config.data, templates=1), 0, run.tokeniser)
    test, _ = encoded_part("test", run.config.data, 0, run.tokeniser)
    parts = {"train": loaded.train, "test": test}
    add_prompts(parts, dataclasses.replace(run.config.data, templates=1), run.tokeniser)
    shown = [one for one in parts["test"] if one.prompts]
    assert found["n_shown"] == len(shown) > 0
    nats = quality_after_templates(run.model, run.tokeniser, shown, 512).nats
    assert found["nats_shown"] == pytest.approx(nats, rel=1e-4)
    sums = summed(run.model, run.tokeniser, [one.body for one in test[:4]])
    if run.tokeniser.canonical and sums is not None:
        assert found["nats_summed"] == pytest.approx(sums.nats_summed, rel=1e-4)
        assert found["nats_summed"] <= found["nats_written"]
    else:
        assert found["n_summed"] is None
