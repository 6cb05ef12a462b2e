"""Every bad input ends before any work: exit code 2, one line with the culprit and what is allowed,
no traceback, no folder made, nothing of an existing run touched."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from nqs.cli.app import main as nqs
from nqs.cli.composition import compose
from nqs.cli.train import load_config
from nqs.conf.sections import flatten
from nqs.ground_states.groups import GROUPS
from nqs.runfolder import digests


def train(arguments: Sequence[str]) -> int:
    """The command line of `nqs train`."""
    return nqs(["train", *arguments])


TINY = [
    "lattice.Lx=2",
    "lattice.Ly=2",
    "model.d_model=4",
    "model.n_layers=1",
    "train.steps=2",
    "train.n_samples=8",
    "train.eval_samples=8",
    "train.checkpoint_every=1",
]

# command line, and what the one line must contain: the culprit and the allowed values or the fix.
CASES = [
    ("model.patch=6x6 lattice.Lx=6 lattice.Ly=6", ["model.patch=6x6", "2^36", "12"]),
    ("model.patch=8x8", ["model.patch=8x8", "larger than the lattice", "4x4"]),
    ("model.patch=17", ["model.patch=17", "16 sites"]),
    ("model.patch=2by2", ["model.patch=2by2", "2x2"]),
    ("model.patch=[[0,1],[1,2]]", ["model.patch=", "exactly once"]),
    ("model.patch=[[0,1],[2,3]]", ["model.patch=", "every site 0..15"]),
    ("model.n_heads=5", ["model.n_heads=5", "d_model=32", "1, 2, 4, 8"]),
    ("model.d_model=0", ["model.d_model=0", ">= 1"]),
    ("model.n_layers=0", ["model.n_layers=0", ">= 1"]),
    ("model.d_ff=-3", ["model.d_ff=-3", ">= 1"]),
    ("model.digit_decay=0", ["model.digit_decay=0", ">= 0.01 and <= 1 or auto or null"]),
    ("model.digit_decay=1.5", ["model.digit_decay=1.5", ">= 0.01 and <= 1 or auto or null"]),
    ("model.digit_decay=some",
     ["model.digit_decay=some", "auto, null, or a number (>= 0.01 and <= 1)"]),
    ("model.positions=rotary", ["model.positions=rotary", "learned, sinusoidal, grid"]),
    ("model=rnn model.cell=gruu", ["model.cell=gruu", "gru, lstm, elman", "did you mean gru?"]),
    ("model=linear_attention model.n_heads=5", ["model.n_heads=5", "d_model=32", "1, 2, 4, 8"]),
    ("model=linear_attention model.d_state=4", ["model.d_state", "unknown key", "linear_att"]),
    ("model=ssm model.d_state=0", ["model.d_state=0", ">= 1"]),
    ("model=ssm model.activation=tanh", ["model.activation=tanh", "gelu, relu, silu"]),
    ("model=ssm model.d_state=null", ["model.d_state=null", "not null"]),
    ("model=ptf model.n_layers=null", ["model.n_layers=null", "not null"]),
    ("model=rnn2d model.d_embed=-1", ["model.d_embed=-1", ">= 1"]),
    ("model=rnn2d model.n_layers=2", ["model.n_layers", "unknown key", "model=rnn2d has"]),
    ("model=rnn2d model.patch=3", ["model.patch=3", "not a grid of patches", "2x2"]),
    ("model=rnn model.n_heads=2", ["model.n_heads", "unknown key", "model=rnn has", "model.cell"]),
    ("model.n_up=8", ["model.n_up=8", "Rydberg(", "does not conserve", "model.n_up=null"]),
    ("hamiltonian=heisenberg model.n_up=17", ["n_up=17", "0..16"]),
    ("hamiltonian=heisenberg model.n_up=-1", ["model.n_up=-1", ">= 0"]),
    ("model.phase=maybe", ["model.phase=maybe", "true or false"]),
    ("train.start_from=nowhere", ["train.start_from=nowhere", "config.yaml"]),
    ("train.grow=maybe", ["train.grow=maybe", "true or false"]),
    ("train.grow=[3]", ["train.grow=[3]", "no size of this lattice", "[4x4,8x8]"]),
    ("train.grow=[4x4,true]", ["train.grow=[4x4,true]", "not [true]"]),
    ("train.grow=[null]", ["train.grow=[null]", "not [null]"]),
    ("train.grow=[[4]]", ["train.grow=[[4]]", "a list, each entry text", "not [[4]]"]),
    ("train.stage_steps=5", ["train.stage_steps=5", "train.grow; give that too"]),
    ("train.stage_steps=0", ["train.stage_steps=0", ">= 1"]),
    ("train.grow=[9x9]", ["train.grow=[9x9]", "does not grow to 4x4"]),
    ("model.dmodel=32", ["model.dmodel", "did you mean model.d_model?"]),
    ("d_model=32", ["d_model", "did you mean model.d_model?"]),
    ("train.step=5", ["train.step", "did you mean train.steps?"]),
    ("train=5", ["train", "train.steps"]),
    ("model=ptff", ["model=ptff", "lptf_ptf", "ssm or MODULE:CLASS", "did you mean ptf?"]),
    ("lattice=cubic", ["lattice=cubic", "chain", "kagome"]),
    ("hamiltonian=hubbard", ["hamiltonian=hubbard", "rydberg", "tfim", "pauli", "xxz"]),
    ("hamiltonian=heisenburg", ["hamiltonian=heisenburg", "did you mean heisenberg?"]),
    ("hamiltonian=heisenberg hamiltonian.Delta=2", ["hamiltonian.Delta", "heisenberg has"]),
    ("hamiltonian=xxz hamiltonian.Delta=nan", ["hamiltonian.Delta=nan", "finite"]),
    ("hamiltonian=xxz hamiltonian.Delta=[1,2]", ["Delta", "one per bond (24)"]),
    ("hamiltonian=j1j2 hamiltonian.J=1", ["hamiltonian.J", "j1j2 has", "hamiltonian.J1"]),
    ("hamiltonian=j1j2 hamiltonian.J2=null", ["hamiltonian.J2=null", "not null"]),
    ("hamiltonian=j1j2 hamiltonian.marshall=maybe", ["hamiltonian.marshall=maybe", "auto, true"]),
    ("hamiltonian=tfim hamiltonian.marshall=true", ["hamiltonian.marshall", "tfim has"]),
    (
        "hamiltonian=heisenberg hamiltonian.marshall=true lattice=kagome",
        ["hamiltonian", "marshall is True", "Kagome", "odd loops"],
    ),
    ("hamiltonian=j1j2 lattice=chain lattice.Lx=2", ["hamiltonian", "Chain(2)", "1 distances"]),
    ("lattice.Lx=-4", ["lattice.Lx=-4", ">= 1"]),
    ("lattice.Lx=4.5", ["lattice.Lx=4.5", "whole number"]),
    ("lattice=chain lattice.Ly=2", ["lattice.Ly", "lattice=chain has", "lattice.Lx"]),
    ("lattice.periodic=yes_please", ["lattice.periodic=yes_please", "true or false"]),
    ("lattice.periodic=[true,false,true]",
     ["lattice", "periodic is (True, False, True)", "[True, False]"]),
    ("lattice=positions", ["lattice.file: missing", "CSV file"]),
    ("lattice=positions lattice.file=none.csv", ["lattice.file='none.csv'", "x,y"]),
    ("lattice=positions lattice.file=header.csv", ["header.csv", "x,y"]),
    ("lattice=positions lattice.file=words.csv", ["words.csv", "line 3"]),
    ("lattice=positions lattice.file=twice.csv", ["lattice", "sites 0 and 1"]),
    ("hamiltonian.V=nan", ["hamiltonian.V=nan", "finite"]),
    ("hamiltonian.delta=inf", ["hamiltonian.delta=inf", "finite"]),
    ("hamiltonian.delta=[1,nan]", ["hamiltonian.delta=[1", "finite"]),
    ("hamiltonian.delta=[1,2,3]", ["delta", "3", "16"]),
    ("hamiltonian.V=seven", ["hamiltonian.V=seven", "number"]),
    ("hamiltonian.V=7 hamiltonian.Rb=1.2", ["hamiltonian", "V=7.0 and Rb=1.2", "only one"]),
    ("hamiltonian.V=7 hamiltonian.C6=5e6", ["hamiltonian", "V=7.0 and C6=5000000.0", "only one"]),
    ("hamiltonian.C6=5e6", ["hamiltonian", "C6=5000000.0", "needs spacing", "um"]),
    ("hamiltonian.C6=-5e6 hamiltonian.spacing=6", ["hamiltonian.C6=-5000000.0", ">= 1e-06"]),
    ("hamiltonian.spacing=6", ["hamiltonian", "spacing=6.0", "with C6"]),
    ("hamiltonian=tfim hamiltonian.C6=5e6", ["hamiltonian.C6", "tfim has", "hamiltonian.J"]),
    ("hamiltonian.Rb=-1", ["hamiltonian.Rb=-1", ">= 1e-05 and <= 100000"]),
    ("hamiltonian.cutoff=0", ["hamiltonian.cutoff=0", ">= 1e-06"]),
    ("hamiltonian=tfim hamiltonian.V=7", ["hamiltonian.V", "tfim has", "hamiltonian.J"]),
    ("hamiltonian=pauli", ["hamiltonian.file: missing", "Pauli strings"]),
    ("hamiltonian=pauli hamiltonian.file=none.txt", ["hamiltonian.file='none.txt'", "Pauli"]),
    ("hamiltonian=pauli hamiltonian.file=malformed.txt", ["malformed.txt", "line 2"]),
    ("hamiltonian=pauli hamiltonian.file=short.txt", ["short.txt", "16"]),
    ("optimizer=sgd", ["optimizer=sgd", "adam"]),
    ("optimizer.learning_rate=0", ["optimizer.learning_rate=0", ">= 1e-30"]),
    ("optimizer.learning_rate=fast",
     ["optimizer.learning_rate=fast", "auto, or a number (>= 1e-30"]),
    ("optimizer=adam optimizer.learning_rate=auto",
     ["optimizer.learning_rate=auto", "a number (>= 1e-10"]),
    ("optimizer=adam optimizer.beta1=1", ["optimizer.beta1=1", "<= 0.999999, or 0"]),
    ("optimizer.beta1=0.5", ["optimizer.beta1", "diagonal_shift"]),
    ("optimizer.momentum=1", ["optimizer.momentum=1", "<= 0.9999, or 0"]),
    ("optimizer.momentum=big", ["optimizer.momentum=big", "auto, or a number"]),
    ("optimizer.diagonal_shift=0", ["optimizer.diagonal_shift=0", ">= 1e-12"]),
    ("optimizer.max_norm=-1", ["optimizer.max_norm=-1", ">= 1e-06"]),
    ("model.symmetry=mirror", ["model.symmetry=mirror", "none, point_group, translations, all"]),
    (
        "hamiltonian=heisenberg model.spin_flip=true model.n_up=1 lattice.Lx=2 lattice.Ly=2",
        ["model.spin_flip=true", "model.n_up=1", "half of 4 sites"],
    ),
    ("model.spin_flip=2", ["model.spin_flip=2", "true or false"]),
    ("model.symmetry=translations", ["model.symmetry=translations", "no periodic", "point_group"]),
    ("model.symmetry=all", ["model.symmetry=all", "no periodic direction"]),
    ("model.spin_flip=true", ["model.spin_flip=true", "not invariant under the spin flip", "Z0"]),
    (
        "model.symmetry=point_group lattice.Lx=1 lattice.Ly=2 hamiltonian.delta=[1,2]",
        ["model.symmetry=point_group", "not invariant under these permutations", "Z0 has", "Z1"],
    ),
    ("model.activation=swish", ["model.activation=swish", "gelu, relu, silu"]),
    ("optimizer.schedule=cosinus", ["optimizer.schedule=cosinus", "linear", "mean cosine?"]),
    ("optimizer.warmup_steps=200", ["optimizer.warmup_steps=200", "train.steps=200"]),
    ("optimizer.final_fraction=2", ["optimizer.final_fraction=2", "<= 1"]),
    ("train.n_samples=0", ["train.n_samples=0", ">= 2"]),
    ("train.steps=-5", ["train.steps=-5", ">= 1"]),
    ("train.steps=many", ["train.steps=many", "whole number"]),
    ("train.max_seconds=0", ["train.max_seconds=0", ">= 0.001"]),
    ("train.eval_samples=1", ["train.eval_samples=1", ">= 2"]),
    ("train.flip_fraction=1", ["energies.flip_fraction=1", "<= 0.99, or 0"]),
    ("train.flip_precision=half", ["energies.flip_precision=half", "full, bfloat16, tf32, auto"]),
    ("train.flip_precision=tf32 device=cpu", ["energies.flip_precision=tf32", "only GPUs"]),
    ("train.flip_precision=bfloat16 dtype=float64",
     ["energies.flip_precision=bfloat16", "full with dtype=float64"]),
    ("train.flip_radius=0", ["energies.flip_radius=0", ">= 0.1"]),
    ("train.flip_radius=1 train.flip_precision=bfloat16",
     ["energies.flip_precision: unknown key", "near_flips has"]),
    ("train.flip_radius=1.5 model=rnn", ["energies.flip_radius=1.5", "model=ptf"]),
    ("train.flip_radius=1.5 model.symmetry=point_group",
     ["energies.flip_radius=1.5", "model.symmetry=none"]),
    ("train.exact_fraction=0.25", ["energies.exact_fraction: unknown key", "energies=blurred has"]),
    ("train.flip_radius=1.5 train.exact_fraction=0",
     ["energies.exact_fraction=0", ">= 0.001 and <= 1"]),
    ("train.exact=maybe", ["train.exact=maybe", "auto, true, false"]),
    ("train.exact=true lattice=chain lattice.Lx=40", ["train.exact=true", "40 sites", "8 GB"]),
    ("dtype=float16", ["dtype=float16", "float32, float64"]),
    ("device=tpu", ["device=tpu", "auto, cpu, cuda"]),
    ("seed=-1", ["seed=-1", ">= 0"]),
    ("energies=nearflips", ["energies=nearflips", "exact", "did you mean near_flips?"]),
    ("hamiltonian=nowhere:X", ["hamiltonian=nowhere:X", "No module named"]),
    ("model=os:X", ["model=os:X", "os has no class X"]),
    ("optimizer=os:PathLike", ["optimizer=os:PathLike", "must be a nqs.vmc.optimizers"]),
    ("lattice=:", ["lattice=:", "write MODULE:CLASS"]),
    # kind 5: unbounded
    ("model.d_model=100000", ["model.d_model=100000", "<= 65536"]),
    ("model.d_model=65536", ["model.d_model=65536", "would take about", "GB"]),
    ("model.d_ff=1e9", ["model.d_ff=1000000000", "<= 65536"]),
    ("model.n_layers=1e9", ["model.n_layers=1000000000", "<= 1024"]),
    ("train.n_samples=1e12", ["train.n_samples=1000000000000", "<= 1e+09"]),
    ("train.n_samples=1e9", ["train.n_samples=1000000000", "a step would take about", "GB"]),
    ("train.eval_samples=1e15", ["train.eval_samples=1000000000000000", "<= 1e+09"]),
    ("train.steps=1e30", ["train.steps=1e+30", "<= 1e+09"]),
    ("train.checkpoint_every=1e30", ["train.checkpoint_every=", "<= 1e+09"]),
    ("lattice.Lx=40 train.exact=true", ["train.exact=true", "160 sites", "2^160 config"]),
    ("lattice.Lx=40 lattice.Ly=40 train.exact=true", ["train.exact=true", "2^1600 config"]),
    ("lattice.Lx=1e9", ["lattice.Lx=1000000000", "<= 32768"]),
    ("lattice.Lx=3e4 lattice.Ly=3e4", ["lattice", "Lx=30000 Ly=30000", "900000000 sites"]),
    ("lattice=kagome lattice.Lx=2e4 lattice.Ly=1", ["lattice", "Lx=20000", "60000 sites"]),
    ("optimizer.memory_gb=1e9", ["optimizer.memory_gb=1000000000.0", "<= 100000"]),
    ("seed=1e30", ["seed=1000000000000000019884624838656", "< 2^63"]),
    ("optimizer.warmup_steps=1e30", ["optimizer.warmup_steps=", "<= 1e+09"]),
    ("hamiltonian.V=1e300", ["hamiltonian.V=1e+300", "<= 1e+30, or 0"]),
    # kind 5: accepted though meaningless
    ("train.steps=4 train.steps=5", ["train.steps=4 and train.steps=5", "twice"]),
    ("model=ptf model=rnn", ["model=ptf and model=rnn", "twice"]),
    ("hamiltonian.cutoff=0.5", ["cutoff is 0.5", "no pair", "smallest distance is 1"]),
    ("optimizer.max_norm=1e-300", ["optimizer.max_norm=1e-300", ">= 1e-06"]),
    ("optimizer.diagonal_shift=1e-300", ["optimizer.diagonal_shift=1e-300", ">= 1e-12"]),
    ("optimizer.final_shift_fraction=1e-300", ["final_shift_fraction=1e-300", ">= 1e-09"]),
    (
        "optimizer.diagonal_shift=1e-8 optimizer.final_shift_fraction=1e-6",
        ["final_shift_fraction=1e-06", "times diagonal_shift=1e-08 must be >= 1e-12"],
    ),
    ("optimizer.learning_rate=1e-300", ["optimizer.learning_rate=1e-300", ">= 1e-30"]),
    ("optimizer.learning_rate=1e-20", ["optimizer.learning_rate=1e-20", "changes nothing", "0.2"]),
    ("optimizer.momentum=1e-300", ["optimizer.momentum=1e-300", ">= 1e-06", "or 0"]),
    ("optimizer=adam optimizer.eps=1e300", ["optimizer.eps=1e+300", "<= 1e+30"]),
    ("optimizer=adam optimizer.learning_rate=1e-20", ["learning_rate=1e-20", ">= 1e-10"]),
    ("train.flip_fraction=1e-300", ["energies.flip_fraction=1e-300", ">= 0.001"]),
    ("hamiltonian.V=1e-300", ["hamiltonian.V=1e-300", ">= 1e-30"]),
    ("hamiltonian.delta=[0,0,1e-300]", ["hamiltonian.delta=", ">= 1e-30"]),
    ("train.exact='true'", ["train.exact=true", "must be one of auto, true, false"]),
    # Hydra's grammar
    ("seed=shuffle([1,2])", ["seed=shuffle([1,2])", "the same every time"]),
    ("seed=choice(1)", ["seed=choice(1)", "needs -m"]),
    ("seed=glob(*)", ["seed=glob(*)", "needs -m"]),
    ("seed@run=1", ["seed@run=1", "packages (@) mean nothing"]),
    ("hydra.run.dir=x", ["hydra.run.dir", "unknown key"]),
    ("--config-dir=/tmp", ["--config-dir=/tmp", "unknown"]),
    ("--cfg job", ["--cfg", "unknown"]),
    ("seed=", ["seed=", "whole number"]),
    ("=1", ["unknown key"]),
    ("hamiltonian.delta=[[1]]", ["hamiltonian.delta=[[1]]", "number"]),
    ("hamiltonian.delta=[[[1]]]", ["hamiltonian.delta=[[[1]]]", "lists in lists of lists"]),
    ("run.dir=${oc.env:HOME}", ["run.dir=${oc.env:HOME}", "only ${KEY} of another key"]),
    ("run.dir=${now:%Y}", ["run.dir=${now:%Y}", "only ${KEY} of another key"]),
    ("run.dir=\\${seed}", ["only ${KEY} of another key"]),
    ("seed=${lattice.Lz}", ["seed=${lattice.Lz}", "lattice.Lz: unknown key", "lattice.L"]),
    ("seed=${seed}", ["seed=${seed}", "seed refers to another key itself"]),
    (
        "lattice.Lx=${lattice.Ly} lattice.Ly=${lattice.Lx}",
        ["lattice.Lx=${lattice.Ly}", "lattice.Ly refers to another key itself"],
    ),
    ("seed=${run.dir}", ["seed=null", "whole number"]),
    ("seed=${lattice}", ["seed=${lattice}", "lattice: unknown key"]),
    ("train.steps", ["train.steps", "key=value"]),
    ("train.steps=[1,2", ["train.steps=[1,2", "key=value"]),
    ("+train.steps=4", ["+train.steps=4", "key=value"]),
    ("~train.steps", ["~train.steps", "key=value"]),
    ("train.steps=1,2", ["train.steps=1,2", "key=value"]),
    ("lattice.name=chain", ["lattice.name", "lattice=chain|"]),
    ("run.resume=true", ["run.resume=true", "run.dir=PATH"]),
    ("run.resume=true run.dir=nothing_here", ["nothing_here: holds no run", "config.yaml"]),
    ("run.dir=full_folder", ["run.dir=full_folder", "another"]),
    ("run.dir=header.csv/run", ["run.dir=header.csv/run", "cannot be written"]),
    ("--lptf patch=2x2", ["choose one sub-sampler", "--lptf ... --rnn"]),
    ("--lptf --rnn --ptf", ["choose one sub-sampler", "--lptf ... --ptf"]),
    ("--lptf patch=2x4 --rnn L=9 patch=2", ["--rnn L=9", "--lptf patch=2x4"]),
    ("--lptf Nh=32 --rnn Nh=16", ["--rnn Nh=16", "--lptf Nh=32"]),
    ("--lptf patch=2x2 --ptf patch=3x3", ["model.sub_patch=3x3", "larger than patch"]),
    ("--lptf --ptf nhead=3 Nh=32", ["model.sub_n_heads=3", "sub_d_model=32", "1, 2, 4"]),
    ("model=lptf model.patch=2x2 model.sub_patch=2x3",
     ["model.patch=2x2, model.sub_patch=2x3", "sub_patch='2x3' is larger than patch='2x2'"]),
    ("model=lptf model.patch=4x4 model.sub_patch=4x4", ["model.sub_patch=4x4", "2^16", "12"]),
    ("model=lptf model.sub_patch=null", ["model.sub_patch=null", "not null"]),
    ("model=lptf model.sub_cell=gruu", ["model.sub_cell=gruu", "gru, lstm, elman"]),
    ("model=lptf model.sub_d_model=0", ["model.sub_d_model=0", ">= 1"]),
    ("model=lptf model.cell=gru", ["model.cell", "model=lptf has", "model.sub_cell"]),
    ("model=lptf_ptf model.sub_cell=gru", ["model.sub_cell", "lptf_ptf has", "sub_n_heads"]),
    ("--trian L=16 --ptf", ["--trian", "--train", "did you mean train?"]),
    ("--train L=12 --ptf", ["L=12", "not a square", "L=3x4"]),
    ("--train L=16 stepz=4 --ptf", ["stepz", "steps"]),
    ("--train L=16", ["--ptf", "--rnn"]),
    ("--train L=16 K=8 Q=2 B=8 --ptf", ["B=8", "16"]),
    ("--train L=16 Lx=3 Ly=4 --ptf", ["L=16", "3x4"]),
    ("--train L=16 L=9 --ptf", ["L=16 and L=9", "once"]),
    ("--train L=16 --ptf L=9", ["L=16 and L=9", "once"]),
    ("--train steps=1e30 --ptf", ["train.steps=", "<= 1e+09"]),
    ("--train L=1e300 --ptf", ["L=1e300", "not a square"]),
    ("--train L=inf --ptf", ["L=inf", "whole number"]),
    ("--train K=1e9 Q=1e9 --ptf", ["train.n_samples=", "<= 1e+09"]),
    ("--ptf Nh={a:1}", ["model.d_model={a:1}", "a mapping"]),
    ("--rydberg V=1e300 --ptf", ["hamiltonian.V=1e+300", "<= 1e+30"]),
    ("--ptf nhead=3 Nh=32", ["model.n_heads=3", "d_model=32", "1, 2, 4"]),
]  # fmt: skip

FILES = {
    "header.csv": "a,b\n0,0\n1,0\n",
    "words.csv": "x,y\n0,0\n1,north\n",
    "twice.csv": "x,y\n0,0\n0,0\n",
    "malformed.txt": "1.0 ZZIIIIIIIIIIIIII\nthis is no Pauli string\n",
    "short.txt": "1.0 ZZZ\n",
    "full_folder/letter.txt": "somebody's own file\n",
}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the bad files, as the working directory."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run; copy it before doing anything to it."""
    path = tmp_path_factory.mktemp("bad_input") / "run"
    assert train([*TINY, f"run.dir={path}"]) == 0
    return path


