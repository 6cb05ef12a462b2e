"""The folder of a run, which explains itself and is never overwritten.

    config.yaml         every key, resolved; file paths relative to this folder
    environment.json    commands, versions, git revision, seed, hardware; one entry a session
    digests.json        what config.yaml and inputs/ hold, so that damage and edits are noticed
    inputs/             copies of what the run was given (positions, Pauli strings, parameters)
    run.log             plain lines of progress
    run.h5              history and evaluations
    checkpoints/        the two newest checkpoints
    summary.json        the result in numbers
    convergence.png     the result as a picture

The folder appears with its first files in one rename, so it either holds a complete description of
the run or does not exist.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from nqs.conf.sections import flatten
from nqs.errors import InputError, shown
from nqs.ground_states.config import RESUMABLE, Config
from nqs.runfolder import atomic, digests
from nqs.runfolder.atomic import remove_temporaries, sync_folder, write_bytes, write_text
from nqs.runfolder.digests import Digests
from nqs.runfolder.text_file import read_bytes, read_text

LARGEST_CONFIG: Final = 2**20
"""Bytes of config.yaml at most: per-site couplings of thousands of sites."""
DEEPEST: Final = 10
"""Levels of brackets and indentation in config.yaml at most."""
DAMAGED: Final = "environment.damaged.json"
NOTHING_VOUCHES: Final = (
    "note: no digests.json (a run from before it?): nothing vouches for configuration and inputs "
    "up to here"
)
INPUTS = {"lattice": "inputs/lattice.csv", "hamiltonian": "inputs/hamiltonian.txt"}
START = "inputs/start.pt"
PACKAGES = ("nqs", "torch", "numpy", "scipy", "h5py", "hydra-core")


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
    written = _parsed(path)
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
    config = Config.from_dict(mapping)
    recorded = digests.read(path)
    if recorded is not None:
        recorded.check_config(path / "config.yaml", written)
        recorded.check_inputs(path)
    return config


def saved_mapping(path: Path) -> dict[str, Any]:
    """The content of config.yaml; raises InputError where there is no readable one, or one that is
    not as it was written."""
    mapping = _parsed(path)
    recorded = digests.read(path)
    if recorded is not None:
        recorded.check_config(path / "config.yaml", mapping)
    return mapping


def _parsed(path: Path) -> dict[str, Any]:
    """What config.yaml says, whatever it is. Raises InputError."""
    file = path / "config.yaml"
    if not os.path.exists(file):
        reason = "its config.yaml is missing" if os.path.isdir(path) else "no such folder"
        raise InputError(f"{path}: holds no run ({reason}); give a folder with a config.yaml")
    text = read_text(file, LARGEST_CONFIG)
    try:
        _refuse_deep(text)
        mapping = yaml.safe_load(text)
    except Exception as error:  # YAML's constructors raise almost anything
        reason = " ".join(str(error).split())[:150]
        raise InputError(f"{path}: holds no readable run: config.yaml: {reason}") from None
    if not isinstance(mapping, dict):
        raise InputError(f"{path}: holds no readable run: config.yaml is no mapping of keys")
    return mapping


def _refuse_deep(text: str) -> None:
    """Raises ValueError for YAML that grows when it is read: references, or without end."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("references (*name) are not allowed")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels are not allowed")


def holds_nothing(path: Path) -> bool:
    """Whether a new run could begin here: no such folder, or an empty one."""
    return not os.path.exists(path) or (path.is_dir() and not any(path.iterdir()))


def resumed_config(path: Path, given: Mapping[str, Any]) -> Config:
    """The saved configuration of the run in `path` with the keys `given` on the command line.

    given maps dotted keys to values. Raises InputError naming a key that differs from the saved run
    and may not change.
    """
    config = read_config(path).to_dict()
    saved = flatten(saved_mapping(path))
    for key, value in given.items():
        if key in RESUMABLE:
            section, _, name = key.rpartition(".")
            (config[section] if section else config)[name] = value
        elif key == "model.patch" and value == "auto" and saved.get("train.start_from"):
            continue  # was that of the run it started from: see nqs.ground_states.start
        elif key not in saved or not _same_value(path, key, saved[key], value):
            there = shown(saved.get(key))
            allowed = ", ".join(key for key in RESUMABLE if not key.startswith("run."))
            raise InputError(
                f"{key}={shown(value)}: the run in {path} has {there}; a resumed run may only "
                f"change {allowed}: start a new run instead"
            )
    config["run"] = {"dir": str(path), "resume": True}
    return Config.from_dict(config)


