"""The older code's command line, translated into today's.

    --train L=16 steps=1000 --ptf patch=2x2 Nh=32 nhead=8 --rydberg V=7 delta=1 Omega=1
    --train L=64 --lptf patch=4x4 Nh=128 nhead=8 --rnn L=16 patch=2x2

(the public VMC_with_LPTFs code of Sprague and Czischek, Commun. Phys. 7, 90 (2024)). Physics and
sizes are taken as they stand, L = 16 and V = 7 when nothing is said. Everything else that is not
given takes today's default. Arguments without a meaning here are named in `notes`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nqs.errors import InputError, shown, suggestion
from nqs.ground_states.older_config import MOVED as MOVED_KEYS

GROUPS: Final = {
    "train": {
        "L", "Q", "K", "B", "NLOOPS", "steps", "dir", "lr", "seed", "sgrad", "true_grad",
        "sub_directory", "Lx", "Ly",
    },
    "ptf": {"L", "patch", "Nh", "dropout", "num_layers", "nhead", "repeat_pre", "Lx", "Ly"},
    "rnn": {"L", "patch", "rnntype", "Nh", "Lx", "Ly"},
    "lptf": {"L", "patch", "Nh", "dropout", "num_layers", "nhead", "Lx", "Ly"},
    "rydberg": {"L", "Lx", "Ly", "V", "delta", "Omega"},
}  # fmt: skip
MODEL_KEYS: Final = {
    "patch": "model.patch",
    "Nh": "model.d_model",
    "nhead": "model.n_heads",
    "num_layers": "model.n_layers",
}
SUB_KEYS: Final = {
    "patch": "model.sub_patch",
    "Nh": "model.sub_d_model",
    "nhead": "model.sub_n_heads",
    "num_layers": "model.sub_n_layers",
}
MEANINGLESS: Final = {
    "NLOOPS": "memory is divided automatically",
    "sgrad": "sampling never keeps gradients",
    "true_grad": "the gradient is always the exact one",
    "dropout": "a wavefunction has no dropout",
    "repeat_pre": "inputs are embedded",
}
MOVED: Final = re.compile(rf"(^|\$\{{|[\[,=])train\.({'|'.join(MOVED_KEYS)})\b")
"""Keys of earlier versions of this program, as a key, in ${...} and where a scan names keys."""


@dataclass(frozen=True)
class Translation:
    """Today's overrides, and a remark on each older argument that was dropped."""

    overrides: list[str]
    notes: list[str]


def is_legacy(arguments: Sequence[str]) -> bool:
    """Whether the command line is the older code's: its groups start with two dashes."""
    return any(a.startswith("--") and a not in ("--help", "--h") for a in arguments)


def translate(arguments: Sequence[str]) -> Translation:
    """Today's form of the older command line. Raises InputError for what has none."""
    groups = _parse(arguments)
    models = [name for name in ("ptf", "rnn") if name in groups]
    if len(models) != 1:
        rule = (
            "choose one sub-sampler, --lptf ... --rnn ... or --lptf ... --ptf ..."
            if "lptf" in groups
            else "choose one model, --ptf or --rnn, or --lptf with one of them"
        )
        raise InputError(f"{' '.join(arguments) or '(nothing)'}: {rule}")
    (model,) = models
    train = groups.get("train", {})
    if "lptf" in groups:
        whole = {name: options for name, options in groups.items() if name != model}
        lattice = _lattice(whole, "lptf")
        network = _large_model(groups["lptf"], model, groups[model])
    else:
        lattice, network = _lattice(groups, model), _model(model, groups[model])
    overrides = [*lattice, *_hamiltonian(groups.get("rydberg", {})), *network, *_train(train)]
    notes = [
        f"{name}={value} ({MEANINGLESS[name]})"
        for options in groups.values()
        for name, value in options.items()
        if name in MEANINGLESS and not (name == "dropout" and _number(name, value) == 0)
    ]
    if train.get("dir") == "<NONE>":
        notes.append("dir=<NONE> (a run always has its folder)")
    return Translation(overrides, notes)


def _parse(arguments: Sequence[str]) -> dict[str, dict[str, str]]:
    """{group: {key: value}}; unlike the older code, unknown names are errors."""
    groups: dict[str, dict[str, str]] = {}
    current: str | None = None
    for argument in arguments:
        if argument.startswith("--"):
            current = argument[2:].lower()
            if current not in GROUPS:
                allowed = ", ".join(f"--{name}" for name in GROUPS)
                hint = suggestion(current, GROUPS)
                raise InputError(f"{argument}: unknown, allowed are {allowed}{hint}")
            groups.setdefault(current, {})
            continue
        if current is None:
            known = ", ".join(f"--{name}" for name in GROUPS)
            raise InputError(f"{argument}: comes before any of {known}")
        key, equals, value = argument.partition("=")
        if not equals or not value:
            raise InputError(f"{argument}: after --{current}, write key=value")
        if key not in GROUPS[current]:
            known = ", ".join(sorted(GROUPS[current]))
            hint = suggestion(key, GROUPS[current])
            raise InputError(f"{argument}: --{current} has no {key}; it has {known}{hint}")
        if groups[current].get(key, value) != value:
            both = f"{key}={shown(groups[current][key])} and {key}={shown(value)}"
            raise InputError(f"--{current} {both}: give {key} once")
        groups[current][key] = value
    return groups


