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
and needs no more than a constructor; whatever its code raises while it is read and built comes out
as one line that names it.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
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
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(constructor).parameters.items()
        if parameter.kind in _NAMED and name not in supplied and name not in ("self", "cls")
    }
    hints, texts = _hints(constructor, defaults), documented(kind)
    return {
        name: Key(name, hints.get(name, Any), plain(default), texts.get(name, ""))
        for name, default in defaults.items()
    }


def _hints(constructor: Any, names: Iterable[str]) -> dict[str, Any]:
    """{parameter: annotation} of the keys `names`; others may have one for type checkers only.
    Raises ValueError for what is no annotation."""
    with contextlib.suppress(Exception):
        return typing.get_type_hints(constructor, include_extras=True)
    function, hints = inspect.unwrap(constructor), dict[str, Any]()
    for name in function.__annotations__.keys() & set(names):
        annotation = function.__annotations__[name]
        alone = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= typing.get_type_hints(alone, function.__globals__, include_extras=True)
        except Exception as error:
            line = f"parameter {name} is annotated {annotation!r}: {_reason(error)}"
            raise ValueError(line) from None
    return hints


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
        whole = all(part.isidentifier() for part in module.split("."))
        if not whole or module.endswith(".py") or not attribute or ":" in attribute:
            raise InputError(f"{rule}: write MODULE:CLASS, a module's name without .py")
        with one_line_of(rule):
            kind = getattr(importlib.import_module(module), attribute, None)
        if not isinstance(kind, type):
            raise InputError(f"{rule}: {shown(module)} has no class {shown(attribute)}")
        with naming(self.name, rule):
            if not issubclass(kind, self.base):
                base = f"{self.base.__module__}.{self.base.__qualname__}"
                raise ValueError(f"must be a {base}")
            check_class(kind, self.supplied)
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
        values = dict[str, Any]()
        for name, key in keys.items():
            value = mapping.get(name, key.default)
            if key.default is MISSING and (value is MISSING or value is None):
                needs = f"{self.name}={shown(mapping['name'])} needs it: {key.text or 'no default'}"
                raise InputError(f"{prefix}.{name}: missing; {needs}")
            values[name] = (
                None
                if value is key.default is None
                else _converted(value, key, prefix, f"{self.name}={shown(mapping['name'])}")
            )
        selection = Selection(self, mapping["name"], MappingProxyType(values))
        for owner in filter(None, (kind, self.common)):
            if hasattr(owner, "check_keys"):
                own = keys_of(owner, self.supplied)
                with naming(prefix, selection.own):
                    _check_keys(owner, {name: values[name] for name in own})
        return selection


def _converted(value: Any, key: Key, prefix: str, rule: str) -> Any:
    """value as the key's type. Raises InputError, which says so if it is the class's default."""
    try:
        return convert(value, key.hint, f"{prefix}.{key.name}")
    except InputError as error:
        if shown(value) != shown(key.default):
            raise
        raise InputError(f"{error}; this is the default in {rule}") from None


def _check_keys(owner: Any, keys: Mapping[str, Any]) -> None:
    """Asks owner.check_keys, with those of the keys that it takes. One that is inherited and needs
    other keys is not asked."""
    parameters = inspect.signature(owner.check_keys).parameters
    any_name = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    needs = {n for n, p in parameters.items() if p.kind in _NAMED and p.default is MISSING}
    if needs <= keys.keys() or "check_keys" in vars(owner):
        owner.check_keys(**{n: value for n, value in keys.items() if any_name or n in parameters})


def check_class(kind: type, supplied: frozenset[str]) -> None:
    """Raises ValueError for a class of anyone's whose constructor cannot be given keys."""
    if inspect.isabstract(kind):
        missing = ", ".join(sorted(kind.__abstractmethods__))  # type: ignore[attr-defined]
        raise ValueError(f"an abstract class; it must define {missing}")
    for name, key in keys_of(kind, supplied).items():
        try:
            bounds_of(key.hint)
        except ValueError as error:
            raise ValueError(f"parameter {name}: {error}") from None
    constructor: Any = getattr(kind, "from_keys", None) or kind.__init__  # type: ignore[misc]
    if constructor is object.__init__:
        return
    for name, parameter in inspect.signature(constructor).parameters.items():
        if name == "name" and name not in supplied:
            raise ValueError("its parameter name: that key is the class's own; call it otherwise")
        if parameter.kind not in _NAMED and name != "self":
            written = str(parameter).partition(":")[0].partition("=")[0]
            rule = "arguments are passed by name; write it without /, *args, **kwargs"
            raise ValueError(f"its parameter {written}: {rule}")


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

    @property
    def own(self) -> str:
        """'section=MODULE:CLASS' of a class of anyone's, '' of a registered one."""
        return f"{self.group.name}={shown(self.name)}" if ":" in self.name else ""

    def build(self, **supplied: Any) -> Any:
        """An instance, from the values and those of `supplied` that its constructor takes.

        Raises InputError, one line that names the section, for what the constructor refuses, and
        of a class of anyone's for all that it raises.
        """
        constructor = getattr(self.kind, "from_keys", self.kind)
        own = {name: self.values[name] for name in keys_of(self.kind, self.group.supplied)}
        with naming(self.group.name, self.own):
            taken = {
                name: supplied[name]
                for name in inspect.signature(constructor).parameters
                if name in supplied
            }
            built = constructor(**taken, **own)
            if self.own and not isinstance(built, self.group.base):
                made = type(built).__name__
                raise ValueError(f"makes a {made}, not a {self.group.base.__name__}")
        return built

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
def naming(section: str, own: str = "") -> Iterator[None]:
    """Turns a constructor's ValueError into one line that names the section it comes from: "n=2:
    too few" as "section.n=2: too few", any other as "section: ...".

    own: 'section=MODULE:CLASS' of a class of anyone's, of which all that it raises becomes a line.
    """
    with one_line_of(own) if own else contextlib.nullcontext():
        try:
            yield
        except (ValueError, OSError) as error:
            line = " ".join(str(error).split())
            if isinstance(error, InputError) or (own and not line):
                raise
            line = line.removeprefix(f"{own.rpartition(':')[2]}: ")
            keyed = re.match(r"[A-Za-z_]\w*=", line)
            rule = f"{section}." if keyed else f"{own or section}: "
            raise InputError(f"{rule}{line}") from None


@contextlib.contextmanager
def one_line_of(rule: str) -> Iterator[None]:
    """Turns whatever anyone's code raises, sys.exit too, into an InputError "rule: ..."."""
    try:
        yield
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise InputError(f"{rule}: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason given'}"