def _same_value(path: Path, key: str, saved: Any, value: Any) -> bool:
    """Equal values; for input files equal contents, whatever the file is called."""
    if key.endswith(".file"):
        try:
            theirs = read_bytes(path / str(saved), digests.LARGEST_INPUT)
            return theirs == read_bytes(str(value), digests.LARGEST_INPUT)
        except InputError:
            return False
    return bool(saved == value) or shown(saved) == shown(value)


def create(
    config: Config, n_sites: int, command: Sequence[str], start: bytes | None = None
) -> Path:
    """Makes the folder of a new run and returns it. start: content of inputs/start.pt, if any.

    Raises InputError if run.dir already holds something or cannot be written.
    """
    lattice = config.lattice
    size = "x".join(str(length) for length in (lattice.Lx, lattice.Ly) if length) or str(n_sites)
    stem = f"{config.hamiltonian.name}-{lattice.name}-{size}-{config.model.name}"

    def fill(folder: Path) -> None:
        _copy_inputs(folder, config)
        if start is not None:
            (folder / START).parent.mkdir(exist_ok=True)
            write_bytes(folder / START, start)
        describe(folder, portable(config), session(command, config.seed, config.device))

    return make(config.run.dir, stem, fill)


def make(given: str | None, stem: str, fill: Callable[[Path], object]) -> Path:
    """A new run's folder `given`, or runs/<stem>-001 or the next free number; `fill` writes its
    first files. It appears with them in one rename.

    Raises InputError if the folder already holds something or cannot be written.
    """
    if given is None:
        return _make_numbered(stem, fill)
    path = Path(given)
    refuse_existing(path)
    try:
        _make_at(path, fill)
    except OSError as error:
        raise InputError(f"run.dir={given}: cannot be written: {error.strerror}") from None
    return path


def refuse_existing(path: Path) -> None:
    """Raises InputError if the folder `path` is not free for a new run."""
    if os.path.exists(path / "config.yaml"):
        raise InputError(
            f"run.dir={path}: already holds a run; continue it with run.resume=true "
            "or choose another folder"
        )
    if not holds_nothing(path):
        raise InputError(f"run.dir={path}: exists and is not an empty folder; choose another one")


def _make_numbered(stem: str, fill: Callable[[Path], object]) -> Path:
    for number in range(1, 100_000):
        path = Path("runs") / f"{stem}-{number:03d}"
        if path.exists():
            continue
        try:
            _make_at(path, fill)
            return path
        except OSError as error:
            if not path.exists():  # otherwise another process took this number meanwhile
                raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    raise InputError(f"runs/{stem}-*: all numbers are taken; give run.dir=PATH")


def _make_at(path: Path, fill: Callable[[Path], object]) -> None:
    """Fills a temporary folder and renames it to `path`, which must be absent or empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_killed_starts(path)
    with _temporary_folder(path) as temporary:
        temporary.chmod(0o777 & ~atomic.umask())  # mkdtemp's 0700 would hide it from colleagues
        fill(temporary)
        os.replace(temporary, path)
    sync_folder(path.parent)


@contextlib.contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` that is locked, and so not taken for a killed start, and that is gone
    at the end unless it has been renamed."""
    while True:
        temporary = Path(tempfile.mkdtemp(prefix=atomic.prefix(path), dir=path.parent))
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if temporary.exists():  # not removed before it was locked
                break
            os.close(descriptor)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(descriptor)


def _remove_killed_starts(path: Path) -> None:
    """Removes what starts of a run at `path` left behind when they were killed: folders of our
    pattern, with nothing in them but what we write, that no process holds."""
    found: list[Path] = []
    pattern = re.compile(re.escape(atomic.prefix(path)) + atomic.RANDOM.removeprefix("-"))
    with contextlib.suppress(OSError):  # a folder that cannot be listed
        found = [folder for folder in path.parent.iterdir() if pattern.fullmatch(folder.name)]
    for folder in found:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if all(_is_ours(entry.name) for entry in folder.iterdir()):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _is_ours(name: str) -> bool:
    """Whether a file of this name may be in the folder of a run that is just being made."""
    known = ("config.yaml", "environment.json", digests.FILE, "inputs", "checkpoints")
    return name in known or atomic.LEFTOVER.fullmatch(name) is not None


