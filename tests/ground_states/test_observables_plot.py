"""observables.png for sites in a line, in a plane and in space, with and without its parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hamiltonians.lattices.lattice import Chain, Honeycomb, Lattice, Positions, Square
from nqs.errors import InputError
from nqs.ground_states.observables_plot import (
    _segments,
    brillouin_zone,
    central_site,
    check_shapes,
    observables_figure,
)
from nqs.runfolder.history import Evaluation
from nqs.vmc.observables import Observable, Picture, Quantity
from nqs.vmc.observables.momenta import momentum_grid, reciprocal_vectors

TETRAHEDRON = Positions([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
PLANAR = Positions([[0.0, 0, 0], [1, 0.3, 0], [0.2, 1, 0], [1.5, 1.5, 0]])


def evaluation(lattice: Lattice, names: tuple[str, ...]) -> Evaluation:
    random = np.random.default_rng(0)
    n, k = lattice.n_sites, momentum_grid(lattice).numpy()
    shapes = {"density": (n,), "sigma_x": (n,), "connected": (n, n)}
    shapes |= {"structure_factor": k.shape[:-1]}
    values = {name: (random.random(shapes[name]), random.random(shapes[name])) for name in names}
    return Evaluation({"step": 1, "n_samples": 10}, values, {"structure_factor": k})


ALL = ("density", "sigma_x", "connected", "structure_factor")


@pytest.mark.parametrize(
    ("lattice", "names"),
    [
        (Chain(5), ALL),
        (Square(2, 3, periodic=(True, False)), ALL),
        (Honeycomb(2, 1), ("density", "connected", "structure_factor")),
        (PLANAR, ALL),
        (TETRAHEDRON, ALL),
        (Square(1, 1), ("density", "structure_factor")),
        (Square(1, 3), ("density",)),
    ],
)
def test_figures_draw(lattice: Lattice, names: tuple[str, ...]) -> None:
    """A panel for each observable, every axis labelled; warnings are errors."""
    figure = observables_figure(evaluation(lattice, names), lattice, "run")
    figure.canvas.draw()  # the layout included
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert len(panels) == len(names)
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in panels)


@pytest.mark.parametrize("lattice", [Chain(5, True), Square(3, 2, True), TETRAHEDRON])
def test_bonds(lattice: Lattice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines between the ends, across a boundary to the nearest image; refused without ends."""
    quantity = Quantity("bond", "1", "a value of each bond", Picture("bonds", "$b$"))

    class Bonds(Observable):
        quantities = (quantity,)

    monkeypatch.setattr(Observable, "kinds", Observable.kinds | {"bonds": Bonds})
    ends = lattice.bonds().numpy()
    values = (np.arange(float(len(ends))), np.ones(len(ends)))
    numbers = {"step": 1, "n_samples": 10}
    figure = observables_figure(
        Evaluation(numbers, {"bond": values}, {"bond": ends}), lattice, "run"
    )
    figure.canvas.draw()
    segments = _segments(lattice, ends)
    lengths = np.linalg.norm(segments[:, 1] - segments[:, 0], axis=1)
    np.testing.assert_allclose(lengths, lattice.distances().numpy()[*ends.T])
    for wrong in ({}, {"bond": ends + lattice.n_sites}, {"bond": ends[:, :1]}):
        with pytest.raises(InputError, match=r"run\.h5: a bond without its bonds"):
            check_shapes(Evaluation(numbers, {"bond": values}, wrong), lattice)
    with pytest.raises(InputError, match=r"bond has the shape \(1,\)"):
        short = {"bond": (values[0][:1], values[1][:1])}
        check_shapes(Evaluation(numbers, short, {"bond": ends}), lattice)


def test_central_site() -> None:
    assert central_site(Chain(5)) == 2 and central_site(Square(3, 3)) == 4
    assert central_site(Chain(4)) == 1


def test_brillouin_zone() -> None:
    """Its area is that of the reciprocal cell, its corners those of the square or hexagon."""
    for lattice, n_corners in ((Square(2, 2), 4), (Honeycomb(2, 2), 6)):
        x, y = brillouin_zone(lattice).T
        assert len(x) == n_corners
        area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
        assert area == pytest.approx(abs(float(torch.linalg.det(reciprocal_vectors(lattice)))))
