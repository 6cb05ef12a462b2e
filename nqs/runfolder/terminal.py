"""How a command meets its user: errors in one line each, an exit code, and no traceback for what
can happen to any program: bad input, Ctrl-C, a reader that closed the pipe, no memory left."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Final

from nqs.errors import InputError, error_lines, one_line

GRACE_SECONDS: Final = 10.0
"""What rank 0 refuses it says itself, and torchrun ends the others meanwhile."""


def run_command(command: Callable[[], int]) -> int:
    """What `command` returns, or 1 (failed), 2 (bad input) or 128 + signal after a line."""
    replace_what_cannot_be_encoded()
    try:
        code = command()
        if sys.stdout is not None:  # python train.py >&-
            sys.stdout.flush()
        return code
    except InputError as error:
        return refuse(error)
    except KeyboardInterrupt:
        return say("interrupted: stopped at once, the last checkpoint stays", 130)
    except BrokenPipeError:
        give_up_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        where = error.filename or "the output or a file"
        return refuse(InputError(f"{where}: cannot be used ({error.strerror or error})"))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return say(out_of_memory(error), 1)


def refuse(error: InputError) -> int:
    """Says what is wrong with the input; returns the exit code."""
    if not leads():
        time.sleep(GRACE_SECONDS)
    return say("\n".join(error_lines(error)), 2)


def say(lines: str, code: int) -> int:
    """Prints on stderr, if there still is one, and returns the code."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # closed
            print(lines, file=sys.stderr, flush=True)
    return code


def leads() -> bool:
    """Whether this is the process that speaks, of those torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch on a GPU or torch on a CPU found no room; the last says so in words."""
    names = {kind.__name__ for kind in type(error).__mro__}  # torch may not be loaded yet
    words = ("not enough memory", "can't allocate memory", "out of memory")
    return bool({"MemoryError", "OutOfMemoryError"} & names) or any(
        word in str(error) for word in words
    )


def out_of_memory(error: BaseException) -> str:
    """The line about it."""
    reason = str(error).strip().splitlines()
    return one_line(
        "error: out of memory; what was saved before stays. Take fewer samples or a smaller model, "
        f"larger patches or fewer processes{f' ({reason[0]})' if reason else ''}"
    )


def replace_what_cannot_be_encoded() -> None:
    """Characters that the terminal does not have are written as escapes; none ends a program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def give_up_output() -> None:
    """Whoever read the output has closed it (`| head`): nothing more is written there, not even
    what Python flushes at its end."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
