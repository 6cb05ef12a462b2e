"""Compiled sources: what is kept, and that a machine which cannot compile is no error."""

from __future__ import annotations

import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nqs.core.native import build
from nqs.core.native.build import COMPILERS, SWITCH, library

ANSWER = '#include "answer.h"\nextern "C" int answer() { return ANSWER + MORE; }\n'
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, COMPILERS)), reason=f"none of {', '.join(COMPILERS)}"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no choice of a compiler."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv(SWITCH, raising=False)
    return tmp_path / "cache" / "nqs"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/answer.h").write_text("#define ANSWER 40\n")
    path = tmp_path / "code/answer.cpp"
    path.write_text(ANSWER)
    return path


def script(path: Path, text: str) -> str:
    """A compiler of one's own."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@needs_compiler
def test_compiled_once(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = library(source, ("MORE=2",))
    assert there.handle is not None and there.handle.answer() == 42
    (kept,) = cache.iterdir()
    build._library.cache_clear()  # as in another process
    monkeypatch.setattr(build, "_compile", None)
    again = library(source, ("MORE=2",))
    assert again.handle is not None and again.handle.answer() == 42
    assert list(cache.iterdir()) == [kept]


@needs_compiler
def test_all_that_matters_is_in_the_name(source: Path, cache: Path) -> None:
    """Macros, the source, and what it includes."""
    answers = []
    for macro, text in (("MORE=2", ANSWER), ("MORE=3", ANSWER), ("MORE=3", ANSWER + "\n")):
        source.write_text(text)
        build._library.cache_clear()
        handle = library(source, (macro,)).handle
        assert handle is not None
        answers.append(handle.answer())
    (source.parent / "answer.h").write_text("#define ANSWER 50\n")
    build._library.cache_clear()
    handle = library(source, ("MORE=3",)).handle
    assert handle is not None
    assert [*answers, handle.answer()] == [42, 43, 43, 53]
    assert len(list(cache.iterdir())) == 4


@needs_compiler
def test_a_damaged_library_is_made_anew(source: Path, cache: Path) -> None:
    """Loading some of these would end the process."""
    library(source, ("MORE=4",))
    (kept,) = cache.iterdir()
    content = kept.read_bytes()
    middle = len(content) // 2
    for damaged in (b"", b"no library", content[:middle], content[:middle] + bytes(middle)):
        kept.unlink()  # not overwritten: it is in use
        kept.write_bytes(damaged)
        build._library.cache_clear()
        handle = library(source, ("MORE=4",)).handle
        assert handle is not None and handle.answer() == 44
        assert build._is_whole(kept)


@needs_compiler
def test_another_library_under_its_name_is_not_loaded(source: Path, cache: Path) -> None:
    library(source, ("MORE=4",))
    library(source, ("MORE=5",))
    one, other = cache.iterdir()
    one.write_bytes(other.read_bytes())
    assert build._is_whole(other) and not build._is_whole(one)


@needs_compiler
def test_many_at_once(source: Path, cache: Path) -> None:
    """Each compiles for itself; one whole file is left."""
    command = [str(shutil.which(next(filter(shutil.which, COMPILERS)))), *build.FLAGS, "-DMORE=2"]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: build._compile(command, source, cache, "it"), range(4)))
    assert set(made) == set(cache.iterdir()) and all(map(build._is_whole, made))


def test_switched_off(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    there = library(source)
    assert there.handle is None and there.description == "NQS_COMPILE=0"
    assert not cache.exists()


def test_no_compiler(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    there = library(source)
    assert there.handle is None
    assert there.description == "no compiler (c++, g++, clang++) found"
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler, c++" in library(source).description


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("echo first of many >&2; echo second >&2; exit 1", "first of many"),
        ("exit 3", "broken ended with 3"),
        ("while :; do :; done", "broken took more than 0.5 s"),
        ("kill -9 $$", "broken ended with -9"),
        ('while [ "$1" != -o ]; do shift; done; echo rubbish > "$2"', "answer-"),
        ("", "answer-"),
    ],
)
def test_a_compiler_that_fails(
    action: str, said: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that says so; what it leaves is no library."""
    answers = 'if [ "$1" = --version ]; then echo broken 1.0; exit 0; fi'
    monkeypatch.setenv("CXX", script(tmp_path / "broken", f"{answers}\n{action}"))
    monkeypatch.setattr(build, "SECONDS", 0.5)
    there = library(source)
    assert there.handle is None
    assert there.description.startswith("compiling failed: ") and len(there.description) <= 300
    assert said in there.description and "\n" not in there.description


@pytest.mark.parametrize("named", ["'open", "silent", " "])
def test_a_compiler_that_is_none(
    named: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words that no shell takes; a program that does nothing."""
    script(tmp_path / "silent", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", named)
    assert library(source).handle is None


@needs_compiler
def test_the_compiler_of_ones_choice(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With words of its own; where it is not there, another."""
    real = next(filter(shutil.which, COMPILERS))
    wrapper = script(tmp_path / "wrapper", f'echo used >> {tmp_path / "log"}; exec "$@"')
    monkeypatch.setenv("CXX", f"{wrapper} {real}")
    assert library(source, ("MORE=2",)).handle is not None
    assert (tmp_path / "log").exists()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert library(source, ("MORE=2",)).handle is not None


@needs_compiler
def test_a_cache_that_cannot_be_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    there = library(source, ("MORE=2",))
    assert there.handle is None and "file" in there.description