def _copy_inputs(path: Path, config: Config) -> None:
    for section, name in INPUTS.items():
        source = getattr(config, section).file
        if source is not None:
            (path / name).parent.mkdir(exist_ok=True)
            write_bytes(path / name, read_bytes(source, digests.LARGEST_INPUT))


def reopen(path: Path, config: Config, command: Sequence[str]) -> list[str]:
    """Prepares the folder of an existing run for another session; returns what is to be said."""
    return describe(path, portable(config), session(command, config.seed, config.device))


def describe(path: Path, mapping: Mapping[str, Any], entry: Mapping[str, Any]) -> list[str]:
    """Makes checkpoints/, writes config.yaml and adds a session's entry to environment.json, after
    clearing away what a killed session left unfinished. digests.json vouches for config.yaml at
    every moment (see nqs.runfolder.digests). Returns lines about what was found."""
    remove_temporaries(path)
    (path / "checkpoints").mkdir(exist_ok=True)
    recorded = digests.read(path)
    notes: list[str] = []
    if recorded is None:
        older = (path / "config.yaml").exists()
        recorded = Digests([_parsed(path)] if older else [], _input_digests(path))
        notes = [NOTHING_VOUCHES] if older else []
    Digests([*recorded.configs, mapping], recorded.inputs).write(path)
    text = "# Resolved configuration; files are relative to this folder.\n"
    write_text(path / "config.yaml", text + yaml.safe_dump(dict(mapping), sort_keys=False))
    Digests([mapping], recorded.inputs).write(path)
    return notes + _add_session(path, entry)


def _input_digests(path: Path) -> dict[str, str]:
    """{name: digest} of the inputs that have no seal."""
    names = [name for name in INPUTS.values() if (path / name).exists()]
    return {name: digests.file_digest(path / name) for name in names}


def _add_session(path: Path, entry: Mapping[str, Any]) -> list[str]:
    """Adds to environment.json. Nothing depends on it: what is damaged is put aside, and a line
    says so."""
    file = path / "environment.json"
    sessions: list[Any] = []
    notes: list[str] = []
    if file.exists():
        try:
            sessions = digests.read_mapping(file)[0]["sessions"]
            if not isinstance(sessions, list):
                raise digests.Damaged("its sessions are no list")
        except (digests.Damaged, InputError, KeyError) as error:
            os.replace(file, path / DAMAGED)
            notes = [f"note: environment.json was damaged ({error}); it is now {DAMAGED}"]
            sessions = [{"note": notes[0]}]
    content = digests.vouched({"sessions": [*sessions, entry]})
    write_text(file, json.dumps(content, indent=2) + "\n")
    return notes


def session(command: Sequence[str], seed: int, device: str) -> dict[str, Any]:
    """What one needs to know to repeat this: command, versions, revision, seed, hardware."""
    import torch

    has_gpu = torch.cuda.is_available() and device != "cpu"
    return {
        "command": shlex.join(command),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "versions": {"python": platform.python_version(), **_versions()},
        "git": _git_revision(),
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processes": int(os.environ.get("WORLD_SIZE", 1)),
            "gpu": torch.cuda.get_device_name() if has_gpu else None,
            "system": platform.platform(),
        },
    }


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _git_revision() -> dict[str, Any] | None:
    """Commit of the checkout this package runs from and whether it has local changes."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        revision, status = (
            subprocess.run(
                ["git", "-C", str(here), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            ).stdout
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"revision": revision.strip(), "modified": bool(status.strip())}


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the folder for this process; the lock ends with the process, kill -9 included.

    Raises InputError if another process is working on the run.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(f"{path}: holds no run to work on ({error.strerror})") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{path}: another process is working on this run; wait for it"
            ) from None
        except OSError:
            pass  # a file system without locks (some NFS): nothing to hold
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """One line instead of a traceback when a file of the run cannot be written."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); what was saved before is "
            f"intact, make room and resume with run.dir={path} run.resume=true"
        ) from error
