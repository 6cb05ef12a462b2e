"""What a run has read, by its digests: a table that has changed since is noticed before it is used.

    tables.json     {"data.train": {"sha256": ..., "bytes": ..., "files": ...}, ...,
                     "vocabulary": ..., "sha256": of all the others}

in the folder of a run. Runs from before it are not checked.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from nqs.crystal.datasets.data_config import EXAMPLES, DataConfig
from nqs.crystal.datasets.tables import LARGEST, cif_files
from nqs.crystal.tokens.tokeniser import Tokeniser
from nqs.errors import InputError, shown
from nqs.runfolder import digests as sealed
from nqs.runfolder import text_file
from nqs.runfolder.atomic import write_text

FILE: Final = "tables.json"


def describe(data: DataConfig, tokeniser: Tokeniser) -> dict[str, Any]:
    """The digests of all that a run reads. Raises InputError for a table that cannot be read."""
    return digests(data) | {"vocabulary": vocabulary_digest(tokeniser)}


def write(folder: Path, description: dict[str, Any]) -> None:
    """Writes tables.json. Raises OSError."""
    write_text(folder / FILE, json.dumps(sealed.vouched(description), indent=2) + "\n")


def check(folder: Path, data: DataConfig) -> None:
    """Raises InputError unless the tables are those that the run in `folder` has read."""
    saved = _read(folder)
    for key, found in digests(data).items() if saved else ():
        if saved.get(key) != found:
            table = data.train if key == "data.train" else data.validation
            raise InputError(
                f"{key}={shown(table)}: is not what the run in {folder} has read ({_size(found)} "
                f"now, {_size(saved.get(key))} then, SHA-256 differs); restore it or train anew"
            )


def check_vocabulary(folder: Path, tokeniser: Tokeniser) -> None:
    """Raises InputError if the tokens of the run in `folder` mean something else here."""
    saved = _read(folder)
    if saved and saved.get("vocabulary") != vocabulary_digest(tokeniser):
        raise InputError(
            f"{folder}: its tokens are not those of this version's {tokeniser.name}; use the "
            f"version in the run's environment.json"
        )


def digests(data: DataConfig) -> dict[str, Any]:
    """By key, the digests of the tables."""
    tables = {"data.train": data.train, "data.validation": data.validation}
    return {
        key: digest_of(Path(table))
        for key, table in tables.items()
        if table is not None and table != EXAMPLES
    }


def vocabulary_digest(tokeniser: Tokeniser) -> dict[str, str]:
    """Of the tokens, in order."""
    return {"sha256": hashlib.sha256("\0".join(tokeniser.vocabulary).encode()).hexdigest()}


def digest_of(path: Path) -> dict[str, Any]:
    """Of a file's bytes, or of a folder's CIF files and their names. Raises InputError."""
    files = cif_files(path) if path.is_dir() else [path]
    digest, size = hashlib.sha256(), 0
    for file in files:
        try:
            data = text_file.read_bytes(file, LARGEST)
        except InputError:
            if file is path:
                raise
            data = b""  # counted among the files that hold no crystal
        if path.is_dir():
            digest.update(hashlib.sha256(file.name.encode(errors="surrogateescape")).digest())
        digest.update(hashlib.sha256(data).digest() if path.is_dir() else data)
        size += len(data)
    return {"sha256": digest.hexdigest(), "bytes": size, "files": len(files)}


def _read(folder: Path) -> dict[str, Any]:
    """The content of tables.json, nothing for a run from before it."""
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        content, has_digest = sealed.read_mapping(path)
        if not has_digest:
            raise sealed.Damaged("its sha256 is gone")
    except sealed.Damaged as error:
        raise InputError(
            f"{path}: damaged ({error}); restore it, or delete it to go on unchecked"
        ) from None
    return content


def _size(entry: Any) -> str:
    return f"{entry['bytes']} bytes" if isinstance(entry, dict) and "bytes" in entry else "nothing"
