"""500 well-formed files with nonsense inside, read by every command that reads them: each ends with
exit code 0, 1 or 2, at most one error line, no traceback, in time and in memory."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hostile_files import Case, cases, fresh, make_template
from outcome import Outcome, outcome, report, train_main

from nqs.cli.app import main as nqs

MAINS = {"train": train_main(), "nqs": nqs}
ROOM = 3 * 2**30
"""Bytes that a command may take on top of what this process has: nothing here needs a tenth."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that is read."""
    path = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        make_template(path, run)
    return path


def run(program: str, words: Sequence[str]) -> int:
    one = outcome(MAINS[program], words, seconds=120)
    print(one)
    return one.code if isinstance(one.code, int) else -1


@pytest.fixture
def bounded() -> Iterator[None]:
    """No memory without end, whatever is read."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (soft, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def spoilt(case: Case, template: Path, place: Path) -> tuple[Outcome, list[str]]:
    fresh(template, place)
    how = case.spoil(place)
    program, words = case.command
    one = outcome(MAINS[program], words, seconds=40)
    faults = one.faults(allowed=(0, 1, 2))
    if "out of memory" in one.errors:
        faults.append("ran out of memory")
    if (place.parent / "escaped").exists():
        faults.append("wrote outside")
    return one, [f"{case.target} ({how}, seed {case.seed}): {fault}" for fault in faults]


def campaign(n: int, seed: int, template: Path, place: Path, patch: pytest.MonkeyPatch) -> None:
    patch.chdir(place)
    found = [spoilt(case, template, place) for case in cases(n, seed)]
    assert not any(faults for _, faults in found), report(found)


def test_some(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bounded: None
) -> None:
    campaign(14, 1, template, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_many(
    seed: int, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bounded: None
) -> None:
    campaign(50, seed, template, tmp_path, monkeypatch)
