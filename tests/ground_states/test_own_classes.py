"""Classes of anyone's that cannot be used: one line, before there is a folder of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nqs.cli.app import main

MODULE = """
import torch
from torch import nn

from nqs.core.head import Head
from nqs.core.sequence import UncachedModel
from nqs.scans.launchers import Launcher
from nqs.vmc.columns import Column
from nqs.vmc.energies import Energies
from nqs.vmc.observables import Diagonal, Picture, Quantity
from nqs.vmc.optimizers import Adam


def observable(values, *quantities):
    if not quantities:
        quantities = (Quantity("mine", "1", "text"),)
    return type("Made", (Diagonal,), {"quantities": quantities, "values": values})


def mean(self, configs):
    return {"mine": configs.double().mean(1)}


Good = observable(mean)
Undeclared = observable(lambda self, configs: {"other": configs.double()})
Complex = observable(lambda self, configs: {"mine": configs.double() * 1j})
Infinite = observable(lambda self, configs: {"mine": configs.double() / 0})
Scalar = observable(lambda self, configs: {"mine": torch.tensor(1.0)})
Grows = observable(lambda self, configs: {"mine": torch.zeros(len(configs), len(configs))})
Raises = observable(lambda self, configs: {}["key"])
Taken = observable(mean, Quantity("energy", "1", "text"))
Twice = observable(mean, Quantity("mine", "1", "text"), Quantity("mine", "1", "text"))
Slash = observable(mean, Quantity("a/b", "1", "text"))
NoQuantity = observable(mean, "mine")
Short = observable(mean, Quantity("mine", "1", "text", Picture("sites", "x")))


class Abstract(Diagonal):
    quantities = Good.quantities


class Network(UncachedModel):
    def __init__(self, n_tokens, n_outputs, length, *, width: int = 4, generator=None):
        super().__init__(n_tokens, n_outputs, length)
        self.embedding = nn.Embedding(n_tokens, width)
        self.head = Head(width, n_outputs)

    def logits(self, tokens):
        return self.head(self.embedding(tokens))


class NotFinite(Network):
    def logits(self, tokens):
        return super().logits(tokens) * float("nan")


class Narrow(Network):
    def logits(self, tokens):
        return super().logits(tokens)[..., :-1]


class Random(Network):
    def logits(self, tokens):
        return nn.functional.dropout(super().logits(tokens))


class Future(Network):
    def logits(self, tokens):
        return super().logits(tokens).mean(1, keepdim=True).expand(-1, tokens.shape[1], -1)


class Detached(Network):
    def logits(self, tokens):
        return super().logits(tokens).detach()


class Headless(Network):
    def __init__(self, n_tokens, n_outputs, length):
        UncachedModel.__init__(self, n_tokens, n_outputs, length)
        self.embedding = nn.Embedding(n_tokens, n_outputs)


class NoSuper(Network):
    def __init__(self, n_tokens, n_outputs, length):
        pass


class Convolution(Network):
    def __init__(self, n_tokens, n_outputs, length):
        super().__init__(n_tokens, n_outputs, length)
        self.convolution = nn.Conv1d(4, 4, 1)

    def logits(self, tokens):
        return self.head(self.convolution(self.embedding(tokens).mT).mT)


class NoReturn(Adam):
    def prepare(self, *arguments, **keys):
        pass


class SameColumn(Adam):
    columns = (Column("energy", "1", "text"),)


class TextWarmUp(Adam):
    def __init__(self, *, warmup_steps: str = "many"):
        super().__init__()


class Plain(Energies):
    def draw(self, *arguments, **keys):
        return None

    def check(self, wavefunction):
        raise ValueError("no key in this")


class Silent(Launcher):
    def run(self, scan, chains):
        return []


class Nothing(Launcher):
    def run(self, scan, chains):
        return None


class Number(Silent):
    needs = 5


class Within(Silent):
    needs = "os.nothing.more"
"""
SMALL = ["lattice=chain", "lattice.Lx=4", "hamiltonian=tfim", "train.steps=1", "model.patch=2"]
OWN = "train.observables=["


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("mine", None)
    yield tmp_path
    sys.modules.pop("mine", None)


REFUSED = [
    (OWN + "mine:Undeclared]", "values has other, which is not among its quantities"),
    (OWN + "mine:Complex]", "values of mine must be real and finite"),
    (OWN + "mine:Infinite]", "values of mine must be real and finite"),
    (OWN + "mine:Scalar]", "values of mine have the shape ()"),
    (OWN + "mine:Grows]", "values of mine have the shape (2, 2)"),
    (OWN + "mine:Raises]", "values: KeyError: 'key'"),
    (OWN + "mine:Taken]", "its quantity energy is there already, of the program"),
    (OWN + "mine:Twice]", "its quantity mine is there already, of mine:Twice"),
    (OWN + "mine:Good,mine:Infinite]", "its quantity mine is there already, of mine:Good"),
    (OWN + "mine:Slash]", "the quantity 'a/b' must have a name of letters"),
    (OWN + "mine:NoQuantity]", "quantities must be a tuple of"),
    (OWN + "mine:Short]", "a picture over sites needs (4,)"),
    (OWN + "mine:Abstract]", "values"),
    ("model=mine:NotFinite", "its logits are not finite"),
    ("model=mine:Narrow", "its logits have the shape (2, 2, 3)"),
    ("model=mine:Random", "its logits differ from call to call"),
    ("model=mine:Future", "its logits [:, i] depend on tokens after [:, i]"),
    ("model=mine:Detached", "its logits do not depend on its parameters"),
    ("model=mine:Headless", "its constructor must set self.head ="),
    ("model=mine:NoSuper", "its constructor must call super().__init__("),
    ("model=mine:Convolution", "no rule for the layer Conv1d (base.core.convolution)"),
    ("optimizer=mine:NoReturn", "prepare must return the optimizer"),
    ("optimizer=mine:SameColumn", "a column energy is there already"),
    ("energies=mine:Plain", "energies=mine:Plain: no key in this"),
]


def test_refused_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word, rule in REFUSED:
        assert main(["train", *SMALL, word]) == 2, word
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1, word
        assert rule in error and len(error) <= 401, error
        assert word.partition("[")[2].rpartition(",")[2].rstrip("]") in error
        assert not (folder / "runs").exists(), word


def test_accepted(folder: Path) -> None:
    """What only resembles a fault: a layer without a rule under adam, a key of another type."""
    words = [*SMALL, "train.n_samples=16", "train.eval_samples=100", "run.dir=run"]
    words += ["model=mine:Convolution", "optimizer=mine:TextWarmUp", OWN + "mine:Good]"]
    assert main(["train", *words]) == 0
    summary = (folder / "run" / "summary.json").read_text()
    assert '"mine"' in summary


@pytest.mark.parametrize(
    ("name", "code", "rule"),
    [
        ("Silent", 1, "1 points have no result, and the launcher does not say why"),
        ("Nothing", 2, "launcher=mine:Nothing: run must return a list of"),
        ("Number", 2, "launcher=mine:Number: needs=5 must be the name of a package"),
        ("Within", 2, "launcher: the package os.nothing.more is not installed\n"),
    ],
)
def test_launchers(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, code: int, rule: str
) -> None:
    assert main(["scan", *SMALL, "hamiltonian.h=range(1,2)", f"launcher=mine:{name}"]) == code
    assert rule in capsys.readouterr().err
