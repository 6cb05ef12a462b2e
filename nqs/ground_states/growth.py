"""Arrays that grow: which smaller ones are trained before the one that is asked for.

`train.grow=true` chooses the sizes (`smaller_shapes`), a list names them. Each stage is a run of
its own, with the couplings, the model and the patches of the lattice that is asked for, that starts
from the parameters of the stage before (nqs.wavefunctions.transfer); the lattice itself starts from
the last. Nothing is run here: see nqs.ground_states.stages.

A stage ends when it no longer pays (nqs.ground_states.plateau), and has steps of its own,
train.stage_steps, over which the optimizer's schedules fall: train.steps are those of the lattice
itself, of which fewer are enough the better the last stage is, and each costs as much as many of a
stage (8x8 to 16x16: six).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hamiltonians.lattices.lattice import Lattice
from nqs.errors import InputError, require, shown
from nqs.ground_states.build import build, build_lattice
from nqs.ground_states.config import Config
from nqs.ground_states.patch_choice import groups_tokens, written_out
from nqs.wavefunctions.patches import auto_spec, patch_shape
from nqs.wavefunctions.transfer import counterparts, groups_of, large_groups_of

LENGTHS: Final = ("Lx", "Ly")
"""Keys of a lattice that are its cells along each direction."""
SMALLEST: Final = 16
"""Sites, about, of the smallest array."""
LARGEST_SHARE: Final = 0.7
"""Sites of a stage over those of the next at most: more would spare nothing."""
FIRST_STEPS: Final = 150
"""Steps of the first stage at most: 16 sites take so many from a product state to 1e-4."""
LATER_STEPS: Final = 200
"""Steps of each further stage, or train.steps times the ratio of the sites where that is more: a
step costs more than in proportion to the sites, so that a stage takes less time than the lattice
itself, which ends the lower the better the state is that it starts from (docs/decisions.md)."""
EVALUATION: Final = 4
"""Draws of a stage's evaluation, in those of a step: it is there to be looked at."""

Shape = tuple[int, int]


@dataclass(frozen=True)
class Stage:
    """One of the smaller arrays.

    Attributes:
        name: of its folder, 8x8 or 16.
        config: of its run, but for train.start_from, train.max_seconds and run.dir.
    """

    name: str
    config: Config


def with_stages(config: Config) -> Config:
    """The configuration of a new run with train.grow as the list of sizes that are trained first,
    smallest first, or false if there is none, and model.patch=auto written out.

    auto is about four sites, as small arrays have them, whatever costs least on the lattice itself.
    Raises InputError, one line, for lattices without sizes, sizes whose patches have no
    counterpart, couplings that the smaller arrays cannot have, and steps of stages without any.
    """
    grow = config.train.grow
    if grow is False:
        rule = "are steps of the smaller arrays of train.grow; give that too, or leave these out"
        none = config.train.stage_steps == "auto"
        require(none, "train.stage_steps", config.train.stage_steps, rule)
        return config
    with _naming(grow):
        lattice = build_lattice(config.lattice)
        keys = length_keys(config, lattice)
        model = config.model
        if model.patch == "auto" and not groups_tokens(model):
            model = model.replace(patch=auto_spec(lattice))
        config = config.replace(model=written_out(model, lattice))
        if grow is True:
            steps = patch_periods(lattice, config.model.patch)
            shapes = smaller_shapes(lattice, len(keys), steps, config.model.n_up)
        else:
            shapes = listed_shapes(grow, lattice, len(keys))
        sizes = tuple(name_of(shape, len(keys)) for shape in shapes)
        train = dataclasses.replace(config.train, grow=sizes or False)
        config = config.replace(train=train)
        check(config)
    return config


def remarks(asked: Config, settled: Config) -> list[str]:
    """What is to be said of a configuration that asked for growth, as `with_stages` settled it."""
    if not asked.train.grow or settled.train.grow:
        return []
    return ["train.grow: there is no smaller array to grow from; trained as it is"]


def stages(config: Config) -> list[Stage]:
    """The runs before the asked one, for a configuration as `with_stages` returns it. Raises
    InputError."""
    grow = config.train.grow
    if isinstance(grow, bool):
        return []
    lattice = build_lattice(config.lattice)
    keys = length_keys(config, lattice)
    shapes = listed_shapes(grow, lattice, len(keys))
    return [
        stage(config, lattice, dict(zip(keys, shape, strict=False)), number)
        for number, shape in enumerate(shapes)
    ]


