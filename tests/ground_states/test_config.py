"""The typed configuration: round trip, types, documentation."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hamiltonians import Hamiltonian
from hamiltonians.lattices.lattice import Chain
from nqs.conf.kinds import Group
from nqs.conf.sections import documentation, flatten, from_mapping
from nqs.conf.values import bounds_of
from nqs.errors import InputError, suggestion
from nqs.ground_states.build import build_hamiltonian
from nqs.ground_states.config import Config, TrainConfig
from nqs.ground_states.groups import GROUPS, HAMILTONIAN, LATTICE, MODEL
from nqs.ground_states.older_config import current
from nqs.scans.launchers import LAUNCHER


@dataclass(frozen=True)
class Kinds:
    """One field of every type."""

    whole: int
    real: float
    flag: bool
    text: str | None
    many: float | tuple[float, ...]


GOOD = {"whole": 3, "real": 2, "flag": True, "text": None, "many": [1, 2.5]}


def test_conversion() -> None:
    kinds = from_mapping(Kinds, GOOD)
    assert kinds == Kinds(3, 2.0, True, None, (1.0, 2.5))
    assert isinstance(kinds.real, float)
    assert from_mapping(Kinds, GOOD | {"whole": 1e4}).whole == 10_000


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("whole", 2.5, "a whole number"),
        ("whole", True, "a whole number"),
        ("whole", None, "a whole number"),
        ("real", "2", "a number"),
        ("real", False, "a number"),
        ("real", float("inf"), "finite"),
        ("flag", 1, "true or false"),
        ("text", 3, "text or null"),
        ("many", ["a"], "a number or a list, each entry a number"),
        ("many", [float("nan")], "finite"),
    ],
)
def test_wrong_type_names_key_value_and_type(key: str, value: object, wanted: str) -> None:
    with pytest.raises(InputError) as caught:
        from_mapping(Kinds, GOOD | {key: value})
    message = str(caught.value)
    assert message.startswith(f"{key}=") and wanted in message and "\n" not in message


def test_unknown_and_missing_keys() -> None:
    with pytest.raises(InputError, match=r"realm: unknown key \(did you mean real\?\)"):
        from_mapping(Kinds, GOOD | {"realm": 1})
    with pytest.raises(InputError, match=r"lattice=\{Lx:3\}: must be a mapping .* name of a kind"):
        LATTICE.read({"Lx": 3})
    with pytest.raises(InputError, match="lattice=3: must be a mapping"):
        Config.from_dict({"lattice": 3})


def test_suggestion_prefers_the_right_name_in_another_section() -> None:
    assert suggestion("d_model", ["model.d_model", "model"]) == " (did you mean model.d_model?)"
    assert suggestion("xyz", ["model.d_model"]) == ""


def test_the_default_is_the_main_job() -> None:
    config = Config()
    kinds = [getattr(config, name).name for name in GROUPS]
    assert kinds == ["square", "rydberg", "ptf", "minsr", "blurred"]
    assert Config.from_dict({}) == config == Config.from_dict(config.to_dict())
    assert config.lattice.build().n_sites == 16
    assert build_hamiltonian(config.hamiltonian, config.lattice.build()).V == 7.0


def test_the_couplings_reach_the_hamiltonian() -> None:
    chain = Chain(6, periodic=True)

    def built(**keys: object) -> Hamiltonian:
        return build_hamiltonian(HAMILTONIAN.read(keys), chain)

    found = [
        built(name="xxz", J=2, Delta=0.5, h=0.1, marshall="auto"),
        built(name="heisenberg", J=-2, h=[0, 1, 2, 3, 4, 5], marshall=True),
        built(name="j1j2", J1=1, J2=0.3, marshall=False),
        built(name="heisenberg", J=-2, h=0, marshall="auto"),
    ]
    assert [repr(H) for H in found] == [
        "XXZ(Chain(6, periodic=True), J=2, Delta=0.5, h=0.1, Marshall rotated)",
        "Heisenberg(Chain(6, periodic=True), J=-2, h=0..5, Marshall rotated)",
        "J1J2(Chain(6, periodic=True), J1=1, J2=0.3)",
        "Heisenberg(Chain(6, periodic=True), J=-2, h=0)",
    ]
    assert [H.is_stoquastic for H in found] == [True, False, False, True]


def test_patch_of_four_sites_may_be_a_number() -> None:
    config = Config.from_dict({"model": {"name": "rnn", "patch": 4}})
    assert config.model.patch in (4, "4") and config.model.d_model == 64


def test_every_key_is_documented() -> None:
    """Of every kind and every section; numbers have bounds, but for seeds."""
    for section in (Config, TrainConfig):
        names = [field.name for field in dataclasses.fields(section)]
        texts = documentation(section)
        assert list(texts) == names and all(len(text) > 3 for text in texts.values())
    for group, kind, name in every_key():
        key = group.keys(kind)[name]
        assert len(key.text) > 3, f"{group.name}={kind}: {name}"
        assert not takes_numbers(key.hint) or bounds_of(key.hint), f"{group.name}={kind}: {name}"


def every_key() -> list[tuple[Group, str, str]]:
    return [
        (group, kind, name)
        for group in (*GROUPS.values(), LAUNCHER)
        for kind in group.kinds
        for name in group.keys(kind)
    ]


def takes_numbers(hint: object) -> bool:
    return hint in (int, float) or any(map(takes_numbers, typing.get_args(hint)))


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)


@given(st.dictionaries(st.sampled_from(["whole", "real", "flag", "text", "many", "x"]), values))
def test_any_mapping_is_accepted_or_refused_in_one_line(changes: dict[str, object]) -> None:
    try:
        kinds = from_mapping(Kinds, GOOD | changes)
    except InputError as error:
        assert "\n" not in str(error) and str(error)
    else:
        assert "x" not in changes and dataclasses.is_dataclass(kinds)


def test_flatten() -> None:
    assert flatten({"a": {"b": 1}, "c": [2]}) == {"a.b": 1, "c": [2]}


def test_round_trip_through_yaml() -> None:
    mapping = {
        "lattice": {"name": "square", "Lx": 2, "Ly": 3, "periodic": [True, False]},
        "hamiltonian": {"name": "rydberg", "V": 6.5, "delta": [1, 2, 3, 4, 5, 6], "cutoff": None},
        "model": {
            "name": "rnn",
            "patch": [[0, 1], [2, 3], [4, 5]],
            "d_model": 8,
            "cell": "lstm",
            "residual": True,
            "symmetry": "translations",
            "spin_flip": True,
        },
        "optimizer": {"name": "adam", "learning_rate": 1e-3, "clip_norm": 3, "warmup_steps": 1},
        "energies": {"name": "exact", "flip_precision": "full"},
        "train": {"steps": 3, "n_samples": 4, "max_seconds": 2, "exact": True},
        "run": {"dir": "x", "resume": False},
        "seed": 1,
        "device": "cpu",
        "dtype": "float64",
    }
    config = Config.from_dict(mapping)
    again = Config.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict())))
    assert again == config
    flat = flatten(config.to_dict())
    for key, value in flatten(mapping).items():
        assert flat[key] == value


@pytest.mark.parametrize("absurd", [1e301, -1e301, 1e-301, -1e-301])
def test_every_number_has_a_range(absurd: float) -> None:
    """Whatever is too large or too small to do what its key says is refused, with the key."""
    for group, kind, name in every_key():
        hint = group.keys(kind)[name].hint
        if takes_numbers(hint):
            with pytest.raises(InputError, match=f"^{group.name}[.]{name}="):
                group.read({"name": kind, "file": "x", name: absurd} if "file" in
                           group.keys(kind) else {"name": kind, name: absurd})  # fmt: skip
    hints = typing.get_type_hints(TrainConfig, include_extras=True)
    for name, hint in hints.items():
        if takes_numbers(hint):
            with pytest.raises(InputError, match=f"^train[.]{name}="):
                from_mapping(TrainConfig, {name: absurd}, "train")


def test_whole_numbers_that_no_float_holds() -> None:
    with pytest.raises(InputError, match="finite"):
        from_mapping(Kinds, GOOD | {"real": 10**400})
    with pytest.raises(InputError, match=r"^model[.]patch=.*32768"):
        MODEL.read({"name": "rnn", "patch": 16**9999})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"dtype": "float64", "energies": {"name": "blurred", "flip_precision": "bfloat16"}},
         "energies.flip_precision=bfloat16: .* full with dtype=float64"),
        ({"optimizer": {"name": "adam", "warmup_steps": 200}},
         "optimizer.warmup_steps=200: must be less than train.steps=200"),
        ({"train": {"start_from": " "}}, "train.start_from=''"),
        ({"seed": -1}, "seed=-1: must be >= 0"),
    ],
)  # fmt: skip
def test_checks_between_keys(changes: dict[str, object], line: str) -> None:
    with pytest.raises(InputError, match=f"^{line}"):
        Config.from_dict(changes)


OLDER = {
    "model": {"name": "ptf", "d_model": 8},
    "train": {"steps": 5, "flip_fraction": 0.25, "flip_precision": "full", "flip_radius": None},
}
"""What config.yaml held before local energies had a section."""


def test_an_earlier_version_s_configuration() -> None:
    config = Config.from_dict(OLDER)
    assert (config.energies.name, config.energies.flip_fraction) == ("blurred", 0.25)
    assert config.train.steps == 5
    assert config.model.digit_decay is None  # such a model made tables of all states
    near = {**OLDER["train"], "flip_radius": 2.0, "exact_fraction": None}
    config = Config.from_dict({**OLDER, "train": near})
    assert (config.energies.name, config.energies.flip_radius) == ("near_flips", 2.0)
    assert config.energies.flip_fraction == 0.25
    today = config.to_dict()
    assert current(today) is today
