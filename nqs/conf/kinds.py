"""Kinds: classes that a configuration chooses by name, with their keys, read from the constructor.

A base class keeps its kinds, and a subclass names itself in its class line:

    class Hamiltonian:
        kinds: ClassVar[dict[str, type]] = {}

        def __init_subclass__(cls, *, kind: str | None = None, **rest: Any) -> None:
            super().__init_subclass__(**rest)
            if kind is not None:
                Hamiltonian.kinds[kind] = cls

    class TransverseFieldIsing(Hamiltonian, kind="tfim"):
        '''...

        Args:
            J: coupling of neighbours.
        '''

        def __init__(self, lattice: Lattice, *, J: Annotated[float, "0 .. 9"] = 1.0) -> None: ...

The keys of a kind are the parameters of its constructor (of its class method `from_keys`, if it has
one) other than those that the builder supplies by name, such as the lattice: types, choices and
bounds from the annotations (`nqs.conf.values`), defaults from the signature, one line of
documentation from the docstring's Args. A static method `check_keys(**keys)`, if there is one,
raises ValueError for keys that do not go together. A class of anyone's is chosen as MODULE:CLASS
and needs no more than a constructor.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from nqs.conf.values import bounds_of, convert, plain
from nqs.errors import InputError, require, shown, suggestion

MISSING: Final = inspect.Parameter.empty
"""The default of a key without one."""
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Key:
    """One key of a kind.

    Attributes:
        hint: annotation; Any without one.
        default: plain data, or MISSING.
        text: its line of documentation, '' without one.
    """

    name: str
    hint: Any
    default: Any
    text: str

    @property
    def line(self) -> str:
        """The documentation with the bounds at its end."""
        bounds = [b.text for b in bounds_of(self.hint) if b.text not in self.text]
        return " ".join(filter(None, [self.text, f"[{'; '.join(bounds)}]" if bounds else ""]))


def keys_of(kind: type, supplied: frozenset[str] = frozenset()) -> dict[str, Key]:
    """{name: key} of a kind, in the order of its constructor."""
    constructor = getattr(kind, "from_keys", None) or kind.__init__  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(constructor, include_extras=True)
    except NameError:  # names that exist for type checkers only
        hints = {}
    texts = documented(kind)
    return {
        name: Key(name, hints.get(name, Any), plain(parameter.default), texts.get(name, ""))
        for name, parameter in inspect.signature(constructor).parameters.items()
        if parameter.kind in _NAMED and name not in supplied and name not in ("self", "cls")
    }


def documented(kind: type) -> dict[str, str]:
    """{parameter: its text} of the Args in the docstrings of a class and of those it extends."""
    texts: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        for docstring in (parent.__dict__.get("__doc__"), _doc(parent, "__init__"),
                          _doc(parent, "from_keys")):  # fmt: skip
            texts |= _arguments(docstring or "")
    return texts


def _doc(parent: type, name: str) -> str | None:
    member = parent.__dict__.get(name)
    return getattr(getattr(member, "__func__", member), "__doc__", None)


def _arguments(docstring: str) -> dict[str, str]:
    """{name: text} of the lines after "Args:", one text for several names "a, b: text"."""
    _, found, block = inspect.cleandoc(docstring).partition("Args:\n")
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in block.splitlines() if found else ():
        if line and not line.startswith(" "):
            break
        entry = re.fullmatch(r" {4}(\w+(?:, \w+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
            texts |= dict.fromkeys(names, entry[2])
        else:
            texts |= {name: f"{texts[name]} {line.strip()}".strip() for name in names}
    return texts


@dataclass(frozen=True)
class Group:
    """A section of the configuration whose keys depend on the kind that is chosen.

    Attributes:
        name: of the section.
        base: the class with the kinds; its own keys are in every kind's section.
        supplied: parameters that the builder gives; they are no keys.
        common: a class whose constructor's keys come with those of any kind.
        text: one line of documentation.
    """

    name: str
    base: type
    supplied: frozenset[str]
    text: str
    common: type | None = None

    @property
    def kinds(self) -> dict[str, type]:
        """{name: class} of the registered kinds, in the order of their registration."""
        return self.base.kinds  # type: ignore[attr-defined]

    def find(self, name: Any) -> type:
        """The class of a kind's name or of MODULE:CLASS. Raises InputError."""
        if isinstance(name, str) and name in self.kinds:
            return self.kinds[name]
        if isinstance(name, str) and ":" in name:
            return self._imported(name)
        allowed = f"{', '.join(self.kinds)} or MODULE:CLASS of your own"
        hint = suggestion(shown(name), self.kinds)
        raise InputError(f"{self.name}={shown(name)}: must be one of {allowed}{hint}")

    def _imported(self, name: str) -> type:
        module, _, attribute = name.partition(":")
        rule = f"{self.name}={shown(name)}"
        try:
            kind = getattr(importlib.import_module(module), attribute, None)
        except Exception as error:  # whatever a stranger's module does while it loads
            reason = " ".join(str(error).split()) or "no reason given"
            raise InputError(f"{rule}: {type(error).__name__}: {reason}") from None
        if not isinstance(kind, type):
            raise InputError(f"{rule}: {shown(module)} has no class {shown(attribute)}")
        if not issubclass(kind, self.base):
            raise InputError(f"{rule}: must be a {self.base.__module__}.{self.base.__qualname__}")
        return kind

    def keys(self, name: str) -> dict[str, Key]:
        """The keys of a kind, then the common ones."""
        common = {} if self.common is None else keys_of(self.common)
        return keys_of(self.find(name), self.supplied) | common

    def defaults(self, name: str) -> dict[str, Any]:
        """The section of a kind as plain data: name, and the keys that have a default; null for
        those that have none."""
        keys = self.keys(name)
        return {"name": name} | {
            key: None if entry.default is MISSING else entry.default for key, entry in keys.items()
        }

    def chosen(self, choice: Any) -> Selection:
        """The selection of a kind's name, of a class, or of a mapping {"name": either, KEY: VALUE}.
        Raises InputError."""
        mapping = dict(choice) if isinstance(choice, Mapping) else {"name": choice}
        if isinstance(mapping.get("name"), type):
            mapping["name"] = self.name_of(mapping["name"])
        return self.read(mapping)

    def name_of(self, kind: type) -> str:
        """The name under which a class is found."""
        own = f"{kind.__module__}:{kind.__qualname__}"
        return next((name for name, known in self.kinds.items() if known is kind), own)

    def selection_of(self, instance: Any, folder: Path | None = None) -> Selection:
        """The selection that makes this instance again.

        Its keys are the arguments that it remembers (`instance.arguments`); for a kind with
        `from_keys` what `instance.to_keys(folder)` returns, which may write files into the folder.
        Where nothing makes it again (arguments that are no plain data, no folder for the files, a
        class that cannot be imported) the selection has a name and no keys: `check_whole`.
        """
        kind = type(instance)
        values = None
        if not hasattr(kind, "from_keys"):
            values = {key: _listed(value) for key, value in instance.arguments.items()
                      if key not in self.supplied}  # fmt: skip
        elif folder is not None and hasattr(kind, "to_keys"):
            values = instance.to_keys(folder)
        if values is not None:
            with contextlib.suppress(InputError):
                return self.read({"name": self.name_of(kind), **values})
        return Selection(self, self.name_of(kind), MappingProxyType({}), whole=False)

    def read(self, mapping: Any, prefix: str = "") -> Selection:
        """The kind and the keys of a section; keys that are left out have their defaults.

        Raises InputError for a kind or key that is unknown, a key without default that is left out
        or null, a value of the wrong type or out of bounds, keys that do not go together.
        """
        prefix = prefix or self.name
        rule = "must be a mapping of keys with the name of a kind"
        require(isinstance(mapping, Mapping) and "name" in mapping, prefix, mapping, rule)
        kind, keys = self.find(mapping["name"]), self.keys(mapping["name"])
        for key in mapping:
            if key != "name" and key not in keys:
                hint = suggestion(str(key), keys) or f"; it has {', '.join(keys)}"
                there = f"{self.name}={shown(mapping['name'])} has no such key{hint}"
                raise InputError(f"{prefix}.{shown(key)}={shown(mapping[key])}: {there}")
        values = {}
        for name, key in keys.items():
            value = mapping.get(name, key.default)
            if key.default is MISSING and (value is MISSING or value is None):
                needs = f"{self.name}={shown(mapping['name'])} needs it: {key.text or 'no default'}"
                raise InputError(f"{prefix}.{name}: missing; {needs}")
            values[name] = convert(value, key.hint, f"{prefix}.{name}")
        selection = Selection(self, mapping["name"], MappingProxyType(values))
        for owner in filter(None, (kind, self.common)):
            if hasattr(owner, "check_keys"):
                own = keys_of(owner, self.supplied)
                with naming(prefix):
                    owner.check_keys(**{name: values[name] for name in own})
        return selection


