"""Runs that start from the parameters of another run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_ground_state_run import assert_same_run, parameters, result, run, steps_of, tiny
from test_symmetry import MINSR

import nqs
from nqs.cli.app import main as command
from nqs.errors import InputError
from nqs.ground_states import start
from nqs.ground_states.build import build
from nqs.ground_states.run import run as run_job
from nqs.ground_states.run_folder import START, create, read_config, resumed_config
from nqs.runfolder import history


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight steps at delta = 1."""
    path = tmp_path_factory.mktemp("runs") / "source"
    assert run(path) == 0
    return path


def follow(path: Path, source: Path, **changes: Any) -> int:
    delta = {"name": "rydberg", "V": 7.0, "delta": 1.5, "Omega": 1.0}
    options = {"hamiltonian": delta, "train__start_from": str(source)} | changes
    return run(path, **options)


def test_starts_at_the_newest_parameters(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The optimizer's rate is too small to move them."""
    optimizer = tiny().to_dict()["optimizer"] | {"learning_rate": 1e-10}
    assert follow(tmp_path / "run", source, optimizer=optimizer) == 0
    ours, theirs = parameters(tmp_path / "run"), parameters(source)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-8) for name in ours)
    copied = start.read_start(tmp_path / "run" / START)["model"]
    assert all(torch.equal(copied[name], theirs[name]) for name in ours)
    assert f"starts from step 8 of {source}" in capsys.readouterr().out
    saved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert saved["train"]["start_from"] == str(source)
    with pytest.raises(InputError, match=r"train\.start_from"):
        resumed_config(tmp_path / "run", {"train.start_from": "elsewhere"})


def test_the_automatic_time_step_is_longer_near_the_ground_state(source: Path) -> None:
    def rate(given: float | str, **changes: Any) -> float:
        config = tiny(optimizer={**MINSR, "learning_rate": given}, **changes)
        return build(config).optimizer.learning_rate

    assert rate("auto") == 0.2
    assert rate("auto", train__start_from=str(source)) == 0.4
    assert rate(0.1, train__start_from=str(source)) == 0.1


def test_nothing_but_parameters_is_carried_over(tmp_path: Path, source: Path) -> None:
    """Momentum, step and generator of the optimisation are those of a new run."""
    job = build(tiny(train__start_from=str(source)))
    fresh = build(tiny())
    folder = create(tiny(run__dir=str(tmp_path / "run")), job.wavefunction, ["python"], b"")
    (folder / START).write_bytes(start.starting_file(job) or b"")
    start.put_at_start(job, folder, lambda line: None)
    assert job.optimizer.state_dict() == fresh.optimizer.state_dict()
    assert torch.equal(job.generator.get_state(), fresh.generator.get_state())


def test_a_resumed_run_never_reads_the_other_again(tmp_path: Path, source: Path) -> None:
    gone = tmp_path / "source"
    shutil.copytree(source, gone)
    assert follow(tmp_path / "whole", gone) == 0
    assert follow(tmp_path / "run", gone, train__steps=3) == 0
    config = tiny(**early(gone, tmp_path / "killed"))
    killed = build(config)
    create(
        config, killed.wavefunction, ["python"], start.starting_file(killed)
    )  # killed before its first checkpoint
    shutil.rmtree(gone)
    for name in ("run", "killed"):
        assert follow(tmp_path / name, gone, run__resume=True) == 0
        assert_same_run(tmp_path / name, tmp_path / "whole")
    assert steps_of(tmp_path / "whole")["step"].tolist() == list(range(1, 9))
    assert result(tmp_path / "run")["steps"] == 8


def early(source: Path, path: Path) -> dict[str, Any]:
    delta = {"name": "rydberg", "V": 7.0, "delta": 1.5, "Omega": 1.0}
    return {"hamiltonian": delta, "train__start_from": str(source), "run__dir": str(path)}


def test_symmetries_may_differ(tmp_path: Path, source: Path) -> None:
    model = tiny().to_dict()["model"]
    turned = model | {"symmetry": "point_group"}
    assert follow(tmp_path / "all", source, model=turned) == 0
    assert "base.core.head.weight" in parameters(tmp_path / "all")
    assert follow(tmp_path / "one", tmp_path / "all") == 0


