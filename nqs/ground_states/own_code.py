"""The sources of the classes of anyone's that a run uses, by their content."""

from __future__ import annotations

import contextlib
import inspect
from pathlib import Path

from nqs.ground_states.config import Config
from nqs.ground_states.groups import GROUPS, OBSERVABLE
from nqs.runfolder import digests


def own_code(config: Config) -> dict[str, str]:
    """{'hamiltonian=MODULE:CLASS': sha256 of the file}; without those that have no file."""
    chosen = [(name, getattr(config, name)) for name in GROUPS]
    kinds = {f"{name}={choice.name}": choice.kind for name, choice in chosen if ":" in choice.name}
    for name in filter(lambda name: ":" in name, config.train.observables):
        kinds[f"{OBSERVABLE.name}={name}"] = OBSERVABLE.find(name)
    sources = dict[str, str]()
    for name, kind in kinds.items():
        with contextlib.suppress(TypeError):  # typed into an interpreter
            source = inspect.getsourcefile(kind)
            if source is not None and Path(source).is_file():
                sources[name] = digests.file_digest(Path(source))
    return sources