def stage(config: Config, lattice: Lattice, lengths: Mapping[str, int], number: int) -> Stage:
    """The run of one size, the number-th. Raises ValueError where that cannot have the filling."""
    size = "x".join(map(str, lengths.values()))
    cells = math.prod(config.lattice.values[key] for key in lengths)
    here = math.prod(lengths.values())
    train, model, optimizer = config.train, config.model, config.optimizer
    if model.n_up is not None:
        n_up, rest = divmod(model.n_up * here, cells)
        if rest:
            share = f"model.n_up={model.n_up} of {lattice.n_sites} sites"
            raise ValueError(f"{size} cannot have the share {share}; choose other sizes")
        model = model.replace(n_up=n_up)
    if model.symmetry == "auto":  # the network of an average is a poor state alone
        model = model.replace(symmetry="none")
    steps: int = FIRST_STEPS
    if train.stage_steps != "auto":
        steps = train.stage_steps
    elif number:
        steps = max(LATER_STEPS, -(-train.steps * cells // here))
    warmup = optimizer.get("warmup_steps")
    if isinstance(warmup, int) and warmup:  # the same part of the run
        optimizer = optimizer.replace(warmup_steps=warmup * steps // train.steps)
    shorter = dataclasses.replace(
        train,
        steps=steps,
        eval_samples=min(train.eval_samples, EVALUATION * train.n_samples),
        exact=False,
        observables=(),
        grow=False,
        stage_steps="auto",
    )
    array = config.lattice.replace(**lengths)
    parts = {"lattice": array, "model": model, "optimizer": optimizer, "train": shorter}
    return Stage(size, config.replace(**parts))


def check(config: Config) -> None:
    """Raises ValueError for stages that cannot be built, or do not fit each other."""
    todo = stages(config)
    for each in todo:
        try:
            build(each.config)
        except InputError as error:
            couplings = str(error).startswith("hamiltonian")
            rule = " (keys with a number for each site or bond cannot grow)" * couplings
            raise ValueError(f"{each.name}: {error}{rule}") from None
    for before, after in itertools.pairwise([*todo, Stage("the lattice itself", config)]):
        try:
            _check_fit(before.config, after.config)
        except ValueError as error:
            raise ValueError(f"from {before.name} to {after.name}: {error}") from None


def _check_fit(before: Config, after: Config) -> None:
    """Raises ValueError unless each patch has a counterpart."""
    lattices = [build_lattice(config.lattice) for config in (before, after)]
    tilings = [
        config.model.build_common().tiling(lattice, config.model)
        for config, lattice in zip((before, after), lattices, strict=True)
    ]
    tokens = [groups_of(tiling.patches) for tiling in tilings]
    counterparts(tokens[0], tokens[1], lattices[0], lattices[1])
    large = [
        large_groups_of(groups, tiling.lengths or ())
        for groups, tiling in zip(tokens, tilings, strict=True)
    ]
    counterparts(large[0], large[1], lattices[0], lattices[1])


def length_keys(config: Config, lattice: Lattice) -> tuple[str, ...]:
    """Keys of the lattice that are its lengths. Raises ValueError where there is none."""
    selection, shape = config.lattice, lattice.shape
    keys = tuple(
        key
        for key, length in zip(LENGTHS, shape or (), strict=False)
        if type(selection.get(key)) is int and selection.get(key) == length
    )
    if not keys or keys != LENGTHS[: len(keys)]:
        raise ValueError(
            f"lattice={shown(selection.name)} has no size Lx to grow; use a lattice that has, "
            "or train.start_from"
        )
    return keys


def name_of(lengths: Sequence[int], n_keys: int) -> str:
    """8x8, or 8 of a chain."""
    return "x".join(map(str, lengths[:n_keys]))


def listed_shapes(sizes: Sequence[str | int], lattice: Lattice, n_keys: int) -> list[Shape]:
    """The shapes that a list names, without the lattice itself. Raises ValueError for sizes that
    are none, or do not grow."""
    assert lattice.shape is not None
    shapes = []
    for size in sizes:
        numbers = [int(text) for text in re.findall(r"\d+", str(size)[:20])]
        if len(numbers) != n_keys or name_of(numbers, n_keys) != str(size) or 0 in numbers:
            example = "[4x4,8x8]" if n_keys > 1 else "[8,16]"
            raise ValueError(f"{shown(size)} is no size of this lattice; write e.g. {example}")
        shapes.append((numbers[0], numbers[1] if n_keys > 1 else lattice.shape[1]))
    if shapes and shapes[-1] == lattice.shape:
        shapes.pop()
    for before, after in itertools.pairwise([*shapes, lattice.shape]):
        if before == after or before[0] > after[0] or before[1] > after[1]:
            names = [name_of(shape, n_keys) for shape in (before, after)]
            raise ValueError(f"{names[0]} does not grow to {names[1]}; list small sizes first")
    return shapes


def patch_periods(lattice: Lattice, spec: str | int | Sequence[Sequence[int]]) -> tuple[int, int]:
    """(cells along x, along y) by multiples of which the lengths may change, with the same patches;
    0: not at all. Raises ValueError for patches that are no grid."""
    if not isinstance(spec, str | int):
        raise ValueError("model.patch lists sites; use AxB, which fits all sizes")
    along_x, along_y = patch_shape(spec)
    assert lattice.shape is not None
    if along_y:
        return along_x, along_y
    basis, columns = lattice.n_basis, lattice.shape[1]
    row = columns * basis  # sites
    if row % along_x == 0:
        return 1, along_x // math.gcd(along_x, basis) if columns > 1 else 0
    if along_x % row == 0:
        return along_x // row, 0
    raise ValueError(
        f"model.patch={shown(spec)} is no grid of patches; use AxB, which fits all sizes"
    )


def smaller_shapes(
    lattice: Lattice, n_free: int, periods: Shape, n_up: int | None = None
) -> list[Shape]:
    """The cells of the arrays before a lattice, smallest first.

    From each to the one before it, with s the length at which all long directions (above half of
    the longest) together have SMALLEST sites:

        L -> the least valid length >= max(L / 2, 2 s), of each long direction, if that is smaller
        L -> the least valid length >= s                 else

    so that the last steps up are from arrays with a middle: 4, 8, 12, 24, 48; 16, 32, 64. A length
    is valid if it leaves the same remainder as L by the patches and has two of them, is even as L
    is, and, along periodic directions, if it is at least 3 and divisible by 3 as L is where the
    lattice has no two sublattices.

    n_free: directions that may change, the first ones. periods: of the patches, 0 for a direction
    that may not change. n_up: 1 bits of the lattice, whose share a shape must be able to have.
    """
    assert lattice.shape is not None
    by_three = [
        periodic and length % 3 == 0
        for length, periodic in zip(lattice.shape, lattice.periodic, strict=True)
    ]
    thirds = any(by_three) and lattice.bipartition() is None
    valid: list[set[int]] = []
    for k, (length, period) in enumerate(zip(lattice.shape, periods, strict=True)):
        steps, periodic = [period, 2, 3 if thirds and by_three[k] else 1], lattice.periodic[k]
        step = math.lcm(*steps) if len(valid) < n_free else 0
        least = max(2 * period, 3 if periodic else 1)
        shorter = range(length - step, least - 1, -step) if step else ()
        valid.append({length, *shorter})
    shapes: list[Shape] = []
    shape: Shape | None = lattice.shape
    while shape is not None:
        shape = _next_smaller(shape, valid, lattice, n_up)
        if shape is not None:
            shapes.insert(0, shape)
    return shapes


def _next_smaller(
    shape: Shape, valid: list[set[int]], lattice: Lattice, n_up: int | None
) -> Shape | None:
    """The shape before this one, None if it is the first."""
    cells, whole = math.prod(shape), math.prod(lattice.shape or ())
    free = [k for k in range(2) if len(valid[k]) > 1]
    long = [k for k in free if 2 * shape[k] > max(shape[j] for j in free)]
    if not long:
        return None
    others = math.prod(shape[k] for k in range(2) if k not in long)
    base = max(1, round((SMALLEST / (lattice.n_basis * others)) ** (1 / len(long))))
    for middle in (True, False):
        lengths = []
        for k in range(2):
            least = max(shape[k] / 2, 2 * base) if middle else base
            options = {n for n in valid[k] if least <= n <= shape[k]}
            lengths.append(options if k in long and options else {shape[k]})
        fitting = [
            other
            for other in itertools.product(lengths[0], lengths[1])
            if math.prod(other) <= LARGEST_SHARE * cells
            and (n_up is None or n_up * math.prod(other) % whole == 0)
        ]
        if fitting:
            return min(fitting, key=lambda other: (math.prod(other), _stretch(other, shape), other))
    return None


def _stretch(one: Shape, other: Shape) -> float:
    """How unequally two shapes differ along x and y."""
    return abs(math.log(one[0] * other[1] / (one[1] * other[0])))


@contextlib.contextmanager
def _naming(grow: bool | Sequence[str | int]) -> Iterator[None]:
    """Every refusal names the key it comes from."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"train.grow={shown(grow)}: {error}") from None
