"""The folder of a run, which explains itself and is never overwritten.

    config.yaml         every key, resolved; file paths relative to this folder
    environment.json    commands, versions, git revision, seed, hardware; one entry a session
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
import datetime
import fcntl
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nqs.runs.atomic import remove_temporaries, sync_folder, write_bytes, write_text
from nqs.runs.config import RESUMABLE, Config
from nqs.runs.schema import InputError, flatten, shown

INPUTS = {"lattice": "inputs/lattice.csv", "hamiltonian": "inputs/hamiltonian.txt"}
START = "inputs/start.pt"
PACKAGES = ("nqs", "torch", "numpy", "scipy", "h5py", "hydra-core")


def portable(config: Config) -> dict[str, Any]:
    """The configuration as config.yaml holds it, input files by their copies in the folder."""
    mapping = config.to_dict()
    for section, copy in INPUTS.items():
        if mapping[section].get("file") is not None:
            mapping[section]["file"] = copy
    return mapping


def read_config(path: Path) -> Config:
    """The configuration of the run in folder `path`, ready to build from wherever it lies now."""
    mapping = saved_mapping(path)
    for section in INPUTS:
        entry = mapping.get(section)
        if isinstance(entry, dict) and entry.get("file") is not None:
            entry["file"] = str(path / entry["file"])
    return Config.from_dict(mapping)


def saved_mapping(path: Path) -> dict[str, Any]:
    """The content of config.yaml; raises InputError where there is no readable one."""
    try:
        mapping = yaml.safe_load((path / "config.yaml").read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        mapping = None
    if not isinstance(mapping, dict):
        raise InputError(f"{path}: holds no run to read; give a folder with a readable config.yaml")
    return mapping


def resumed_config(path: Path, given: Mapping[str, Any]) -> Config:
    """The saved configuration of the run in `path` with the keys `given` on the command line.

    given maps dotted keys to values. Raises InputError naming a key that differs from the saved run
    and may not change.
    """
    saved = flatten(saved_mapping(path))
    config = read_config(path).to_dict()
    for key, value in given.items():
        if key in RESUMABLE:
            section, _, name = key.rpartition(".")
            (config[section] if section else config)[name] = value
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
            return (path / str(saved)).read_bytes() == Path(str(value)).read_bytes()
        except OSError:
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


def make(given: str | None, stem: str, fill: Callable[[Path], None]) -> Path:
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
    if (path / "config.yaml").exists():
        raise InputError(
            f"run.dir={path}: already holds a run; continue it with run.resume=true "
            "or choose another folder"
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"run.dir={path}: exists and is not an empty folder; choose another one")


def _make_numbered(stem: str, fill: Callable[[Path], None]) -> Path:
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


def _make_at(path: Path, fill: Callable[[Path], None]) -> None:
    """Fills a temporary folder and renames it to `path`, which must be absent or empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        temporary.chmod(0o777 & ~_umask())  # mkdtemp's 0700 would hide the run from colleagues
        fill(temporary)
        os.replace(temporary, path)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _copy_inputs(path: Path, config: Config) -> None:
    for section, copy in INPUTS.items():
        source = getattr(config, section).file
        if source is not None:
            (path / copy).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, path / copy)


def reopen(path: Path, config: Config, command: Sequence[str]) -> None:
    """Prepares the folder of an existing run for another session."""
    describe(path, portable(config), session(command, config.seed, config.device))


def describe(path: Path, mapping: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
    """Makes checkpoints/, writes config.yaml and adds a session's entry to environment.json, after
    clearing away what a killed session left unfinished."""
    remove_temporaries(path)
    (path / "checkpoints").mkdir(exist_ok=True)
    text = "# Resolved configuration; files are relative to this folder.\n"
    write_text(path / "config.yaml", text + yaml.safe_dump(dict(mapping), sort_keys=False))
    try:
        sessions = json.loads((path / "environment.json").read_text())["sessions"]
    except (OSError, ValueError, KeyError):
        sessions = []  # a description that somebody removed is no reason to refuse the run
    environment = json.dumps({"sessions": [*sessions, entry]}, indent=2)
    write_text(path / "environment.json", environment + "\n")


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
