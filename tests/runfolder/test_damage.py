"""Kind 2, damage that goes unnoticed: flipped bits, edited copies, missing files, states that are
no numbers. Random flips are in tests/campaigns."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from test_ground_state_run import TINY, assert_same_run, parameters, result, run

from nqs.cli.app import main as nqs
from nqs.errors import InputError
from nqs.ground_states import later_evaluation, summary
from nqs.ground_states.build import build
from nqs.ground_states.run import run as run_job
from nqs.ground_states.run_file import read as read_run_file
from nqs.ground_states.run_folder import START, read_config, reopen, resumed_config
from nqs.runfolder import checkpoint, digests, environment, folder
from nqs.runfolder.environment import DAMAGED
from nqs.runfolder.folder import LARGEST_CONFIG, describe, saved_mapping

STRINGS = "-1 Z0 Z1\n-1 Z1 Z2\n-0.5 X0\n-0.5 X1\n-0.5 X2\n-0.5 X3\n"
MINSR = {
    **{"name": "minsr", "learning_rate": 0.2, "diagonal_shift": 5e-3, "momentum": 0.9},
    **{"max_norm": None, "implicit": True, "memory_gb": 1.0, "schedule": "constant"},
    **{"warmup_steps": 0, "final_fraction": 1.0, "final_shift_fraction": 1e-9},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight steps with an input file that is gone."""
    folder = tmp_path_factory.mktemp("damage")
    (folder / "strings.txt").write_text(STRINGS)
    hamiltonian = {"name": "pauli", "file": str(folder / "strings.txt")}
    assert run(folder / "run", hamiltonian=hamiltonian) == 0
    (folder / "strings.txt").unlink()
    return folder / "run"