def refused(
    main: Callable[[list[str]], int],
    arguments: list[str],
    expected: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """main refuses with one line that contains what is expected, and changes no file."""
    capsys.readouterr()
    before = contents(Path.cwd())
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and error.endswith("\n"), error
    for text in expected:
        assert text in error
    assert "Traceback" not in error
    assert len(error) <= 401 and error[:-1].isprintable()
    assert contents(Path.cwd()) == before


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_at_least_thirty_cases() -> None:
    assert len(CASES) >= 30 and len({command for command, _ in CASES}) == len(CASES)


@pytest.mark.parametrize(("command", "expected"), CASES, ids=[command for command, _ in CASES])
def test_one_line(
    command: str, expected: list[str], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(train, command.split(), expected, capsys)


def keys() -> list[str]:
    """Every key of the default configuration, and the groups."""
    mapping, _ = compose([])
    return [key for key in flatten(mapping) if not key.endswith(".name")] + list(GROUPS)


@pytest.mark.parametrize("value", ["{a:1}", "{}", "[{a:1}]", "[[[[1]]]]", "'\x1b[31m'", "'a\nb'"])
def test_values_that_no_key_has(
    value: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """KEY={a:1} was a KeyError."""
    for key in keys():
        refused(train, [f"{key}={value}"], [f"{key}="], capsys)


@pytest.mark.parametrize(
    "word",
    [
        "seed=" + "1" * 5000,
        "seed=" + "[" * 5000 + "]" * 5000,
        "seed=" + "x" * 1_000_000,
        "hamiltonian.delta=[" + "1," * 500_000 + "1]",
        "x" * 1_000_000,
        "model.patch=" + "9" * 4000 + "x2",
        "run.dir=" + "d" * 5000,
        "train.start_from=" + "d/" * 5000,
        "s\u00e9ed=1",
        "seed\x00=1",
        "run.dir='\ud800'",
        "run.dir='a\u00a0b'",
    ],
    ids=lambda word: f"{word[:12]!a}, {len(word)}",
)
def test_long_and_strange_words(
    word: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(train, [word], [], capsys)


def test_another_key_s_value(workplace: Path) -> None:
    """The one kind of interpolation there is."""
    words = ["lattice.Lx=3", "lattice.Ly=${lattice.Lx}", "run.dir=runs/${seed}-${model.name}"]
    config = load_config(words)
    assert config.lattice.Ly == 3 and config.run.dir == "runs/0-ptf"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(train, ["device=cuda"], ["device=cuda", "device=cpu"], capsys)


def rename_a_parameter(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["model"]["renamed"] = content["model"].popitem()[1]
    buffer = io.BytesIO()
    torch.save(content, buffer)
    checkpoint.write_bytes(digests.sealed(buffer.getvalue()))


# what is done to a finished run, the command line, what the line must contain
DAMAGE: dict[str, tuple[Callable[[Path], object], str, list[str]]] = {
    "dir holds a run": (lambda run: None, "run.dir=run", ["run.dir=run", "run.resume=true"]),
    "changed width": (
        lambda run: None,
        "run.dir=run run.resume=true model.d_model=8",
        ["model.d_model=8", "has 4", "start a new run"],
    ),
    "changed coupling": (
        lambda run: None,
        "run.dir=run run.resume=true hamiltonian.delta=2",
        ["hamiltonian.delta=2", "has 1", "start a new run"],
    ),
    "changed Hamiltonian": (
        lambda run: None,
        "run.dir=run run.resume=true hamiltonian=tfim",
        ["hamiltonian.name=tfim", "has rydberg"],
    ),
    "changed lattice": (
        lambda run: None,
        "run.dir=run run.resume=true lattice.Lx=3",
        ["lattice.Lx=3", "has 2"],
    ),
    "no configuration": (
        lambda run: (run / "config.yaml").unlink(),
        "run.dir=run run.resume=true",
        ["run: holds no run", "config.yaml"],
    ),
    "configuration of another program": (
        lambda run: (run / "config.yaml").write_text("lattice: 3\n"),
        "run.dir=run run.resume=true",
        ["lattice=3", "mapping"],
    ),
    "both checkpoints truncated": (
        lambda run: [p.write_bytes(p.read_bytes()[:500]) for p in run.glob("checkpoints/*")],
        "run.dir=run run.resume=true",
        ["checkpoints", "no readable checkpoint", "step-000000002.pt"],
    ),
    "foreign checkpoint": (
        lambda run: torch.save({"weights": torch.ones(3)}, run / "checkpoints/step-000000002.pt"),
        "run.dir=run run.resume=true",
        ["step-000000002.pt", "not a checkpoint of this program"],
    ),
    "checkpoint of another version": (
        lambda run: rename_a_parameter(run / "checkpoints/step-000000002.pt"),
        "run.dir=run run.resume=true",
        ["step 2", "do not fit this version's model", "environment.json", "renamed"],
    ),
    "unreadable history": (
        lambda run: (run / "run.h5").write_bytes(b"not HDF5"),
        "run.dir=run run.resume=true",
        ["run.h5", "not a readable run.h5"],
    ),
    "history that ends too early": (
        lambda run: (run / "run.h5").unlink(),
        "run.dir=run run.resume=true",
        ["run.h5: missing", "step 2"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_existing_run(
    damage: str, workplace: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished_run, workplace / "run")
    change, command, expected = DAMAGE[damage]
    change(workplace / "run")
    refused(train, command.split(), expected, capsys)


def test_checkpoint_of_another_run(
    workplace: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished_run, workplace / "run")
    assert train([*TINY, "hamiltonian.delta=2", "run.dir=other"]) == 0
    for checkpoint in (workplace / "other/checkpoints").iterdir():
        shutil.copy(checkpoint, workplace / "run/checkpoints" / checkpoint.name)
    expected = ["step-000000002.pt", "another run", "hamiltonian.delta=2"]
    refused(train, ["run.dir=run", "run.resume=true"], expected, capsys)


NQS_CASES = [
    ("evaluate nothing_here", ["nothing_here: holds no run"]),
    ("evaluate run --samples 1", ["--samples=1", ">= 2"]),
    ("evaluate run --samples many", ["--samples", "integer"]),
    ("evaluate run --samples 1000000000000", ["--samples=1000000000000", "<= 1000000000"]),
    ("evaluate run --samples 1e30", ["--samples", "integer"]),
    ("evaluate run/config.yaml", ["run/config.yaml"]),
    ("evaluate -x", ["-x"]),
    ("evaluate -- -x", ["-x"]),
    ("reweight run delta=1 --samples 1000000000", ["--samples=1000000000", "<= 10000000"]),
    ("reweight run delta=1 --lanczos-samples 1000000000", ["--lanczos-samples=", "<= 10000000"]),
    ("evaluate run --seed -1", ["--seed=-1", ">= 0"]),
    ("evaluate run --sampels 10", ["--sampels", "--samples"]),
    ("evaluate run --subsystem 0,x", ["--subsystem=0,x", "0,1,2"]),
    ("evaluate run --subsystem 0 --subsystem 1,9", ["--subsystem=1,9", "site 9"]),
    ("evaluate", ["RUN"]),
    ("show nothing_here", ["nothing_here/summary.json", "summary"]),
    ("plot nothing_here", ["nothing_here/summary.json", "summary"]),
    ("shwo run", ["shwo"]),
]


@pytest.mark.parametrize(("command", "expected"), NQS_CASES, ids=[c for c, _ in NQS_CASES])
def test_nqs(
    command: str,
    expected: list[str],
    workplace: Path,
    finished_run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(finished_run, workplace / "run")
    refused(nqs, command.split(), expected, capsys)
