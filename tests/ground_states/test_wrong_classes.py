"""Classes of one's own: what is wrong with them is said in one line before there is a folder, and a
resumed run says that their source has changed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_ground_state_run import result, run

import nqs
from hamiltonians import Chain
from nqs.errors import InputError

SOURCE = """
import torch
from hamiltonians import Grid, Hamiltonian

class Ring(Hamiltonian):
    infinite_temperature_energy = 0.0
    def __init__(self, lattice, *, K: float = None):
        self.lattice, self.n_sites = lattice, lattice.n_sites
        self.flips = torch.eye(self.n_sites, dtype=torch.bool)
    def diagonal(self, configs):
        return -(1 - 2.0 * configs.double())[:, :2].prod(1)
    def off_diagonal(self, configs):
        return torch.full((len(configs), self.n_sites), -0.7, dtype=torch.float64)

class Failing(Ring):
    def __init__(self, lattice): raise KeyError("boo")

class Bare(Ring):
    def __init__(self, lattice): self.n_sites = lattice.n_sites

class Skew(Ring):
    def off_diagonal(self, configs): return super().off_diagonal(configs) * (1 + configs.double())

class Ladder(Grid):
    cell = ((1.0, 0.0), (0.0, 1.0))
    def __init__(self, Lx: int = 2): super().__init__(Lx, 2)

class Folded(Ladder):
    basis = ((0.0, 0.0), (0.0, 0.0))

class Empty(Ladder):
    def __init__(self): pass
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "own_rings.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "own_rings.py"
    sys.modules.pop("own_rings", None)


@pytest.mark.parametrize(
    ("section", "kind", "line"),
    [
        ("hamiltonian", "Failing", "KeyError: 'boo'"),
        ("hamiltonian", "Bare", "sets no flips; its constructor has to"),
        ("hamiltonian", "Skew", "off_diagonal is not Hermitian: "),
        ("lattice", "Folded", "sites 0 and 1 coincide at "),
        ("lattice", "Empty", "AttributeError: 'Empty' object has no attribute 'positions'"),
    ],
)
def test_it_is_refused_before_there_is_a_folder(
    own: Path, section: str, kind: str, line: str
) -> None:
    with pytest.raises(InputError) as caught:
        run(own.parent / "run", **{section: {"name": f"own_rings:{kind}"}})
    assert str(caught.value).startswith(f"{section}=own_rings:{kind}: {line}")
    assert not (own.parent / "run").exists()


def test_a_hamiltonian_in_memory_is_checked_too() -> None:
    class Halved(nqs.Hamiltonian):
        infinite_temperature_energy = 0.0

        def __init__(self) -> None:
            self.n_sites, self.flips = 4, torch.eye(4, dtype=torch.bool)
            self.lattice = Chain(4)

        def diagonal(self, configs: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(configs))

        off_diagonal = diagonal

    with pytest.raises(InputError, match=r"Halved: diagonal returns a float32 Tensor"):
        nqs.ground_state(Halved(), steps=1)
    bare = Halved()
    del bare.n_sites, bare.lattice
    with pytest.raises(InputError, match=r"Halved: sets no n_sites"):
        nqs.ground_state(bare, steps=1)


def test_a_changed_source_is_said(own: Path) -> None:
    """Once for each change; the lattice inherits a check of keys that it does not have."""
    chosen = {"lattice": {"name": "own_rings:Ladder"}, "hamiltonian": {"name": "own_rings:Ring"}}
    folder = own.parent / "run"
    assert run(folder, **chosen) == 0
    warning = "warning: hamiltonian=own_rings:Ring: its source has changed since the last session"
    own.write_text(SOURCE + "# another thought\n")
    for steps, times in ((5, 1), (6, 0)):
        assert run(folder, **chosen, train__steps=steps, run__resume=True) == 0
        assert result(folder).get("notes", []).count(warning) == times
    assert warning in (folder / "run.log").read_text().splitlines()