def test_from_a_smaller_lattice(tmp_path: Path, source: Path) -> None:
    """And, where the magnetisation is fixed, with the table of the larger lattice's sectors."""
    assert follow(tmp_path / "run", source, lattice__Lx=4) == 0
    assert result(tmp_path / "run")["n_sites"] == 8
    chain = {"name": "heisenberg", "J": 1.0, "h": 0.0, "marshall": True}
    sector = {"hamiltonian": chain, "model__n_up": 2}
    assert run(tmp_path / "small", **sector) == 0
    sector = {"hamiltonian": chain, "model__n_up": 4, "lattice__Lx": 4}
    assert run(tmp_path / "large", **sector, train__start_from=str(tmp_path / "small")) == 0
    with pytest.raises(InputError, match="n_up=2 and 1 on the same sites"):
        follow(tmp_path / "other", tmp_path / "small", hamiltonian=chain, model__n_up=1)
    with pytest.raises(InputError, match="fixed in one"):
        follow(tmp_path / "other", tmp_path / "small", hamiltonian=chain)


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"model__d_model": 8}, r"model\.d_model=4 there and 8"),
        ({"model__patch": "2x1"}, "2 sites has no counterpart of the same form"),
        ({"model__phase": True}, r"model\.phase=false there and true"),
        ({"lattice__Lx": 3, "lattice__Ly": 3}, "no grid"),
    ],
)
def test_another_model_is_refused(
    tmp_path: Path, source: Path, changes: dict[str, Any], culprit: str
) -> None:
    with pytest.raises(InputError, match=culprit) as caught:
        follow(tmp_path / "run", source, **changes)
    assert str(caught.value).startswith(f"train.start_from={source}: ")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_folders_that_are_no_source_are_refused(tmp_path: Path, source: Path) -> None:
    with pytest.raises(InputError, match=r"train\.start_from=/nowhere: holds no run"):
        follow(tmp_path / "run", Path("/nowhere"))
    young = tiny(run__dir=str(tmp_path / "young"))
    create(young, build(young).wavefunction, ["python"])
    with pytest.raises(InputError, match="no checkpoint yet"):
        follow(tmp_path / "run", tmp_path / "young")
    with pytest.raises(InputError, match=r"train\.start_from=''"):
        tiny(train__start_from=" ")
    assert follow(tmp_path / "run", source, train__steps=1) == 0
    (tmp_path / "run" / START).write_bytes(b"damaged")
    (tmp_path / "run/run.h5").unlink()
    for file in (tmp_path / "run/checkpoints").iterdir():
        file.unlink()
    with pytest.raises(InputError, match=r"start\.pt: cannot be read"):
        follow(tmp_path / "run", source, run__resume=True, train__steps=1)


def test_the_loader_of_a_symmetric_run(tmp_path: Path) -> None:
    """The state as it was trained: all images of a configuration have its energy's share, and the
    bare network, which transfer takes, has not."""
    model = tiny().to_dict()["model"] | {"symmetry": "point_group"}
    assert run(tmp_path / "run", model=model) == 0
    config = read_config(tmp_path / "run")
    job = build(config)
    configs = torch.arange(16)[:, None].bitwise_right_shift(torch.arange(4)).bitwise_and(1).bool()
    images = job.lattice.point_group().images(configs)  # (B, elements, N)
    state, step = start.read_wavefunction(tmp_path / "run", config)
    for psi in (state, start.load_wavefunction(tmp_path / "run")):
        logs = psi.log_psi(images.flatten(0, 1)).view(images.shape[:2])
        assert step == 8 and torch.allclose(logs, logs[:, :1].expand_as(logs), atol=1e-5)
    bare = start.network(state).log_psi(images.flatten(0, 1)).view(images.shape[:2])
    assert not torch.allclose(bare, bare[:, :1].expand_as(bare), atol=1e-2)


