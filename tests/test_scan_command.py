"""`python train.py -m`: grids, warm starts, faults, resuming, launchers."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nqs.cli.app import main as nqs
from nqs.runfolder import resumable_run
from nqs.runfolder.progress import Record
from nqs.runfolder.resumable_run import check_finite
from nqs.scans import folder as scan_folder
from nqs.scans import run as scans

ROOT = Path(__file__).resolve().parents[1]


def train(arguments: Sequence[str]) -> int:
    """The command line of `nqs train`."""
    return nqs(["train", *arguments])


TINY = [
    "lattice=chain",
    "lattice.Lx=3",
    "model.d_model=4",
    "model.n_heads=1",
    "model.n_layers=1",
    "train.steps=8",
    "train.n_samples=8",
    "train.eval_samples=32",
    "train.checkpoint_every=1",
]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def scan(*words: str) -> int:
    """A scan of points that are far too short to be good: doubtful ones are not run again."""
    default = [] if any(word.startswith("scan.repeat") for word in words) else ["scan.repeat=false"]
    return train(["-m", *tiny(*default, *words)])


def tiny(*words: str) -> list[str]:
    """TINY with what `words` say instead."""
    given = {word.partition("=")[0] for word in words}
    return [*(word for word in TINY if word.partition("=")[0] not in given), *words]


def result(point: str, folder: str = "scan") -> dict[str, Any]:
    return json.loads((Path(folder) / point / "summary.json").read_text())


def config(point: str) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((Path("scan") / point / "config.yaml").read_text())


def names(folder: str = "scan") -> list[str]:
    return [point.name for point in scan_folder.read(Path(folder)).points]


def parameters(point: str) -> dict[str, torch.Tensor]:
    newest = max((Path("scan") / point / "checkpoints").iterdir())
    return torch.load(newest, weights_only=True)["model"]


def numbers(folder: str) -> dict[str, Any]:
    kept = ("energy", "energy_error", "variance", "steps", "observables")
    return {name: [result(name, folder)[key] for key in kept] for name in names(folder)}


def test_a_grid_of_keys_and_groups(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["hamiltonian.delta=range(0,0.3,0.1)", "model=ptf,linear_attention", "train.steps=1"]
    assert scan(*words, "scan.dir=scan") == 0
    expected = [f"hamiltonian.delta={d},model={m}"
                for d in ("0", "0.1", "0.2") for m in ("ptf", "linear_attention")]  # fmt: skip
    assert names() == expected
    for name in expected:
        assert result(name)["status"] == "finished"
    assert config(expected[3])["model"]["name"] == "linear_attention"
    assert config(expected[3])["hamiltonian"]["delta"] == 0.1
    assert config(expected[3])["lattice"]["Lx"] == 3
    assert train(tiny("hamiltonian.delta=0.1", "train.steps=1", "run.dir=alone")) == 0
    assert result("alone", ".")["energy"] == result("hamiltonian.delta=0.1,model=ptf")["energy"]
    text = capsys.readouterr().out
    assert "[6/6] hamiltonian.delta=0.2,model=linear_attention  E = " in text
    assert "6 of 6 points finished" in text


def test_keys_that_follow_a_scanned_one() -> None:
    """faults.md, kind 1, "The sum of a scan over sizes"."""
    arguments = [word for word in TINY if not word.startswith("lattice")]
    arguments = [word for word in arguments if not word.startswith("train.steps")]
    words = ["lattice.Lx=1,2,3", "lattice.Ly=${lattice.Lx}", "train.steps=${lattice.Lx}"]
    assert train(["-m", *arguments, *words, "scan.dir=scan", "scan.repeat=false"]) == 0
    for length in (1, 2, 3):
        name = f"lattice.Lx={length}"
        assert config(name)["lattice"]["Ly"] == length
        assert result(name)["n_sites"] == length**2 and result(name)["steps"] == length
    stored = scan_folder.read(Path("scan")).points[2].config
    assert stored["lattice"]["Ly"] == 3 and "${" not in json.dumps(stored)


def test_tied_keys_advance_together() -> None:
    arguments = [word for word in TINY if not word.startswith(("lattice", "train.steps"))]
    words = ["lattice.Lx=1,2,2", "seed=4,5", "lattice.Ly=2,2,1", "train.steps=1"]
    zipped = "scan.zip=[lattice.Lx,lattice.Ly]"
    words += ["scan.repeat=false", "scan.dir=scan"]
    assert train(["-m", *arguments, *words, zipped]) == 0
    assert names() == [
        f"lattice.Lx={x},seed={seed},lattice.Ly={y}"
        for x, y in ((1, 2), (2, 2), (2, 1))
        for seed in (4, 5)
    ]
    assert [result(name)["n_sites"] for name in names()] == [2, 2, 4, 4, 2, 2]
    assert [config(name)["lattice"]["Ly"] for name in names()] == [2, 2, 2, 2, 1, 1]
    os.unlink("scan/lattice.Lx=2,seed=5,lattice.Ly=2/summary.json")
    assert train(["-m", "scan.dir=scan", "scan.resume=true"]) == 0
    assert result("lattice.Lx=2,seed=5,lattice.Ly=2")["status"] == "finished"


def test_warm_starts_along_tied_keys() -> None:
    along = "hamiltonian.Omega"  # its points are numbered by the other
    words = ["hamiltonian.delta=0,0.5,1", "hamiltonian.Omega=1,1,2", "seed=1,2"]
    tied = "scan.zip=[hamiltonian.Omega,hamiltonian.delta]"
    assert scan(*words, tied, f"scan.warm_start={along}", "scan.dir=scan") == 0
    chains = [[point.name for point in chain] for chain in scan_folder.read(Path("scan")).chains]
    assert chains == [
        [f"hamiltonian.delta={d},hamiltonian.Omega={o},seed={seed}"
         for d, o in ((0, 1), (0.5, 1), (1, 2))]
        for seed in (1, 2)
    ]  # fmt: skip
    assert config(chains[1][2])["train"]["start_from"] == f"scan/{chains[1][1]}"


def test_values_that_no_folder_can_hold() -> None:
    (Path("a")).mkdir()
    for name in ("a/b.csv", "a_b.csv"):
        Path(name).write_text("x,y\n0,0\n1,0\n")
    words = ["lattice=positions", "lattice.file=a/b.csv,a_b.csv"]
    arguments = [word for word in tiny("train.steps=1") if not word.startswith("lattice")]
    assert train(["-m", *arguments, *words]) == 0
    assert names("scans/001") == ["lattice.file=a_b.csv", "lattice.file=a_b.csv~2"]


def test_warm_starts_both_ways() -> None:
    words = ["hamiltonian.delta=0,0.5", "seed=1,2", "scan.warm_start=hamiltonian.delta"]
    assert scan(*words, "scan.direction=both", "scan.dir=scan") == 0
    assert [len(chain) for chain in scan_folder.read(Path("scan")).chains] == [2] * 4
    cold = "hamiltonian.delta=0.5,seed=2,backward"
    warm = "hamiltonian.delta=0,seed=2,backward"
    assert result(cold)["steps"] == 8 and result(warm)["steps"] == 2
    assert config(warm)["train"]["start_from"] == f"scan/{cold}"
    start = torch.load(Path("scan") / warm / "inputs/start.pt", weights_only=True)["model"]
    source = {key.removeprefix("base."): value for key, value in parameters(cold).items()}
    assert all(torch.equal(start[key], value) for key, value in source.items())
    assert train([*TINY, "hamiltonian.delta=0.5", "seed=2", "run.dir=alone"]) == 0
    assert result("alone", ".")["energy"] == result(cold)["energy"]


def test_a_failed_point_loses_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [True]

    def poisoned(record: Record, names: Sequence[str]) -> None:
        if broken and record["step"] == 2 and os.environ["DELTA"] == "0.5":
            raise FloatingPointError("the energy of step 2 is not finite")
        check_finite(record, names)

    monkeypatch.setattr(resumable_run, "check_finite", poisoned)
    run = scans.run

    def watched(config: Any, command: Any) -> int:
        monkeypatch.setenv("DELTA", str(config.hamiltonian.delta))
        return run(config, command)

    monkeypatch.setattr(scans, "run", watched)
    words = ["hamiltonian.delta=0,0.5,1", "scan.warm_start=hamiltonian.delta", "scan.dir=scan"]
    assert scan(*words) == 1
    streams = capsys.readouterr()
    assert streams.err.startswith("failed: hamiltonian.delta=0.5: the energy of step 2 is not")
    assert streams.err.count("\n") == 1
    assert "hamiltonian.delta=1 starts from hamiltonian.delta=0, for" in streams.out
    assert "2 of 3 points finished" in streams.out and "scan.resume=true" in streams.out
    assert config("hamiltonian.delta=1")["train"]["start_from"] == "scan/hamiltonian.delta=0"
    broken.clear()
    assert train(["-m", "scan.dir=scan", "scan.resume=true"]) == 0
    assert result("hamiltonian.delta=0.5")["steps"] == 2


def test_without_a_finished_predecessor_a_point_starts_cold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = scans.run

    def broken(config: Any, command: Any) -> int:
        if config.hamiltonian.delta == 0:
            raise RuntimeError("out of memory")
        return run(config, command)

    monkeypatch.setattr(scans, "run", broken)
    words = ["hamiltonian.delta=0,0.5", "scan.warm_start=hamiltonian.delta", "scan.dir=scan"]
    assert scan(*words) == 1
    streams = capsys.readouterr()
    assert "failed: hamiltonian.delta=0: RuntimeError: out of memory" in streams.err
    assert "hamiltonian.delta=0.5 starts from its product state" in streams.out
    assert result("hamiltonian.delta=0.5")["steps"] == 8


@contextlib.contextmanager
def one_thread_in(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads sum in another order."""
    patch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with one_thread_in(monkeypatch):
        yield


