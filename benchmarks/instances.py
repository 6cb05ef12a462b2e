"""Systems that exact diagonalisation can check, listed in a YAML file as train.py's own keys.

    - name: rydberg-4x4-checkerboard
      lattice: square
      lattice.Lx: 4
      lattice.Ly: 4
      hamiltonian: rydberg
      hamiltonian.Rb: 1.15
      hamiltonian.delta: 3.3

Keys and their defaults are those of `python train.py --help`; run.* and seed are not an instance's
to say. Paths (lattice.file, hamiltonian.file) are relative to the YAML file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hamiltonians.exact import memory_needed
from nqs.cli.train import load_config
from nqs.errors import InputError, shown
from nqs.ground_states.build import EXACT_GIGABYTES, build
from nqs.ground_states.config import Config

INSTANCES = Path(__file__).parent / "instances.yaml"
PATHS = ("lattice.file", "hamiltonian.file")


@dataclass(frozen=True)
class Instance:
    """One system.

    Attributes:
        name: as --instances takes it.
        arguments: what a user adds to `python train.py` for it.
    """

    name: str
    arguments: tuple[str, ...]

    def config(self, *more: str) -> Config:
        """train.py's configuration, with further key=value arguments. Raises InputError."""
        return load_config([*self.arguments, *more])

    def check(self, *more: str) -> None:
        """Raises ValueError, one line, for what cannot be built or diagonalised."""
        try:
            job = build(self.config(*more))
            needed = memory_needed(job.hamiltonian, 2, job.config.model.n_up) / 1e9
            if needed > EXACT_GIGABYTES:
                raise ValueError(
                    f"exact diagonalisation of {job.hamiltonian.n_sites} sites needs "
                    f"{needed:.3g} GB, {EXACT_GIGABYTES:g} GB are allowed"
                )
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None


def load(path: Path) -> list[Instance]:
    """The instances of a file. Raises InputError, one line, naming the file and the entry."""
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason})") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: must be a list of entries, each with a name and train.py's keys")
    instances: dict[str, Instance] = {}
    for number, entry in enumerate(entries, 1):
        instance = _instance(path, number, entry)
        if instance.name in instances:
            raise InputError(f"{path}: entry {number}: the name {instance.name} is taken already")
        instances[instance.name] = instance
    return list(instances.values())


def _instance(path: Path, number: int, entry: Any) -> Instance:
    where = f"{path}: entry {number}"
    if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry):
        raise InputError(
            f"{where}: {shown(entry)}: must be a mapping of a name and train.py's keys"
        )
    name = entry.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]+", name):
        rule = "every entry needs a name of letters, digits and . + - _"
        raise InputError(f"{where}: name={shown(name)}: {rule}")
    arguments = []
    for key, value in entry.items():
        if key == "name":
            continue
        if key == "seed" or key == "run" or key.startswith("run."):
            raise InputError(f"{where} ({name}): {key}: is the command line's to say, not a file's")
        if key in PATHS and isinstance(value, str):
            value = str(path.parent / value)
        try:
            arguments.append(f"{key}={written(value)}")
        except ValueError:
            raise InputError(
                f"{where} ({name}): {key}={shown(value)}: must be a number, a word or a list; "
                "nested keys are written with a dot, e.g. lattice.Lx: 4"
            ) from None
    return Instance(name, tuple(arguments))


def written(value: Any) -> str:
    """A YAML value as the command line writes it. Raises ValueError for what it cannot write."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    if isinstance(value, str):
        plain = re.fullmatch(r"[\w./+-]+", value)
        return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    raise ValueError(f"{value!r} has no written form")
