"""Names of what a step or an evaluation records."""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """A number by its name.

    Attributes:
        name: its name in files.
        unit: "1", "couplings" (the Hamiltonian's unit of energy), "couplings^2", "nats", "s".
        description: its meaning, a few words.
    """

    name: str
    unit: str
    description: str