GRID = ["hamiltonian.delta=0,0.5,1", "scan.warm_start=hamiltonian.delta", "scan.warm_steps=40"]
HALF_WAY = "hamiltonian.delta=0.5"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The numbers of GRID, uninterrupted."""
    with pytest.MonkeyPatch.context() as patch, one_thread_in(patch):
        patch.chdir(tmp_path_factory.mktemp("grid"))
        assert scan(*GRID, "scan.dir=whole") == 0
        return numbers("whole")


def test_killed_half_way_and_resumed(whole: dict[str, Any], one_thread: None) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "train.py"),
            "-m",
            *tiny(*GRID, "scan.dir=scan", "scan.repeat=false"),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    reached = Path("scan") / HALF_WAY / "checkpoints/step-000000005.pt"
    deadline = time.monotonic() + 120
    while not reached.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.wait(timeout=60)
    assert not (Path("scan") / HALF_WAY / "summary.json").exists()
    before = os.stat("scan/hamiltonian.delta=0/summary.json").st_mtime_ns
    assert train(["-m", "scan.dir=scan", "scan.resume=true"]) == 0
    assert os.stat("scan/hamiltonian.delta=0/summary.json").st_mtime_ns == before
    assert numbers("scan") == whole


@pytest.mark.parametrize("where", ["in a step", "while it is built"])
def test_a_signal_stops_the_scan(
    where: str,
    whole: dict[str, Any],
    one_thread: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    handlers = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        run = scans.run

        def stopped_in_a_step(record: Record, names: Sequence[str]) -> None:
            check_finite(record, names)
            if record["step"] == 5 and (Path("scan") / HALF_WAY).exists():
                signal.raise_signal(signal.SIGTERM)

        def stopped_before(config: Any, command: Any) -> int:
            if config.hamiltonian.delta == 0.5:
                signal.raise_signal(signal.SIGTERM)
            return run(config, command)

        if where == "in a step":
            patch.setattr(resumable_run, "check_finite", stopped_in_a_step)
        else:
            patch.setattr(scans, "run", stopped_before)
        assert scan(*GRID, "scan.dir=scan") == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == handlers
    output = capsys.readouterr().out
    assert "1 of 3 points finished" in output
    assert "resume with: nqs train -m scan.dir=scan scan.resume=true" in output
    assert (Path("scan") / HALF_WAY).exists() == (where == "in a step")
    assert train(["-m", "scan.dir=scan", "scan.resume=true"]) == 0
    assert numbers("scan") == whole


LAUNCHERS = {
    "joblib": ["launcher=joblib", "launcher.n_jobs=2"],
    "submitit": ["launcher=submitit", "launcher.cluster=local"],
}


@pytest.mark.parametrize(
    ("launcher", "repeat", "seeds"),
    [
        ("joblib", "false", "0,1"),
        pytest.param("submitit", "true", "0", marks=pytest.mark.slow),
    ],
)
def test_launchers_give_the_same_numbers(
    launcher: str, repeat: str, seeds: str, one_thread: None
) -> None:
    """The launching process is a fresh one: submitit forks, which this one must not once another
    test has imported JAX."""
    pytest.importorskip(launcher)
    grid = ["hamiltonian.delta=0,0.5", f"seed={seeds}", "scan.warm_start=hamiltonian.delta"]
    n_points = 2 * len(seeds.split(","))
    assert scan(*grid, "scan.dir=here", f"scan.repeat={repeat}") == 0
    words = tiny(*grid, "scan.dir=there", f"scan.repeat={repeat}", *LAUNCHERS[launcher])
    command = [sys.executable, str(ROOT / "train.py"), "-m", *words]
    launched = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert launched.returncode == 0, launched.stderr
    output = launched.stdout
    assert output.count("E = ") >= n_points
    assert f"{n_points} of {n_points} points finished" in output
    assert numbers("there") == numbers("here")
    folders = [{path.name for path in Path(name).glob("*=*")} for name in ("here", "there")]
    assert folders[0] == folders[1]
    assert any("~" in name for name in folders[0]) == (repeat == "true")


REFUSED = [
    ("seed=1", ["-m", "several values"]),
    ("seed=0,1 scan.warm_start=hamiltonian.delta", ["scan.warm_start=hamiltonian.delta", "seed"]),
    ("seed=0,1 scan.direction=both", ["scan.direction=both", "scan.warm_start"]),
    ("seed=0,1 scan.warm_steps=5", ["scan.warm_steps=5", "scan.warm_start"]),
    ("seed=0,1 scan.warm_start=seed scan.warm_steps=0", ["scan.warm_steps=0", ">= 1"]),
    ("seed=0,1 scan.direction=sideways", ["scan.direction=sideways", "forward, backward, both"]),
    ("seed=0,1 scan.dri=a", ["scan.dri", "did you mean scan.dir?"]),
    ("seed=0,1 run.dir=a", ["run.dir=a", "scan.dir"]),
    ("seed=0,1 run.resume=true", ["run.resume=true", "scan.dir"]),
    ("seed=0,1 seed=2", ["seed=0,1", "twice"]),
    ("seed=1,2,1", ["seed=1,2,1", "1 comes twice"]),
    ("seed=0,1 scan.dir=a,b", ["scan.dir=a,b", "one value"]),
    ("hamiltonian.delta=interval(0,1)", ["hamiltonian.delta=interval(0,1)", "range(start"]),
    ("hamiltonian.delta=range(0,1,0)", ["hamiltonian.delta=range(0,1,0)", "not be zero"]),
    ("hamiltonian.delta=range(1,0)", ["hamiltonian.delta=range(1,0)", "no value"]),
    ("hamiltonian.dleta=0,1", ["hamiltonian.dleta", "did you mean hamiltonian.delta?"]),
    ("model=ptf,ptff", ["model=ptff", "did you mean ptf?"]),
    ("seed=0,1 launcher=slurm", ["launcher=slurm", "sequential, joblib, submitit"]),
    ("seed=0,1 launcher.n_jobs=2", ["launcher.n_jobs", "unknown key"]),
    ("seed=0,1 launcher=joblib launcher.n_jobs=0", ["launcher.n_jobs=0", ">= 1"]),
    ("seed=0,1 launcher=submitit launcher.gpus=2", ["launcher.gpus=2", "one of 0, 1"]),
    ("seed=0,1 scan.resume=true", ["scan.resume=true", "scan.dir=PATH"]),
    ("seed=0,1 scan.dir=none scan.resume=true", ["none", "no scan"]),
    ("seed=0,1 scan.dir=a_${seed}", ["scan.dir=a_${seed}", "cannot follow"]),
    ("seed=0,1 launcher=joblib launcher.n_jobs=${seed}", ["n_jobs=${seed}", "cannot follow"]),
    ("seed=0,1 train.steps=${nothing}", ["nothing", "unknown key"]),
    ("seed=0,1 train.steps=${train.n_samples} train.n_samples=${train.steps}", ["itself"]),
    ("seed=${train.steps},1", ["seed=${train.steps},1", "scan.zip"]),
    ("seed=0,1 scan.zip=[seed]", ["scan.zip=[seed]", "two or more"]),
    ("seed=0,1 scan.zip=[seed,seed]", ["scan.zip=[seed,seed]", "different"]),
    ("seed=0,1 scan.zip=[seed,hamiltonian.delta]", ["scan.zip=hamiltonian.delta", "seed"]),
    ("seed=0,1 hamiltonian.delta=1,2,3 scan.zip=[seed,hamiltonian.delta]", ["seed has 2"]),
    ("seed=0,1,0 hamiltonian.delta=1,1,1 scan.zip=[seed,hamiltonian.delta]", ["(0, 1) twice"]),
    ("seed=range(0,1e9)", ["seed=range(0,1e9)", "20000"]),
    ("seed=range(0,1000) hamiltonian.delta=range(0,1000)", ["1000000 points", "20000"]),
    ("hamiltonian.delta=range(0,1,nan)", ["range(0,1,nan)", "finite"]),
    ("hamiltonian.delta=glob(*)", ["glob(*)", "range(start"]),
    ("hamiltonian.delta={a:1},{b:2}", ["{a:1}", "mapping"]),
]


@pytest.mark.parametrize(("words", "expected"), REFUSED, ids=[words for words, _ in REFUSED])
def test_one_line(words: str, expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert scan(*words.split()) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1, line
    assert all(part in line for part in expected), line
    assert not any(Path().iterdir())


def test_each_bad_point_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert scan("hamiltonian.Rb=1,-1", "model.patch=1,17", "scan.dir=scan") == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "hamiltonian.Rb=1,model.patch=17",
        "hamiltonian.Rb=-1,model.patch=1",
        "hamiltonian.Rb=-1,model.patch=17",
    ]
    assert "3 sites" in lines[0] and ">= 1e-05" in lines[1]
    assert not Path("scan").exists()


def test_neighbours_must_share_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["lattice.Lx=2,3", "scan.warm_start=lattice.Lx", "model.patch=1", "seed=0"]
    assert train(["-m", *(word for word in TINY if word != "lattice.Lx=3"), *words]) == 2
    assert "lattice.Lx=3: its parameters do not fit its neighbour's" in capsys.readouterr().err


def test_scan_keys_need_m(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("scan.dir=a", "launcher=joblib", "seed=0,1"):
        assert train([word]) == 2
        line = capsys.readouterr().err
        assert word in line and "-m" in line and line.count("\n") == 1


def test_an_existing_scan_is_never_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["seed=0,1", "train.steps=1", "scan.dir=scan"]
    assert scan(*words) == 0
    assert scan(*words) == 2
    assert "scan.resume=true" in capsys.readouterr().err
    assert scan("seed=0,1,2", "train.steps=1", "scan.dir=scan", "scan.resume=true") == 2
    assert "seed=0,1,2: not part of the scan in scan" in capsys.readouterr().err
    assert scan(*words, "scan.resume=true") == 0


def test_escape_sequences_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a\x1b[2J.csv").write_text("x,y\n0,0\n1,0\n")
    Path("b.csv").write_text("x,y\n0,0\n1,1\n")
    words = ["lattice=positions", "lattice.file='a\x1b[2J.csv',b.csv", "scan.dir=scan"]
    arguments = [word for word in TINY if not word.startswith("lattice")]
    arguments = [word for word in arguments if not word.startswith("train.steps")]
    code = train(["-m", *arguments, *words, "train.steps=1"])
    assert code in (0, 2)  # such a name may be refused
    nqs(["collect", "scan"])
    streams = capsys.readouterr()
    assert "\x1b" not in streams.out + streams.err
    assert code or b"\x1b" not in Path("scan/scan.log").read_bytes()


def test_a_console_that_goes_away_does_not_lose_the_scan() -> None:
    """faults.md, kind 4, closed stdout: python train.py -m ... | head -1."""
    words = tiny("seed=0,1,2", "scan.dir=scan", "train.steps=1", "scan.repeat=false")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "-m", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(timeout=120) == 0
    assert all(result(name)["status"] == "finished" for name in names())
    assert "3 of 3 points finished" in Path("scan/scan.log").read_text()


def test_a_terminal_of_few_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert scan("seed=0,1", "train.steps=1", "scan.dir=scan") == 0
    stream.flush()
    assert b"2 of 2 points finished" in stream.buffer.getvalue()


def descendants(pid: int) -> set[int]:
    """Processes started by this one, with theirs."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
    found: set[int] = set()
    new = {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_end_with_their_parent(launcher: str) -> None:
    """faults.md, kind 5: idle scan workers live 330 s after their parent. One of the two chains is
    over within a second here, its worker idle."""
    pytest.importorskip(launcher)
    words = tiny("train.steps=1,100000", "scan.dir=scan", *LAUNCHERS[launcher])
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "-m", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    running = Path("scan/train.steps=100000/checkpoints")
    deadline = time.monotonic() + 120
    while not any(running.glob("step-*.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    while not Path("scan/train.steps=1/summary.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = descendants(process.pid)
    assert children
    process.kill()
    process.wait(timeout=60)
    deadline = time.monotonic() + 20
    while any(map(scans.is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in children if scans.is_alive(pid)]
    assert result("train.steps=100000")["status"] == "interrupted"


def test_help_documents_the_scan(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["--help"]) == 0
    text = capsys.readouterr().out
    for key in (
        "scan.dir=null",
        "scan.direction=forward",
        "scan.zip=null",
        "launcher.n_jobs",
        "launcher.partition",
    ):
        assert key in text
    assert "launcher=sequential|joblib|submitit|MODULE:CLASS" in text
