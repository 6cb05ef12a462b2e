"""The typed configuration: round trip, types, documentation."""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hamiltonians import Hamiltonian
from hamiltonians.lattices.lattice import Chain
from nqs.conf.sections import documentation, flatten, from_mapping
from nqs.errors import InputError, suggestion
from nqs.ground_states.build import build_hamiltonian
from nqs.ground_states.config import (
    HAMILTONIANS,
    MODELS,
    OPTIMIZERS,
    Config,
    HamiltonianConfig,
    LatticeConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)

RYDBERG = {"name": "rydberg", "delta": 1.0, "Omega": 1.0}


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
    with pytest.raises(InputError, match=r"lattice\.name: missing"):
        from_mapping(LatticeConfig, {"Lx": 3}, "lattice")
    with pytest.raises(InputError, match="lattice=3: must be a mapping"):
        Config.from_dict({"lattice": 3})


def test_suggestion_prefers_the_right_name_in_another_section() -> None:
    assert suggestion("d_model", ["model.d_model", "model"]) == " (did you mean model.d_model?)"
    assert suggestion("xyz", ["model.d_model"]) == ""


def test_V_is_seven_unless_Rb_is_given() -> None:
    assert HamiltonianConfig(**RYDBERG).V == 7.0
    assert HamiltonianConfig(**RYDBERG, Rb=1.2).V is None


def test_marshall_is_auto_true_or_false() -> None:
    common = {"name": "heisenberg", "J": 1, "h": 0}
    for value in ("auto", True, False):
        mapping = common | {"marshall": value}
        assert from_mapping(HamiltonianConfig, mapping).marshall is value
    with pytest.raises(InputError, match=r"marshall=1: must be true or false or text"):
        from_mapping(HamiltonianConfig, common | {"marshall": 1})


def test_the_couplings_reach_the_hamiltonian() -> None:
    chain = Chain(6, periodic=True)

    def built(**keys: object) -> Hamiltonian:
        return build_hamiltonian(from_mapping(HamiltonianConfig, keys), chain)

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
    common = {"d_model": 8, "n_layers": 1, "cell": "gru", "residual": False}
    common |= {"symmetry": "none", "spin_flip": False}
    assert from_mapping(ModelConfig, {"name": "rnn", "patch": 4, **common}).patch == "4"


def test_every_key_is_documented() -> None:
    hints = typing.get_type_hints(Config)
    sections = [Config, *(hint for hint in hints.values() if dataclasses.is_dataclass(hint))]
    assert len(sections) == 7
    for section in sections:
        names = [field.name for field in dataclasses.fields(section)]
        texts = documentation(section)
        assert list(texts) == names and all(len(text) > 3 for text in texts.values())


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
        "hamiltonian": RYDBERG | {"V": 6.5, "delta": [1, 2, 3, 4, 5, 6], "cutoff": None},
        "model": {
            "name": "rnn",
            "patch": [[0, 1], [2, 3], [4, 5]],
            "d_model": 8,
            "n_layers": 1,
            "cell": "lstm",
            "residual": True,
            "symmetry": "translations",
            "spin_flip": True,
        },
        "optimizer": {
            "name": "adam",
            "learning_rate": 1e-3,
            "beta1": 0.9,
            "beta2": 0.99,
            "eps": 1e-8,
            "clip_norm": 3,
            "schedule": "linear",
            "warmup_steps": 1,
            "final_fraction": 0.5,
        },
        "train": {
            "steps": 3,
            "n_samples": 4,
            "flip_fraction": 0.5,
            "flip_precision": "full",
            "max_seconds": 2,
            "eval_samples": 5,
            "exact": True,
            "checkpoint_every": 1,
        },
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


def numbers(section: type) -> list[str]:
    """The fields of a section that take a number."""
    hints = typing.get_type_hints(section)
    return [
        name
        for name, hint in hints.items()
        if {int, float} & {hint, *typing.get_args(hint)}
        and not (name.startswith("periodic") or name in ("patch", "sub_patch"))
    ]


KINDS: list[tuple[str, str, type]] = [
    *(("hamiltonian", kind, HamiltonianConfig) for kind in HAMILTONIANS),
    *(("model", kind, ModelConfig) for kind in MODELS),
    *(("optimizer", kind, OptimizerConfig) for kind in OPTIMIZERS),
]


@pytest.mark.parametrize("absurd", [1e301, -1e301, 1e-301, -1e-301])
def test_every_number_has_a_range(absurd: float) -> None:
    """Whatever is too large or too small to do what its key says is refused, with the key."""
    for name in numbers(LatticeConfig):
        mapping = {"name": "square", "Lx": 2, "Ly": 2, "periodic": False, name: absurd}
        assert_refused(LatticeConfig, mapping, f"lattice.{name}", "lattice")
    for section, kind, config in KINDS:
        known = {"hamiltonian": HAMILTONIANS, "model": MODELS, "optimizer": OPTIMIZERS}[section]
        for name in numbers(config):
            if name in known[kind]:
                mapping = {"name": kind, **full(section, kind), name: absurd}
                assert_refused(config, mapping, f"{section}.{name}", section)
    for name in numbers(TrainConfig):
        mapping = {**full("train", ""), "flip_radius": 1.0, name: absurd}
        assert_refused(TrainConfig, mapping, f"train.{name}", "train")


def assert_refused(config: type, mapping: dict[str, object], key: str, section: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(key)}="):
        from_mapping(config, mapping, section)


def full(section: str, kind: str) -> dict[str, object]:
    """The shipped values of a section."""
    folder = Path(__file__).resolve().parents[2] / "conf"
    if not kind:
        return dict(yaml.safe_load((folder / "config.yaml").read_text())[section])
    values = dict(yaml.safe_load((folder / section / f"{kind}.yaml").read_text()))
    return {key: value for key, value in values.items() if key != "name"}


def test_whole_numbers_that_no_float_holds() -> None:
    with pytest.raises(InputError, match="finite"):
        from_mapping(Kinds, GOOD | {"real": 10**400})
    with pytest.raises(InputError, match=r"patch=.*whole numbers"):
        from_mapping(
            ModelConfig, {"name": "rnn", **full("model", "rnn"), "patch": 16**9999}, "model"
        )
