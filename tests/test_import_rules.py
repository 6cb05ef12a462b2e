"""The rules of the tree: who may import whom, and what the sequence core may not know."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

OURS = {"hamiltonians", "nqs", "benchmarks", "train", "tests"}

_LATTICES = {"hamiltonians.lattices", "hamiltonians.arguments", "hamiltonians.text_file"}
_VMC = {
    *("hamiltonians", "nqs.errors", "nqs.core", "nqs.wavefunctions", "nqs.vmc"),
    "nqs.runfolder.schedules",
}
ALLOWED = {  # package -> our packages it may import, besides itself
    "hamiltonians": set(),
    "nqs.errors": set(),
    "nqs.core": {"nqs.errors"},
    "nqs.wavefunctions": {"nqs.errors", "nqs.core", *_LATTICES},
    "nqs.vmc": _VMC,
    "nqs.runfolder": {"nqs.errors", "nqs.conf"},
    "nqs.conf": {"nqs.errors"},
    "nqs.ground_states": _VMC | {"nqs.conf", "nqs.runfolder"},
    "nqs.families": _VMC | {"nqs.conf", "nqs.runfolder", "nqs.ground_states", "nqs.scans"},
    "nqs.scans": _VMC | {"nqs.conf", "nqs.runfolder", "nqs.ground_states"},
    "nqs.crystal": {"nqs.errors", "nqs.core", "nqs.conf", "nqs.runfolder"},
}

BY_NAME = {"nqs.conf.kinds", "nqs"}
"""Modules that import what a name says: anyone's class, and a public name on its first use."""

COMMAND_LINE = re.compile(r"nqs/cli/.*\.py|tests/.*config.*\.py|tests/test_import_rules\.py")
"""The files that may know Hydra."""

PHYSICS = re.compile(
    r"spin|lattice|hamiltonian|sigma|magnet|rydberg|ising|qubit|crystal|atom", re.I
)
HARMLESS = re.compile(r"initiali[sz]ing|raising|atomic", re.I)  # contain "ising", "atom"


@cache
def imports(source: str, module: str, is_package: bool = False) -> list[str]:
    """Absolute dotted names of everything a file imports, wherever in the file."""
    return list(_imports(source, module, is_package))


