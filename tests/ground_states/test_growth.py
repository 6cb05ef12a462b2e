"""Which smaller arrays are trained before the one that is asked for."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
from test_ground_state_run import tiny

from hamiltonians.lattices.lattice import Chain, Honeycomb, Kagome, Lattice, Square, Triangular
from nqs.errors import InputError
from nqs.ground_states.build import build
from nqs.ground_states.config import Config
from nqs.ground_states.growth import (
    LARGEST_SHARE,
    patch_periods,
    remarks,
    smaller_shapes,
    stages,
    with_stages,
)

SQUARE = {"name": "square", "Lx": 12, "Ly": 12, "periodic": False}
CHAIN = {"name": "chain", "Lx": 8, "periodic": False}
BOTH = (True, True)

SEQUENCES: list[tuple[Lattice, str, list[tuple[int, ...]]]] = [
    (Square(48, 48), "2x2", [(4, 4), (8, 8), (12, 12), (24, 24)]),
    (Square(32, 32), "2x2", [(4, 4), (8, 8), (16, 16)]),
    (Square(16, 16, BOTH), "2x2", [(4, 4), (8, 8)]),
    (Square(12, 12), "2x2", [(4, 4), (8, 8)]),
    (Square(8, 8), "2x2", [(4, 4)]),
    (Square(6, 6), "2x2", [(4, 4)]),
    (Square(4, 4), "2x2", []),
    (Square(3, 3), "2x2", []),
    (Square(9, 9), "2x2", [(5, 5)]),
    (Square(16, 16), "4x4", [(8, 8)]),
    (Square(12, 8), "2x2", [(4, 4), (8, 8)]),
    (Square(32, 16), "2x2", [(4, 4), (8, 8), (16, 16)]),
    (Square(32, 2), "2x2", [(8, 2), (16, 2)]),
    (Square(64, 1), "4", [(16, 1), (32, 1)]),
    (Square(16, 16), "4", [(4, 8), (8, 8)]),
    (Chain(64), "4", [(16, 1), (32, 1)]),
    (Chain(64, periodic=True), "2", [(16, 1), (32, 1)]),
    (Chain(24), "4", [(16, 1)]),
    (Chain(16), "4", []),
    (Triangular(12, 12), "2x2", [(4, 4), (8, 8)]),
    (Triangular(12, 12, BOTH), "2x2", [(6, 6)]),
    (Kagome(6, 6), "1x1", [(2, 2), (4, 4)]),
    (Honeycomb(8, 8), "2x1", [(4, 4), (6, 6)]),
]


@pytest.mark.parametrize(("lattice", "patch", "expected"), SEQUENCES)
def test_sizes(lattice: Lattice, patch: str, expected: list[tuple[int, ...]]) -> None:
    free = 1 if isinstance(lattice, Chain) else 2
    assert smaller_shapes(lattice, free, patch_periods(lattice, patch)) == expected


@pytest.mark.parametrize("kind", [Square, Triangular, Kagome, Honeycomb])
@pytest.mark.parametrize("periodic", [(False, False), (True, False), BOTH])
def test_every_sequence_keeps_what_it_must(kind: type[Square], periodic: tuple[bool, bool]) -> None:
    """Remainders by the patch, parity, two patches a direction, two sublattices; and it grows."""
    for shape in [(3, 5), (6, 6), (7, 12), (10, 9), (12, 8)]:
        lattice = kind(*shape, periodic)
        for patch in [(1, 1), (2, 2), (3, 2)]:
            if patch[0] > shape[0] or patch[1] > shape[1]:
                continue
            shapes = [*smaller_shapes(lattice, 2, patch), shape]
            for before, after in itertools.pairwise(shapes):
                assert math.prod(before) <= LARGEST_SHARE * math.prod(after)
                for k in range(2):
                    assert before[k] <= after[k]
                    if before[k] < after[k]:
                        assert before[k] % patch[k] == after[k] % patch[k]
                        assert before[k] % 2 == after[k] % 2 and before[k] >= 2 * patch[k]
                        assert not periodic[k] or before[k] >= 3
                both = [kind(*sides, periodic).bipartition() is None for sides in (before, after)]
                assert both[0] == both[1]


def test_the_filling_decides_which_sizes_there_are() -> None:
    """A quarter of 144 sites is a whole number of any; 12 of 144 are 2 of 24 and 8 of 96."""
    lattice = Square(12, 12)
    assert smaller_shapes(lattice, 2, (2, 2), 36) == [(4, 4), (8, 8)]
    assert smaller_shapes(lattice, 2, (2, 2), 72) == [(4, 4), (8, 8)]
    for shape in smaller_shapes(lattice, 2, (2, 2), 12):
        assert 12 * math.prod(shape) % 144 == 0
    assert smaller_shapes(lattice, 2, (2, 2), 1) == []


def grown(**changes: Any) -> Config:
    model = tiny().to_dict()["model"] | {"patch": "auto"}
    return with_stages(tiny(**{"lattice": SQUARE, "model": model} | changes))


def test_a_grown_configuration_says_what_is_trained() -> None:
    config = grown(train__grow=True, train__steps=10)
    assert config.train.grow == ("4x4", "8x8") and config.model.patch == "2x2"
    assert with_stages(config) == config
    first, second = (stage.config for stage in stages(config))
    assert (first.lattice.Lx, second.lattice.Ly) == (4, 8)
    assert first.train.steps == 150 and second.train.steps == 200
    assert (
        stages(grown(train__grow=True, train__steps=200))[1].config.train.steps == 450
    )  # 144 / 64
    assert first.train.grow is False and first.train.exact is False
    assert first.hamiltonian == second.hamiltonian == config.hamiltonian
    short = stages(grown(train__grow=["8x8"], train__stage_steps=9))
    assert [stage.name for stage in short] == ["8x8"] and short[0].config.train.steps == 9
    assert grown(train__grow=["4x4", "12x12"]).train.grow == ("4x4",)
    assert grown(train__grow=False).model.patch == "auto"


def test_nothing_smaller_is_no_growth() -> None:
    config = grown(lattice=SQUARE | {"Lx": 4, "Ly": 4}, train__grow=True)
    assert config.train.grow is False and not config.train.starts_warm
    asked = config.replace(train=dataclasses.replace(config.train, grow=True))
    (line,) = remarks(asked, config)
    assert "no smaller array" in line
    assert remarks(config, config) == remarks(asked, asked) == []


def test_the_filling_is_kept() -> None:
    heisenberg = {"name": "heisenberg", "J": 1.0, "h": 0.0, "marshall": True}
    config = grown(hamiltonian=heisenberg, model__n_up=72, train__grow=True)
    assert [stage.config.model.n_up for stage in stages(config)] == [8, 32]


def test_large_patches_keep_theirs() -> None:
    """auto of 8x8 is 4x4, of 4x4 it is 2x4."""
    model = {"name": "lptf", "patch": "auto", "sub_patch": "2x2"}
    config = grown(lattice=SQUARE | {"Lx": 16, "Ly": 16}, model=model, train__grow=True)
    assert config.model.patch == "4x4" and config.train.grow == ("8x8",)


@pytest.mark.parametrize("model", ["ptf", "rnn", "rnn2d", "linear_attention", "ssm"])
def test_every_model_has_patches_for_all_sizes(model: str) -> None:
    config = grown(model={"name": model, "d_model": 4}, train__grow=True)
    assert config.model.patch == "2x2" and config.train.grow == ("4x4", "8x8")
    assert build(config).optimizer is not None


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"train__grow": ["8"]}, r"8 is no size of this lattice; write e\.g\. \[4x4,8x8\]"),
        ({"train__grow": ["4x4x4"]}, "4x4x4 is no size"),
        ({"train__grow": ["0x4"]}, "0x4 is no size"),
        ({"train__grow": ["x" * 9000]}, "is no size"),
        ({"train__grow": ["9" * 9000]}, "is no size"),
        ({"train__grow": ["8x8", "4x4"]}, "8x8 does not grow to 4x4"),
        ({"train__grow": ["8x8", "8x8"]}, "8x8 does not grow to 8x8"),
        ({"train__grow": ["16x16"]}, "16x16 does not grow to 12x12"),
        (
            {"train__grow": ["4x4"], "lattice": SQUARE | {"Lx": 5, "Ly": 5}},
            "from 4x4 to the lattice itself: a patch of 2 sites has no counterpart",
        ),
        ({"train__grow": ["4x1"]}, "4x1: .*patch"),
        ({"lattice": CHAIN, "train__grow": ["4x4"]}, r"write e\.g\. \[8,16\]"),
        ({"model__n_up": 6, "train__grow": ["4x4"]}, "4x4 cannot have the share model.n_up=6"),
        (
            {"train__grow": ["4x4"], "hamiltonian__delta": [1.0] * 144},
            "4x4: hamiltonian.*delta.*one per site|4x4: .*144.*a number for each site",
        ),
    ],
)
def test_what_cannot_grow_is_refused(changes: dict[str, Any], culprit: str) -> None:
    model = tiny().to_dict()["model"] | {"patch": "2x2"}
    if changes.get("lattice") is CHAIN:
        model["patch"] = "2"
    if "model__n_up" in changes:
        changes = changes | {"hamiltonian": {"name": "heisenberg"}}
    with pytest.raises(InputError, match=culprit) as caught:
        grown(**{"model": model} | changes)
    line = str(caught.value)
    assert line.startswith("train.grow=") and "\n" not in line and len(line) <= 400


def test_lattices_and_patches_without_sizes_are_refused(tmp_path: Any) -> None:
    file = tmp_path / "sites.csv"
    file.write_text("x,y\n" + "".join(f"{i},0\n" for i in range(6)))
    free = {"lattice": {"name": "positions", "file": str(file)}, "train__grow": True}
    with pytest.raises(InputError, match="lattice=positions has no size Lx to grow"):
        grown(**free)
    sites = [[i] for i in range(8)]
    model = tiny().to_dict()["model"] | {"patch": sites}
    with pytest.raises(InputError, match=r"model\.patch lists sites; use AxB"):
        grown(lattice=CHAIN, model=model, train__grow=True)
    with pytest.raises(InputError, match=r"train\.grow=true: begins at a product state"):
        tiny(train__grow=True, train__start_from="elsewhere")
    with pytest.raises(InputError, match=r"train\.grow=\[\]: names no size"):
        tiny(train__grow=[])
    with pytest.raises(InputError, match=r"train\.grow=big"):
        tiny(train__grow="big")
