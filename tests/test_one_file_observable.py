"""An observable is one class: defined here, it is measured, saved, printed, drawn and collected."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes
from torch import Tensor

from hamiltonians import TransverseFieldIsing
from hamiltonians.exact import basis, ground_state
from hamiltonians.lattices.lattice import Chain
from nqs.cli.app import main as nqs
from nqs.ground_states import observables_plot
from nqs.runfolder import history
from nqs.vmc.observables import Diagonal, Observable, Picture, Quantity, Request, expectations

xr = pytest.importorskip("xarray")
pytest.importorskip("h5netcdf")

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("train", ROOT / "train.py")
assert SPEC is not None and SPEC.loader is not None
train = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(train)

LABEL = r"$\langle n_i n_j\rangle$"
TINY = [
    *("lattice=chain", "lattice.Lx=4", "lattice.periodic=true"),
    *("model.d_model=8", "model.n_heads=1", "model.n_layers=1"),
    *("model.patch=4", "train.steps=40", "train.n_samples=128", "train.eval_samples=4000"),
]


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two points of a scan with an observable that the program does not have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Observable, "kinds", dict(Observable.kinds))

        class Bonds(Diagonal, kind="bonds"):
            quantities = (
                Quantity("bond_density", "1", "<n_i n_j> of bonds, (B,)", Picture("bonds", LABEL)),
                Quantity("mean_bond", "couplings", "1 + the mean of these"),
            )

            @classmethod
            def applies(cls, request: Request) -> bool:
                return request.lattice is not None

            def values(self, configs: Tensor) -> dict[str, Tensor]:
                both = configs[:, self.bonds].all(2)  # (U, B)
                return {"bond_density": both, "mean_bond": 1 + both.double().mean(1)}

            @property
            def bonds(self) -> Tensor:
                assert self.request.lattice is not None
                return self.request.lattice.bonds()

            def coordinates(self) -> dict[str, Tensor]:
                return {"bond_density": self.bonds}

        path = tmp_path_factory.mktemp("bonds") / "scan"
        assert (
            train.main(["-m", *TINY, "hamiltonian=tfim", "hamiltonian.h=1,2", f"scan.dir={path}"])
            == 0
        )
        yield path


def exact(h: float) -> dict[str, Tensor]:
    """By exact diagonalisation, of everything that is registered."""
    lattice = Chain(4, periodic=True)
    H = TransverseFieldIsing(lattice, J=1.0, h=h)
    state = ground_state(H)
    values = expectations(Request(H, lattice), basis(4), torch.from_numpy(state.state))
    i, j = lattice.bonds().T.numpy()
    pairs = torch.from_numpy(state.density_density()[i, j])
    torch.testing.assert_close(values["bond_density"], pairs)
    return values


def test_run_h5_holds_what_exact_diagonalisation_finds(scan: Path) -> None:
    """Within 5 standard errors and what the optimisation has left (0.003); the two points differ
    by more than that."""
    for h in (1, 2):
        folder = scan / f"hamiltonian.h={h}"
        final = history.read(folder / "run.h5").evaluations[-1]
        value, error = map(torch.from_numpy, final.observables["bond_density"])
        truth = exact(h)["bond_density"]
        assert value.shape == truth.shape == (4,)
        assert bool(((value - truth).abs() < 5 * error + 0.003).all())
        assert final.coordinates["bond_density"].tolist() == Chain(4, True).bonds().tolist()
        assert final.meanings["mean_bond"].unit == "couplings"
        summary = json.loads((folder / "summary.json").read_text())["observables"]
        assert summary["mean_bond"]["value"] == pytest.approx(1 + float(value.mean()))
    assert exact(1)["mean_bond"] - exact(2)["mean_bond"] > 0.05


def test_commands(
    scan: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """nqs evaluate prints it, nqs plot draws it, nqs collect has it over the axes of the scan."""
    folder, labels = scan / "hamiltonian.h=1", []
    assert nqs(["evaluate", str(folder), "--samples", "1000"]) == 0
    assert "mean bond  " in capsys.readouterr().out
    draw = observables_plot._draw_bonds_in_line

    def drawn(axes: Axes, **arguments: object) -> None:
        draw(axes, **arguments)  # type: ignore[arg-type]
        labels.append(axes.get_ylabel())

    monkeypatch.setattr(observables_plot, "_draw_bonds_in_line", drawn)
    assert nqs(["plot", str(folder)]) == 0
    assert labels == [LABEL]
    assert (folder / "observables.png").read_bytes().endswith(b"IEND\xaeB`\x82")
    assert nqs(["collect", str(scan), "--observable", "mean_bond"]) == 0
    with xr.open_dataset(scan / "collected.nc", engine="h5netcdf") as data:
        assert data["bond_density"].dims == ("h", "bond_density_1")
        assert data["mean_bond"].dims == ("h",)
        assert data["mean_bond"].attrs["units"] == "couplings"
        final = history.read(folder / "run.h5").last("final")
        assert final is not None
        assert data["mean_bond"].sel(h=1).item() == final.observables["mean_bond"][0]
