"""nqs collect: every number in its place, derivatives, missing points, the picture."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nqs.cli.app import main as nqs
from nqs.ground_states import summary
from nqs.runfolder.summary import write as write_summary

xr = pytest.importorskip("xarray")
pytest.importorskip("h5netcdf")

from nqs.scans import collect, plot  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("train", ROOT / "train.py")
assert SPEC is not None and SPEC.loader is not None
train = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(train)

TINY = [
    "lattice=chain",
    "lattice.Lx=3",
    "model.d_model=4",
    "model.n_heads=1",
    "model.n_layers=1",
    "train.steps=2",
    "train.n_samples=8",
    "train.eval_samples=32",
    "scan.repeat=false",
]
AXES = ["hamiltonian.delta=1,0,0.25", "hamiltonian.Rb=1,1.2"]


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan with hysteresis of which one point is lost."""
    path = tmp_path_factory.mktemp("collect") / "scan"
    words = ["scan.warm_start=hamiltonian.delta", "scan.direction=both", f"scan.dir={path}"]
    assert train.main(["-m", *TINY, *AXES, *words]) == 0
    (path / "hamiltonian.delta=0.25,hamiltonian.Rb=1.2,backward/summary.json").unlink()
    return path


def test_every_number_in_its_place(scan: Path) -> None:
    data = collect.collect(scan).data
    assert dict(data["energy"].sizes) == {"delta": 3, "Rb": 2, "direction": 2}
    assert data["delta"].values.tolist() == [0, 0.25, 1]
    for delta in ("0", "0.25", "1"):
        for rb in ("1", "1.2"):
            for direction in ("forward", "backward"):
                folder = scan / f"hamiltonian.delta={delta},hamiltonian.Rb={rb},{direction}"
                place = {"delta": float(delta), "Rb": float(rb), "direction": direction}
                found = data.sel(place)
                if not (folder / "summary.json").exists():
                    assert np.isnan(found["energy"]) and np.isnan(found["density"]).all()
                    continue
                result = json.loads((folder / "summary.json").read_text())
                for name in ("energy", "energy_error", "variance", "v_score", "exact_energy"):
                    assert found[name].item() == result[name]
                for name, entry in result["observables"].items():
                    np.testing.assert_array_equal(found[name].values, entry["value"])
                    np.testing.assert_array_equal(found[f"{name}_error"].values, entry["error"])
    assert data["density"].dims == ("delta", "Rb", "direction", "site")
    assert data["delta"].attrs["key"] == "hamiltonian.delta"
    for variable, values in data.data_vars.items():
        assert values.attrs["units"] and values.attrs["long_name"], variable


