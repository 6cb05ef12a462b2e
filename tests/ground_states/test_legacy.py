"""The older code's command line in today's words."""

from __future__ import annotations

import pytest

from nqs.cli.older_words import is_legacy, translate

RYDBERG = "hamiltonian=rydberg hamiltonian.V=7 hamiltonian.delta=1 hamiltonian.Omega=1"
SQUARE = "lattice=square lattice.Lx=4 lattice.Ly=4"

TABLE = [
    (
        "--train L=16 steps=1000 --ptf patch=2x2 Nh=32 nhead=8 --rydberg V=7 delta=1 Omega=1",
        f"{SQUARE} {RYDBERG} model=ptf model.patch=2x2 model.d_model=32 model.n_heads=8 "
        "train.steps=1000",
    ),
    ("--ptf", f"{SQUARE} {RYDBERG} model=ptf"),
    (
        "--train L=4x6 --rnn patch=4 rnntype=LSTM Nh=64",
        f"lattice=square lattice.Lx=4 lattice.Ly=6 {RYDBERG} model=rnn model.patch=4 "
        "model.d_model=64 model.cell=lstm",
    ),
    (
        "--train L=12 --ptf num_layers=3 --rydberg Lx=3 Ly=4 delta=2.5",
        "lattice=square lattice.Lx=3 lattice.Ly=4 hamiltonian=rydberg hamiltonian.V=7 "
        "hamiltonian.delta=2.5 hamiltonian.Omega=1 model=ptf model.n_layers=3",
    ),
    (
        "--train Lx=2 Ly=3 --ptf",
        f"lattice=square lattice.Lx=2 lattice.Ly=3 {RYDBERG} model=ptf",
    ),
    (
        "--train L=64 K=1024 Q=2 lr=5e-4 seed=3 dir=out sub_directory=2x2 --ptf",
        f"lattice=square lattice.Lx=8 lattice.Ly=8 {RYDBERG} model=ptf train.n_samples=2048 "
        "optimizer=adam optimizer.learning_rate=5e-4 seed=3 run.dir=out/2x2",
    ),
    ("--train B=128 --RNN", f"{SQUARE} {RYDBERG} model=rnn train.n_samples=128"),
    ("--train dir=<NONE> seed=None --ptf", f"{SQUARE} {RYDBERG} model=ptf"),
    (
        "--train L=64 --lptf patch=4x4 Nh=48 nhead=8 num_layers=1 --rnn L=16 patch=2x2 Nh=48 "
        "rnntype=ELMAN",
        f"lattice=square lattice.Lx=8 lattice.Ly=8 {RYDBERG} model=lptf model.patch=4x4 "
        "model.d_model=48 model.n_heads=8 model.n_layers=1 model.sub_patch=2x2 "
        "model.sub_d_model=48 model.sub_cell=elman",
    ),
    (
        "--rydberg --train L=36 --lptf patch=3x3 Nh=24 --rnn L=9 patch=3",
        f"lattice=square lattice.Lx=6 lattice.Ly=6 {RYDBERG} model=lptf model.patch=3x3 "
        "model.d_model=24 model.sub_patch=3 model.sub_d_model=24",
    ),
    (
        "--train L=4x6 --lptf patch=2x4 --ptf L=2x4 patch=2 Nh=16 nhead=2 num_layers=1",
        f"lattice=square lattice.Lx=4 lattice.Ly=6 {RYDBERG} model=lptf_ptf model.patch=2x4 "
        "model.sub_patch=2 model.sub_d_model=16 model.sub_n_heads=2 model.sub_n_layers=1",
    ),
    ("--rydberg --ptf L=9", f"lattice=square lattice.Lx=3 lattice.Ly=3 {RYDBERG} model=ptf"),
]


@pytest.mark.parametrize(("older", "today"), TABLE, ids=[older for older, _ in TABLE])
def test_translation(older: str, today: str) -> None:
    assert is_legacy(older.split())
    assert translate(older.split()).overrides == today.split()


def test_what_has_no_meaning_says_so() -> None:
    command = "--train NLOOPS=16 sgrad=False true_grad=True --ptf dropout=0.1 repeat_pre=True"
    notes = translate(command.split()).notes
    names = [note.split("=")[0] for note in notes]
    assert names == ["NLOOPS", "sgrad", "true_grad", "dropout", "repeat_pre"]
    assert all("(" in note for note in notes)
    assert translate(["--ptf", "dropout=0.0"]).notes == []


def test_today_s_command_line_is_not_legacy() -> None:
    assert not is_legacy(["model=ptf", "train.steps=3"])
    assert not is_legacy(["--help"])
