"""The folder of a run, which explains itself and is never overwritten.

    config.yaml         every key, resolved; file paths relative to this folder
    environment.json    commands, versions, git revision, seed, hardware; one entry a session
    digests.json        what config.yaml and inputs/ hold, so that damage and edits are noticed
    inputs/             copies of the files that the run was given
    run.log             plain lines of progress
    run.h5              history and evaluations
    checkpoints/        the two newest checkpoints
    summary.json        the result in numbers
    *.png               the result as a picture

The folder appears with its first files in one rename, so it either holds a complete description of
the run or does not exist.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from nqs.errors import InputError, shown
from nqs.runfolder import atomic, digests, environment
from nqs.runfolder.atomic import remove_temporaries, sync_folder, write_text
from nqs.runfolder.digests import Digests
from nqs.runfolder.text_file import read_text

LARGEST_CONFIG: Final = 2**20
"""Bytes of config.yaml at most: per-site couplings of thousands of sites."""
DEEPEST: Final = 10
"""Levels of brackets and indentation in config.yaml at most."""
NOTHING_VOUCHES: Final = (
    "note: no digests.json (a run from before it?): nothing vouches for configuration and inputs "
    "up to here"
)


def saved_mapping(path: Path) -> dict[str, Any]:
    """The content of config.yaml; raises InputError where there is no readable one, or one that is
    not as it was written."""
    mapping = written_mapping(path)
    recorded = digests.read(path)
    if recorded is not None:
        recorded.check_config(path / "config.yaml", mapping)
    return mapping


def written_mapping(path: Path) -> dict[str, Any]:
    """What config.yaml says, vouched for or not. Raises InputError."""
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


def make(name: str | None, stem: str, fill: Callable[[Path], object]) -> Path:
    """A new run's folder `name`, or runs/<stem>-001 or the next free number; `fill` writes its
    first files. It appears with them in one rename.

    Raises InputError if the folder already holds something or cannot be written.
    """
    if name is None:
        return _make_numbered(stem, fill)
    path = Path(name)
    refuse_existing(path)
    try:
        _make_at(path, fill)
    except OSError as error:
        raise InputError(f"run.dir={name}: cannot be written: {error.strerror}") from None
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
    with temporary_folder(path) as temporary:
        temporary.chmod(0o777 & ~atomic.umask())  # mkdtemp's 0700 would hide it from colleagues
        fill(temporary)
        os.replace(temporary, path)
    sync_folder(path.parent)


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
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
            _released(descriptor)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _released(descriptor)


def _remove_killed_starts(path: Path) -> None:
    """Removes what starts of a run at `path` left behind when they were killed: folders of our
    pattern, with nothing in them but what we write, that no process holds."""
    leftovers: list[Path] = []
    pattern = re.compile(re.escape(atomic.prefix(path)) + atomic.RANDOM.removeprefix("-"))
    with contextlib.suppress(OSError):  # a folder that cannot be listed
        leftovers = [folder for folder in path.parent.iterdir() if pattern.fullmatch(folder.name)]
    for folder in leftovers:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if all(_is_ours(entry.name) for entry in folder.iterdir()):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                _released(descriptor)


def _is_ours(name: str) -> bool:
    """Whether a file of this name may be in the folder of a run that is just being made."""
    known = ("config.yaml", "environment.json", digests.FILE, "inputs", "checkpoints")
    return name in known or atomic.LEFTOVER.fullmatch(name) is not None


def describe(
    path: Path,
    mapping: Mapping[str, Any],
    entry: Mapping[str, Any],
    inputs: Collection[str] = (),
) -> list[str]:
    """Makes checkpoints/, writes config.yaml and adds a session's entry to environment.json, after
    clearing away what a killed session left unfinished. digests.json vouches for config.yaml at
    every moment (see nqs.runfolder.digests), and for the files `inputs` of the folder that are
    there when it is first written. Returns lines about the state of the folder."""
    remove_temporaries(path)
    (path / "checkpoints").mkdir(exist_ok=True)
    recorded = digests.read(path)
    notes: list[str] = []
    if recorded is None:
        older = (path / "config.yaml").exists()
        files = {
            name: digests.file_digest(path / name) for name in inputs if (path / name).exists()
        }
        recorded = Digests([written_mapping(path)] if older else [], files)
        notes = [NOTHING_VOUCHES] if older else []
    Digests([*recorded.configs, mapping], recorded.inputs).write(path)
    text = "# Resolved configuration; files are relative to this folder.\n"
    write_text(path / "config.yaml", text + yaml.safe_dump(dict(mapping), sort_keys=False))
    Digests([mapping], recorded.inputs).write(path)
    return notes + environment.add_session(path, entry)


def permitted_changes(
    path: Path,
    saved: Mapping[str, Any],
    changes: Mapping[str, Any],
    resumable: Collection[str],
    is_same: Callable[[str, Any, Any], bool],
) -> dict[str, Any]:
    """Those of the dotted keys `changes` that a resumed run of the folder `path` may have new.

    saved: the dotted keys of its configuration. is_same(key, saved value, value): whether nothing
    changes. Raises InputError naming a key that differs and is not `resumable`.
    """
    for key, value in changes.items():
        if key in resumable or (key in saved and is_same(key, saved[key], value)):
            continue
        allowed = ", ".join(key for key in resumable if not key.startswith("run."))
        raise InputError(
            f"{key}={shown(value)}: the run in {path} has {shown(saved.get(key))}; a resumed run "
            f"may only change {allowed}: start a new run instead"
        )
    return {key: value for key, value in changes.items() if key in resumable}


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
        _released(descriptor)


def _released(descriptor: int) -> None:
    """Closes the descriptor and gives its lock up. Closing alone would leave the folder locked as
    long as a child has a copy: one that another thread starts has all of them until its exec."""
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_UN)
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
