"""Bad command lines without end: every one of them is wrong by the way it is made."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

SMALL = {
    "lattice.Lx": "2",
    "lattice.Ly": "2",
    "model.d_model": "4",
    "model.n_layers": "1",
    "train.steps": "2",
    "train.n_samples": "8",
    "train.eval_samples": "8",
    "run.dir": "made",
}
"""What is not at issue is small, should a line be taken after all."""

Command = tuple[str, list[str]]
"""("train" or "nqs", words)."""

WHOLE = (  # key, lowest, highest
    ("lattice.Lx", 1, 32768),
    ("lattice.Ly", 1, 32768),
    ("model.d_model", 1, 65536),
    ("model.n_layers", 1, 1024),
    ("model.n_heads", 1, 65536),
    ("model.d_ff", 1, 65536),
    ("train.steps", 1, 10**9),
    ("train.n_samples", 2, 10**9),
    ("train.eval_samples", 2, 10**9),
    ("train.checkpoint_every", 1, 10**9),
    ("optimizer.warmup_steps", 0, 10**9),
    ("seed", 0, 2**63 - 1),
)
REAL = (
    "hamiltonian.V",
    "hamiltonian.Rb",
    "hamiltonian.C6",
    "hamiltonian.spacing",
    "hamiltonian.cutoff",
    "optimizer.diagonal_shift",
    "optimizer.max_norm",
    "optimizer.memory_gb",
    "optimizer.final_fraction",
    "optimizer.final_shift_fraction",
    "train.max_seconds",
    "train.flip_fraction",
    "train.flip_radius",
    "train.exact_fraction",
)
PER_SITE = ("hamiltonian.delta", "hamiltonian.Omega")
CHOICES = (
    "model.attention",
    "model.activation",
    "model.positions",
    "model.symmetry",
    "optimizer.schedule",
    "train.exact",
    "train.flip_precision",
    "energies.flip_fraction",
    "energies.flip_precision",
    "energies.flip_radius",
    "device",
    "dtype",
    "optimizer.learning_rate",
    "optimizer.momentum",
    "model.digit_decay",
)
FLAGS = ("model.phase", "model.spin_flip", "optimizer.implicit", "run.resume", "lattice.periodic")
GROUPS = ("lattice", "hamiltonian", "model", "optimizer", "energies")
KEYS = (*(key for key, _, _ in WHOLE), *REAL, *PER_SITE, *CHOICES, *FLAGS, "model.patch")
FOREIGN = (
    "model.cell=gru",
    "model.d_state=4",
    "model.sub_patch=2",
    "model.d_embed=2",
    "model.sub_d_model=4",
    "model.residual=true",
    "optimizer.beta1=0.5",
    "optimizer.eps=1e-8",
    "optimizer.clip_norm=1",
    "hamiltonian.J=1",
    "hamiltonian.h=1",
    "hamiltonian.marshall=true",
    "hamiltonian.file=a.txt",
    "lattice.file=a.csv",
    "launcher.n_jobs=2",
    "scan.dir=a",
)
ABSURD = (
    "1e-300",
    "1e300",
    "-1e300",
    "1e400",
    "-1",
    "nan",
    "-nan",
    "inf",
    "-inf",
    "9" * 5000,
    "1" + "0" * 400,
)
ODD = (
    "{a:1}",
    "{}",
    "{a:{b:1}}",
    "[[[1]]]",
    "[" * 50 + "]" * 50,
    "[" * 3000 + "]" * 3000,
    "[{a:1}]",
    "choice(1)",
    "choice(1,2)",
    "glob(*)",
    "range(1,3)",
    "interval(0,1)",
    "shuffle([1,2])",
    "sort([a,b],reverse=true",
    "tag(a,choice(1))",
    "sweep",
    "${oc.env:HOME}",
    "${now:%Y}",
    "${hydra:runtime.cwd}",
    "${oc.decode:1}",
    "${a",
    "${}",
    "${.Lx}",
    "${nothing}",
    "${model.x}",
    "\\${seed}",
    "'${oc.env:HOME}'",
    "[${oc.env:PATH}]",
    "a=b",
    "'a",
    '"a',
    "[1,2",
    "1,",
    ",",
    "a'b",
    "extend_list(1)",
    "json_str({a:1})",
    "int(a)",
    "float(x)",
)
UNSEEN = (
    "\x1b[31mred",
    "a\x07b",
    "a\nb",
    "a\u202eb",
    "a\rb",
    "a\x00b",
    "a\ud800b",
    "\u200b",
    "\x9b1m",
)


def words(given: Sequence[str]) -> list[str]:
    """SMALL with what is given, in the place of its own keys."""
    keys = {word.partition("=")[0].lstrip("+~") for word in given}
    return [*(f"{key}={value}" for key, value in SMALL.items() if key not in keys), *given]


def wrong_type(rng: random.Random) -> list[str]:
    key = rng.choice([*(key for key, _, _ in WHOLE), *REAL, *FLAGS])
    texts = ["text", "'1'", "[1,a]", "'a b'", "1x", "0x10"]
    if key != "lattice.periodic":
        texts += ["[1,2]", "[]", "[true]"]
    if key not in FLAGS:
        texts += ["true", "off"]
    return [f"{key}={rng.choice(texts)}"]


def out_of_range(rng: random.Random) -> list[str]:
    if rng.random() < 0.5:
        key, low, high = rng.choice(WHOLE)
        above = high * 10 ** rng.randint(1, 30)
        value = rng.choice([low - 1, low - 10 ** rng.randint(1, 25), high + 1, above])
        return [f"{key}={rng.choice([str(value), f'{float(value):.17g}'])}"]
    return [f"{rng.choice([*REAL, *PER_SITE])}={rng.choice([v for v in ABSURD if v != '-1'])}"]


def odd_value(rng: random.Random) -> list[str]:
    key = rng.choice([*KEYS, *GROUPS, "train.start_from", "model.n_up"])
    return [f"{key}={rng.choice([*ODD, *ABSURD[-6:]])}"]


def unseen(rng: random.Random) -> list[str]:
    text, key = rng.choice(UNSEEN), rng.choice([*KEYS, "run.dir", "train.start_from"])
    form = rng.choice(["{key}={text}", "{key}='{text}'", "{text}={key}", "{key}{text}=1"])
    return [form.format(key=key, text=text)]


def misspelt(rng: random.Random) -> list[str]:
    key = rng.choice([*KEYS, *GROUPS])
    place = rng.randrange(len(key))
    key = rng.choice(
        [
            key[:place] + rng.choice("qzQZ_0") + key[place:],
            key + ".x",
            "a." + key,
            key.replace(".", "/") + "/x",
            key.upper() + "x",
            "hydra." + key,
            "hydra/" + key,
            "",
            "é" + key,
            key + " x",
        ]
    )
    return [f"{key}={rng.choice(['1', 'a', 'null', 'true', ''])}"]


def syntax(rng: random.Random) -> list[str]:
    key = rng.choice(KEYS)
    forms = [
        f"+{key}=1",
        f"++{key}=1",
        f"~{key}",
        f"~{key}=1",
        f"{key}@a=1",
        f"{key}@a:b=1",
        key,
        f"{key}:1",
        f"{key}=={rng.choice('ab')}",
        f"={key}",
        "",
        " ",
        "-x",
        "-c",
        f"-{key}=1",
        "@=1",
        "#",
        "train",
        "model@b=ptf",
        "hydra/launcher=basic",
        "-cn",
        "=",
        "==",
        "?",
        "*",
    ]
    return [rng.choice(forms)]


def twice(rng: random.Random) -> list[str]:
    key, value = rng.choice(list(SMALL.items()))
    return [f"{key}={value}", f"{key}={rng.choice([value, '3'])}"]


def circular(rng: random.Random) -> list[str]:
    return rng.choice(
        [
            ["lattice.Lx=${lattice.Ly}", "lattice.Ly=${lattice.Lx}"],
            ["seed=${seed}"],
            ["lattice.Lx=${lattice}"],
            ["lattice=${hamiltonian}"],
            ["seed=${model.name}"],
            ["train.steps=${train.n_samples}x"],
            ["train.steps=${run.dir}"],
        ]
    )


def unknown_option(rng: random.Random) -> list[str]:
    option = rng.choice(GROUPS)
    return [f"{option}={rng.choice(['ptff', 'nothing', 'null', '1', '[ptf]', '../model', 'a/b'])}"]


def foreign(rng: random.Random) -> list[str]:
    return [rng.choice(FOREIGN)]


def too_large(rng: random.Random) -> list[str]:
    return rng.choice(
        [
            ["model.d_model=60000", "model.n_layers=900"],
            ["model.d_model=65536"],
            ["train.n_samples=100000000", "lattice.Lx=6", "lattice.Ly=6"],
            ["train.n_samples=1000000000"],
            ["model.d_ff=65536", "model.n_layers=1000", "model.d_model=64"],
            ["lattice.Lx=32768", "lattice.Ly=32768"],
            ["lattice.Lx=180", "lattice.Ly=180", "train.n_samples=4096"],
            ["lattice.Lx=40", "lattice.Ly=40", "train.exact=true"],
            ["lattice.Lx=6", "lattice.Ly=6", "model.patch=6x6"],
            ["lattice.Lx=6", "lattice.Ly=6", "model.patch=36"],
            ["lattice=chain", "lattice.Lx=32768", "model.patch=1", "train.n_samples=256"],
        ]
    )


def nonsense(rng: random.Random) -> list[str]:
    return rng.choice(
        [
            ["model.patch=9x9"],
            ["model.patch=0"],
            ["model.patch=-1"],
            ["model.patch=1x1x1"],
            ["model.patch=[[0,1],[2,2]]"],
            ["model.patch=[[0,1,2,9]]"],
            ["model.patch=[]"],
            ["model.patch=[[]]"],
            ["model.patch=''"],
            ["model.patch=" + "9" * 4000 + "x2"],
            ["model.n_heads=3"],
            ["model.n_up=2"],
            ["train.start_from=nowhere"],
            ["train.start_from=."],
            ["train.start_from=/dev/null"],
            ["train.start_from=''"],
            ["run.dir=''"],
            ["run.dir=/dev/null"],
            ["run.dir=/proc/x"],
            ["run.dir=" + "a" * 5000],
            ["hamiltonian.V=1", "hamiltonian.Rb=1"],
            ["hamiltonian.delta=[1,2,3]"],
            ["hamiltonian.delta=[]"],
            ["hamiltonian=pauli"],
            ["lattice=positions"],
            ["optimizer.learning_rate=1e-25"],
            ["optimizer.learning_rate=1e-300"],
            ["optimizer.diagonal_shift=1e-10", "optimizer.final_shift_fraction=0.001"],
            ["optimizer.warmup_steps=2"],
            ["train.exact_fraction=0.5"],
            ["device=cuda:0"],
            ["model.symmetry=translations"],
            ["lattice.periodic=[true,true,true]"],
            ["seed=" + "x" * 100_001],
            ["hamiltonian.delta=[" + "1," * 300_000 + "1]"],
            ["run.dir=a/" + "\u00e9" * 300],
            ["model.spin_flip=true"],
        ]
    )


def legacy(rng: random.Random) -> list[str]:
    lines = [
        "--train L=-16 --ptf",
        "--train L=1e300 --ptf",
        "--train L=nan --ptf",
        "--ptf L=x",
        "--train L=16 L=9 --ptf",
        "--train steps=1e30 --ptf",
        "--train K=1e300 Q=1e300 --ptf",
        "--config-dir /tmp",
        "--cfg job",
        "--ptf patch={a:1}",
        "--ptf Nh=[1,2]",
        "--ptf Nh=1,2",
        "--train dir=${oc.env:HOME} --ptf",
        "--rydberg V=nan --ptf",
        "--rydberg V=1e300 --ptf",
        "--rydberg V=7 Omega=inf --ptf",
        "--train seed=-1 --ptf",
        "--train lr=0 --ptf",
        "--train lr=1e-300 --ptf",
        "--train lr=x --ptf",
        "--train --ptf --rnn",
        "--",
        "--=",
        "---",
        "--help-me",
        "--ptf dropout=x",
        "--ptf nhead=0",
        "--train L=0 --ptf",
        "--train B=0 --ptf",
        "--train B=x K=2 --ptf",
        "--train Lx=2 --ptf",
        "--train L=2x2x2 --ptf",
        "L=16 --ptf",
        "--train L=inf --ptf",
        "--multirun=1 --ptf",
        "--rnn rnntype=XYZ",
        "--rnn rnntype={a:1}",
        "--lptf patch=0x0 --rnn L=0",
        "--lptf patch=nan --rnn L=4",
        "--train L=99999x99999 --ptf",
        "--train sub_directory=~x dir=+y --ptf=1",
        "--train L=\u0664x\u0664 --ptf",
        "--train L=" + "9" * 5000 + " --ptf",
        "--train K=" + "9" * 5000 + " --ptf",
        "--version",
        "--ptf num_layers=1e9",
        "--train L=4 dir=\x1b[2J --ptf",
        "--ptf patch=\u202e2x2",
    ]
    return rng.choice(lines).split(" ")


def scan(rng: random.Random) -> list[str]:
    lines = [
        ["seed=1,1"],
        ["seed=range(0,1,0)"],
        ["seed=range(0,1e9)"],
        ["seed=range(1,1)"],
        ["seed=glob(*)"],
        ["seed=interval(0,1)"],
        ["seed=shuffle(1,2)"],
        ["seed=1"],
        [],
        ["seed=1,{a:1}"],
        ["seed=1,nan"],
        ["hamiltonian.delta=1,nan"],
        ["model=ptf,ptff"],
        ["lattice.Lx=2,-1"],
        ["run.dir=a,b"],
        ["scan.warm_start=seed"],
        ["scan.dir=''", "seed=1,2"],
        ["seed=1,2", "scan.warm_start=lattice.Lx"],
        ["seed=1,2", "scan.resume=true"],
        ["seed=1,2", "scan.direction=sideways"],
        ["seed=1,2", "launcher=cloud"],
        ["seed=1,2", "launcher.n_jobs=2"],
        ["seed=1,2", "launcher=joblib", "launcher.n_jobs=0"],
        ["seed=1,2", "launcher=joblib", "launcher.n_jobs=1e30"],
        ["seed=1,2", "scan.warm_steps=0"],
        ["seed=1,2", "scan=x"],
        ["seed=1,2", "scan.nothing=1"],
        ["train.steps=1,2,1e30"],
        ["seed=1,2", "+a=1"],
        ["seed=1,2", "hydra.sweep.dir=a"],
        ["seed=1,\x1b[2J"],
        ["scan.dir=nowhere", "scan.resume=true"],
        ["scan.dir=/dev/null", "seed=1,2"],
        ["hamiltonian.delta=range(0,1e6,1e-3)"],
        ["seed=1,2", "seed=3"],
        ["model.patch=1,17,18,19", "seed=range(0,30)"],
        ["seed=1,2", "lattice.Lx=${oc.env:HOME}"],
        ["seed=1,2", "scan.dir={a:1}"],
        ["seed=choice(1,2),3"],
        ["hamiltonian={a:1},tfim"],
    ]
    return ["-m", *rng.choice(lines)]


NQS = [
    "evaluate",
    "evaluate nothing",
    "evaluate /dev/null",
    "evaluate .",
    "evaluate a b c",
    "evaluate nothing --samples 1",
    "evaluate nothing --samples 1e30",
    "evaluate nothing --samples x",
    "evaluate nothing --seed -1",
    f"evaluate nothing --seed {2**64}",
    "evaluate nothing --nothing",
    "evaluate nothing --subsystem",
    "reweight",
    "reweight nothing",
    "reweight nothing a=1",
    "reweight . hamiltonian.delta=1",
    "reweight nothing --samples=-1 delta=1",
    "plot",
    "plot nothing",
    "plot /dev/null",
    "show",
    "show nothing",
    "show /proc",
    "show -x",
    "show -- -x",
    "show --",
    "shwo",
    "",
    "--nothing",
    "-",
    "collect",
    "collect nothing",
    "collect .",
    "collect /dev/zero",
    "collect nothing --observable x",
    "crystal",
    "crystal nothing",
    "crystal train seed=1 seed=2",
    "crystal train data.train=nothing.csv",
    "crystal train data.train=/dev/zero",
    "crystal train x",
    "crystal train model.core=gru model.core=ssm",
    "crystal train seed=-1",
    "crystal train seed={a: 1}",
    "crystal train train.steps=1e30",
    "crystal train train.steps=[1",
    "crystal train model={a:1}",
    "crystal train model.d_model=1000000",
    "crystal train model.n_layers=1e9",
    "crystal train =1",
    "crystal train optimizer.learning_rate=1e-300",
    "crystal train optimizer.beta1=nan",
    "crystal train --config nothing.yaml",
    "crystal train --config /dev/null",
    "crystal generate",
    "crystal generate nothing",
    "crystal generate nothing n=0",
    "crystal generate nothing n=1e30",
    "crystal generate nothing temperature=nan",
    "crystal generate nothing x=1",
    "crystal evaluate",
    "crystal evaluate nothing",
    "crystal evaluate . x=1",
    "crystal plot",
    "crystal plot nothing",
    "crystal plot . x=1",
    "crystal evaluate /dev/null",
    "crystal train model.core=[[[[[[1]]]]]]",
    "crystal train data.split=[1,nan,0]",
    "crystal train data.split={}",
    "crystal train run.resume=true",
    "crystal train device=tpu",
    "crystal train run.resume=true run.dir=nothing",
    "crystal train data.conditions=[a]",
    "crystal train data.max_atoms=-1",
    "crystal train data.max_atoms=1e300",
    "crystal train seed=*a",
    "crystal train seed=!!python/object:os.system",
    "crystal train seed=&a",
    "crystal train seed=\ta",
    "crystal train 'a b'=1",
    "crystal train seed=2001-01-01",
]


def nqs(rng: random.Random) -> list[str]:
    line = rng.choice(NQS).split(" ")
    kind = rng.random()
    if kind < 0.1:
        line.append("--" + rng.choice(["help2", "\x1b[2J", "samples=", "x" * 500, "\u202e"]))
    elif kind < 0.25 and len(line) > 1 and line[-1] == "nothing":
        line[-1] = rng.choice([*UNSEEN[:4], "a" * 5000, "-a", "a/" * 3000, "\ud800", "''", " "])
    return line


KINDS: tuple[tuple[Callable[[random.Random], list[str]], int], ...] = (
    (wrong_type, 3),
    (out_of_range, 4),
    (odd_value, 6),
    (unseen, 2),
    (misspelt, 3),
    (syntax, 2),
    (twice, 1),
    (circular, 1),
    (unknown_option, 1),
    (foreign, 1),
    (too_large, 1),
    (nonsense, 3),
    (legacy, 3),
    (scan, 3),
    (nqs, 6),
)
"""How lines are made, and how often relative to each other."""


def commands(n: int, seed: int) -> list[Command]:
    """n bad command lines."""
    rng = random.Random(seed)
    kinds = [kind for kind, weight in KINDS for _ in range(weight)]
    made: list[Command] = []
    for _ in range(n):
        kind = rng.choice(kinds)
        given = kind(rng)
        if kind is nqs:
            made.append(("nqs", given))
        elif kind in (legacy, circular):
            made.append(("train", given if kind is legacy else words(given)))
        elif kind is scan:
            made.append(("train", ["-m", *[w for w in words(given[1:]) if w != "run.dir=made"]]))
        else:
            made.append(("train", words(given)))
    return made
