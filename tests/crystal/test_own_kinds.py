"""A tokeniser and a core of one's own, each in one file: trained, drawn from and judged by name."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch

from nqs.cli.app import main
from nqs.core import SequenceModel
from nqs.crystal.commands.config import Config, current
from nqs.crystal.commands.run_folder import read_trained
from nqs.crystal.datasets.examples import examples
from nqs.crystal.model.cores import CORES, build_core, core_choice, section
from nqs.crystal.tokens import TOKENISERS, Tokeniser, make_tokeniser
from nqs.errors import InputError

TOKENISER = '''
"""The tokens of the coordinate tokeniser, numbered backwards."""
import numpy as np
from nqs.crystal.tokens import CoordinateTokeniser, Grammar, Tokeniser

class BackwardsGrammar(Grammar):
    def __init__(self, inner):
        self.inner, self.max_length = inner, inner.max_length

    def allowed(self):
        allowed = self.inner.allowed()
        self.size = allowed.shape[1]
        return allowed.flip(1)

    def advance(self, tokens):
        self.inner.advance(self.size - 1 - tokens)

class Backwards(Tokeniser):
    def __init__(self, max_atoms: int = 80):
        self.inner = inner = CoordinateTokeniser(max_atoms)
        self.vocabulary = inner.vocabulary[::-1]
        self.last = len(self.vocabulary) - 1
        self.max_atoms, self.max_length = max_atoms, inner.max_length
        self.pad, self.bos, self.eos, self.mask = (
            self.last - t for t in (inner.pad, inner.bos, inner.eos, inner.mask)
        )

    @property
    def n_bins(self):
        return self.inner.n_bins

    def turned(self, tokens):
        return [self.last - int(token) for token in tokens]

    def encode(self, structure, conditions=None):
        return self.turned(self.inner.encode(structure, conditions))

    def decode(self, tokens):
        return self.inner.decode(self.turned(tokens))

    def grammar(self, n_rows, conditions=None, *, partial=None, device="cpu"):
        inner = self.inner.grammar(n_rows, conditions, partial=partial, device=device)
        return BackwardsGrammar(inner)

    def translated(self, tokens, shift):
        return self.last - self.inner.translated(self.last - np.asarray(tokens), shift)

    def element_tokens(self, element):
        return self.turned(self.inner.element_tokens(element))

    def element_spans(self, tokens):
        return self.inner.element_spans(self.turned(tokens))
'''
DOCUMENT = Path(__file__).resolve().parents[2] / "docs/crystals.md"
(CORE,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
WORDS = [
    "data.tokeniser=own_crystals:Backwards", "model.core=own_core:Mean", "model.width=8",
    "data.max_atoms=4", "data.canonical=false", "optimizer.warmup_steps=1",
    "train.validate_every=2",
]  # fmt: skip


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_crystals.py").write_text(TOKENISER)
    (tmp_path / "own_core.py").write_text(CORE)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_both_from_end_to_end(modules: Path) -> None:
    run = modules / "run"
    assert main(["crystal", "train", *WORDS, "train.steps=2", f"run.dir={run}"]) == 0
    trained = read_trained(run)
    assert trained.tokeniser.name == "Backwards"
    assert type(trained.model).__name__ == "Mean" and trained.config.model.width == 8
    assert main(["crystal", "train", f"run.dir={run}", "run.resume=true"]) == 0
    out = modules / "samples"
    words = ["n=3", "min_distance=null", f"out={out}", "formula=Na1Cl1"]
    assert main(["crystal", "generate", str(run), *words]) == 0
    with (out / "samples.csv").open() as file:
        assert [row["formula"] for row in csv.DictReader(file)] == ["NaCl"] * 3
    assert main(["crystal", "evaluate", str(run), "translations=1"]) == 0
    assert "Backwards" in json.dumps(json.loads((run / "evaluation.json").read_text()))


def test_crystals_come_back(modules: Path) -> None:
    own, coordinate = make_tokeniser("own_crystals:Backwards", 20), make_tokeniser("coordinate", 20)
    for record in examples()[::60]:
        tokens = own.encode(record.structure, record.conditions)
        assert [len(own.vocabulary) - 1 - t for t in tokens] == coordinate.encode(
            record.structure, record.conditions
        )
        assert own.decode(tokens)[0].composition == record.structure.composition
    assert "Backwards" not in Tokeniser.kinds
    assert list(TOKENISERS.kinds) == ["coordinate", "character", "cif", "text", "wyckoff"]


def test_tokenisers_that_lack_something(modules: Path) -> None:
    (modules / "poor_crystals.py").write_text(
        "from nqs.crystal.tokens import CoordinateTokeniser\n"
        "class Bare(CoordinateTokeniser):\n"
        "    def __init__(self, max_atoms=80):\n        pass\n"
        "class Same(CoordinateTokeniser):\n"
        "    def __init__(self, max_atoms=80):\n"
        "        super().__init__(max_atoms)\n        self.mask = self.pad\n"
    )
    for name, rule in (("Bare", "does not set vocabulary"), ("Same", "must be four tokens")):
        with pytest.raises(InputError, match=rf"^data\.tokeniser=poor_crystals:{name}: .*{rule}"):
            make_tokeniser(f"poor_crystals:{name}")


def test_every_core_that_can_serve_does() -> None:
    """Registered cores by their names and by crystals' words, with keys of their constructors."""
    assert {"transformer", "gru", "lstm", "ptf", "rnn", "ssm", "linear_attention"} <= {*CORES.kinds}
    for name in ("transformer", "gru", "ssm", "rnn"):
        model = core_choice(name, d_model=8, n_layers=1)
        assert CORES.read(section(model)) == model
        built = build_core(model, 11, 9, torch.Generator().manual_seed(0))
        assert (built.vocab_size, built.n_outputs, built.max_length) == (11, 11, 9)
    assert core_choice("transformer").attention == "softmax" and core_choice("rnn").residual
    blocks = build_core(core_choice(d_model=8), 11, 9, torch.Generator()).blocks
    assert blocks[0].perceptron.expand.out_features == 32  # null is 4 d_model in crystals


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"core": "rnn2d"}, "model.core=rnn2d: needs grid, which crystals do not have; use trans"),
        ({"core": "lptf"}, "model.core=lptf: needs lengths"),
        ({"core": "gru", "n_heads": 2}, "model.n_heads=2: model.core=gru has no such key"),
        ({"core": "gru", "cell": "lstm"}, "model.cell=lstm: model.core=gru has no such key"),
        ({"n_heads": 3}, "model.n_heads=3 must divide d_model=128; use one of 1, 2, 4"),
        ({"core": "os:nothing"}, "has no class nothing"),
    ],
)
def test_cores_that_are_refused(keys: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        Config.from_dict({"model": keys})
    assert words in str(caught.value)


def test_sections_of_earlier_runs() -> None:
    """Every core's keys stood in the section of each; the settings are the same."""
    written = {"d_model": 16, "n_layers": 2, "n_heads": 4, "d_ff": None, "d_state": None}
    for core in ("transformer", "linear_attention", "ssm", "gru", "lstm"):
        mapping = {"seed": 3, "model": {"core": core, **written}}
        config = Config.from_dict(current(mapping))
        assert (config.model.name, config.model.d_model, config.seed) == (core, 16, 3)
        assert current(config.to_dict()) == config.to_dict()
    with pytest.raises(InputError, match=r"^model\.depth"):
        Config.from_dict(current({"model": {"core": "gru", "depth": 2}}))
    assert {*SequenceModel.kinds} > {"ptf", "rnn2d"}
