"""SIGTERM and SIGINT: finish the step, checkpoint, say how to resume; a second one ends at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """The run was asked to stop; `signum` is the signal that asked."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopRequests:
    """Remembers the first stop signal while the block runs; restores the handlers afterwards.

    During optimisation `received` is polled after every step. Work that can simply be repeated
    (evaluation, exact diagonalisation) sets `immediate`, and the signal raises Interrupted there.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._immediate = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for signum in SIGNALS:
            self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def immediate(self) -> None:
        """From here on a signal raises Interrupted at once, one already received included."""
        self._immediate = True
        if self.received is not None:
            raise Interrupted(self.received)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum
        self._restore()  # whoever asks twice wants out now
        if self._immediate:
            raise Interrupted(signum)

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._before = {}