@pytest.mark.parametrize("name", ["ptf", "rnn"])
def test_auto_takes_the_patches_of_the_source(tmp_path: Path, name: str) -> None:
    """As from 8x8 to 12x12, whose own auto is another; one that was carried over goes on."""
    model = tiny().to_dict()["model"] | {"patch": "2x1"}
    if name == "rnn":
        model = {"name": "rnn", "patch": "2x1", "d_model": 4, "n_layers": 1, "cell": "gru"}
        model |= {"residual": False}
    small = {"model": model, "lattice__Lx": 2, "lattice__Ly": 2}
    assert run(tmp_path / "small", **small) == 0
    large = small | {"lattice__Lx": 4, "model": model | {"patch": "auto"}}
    source = {"train__start_from": str(tmp_path / "small")}
    assert run(tmp_path / "large", train__steps=2, **large, **source) == 0
    saved = yaml.safe_load((tmp_path / "large/config.yaml").read_text())
    assert saved["model"]["patch"] == "2x1"
    shutil.rmtree(tmp_path / "small")
    config = resumed_config(tmp_path / "large", {"model.patch": "auto"})
    assert run_job(config.replace(train=config.train), ["python"]) == 0
    assert run(tmp_path / "last", **large | {"train__start_from": str(tmp_path / "large")}) == 0


def test_from_8x8_to_12x12(tmp_path: Path) -> None:
    """Whose own patches would be 3x2, "without a counterpart of the same form"."""
    model = tiny().to_dict()["model"] | {"patch": "auto", "d_model": 32}
    cheap = {"model": model, "train__n_samples": 2, "train__eval_samples": 2, "train__exact": False}
    small = {"lattice__Lx": 8, "lattice__Ly": 8, "train__steps": 1}
    assert run(tmp_path / "8x8", **small, **cheap) == 0
    ours = tiny(**cheap, lattice__Lx=12, lattice__Ly=12)
    assert start.with_source_patches(ours) is ours
    assert build(ours).wavefunction.patches.n_patches == 24
    grown = start.with_source_patches(
        tiny(**cheap, lattice__Lx=12, lattice__Ly=12, train__start_from=str(tmp_path / "8x8"))
    )
    assert grown.model.patch == "2x2"
    job = build(grown)
    assert job.wavefunction.patches.n_patches == 36 and start.starting_file(job)


HEISENBERG = {"name": "heisenberg"}


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ({"name": "ptf"}, {}),
        ({"name": "ptf", "attention": "softmax", "positions": "grid"}, {}),
        ({"name": "ptf", "symmetry": "point_group"}, {}),
        ({"name": "ptf", "phase": True}, {}),
        ({"name": "ptf", "n_up": 8}, {"hamiltonian": HEISENBERG}),
        ({"name": "ptf", "n_up": 8, "spin_flip": True}, {"hamiltonian": HEISENBERG}),
        ({"name": "rnn"}, {}),
        ({"name": "rnn", "n_up": 8}, {"hamiltonian": HEISENBERG}),
        ({"name": "rnn2d"}, {}),
        ({"name": "linear_attention"}, {}),
        ({"name": "ssm"}, {}),
        ({"name": "lptf"}, {}),
        ({"name": "lptf_ptf"}, {}),
        ({"name": "lptf", "sub_patch": "auto"}, {}),
        ({"name": "lptf", "sub_patch": "auto", "symmetry": "point_group"}, {}),
    ],
)
def test_auto_takes_the_patches_of_the_source_whatever_the_model(
    tmp_path: Path, model: dict[str, Any], changes: dict[str, Any]
) -> None:
    """From 4x4 to 12x12, where auto is 3x2 or, of large patches, 4x4."""
    sizes = {"d_model": 8, "patch": "auto"}
    cheap = {"train__n_samples": 2, "train__eval_samples": 2, "train__exact": False}
    small = {"lattice__Lx": 4, "lattice__Ly": 4, "train__steps": 1}
    assert run(tmp_path / "small", model=sizes | model, **small, **cheap, **changes) == 0
    if "n_up" in model:
        model = model | {"n_up": 72}
    ours = tiny(
        **{"lattice__Lx": 12, "lattice__Ly": 12, "model": sizes | model},
        **{"train__start_from": str(tmp_path / "small")},
        **cheap,
        **changes,
    )
    grown = start.with_source_patches(ours)
    assert grown.model.patch == ("2x4" if "lptf" in model["name"] else "2x2")
    job = build(grown)
    content = start.starting_file(job)
    assert content is not None
    with torch.no_grad():
        assert job.wavefunction.log_psi(torch.arange(144)[None] % 2 == 0).isfinite().all()