def _lattice(groups: dict[str, dict[str, str]], model: str) -> list[str]:
    """L=16 (a square), L=4x6, or Lx=4 Ly=6 in any group."""
    sizes = {key: options[key] for options in groups.values() for key in ("Lx", "Ly")
             if key in options}  # fmt: skip
    for key in ("L", "Lx", "Ly"):
        sides = sorted({options[key] for options in groups.values() if key in options})
        if len(sides) > 1:
            both = " and ".join(f"{key}={shown(side)}" for side in sides)
            raise InputError(f"{both}: give {key} once")
    total = groups.get("train", {}).get("L", groups[model].get("L"))
    if total is not None and re.fullmatch(r"[0-9]{1,9}x[0-9]{1,9}", total):
        Lx, Ly = map(int, total.split("x"))
    elif len(sizes) == 2:
        Lx, Ly = _whole("Lx", sizes["Lx"]), _whole("Ly", sizes["Ly"])
        if total is not None and _whole("L", total) != Lx * Ly:
            raise InputError(f"L={total}: differs from Lx Ly = {Lx}x{Ly} = {Lx * Ly} sites")
    elif sizes:
        ((key, value),) = sizes.items()
        raise InputError(f"{key}={value}: give both Lx and Ly, or L")
    else:
        n_sites = _whole("L", total or "16")
        Lx = Ly = math.isqrt(max(n_sites, 0))
        if Lx * Ly != n_sites:
            raise InputError(f"L={total}: not a square; write L=3x4 or Lx=3 Ly=4")
    return ["lattice=square", f"lattice.Lx={Lx}", f"lattice.Ly={Ly}"]


def _hamiltonian(options: dict[str, str]) -> list[str]:
    values = {"V": "7", "delta": "1", "Omega": "1"} | {
        key: value for key, value in options.items() if key in ("V", "delta", "Omega")
    }
    return ["hamiltonian=rydberg", *(f"hamiltonian.{key}={value}" for key, value in values.items())]


def _model(name: str, options: dict[str, str]) -> list[str]:
    overrides = [f"model={name}"]
    overrides += [f"{MODEL_KEYS[key]}={options[key]}" for key in MODEL_KEYS if key in options]
    if "rnntype" in options:
        overrides.append(f"model.cell={options['rnntype'].lower()}")
    return overrides


def _large_model(options: dict[str, str], sub: str, sub_options: dict[str, str]) -> list[str]:
    """The large patched transformer over `sub`, whose lattice is one large patch.

    A recurrent sub-sampler has the width of the transformer, whose output began it.
    """
    overrides = _model("lptf" if sub == "rnn" else "lptf_ptf", options)
    given, width = sub_options, options.get("Nh")
    if sub == "rnn" and width is not None:
        if given.get("Nh", width) != width:
            raise InputError(f"--rnn Nh={given['Nh']}: must equal --lptf Nh={width}")
        given = {**given, "Nh": width}
    sites, patch = given.get("L"), options.get("patch")
    if sites is not None and patch is not None and _product(sites) != _product(patch):
        raise InputError(f"--{sub} L={sites}: must be the sites of --lptf patch={patch}")
    overrides += [f"{SUB_KEYS[key]}={given[key]}" for key in SUB_KEYS if key in given]
    if "rnntype" in given:
        overrides.append(f"model.sub_cell={given['rnntype'].lower()}")
    return overrides


def _product(sizes: str) -> int:
    """Sites of L=16, L=4x4, patch=4x4 or patch=4."""
    return math.prod(_whole("L", size) for size in sizes.split("x"))


def _train(options: dict[str, str]) -> list[str]:
    """Samples a step are K Q, as in the older code; B alone means the same."""
    overrides = []
    if "steps" in options:
        overrides.append(f"train.steps={options['steps']}")
    if "K" in options or "Q" in options:
        n_samples = _whole("K", options.get("K", "256")) * _whole("Q", options.get("Q", "1"))
        if "B" in options and _whole("B", options["B"]) != n_samples:
            raise InputError(
                f"B={options['B']}: must equal K Q = {n_samples}; give one or the other"
            )
        overrides.append(f"train.n_samples={n_samples}")
    elif "B" in options:
        overrides.append(f"train.n_samples={options['B']}")
    if "lr" in options:
        overrides.append("optimizer=adam")  # the older code's; its rates mean nothing to minSR
        overrides.append(f"optimizer.learning_rate={options['lr']}")
    if options.get("seed", "None") != "None":
        overrides.append(f"seed={options['seed']}")
    parts = [
        options[key] for key in ("dir", "sub_directory") if options.get(key, "<NONE>") != "<NONE>"
    ]
    if parts:
        overrides.append(f"run.dir={'/'.join(parts)}")
    return overrides


def _number(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InputError(f"{key}={value}: must be a number") from None


def _whole(key: str, value: str) -> int:
    number = _number(key, value)
    if not number.is_integer():
        raise InputError(f"{key}={value}: must be a whole number")
    return int(number)


def renamed(words: Sequence[str]) -> list[str]:
    """Words with the keys train.flip_* of earlier versions as those of energies.

    train.flip_radius=null was the default and goes; any other value implies energies=near_flips,
    which are in full precision. Raises InputError for null among several values.
    """
    result = []
    near = any(word.startswith("train.flip_radius=") and word[-5:] != "=null" for word in words)
    for word in words:
        key, _, value = word.partition("=")
        if key in ("train.flip_radius", "train.exact_fraction") and value == "null":
            continue
        if word == "train.flip_precision=full" and near:
            continue
        if key == "train.flip_radius":
            if "null" in value.split(","):
                rule = "null among several values; scan energies=blurred,near_flips instead"
                raise InputError(f"{shown(word)}: {rule}")
            if not any(other.startswith("energies=") for other in words):
                result.append("energies=near_flips")
        whole = key in ("scan.zip", "scan.warm_start") or "${" in value
        head, tail = (word, "") if whole else (key, word[len(key) :])
        result.append(MOVED.sub(r"\1energies.\2", head) + tail)
    return result
