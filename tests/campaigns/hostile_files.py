"""Well-formed files with nonsense inside, in the place of each file that our programs read."""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import yaml

from nqs.runfolder import digests

ESCAPE = "\x1b[2J\x1b]0;owned\x07\x1b[31m"
TINY = [
    "model.d_model=4",
    "model.n_heads=1",
    "model.n_layers=1",
    "train.steps=2",
    "train.n_samples=8",
    "train.eval_samples=16",
    "train.checkpoint_every=1",
]
ROCK_SALT = """data_{name}
_cell_length_a {a}
_cell_length_b {a}
_cell_length_c {a}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
{first}1 {first} 0 0 0
{second}1 {second} 0.5 0.5 0.5
"""
SALTS = (("Na", "Cl", 5.64), ("Li", "F", 4.03), ("K", "Br", 6.6), ("Mg", "O", 4.21)) * 3

Command = tuple[str, list[str]]


def make_template(path: Path, run: Callable[[str, Sequence[str]], int]) -> None:
    """Runs, a scan and crystals in the current folder, `path`; run(program, words) -> code."""
    (path / "positions.csv").write_text("x,y\n0,0\n0,1\n1,0\n")
    (path / "strings.txt").write_text("-1 Z0 Z1\n-0.5 X0\n-0.5 X1\n-0.5 X2\n")
    (path / "keys.yaml").write_text("train: {steps: 3}\nmodel: {d_model: 8, n_heads: 2}\n")
    small = ["lattice=chain", "lattice.Lx=3"]
    assert run("train", [*TINY, *small, "run.dir=run"]) == 0
    custom = ["lattice=positions", "lattice.file=positions.csv", "hamiltonian=pauli"]
    assert run("train", [*TINY, *custom, "hamiltonian.file=strings.txt", "run.dir=custom"]) == 0
    started = ["train.start_from=run", "run.dir=started"]
    assert run("train", [*TINY, *small, *started]) == 0
    axes = ["-m", "hamiltonian.delta=0,1", "scan.warm_start=hamiltonian.delta"]
    assert run("train", [*axes, *TINY, *small, "scan.dir=scan"]) == 0
    assert run("nqs", ["collect", "scan"]) == 0
    assert run("nqs", ["reweight", "run", "delta=1.1", "--samples=16", "--lanczos-samples=8"]) == 0
    (path / "cifs").mkdir()
    rows = []
    for number, (first, second, a) in enumerate(SALTS):
        text = ROCK_SALT.format(name=f"s{number}", first=first, second=second, a=a + number / 50)
        (path / f"cifs/{number:02d}.cif").write_text(text)
        rows.append({"material_id": f"s{number}", "cif": text, "formation_energy_per_atom": "-1"})
    (path / "table.csv").write_text(table(rows))
    keys = [
        "model.d_model=8",
        "model.n_heads=1",
        "model.n_layers=1",
        "train.steps=3",
        "optimizer.warmup_steps=1",
        "train.validate_every=2",
        "train.checkpoint_every=2",
    ]
    words = ["crystal", "train", "data.train=table.csv", "run.dir=learnt", *keys]
    assert run("nqs", words) == 0
    assert run("nqs", ["crystal", "generate", "learnt", "n=3", "out=samples"]) == 0