def _imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, node.module] if node.module else base)
            yield from (f"{prefix}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant):
                yield str(first.value)
            elif module not in BY_NAME:
                yield "nqs.unknown"


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def forbidden_imports(source: str, module: str, is_package: bool = False) -> list[str]:
    """The imports of one file that break ALLOWED."""
    home = next((package for package in ALLOWED if within(module, package)), None)
    if home is None:
        return []
    allowed = ALLOWED[home] | {home}
    ours = (n for n in imports(source, module, is_package) if n.split(".")[0] in OURS)
    return [name for name in ours if not any(within(name, package) for package in allowed)]


def hydra_imports(source: str, module: str) -> list[str]:
    roots = {"hydra", "omegaconf", "hydra_plugins"}
    return [name for name in imports(source, module) if name.split(".")[0] in roots]


def identifiers(source: str) -> Iterator[str]:
    """Every name a file defines or uses (not its prose)."""
    for node in ast.walk(ast.parse(source)):
        for field in ("id", "attr", "arg", "name", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value


def physical_identifiers(source: str) -> list[str]:
    return [n for n in identifiers(source) if PHYSICS.search(HARMLESS.sub("", n))]


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def our_files() -> list[Path]:
    roots = ["hamiltonians", "nqs", "benchmarks", "tests"]
    found = [path for root in roots for path in (ROOT / root).rglob("*.py")]
    return sorted([*found, ROOT / "train.py"])


def test_the_files_are_found() -> None:
    packages = {
        package for path in our_files() for package in ALLOWED if within(dotted(path), package)
    }
    assert packages >= {"hamiltonians", "nqs.core", "nqs.wavefunctions", "nqs.vmc", "nqs.runfolder"}


def test_imports() -> None:
    for path in our_files():
        source, module = path.read_text(encoding="utf-8"), dotted(path)
        assert forbidden_imports(source, module, path.name == "__init__.py") == [], path
        if not COMMAND_LINE.fullmatch(path.relative_to(ROOT).as_posix()):
            assert hydra_imports(source, module) == [], path


def without_type_checking(source: str) -> str:
    """The source without its blocks `if TYPE_CHECKING:`."""
    tree = ast.parse(source)
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return ast.unparse(tree)


@cache
def graph() -> dict[str, set[str]]:
    """{module: our modules it imports, wherever in the file but for type checkers alone}, packages
    by their __init__."""
    files = {dotted(path): path for path in our_files()}
    modules = {
        n: path for n, path in files.items() if within(n, "nqs") or within(n, "hamiltonians")
    }
    edges = {}
    for name, path in modules.items():
        source, is_package = path.read_text(encoding="utf-8"), path.name == "__init__.py"
        targets = set()
        for target in imports(without_type_checking(source), name, is_package):
            while target and target not in modules:
                target = target.rpartition(".")[0]
            targets |= {target} - {"", name}
        edges[name] = targets
    return edges


def reached(edges: dict[str, set[str]], start: str) -> set[str]:
    """All modules at the end of any chain of imports that begins at `start`."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for target in edges.get(waiting.pop(), set()) - seen:
            seen.add(target)
            waiting.append(target)
    return seen


def room(module: str) -> str:
    """The package of a module that must not be part of a circle."""
    parts = module.split(".")
    return ".".join(parts[: 3 if parts[:2] == ["nqs", "crystal"] else 2])


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Nodes that reach themselves, grouped with those that they reach and that reach them."""
    everything = {name: reached(edges, name) for name in edges}
    groups = {
        tuple(sorted(other for other in there if name in everything.get(other, ())))
        for name, there in everything.items()
        if name in there
    }
    return [list(group) for group in sorted(groups)]


def test_imports_are_followed_to_their_end() -> None:
    edges = graph()
    for module in edges:
        home = next((package for package in ALLOWED if within(module, package)), None)
        if home is not None:
            allowed = ALLOWED[home] | {home}
            strays = [n for n in reached(edges, module) if not any(within(n, p) for p in allowed)]
            assert strays == [], f"{module} ends at {strays}"


def test_there_are_no_circles() -> None:
    edges = graph()
    assert circles(edges) == []
    rooms: dict[str, set[str]] = {}
    for module, targets in edges.items():
        if not within(module, "hamiltonians"):
            others = {room(target) for target in targets} - {room(module)}
            rooms.setdefault(room(module), set()).update(others)
    assert circles(rooms) == []


def test_a_circle_is_seen() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert circles(edges) == [["a", "b", "c"]] and reached(edges, "d") == {"a", "b", "c"}


def test_core_and_folders_know_no_physics() -> None:
    for path in (
        file for name in ("core", "runfolder") for file in (ROOT / "nqs" / name).glob("*")
    ):
        if path.suffix == ".py":
            assert physical_identifiers(path.read_text(encoding="utf-8")) == [], path


@pytest.mark.parametrize(
    ("module", "source", "caught"),
    [
        ("hamiltonians.ising", "import nqs", ["nqs"]),
        ("hamiltonians.ising", "def f():\n    from nqs.core import x", ["nqs.core.x"]),
        ("nqs.core.a", "from hamiltonians import Rydberg", ["hamiltonians.Rydberg"]),
        ("nqs.core.a", "from ..wavefunctions import patches", ["nqs.wavefunctions.patches"]),
        ("nqs.core.a", "from nqs import vmc", ["nqs.vmc"]),
        (
            "nqs.wavefunctions.a",
            "from hamiltonians.rydberg import Rydberg",
            ["hamiltonians.rydberg.Rydberg"],
        ),
        (
            "nqs.wavefunctions.a",
            "import nqs.vmc.optimizers.gradient as g",
            ["nqs.vmc.optimizers.gradient"],
        ),
        ("nqs.vmc.a", "import nqs.ground_states.config", ["nqs.ground_states.config"]),
        ("nqs.crystal.a", "from nqs.vmc import gradient", ["nqs.vmc.gradient"]),
        ("nqs.crystal.a", "importlib.import_module('nqs.vmc')", ["nqs.vmc"]),
        ("nqs.scans.a", "import train", ["train"]),
        ("nqs.scans.a", "from tests import conftest", ["tests.conftest"]),
        (
            "nqs.core.a",
            "from .attention import attend\nfrom nqs.core import sequence\nimport torch",
            [],
        ),
        ("nqs.corelike.a", "import hamiltonians", []),
        (
            "nqs.vmc.a",
            "from hamiltonians.hamiltonian import H\nfrom nqs.wavefunctions import x",
            [],
        ),
    ],
)
def test_the_checker_sees_violations(module: str, source: str, caught: list[str]) -> None:
    assert forbidden_imports(source, module) == caught


def test_the_checker_sees_hydra_and_physics() -> None:
    assert hydra_imports("def f():\n    import hydra.core", "nqs.vmc.a") == ["hydra.core"]
    assert hydra_imports("from omegaconf import DictConfig", "nqs.vmc.a") == [
        "omegaconf.DictConfig"
    ]
    assert COMMAND_LINE.fullmatch("nqs/ground_states/config.py") is None
    assert physical_identifiers("def f(n_spins): pass") == ["n_spins"]
    assert physical_identifiers("from a import Lattice as L") == ["Lattice"]
    assert physical_identifiers("x.hamiltonian = 1") == ["hamiltonian"]
    assert physical_identifiers("'''about spins'''\ninitialising = 1  # lattice") == []
