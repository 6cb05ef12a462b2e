"""Runs that draw their pictures, or do not: a picture takes longer than most runs of the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from nqs.families import family_run
from nqs.ground_states import ground_state_run

DRAW = ground_state_run.draw


@contextmanager
def without_pictures() -> Iterator[None]:
    with _drawing(lambda *arguments: None):
        yield


@contextmanager
def with_pictures() -> Iterator[None]:
    with _drawing(DRAW):
        yield


@contextmanager
def _drawing(draw: Callable[..., None]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (ground_state_run, family_run):
            patch.setattr(module, "draw", draw)
        yield
