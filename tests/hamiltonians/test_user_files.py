"""Files of positions and of Pauli strings as editors and spreadsheets write them."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from hamiltonians import PauliSum
from hamiltonians.lattices.lattice import Positions

SITES = [[0.0, 0.0], [1.5, -2.0], [0.25, 3.0]]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "latin-1"]
ENDINGS = ["\n", "\r\n", "\r"]


@pytest.mark.parametrize(("encoding", "ending"), list(itertools.product(ENCODINGS, ENDINGS)))
@pytest.mark.parametrize(
    "text",
    [
        "x,y\n0,0\n1.5,-2e0\n.25,3\n",
        "X,Y\n0,0\n1.5,-2\n0.25,3",
        ' "x" , "y"\n"0","0"\n"1.5","-2"\n\n  \n0.25 , 3.0\n\n',
        "x;y\n0;0\n1.5;-2\n0.25; 3\n",
        "x\ty\n0\t0\n1.5\t-2\n0.25\t3\n",
        "x y\n0 0\n 1.5   -2\n0.25\t3\n",
    ],
)
def test_positions(tmp_path: Path, text: str, encoding: str, ending: str) -> None:
    path = tmp_path / "sites.csv"
    path.write_bytes(text.replace("\n", ending).encode(encoding))
    assert Positions.from_csv(path).positions.tolist() == SITES


@pytest.mark.parametrize(("encoding", "ending"), list(itertools.product(ENCODINGS, ENDINGS)))
def test_strings(tmp_path: Path, encoding: str, ending: str) -> None:
    path = tmp_path / "terms.txt"
    text = "# Kopplungen für Ångström\n0.5 Z0 Z1\n-1.0\tX1  # Längs\n\n 2 \n"
    path.write_bytes(text.replace("\n", ending).encode(encoding))
    expected = [(0.5, {0: "Z", 1: "Z"}), (-1.0, {1: "X"}), (2.0, {})]
    assert PauliSum.from_file(path).pauli_terms() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,0\n1,0\n", "the header is '0,0'; it must be x,y or x,y,z"),
        ("# x y\n0 0\n", "the header is '# x y'"),
        ("sep=;\nx;y\n0;0\n", "the header is 'sep=;'"),
        ("x (um),y (um)\n0,0\n", r"the header is 'x \(um\),y \(um\)'"),
        ("x;y\n0,5;1,0\n", "line 2 has '0,5'; write a decimal point, like '0.5'"),
        ("x y\n1 2\n0,5 1,0\n", "line 3 has '0,5'; write a decimal point"),
        ("x,y\n0,5,1,0\n", r"2 numbers with a comma between.*\(and decimal points\)"),
        ("x,y\n0;5\n", "line 2 is '0;5'; it must be 2 numbers with a comma between"),
        ("x,y\n1_0,2\n", "line 2 is '1_0,2'"),
        ("x,y\n0,0,\n", "line 2 is '0,0,'"),
        ("x,y,z\n0,0\n", "it must be 3 numbers"),
        ("x,y\n\x1b[31m,2\n", r"line 2 is '\\x1b\[31m,2'"),
        ("x,y\n" + "7" * 5_000_000 + "\n", r"line 2 is '7{60}\.\.\.'"),
        ("x" * 5_000_000, r"the header is 'x{60}\.\.\.'"),
        ("x,y\n1e400,0\n", r"site 0 is at \(inf, 0.0\)"),
        ("x,y\n0,0\n1e300,0\n", "distances overflow"),
    ],
    ids=range(16),
)
def test_positions_that_are_not_understood(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sites.csv"
    path.write_bytes(text.encode("utf-8"))
    with pytest.raises(ValueError, match=message) as error:
        Positions.from_csv(path)
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)
    assert len(str(error.value)) < 250 + len(str(path))


def test_a_million_lines_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "sites.csv"
    path.write_text("x,y\n" + "1,2\n" * 1_000_000)
    start = time.perf_counter()
    with pytest.raises(ValueError, match="1000000 sites; at most 10000 are allowed"):
        Positions.from_csv(path)
    assert time.perf_counter() - start < 10


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data, message in (
        (b"x,y\n\0\0", "not text"),
        (b"x" * (64 * 2**20 + 1), "larger than 64 MB"),
    ):
        path.write_bytes(data)
        for read in (Positions.from_csv, PauliSum.from_file):
            with pytest.raises(ValueError, match=message):
                read(path)
