"""Families from the command line: runs that resume bit for bit, and what one asks of them."""

from __future__ import annotations

import contextlib
import socket
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from pictures import with_pictures

import nqs
from nqs.cli.app import main
from nqs.families.family import Family
from nqs.families.summary import is_family, lines
from nqs.ground_states.api import run
from nqs.ground_states.run_folder import read_config
from nqs.runfolder.summary import read

CHAIN = ["lattice=chain", "lattice.Lx=6", "hamiltonian=tfim", "device=cpu", "dtype=float64"]
SMALL = [
    *CHAIN,
    *("model.d_model=8", "model.patch=2", "model.symmetry=none", "family.width=8"),
    *("family.couplings=4", "train.n_samples=128", "train.eval_samples=1600"),
]
RANGES = ["family.hamiltonian.h=interval(0.8,2)", "family.hamiltonian.J=[0.8,1,1.2]"]
HALF, STEPS = 12, 24


def train(folder: Path, *words: str) -> int:
    return main(["train", *SMALL, *words, f"run.dir={folder}"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families") / "whole"
    constant = ["optimizer.schedule=constant", "optimizer.final_shift_fraction=1"]
    with with_pictures():
        assert train(folder, *RANGES, f"train.steps={STEPS}", *constant) == 0
    return folder


def state(folder: Path) -> dict[str, Any]:
    return dict(nqs.load_family(folder).psi.state_dict())


def test_resumes_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    """A run that is extended is the whole run: state, history, checks."""
    folder = tmp_path / "halves"
    constant = ["optimizer.schedule=constant", "optimizer.final_shift_fraction=1"]
    assert train(folder, *RANGES, f"train.steps={HALF}", *constant) == 0
    resumed = ["train", f"run.dir={folder}", "run.resume=true", f"train.steps={STEPS}"]
    assert main([*resumed, *RANGES]) == 0
    one, other = state(whole), state(folder)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    with h5py.File(whole / "run.h5") as a, h5py.File(folder / "run.h5") as b:
        for name, column in a["history"].items():
            if name not in ("seconds", "elapsed"):
                np.testing.assert_array_equal(column[:], b["history"][name][:], name)
    results = [read(path / "summary.json") for path in (whole, folder)]
    assert results[0]["checks"] == results[1]["checks"]


def test_summary_and_checks(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = read(whole / "summary.json")
    assert is_family(result) and result["steps"] == STEPS
    assert result["family"] == ["hamiltonian.h=interval(0.8,2)", "hamiltonian.J=[0.8,1,1.2]"]
    errors = [check["relative_error"] for check in result["checks"]]
    assert len(errors) == 8 and result["relative_error_worst"] == max(map(abs, errors))
    doubtful = [check for check in result["checks"] if check["doubts"]]
    assert result["doubtful_checks"] == len(doubtful)
    assert all(abs(check["relative_error"]) > 9e-4 for check in doubtful)
    assert (whole / "convergence.png").exists()
    assert main(["show", str(whole)]) == 0
    shown = capsys.readouterr().out
    assert "hamiltonian.h=interval(0.8,2)" in shown and "checks doubtful" in shown


def test_evaluate_at_a_coupling(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is what the state there has, it is kept once, and the same twice."""
    words = ["evaluate", str(whole), "hamiltonian.h=1.07", "hamiltonian.J=1.1", "--samples=2000"]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert main(words) == 0
    assert capsys.readouterr().out == first and "h=1.07 J=1.1" in first
    with h5py.File(whole / "run.h5") as file:
        kinds = [(e.attrs["kind"], e.attrs.get("couplings")) for e in file["evaluations"].values()]
        assert kinds.count(("later", "h=1.07 J=1.1")) == 1
        (numbers,) = [dict(e.attrs) for e in file["evaluations"].values()
                      if e.attrs.get("couplings") == "h=1.07 J=1.1"]  # fmt: skip
    family = nqs.load_family(whole)
    found = family.evaluate(20_000, seed=5, h=1.07, J=1.1)
    sigma = (found.energy_error**2 + numbers["energy_error"] ** 2) ** 0.5
    assert abs(found.energy - numbers["energy"]) < 5 * sigma
    exact = nqs.exact(family.hamiltonian(h=1.07, J=1.1)).energies[0]
    assert f"{exact:.6f}" in first


def test_what_was_measured_is_kept(whole: Path, tmp_path: Path) -> None:
    """With its verdict, when the run goes on."""
    folder = tmp_path / "run"
    assert train(folder, *RANGES, "train.steps=1") == 0
    at = ["hamiltonian.h=1", "hamiltonian.J=1", "--samples=100"]
    assert main(["evaluate", str(folder), *at]) == 0
    assert main(["train", f"run.dir={folder}", "run.resume=true", "train.steps=2"]) == 0
    (later,) = read(folder / "summary.json")["later_evaluations"]
    assert later["couplings"] == "h=1 J=1" and later["verdict"] == "doubtful"
    assert later["doubts"].startswith("exact: ") and later["exact_energy"] < later["energy"]


def test_outside_is_doubtful(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing else vouches for it: 18 sites are too many for a quick diagonalisation."""
    words = ["hamiltonian.h=2.5", "hamiltonian.J=1", "--samples=100"]
    assert main(["evaluate", str(whole), *words]) == 0
    assert "exact energy" in capsys.readouterr().out  # which says all that matters
    large = [word for word in SMALL if word != "lattice.Lx=6"] + ["lattice.Lx=18", "train.steps=1"]
    assert main(["train", *large, *RANGES, f"run.dir={tmp_path / 'large'}"]) == 0
    assert main(["evaluate", str(tmp_path / "large"), *words]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "verdict doubtful" in printed and "outside: h=2.5 is outside" in printed
    assert main(["show", str(tmp_path / "large")]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "evaluated h=2.5 J=1: E" in shown and "outside" in shown.partition("evaluated")[2]
    found = nqs.load_family(tmp_path / "large").check(100, h=2.5, J=1)
    assert found["verdict"] == "doubtful" and found["doubts"][-1].startswith("outside: h=2.5")


@pytest.mark.parametrize("later", [3, {"a": 1}, None, "text", [1], [{"doubts": 2}]], ids=repr)
def test_nonsense_among_later_evaluations(later: Any, whole: Path) -> None:
    assert lines(read(whole / "summary.json") | {"later_evaluations": later})


def test_collect_on_a_grid(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["collect", str(whole), "--samples=400", "--grid=hamiltonian.h=range(0.8,1.5,0.2)"]
    assert main([*words, "--grid=hamiltonian.J=1"]) == 0
    assert "points          4 of 4" in capsys.readouterr().out
    with xr.open_dataset(whole / "collected.nc", engine="h5netcdf") as data:
        assert data.sizes["h"] == 4 and data.sizes["J"] == 1
        np.testing.assert_allclose(data["h"], [0.8, 1.0, 1.2, 1.4])
        family = nqs.load_family(whole)
        exact = [nqs.exact(family.hamiltonian(h=h, J=1.0)).energies[0] for h in data["h"].values]
        np.testing.assert_allclose(data["exact_energy"].values[:, 0], exact)
        assert float(abs(data["relative_error"]).max()) < 0.02
        chi = family.susceptibility("h", 20_000, h=1.2, J=1.0)
        there = data.sel(h=1.2, J=1, method="nearest")
        away = float(there["fidelity_susceptibility_h"]) - float(chi.value)
        sigma = np.hypot(float(chi.error), float(there["fidelity_susceptibility_h_error"]))
        assert abs(away) < 5 * sigma
        assert "abs_magnetisation" in data
    assert (whole / "phase_diagram.png").exists()


def test_a_run_starts_from_a_family(whole: Path, tmp_path: Path) -> None:
    """Where it is the state at that coupling, on a larger lattice too."""
    words = [word for word in SMALL if not word.startswith("family")]
    warm = ["hamiltonian.h=1.3", "train.steps=1", f"train.start_from={whole}"]
    assert main(["train", *words, *warm, f"run.dir={tmp_path / 'point'}"]) == 0
    began = read(tmp_path / "point" / "summary.json")
    family = nqs.load_family(whole)
    found = family.evaluate(20_000, h=1.3, J=1.0)
    sigma = (found.energy_error**2 + began["start_energy_error"] ** 2) ** 0.5
    assert abs(began["start_energy"] - found.energy) < 5 * sigma
    words = [word for word in words if word != "lattice.Lx=6"]
    larger = [*words, *warm, "lattice.Lx=10", f"run.dir={tmp_path / 'larger'}"]
    assert main(["train", *larger]) == 0
    start = read(tmp_path / "larger" / "summary.json")["start_energy"]
    exact = nqs.exact(nqs.TransverseFieldIsing(nqs.Chain(10), h=1.3)).energies[0]
    assert abs(start - exact) < 0.03 * abs(exact)


@pytest.mark.parametrize(
    ("context", "kind"), [("auto", "PerceptronContext"), ("encoder", "EncoderContext")]
)
def test_disorder(
    context: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A field for each site and a coupling for each bond, at draws that no step had."""
    folder = tmp_path / "disorder"
    disorder = ["family.hamiltonian.h=uniform(0.8,1.2)", "family.hamiltonian.J=normal(1,0.1)"]
    assert train(folder, *disorder, "train.steps=25", f"family.context={context}") == 0
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--draws=4", "--samples=400"]) == 0
    printed = capsys.readouterr().out
    worst = float(printed.partition("worst ")[2].split()[0])
    assert worst < 0.01 and printed.count("e-0") >= 4
    family = nqs.load_family(folder)
    assert family.ranges.keys() == {"h", "J"}
    assert [each.size for each in family.members.couplings] == [6, 5]
    assert type(family.psi.context).__name__ == kind
    fields, bonds = "[1,0.9,1.1,1,0.9,1.1]", "[1,1.1,0.9,1,1]"
    at = [f"hamiltonian.h={fields}", f"hamiltonian.J={bonds}"]
    assert main(["evaluate", str(folder), *at, "--samples=100"]) == 0


def test_a_run_from_disorder_says_what_it_starts_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One image of what the family averages, here over the two images of an open chain."""
    folder, auto = tmp_path / "disorder", "model.symmetry=auto"
    disorder = "family.hamiltonian.h=uniform(0.8,1.2)"
    chain = [word for word in SMALL if not word.startswith(("model.symmetry", "family."))]
    steps = ["train.steps=2", auto]
    assert main(["train", *chain, disorder, *steps, "family.couplings=4", f"run.dir={folder}"]) == 0
    capsys.readouterr()
    here = ["hamiltonian.h=[1,0.9,1.1,1,0.9,1.1]", f"train.start_from={folder}"]
    assert main(["train", *chain, *here, *steps, f"run.dir={tmp_path / 'one'}"]) == 0
    assert "average over 2 images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["family.hamiltonian.h=interval(2,1)"], "LOW < HIGH"),
        (["family.hamiltonian.h=interval(1,a)"], "family.hamiltonian.h=a"),
        (["family.hamiltonian.h=1"], "must be interval"),
        (["family.hamiltonian.h=big"], "must be interval"),
        (["family.hamiltonian.k=interval(1,2)"], "has no key k"),
        (["family.hamiltonian.J=interval(0,1e31)"], "1e+30"),
        (["family.lattice.Lx=interval(1,2)"], "family.lattice.Lx"),
        (["family.couplings=4"], "is of a family"),
        (["family.width=16"], "is of a family"),
        ([RANGES[0], "family.couplings=64", "train.n_samples=64"], "train.n_samples=64"),
        ([RANGES[0], "train.grow=true"], "train.grow"),
        ([RANGES[0], "train.start_from=x"], "train.start_from"),
        ([RANGES[0], "optimizer=adam"], "takes minsr alone"),
        ([RANGES[0], RANGES[0]], "given twice"),
        ([RANGES[0], "hamiltonian.h=1"], "fixed and vary"),
        (["family.hamiltonian.h=gamma(1,2)"], "must be interval"),
        ([RANGES[0], "family.ranges=[hamiltonian.J=[1,2]]"], "family.ranges"),
        (["family.ranges=[hamiltonian.h]"], "family.ranges"),
        (["family.ranges=['hamiltonian.h=interval(0,1)','hamiltonian.h=[0,1]']"], "twice"),
        (["hamiltonian=j1j2", "family.hamiltonian.marshall=interval(0,1)"], "marshall"),
        ([RANGES[0], "model.positions=grid", "family.context=places"], "positions=learned"),
        (["hamiltonian=rydberg", "family.hamiltonian.Rb=uniform(1,2)"], "each site or bond"),
        ([RANGES[0], "-m", "seed=1,2"], "not a scan"),
        (["family.ranges=['hamiltonian.h=interval(0,1)']", "-m", "seed=1,2"], "not a scan"),
    ],
)
def test_bad_families(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, and no folder."""
    folder = tmp_path / "bad"
    place = [] if "-m" in words else [f"run.dir={folder}"]
    keys = {word.partition("=")[0] for word in words}
    chain = [word for word in CHAIN if word.partition("=")[0] not in keys]
    assert main(["train", *chain, *words, *place]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and len(error) <= 400
    assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate"], "hamiltonian.h is missing"),
        (["evaluate", "hamiltonian.h=1"], "hamiltonian.J is missing"),
        (["evaluate", "hamiltonian.h=1", "hamiltonian.J=1", "hamiltonian.V=1"], "not varied"),
        (["evaluate", "hamiltonian.h=a", "hamiltonian.J=1"], "must be a number"),
        (["evaluate", "hamiltonian.h=[1,2]", "hamiltonian.J=1"], "must be a number"),
        (["evaluate", "hamiltonian.h=1,2", "hamiltonian.J=1"], "several values"),
        (["evaluate", "--draws=0"], "--draws=0"),
        (["evaluate", "--draws=2", "hamiltonian.h=1"], "not beside --draws"),
        (["evaluate", "--draws=2", "--seed=-1"], "--seed=-1"),
        (["collect"], "--grid"),
        (["collect", "--grid=hamiltonian.h=1,2"], "hamiltonian.J is missing"),
        (["collect", "--grid=hamiltonian.h=a,b", "--grid=hamiltonian.J=1"], "numbers"),
        (["collect", "--grid=hamiltonian.h=1,1", "--grid=hamiltonian.J=1"], "twice"),
        (["collect", "--grid=hamiltonian.h=1", "--samples=1"], "--samples=1"),
        (["reweight", "hamiltonian.h=1"], "is a family"),
        (["train", "run.resume=true", "family.hamiltonian.h=interval(0.8,3)"], "family.ranges"),
        (["train", "run.resume=true", "family.width=16"], "family.width"),
    ],
)
def test_bad_questions(
    words: list[str], message: str, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = words
    place = f"run.dir={whole}" if command == "train" else str(whole)
    before = (whole / "run.h5").read_bytes()
    assert main([command, place, *rest]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and len(error) <= 400
    assert (whole / "run.h5").read_bytes() == before


def test_other_runs_are_told_apart(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(nqs.InputError, match="load_family"):
        nqs.load(whole)
    with pytest.raises(nqs.InputError, match=r"family\.ranges"):
        run(read_config(whole))
    words = [word for word in SMALL if not word.startswith("family")]
    assert main(["train", *words, "train.steps=1", f"run.dir={tmp_path / 'one'}"]) == 0
    with pytest.raises(nqs.InputError, match=r"use nqs\.load"):
        nqs.load_family(tmp_path / "one")
    assert main(["evaluate", str(tmp_path / "one"), "hamiltonian.h=1"]) == 2
    assert main(["evaluate", str(tmp_path / "one"), "--draws=2"]) == 2
    assert main(["collect", str(tmp_path / "one"), "--grid=hamiltonian.h=1,2"]) == 2


def test_python_and_the_command_line_agree(whole: Path) -> None:
    """Bit for bit."""
    psi = nqs.family(
        lambda h, J: nqs.TransverseFieldIsing(nqs.Chain(6), h=h, J=J),
        {"name": "ptf", "d_model": 8, "patch": "2", "symmetry": "none"},
        steps=STEPS,
        couplings=4,
        samples=128,
        width=8,
        optimizer={"name": "minsr", "schedule": "constant", "final_shift_fraction": 1},
        dtype="float64",
        h=(0.8, 2),
        J=[0.8, 1, 1.2],
    ).psi.state_dict()
    assert all(torch.equal(value, psi[name]) for name, value in state(whole).items())


def _rank(rank: int, port: int, folder: str, words: list[str], out: Any) -> None:
    import os

    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(None):
        out.put(main(["train", *SMALL, *words, f"run.dir={folder}"]))


def test_two_processes_share_the_couplings(whole: Path, tmp_path: Path) -> None:
    """Each step has the same couplings as alone, and the energies agree."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    context, folder = get_context("spawn"), tmp_path / "two"
    out = context.Queue()
    words = [*RANGES, f"train.steps={STEPS}"]
    ranks = [
        context.Process(target=_rank, args=(rank, port, str(folder), words, out)) for rank in (0, 1)
    ]
    for process in ranks:
        process.start()
    codes = [out.get(timeout=120) for _ in ranks]
    for process in ranks:
        process.join(60)
    assert codes == [0, 0]
    one, two = (read(path / "summary.json") for path in (whole, folder))
    for here, there in zip(one["checks"], two["checks"], strict=True):
        assert here["couplings"] == there["couplings"]
        assert abs(here["relative_error"]) < 0.02 and abs(there["relative_error"]) < 0.02


def test_the_family_is_what_is_loaded(whole: Path) -> None:
    family = nqs.load_family(whole)
    assert isinstance(family, Family) and "interval(0.8,2)" in repr(family)