def test_the_command(scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nqs(["collect", str(scan), "--observable", "excitation_fraction"]) == 0
    text = capsys.readouterr().out
    assert "11 of 12" in text
    assert "hamiltonian.delta=0.25,hamiltonian.Rb=1.2,backward (missing)" in text
    assert "relative error  median" in text and "E(backward) - E(forward)" in text
    with xr.open_dataset(scan / "collected.nc", engine="h5netcdf") as saved:
        xr.testing.assert_identical(saved.load(), collect.collect(scan).data)
    assert (scan / "phase_diagram.png").read_bytes().endswith(b"IEND\xaeB`\x82")


def test_bad_input(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in (
        ([str(tmp_path)], "holds no scan"),
        ([str(scan), "--observable", "excitation"], "did you mean excitation_fraction?"),
    ):
        assert nqs(["collect", *words]) == 2
        line = capsys.readouterr().err
        assert expected in line and line.count("\n") == 1


def test_derivatives_of_a_parabola_are_exact_on_any_grid() -> None:
    x = np.array([-1.0, 0.3, 0.5, 2.0, 2.1])
    first, second = collect.derivative_weights(x)
    energy = 2 - 3 * x + 0.5 * x**2
    for i in range(1, 4):
        assert energy[i - 1 : i + 2] @ first[i] == pytest.approx(-3 + x[i])
        assert energy[i - 1 : i + 2] @ second[i] == pytest.approx(1)
    assert np.isnan(first[[0, -1]]).all() and np.isnan(second[[0, -1]]).all()


def test_errors_of_derivatives_are_the_spread_of_noisy_energies() -> None:
    """4000 noisy curves: the spread has a relative error of 1/sqrt(8000), 1.1 %."""
    x, sigma = np.array([0.0, 0.1, 0.4, 0.6]), np.array([1e-3, 3e-3, 2e-3, 5e-3])
    noise = np.random.default_rng(5).normal(size=(4000, 4)) * sigma
    data = xr.Dataset(
        {
            "energy": (("curve", "x"), np.sin(x) + noise, {"units": "couplings"}),
            "energy_error": (("curve", "x"), np.broadcast_to(sigma, noise.shape)),
        },
        coords={"x": ("x", x, {"units": "couplings"})},
    )
    collect.add_derivatives(data, "x")
    for name in ("dE_dx", "d2E_dx2"):
        spread = data[name].std("curve").values[1:-1]
        np.testing.assert_allclose(data[f"{name}_error"].values[0, 1:-1], spread, rtol=0.05)


def test_a_missing_point_has_no_derivative_and_takes_its_neighbours_with_it(scan: Path) -> None:
    data = collect.collect(scan).data
    here = data["dE_ddelta"].sel(delta=0.25)
    assert np.isnan(here.sel(Rb=1.2, direction="backward"))
    assert np.isfinite(here.sel(Rb=1.2, direction="forward"))
    assert data["dE_ddelta"].attrs["units"] == "couplings / (couplings)"


def test_observables_of_any_shape_and_of_lattices_of_different_sizes() -> None:
    table = collect._Table({"Lx": 2})
    for place, n_sites in ((0, 2), (1, 3)):
        pairs = np.full((n_sites, n_sites), float(n_sites))
        table.put("density_density", (place,), pairs, "pairs", "1", n_sites)
        table.put("structure_factor", (place,), np.ones((4, 5)), "S(q)", "1", n_sites)
    data = table.dataset({"Lx": [2.0, 3.0]})
    assert data["density_density"].dims == ("Lx", "site", "site_2")
    assert data["density_density"].shape == (2, 3, 3)
    assert np.isnan(data["density_density"][0, 2]).all() and (data["density_density"][1] == 3).all()
    assert data["structure_factor"].dims == ("Lx", "structure_factor_1", "structure_factor_2")


def test_names_of_axes() -> None:
    keys = ["hamiltonian.delta", "model.d_model", "model.sub_d_model", "train.steps", "seed"]
    axes = [collect.Axis(key, (1, 2)) for key in keys]
    names = collect.axis_names(axes)
    assert list(names.values()) == ["delta", "d_model", "sub_d_model", "train.steps", "seed"]


def test_maps_over_two_axes_and_curves_over_one(scan: Path) -> None:
    collected = collect.collect(scan)
    curves = plot.figure(collected, [])
    labels = [text.get_text() for text in curves.legends[0].get_texts()]
    assert "Rb = 1, forward" in labels and "Rb = 1.2, backward" in labels and "exact" in labels
    wide = collected.data.isel(Rb=[0] * 5).assign_coords(Rb=("Rb", np.arange(5.0)))
    wide["Rb"].attrs = collected.data["Rb"].attrs
    both = plot.figure(collect.Collected(collected.scan, wide, {}), ["magnetisation"])
    titles = [axes.get_title() for axes in both.axes]
    assert any("magnetisation" in title and "direction = forward" in title for title in titles)


@pytest.fixture
def judged(scan: Path, tmp_path: Path) -> Path:
    """A copy of the scan: one point doubtful, one older than verdicts with its unsigned error."""
    path = Path(shutil.copytree(scan, tmp_path / "scan"))
    bad = path / "hamiltonian.delta=1,hamiltonian.Rb=1,forward/summary.json"
    for other in path.glob("*/summary.json"):
        write_summary(other, summary.read(other) | {"verdict": "good", "doubts": []})
    doubts = ["neighbour: 0.3 above \x1b[31mthe state", "variance: large"]
    content = summary.read(bad) | {"verdict": "doubtful", "doubts": doubts}
    write_summary(bad, content | {"energy": content["exact_energy"] - 7.0})
    old = path / "hamiltonian.delta=0,hamiltonian.Rb=1,forward/summary.json"
    content = summary.read(old)
    for key in ("verdict", "doubts", "difference", "z_score"):
        del content[key]
    write_summary(old, content | {"relative_error": abs(content["relative_error"])})
    return path


def test_verdicts_are_collected(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = collect.collect(judged).data
    bad = data.sel(delta=1, Rb=1, direction="forward")
    assert bad["doubtful"] == 1 and bad["doubts"].item().startswith("neighbour: 0.3 above")
    assert np.isnan(data["doubtful"].sel(delta=0, Rb=1, direction="forward"))
    assert np.isnan(data["doubtful"].sel(delta=0.25, Rb=1.2, direction="backward"))
    assert int((data["doubtful"] == 0).sum()) == 9
    assert nqs(["collect", str(judged)]) == 0
    out = capsys.readouterr().out
    assert "doubtful        1 of 11" in out and "no verdict      1 (older runs)" in out
    assert "delta=1, Rb=1, direction=forward: neighbour, variance" in out
    assert "\x1b" not in out
    with xr.open_dataset(judged / "collected.nc", engine="h5netcdf") as saved:
        assert saved["doubts"].sel(delta=1, Rb=1, direction="forward").item() == bad["doubts"]


def test_the_worst_error_is_the_largest_of_either_sign(
    judged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = collect.collect(judged).data
    worst = data.sel(delta=1, Rb=1, direction="forward")
    assert worst["relative_error"] < 0 and worst["difference"] == pytest.approx(-7)
    assert worst["z_score"] == pytest.approx(-7 / float(worst["energy_error"]))
    old = data.sel(delta=0, Rb=1, direction="forward")
    assert old["difference"] == old["energy"] - old["exact_energy"]
    assert nqs(["collect", str(judged)]) == 0
    expected = f"worst  {float(worst['relative_error']):+.2e} at delta=1, Rb=1, direction=forward"
    assert expected in capsys.readouterr().out


def test_doubtful_points_are_marked_in_pictures(judged: Path) -> None:
    collected = collect.collect(judged)
    curves = plot.figure(collected, [])
    assert "doubtful" in [text.get_text() for text in curves.legends[0].get_texts()]
    (ring,) = [line for line in curves.axes[0].lines if line.get_label() == "doubtful"]
    assert np.asarray(ring.get_xdata()).tolist() == [1]
    wide = collected.data.isel(Rb=[0] * 5).assign_coords(Rb=("Rb", np.arange(5.0)))
    wide["Rb"].attrs = collected.data["Rb"].attrs
    maps = plot.figure(collect.Collected(collected.scan, wide, {}), ["magnetisation"])
    hatched = [c for axes in maps.axes for c in axes.collections if c.get_hatch()]
    counts = [int(np.ma.count(np.ma.asarray(c.get_array()))) for c in hatched]
    assert counts and set(counts) == {5}
    assert [text.get_text() for text in maps.legends[0].get_texts()] == ["doubtful"]
    good = collected.data.assign(doubtful=collected.data["doubtful"] * 0)
    clean = plot.figure(collect.Collected(collected.scan, good, {}), [])
    assert "doubtful" not in [text.get_text() for text in clean.legends[0].get_texts()]


def test_the_hatched_cells_are_those_of_the_map() -> None:
    assert plot.edges(np.array([0.0, 1.0, 3.0])).tolist() == [-0.5, 0.5, 2.0, 4.0]
    assert plot.edges(np.array([2.0])).tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.json", "{}"),
        ("summary.json", '{"status": "finished", "energy": "low"}'),
        ("summary.json", "[" * 100_000),
        ("run.h5", "not this"),
    ],
)
def test_a_damaged_point_is_missing_and_loses_no_other(
    file: str, content: str, judged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "hamiltonian.delta=1,hamiltonian.Rb=1.2,forward"
    (judged / name / file).write_text(content)
    assert nqs(["collect", str(judged)]) == 0
    out = capsys.readouterr().out
    assert f"{name} (" in out and "10 of 12" in out
    assert nqs(["show", str(judged / name)]) == (2 if file == "summary.json" else 0)
    assert capsys.readouterr().err.count("\n") == (file == "summary.json")


def test_an_exact_energy_of_zero(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """faults.md, kind 4."""
    for path in sorted(judged.glob("*/summary.json")):
        write_summary(path, summary.read(path) | {"exact_energy": 0.0, "relative_error": None})
    assert nqs(["collect", str(judged)]) == 0
    out = capsys.readouterr().out
    assert "relative error" not in out and "E - E_exact     median" in out


def test_two_at_once_do_not_collide(judged: Path) -> None:
    """faults.md, kind 5."""
    command = [sys.executable, "-c", "import sys; from nqs.cli.app import main; sys.exit(main())"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [*command, "collect", str(judged)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    assert [process.communicate(timeout=300)[1] for process in processes] == [b""] * 2
    assert [process.returncode for process in processes] == [0] * 2
    assert not [path for path in judged.iterdir() if path.name.startswith(".")]


def test_tied_keys_are_one_dimension(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["hamiltonian.delta=1,0,0.5", "seed=1,2", "hamiltonian.Omega=2,1,1"]
    tied = "scan.zip=[hamiltonian.Omega,hamiltonian.delta]"
    assert train.main(["-m", *TINY, *words, tied, f"scan.dir={tmp_path / 'scan'}"]) == 0
    collected = collect.collect(tmp_path / "scan")
    data = collected.data
    assert data["energy"].dims == ("delta", "seed")
    assert data["delta"].values.tolist() == [0, 0.5, 1]
    assert data["Omega"].dims == ("delta",) and data["Omega"].values.tolist() == [1, 1, 2]
    assert data["delta"].attrs["keys"] == "hamiltonian.Omega,hamiltonian.delta"
    for point in collected.scan.points:
        result = summary.read(collected.scan.folder(point) / "summary.json")
        place = {"delta": point.values["hamiltonian.delta"], "seed": point.values["seed"]}
        assert data["energy"].sel(place).item() == result["energy"]
    assert "dE_ddelta" in data and "d2E_ddelta2" in data
    capsys.readouterr()
    assert nqs(["collect", str(tmp_path / "scan")]) == 0
    assert "dimensions      delta 3, seed 2" in capsys.readouterr().out


def test_tied_keys_none_of_which_numbers_the_points(tmp_path: Path) -> None:
    words = ["hamiltonian.delta=1,0,1", "hamiltonian.Omega=2,1,1", "train.steps=1"]
    tied = "scan.zip=[hamiltonian.delta,hamiltonian.Omega]"
    arguments = [word for word in TINY if not word.startswith("train.steps")]
    assert train.main(["-m", *arguments, *words, tied, f"scan.dir={tmp_path / 'scan'}"]) == 0
    data = collect.collect(tmp_path / "scan").data
    assert data["energy"].dims == ("delta_Omega",)
    assert data["delta_Omega"].values.tolist() == ["1,2", "0,1", "1,1"]
    assert data["delta"].values.tolist() == [1, 0, 1]
