"""Signals that ask a run to stop: finish the step, checkpoint, say how to resume.

SIGINT is Ctrl-C, SIGTERM what batch systems and torchrun send, SIGHUP a terminal that closes,
SIGUSR1 SLURM's warning (sbatch --signal=USR1@300). SIGINT or SIGTERM a second time ends at once;
different ones are what systems send one after the other, and ask no more than the first.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
IMPATIENT = (signal.SIGINT, signal.SIGTERM)
"""Whoever sends one of these twice wants out now."""
MAY_BE_IGNORED = (signal.SIGHUP, signal.SIGUSR1)
"""Left alone where they were ignored before, as by nohup."""


class Interrupted(Exception):
    """The run was asked to stop; `signum` is the signal that asked."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopRequests:
    """Remembers the first stop signal while the block runs; restores the handlers afterwards.

    During optimisation `received` is polled after every step. Work that can simply be repeated
    (evaluation, exact diagonalisation) sets `immediate`, and the signal raises Interrupted there,
    once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._immediate = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for signum in SIGNALS:
            before = signal.getsignal(signum)
            if signum in MAY_BE_IGNORED and before is signal.SIG_IGN:
                continue
            self._before[signum] = before
            signal.signal(signum, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for signum in list(self._before):
            self._restore(signum)

    def immediate(self) -> None:
        """From here on a signal raises Interrupted at once, one already received included."""
        self._immediate = True
        if self.received is not None:
            raise Interrupted(self.received)

    def deferred(self) -> None:
        """From here on a signal is remembered again, as at first."""
        self._immediate = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum in IMPATIENT:
            self._restore(signum)
        if self.received is not None:
            return
        self.received = signum
        if self._immediate:
            raise Interrupted(signum)

    def _restore(self, signum: int) -> None:
        if signum in self._before:
            signal.signal(signum, self._before.pop(signum))  # type: ignore[arg-type]
