"""The folder of a ground-state run: its configuration, and copies of its input files."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from nqs.conf.sections import flatten
from nqs.conf.values import plain
from nqs.errors import InputError, shown
from nqs.ground_states.config import RESUMABLE, Config
from nqs.ground_states.growth import with_stages
from nqs.ground_states.older_config import current
from nqs.ground_states.own_code import own_code
from nqs.runfolder import digests, environment
from nqs.runfolder.atomic import write_bytes
from nqs.runfolder.folder import describe, make, permitted_changes, saved_mapping, written_mapping
from nqs.runfolder.text_file import read_bytes
from nqs.wavefunctions.wavefunction import Wavefunction

INPUTS: Final = {"lattice": "inputs/lattice.csv", "hamiltonian": "inputs/hamiltonian.txt"}
"""Where the file of a section of the configuration is copied to."""
START: Final = "inputs/start.pt"


def portable(config: Config) -> dict[str, Any]:
    """The configuration as config.yaml holds it, input files by their copies in the folder."""
    mapping = config.to_dict()
    for section, name in INPUTS.items():
        if mapping[section].get("file") is not None:
            mapping[section]["file"] = name
    return mapping


def read_config(path: Path) -> Config:
    """The configuration of the run in folder `path`, ready to build from wherever it lies now.

    Raises InputError if there is none, or if it or one of the inputs is not as it was written.
    """
    written = written_mapping(path)
    mapping = copy.deepcopy(written)
    for section, name in INPUTS.items():
        entry = mapping.get(section)
        if isinstance(entry, dict) and entry.get("file") is not None:
            if entry["file"] != name:
                raise InputError(
                    f"{path / 'config.yaml'}: {section}.file={shown(entry['file'])}: must be {name}"
                )
            if not os.path.exists(path / name):
                raise InputError(f"{path / name}: missing; restore it from a copy")
            entry["file"] = str(path / name)
    config = Config.from_dict(current(mapping))
    recorded = digests.read(path)
    if recorded is not None:
        recorded.check_config(path / "config.yaml", written)
        recorded.check_inputs(path)
    return config


def resumed_config(path: Path, changes: Mapping[str, Any]) -> Config:
    """The saved configuration of the run in `path`, changed in some dotted keys.

    Raises InputError naming a key that differs from the saved run and may not change.
    """
    config = read_config(path).to_dict()
    saved = flatten(current(saved_mapping(path)))

    def is_same(key: str, there: Any, value: Any) -> bool:
        warm = saved.get("train.start_from") or saved.get("train.grow")
        if key in ("model.patch", "model.sub_patch") and value == "auto" and warm:
            return True  # was that of the run it started from: see nqs.ground_states.start
        if key == "train.grow" and value is not False:
            return _grows_so(config, value)
        return _is_same(path, key, there, value)

    for key, value in permitted_changes(path, saved, changes, RESUMABLE, is_same).items():
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = value
    config["run"] = {"dir": str(path), "resume": True}
    return Config.from_dict(config)


def _grows_so(config: Mapping[str, Any], grow: Any) -> bool:
    """Whether this train.grow stands for the sizes that the configuration of a run has."""
    try:
        asked = Config.from_dict({**config, "train": {**config["train"], "grow": grow}})
        return bool(plain(with_stages(asked).train.grow) == config["train"]["grow"])
    except InputError:
        return False


def _is_same(path: Path, key: str, saved: Any, value: Any) -> bool:
    """Equal values; for input files equal contents, whatever the file is called."""
    if key.endswith(".file"):
        try:
            theirs = read_bytes(path / str(saved), digests.LARGEST_INPUT)
            return theirs == read_bytes(str(value), digests.LARGEST_INPUT)
        except InputError:
            return False
    return bool(saved == value) or shown(saved) == shown(value)


def create(
    config: Config, wavefunction: Wavefunction, command: Sequence[str], start: bytes | None = None
) -> Path:
    """Makes the folder of a new run and returns it. start: content of inputs/start.pt, if any.

    Raises InputError if run.dir already holds something or cannot be written.
    """
    lengths = [config.lattice.get(key) for key in ("Lx", "Ly")]
    size = "x".join(str(length) for length in lengths if length) or str(wavefunction.n_sites)
    names = [section.name for section in (config.hamiltonian, config.lattice, config.model)]
    hamiltonian, lattice, model = (name.rpartition(":")[2] for name in names)
    stem = f"{hamiltonian}-{lattice}-{size}-{model}"

    def fill(folder: Path) -> None:
        _copy_inputs(folder, config)
        if start is not None:
            (folder / START).parent.mkdir(exist_ok=True)
            write_bytes(folder / START, start)
        reopen(folder, config, wavefunction, command)

    return make(config.run.dir, stem, fill)


def _copy_inputs(path: Path, config: Config) -> None:
    for section, name in INPUTS.items():
        source = getattr(config, section).get("file")
        if source is not None:
            (path / name).parent.mkdir(exist_ok=True)
            write_bytes(path / name, read_bytes(source, digests.LARGEST_INPUT))


def reopen(
    path: Path, config: Config, wavefunction: Wavefunction, command: Sequence[str]
) -> list[str]:
    """Prepares the folder of a run for a session; returns what is to be said."""
    entry = environment.session(command, config.seed, config.device)
    entry |= {"flip_pass": wavefunction.flip_pass(), "code": own_code(config)}
    return describe(path, portable(config), entry, INPUTS.values())
