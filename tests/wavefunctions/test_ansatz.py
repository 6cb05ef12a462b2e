"""The model section: every registered core becomes a wavefunction, one's own included."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from hamiltonians.lattices.lattice import Chain, Kagome, Square
from nqs.conf.kinds import Group
from nqs.core import SequenceModel, Transformer
from nqs.core.large_patched import LargePatched
from nqs.errors import InputError
from nqs.wavefunctions.ansatz import SUPPLIED, Ansatz
from nqs.wavefunctions.patches import Patches

GROUP = Group("model", SequenceModel, SUPPLIED, "The network.", common=Ansatz)
OWN = '''
import torch
from torch import nn
from nqs.core.head import Head
from nqs.core.initialise import initialise
from nqs.core.sequence import UncachedModel

class Mean(UncachedModel):
    """The mean of what was read.

    Args:
        width: Of its vectors.
    """

    def __init__(self, n_tokens, n_outputs, length, *, width: int = 16, generator):
        super().__init__(n_tokens, n_outputs, length)
        self.embedding, self.mix = nn.Embedding(n_tokens, width), nn.Linear(width, width)
        self.head = Head(width, n_outputs)
        initialise(self, generator)

    def logits(self, tokens):
        seen = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)[:, None]
        return self.head(torch.tanh(self.mix(self.embedding(tokens).cumsum(1) / seen)))
'''


def built(keys: Mapping[str, Any], lattice: Any) -> Any:
    model = GROUP.read(keys)
    ansatz: Ansatz = model.build_common()
    psi = ansatz.wavefunction(lattice, model, torch.Generator().manual_seed(0))
    return ansatz.symmetrised(lattice, psi.double())


def total(psi: Any) -> float:
    """sum |psi|^2 over all configurations."""
    n_sites = psi.n_sites
    configs = (torch.arange(2**n_sites)[:, None] >> torch.arange(n_sites)) & 1
    return float((2 * psi.log_psi(configs.bool()).real).exp().sum())


def test_the_kinds() -> None:
    """Names that people know, each with a line for each key and keys that are no builder's."""
    shipped = [name for name in SequenceModel.kinds if not name.endswith("_of_tests")]
    assert sorted(shipped) == [
        "linear_attention", "lptf", "lptf_ptf", "ptf", "rnn", "rnn2d", "ssm",
    ]  # fmt: skip
    for name in shipped:
        keys = GROUP.keys(name)
        assert not SUPPLIED & keys.keys()
        assert [key for key, entry in keys.items() if not entry.text] == []
        assert {"patch", "n_up", "phase", "symmetry"} <= keys.keys()
        assert ("sub_patch" in keys) == issubclass(SequenceModel.kinds[name], LargePatched)


@pytest.mark.parametrize("name", ["linear_attention", "lptf", "lptf_ptf", "ptf", "rnn", "rnn2d",
                                  "ssm"])  # fmt: skip
def test_each_kind_is_normalised(name: str) -> None:
    psi = built({"name": name, "d_model": 8, "phase": True, "spin_flip": True}, Square(2, 4))
    with torch.no_grad():
        assert total(psi) == pytest.approx(1, abs=1e-12)


def test_odd_states() -> None:
    """The key reaches the characters: psi changes sign where the key says, and only there."""
    keys = {"name": "rnn", "d_model": 8, "phase": True, "symmetry": "translations"}
    psi = built(keys | {"odd": ["shift_x"]}, Square(4, 3, True))
    configs = torch.tensor([[1, 0, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0]]).bool()
    with torch.no_grad():
        amplitude = psi.log_psi(configs).exp()
        along_x, along_y = (configs.view(1, 4, 3).roll(1, axis).flatten(1) for axis in (1, 2))
        torch.testing.assert_close(psi.log_psi(along_x).exp(), -amplitude)
        torch.testing.assert_close(psi.log_psi(along_y).exp(), amplitude)
    for wrong, lattice, culprit in (
        ({"phase": False}, Square(4, 3, True), "needs model.phase=true"),
        ({"symmetry": "none"}, Square(4, 3, True), r"odd=\[shift_x\]: .* names here: none"),
        ({}, Square(3, 4, True), "no state is odd under shift_x at once"),
    ):
        with pytest.raises(ValueError, match=culprit):
            built(keys | {"odd": ["shift_x"]} | wrong, lattice)


