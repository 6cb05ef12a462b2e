"""model.symmetry=auto: which group a run takes, old runs without the key, and what a summary says
of a state that has chosen one of several patterns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_ground_state_run import TINY, assert_same_run, result, run, tiny

import nqs
from hamiltonians import Rydberg
from hamiltonians.exact import ground_state
from hamiltonians.lattices.lattice import Square
from nqs.ground_states import summary
from nqs.ground_states.automatic_symmetry import most_images
from nqs.ground_states.build import build
from nqs.ground_states.config import Config
from nqs.ground_states.judgement import remarks
from nqs.ground_states.older_config import current
from nqs.ground_states.run_folder import create, read_config
from nqs.runfolder.history import Evaluation
from nqs.wavefunctions.symmetrised import Symmetrised

AUTO: dict[str, Any] = TINY["model"] | {"symmetry": "auto"}
RYDBERG: dict[str, Any] = TINY["hamiltonian"]
TFIM = {"name": "tfim", "J": 1.0, "h": 1.0}
HEISENBERG = {"name": "heisenberg", "J": 1.0}
J1J2 = {"name": "j1j2", "J1": 1.0, "J2": 0.5, "marshall": False}


def square(Lx: int, Ly: int, periodic: bool = False) -> dict[str, Any]:
    return {"name": "square", "Lx": Lx, "Ly": Ly, "periodic": periodic}


def chain(Lx: int, periodic: bool = False) -> dict[str, Any]:
    return {"name": "chain", "Lx": Lx, "periodic": periodic}


UNEVEN = RYDBERG | {"delta": [1.0, 2.0, 3.0, 4.0]}


@pytest.mark.parametrize(
    ("lattice", "hamiltonian", "model", "images"),
    [
        (square(2, 2), RYDBERG, {}, 8),
        (square(2, 2), UNEVEN, {}, 1),
        (square(2, 2), UNEVEN | {"delta": [1.0, 2.0, 2.0, 1.0]}, {}, 4),
        (square(4, 4), RYDBERG, {}, 8),
        (square(4, 5), RYDBERG, {}, 2),
        (square(5, 5), RYDBERG, {}, 1),
        (chain(6), RYDBERG, {}, 2),
        (chain(6, True), TFIM, {}, 12),
        (chain(12, True), TFIM, {}, 12),
        (square(4, 4, True), TFIM, {}, 8),
        (square(4, 4, True), HEISENBERG, {"n_up": 8, "patch": "2x2"}, 16),
        (chain(6), HEISENBERG, {"n_up": 3}, 4),
        (chain(6), HEISENBERG, {"n_up": 2}, 2),
        (chain(6, True), HEISENBERG, {"n_up": 3, "phase": True}, 12),
        (chain(6, True), J1J2, {"n_up": 3}, 1),
        (chain(6, True), J1J2, {"n_up": 3, "phase": True}, 1),
        (chain(6), TFIM, {"spin_flip": True}, 4),
    ],
)
def test_the_group(
    lattice: dict[str, Any], hamiltonian: dict[str, Any], model: dict[str, Any], images: int
) -> None:
    """An upper bound of the group by cost; none where the signs of the ground state are open."""
    psi = build(tiny(lattice=lattice, hamiltonian=hamiltonian, model=AUTO | model)).wavefunction
    assert len(psi.symmetry) == images
    assert isinstance(psi, Symmetrised) == (images > 1)


def test_it_is_the_default_and_gives_way() -> None:
    """To energies of the network alone, to characters that are named, and to none."""
    model = {key: value for key, value in AUTO.items() if key != "symmetry"}
    assert tiny(model=model).model.symmetry == "auto" == Config().model.symmetry
    assert len(build(Config()).wavefunction.symmetry) == 8
    near = build(tiny(model=AUTO, energies={"name": "near_flips"}, train=untouched()))
    assert len(near.wavefunction.symmetry) == 1
    odd = {"lattice": chain(6), "hamiltonian": HEISENBERG}
    odd |= {"model": AUTO | {"n_up": 3, "phase": True, "spin_flip": True, "odd": ["spin_flip"]}}
    assert len(build(tiny(**odd)).wavefunction.symmetry) == 2
    assert not isinstance(build(tiny()).wavefunction, Symmetrised)


def untouched() -> dict[str, Any]:
    """The section train in today's form."""
    return {key: value for key, value in TINY["train"].items() if key != "flip_fraction"}


