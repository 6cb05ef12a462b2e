"""environment.json: what one needs to know to repeat a run, one entry a session."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from nqs.errors import InputError
from nqs.runfolder import digests
from nqs.runfolder.atomic import write_text

FILE: Final = "environment.json"
DAMAGED: Final = "environment.damaged.json"
PACKAGES: Final = ("nqs", "torch", "numpy", "scipy", "h5py", "hydra-core")


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


def add_session(path: Path, entry: Mapping[str, Any]) -> list[str]:
    """Adds to environment.json. Nothing depends on it: what is damaged is put aside.

    Returns lines that say so, and that name each entry of "code" whose digest is another than in
    the sessions before.
    """
    file = path / FILE
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
    notes += [f"warning: {name}: its source has changed since the last session"
              for name in _changed(sessions, entry.get("code", {}))]  # fmt: skip
    content = digests.vouched({"sessions": [*sessions, entry]})
    write_text(file, json.dumps(content, indent=2) + "\n")
    return notes


def _changed(sessions: Sequence[Any], code: Mapping[str, str]) -> list[str]:
    """The names in `code` with another digest than where they were last recorded."""
    before: dict[str, str] = {}
    for entry in sessions:
        recorded = entry.get("code") if isinstance(entry, dict) else None
        before |= recorded if isinstance(recorded, dict) else {}
    return [name for name, digest in code.items() if before.get(name, digest) != digest]