def test_a_core_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cache, coordinates, digits or registration; symmetries and sectors included."""
    (tmp_path / "own_core.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    lattice = Kagome(2, 1)
    psi = built({"name": "own_core:Mean", "width": 5, "n_up": 3, "spin_flip": True}, lattice)
    with torch.no_grad():
        assert total(psi) == pytest.approx(1, abs=1e-12)
        samples = psi.sample(50, torch.Generator().manual_seed(1), unique=True)
        torch.testing.assert_close(psi.log_psi(samples.configs), samples.log_psi)
        flips = torch.eye(6, dtype=torch.bool) | torch.eye(6, dtype=torch.bool).roll(1, 0)
        flipped = psi.log_psi_flipped(samples.configs, flips)
        brute = psi.log_psi((samples.configs[:, None] ^ flips).flatten(0, 1)).view_as(flipped)
    torch.testing.assert_close(flipped, brute)
    assert next(iter(GROUP.keys("own_core:Mean"))) == "width"


def test_what_a_class_says_of_itself_decides_the_patches() -> None:
    large, generator = Square(12, 12), torch.Generator()
    expected = {"ptf": "3x2", "rnn": "2x2"}
    for name, spec in expected.items():
        model = GROUP.read({"name": name})
        patches = model.build_common().tiling(large, model).patches
        assert torch.equal(patches.sites, Patches.from_spec(large, spec).sites)
    model = GROUP.read({"name": "rnn2d"})
    tiling = model.build_common().tiling(large, model)
    assert tiling.patches.grid == (6, 6) and tiling.lengths is None
    assert torch.equal(tiling.patches.sites, Patches.from_spec(large, "2x2", path="zigzag").sites)
    model = GROUP.read({"name": "lptf", "patch": "4x2", "sub_patch": 2})
    tiling = model.build_common().tiling(Square(4, 4), model)
    assert tiling.lengths == (4, 4) and tiling.coordinates.shape == (2, 2)
    psi = model.build_common().network(tiling, model, generator)
    assert (psi.core.vocab_size, psi.core.max_length) == (5, 8)


def test_bits_and_tables() -> None:
    few, many = (Patches.from_spec(Square(4, 4), spec) for spec in ("2x2", "4x2"))
    assert Ansatz().products(few) is None and Ansatz().products(many) is not None
    assert Ansatz(digit_decay=None).products(many) is None
    halved = Ansatz(digit_decay=0.5).products(few)
    assert halved is not None and halved.abs().unique().tolist() == [0.125, 0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"name": "ptf", "n_heads": 5}, "model.n_heads=5 must divide d_model=32; use one of 1, 2"),
        ({"name": "lptf_ptf", "sub_n_heads": 5}, "model.sub_n_heads=5 must divide sub_d_model=32"),
        ({"name": "rnn", "cell": "grru"}, "did you mean gru?"),
        ({"name": "ptf", "d_model": 10**6}, "model.d_model=1000000: must be >= 1 and <= 65536"),
        ({"name": "ptf", "patch": 40_000}, "model.patch=40000: must be >= 0 and <= 32768"),
        ({"name": "ptf", "n_up": -1}, "model.n_up=-1"),
        ({"name": "ptf", "sub_patch": 2}, "has no such key"),
    ],
)
def test_keys_that_are_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        GROUP.read(keys)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "lattice", "words"),
    [
        ({"name": "ptf", "patch": "6x6"}, Square(6, 6), "patch=6x6: patch: 36 sites need a soft"),
        ({"name": "rnn2d", "patch": 3}, Square(4, 4), "patch=3: .* not a grid of patches"),
        ({"name": "lptf", "patch": "2x2", "sub_patch": "2x3"}, Square(4, 4),
         "patch=2x2, model.sub_patch=2x3: sub_patch='2x3' is larger than patch='2x2'"),
        ({"name": "ptf", "n_up": 17}, Square(4, 4), r"n_up=17 must be in 0\.\.16"),
        ({"name": "ptf", "symmetry": "all"}, Square(4, 4), "no periodic direction"),
        ({"name": "ptf", "spin_flip": True, "n_up": 1}, Chain(4), "not half of 4 sites"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_lattice(keys: dict[str, Any], lattice: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        built(keys, lattice)


def test_the_cost_of_a_token() -> None:
    """A model of known cost is asked for it; others are not."""
    keys = {"d_model": 32, "n_layers": 2, "d_ff": None}
    assert Transformer.token_cost(16, keys) == 2 * 32 * (64 + 128 + 400) + 16 * (32 + 90)
    assert SequenceModel.kinds["rnn"].token_cost(16, keys) is None
