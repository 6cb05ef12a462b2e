"""Configurations as earlier versions wrote them, in today's form.

Until local energies had a section of their own, train held flip_fraction, flip_precision,
flip_radius and exact_fraction, and a key of the model that was left out was null. Until the
symmetries of the Hamiltonian were taken without being asked for, a model without the key had none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

MOVED: Final = ("flip_fraction", "flip_precision", "flip_radius", "exact_fraction")
"""Keys of train that are keys of energies now."""


def current(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """The nested mapping of a run that is there, in today's form; itself if it has it, or is none
    of ours."""
    mapping = moved(mapping)
    model = mapping.get("model")
    if not isinstance(model, Mapping) or "symmetry" in model:
        return mapping
    return {**mapping, "model": {"symmetry": "none", **model}}


def moved(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """The nested mapping with each key in today's section; itself if all are there."""
    train, model = mapping.get("train"), mapping.get("model")
    if not isinstance(train, Mapping) or not set(MOVED) & set(train):
        return mapping
    keys = {key: train[key] for key in MOVED if train.get(key) is not None}
    result = {
        **mapping,
        "train": {key: value for key, value in train.items() if key not in MOVED},
        "energies": {"name": "near_flips" if "flip_radius" in keys else "blurred", **keys},
    }
    if "flip_radius" in keys and keys.get("flip_precision") == "full":
        del result["energies"]["flip_precision"]
    if isinstance(model, Mapping):
        result["model"] = {"digit_decay": None, **model}
    return result