@pytest.fixture
def damaged(finished: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(finished, tmp_path / "run")


def resume(path: Path, **given: Any) -> int:
    keys = {key.replace("__", "."): value for key, value in given.items()}
    return run_job(resumed_config(path, keys), ["python", "train.py"])


def flip(path: Path, byte: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_any_bit_of_a_checkpoint(
    share: float, damaged: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The older one serves, and the run ends as it had."""
    newest = max((damaged / "checkpoints").iterdir())
    flip(newest, int(share * (newest.stat().st_size - 1)), bit=3)
    assert resume(damaged) == 0
    assert f"warning: {newest} cannot be used" in capsys.readouterr().out
    assert_same_run(damaged, finished)


def test_an_edited_coupling(damaged: Path) -> None:
    copy = damaged / "inputs/hamiltonian.txt"
    copy.write_text(copy.read_text().replace("-0.5 X3", "-0.6 X3"))
    for read in (lambda: resume(damaged), lambda: later_evaluation.evaluate_later(damaged, 50, 1)):
        with pytest.raises(InputError, match=r"inputs/hamiltonian\.txt: is not as it was"):
            read()


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("steps: 8", "steps: 9", r"train\.steps=9, was 8; put it back"),
        ("eval_samples: 64", "eval_samples: 65", r"train\.eval_samples=65, was 64"),
        ("seed: 3", "seed: 4", "seed=4, was 3"),
        ("exact: auto", "exact: false", r"train\.exact=false, was auto"),
        (
            "learning_rate: 0.01",
            "learning_rate: 0.02",
            r"optimizer\.learning_rate=0\.02, was 0\.01",
        ),
        ("  start_from: null\n", "", r"train\.start_from is gone, was null"),
    ],
)
def test_an_edited_configuration(old: str, new: str, line: str, damaged: Path) -> None:
    file = damaged / "config.yaml"
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=line) as caught:
        resume(damaged)
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)
    file.write_text("# a remark\n" + text)  # says the same
    assert resume(damaged, train__steps=9) == 0 and result(damaged)["steps"] == 9


def test_damaged_digests(damaged: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They can be deleted by who knows better; from then on others vouch."""
    flip(damaged / "digests.json", 200)
    with pytest.raises(InputError, match=r"digests\.json: damaged .* delete it"):
        resume(damaged)
    (damaged / "digests.json").unlink()
    assert resume(damaged) == 0
    assert "nothing vouches" in capsys.readouterr().out
    assert "nothing vouches" in result(damaged)["notes"][0]
    assert resume(damaged) == 0
    assert "nothing vouches" not in capsys.readouterr().out
    assert_same_run(damaged, finished)


def test_damaged_history_and_summary(damaged: Path) -> None:
    flip(damaged / "summary.json", (damaged / "summary.json").read_text().index('"energy": -') + 12)
    with pytest.raises(InputError, match=r"summary\.json: no readable summary"):
        summary.read(damaged / "summary.json")
    assert resume(damaged) == 0
    summary.read(damaged / "summary.json")
    flip(damaged / "run.h5", 3000)
    with pytest.raises(InputError, match=r"run\.h5: not a readable run\.h5, it is damaged"):
        resume(damaged)


def test_any_bit_of_a_summary_that_changes_it(damaged: Path) -> None:
    """Names of keys too, that of the digest among them."""
    file = damaged / "summary.json"
    right = summary.read(file)
    for byte in range(0, file.stat().st_size, 3):
        flip(file, byte, bit=byte % 7)
        with contextlib.suppress(InputError):
            assert summary.read(file) == right
        flip(file, byte, bit=byte % 7)
    content = file.read_text()
    for name in ("sha257", "sha", ""):
        file.write_text(content.replace('"sha256"', f'"{name}"'))
        with pytest.raises(InputError, match="lost its name"):
            summary.read(file)


def test_damaged_description_is_put_aside(
    damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = damaged / "environment.json"
    before = file.read_bytes()
    flip(file, file.read_text().index('"seed": 3') + 8)
    assert resume(damaged) == 0
    assert "note: environment.json was damaged" in capsys.readouterr().out
    assert len((damaged / DAMAGED).read_bytes()) == len(before)
    first, second = json.loads(file.read_text())["sessions"]
    assert "damaged" in first["note"] and second["seed"] == 3


MISSING: dict[str, tuple[str, str]] = {
    "checkpoints": ("checkpoints", r"run/checkpoints: missing; restore"),
    "all checkpoints": ("checkpoints/*", r"run/checkpoints: all missing, run\.h5 knows of one"),
    "history": ("run.h5", r"run/run\.h5: missing, the checkpoint is at step 8"),
    "input": ("inputs/hamiltonian.txt", r"run/inputs/hamiltonian\.txt: missing; restore"),
    "inputs": ("inputs", r"run/inputs/hamiltonian\.txt: missing; restore"),
    "configuration": ("config.yaml", r"run: holds no run \(its config\.yaml is missing\)"),
}


@pytest.mark.parametrize("name", MISSING)
def test_missing_files_are_missing(name: str, damaged: Path) -> None:
    pattern, line = MISSING[name]
    for path in list(damaged.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=line):
        resume(damaged)


def test_a_start_is_verified(tmp_path: Path, finished: Path) -> None:
    source = shutil.copytree(finished, tmp_path / "source")
    hamiltonian = {"name": "pauli", "file": str(source / "inputs/hamiltonian.txt")}
    started = {"hamiltonian": hamiltonian, "train__start_from": str(source)}
    assert run(tmp_path / "run", train__steps=2, **started) == 0
    copy = tmp_path / "run" / START
    content = copy.read_bytes()
    for file in (tmp_path / "run/run.h5", *(tmp_path / "run/checkpoints").iterdir()):
        file.unlink()  # as if killed before the first checkpoint
    flip(copy, len(content) // 2)
    with pytest.raises(InputError, match=r"start\.pt: cannot be read \(its content does not fit"):
        resume(tmp_path / "run")
    copy.unlink()
    with pytest.raises(InputError, match=r"start\.pt: missing"):
        resume(tmp_path / "run")
    copy.write_bytes(content)
    assert resume(tmp_path / "run") == 0
    for file in (source / "checkpoints").iterdir():
        flip(file, 1000)
    with pytest.raises(InputError, match=r"train\.start_from=.*no readable checkpoint"):
        run(tmp_path / "other", **started)


def without_seals(path: Path) -> None:
    """As a run from before seals and digests is."""
    (path / "digests.json").unlink()
    for file in (path / "checkpoints").iterdir():
        content = torch.load(file, weights_only=True)
        torch.save(content | {"format": "nqs checkpoint 1"}, file)
    content = io.BytesIO((path / "run.h5").read_bytes()[: -digests.SEAL])
    with h5py.File(content, "r+") as file:
        file.attrs["format"] = "nqs run 1"
        del file.attrs["saved_step"]
    (path / "run.h5").write_bytes(content.getvalue())
    for name in ("summary.json", "environment.json"):
        mapping = json.loads((path / name).read_text())
        del mapping["sha256"]
        (path / name).write_text(json.dumps(mapping))


def test_a_run_from_before_digests(
    damaged: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_seals(damaged)
    assert nqs(["evaluate", str(damaged), "--samples", "50"]) == 0
    assert resume(damaged) == 0
    assert "nothing vouches" in capsys.readouterr().out
    assert_same_run(damaged, finished)
    assert len(json.loads((damaged / "environment.json").read_text())["sessions"]) == 2
    assert digests.read(damaged) is not None


def test_a_seal_that_is_gone(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cut off, as a copy that ended early: what should be sealed and is not is no older run."""
    newest = max((damaged / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[: -digests.SEAL])
    history_file = damaged / "run.h5"
    whole = history_file.read_bytes()
    history_file.write_bytes(whole[: -digests.SEAL])
    with pytest.raises(InputError, match="its seal is gone"):
        resume(damaged)
    history_file.write_bytes(whole)
    assert resume(damaged) == 0
    assert "its seal is gone" in capsys.readouterr().out


@pytest.mark.parametrize("older", [False, True])
def test_killed_while_the_configuration_is_replaced(
    older: bool, damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File and digest agree after every write of a session that begins."""
    if older:
        without_seals(damaged)
    config = resumed_config(damaged, {"train.steps": 9})
    wavefunction = build(config).wavefunction
    written: list[Path] = []
    original = digests.write_text

    def checked(path: Path, text: str) -> None:
        original(path, text)
        written.append(path)
        assert read_config(damaged).train.steps in (8, 9)
        saved_mapping(damaged)

    monkeypatch.setattr(digests, "write_text", checked)
    for writer in (folder, environment):
        monkeypatch.setattr(writer, "write_text", checked)
    reopen(damaged, config, wavefunction, ["python"])
    names = ["digests.json", "config.yaml", "digests.json", "environment.json"]
    assert [path.name for path in written] == names


def test_an_update_that_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither it nor what comes of it is saved as the last good checkpoint."""
    from nqs.vmc.optimizers.natural_gradient import NaturalGradient

    original = NaturalGradient.update

    def broken(self: NaturalGradient, *arguments: Any) -> torch.Tensor:
        update = original(self, *arguments)
        return update * torch.nan if self.step == 6 else update

    changes = {"optimizer": MINSR, "train__checkpoint_every": 1}
    with monkeypatch.context() as patch:
        patch.setattr(NaturalGradient, "update", broken)
        assert run(tmp_path / "run", **changes) == 1
    assert "not finite" in capsys.readouterr().err
    assert result(tmp_path / "run")["status"] == "failed"
    names = sorted(file.name for file in (tmp_path / "run/checkpoints").iterdir())
    assert names == ["step-000000004.pt", "step-000000005.pt"]
    assert all(bool(p.isfinite().all()) for p in parameters(tmp_path / "run").values())
    assert run(tmp_path / "run", run__resume=True, **changes) == 0
    assert run(tmp_path / "whole", **changes) == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("where", ["model", "optimizer"])
def test_a_saved_state_that_is_not_finite(
    where: str, damaged: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As older versions saved it: the one before serves."""
    newest = max((damaged / "checkpoints").iterdir())
    content = torch.load(newest, weights_only=True)
    tensors = [value for value in content[where].values() if isinstance(value, torch.Tensor)]
    tensors[-1].view(-1)[0] = torch.nan
    buffer = io.BytesIO()
    torch.save(content, buffer)
    newest.write_bytes(digests.sealed(buffer.getvalue()))
    assert resume(damaged) == 0
    assert "not finite" in capsys.readouterr().out
    assert_same_run(damaged, finished)
    with pytest.raises(FloatingPointError, match="after step 9 are not finite"):
        checkpoint.save(damaged / "checkpoints", generators=content["generator"], step=9,
                        elapsed=1.0, config=content["config"], model=content["model"],
                        optimizer=content["optimizer"])  # fmt: skip


def test_a_sector_may_hold_minus_infinity(tmp_path: Path) -> None:
    """ln 0 of configurations with another number of 1 bits is no damage."""
    chain = {"name": "heisenberg", "J": 1.0, "h": 0.0, "marshall": True}
    changes = {"hamiltonian": chain, "model": TINY["model"] | {"n_up": 2}, "train__steps": 2}
    assert run(tmp_path / "run", **changes) == 0
    assert any(bool(p.isinf().any()) for p in parameters(tmp_path / "run").values())
    assert run(tmp_path / "run", run__resume=True, **changes) == 0


def test_a_dataset_has_its_own_checksum(finished: Path) -> None:
    with h5py.File(finished / "run.h5") as file:
        sets: list[h5py.Dataset] = []
        file.visititems(lambda _, x: sets.append(x) if isinstance(x, h5py.Dataset) else None)
        assert len(sets) > 20 and all(x.fletcher32 or not x.shape for x in sets)


HOSTILE: dict[str, Callable[[h5py.File], Any]] = {
    "columns of unequal length": lambda f: replace(f, "history/energy", np.zeros(5)),
    "text for numbers": lambda f: replace(f, "history/energy", np.array([b"a"] * 8)),
    "a table for a column": lambda f: replace(f, "history/energy", np.zeros((8, 2))),
    "steps out of order": lambda f: replace(f, "history/step", np.zeros(8)),
    "a group for a column": lambda f: (f.pop("history/energy"), f.create_group("history/energy")),
    "no history": lambda f: f.pop("history"),
    "another format": lambda f: f.attrs.update({"format": "nqs run 9"}),
    "an evaluation without an energy": lambda f: f["evaluations/0001"].attrs.pop("energy"),
    "text for an energy": lambda f: f["evaluations/0001"].attrs.update({"energy": "low"}),
    "an array for an energy": lambda f: f["evaluations/0001"].attrs.update({"energy": [1.0, 2]}),
    "a step that is huge": lambda f: f["evaluations/0001"].attrs.update({"step": 2**63 + 5}),
    "NaN for an energy": lambda f: f["evaluations/0001"].attrs.update({"energy": np.nan}),
    "an error of another shape": lambda f: replace(f, "evaluations/0001/density/error", np.ones(9)),
    "a number for an evaluation": lambda f: f.create_dataset("evaluations/0002", data=1.0),
    "endless": lambda f: (
        f.pop("history/energy"),
        f.create_dataset("history/energy", shape=(2**40,), chunks=(2**16,), dtype="f8"),
    ),
    "a link to another file": lambda f: (
        f.pop("history/energy"),
        f["history"].__setitem__("energy", h5py.ExternalLink("/etc/passwd", "/x")),
    ),
    "data in another file": lambda f: (
        f.pop("history/energy"),
        f.create_dataset(
            "history/energy", shape=(8,), dtype="f8", external=[("/etc/passwd", 0, 64)]
        ),
    ),
}


def replace(file: h5py.File, name: str, values: np.ndarray) -> None:
    del file[name]
    file[name] = values


@pytest.mark.parametrize("name", HOSTILE)
def test_nonsense_in_a_sealed_history(name: str, damaged: Path) -> None:
    """The seal of a stranger vouches for nothing: the content is checked as well."""
    content = io.BytesIO((damaged / "run.h5").read_bytes()[: -digests.SEAL])
    with h5py.File(content, "r+") as file:
        HOSTILE[name](file)
    (damaged / "run.h5").write_bytes(digests.sealed(content.getvalue()))
    with pytest.raises(InputError, match=r"run\.h5: not a readable run\.h5 \(") as caught:
        read_run_file(damaged / "run.h5")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_the_configuration_survives_its_file(tmp_path: Path) -> None:
    """What YAML and JSON make of odd values is the same."""
    names = ["a b:c", "$x$", "\udc80\x1b[31m", "line\nbreak", "ä水\x85 ", "yes", "1e5", "~", "- x"]
    for number, name in enumerate(names):
        mapping = {"run": {"dir": name}, "x": [1, 1.0, True, None, 1e-300, 7.0e22]}
        folder = tmp_path / f"{number}"
        folder.mkdir()
        describe(folder, mapping, {})
        assert saved_mapping(folder) == mapping
        changed = yaml.safe_load((folder / "config.yaml").read_text())
        changed["x"][0] = True
        (folder / "config.yaml").write_text(yaml.safe_dump(changed))
        with pytest.raises(InputError, match="x="):
            saved_mapping(folder)


def test_a_configuration_of_another_shape_is_bounded(tmp_path: Path) -> None:
    """References that grow, brackets without end, other encodings: a line, at once."""
    letters = "abcdefgh"
    steps = [f"{b}: &{b} [*{a},*{a}]" for a, b in itertools.pairwise(letters)]
    texts = [
        "\n".join(["a: &a [1,1]", *steps]),
        "a: " + "[" * 20_000,
        "a: 2001-99-99",
        "a: !!int ''",
        "a: " + "1" * 6000,
        "a: !!python/object:os.system {}",
        "x" * (LARGEST_CONFIG + 1),
    ]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/config.yaml").write_text(text)
        with pytest.raises(InputError, match=r"config\.yaml") as caught:
            read_config(tmp_path / f"{number}")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero/config.yaml").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="not a regular file"):
        read_config(tmp_path / "zero")


@pytest.mark.parametrize(
    "content",
    [
        {"configs": [], "inputs": {}},
        {"configs": [3], "inputs": {}},
        {"configs": {"seed": 1}, "inputs": {}},
        {"configs": [{}], "inputs": ["inputs/hamiltonian.txt"]},
        {"configs": [{}], "inputs": {"inputs/../../strings.txt": "0"}},
        {"configs": [{}], "inputs": {"/etc/passwd": "0"}},
        {"configs": [{}], "inputs": {"inputs/hamiltonian.txt": 3}},
        {"inputs": {}},
        {"format": "nqs digests 9", "configs": [{}], "inputs": {}},
    ],
)
def test_nonsense_in_sealed_digests(content: dict[str, Any], damaged: Path) -> None:
    text = json.dumps(digests.vouched({"format": digests.FORMAT, **content}))
    (damaged / "digests.json").write_text(text)
    with pytest.raises(InputError, match=r"digests\.json: damaged"):
        read_config(damaged)


@pytest.mark.parametrize("text", ["[1]", "{", "{}", '{"a": ' * 960 + "1" + "}" * 960, "1" * 5000])
def test_nonsense_for_digests(text: str, damaged: Path) -> None:
    (damaged / "digests.json").write_text(text)
    with pytest.raises(InputError, match=r"digests\.json: damaged"):
        read_config(damaged)
    (damaged / "environment.json").write_text(text)
    (damaged / "digests.json").unlink()
    assert resume(damaged) == 0
    assert (damaged / DAMAGED).read_text() == text


def test_what_is_no_file_is_no_checkpoint(damaged: Path, finished: Path) -> None:
    os.mkfifo(damaged / "checkpoints/step-000000009.pt")
    (damaged / "checkpoints/step-000000010.pt").mkdir()
    assert resume(damaged) == 0
    assert result(damaged)["energy"] == result(finished)["energy"]