def test_the_larger_the_basis_the_fewer_images() -> None:
    sizes = [most_images(2**n) for n in range(9, 400)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 16 and sizes[-1] == 1


def test_older_configurations_have_none(tmp_path: Path) -> None:
    """A folder whose config.yaml was written before there was the key."""
    older = {key: value for key, value in TINY["model"].items() if key != "symmetry"}
    assert current({"model": older, "seed": 1})["model"]["symmetry"] == "none"
    for named in ("auto", "none", "point_group"):
        mapping = {"model": older | {"symmetry": named}}
        assert current(mapping) is mapping
    config = tiny(run__dir=str(tmp_path / "run"))
    path = create(config, build(config).wavefunction, ["python"])
    written = yaml.safe_load((path / "config.yaml").read_text())
    del written["model"]["symmetry"]
    (path / "config.yaml").write_text(yaml.safe_dump(written))
    (path / "digests.json").unlink()
    assert read_config(path).model.symmetry == "none"


def test_a_run_resumes_and_loads(tmp_path: Path) -> None:
    train = TINY["train"] | {"checkpoint_every": 1}
    assert run(tmp_path / "whole", model=AUTO, train=train | {"steps": 3}) == 0
    assert run(tmp_path / "halves", model=AUTO, train=train | {"steps": 2}) == 0
    assert run(tmp_path / "halves", model=AUTO, train=train | {"steps": 3}, run__resume=True) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
    state = nqs.load(tmp_path / "whole")
    configs = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]])
    logs = state.log_psi(configs)
    assert torch.allclose(logs, logs[:1].expand(3), atol=1e-6)
    found = result(tmp_path / "whole")
    assert found["observables"]["symmetric_weight"] == {"value": 1.0, "error": 0.0}
    assert found["remarks"] == []


ORDERED = RYDBERG | {"delta": 8.0}


def test_one_of_two_patterns_is_said(tmp_path: Path) -> None:
    """A checkerboard that starts from its product state; with the symmetry it is both."""
    keys = {"hamiltonian": ORDERED, "train": TINY["train"] | {"eval_samples": 2_000}}
    assert run(tmp_path / "one", **keys) == 0
    assert run(tmp_path / "both", **keys, model=AUTO) == 0
    one, both = result(tmp_path / "one"), result(tmp_path / "both")
    assert both["remarks"] == [] and len(one["remarks"]) == 1
    (remark,) = one["remarks"]
    assert remark.startswith("symmetry: ") and "patterns" in remark and len(remark) < 400
    weight = one["observables"]["symmetric_weight"]
    assert weight["value"] == pytest.approx(0.5, abs=0.1)
    assert ("remark", remark) in summary.entries(one)
    state = nqs.load(tmp_path / "one").evaluate(2_000)
    density, all_images = (state.observables[name][0] for name in ("density", "symmetric_density"))
    assert np.ptp(density) > 0.8 and np.ptp(all_images) < 0.1


def test_the_size_decides_on_a_remark() -> None:
    def said(weight: float, error: float) -> list[str]:
        observables = {"symmetric_weight": (np.asarray(weight), np.asarray(error))}
        return remarks(Evaluation({}, observables, {}, {}))

    assert said(1.0, 0.0) == said(0.995, 0.001) == said(0.98, 0.01) == []
    assert "98 % ± 0.1 %" in said(0.98, 0.001)[0]
    assert "50.3 % ± 2 %" in said(0.503, 0.016)[0]
    assert remarks(Evaluation({}, {}, {}, {})) == []


def test_a_start_from_more_symmetries_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network of an average is a worse state alone; the other way round nothing is lost."""
    assert run(tmp_path / "source", model=AUTO) == 0
    warning = "an average over 8 symmetries, this one over 1"
    for name, model, expected in (("less", TINY["model"], True), ("same", AUTO, False)):
        capsys.readouterr()
        keys = {"model": model, "train__start_from": str(tmp_path / "source")}
        assert run(tmp_path / name, **keys) == 0
        assert (warning in capsys.readouterr().out) == expected


def test_both_patterns_of_the_ground_state() -> None:
    """2x2 in checkerboard order: the exact state, where the network alone is half of it."""
    hamiltonian = Rydberg(Square(2, 2), V=7.0, delta=8.0)
    exact = torch.from_numpy(ground_state(hamiltonian, k=1).state).abs()
    configs = torch.arange(16)[:, None].bitwise_right_shift(torch.arange(3, -1, -1)) & 1
    overlaps = {}
    for symmetry in ("auto", "none"):
        model = {"name": "ptf", "d_model": 8, "symmetry": symmetry}
        state = nqs.ground_state(hamiltonian, model, 40, samples=200, eval_samples=100, exact=False)
        overlaps[symmetry] = float(state.log_psi(configs).double().exp() @ exact) ** 2
    assert overlaps["auto"] > 0.999 and overlaps["none"] < 0.6