@dataclass(frozen=True, eq=False, repr=False)
class Selection:
    """A kind with values for all of its keys; the values are attributes, too.

    `build` makes the object. Two selections are equal if they write the same mapping.

    Attributes:
        whole: whether it can be built; not if it stands for an object made in memory alone.
    """

    group: Group
    name: str
    values: Mapping[str, Any]
    whole: bool = True

    @property
    def kind(self) -> type:
        """The class."""
        return self.group.find(self.name)

    def build(self, **supplied: Any) -> Any:
        """An instance, from the values and those of `supplied` that its constructor takes.

        Raises InputError, one line that names the section, for what the constructor refuses.
        """
        constructor = getattr(self.kind, "from_keys", self.kind)
        taken = {
            name: supplied[name]
            for name in inspect.signature(constructor).parameters
            if name in supplied
        }
        own = {name: self.values[name] for name in keys_of(self.kind, self.group.supplied)}
        with naming(self.group.name):
            return constructor(**taken, **own)

    def build_common(self) -> Any:
        """An instance of the group's common class."""
        assert self.group.common is not None
        with naming(self.group.name):
            return self.group.common(**{n: self.values[n] for n in keys_of(self.group.common)})

    def to_mapping(self) -> dict[str, Any]:
        """The section as plain data; `Group.read` makes an equal selection of it."""
        return {"name": self.name, **{key: plain(value) for key, value in self.values.items()}}

    def check_whole(self) -> None:
        """Raises InputError for a selection that cannot be built."""
        rule = "was made in memory of what no configuration can say; give its class plain arguments"
        if not self.whole:
            raise InputError(f"{self.group.name}={shown(self.name)}: {rule}")

    def replace(self, **changes: Any) -> Selection:
        """With some keys changed; checked again."""
        return self.group.read(self.to_mapping() | changes)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or the default where the kind has no such key."""
        return self.values.get(key, default)

    def __getattr__(self, key: str) -> Any:
        try:
            return self.__dict__["values"][key]
        except KeyError:
            raise AttributeError(key) from None

    def __repr__(self) -> str:
        keys = ", ".join(f"{key}={value!r}" for key, value in self.values.items())
        return f"{self.group.name}={self.name}({keys})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selection) and self.to_mapping() == other.to_mapping()

    def __hash__(self) -> int:
        return hash((self.group.name, self.name, tuple(self.values.items())))

    def __reduce__(self) -> Any:
        return _restored, (self.group, self.name, dict(self.values))


def _restored(group: Group, name: str, values: dict[str, Any]) -> Selection:
    return Selection(group, name, MappingProxyType(values))


def _listed(value: Any) -> Any:
    """Plain data of arrays and tensors, and of all else what it is."""
    return value.tolist() if hasattr(value, "tolist") else plain(value)


@contextlib.contextmanager
def naming(section: str) -> Iterator[None]:
    """Turns a constructor's ValueError into one line that names the section it comes from: "n=2:
    too few" as "section.n=2: too few", any other as "section: ..."."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, OSError) as error:
        line = " ".join(str(error).split())
        between = "." if re.match(r"[A-Za-z_]\w*=", line) else ": "
        raise InputError(f"{section}{between}{line}") from None
