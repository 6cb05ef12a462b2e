"""Every bad coupling or string ends in one line that says what was wrong."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from hamiltonians import J1J2, XXZ, Heisenberg, PauliSum, Rydberg, TransverseFieldIsing
from hamiltonians.lattices.lattice import Chain, Kagome, Positions, Triangular

CHAIN = Chain(3)
PAIR = Positions([[0.0, 0.0], [5.0, 0.0]])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Rydberg(CHAIN, 7.0, Rb=1.2), "V=7.0 and Rb=1.2: give only one of V, Rb and C6"),
        (lambda: Rydberg(CHAIN, 7.0, C6=5e6), "V=7.0 and C6=5000000.0: give only one"),
        (lambda: Rydberg(CHAIN, spacing=5.0), "spacing=5.0: means something with C6 alone"),
        (lambda: Rydberg(CHAIN, C6=5e6), r"C6=5000000.0: Chain\(3\) needs spacing"),
        (lambda: Rydberg(PAIR, C6=5e6, spacing=5.0), "spacing=5.0: the positions .* in um already"),
        (lambda: Rydberg(CHAIN, C6="much"), "Rydberg: C6 is 'much'; it must be a number"),
        (lambda: Rydberg(CHAIN, math.nan), "Rydberg: V contains nan"),
        (lambda: Rydberg(CHAIN, "7x"), "Rydberg: V is '7x'; it must be a number"),
        (
            lambda: Rydberg(CHAIN, 7.0, delta=[1.0, 2.0]),
            r"delta has shape \(2,\).*one per site \(3\)",
        ),
        (lambda: Rydberg(CHAIN, 7.0, Omega=[1.0, 2.0, math.inf]), "Omega contains inf"),
        (lambda: Rydberg(CHAIN, Rb=1.2, Omega=[1.0, 2.0, 3.0]), r"Rb needs one \|Omega\| above 0"),
        (lambda: Rydberg(CHAIN, Rb=1.2, Omega=0.0), r"Rb needs one \|Omega\| above 0"),
        (lambda: Rydberg(CHAIN, Rb=-1.2), "Rydberg: Rb is -1.2; it must be >= 1e-05 and <= 100000"),
        (lambda: Rydberg(CHAIN, 7.0, cutoff=0.0), "Rydberg: cutoff is 0; it must be >= 1e-06"),
        (lambda: Rydberg(CHAIN, 7.0, cutoff=math.nan), "cutoff is nan"),
        (
            lambda: Rydberg(CHAIN, 7.0, cutoff=0.5),
            "cutoff is 0.5, but the smallest distance is 1, so no pair would interact",
        ),
        (
            lambda: Rydberg(Positions([[0, 0], [0, 1e-60]]), 7.0),
            r"atoms 0 and 1 are 1e-60 apart, so V / r\^6 with V=7 is too large",
        ),
        (lambda: Rydberg(CHAIN, 1e308), "V contains 1e.308; it must be 0 or of a size from 1e-30"),
        (lambda: XXZ(CHAIN, Delta=[1.0, -1e-31]), "XXZ: Delta contains -1e-31; it must be 0 or"),
        (lambda: TransverseFieldIsing(CHAIN, J=[1.0] * 3), r"J has shape.*one per bond \(2\)"),
        (lambda: TransverseFieldIsing(CHAIN, h=None), "h is None; it must be a number"),
        (lambda: TransverseFieldIsing(CHAIN, h=[[1.0]]), r"h has shape \(1, 1\)"),
        (lambda: XXZ(CHAIN, Delta=[1.0] * 3), r"XXZ: Delta has shape.*one per bond \(2\)"),
        (lambda: XXZ(CHAIN, h=[1.0]), r"XXZ: h has shape.*one per site \(3\)"),
        (lambda: Heisenberg(CHAIN, math.inf), "Heisenberg: J contains inf"),
        (lambda: J1J2(CHAIN, J2=[1.0] * 2), r"J1J2: J2 has shape.*one per bond \(1\)"),
        (lambda: J1J2(Chain(2)), r"order is 2, but Chain\(2\) has only 1 distances"),
        (lambda: XXZ(CHAIN, marshall="yes"), "marshall is 'yes'; it must be True, False or 'auto'"),
        (lambda: XXZ(CHAIN, marshall=1), "marshall is 1; it must be True"),
        (lambda: Heisenberg(Triangular(2, 2), marshall=True), "odd loops, so there are no two"),
        (lambda: Heisenberg(Kagome(1, 1), marshall=True), "odd loops"),
        (
            lambda: J1J2(Chain(5, periodic=True), marshall=True),
            r"Chain\(5, periodic=True\) form odd",
        ),
        (lambda: XXZ(Positions([[0, 0], [1, 0], [0.5, 3**0.5 / 2]]), marshall=True), "odd loops"),
        (lambda: PauliSum(0, []), "n_sites is 0"),
        (lambda: PauliSum(10**9, []), "1000000000 sites asked for; at most 10000"),
        (lambda: PauliSum(2, [(1.0, "X" * 5_000_000)]), r"'X{60}\.\.\.' has 5000000 letters"),
        (lambda: PauliSum(2, [(1.0, "X1" * 5_000_000)]), r"has 'X1X1.*\.\.\.'; write letter"),
        (lambda: PauliSum(2, [(1.0, "X" + "9" * 5_000)]), "write letter and site"),
        (
            lambda: PauliSum(
                10_000,
                [(1.0, {i % 3: "X", 3 + i: "Z"}) for i in range(9_997)]
                + [(1.0, {i % 3: "Y", 3 + i: "Z"}) for i in range(9_997)]
                + [(1.0, {i: "Z"}) for i in range(9_997)],
            ),
            "strings on 10000 sites; at most 26843",
        ),
        (lambda: PauliSum(2.5, []), "n_sites is 2.5"),
        (lambda: PauliSum(2, [(1j, "XX")]), "coefficient of 'XX' is 1j; it must be real"),
        (lambda: PauliSum(2, [(math.nan, "XX")]), "must be real and finite"),
        (lambda: PauliSum(2, [("a", "XX")]), "coefficient of 'XX' is 'a'"),
        (lambda: PauliSum(2, [(1.0, "XXX")]), "'XXX' has 3 letters for 2 sites"),
        (lambda: PauliSum(2, [(1.0, "XA")]), "'XA' has 'A'; letters are I, X, Y, Z"),
        (lambda: PauliSum(2, [(1.0, "X5")]), "names site 5; sites are 0..1"),
        (lambda: PauliSum(2, [(1.0, {-1: "X"})]), "names site -1"),
        (lambda: PauliSum(2, [(1.0, "X0 Z0")]), "names site 0 twice"),
        (lambda: PauliSum(2, [(1.0, "X0Z1")]), "has 'X0Z1'; write letter and site"),
    ],
)
def test_refused_in_one_line(build, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no term"),
        ("# only a comment\n", "holds no term"),
        ("1.0 XX\nXX 1.0\n", "line 2 starts with 'XX'; it must be a number with a decimal point"),
        ("0,5 XX\n", "line 1 starts with '0,5'; it must be a number with a decimal point"),
        ("0.5;XX\n", "line 1 starts with '0.5;XX'; it must be a number with a decimal point"),
        ("1_0 XX\n", "line 1 starts with '1_0'"),
        ("9" * 5_000_000 + "x XX\n", r"line 1 starts with '9{60}\.\.\.'"),
        ("1 X99999999\n", "100000000 sites asked for; at most 10000"),
        ("1 X" + "9" * 5_000 + "\n", "write letter and site"),
        ("1.0 XX\n1.0 XXX\n", "'XX' has 2 letters for 3 sites"),
        ("1j XX\n", "must be real"),
    ],
)
def test_bad_pauli_files_name_the_file(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "terms.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        PauliSum.from_file(path)
    assert "terms.txt" in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_missing_pauli_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        PauliSum.from_file(tmp_path / "absent.txt")
