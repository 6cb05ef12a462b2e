"""Words to configurations: kinds, references, earlier keys; how a program was started."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nqs.cli.composition import compose
from nqs.cli.older_words import renamed
from nqs.cli.train import load_config
from nqs.errors import InputError
from nqs.ground_states.config import Config
from nqs.ground_states.distributed import started_by
from nqs.ground_states.run import program as program_of
from nqs.runfolder.invocation import program


def test_no_words_are_the_defaults() -> None:
    mapping, named = compose([])
    assert Config.from_dict(mapping) == Config() and named == {}
    mapping, _ = compose(["seed=1"], scan=True)
    assert mapping["scan"]["direction"] == "forward" and mapping["launcher"] == {
        "name": "sequential"
    }


def test_a_kind_brings_its_keys_wherever_it_is_written() -> None:
    mapping, named = compose(["model.cell=lstm", "model=rnn", "lattice.Ly=${lattice.Lx}"])
    assert mapping["model"]["cell"] == "lstm" and mapping["model"]["d_model"] == 64
    assert named == {"model.cell": "lstm", "model.name": "rnn", "lattice.Ly": 4}
    with pytest.raises(InputError, match=r"model\.cell: unknown key.*model=ptf has"):
        compose(["model.cell=lstm"])


OLDER = [
    ("train.flip_fraction=0.25", ["energies.flip_fraction=0.25"]),
    ("train.flip_precision=auto", ["energies.flip_precision=auto"]),
    ("train.flip_radius=null train.exact_fraction=null", []),
    ("train.flip_radius=2", ["energies=near_flips", "energies.flip_radius=2"]),
    ("energies=near_flips train.flip_radius=2", ["energies=near_flips", "energies.flip_radius=2"]),
    ("train.flip_radius=2 train.flip_precision=full",
     ["energies=near_flips", "energies.flip_radius=2"]),
    ("train.flip_radius=1,2 scan.zip=[train.flip_radius,train.exact_fraction]",
     ["energies=near_flips", "energies.flip_radius=1,2",
      "scan.zip=[energies.flip_radius,energies.exact_fraction]"]),
    ("scan.warm_start=train.flip_fraction", ["scan.warm_start=energies.flip_fraction"]),
    ("train.max_seconds=${train.flip_fraction}", ["train.max_seconds=${energies.flip_fraction}"]),
    ("run.dir=runs/train.flip_radius train.steps=5", ["run.dir=runs/train.flip_radius",
                                                      "train.steps=5"]),
]  # fmt: skip


@pytest.mark.parametrize(("words", "today"), OLDER, ids=[words for words, _ in OLDER])
def test_keys_of_earlier_versions(words: str, today: list[str]) -> None:
    assert renamed(words.split()) == today == renamed(today)


def test_keys_of_earlier_versions_end_to_end() -> None:
    config = load_config(
        ["train.flip_radius=2", "train.flip_fraction=0", "train.flip_precision=full"]
    )
    assert config.energies.to_mapping() == {
        "name": "near_flips", "flip_radius": 2.0, "exact_fraction": 0.125, "flip_fraction": 0.0,
    }  # fmt: skip
    with pytest.raises(InputError, match="scan energies=blurred,near_flips"):
        renamed(["train.flip_radius=null,2"])


DOORS = [
    ("train.py", ["python", "train.py"]),
    ("../nqs/train.py", ["python", "../nqs/train.py"]),
    ("/somewhere/nqs/__main__.py", ["python", "-m", "nqs", "train"]),
    ("/somewhere/bin/nqs", ["nqs", "train"]),
    ("/somewhere/pytest/__main__.py", ["nqs", "train"]),
]


@pytest.mark.parametrize(("file", "words"), DOORS)
def test_how_it_was_started(file: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The advice to resume works where the run was started."""
    monkeypatch.setattr(sys, "argv", [file, "anything"])
    assert program() == words
    assert program_of([*words, "-m", "seed=1", "run.dir=train"]) == words


@pytest.mark.parametrize(("file", "words"), DOORS)
def test_how_several_processes_are_started(
    file: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    name = [file] if Path(file).name == "train.py" else ["-m", "nqs", "train"]
    assert started_by(words) == ["torchrun", "--nproc-per-node=2", *name]