def test_from_python(source: Path, tmp_path: Path) -> None:
    """In memory and in a folder, and by the command with the same keys: the same run."""
    hamiltonian = nqs.Rydberg(nqs.Square(2, 2), V=7, delta=1.5)
    config = tiny()
    keys = ("model", "optimizer", "energies")
    options: dict[str, Any] = {key: config.to_dict()[key] for key in keys}
    options |= {"steps": 8, "samples": 16, "eval_samples": 64, "seed": 3, "start_from": source}
    memory = nqs.ground_state(hamiltonian, **options)
    folder = nqs.ground_state(hamiltonian, **options, dir=tmp_path / "python")
    assert memory.energy == folder.energy
    assert follow(tmp_path / "command", source) == 0
    assert_same_run(tmp_path / "python", tmp_path / "command")


def test_a_scan_over_sizes_from_one_source(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each point takes the patches of the source, and all are checked before the first."""
    monkeypatch.chdir(tmp_path)
    words = ["lattice.Ly=2", "model.patch=auto", "model.d_model=4", "model.n_layers=1"]
    words += ["model.n_heads=2", "train.steps=1", "train.n_samples=4", "train.eval_samples=4"]
    words += [f"train.start_from={source}", "scan.repeat=false", "seed=1"]
    words += ["model.digit_decay=null"]
    assert command(["scan", *words, "lattice.Lx=2,4", "scan.dir=scan"]) == 0
    for length in (2, 4):
        saved = read_config(Path(f"scan/lattice.Lx={length}"))
        assert saved.model.patch == "2" and saved.lattice.Lx == length
    words[0] = "lattice.Ly=3"
    assert command(["scan", *words, "lattice.Lx=2,4", "scan.dir=other"]) == 2
    words[:3] = ["lattice.Ly=2", "model.patch=auto", "model.d_model=8"]
    assert command(["scan", *words, "lattice.Lx=2,4", "scan.dir=other"]) == 2
    assert not Path("other").exists()


def test_the_energy_of_the_start(tmp_path: Path, source: Path) -> None:
    """Measured with draws of its own: the run is what it would be without."""
    optimizer = tiny().to_dict()["optimizer"] | {"learning_rate": 1e-9}
    still = {"optimizer": optimizer, "train__n_samples": 4000, "train__eval_samples": 4000}
    assert follow(tmp_path / "run", source, **still, train__steps=2) == 0
    summary = result(tmp_path / "run")
    error = (summary["start_energy_error"] ** 2 + summary["energy_error"] ** 2) ** 0.5
    assert 0 < error < 0.1 and abs(summary["start_energy"] - summary["energy"]) < 4 * error
    assert summary["start_energy"] != summary["energy"]
    content = history.read(tmp_path / "run/run.h5")
    assert [e.numbers["kind"] for e in content.evaluations] == ["start", "final"]
    assert content.evaluations[0].numbers["n_samples"] == 4000
    assert "start_energy" not in result(source)
    assert follow(tmp_path / "run", source, **still, run__resume=True, train__steps=3) == 0
    assert result(tmp_path / "run")["start_energy"] == summary["start_energy"]


def test_the_energy_of_the_start_changes_nothing(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert follow(tmp_path / "with", source) == 0
    with monkeypatch.context() as patch:
        patch.setattr("nqs.ground_states.ground_state_run.start_evaluation", lambda job: evaluation)
        evaluation = history.read(tmp_path / "with/run.h5").evaluations[0]
        assert follow(tmp_path / "without", source) == 0
    assert_same_run(tmp_path / "with", tmp_path / "without")
