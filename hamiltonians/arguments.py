"""What an object was made from, so that it can be written down and made again."""

from __future__ import annotations

import inspect
from typing import Any, Self


class Arguments:
    """Keeps the arguments of its constructor, by name, defaults included; those of the class that
    is made, whatever its constructor passes on to others."""

    arguments: dict[str, Any]

    def __new__(cls, *arguments: Any, **named: Any) -> Self:
        self = super().__new__(cls)
        self.arguments = {}
        try:
            bound = inspect.signature(cls.__init__).bind(self, *arguments, **named)
        except TypeError:  # copies; and calls that the constructor itself will refuse
            return self
        bound.apply_defaults()
        self.arguments = dict(list(bound.arguments.items())[1:])
        return self