def table(rows: Sequence[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


RESUME: Command = ("train", ["run.dir=run", "run.resume=true", "train.steps=3"])
RESUME_CUSTOM: Command = ("train", ["run.dir=custom", "run.resume=true", "train.steps=3"])
RESUME_STARTED: Command = ("train", ["run.dir=started", "run.resume=true", "train.steps=3"])
RESUME_SCAN: Command = ("train", ["-m", "scan.dir=scan", "scan.resume=true"])
NEW_CUSTOM: Command = (
    "train",
    [
        *TINY,
        "lattice=positions",
        "lattice.file=positions.csv",
        "hamiltonian=pauli",
        "hamiltonian.file=strings.txt",
        "run.dir=new",
    ],
)
START_FROM: Command = (
    "train",
    [*TINY, "lattice=chain", "lattice.Lx=4", "train.start_from=run", "run.dir=new"],
)
EVALUATE: Command = ("nqs", ["evaluate", "run", "--samples=16"])
REWEIGHT: Command = (
    "nqs",
    ["reweight", "run", "delta=1.1", "--samples=16", "--lanczos-samples=8"],
)
PLOT: Command = ("nqs", ["plot", "run"])
SHOW: Command = ("nqs", ["show", "run"])
COLLECT: Command = ("nqs", ["collect", "scan"])
LEARN: Command = ("nqs", ["crystal", "train", "run.dir=learnt", "run.resume=true"])
GENERATE: Command = ("nqs", ["crystal", "generate", "learnt", "n=2", "out=more"])
JUDGE_MODEL: Command = ("nqs", ["crystal", "evaluate", "learnt"])
JUDGE: Command = ("nqs", ["crystal", "evaluate", "samples"])
FROM_TABLE: Command = (
    "nqs",
    [
        "crystal",
        "train",
        "data.train=table.csv",
        "run.dir=new",
        "train.steps=2",
        "model.d_model=8",
        "model.n_heads=1",
        "model.n_layers=1",
        "optimizer.warmup_steps=1",
    ],
)
FROM_FOLDER: Command = (
    "nqs",
    ["data.train=cifs" if w.startswith("data.train") else w for w in FROM_TABLE[1]],
)
WITH_KEYS: Command = ("nqs", [*FROM_TABLE[1], "--config", "keys.yaml"])

POINT = "scan/hamiltonian.delta=0"
TARGETS: dict[str, tuple[str, list[Command]]] = {
    "run/config.yaml": ("yaml", [RESUME, EVALUATE, REWEIGHT, PLOT, START_FROM]),
    "run/environment.json": ("json", [RESUME]),
    "run/summary.json": ("json", [PLOT, SHOW]),
    "run/run.h5": ("hdf5", [RESUME, EVALUATE, PLOT]),
    "run/checkpoints/step-000000002.pt": ("torch", [RESUME, EVALUATE, REWEIGHT, START_FROM]),
    "run/reweighting.json": ("json", [REWEIGHT]),
    "custom/inputs/lattice.csv": ("csv", [RESUME_CUSTOM]),
    "custom/inputs/hamiltonian.txt": ("text", [RESUME_CUSTOM]),
    "started/inputs/start.pt": ("torch", [RESUME_STARTED]),
    "positions.csv": ("csv", [NEW_CUSTOM]),
    "strings.txt": ("text", [NEW_CUSTOM]),
    "scan/scan.json": ("json", [RESUME_SCAN, COLLECT]),
    f"{POINT}/summary.json": ("json", [RESUME_SCAN, COLLECT]),
    f"{POINT}/run.h5": ("hdf5", [COLLECT]),
    f"{POINT}/config.yaml": ("yaml", [COLLECT]),
    "learnt/config.yaml": ("yaml", [LEARN, GENERATE, JUDGE_MODEL, JUDGE]),
    "learnt/run.h5": ("hdf5", [LEARN]),
    "learnt/summary.json": ("json", [("nqs", ["show", "learnt"])]),
    "learnt/checkpoints/step-000000003.pt": ("torch", [LEARN, GENERATE, JUDGE_MODEL]),
    "samples/samples.csv": ("csv", [JUDGE]),
    "samples/config.yaml": ("yaml", [JUDGE]),
    "samples/cif/000001.cif": ("text", [JUDGE]),
    "table.csv": ("csv", [FROM_TABLE]),
    "cifs/03.cif": ("text", [FROM_FOLDER]),
    "keys.yaml": ("yaml", [WITH_KEYS]),
}
"""Each file that is read: its format, and the commands that read it."""


@dataclass(frozen=True)
class Case:
    """One file spoilt and one command that reads it."""

    target: str
    seed: int
    command: Command

    def spoil(self, place: Path) -> str:
        """Spoils the file in `place`; says how."""
        rng = random.Random(self.seed)
        path = place / self.target
        if rng.random() < 0.2:
            return strange_file(rng, path)
        how = SPOILERS[TARGETS[self.target][0]](rng, path)
        if rng.random() < 0.85:
            sign(path)
        return how


def cases(n: int, seed: int) -> Iterator[Case]:
    """n cases, all targets in turn."""
    rng = random.Random(seed)
    targets = list(TARGETS)
    rng.shuffle(targets)
    for number in range(n):
        target = targets[number % len(targets)]
        yield Case(target, rng.getrandbits(40), rng.choice(TARGETS[target][1]))


def sign(path: Path) -> None:
    """What an attacker does who knows our digests: they fit again."""
    for folder in path.parents[:2]:
        (folder / digests.FILE).unlink(missing_ok=True)
    if path.suffix == ".json":
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(path.read_text())
            if isinstance(content, dict):
                plain = {key: value for key, value in content.items() if key != digests.KEY}
                path.write_text(json.dumps(digests.vouched(plain)))
    elif path.suffix in (".pt", ".h5"):
        data = path.read_bytes()
        if digests.MARK in data[-digests.SEAL :]:
            data = data[: -digests.SEAL]
        path.write_bytes(digests.sealed(data))


def strange_file(rng: random.Random, path: Path) -> str:
    """No file, or one that is not what it seems."""
    kind = rng.choice(
        [
            "empty",
            "zeros",
            "noise",
            "fifo",
            "/dev/zero",
            "/dev/full",
            "folder",
            "nowhere",
            "loop",
            "missing",
            "utf-16",
            "latin-1",
            "mark",
            "long line",
            "escapes",
        ]
    )
    data = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind.startswith("/dev"):
        path.symlink_to(kind)
    elif kind == "folder":
        (path / "inside").mkdir(parents=True)
    elif kind == "nowhere":
        path.symlink_to("nowhere/at/all")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind != "missing":
        text = data.decode("utf-8", "replace")
        path.write_bytes(
            {
                "empty": b"",
                "zeros": b"\0" * 1000,
                "noise": rng.randbytes(5000),
                "utf-16": text.encode("utf-16"),
                "latin-1": b"\xe9\xff" + data,
                "mark": b"\xef\xbb\xbf" + data,
                "long line": b"x" * 5_000_000,
                "escapes": ESCAPE.encode() * 100,
            }[kind]
        )
    return kind


def nonsense(rng: random.Random) -> Any:
    """Something of any type and size that text formats can hold."""
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    return rng.choice(
        [
            None,
            True,
            0,
            -1,
            2**63,
            -(2**70),
            10**400,
            1e308,
            float("nan"),
            float("inf"),
            "",
            "x",
            ESCAPE,
            "a\nb",
            "x" * 100_000,
            "../../escaped",
            "/etc/passwd",
            [],
            {},
            [[]],
            {"a": 1},
            {"energy": 1},
            [1, "a", None],
            deep,
            {"x" * 5000: ESCAPE},
            "\ud800",
            "=1+1",
            "nan",
            0.5,
            [1] * 5000,
            {str(i): i for i in range(500)},
            "\u202eevil",
            1e-300,
            "0x10",
            3,
        ]
    )


def mutated(rng: random.Random, content: Any) -> Any:
    """The content with one thing in it spoilt, or something else altogether."""
    if rng.random() < 0.2 or not isinstance(content, dict | list) or not content:
        return nonsense(rng)
    content = copy.copy(content)
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    key, kind = rng.choice(keys), rng.random()
    if kind < 0.15:
        del content[key]
    elif kind < 0.25 and isinstance(content, dict):
        content[rng.choice(["extra", ESCAPE, "", "x" * 3000, "__class__"])] = nonsense(rng)
    elif kind < 0.6 and isinstance(content[key], dict | list):
        content[key] = mutated(rng, content[key])
    else:
        content[key] = nonsense(rng)
    return content


def spoil_json(rng: random.Random, path: Path) -> str:
    content = mutated(rng, json.loads(path.read_text()))
    text = json.dumps(content)
    if rng.random() < 0.1:
        text = rng.choice(
            [
                "[" * 100_000 + "]" * 100_000,
                '{"a":' * 5000 + "1" + "}" * 5000,
                "9" * 10_000,
                '{"a":1,"a":2}',
                "{" + '"energy":1' + "}",
            ]
        )
    path.write_text(text)
    return f"json {text[:200]!r}"


def spoil_yaml(rng: random.Random, path: Path) -> str:
    content = mutated(rng, yaml.safe_load(path.read_text()))
    try:
        text = yaml.safe_dump(content)
    except (RecursionError, yaml.YAMLError):
        text = "[" * 3000 + "]" * 3000
    if rng.random() < 0.25:
        bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n"
        for one, two in zip("abcdefgh", "bcdefghi", strict=True):
            bomb += f"{two}: &{two} [{','.join([f'*{one}'] * 9)}]\n"
        text = rng.choice(
            [
                bomb,
                bomb + "lattice: *i\n",
                "lattice: *nothing\n",
                "!!python/object/apply:os.system [ls]",
                "? [a, b]\n: 1\n",
                "lattice: {? {a: 1} : 2}\n",
                "2001-01-01: 2\n",
                "seed: 0x" + "f" * 9000,
                "seed: " + "1" * 9000,
                "seed: 1:2:3",
                "- a\n- b\n",
                "---\na: 1\n---\nb: 2\n",
                "a: !!binary x",
                "a: &a {b: *a}\n",
                "lattice: &l\n  <<: *l\n",
                "\ttab: 1\n",
                "seed: .nan\n",
                "%YAML 9.9\n---\n1",
                "lattice: !!set {a, b}\n",
                "a: !!timestamp 2001-99-99\n",
                "1: {2: 3}\n",
                "null: null\n",
            ]
        )
    path.write_text(text)
    return f"yaml {text[:200]!r}"


def spoil_text(rng: random.Random, path: Path) -> str:
    words = path.read_text().split(" ")
    junk = [
        "nan",
        "inf",
        "1e400",
        "-1",
        "9" * 5000,
        ESCAPE,
        "",
        "\n",
        "x" * 100_000,
        "Q7",
        "Z99999999999",
        "Z0 Z0",
        "\u0664",
        "0",
        "loop_",
        "data_",
        "'",
        ";",
        "#",
        "1(",
        "X-1",
        "1+2j",
        "1e-400",
        "Z0" * 3000,
        "_cell_length_a",
        "(1)",
        "?",
        ".",
    ]
    for _ in range(rng.randint(1, 3)):
        place, kind = rng.randrange(len(words)), rng.random()
        words[place] = rng.choice(junk) if kind < 0.6 else words[place] + rng.choice(junk)
    text = " ".join(words)
    if rng.random() < 0.1:
        text = text * 300
    path.write_text(text)
    return f"text {text[:200]!r}"


def spoil_csv(rng: random.Random, path: Path) -> str:
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    junk = [
        "nan",
        "inf",
        "1e400",
        "text",
        ESCAPE,
        "",
        "x" * 200_000,
        "-1",
        "9" * 5000,
        '"',
        "a\nb",
        "../../x",
        "=1+1",
        "1;2",
        "\t",
        "[1,2]",
        "{}",
        "\u202e",
        "1,5",
    ]
    for _ in range(rng.randint(1, 3)):
        kind, row = rng.random(), rng.randrange(len(rows))
        if kind < 0.6 and rows[row]:
            rows[row][rng.randrange(len(rows[row]))] = rng.choice(junk)
        elif kind < 0.7:
            rows[row] = rows[row][:-1]
        elif kind < 0.8:
            rows[row] = rows[row] * 3
        elif kind < 0.9:
            rows.insert(row, rng.choice([[], ["a"], rows[0]]))
        else:
            rows = rows[:1] if rng.random() < 0.5 else rows + rows
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.write_text(text.getvalue())
    return f"csv {text.getvalue()[:200]!r}"


def spoil_torch(rng: random.Random, path: Path) -> str:
    content = torch.load(path, weights_only=True)
    junk = [
        lambda: torch.full((3,), torch.nan),
        lambda: torch.zeros(0),
        lambda: torch.zeros(2, 2).long(),
        lambda: torch.zeros(1).expand(10**6, 10**6),
        lambda: torch.ones(3, dtype=torch.complex64),
        lambda: torch.zeros(3).to_sparse(),
        lambda: nonsense(rng),
        lambda: nonsense(rng),
        lambda: torch.empty(2**20, device="meta"),
    ]
    flat = [(content, key) for key in content]
    for value in list(content.values()):
        if isinstance(value, dict):
            flat += [(value, key) for key in value] * 2
    where, key = rng.choice(flat)
    kind = rng.random()
    if kind < 0.15:
        del where[key]
    elif kind < 0.35 and isinstance(where[key], torch.Tensor) and where[key].numel():
        old = where[key]
        where[key] = rng.choice(
            [
                torch.full_like(old, torch.nan) if old.is_floating_point() else old * 0,
                old[:0],
                old[None],
                old.double(),
                torch.cat([old, old]),
            ]
        )
    elif kind < 0.45:
        content = rng.choice([lambda: nonsense(rng), lambda: {}, lambda: torch.zeros(3)])()
    else:
        where[key] = rng.choice(junk)()
    try:
        torch.save(content, path)
    except Exception:
        torch.save({"format": "nqs checkpoint 1"}, path)
    return f"torch {key} in {list(where)[:3]}"


def spoil_hdf5(rng: random.Random, path: Path) -> str:
    with h5py.File(path, "a") as file:
        names: list[str] = []
        file.visit(names.append)
        name = rng.choice([*names, *(n for n in names if "evaluations" not in n)])
        kind = rng.choice(["gone", "attribute", "other", "other", "other", "link", "root"])
        if kind == "root":
            for key in list(file):
                if rng.random() < 0.7:
                    del file[key]
            file.attrs["format"] = rng.choice(["nqs run 9", ESCAPE, 3])
        elif kind == "attribute":
            attributes = file[
                rng.choice(["/", *names, *[n for n in names if n[-4:].isdigit()] * 9])
            ].attrs
            key = rng.choice([*attributes, "energy", "extra"])
            attributes[key] = rng.choice(
                [
                    np.zeros(3),
                    "x",
                    ESCAPE,
                    np.nan,
                    np.zeros(0),
                    b"\xff",
                    1e300,
                    -1,
                    h5py.Empty("f"),
                    True,
                    np.inf,
                ]
            )
        else:
            parent, _, leaf = name.rpartition("/")
            group = file[parent or "/"]
            del group[leaf]
            if kind == "link":
                group[leaf] = rng.choice(
                    [
                        h5py.SoftLink("/nowhere"),
                        h5py.SoftLink(f"/{name}"),
                        h5py.SoftLink("/"),
                        h5py.ExternalLink("/etc/passwd", "/"),
                        h5py.ExternalLink("/dev/zero", "/a"),
                    ]
                )
            elif kind == "other":
                choice = rng.randrange(10)
                if choice == 0:
                    group.create_group(f"{leaf}/{leaf}")
                elif choice == 1:
                    group.create_dataset(
                        leaf, shape=(10**12,), dtype="f8", chunks=(1000,), compression="gzip"
                    )
                else:
                    group[leaf] = [
                        None,
                        None,
                        np.zeros(7),
                        np.zeros((2, 2)),
                        np.zeros(0),
                        np.array(["a", "b"], dtype="S3"),
                        np.full(2, np.nan),
                        3.0,
                        np.zeros(2, dtype=[("a", "f8"), ("b", "i4")]),
                        "text",
                    ][choice]
    return f"hdf5 {kind} {name}"


SPOILERS: dict[str, Callable[[random.Random, Path], str]] = {
    "json": spoil_json,
    "yaml": spoil_yaml,
    "text": spoil_text,
    "csv": spoil_csv,
    "torch": spoil_torch,
    "hdf5": spoil_hdf5,
}


def fresh(template: Path, place: Path) -> None:
    """`place` as the template is."""
    for path in place.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    shutil.copytree(template, place, dirs_exist_ok=True)
