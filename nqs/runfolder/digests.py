"""Damage is noticed: what a run depends on carries a digest, checked before it is used.

    checkpoints/*.pt, inputs/start.pt, run.h5   end in a seal, the line "sha256 <hex>" of all before
    summary.json, environment.json              have an entry "sha256" of all other entries
    digests.json                                has one for each other file of inputs/, and what
                                                config.yaml says, so that a change can be named

A seal comes with its content in one rename. config.yaml, which people read and edit, holds none;
while it is replaced, digests.json knows the old content and the new one. So file and digest agree
whenever the process is killed.

Where there is no digests.json (a run from before it, or somebody deleted it) nothing vouches for
configuration and inputs; the next session says so and writes it from what it finds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from nqs.conf.sections import flatten
from nqs.errors import InputError, shown
from nqs.runfolder.atomic import write_text
from nqs.runfolder.text_file import read_bytes, read_text

FILE: Final = "digests.json"
FORMAT: Final = "nqs digests 1"
KEY: Final = "sha256"
MARK: Final = b"\nsha256 "
SEAL: Final = len(MARK) + 64 + 1
"""Bytes of a seal: the mark, the digest in hexadecimal, a line end."""
LARGEST_INPUT: Final = 2**30
"""Bytes of a file of inputs/ at most."""
LARGEST_JSON: Final = 2**26


class Damaged(ValueError):
    """The content is not what was written."""


def sealed(data: bytes) -> bytes:
    """data and its seal."""
    return data + MARK + hashlib.sha256(data).hexdigest().encode() + b"\n"


@contextlib.contextmanager
def unsealed(path: Path) -> Iterator[tuple[BinaryIO, bool]]:
    """The file, opened at its start, and whether it has a seal; what follows the content is for the
    reader to ignore, as zip and HDF5 do. Raises Damaged for a wrong seal and OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a fifo would wait for its writer
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Damaged("it is not a regular file")
        length = file.seek(0, 2)
        file.seek(max(0, length - SEAL))
        seal = file.read()
        has_seal = len(seal) == SEAL and seal.startswith(MARK) and seal.endswith(b"\n")
        if has_seal and _digest(file, length - SEAL) != seal[len(MARK) : -1].decode("latin-1"):
            raise Damaged("its content does not fit its sha256")
        file.seek(0)
        yield file, has_seal


def _digest(file: BinaryIO, length: int) -> str:
    """sha256 of the first `length` bytes."""
    digest = hashlib.sha256()
    file.seek(0)
    while length > 0:
        part = file.read(min(length, 2**20))
        if not part:
            break
        digest.update(part)
        length -= len(part)
    return digest.hexdigest()


def vouched(content: Mapping[str, Any]) -> dict[str, Any]:
    """content, as JSON has it, with its digest."""
    return {**content, KEY: hashlib.sha256(canonical(content).encode()).hexdigest()}


def verified(content: Mapping[str, Any]) -> dict[str, Any]:
    """content without its digest, if it has one. Raises Damaged if that is another's, or stands
    under another name."""
    plain = _without(content, KEY)
    if KEY in content and content[KEY] != vouched(plain)[KEY]:
        raise Damaged("its content does not fit its sha256")
    for key, value in plain.items():
        if (
            isinstance(value, str)
            and len(value) == 64
            and value == vouched(_without(plain, key))[KEY]
        ):
            raise Damaged("its sha256 has lost its name")
    return plain


def _without(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != key}


def canonical(content: Any) -> str:
    """The same text for equal content, and another one for 1, 1.0, true and "1"."""
    return json.dumps(content, sort_keys=True)


def read_mapping(path: Path) -> tuple[dict[str, Any], bool]:
    """The content of a JSON file, a mapping, and whether it had a digest.

    Raises Damaged for anything else and InputError if there is no such file.
    """
    text = read_text(path, LARGEST_JSON)
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise Damaged("it is not a mapping")
        return verified(content), KEY in content
    except Damaged:
        raise
    except (ValueError, RecursionError):
        raise Damaged("it is not readable JSON") from None


@dataclass(frozen=True)
class Digests:
    """The content of digests.json.

    Attributes:
        configs: what config.yaml may say: one mapping, two while it is being replaced.
        inputs: {path in the folder: sha256} of the files that the run was given.
    """

    configs: Sequence[Mapping[str, Any]]
    inputs: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Writes digests.json. Raises OSError."""
        content = {"format": FORMAT, "configs": list(self.configs), "inputs": dict(self.inputs)}
        write_text(folder / FILE, json.dumps(vouched(content), indent=1) + "\n")

    def check_config(self, path: Path, mapping: Mapping[str, Any]) -> None:
        """Raises InputError, naming what differs, if config.yaml (at `path`, with this content) is
        not as it was written."""
        if not _same(mapping, self.configs):
            raise InputError(
                f"{path}: is not as it was written: {differences(mapping, self.configs[-1])}; put "
                "it back (what a resumed run may change is given on the command line)"
            )

    def check_inputs(self, folder: Path) -> None:
        """Raises InputError if one of the inputs is missing or not as it was."""
        for name, digest in self.inputs.items():
            path = folder / name
            if not path.exists():
                raise InputError(f"{path}: missing; restore it from a copy, or start a new run")
            if file_digest(path) != digest:
                raise InputError(
                    f"{path}: is not as it was when the run began; restore it from a copy, or "
                    "start a new run with it"
                )


def _same(mapping: Any, configs: Sequence[Any]) -> bool:
    try:
        return canonical(mapping) in map(canonical, configs)
    except (TypeError, ValueError, RecursionError):  # YAML has dates and sets
        return False


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """The first keys in which two nested mappings differ, e.g. "train.steps=9, was 8"."""
    mine, theirs = flatten(here), flatten(there)
    lines = []
    for key in [*theirs, *(key for key in mine if key not in theirs)]:
        if key not in mine:
            lines.append(f"{shown(key)} is gone, was {shown(theirs[key])}")
        elif key not in theirs:
            lines.append(f"{shown(key)}={shown(mine[key])} is new")
        elif repr(mine[key]) != repr(theirs[key]):
            lines.append(f"{shown(key)}={shown(mine[key])}, was {shown(theirs[key])}")
    return "; ".join(lines[:2] + ["and more"] * (len(lines) > 2)) or "a value"


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes. Raises InputError."""
    return hashlib.sha256(read_bytes(path, LARGEST_INPUT)).hexdigest()


def read(folder: Path) -> Digests | None:
    """digests.json of the run in `folder`; None without one. Raises InputError if it is damaged."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        content, has_digest = read_mapping(path)
        if not has_digest or content.get("format") != FORMAT:
            raise Damaged(f"it is no '{FORMAT}' with a sha256")
        digests = Digests(content["configs"], content["inputs"])
        if not digests.configs or not all(isinstance(c, dict) for c in digests.configs):
            raise Damaged("it knows no configuration")
        for name, digest in digests.inputs.items():
            if not name.startswith("inputs/") or ".." in name or not isinstance(digest, str):
                raise Damaged("its inputs are no digests")
    except (Damaged, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: damaged ({error}); if you know that config.yaml and inputs/ are right, "
            "delete it to go on without"
        ) from None
    return digests
